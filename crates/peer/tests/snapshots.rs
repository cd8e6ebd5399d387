//! Databases from one member to another.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use common::{CLUSTER, Node, Setting, eventually, introduce, is_pattern, message, node};
use peer::codec::{Batch, encode_message};
use proto::raftpb::MessageType;

const DATABASE: &str = "00000000000000b0.snap.db";
const INDEX: u64 = 0xb0;

fn pair() -> (Node, Node) {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    (one, two)
}

fn files(node: &Node) -> Vec<String> {
    let names = std::fs::read_dir(node.dir.path()).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn sent(node: &Node) -> usize {
    node.member.snapshots_sent.lock().len()
}

#[test]
fn a_database_arrives_before_raft_hears_of_it() {
    let (one, two) = pair();
    let bytes = 20 << 20;
    one.member.snapshot_bytes.store(bytes, Ordering::SeqCst);
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    let received = two.member.next();
    assert_eq!(received, message(MessageType::MsgSnap, &one, &two, INDEX));
    let content = std::fs::read(two.dir.path().join(DATABASE)).unwrap();
    assert_eq!(content.len(), bytes);
    assert!(is_pattern(&content));
    assert_eq!(files(&two), [DATABASE]);
    eventually("the sender knows", || sent(&one) == 1);
    assert_eq!(one.member.snapshots_sent.lock()[..], [true]);
    let to = one.transport.metrics().peer(two.id);
    let from = two.transport.metrics().peer(one.id);
    eventually("it is counted", || {
        from.snapshot_receive_success.get() == 1 && to.snapshot_send_success.get() == 1
    });
    assert_eq!((to.snapshot_send_inflights.get(), from.snapshot_receive_inflights.get()), (0, 0));
    assert!(one.member.logged("sent database snapshot") && two.member.logged("received and saved"));

    // The same again: the file that is there already stays, raft is told.
    std::fs::write(two.dir.path().join(DATABASE), b"in use").unwrap();
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    two.member.next();
    assert_eq!(std::fs::read(two.dir.path().join(DATABASE)).unwrap(), b"in use");
    assert_eq!(files(&two), [DATABASE]);
}

#[test]
fn a_broken_transfer_leaves_nothing() {
    let (one, two) = pair();
    one.member.snapshot_bytes.store(8 << 20, Ordering::SeqCst);
    one.member.snapshot_breaks_at.store(3 << 20, Ordering::SeqCst);
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    eventually("the failure is reported", || sent(&one) == 1);
    assert_eq!(one.member.snapshots_sent.lock()[..], [false]);
    assert!(one.member.unreachable.load(Ordering::SeqCst) > 0);
    let from = two.transport.metrics().peer(one.id);
    eventually("the receiver gave up", || from.snapshot_receive_failures.get() == 1);
    assert_eq!(files(&two), [""; 0]);
    assert!(two.member.received.try_recv().is_err());
    // The next one is whole.
    one.member.snapshot_breaks_at.store(usize::MAX, Ordering::SeqCst);
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    two.member.next();
    assert_eq!(files(&two), [DATABASE]);
}

#[test]
fn a_snapshot_that_cannot_be_made_is_reported() {
    let (one, two) = pair();
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    eventually("the failure is reported", || sent(&one) == 1);
    assert_eq!(one.member.snapshots_sent.lock()[..], [false]);
    assert!(one.member.logged("there is none"));
    assert_eq!(one.member.unreachable.load(Ordering::SeqCst), 0, "the peer is not to blame");
}

#[test]
fn one_snapshot_at_a_time() {
    let (one, two) = pair();
    one.member.snapshot_bytes.store(16 << 20, Ordering::SeqCst);
    let snapshot = message(MessageType::MsgSnap, &one, &two, INDEX);
    one.transport.send(vec![snapshot.clone(), snapshot]);
    assert_eq!(one.member.snapshots_sent.lock()[..], [false], "the second is refused at once");
    eventually("the first arrives", || sent(&one) == 2);
    assert_eq!(one.member.snapshots_sent.lock()[..], [false, true]);
}

#[test]
fn a_disk_that_fails_is_the_receivers_answer() {
    let (one, two) = pair();
    std::fs::remove_dir(two.dir.path()).unwrap();
    one.member.snapshot_bytes.store(4 << 20, Ordering::SeqCst);
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    eventually("the failure is reported", || sent(&one) == 1);
    assert!(two.member.logged("failed to save incoming database snapshot"));
    assert!(two.member.received.try_recv().is_err());
    std::fs::create_dir(two.dir.path()).unwrap();
}

#[test]
fn a_removed_sender_uploads_nothing() {
    let (one, two) = pair();
    two.member.removed.lock().insert(one.id);
    one.member.snapshot_bytes.store(64 << 20, Ordering::SeqCst);
    one.transport.send(vec![message(MessageType::MsgSnap, &one, &two, INDEX)]);
    eventually("the failure is reported", || sent(&one) == 1);
    assert_eq!(files(&two), [""; 0]);
    assert!(two.transport.metrics().peer(one.id).received_bytes.get() < 1 << 20);
}

#[test]
fn no_more_is_read_than_is_sent() {
    let one = node(1, Setting::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    one.transport.add_peer(types::MemberId(2), &[&url]).unwrap();
    let bytes = 256 << 20;
    one.member.snapshot_bytes.store(bytes, Ordering::SeqCst);
    let mut snapshot = message(MessageType::MsgSnap, &one, &one, INDEX);
    snapshot.to = Some(2);
    one.transport.send(vec![snapshot]);
    // The peer takes it slowly: a test that reads is slower than one that copies memory.
    let mut upload = loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 19];
        stream.read_exact(&mut head).unwrap();
        if head.starts_with(b"POST /raft/snapshot") {
            break stream;
        }
    };
    let read = || one.member.snapshot_read.load(Ordering::SeqCst);
    let mut taken = 0;
    let mut piece = vec![0; 64 << 10];
    while taken < bytes / 2 {
        taken += upload.read(&mut piece).unwrap();
        let ahead = read().saturating_sub(taken);
        assert!(ahead < 24 << 20, "{ahead} bytes are in buffers, {taken} were taken");
    }
    assert!(read() < bytes, "all of it was read");
}

#[test]
fn requests_that_are_no_snapshots() {
    let (one, two) = pair();
    let mut wrong = Batch::new();
    encode_message(&message(MessageType::MsgApp, &one, &two, 1), &mut wrong);
    let wrong = wrong.take().concat();
    assert_eq!(post(&two, &wrong), (400, "wrong raft message type\n".to_owned()));
    let (status, text) = post(&two, &wrong[..20]);
    assert_eq!((status, text.as_str()), (400, "failed to decode raft message (unexpected EOF)\n"));
    let (status, text) = post(&two, &u64::MAX.to_be_bytes());
    assert_eq!((status, text.contains("rafthttp: error limit exceeded")), (400, true), "{text}");
    assert_eq!(files(&two), [""; 0]);
}

fn post(node: &Node, body: &[u8]) -> (u16, String) {
    let head = format!(
        "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nX-Server-From: 1\r\nX-Server-Version: 3.5.0\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {CLUSTER}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}
