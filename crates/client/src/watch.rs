//! Watching: any number of watches share one stream, and survive its loss.
//!
//! A [`Watcher`] owns a task, the task owns the stream. Watches are created in order and the
//! server answers in order, so the first watch without an id owns the next `created` answer.
//!
//! Invariants, per watch:
//! - `next_revision` is the first revision that the watch has not delivered; a new stream starts
//!   there, so nothing is lost or repeated. 0 means "whatever comes after creation", only before
//!   the first `created` answer.
//! - Events of one revision are delivered in one response: fragments are put together first.
//!
//! Of any number of watches the one that a response is for is found without looking at the others.
//!
//! Answers queue without bound, as in the Go client: a caller that does not read them pays with
//! its own memory, and does not stop other watches of the stream.
//!
//! **Source**: etcd `client/v3/watch.go`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::Event;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::client::Client;
use crate::error::{Code, Error};

const PATH: &str = "/etcdserverpb.Watch/Watch";
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_millis(100);

type Answer = Result<pb::WatchResponse, Error>;

/// Why the server cancelled a watch; `None` if the response does not cancel it.
pub fn cancel_error(response: &pb::WatchResponse) -> Option<Error> {
    let server = |code, text: &str| Error::Rpc { code, message: format!("etcdserver: {text}") };
    match response {
        response if response.compact_revision != 0 => {
            Some(server(Code::OutOfRange, "mvcc: required revision has been compacted"))
        }
        response if !response.canceled => None,
        response if response.cancel_reason.is_empty() => {
            Some(server(Code::OutOfRange, "mvcc: required revision is a future revision"))
        }
        response => {
            Some(Error::Rpc { code: Code::FailedPrecondition, message: response.cancel_reason.clone() })
        }
    }
}

/// Whether the response only says that everything up to its revision was delivered.
pub fn is_progress(response: &pb::WatchResponse) -> bool {
    response.events.is_empty()
        && !response.canceled
        && !response.created
        && response.compact_revision == 0
        && response.header.as_ref().is_some_and(|header| header.revision != 0)
}

enum Command {
    Create(Box<Sub>),
    Cancel(u64),
    Progress,
}

struct Sub {
    key: u64,
    request: pb::WatchCreateRequest,
    next_revision: i64,
    id: Option<i64>,
    fragments: Vec<Event>,
    notify_created: bool,
    answers: UnboundedSender<Answer>,
}

/// The watches of a stream, in the order of their creation, and by the ids that the server gave them.
#[derive(Default)]
struct Subs {
    by_key: BTreeMap<u64, Sub>,
    /// Of each watch with an id its key.
    keys: HashMap<i64, u64>,
}

impl Subs {
    fn add(&mut self, sub: Sub) {
        self.by_key.insert(sub.key, sub);
    }

    fn remove(&mut self, key: u64) -> Option<Sub> {
        let sub = self.by_key.remove(&key)?;
        if let Some(id) = sub.id {
            self.keys.remove(&id);
        }
        Some(sub)
    }

    fn remove_id(&mut self, id: i64) -> Option<Sub> {
        let key = *self.keys.get(&id)?;
        self.remove(key)
    }

    fn by_id(&mut self, id: i64) -> Option<&mut Sub> {
        self.by_key.get_mut(self.keys.get(&id)?)
    }

    /// The server knows this watch as `id`.
    fn name(&mut self, key: u64, id: i64) -> Option<&mut Sub> {
        let sub = self.by_key.get_mut(&key)?;
        sub.id = Some(id);
        self.keys.insert(id, key);
        Some(sub)
    }

    /// A new stream begins: ids of the old one mean nothing any more.
    fn forget_ids(&mut self) {
        self.keys.clear();
        for sub in self.by_key.values_mut() {
            sub.id = None;
            sub.fragments.clear();
        }
    }

    fn take(&mut self) -> impl Iterator<Item = Sub> + use<> {
        self.keys.clear();
        std::mem::take(&mut self.by_key).into_values()
    }
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A set of watches on one stream. Ends with its last handle, [`Watch`]es included.
#[derive(Clone)]
pub struct Watcher {
    commands: UnboundedSender<Command>,
    task: Arc<Task>,
    next_key: Arc<std::sync::atomic::AtomicU64>,
}

/// One watch. Dropping it cancels it.
pub struct Watch {
    key: u64,
    answers: UnboundedReceiver<Answer>,
    watcher: Watcher,
}

impl Watch {
    /// The next response with events, progress, or a cancellation; see [`cancel_error`].
    /// `None` after the end.
    pub async fn next(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.watcher.commands.send(Command::Cancel(self.key));
    }
}

impl Client {
    /// A watcher. With `require_leader` its stream ends when the member it talks to has no leader.
    pub fn watcher(&self, require_leader: bool) -> Watcher {
        let (commands, queue) = mpsc::unbounded_channel();
        let (client, subs) = (self.without_timeout(), Subs::default());
        let actor = Actor { client, require_leader, commands: queue, subs };
        let task = Arc::new(Task(tokio::spawn(actor.run()).abort_handle()));
        Watcher { commands, task, next_key: Arc::default() }
    }

    /// One watch on a stream of its own.
    pub fn watch(&self, request: pb::WatchCreateRequest) -> Watch {
        self.watcher(false).watch(request)
    }
}

impl Watcher {
    /// Starts a watch. It is in place once the server has answered, which the caller does not
    /// see; use [`Watcher::watch_and_notify`] where that matters.
    pub fn watch(&self, request: pb::WatchCreateRequest) -> Watch {
        self.start(request, false)
    }

    /// Starts a watch whose first response says that it was created.
    pub fn watch_and_notify(&self, request: pb::WatchCreateRequest) -> Watch {
        self.start(request, true)
    }

    fn start(&self, request: pb::WatchCreateRequest, notify_created: bool) -> Watch {
        let key = self.next_key.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (sender, answers) = mpsc::unbounded_channel();
        let sub = Sub {
            key,
            next_revision: request.start_revision,
            request,
            id: None,
            fragments: Vec::new(),
            notify_created,
            answers: sender,
        };
        let _ = self.commands.send(Command::Create(Box::new(sub)));
        Watch { key, answers, watcher: self.clone() }
    }

    /// Asks for a progress response to all watches of the stream. The server stays silent while
    /// one of them is behind.
    pub fn request_progress(&self) {
        let _ = self.commands.send(Command::Progress);
    }

    /// Whether the task still runs.
    pub fn is_open(&self) -> bool {
        !self.task.0.is_finished()
    }
}

struct Actor {
    client: Client,
    require_leader: bool,
    commands: UnboundedReceiver<Command>,
    subs: Subs,
}

/// The sending half of the open stream and what was sent on it.
struct Sending {
    requests: UnboundedSender<pb::WatchRequest>,
    /// Keys of watches whose `created` answer is due, in order. A cancelled one stays in line.
    creating: VecDeque<u64>,
}

impl Sending {
    fn send(&self, union: RequestUnion) {
        // A closed queue means that the stream broke, which its receiving half reports.
        let _ = self.requests.send(pb::WatchRequest { request_union: Some(union) });
    }

    fn create(&mut self, sub: &Sub) {
        let mut request = sub.request.clone();
        request.start_revision = sub.next_revision;
        self.creating.push_back(sub.key);
        self.send(RequestUnion::CreateRequest(request));
    }

    fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
    }
}

impl Actor {
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            while self.subs.by_key.is_empty() {
                match self.commands.recv().await {
                    Some(Command::Create(sub)) => self.subs.add(*sub),
                    Some(_) => {}
                    None => return,
                }
            }
            let mut delivered = false;
            let Err(error) = self.run_stream(&mut delivered).await else { return };
            if delivered {
                backoff = FIRST_BACKOFF;
            }
            if error.is_final() || error.is_server("no leader") {
                for sub in self.subs.take() {
                    let _ = sub.answers.send(Err(error.clone()));
                }
                continue;
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    /// Runs one stream until it breaks. `Ok`: all handles are gone.
    async fn run_stream(&mut self, delivered: &mut bool) -> Result<(), Error> {
        let (requests, queue) = mpsc::unbounded_channel();
        let mut sending = Sending { requests, creating: VecDeque::new() };
        self.subs.forget_ids();
        self.subs.by_key.values().for_each(|sub| sending.create(sub));
        let requests = UnboundedReceiverStream::new(queue);
        let mut stream: tonic::Streaming<pb::WatchResponse> =
            self.client.open_stream(requests, PATH, self.require_leader).await?;
        loop {
            tokio::select! {
                message = stream.message() => match message? {
                    Some(response) => {
                        *delivered = true;
                        self.dispatch(response, &mut sending);
                    }
                    None => {
                        let message = "error reading from server: EOF".to_owned();
                        return Err(Error::Rpc { code: Code::Unavailable, message });
                    }
                },
                command = self.commands.recv() => match command {
                    Some(Command::Create(sub)) => {
                        sending.create(&sub);
                        self.subs.add(*sub);
                    }
                    Some(Command::Cancel(key)) => self.cancel(key, &sending),
                    Some(Command::Progress) => {
                        sending.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    fn cancel(&mut self, key: u64, sending: &Sending) {
        if let Some(id) = self.subs.remove(key).and_then(|sub| sub.id) {
            sending.cancel(id);
        }
    }

    fn dispatch(&mut self, response: pb::WatchResponse, sending: &mut Sending) {
        if response.created {
            match sending.creating.pop_front() {
                Some(key) if self.subs.by_key.contains_key(&key) => self.created(key, response),
                // The caller dropped the watch before it existed.
                _ if !response.canceled => sending.cancel(response.watch_id),
                _ => {}
            }
            return;
        }
        if response.watch_id == -1 && is_progress(&response) {
            for sub in self.subs.by_key.values_mut() {
                sub.progressed(&response);
                let _ = sub.answers.send(Ok(response.clone()));
            }
            return;
        }
        if response.canceled || response.compact_revision != 0 {
            let Some(sub) = self.subs.remove_id(response.watch_id) else { return };
            // A watch that was compacted away stays registered at the server until cancelled.
            sending.cancel(response.watch_id);
            let _ = sub.answers.send(Ok(pb::WatchResponse { canceled: true, ..response }));
            return;
        }
        if let Some(sub) = self.subs.by_id(response.watch_id) {
            sub.deliver(response);
        }
    }

    fn created(&mut self, key: u64, response: pb::WatchResponse) {
        if response.canceled {
            if let Some(sub) = self.subs.remove(key) {
                let _ = sub.answers.send(Ok(response));
            }
            return;
        }
        let Some(sub) = self.subs.name(key, response.watch_id) else { return };
        if sub.next_revision == 0 {
            sub.next_revision = response.header.as_ref().map_or(0, |header| header.revision + 1);
        }
        if std::mem::take(&mut sub.notify_created) {
            let _ = sub.answers.send(Ok(response));
        }
    }
}

impl Sub {
    fn progressed(&mut self, response: &pb::WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        self.next_revision = self.next_revision.max(revision + 1);
    }

    fn deliver(&mut self, mut response: pb::WatchResponse) {
        self.fragments.append(&mut response.events);
        if response.fragment {
            return;
        }
        response.events = std::mem::take(&mut self.fragments);
        match response.events.last().and_then(|event| event.kv.as_ref()) {
            Some(kv) => self.next_revision = self.next_revision.max(kv.mod_revision + 1),
            None => self.progressed(&response),
        }
        let _ = self.answers.send(Ok(response));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mvccpb::KeyValue;

    fn response(watch_id: i64, revision: i64, keys: &[&'static str]) -> pb::WatchResponse {
        let event = |key: &&'static str| Event {
            kv: Some(KeyValue { key: (*key).into(), mod_revision: revision, ..Default::default() }),
            ..Default::default()
        };
        pb::WatchResponse {
            header: Some(pb::ResponseHeader { revision, ..Default::default() }),
            watch_id,
            events: keys.iter().map(event).collect(),
            ..Default::default()
        }
    }

    fn sub(key: u64) -> (Sub, UnboundedReceiver<Answer>) {
        let (answers, receiver) = mpsc::unbounded_channel();
        let sub = Sub {
            key,
            request: pb::WatchCreateRequest { key: "k".into(), ..Default::default() },
            next_revision: 0,
            id: None,
            fragments: Vec::new(),
            notify_created: false,
            answers,
        };
        (sub, receiver)
    }

    /// An actor with the given watches on an open stream, and the requests it sends.
    fn opened(subs: Vec<Sub>) -> (Actor, Sending, UnboundedReceiver<pb::WatchRequest>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = crate::Options::new(["127.0.0.1:1"]);
        let client = runtime.block_on(Client::connect(options)).unwrap();
        let (requests, sent) = mpsc::unbounded_channel();
        let mut sending = Sending { requests, creating: VecDeque::new() };
        subs.iter().for_each(|sub| sending.create(sub));
        let (_, commands) = mpsc::unbounded_channel();
        let mut actor = Actor { client, require_leader: false, commands, subs: Subs::default() };
        subs.into_iter().for_each(|sub| actor.subs.add(sub));
        (actor, sending, sent)
    }

    fn created(watch_id: i64, revision: i64) -> pb::WatchResponse {
        pb::WatchResponse { created: true, ..response(watch_id, revision, &[]) }
    }

    #[test]
    fn created_answers_belong_to_the_watches_in_order() {
        let ((first, mut first_answers), (second, mut second_answers)) = (sub(0), sub(1));
        let (mut actor, mut sending, _sent) = opened(vec![first, second]);
        actor.dispatch(created(0, 5), &mut sending);
        actor.dispatch(created(1, 5), &mut sending);
        actor.dispatch(response(1, 6, &["b"]), &mut sending);
        assert!(first_answers.try_recv().is_err());
        assert_eq!(second_answers.try_recv().unwrap().unwrap().events.len(), 1);
        // What a new stream would ask for: the first has seen nothing since it was created.
        assert_eq!(actor.subs.by_key[&0].next_revision, 6);
        assert_eq!(actor.subs.by_key[&1].next_revision, 7);
    }

    #[test]
    fn fragments_arrive_as_one_response() {
        let (watch, mut answers) = sub(0);
        let (mut actor, mut sending, _sent) = opened(vec![watch]);
        actor.dispatch(created(0, 5), &mut sending);
        actor.dispatch(pb::WatchResponse { fragment: true, ..response(0, 7, &["a", "b"]) }, &mut sending);
        assert!(answers.try_recv().is_err());
        // A stream lost here starts again at 6, so the whole of revision 7 comes again.
        assert_eq!(actor.subs.by_key[&0].next_revision, 6);
        actor.dispatch(response(0, 7, &["c"]), &mut sending);
        assert_eq!(answers.try_recv().unwrap().unwrap().events.len(), 3);
        assert_eq!(actor.subs.by_key[&0].next_revision, 8);
    }

    #[test]
    fn progress_moves_the_restart_point_of_every_watch() {
        let (watch, mut answers) = sub(0);
        let (mut actor, mut sending, _sent) = opened(vec![watch]);
        actor.dispatch(created(0, 5), &mut sending);
        actor.dispatch(response(-1, 20, &[]), &mut sending);
        assert!(is_progress(&answers.try_recv().unwrap().unwrap()));
        assert_eq!(actor.subs.by_key[&0].next_revision, 21);
    }

    #[test]
    fn a_compacted_watch_ends_and_is_cancelled_at_the_server() {
        let (watch, mut answers) = sub(0);
        let (mut actor, mut sending, mut sent) = opened(vec![watch]);
        actor.dispatch(created(3, 5), &mut sending);
        sent.try_recv().unwrap();
        let compacted = pb::WatchResponse { canceled: true, compact_revision: 4, ..response(3, 0, &[]) };
        actor.dispatch(compacted, &mut sending);
        let answer = answers.try_recv().unwrap().unwrap();
        let text = cancel_error(&answer).unwrap().to_string();
        assert_eq!(text, "etcdserver: mvcc: required revision has been compacted");
        assert!(actor.subs.by_key.is_empty() && actor.subs.keys.is_empty());
        let cancel = sent.try_recv().unwrap().request_union.unwrap();
        assert_eq!(cancel, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 3 }));
    }

    /// Each response looked at all watches of its stream, so their number counted squared.
    #[test]
    fn many_watches_of_a_stream_cost_nothing_but_their_own() {
        const WATCHES: u64 = 100_000;
        let (subs, mut answers): (Vec<_>, Vec<_>) = (0..WATCHES).map(sub).unzip();
        let (mut actor, mut sending, _sent) = opened(subs);
        let started = std::time::Instant::now();
        (0..WATCHES as i64).for_each(|id| actor.dispatch(created(id, 5), &mut sending));
        (0..WATCHES as i64).for_each(|id| actor.dispatch(response(id, 6, &["k"]), &mut sending));
        (0..WATCHES).for_each(|key| actor.cancel(key, &sending));
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(answers.iter_mut().all(|answers| answers.try_recv().is_ok()));
        assert!(actor.subs.by_key.is_empty() && actor.subs.keys.is_empty());
    }

    #[test]
    fn ids_of_a_lost_stream_mean_nothing_on_the_next() {
        let ((first, mut first_answers), (second, mut second_answers)) = (sub(0), sub(1));
        let (mut actor, mut sending, _sent) = opened(vec![first, second]);
        actor.dispatch(created(0, 5), &mut sending);
        actor.dispatch(created(1, 5), &mut sending);
        actor.subs.forget_ids();
        actor.dispatch(response(1, 6, &["b"]), &mut sending);
        assert!(first_answers.try_recv().is_err() && second_answers.try_recv().is_err());
        sending.creating = VecDeque::from([0, 1]);
        actor.dispatch(created(1, 7), &mut sending);
        actor.dispatch(response(1, 8, &["a"]), &mut sending);
        assert_eq!(first_answers.try_recv().unwrap().unwrap().events.len(), 1);
        assert!(second_answers.try_recv().is_err());
    }

    #[test]
    fn a_watch_dropped_before_creation_is_cancelled_when_its_id_is_known() {
        let (watch, _answers) = sub(0);
        let (mut actor, mut sending, mut sent) = opened(vec![watch]);
        actor.cancel(0, &sending);
        sent.try_recv().unwrap();
        assert!(sent.try_recv().is_err());
        actor.dispatch(created(9, 5), &mut sending);
        let cancel = sent.try_recv().unwrap().request_union.unwrap();
        assert_eq!(cancel, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 9 }));
    }
}
