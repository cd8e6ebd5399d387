//! Two transports that talk over loopback, and what happens when they cannot.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{CLUSTER, Setting, eventually, introduce, message, node, streams_begun, streams_stand};
use proto::raftpb::{Message, MessageType};
use types::{ClusterId, MemberId};

fn short_silence() -> Setting {
    Setting { read_timeout: Duration::from_millis(600), ..Setting::default() }
}

#[test]
fn messages_arrive_in_order_on_both_streams() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    for (from, to) in [(&one, &two), (&two, &one)] {
        let appends: Vec<_> = (1..=2000).map(|n| message(MessageType::MsgApp, from, to, n)).collect();
        for batch in appends.chunks(37) {
            from.transport.send(batch.to_vec());
        }
        for expected in appends {
            assert_eq!(to.member.next().entries, expected.entries);
        }
        let beats: Vec<_> = (1..=100).map(|n| message(MessageType::MsgHeartbeat, from, to, n)).collect();
        from.transport.send(beats.clone());
        for expected in beats {
            assert_eq!(to.member.next(), expected);
        }
    }
    assert_eq!(one.transport.active_peers(), 1);
    assert!(one.transport.active_since(two.id).is_some());
    assert_eq!(one.transport.link(two.id), membership::Link::Recent);
    assert_eq!(one.transport.link(MemberId(9)), membership::Link::Down);
    assert_eq!(one.member.unreachable.load(Ordering::SeqCst), 0);
    let metrics = one.transport.metrics().peer(two.id);
    assert!(metrics.sent_bytes.get() > 40_000 && metrics.received_bytes.get() > 40_000);
    assert_eq!((metrics.active.get(), metrics.sent_failures.get()), (1, 0));
}

#[test]
fn large_entries_pass_whole() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    let mut sent = Vec::new();
    for number in 1..=30 {
        let mut append = message(MessageType::MsgApp, &one, &two, number);
        append.entries[0].data = Some(vec![number as u8; (number as usize) << 15].into());
        sent.push(append);
    }
    one.transport.send(sent.clone());
    for expected in sent {
        assert_eq!(two.member.next().entries, expected.entries);
    }
}

#[test]
fn unix_sockets_work_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (common::unix_node(1, dir.path()), common::unix_node(2, dir.path()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    one.transport.send(vec![message(MessageType::MsgApp, &one, &two, 1)]);
    assert_eq!(two.member.next().commit(), 1);
}

#[test]
fn strangers_do_not_pile_up() {
    let one = node(1, Setting::default());
    let (two, strangers) = (node(2, Setting::default()), 200);
    for id in 100..100 + strangers {
        one.transport.add_remote(MemberId(id), &[&two.url]).unwrap();
    }
    let added =
        || one.member.lines.lock().iter().filter(|line| line.contains("added new remote peer")).count();
    assert_eq!(added(), 64);
    assert!(one.transport.add_remote(MemberId(1), &["junk"]).is_ok(), "itself");
    assert!(one.transport.add_peer(MemberId(2), &["junk"]).is_err());
    // A member of the cluster always finds room.
    introduce(&one, &two);
    streams_stand(&one, &two);
}

#[test]
fn a_silent_stream_is_kept_by_heartbeats() {
    let (one, two) = (node(1, short_silence()), node(2, short_silence()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    let quiet_since = one.transport.active_since(two.id);
    let received = two.transport.metrics().peer(one.id);
    let before = received.received_bytes.get();
    // Five heartbeats are more than one silence; a byte each on one stream, a message on the other.
    eventually("heartbeats come", || received.received_bytes.get() > before + 5 * 12);
    assert!(two.transport.metrics().peer(MemberId(0)).received_bytes.get() > 0);
    assert_eq!(one.transport.active_since(two.id), quiet_since);
    assert!(!two.member.logged("lost TCP streaming connection"));
}

#[test]
fn a_restarted_peer_is_found_again() {
    let one = node(1, Setting::default());
    let two = node(2, Setting::default());
    introduce(&one, &two);
    streams_stand(&one, &two);
    let address = two.address;
    drop(two);
    eventually("the peer counts as lost", || one.transport.active_since(MemberId(2)).is_none());
    assert!(one.member.logged("peer became inactive"));
    assert_eq!(one.transport.metrics().peer(MemberId(2)).disconnected.get(), 1);

    // What is sent meanwhile is lost, and raft hears of it.
    let lost = message(MessageType::MsgHeartbeat, &one, &one, 1);
    one.transport.send(vec![Message { to: Some(2), ..lost }]);
    eventually("the loss is reported", || one.member.unreachable.load(Ordering::SeqCst) > 0);

    let begun = streams_begun(&one);
    let two = node(2, Setting { listen: Some(address), ..Setting::default() });
    two.transport.add_peer(one.id, &[&one.url]).unwrap();
    eventually("new streams", || streams_begun(&one) >= begun + 2 && streams_begun(&two) >= 2);
    one.transport.send(vec![message(MessageType::MsgApp, &one, &two, 5)]);
    assert_eq!(two.member.next().entries[0].index(), 5);
}

#[test]
fn without_streams_messages_are_posted() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    // Only one knows the other: nobody dials streams to it.
    one.transport.add_peer(two.id, &[&two.url]).unwrap();
    one.transport.send(vec![message(MessageType::MsgVote, &one, &two, 3)]);
    let vote = two.member.next();
    assert_eq!((vote.r#type(), vote.term()), (MessageType::MsgVote, 2));
    // The other can answer though it does not know the first: it learned the URLs.
    two.transport.send(vec![message(MessageType::MsgVoteResp, &two, &one, 3)]);
    assert_eq!(one.member.next().r#type(), MessageType::MsgVoteResp);
    assert_eq!(streams_begun(&one), 0);
    // Members known from elsewhere are answered, too.
    let three = node(3, Setting::default());
    three.transport.add_remote(one.id, &[&one.url]).unwrap();
    three.transport.send(vec![message(MessageType::MsgAppResp, &three, &one, 9)]);
    assert_eq!(one.member.next().commit(), 9);
    three.transport.send(vec![message(MessageType::MsgSnap, &three, &one, 9)]);
    assert_eq!(three.member.snapshots_sent.lock()[..], [false]);
}

/// A learner acknowledged entries, learned from them who the leader is, and its acknowledgement was lost by that: for a
/// heartbeat it seemed to have nothing, and could not be promoted though it was ready.
#[test]
fn answers_to_a_stranger_survive_that_he_becomes_a_member() {
    const ANSWERS: u64 = 20;
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    two.transport.add_remote(one.id, &[&one.url]).unwrap();
    two.transport.send((1..=ANSWERS).map(|n| message(MessageType::MsgAppResp, &two, &one, n)).collect());
    two.transport.add_peer(one.id, &[&one.url]).unwrap();
    // Several connections carry them, in any order.
    let mut came: Vec<_> = (0..ANSWERS).map(|_| one.member.next().commit()).collect();
    came.sort_unstable();
    assert!(came.into_iter().eq(1..=ANSWERS));
}

/// A newcomer served its peers before it was told about them. One whose URLs had been changed since its
/// start named the old ones, and these stayed: the leader never heard an answer.
#[test]
fn the_cluster_knows_the_urls_of_strangers_better() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    let stale = "X-Server-From: 2\r\nX-PeerURLs: http://127.0.0.1:1\r\n";
    let request = stream_request("/raft/stream/msgapp/2", "1").replace("X-Server-From: 2\r\n", stale);
    assert!(talk(&one, request.as_bytes()).0.starts_with("HTTP/1.1 404 "));
    assert!(one.member.logged("added new remote peer"));
    one.transport.add_remote(two.id, &[&two.url]).unwrap();
    // What he says later changes nothing.
    assert!(talk(&one, request.as_bytes()).0.starts_with("HTTP/1.1 404 "));
    one.transport.send(vec![message(MessageType::MsgAppResp, &one, &two, 9)]);
    assert_eq!(two.member.next().commit(), 9);
}

#[test]
fn a_removed_member_is_told_to_stop() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    one.member.removed.lock().insert(two.id);
    one.transport.remove_peer(two.id);
    eventually("the removed one hears of it", || two.member.told_to_stop.load(Ordering::SeqCst));
    assert!(one.member.logged("rejected stream from remote peer because it was removed"));
    // Its messages go nowhere, and it is not answered.
    two.transport.send(vec![message(MessageType::MsgVote, &two, &one, 1)]);
    eventually("the message is refused", || one.member.logged("from removed member"));
    assert!(one.member.received.try_recv().is_err());
    assert_eq!(one.transport.active_since(two.id), None);
    assert_eq!(one.transport.metrics().peer(two.id).active.get(), 0);
    one.transport.remove_peer(two.id);
    assert!(one.member.logged("skipped removing already removed peer"));
}

#[test]
fn clusters_do_not_mix() {
    let other = Setting { cluster: ClusterId(0xc2), ..Setting::default() };
    let (one, two) = (node(1, Setting::default()), node(2, other));
    introduce(&one, &two);
    eventually("the mismatch is seen", || {
        one.member.logged("request sent was ignored by remote peer due to cluster ID mismatch")
            && one.member.logged("request cluster ID mismatch")
    });
    one.transport.send(vec![message(MessageType::MsgVote, &one, &two, 1)]);
    eventually("the post is refused", || one.member.unreachable.load(Ordering::SeqCst) > 0);
    assert!(one.member.logged("request sent was ignored due to cluster ID mismatch"));
    assert!(two.member.received.try_recv().is_err());
    assert_eq!(one.transport.active_peers() + two.transport.active_peers(), 0);
    assert!(!one.member.told_to_stop.load(Ordering::SeqCst));
}

#[test]
fn a_full_raft_thread_loses_messages_and_nothing_else() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting { room: Some(10), ..Setting::default() }));
    introduce(&one, &two);
    streams_stand(&one, &two);
    one.transport.send((1..=1000).map(|n| message(MessageType::MsgApp, &one, &two, n)).collect());
    let failures = &two.transport.metrics().peer(one.id).received_failures;
    eventually("messages are dropped", || failures.get() == 990);
    assert!(two.member.logged("receiving buffer is full (overloaded network)"));
    for number in 1..=10 {
        assert_eq!(two.member.next().commit(), number);
    }
    one.transport.send(vec![message(MessageType::MsgApp, &one, &two, 1001)]);
    assert_eq!(two.member.next().commit(), 1001);
}

#[test]
fn a_stream_nobody_reads_is_given_up_and_its_queue_is_bounded() {
    let one = node(1, short_silence());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    one.transport.add_peer(MemberId(2), &[&url]).unwrap();
    // A peer that asks for a stream and then does not read it.
    let mut stuck = TcpStream::connect(one.address).unwrap();
    stuck.write_all(stream_request("/raft/stream/msgapp/2", "1").as_bytes()).unwrap();
    eventually("the stream stands", || streams_begun(&one) == 1);
    let mut append = message(MessageType::MsgApp, &one, &one, 1);
    append.to = Some(2);
    append.entries[0].data = Some(vec![0; 64 << 10].into());
    let sent_failures = || one.transport.metrics().peer(MemberId(2)).sent_failures.get();
    one.transport.send(vec![append; 6000]);
    assert!(one.member.unreachable.load(Ordering::SeqCst) > 0, "more than fits is reported at once");
    assert!(one.member.logged("dropped internal Raft message since sending buffer is full"));
    let at_once = sent_failures();
    assert!((1..=6000 - 4096).contains(&at_once), "{at_once}");
    eventually("the stream is given up", || one.member.logged("lost TCP streaming connection"));
    eventually("what waited is lost", || sent_failures() > at_once);
}

#[test]
fn paused_peers_hear_nothing() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    one.transport.pause_peer(two.id, true);
    one.transport.send(vec![message(MessageType::MsgHeartbeat, &one, &two, 1)]);
    // Dropped on arrival.
    let received = one.transport.metrics().peer(two.id);
    let before = received.received_bytes.get();
    two.transport.send(vec![message(MessageType::MsgHeartbeat, &two, &one, 2)]);
    eventually("it arrived", || received.received_bytes.get() > before);
    one.transport.pause_peer(two.id, false);
    one.transport.send(vec![message(MessageType::MsgHeartbeat, &one, &two, 3)]);
    assert_eq!(two.member.next().commit(), 3);
    two.transport.send(vec![message(MessageType::MsgHeartbeat, &two, &one, 4)]);
    assert_eq!(one.member.next().commit(), 4);
}

#[test]
fn urls_can_change() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    let nobody = "http://127.0.0.1:1";
    one.transport.add_peer(two.id, &[nobody]).unwrap();
    two.transport.add_peer(one.id, &[&one.url]).unwrap();
    eventually("one direction stands", || streams_begun(&one) == 2);
    assert_eq!(streams_begun(&two), 0);
    one.transport.update_peer(two.id, &[nobody, two.url.as_str()]).unwrap();
    eventually("the other, too", || streams_begun(&two) == 2);
    assert!(one.transport.update_peer(two.id, &["ftp://x:1"]).is_err());
}

#[test]
fn messages_that_peers_must_not_send_are_refused() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    let mut wrong = message(MessageType::MsgHeartbeat, &one, &two, 1);
    wrong.to = Some(3);
    // On the stream to 2, though it says 3: a transport does not send that, so it is posted by hand.
    let body = prost::Message::encode_to_vec(&wrong);
    assert_eq!(post(&two, "/raft", &body), (500, "error processing raft message\n".to_owned()));
    let snapshot = prost::Message::encode_to_vec(&message(MessageType::MsgSnap, &one, &two, 1));
    assert_eq!(post(&two, "/raft", &snapshot).0, 500, "a snapshot without its database");
    assert_eq!(post(&two, "/raft", b"\xff").1, "error unmarshalling raft message\n");
    let fine = prost::Message::encode_to_vec(&message(MessageType::MsgVote, &one, &two, 1));
    assert_eq!(post(&two, "/raft", &fine), (204, String::new()));
    assert_eq!(two.member.next().r#type(), MessageType::MsgVote);
    assert!(two.member.received.try_recv().is_err());
}

#[test]
fn streams_are_opened_to_members_only() {
    let one = node(1, Setting::default());
    one.transport.add_peer(MemberId(2), &["http://127.0.0.1:1"]).unwrap();
    let ask = |request: String| talk(&one, request.as_bytes());
    let get = |path: &str, to: &str| ask(stream_request(path, to));
    let (head, body) = get("/raft/stream/msgapp/5", "1");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(
        head.contains("X-Server-Version: 3.7.1\r\n") && head.contains("X-Etcd-Cluster-Id: c1\r\n"),
        "{head}"
    );
    assert_eq!(body, "error sender not found\n");
    assert_eq!(get("/raft/stream/msgappv2/2", "1").1, "invalid path\n");
    assert_eq!(get("/raft/stream/message/zz", "1").1, "invalid from\n");
    let (head, body) = get("/raft/stream/message/2", "7");
    assert!(head.starts_with("HTTP/1.1 412 "), "{head}");
    assert_eq!(body, "to field mismatch\n");
    let old = stream_request("/raft/stream/message/2", "1").replace("3.7.1", "2.3.0");
    assert_eq!(ask(old).1, "incompatible version\n");
    let wrong = stream_request("/raft/stream/message/2", "1").replace(": c1", ": c2");
    assert_eq!(ask(wrong).1, "cluster ID mismatch\n");
    let post = stream_request("/raft/stream/message/2", "1").replace("GET", "POST");
    assert!(ask(post).0.starts_with("HTTP/1.1 405 "));
}

#[test]
fn garbage_on_the_port_does_no_harm() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    let garbage: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        &[0xff; 4096],
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(two.address).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    // A member whose stream is garbage is dialed again; the other direction goes on.
    one.transport.send(vec![message(MessageType::MsgApp, &one, &two, 1)]);
    assert_eq!(two.member.next().commit(), 1);
}

#[test]
fn a_stream_of_garbage_is_given_up_and_dialed_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let one = node(1, Setting::default());
    one.transport.add_peer(MemberId(2), &[&url]).unwrap();
    let head = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut dials = 0;
    while dials < 4 {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_head(&mut stream);
        if request.starts_with("GET /raft/stream/") {
            dials += 1;
            // A length of 2^63 on one stream, an unknown frame on the other.
            let _ = stream.write_all(format!("{head}9\r\n").as_bytes());
            let _ = stream.write_all(b"\x80\0\0\0\0\0\0\0\0\r\n");
        }
    }
    assert!(one.member.logged("error limit exceeded"));
    assert!(one.member.logged("failed to parse type 128"));
    assert_eq!(one.transport.metrics().peer(MemberId(2)).sent_failures.get(), 0);
}

#[test]
fn stopping_ends_everything() {
    let (one, two) = (node(1, Setting::default()), node(2, Setting::default()));
    introduce(&one, &two);
    streams_stand(&one, &two);
    one.transport.stop();
    one.transport.stop();
    one.transport.send(vec![message(MessageType::MsgApp, &one, &two, 1)]);
    one.transport.add_peer(MemberId(3), &["http://127.0.0.1:1"]).unwrap();
    assert_eq!(one.transport.active_peers(), 0);
    assert!(TcpStream::connect(one.address).is_err());
    eventually("the other side notices", || two.transport.active_since(one.id).is_none());
}

fn stream_request(path: &str, to: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nX-Server-From: 2\r\nX-Server-Version: 3.7.1\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {CLUSTER}\r\nX-Raft-To: {to}\r\n\r\n"
    )
}

fn post(node: &common::Node, path: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nX-Server-From: 1\r\nX-Server-Version: 3.5.0\r\nX-Min-Cluster-Version: 3.0.0\r\n\
         X-Etcd-Cluster-ID: {CLUSTER}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (head, body) = talk(node, &[head.as_bytes(), body].concat());
    (head[9..12].parse().unwrap(), body)
}

/// Sends a request and reads one answer with a length.
fn talk(node: &common::Node, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.write_all(request).unwrap();
    let head = read_head(&mut stream);
    let length = head
        .to_lowercase()
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
