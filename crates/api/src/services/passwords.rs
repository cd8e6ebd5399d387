//! Hashing on threads of its own.
//!
//! - At most half of the cores hash, and only when nothing else wants to run: a hundred first logins at
//!   once made the p99 of others' puts 2.9 times as long at niceness 10, 1.1 times in the idle class.
//!   A hash that gets no turn on a busy machine is helped out of that class.
//! - Users take turns: who guesses at one user's password delays that user, nobody else.
//! - What waits is bounded, per user and in all; beyond that logins are refused.
//!
//! The threads start with the first password and end with the member.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use auth::password::{self, Verified};
use parking_lot::{Condvar, Mutex};
use rustix::thread::Pid;
use tokio::sync::oneshot;

use crate::error::Error;

/// Jobs that may wait for one user.
const MAX_WAITING_PER_USER: usize = 64;
/// Jobs that may wait in all.
const MAX_WAITING: usize = 4096;
/// Added to the niceness of the threads, which counts outside of the idle class.
const NICENESS: i32 = 10;
/// A hash at the default cost that takes so long starves: eight times what it needs.
const STARVING: Duration = Duration::from_millis(500);

type Job = Box<dyn FnOnce() + Send>;

/// Hashes and checks passwords without holding up who asks.
pub struct Passwords {
    cost: u32,
    verified: Arc<Verified>,
    queue: Arc<Queue>,
    /// A hash at this cost that takes longer starves.
    patience: Duration,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Users that wait, in turn. Each stands here once.
    turns: VecDeque<String>,
    waiting: HashMap<String, VecDeque<Job>>,
    count: usize,
    threads: usize,
    hashing: Vec<Hashing>,
    closed: bool,
}

/// A thread at work.
struct Hashing {
    thread: Pid,
    since: Instant,
    /// It is out of the idle class.
    helped: bool,
}

impl Passwords {
    /// Hashes at this cost.
    pub fn new(cost: u32) -> Self {
        let mut key = [0; 32];
        draw(&mut key);
        let dearer = cost.saturating_sub(password::DEFAULT_COST);
        let patience = STARVING.saturating_mul(1_u32.checked_shl(dearer).unwrap_or(u32::MAX));
        Self { cost, verified: Arc::new(Verified::new(key)), queue: Arc::default(), patience }
    }

    /// The bcrypt text of a password.
    ///
    /// # Errors
    /// Too long, or too many wait.
    pub async fn hash(&self, user: &str, password: String) -> Result<String, Error> {
        let (mut salt, cost) = ([0; 16], self.cost);
        draw(&mut salt);
        let hashed = self.run(user, move || password::hash(&password, cost, salt)).await?;
        hashed.map_err(|error| Error::Other(error.to_string()))
    }

    /// Whether the password is that of the stored text, which is the one of auth revision `revision`.
    ///
    /// # Errors
    /// Too many wait.
    pub async fn check(
        &self,
        user: &str,
        revision: u64,
        stored: bytes::Bytes,
        password: &str,
    ) -> Result<bool, Error> {
        if self.verified.knows(revision, &stored, password) {
            return Ok(true);
        }
        let (verified, password) = (self.verified.clone(), password.to_owned());
        self.run(user, move || {
            // The same login may have been waiting right before this one.
            if verified.knows(revision, &stored, &password) {
                return true;
            }
            let right = password::verify(&stored, &password);
            if right {
                verified.remember(revision, &stored, &password);
            }
            right
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        user: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        self.push(
            user,
            Box::new(move || {
                // Nobody pays for who has left.
                if !sender.is_closed() {
                    let _ = sender.send(work());
                }
            }),
        )?;
        let mut receiver = receiver;
        loop {
            match tokio::time::timeout(self.patience, &mut receiver).await {
                Ok(answer) => return answer.map_err(|_| Error::Stopped),
                Err(_) => self.queue.help(self.patience),
            }
        }
    }

    fn push(&self, user: &str, job: Job) -> Result<(), Error> {
        let mut state = self.queue.state.lock();
        let State { turns, waiting, count, threads, closed, .. } = &mut *state;
        if *closed {
            return Err(Error::Stopped);
        }
        if *count >= MAX_WAITING || waiting.get(user).is_some_and(|own| own.len() >= MAX_WAITING_PER_USER) {
            return Err(Error::TooManyRequests);
        }
        let own = waiting.entry(user.to_owned()).or_default();
        if own.is_empty() {
            turns.push_back(user.to_owned());
        }
        own.push_back(job);
        *count += 1;
        if *threads < thread_limit() {
            let queue = self.queue.clone();
            let started =
                std::thread::Builder::new().name("password".to_owned()).spawn(move || queue.serve());
            match started {
                Ok(_) => *threads += 1,
                Err(error) if *threads == 0 => {
                    return Err(Error::Other(format!("cannot start a thread for passwords: {error}")));
                }
                Err(_) => {}
            }
        }
        self.queue.wake.notify_one();
        Ok(())
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        *state = State { closed: true, ..State::default() };
        self.queue.wake.notify_all();
    }
}

impl Queue {
    fn serve(&self) {
        // Without these hashing would be as important as serving; it works all the same.
        env::turns::lengthen();
        let _ = rustix::process::nice(NICENESS);
        let thread = rustix::thread::gettid();
        set_class(thread, Class::Idle);
        let mut helped = false;
        while let Some(job) = self.next(thread, helped) {
            job();
            helped = self.state.lock().finish(thread);
        }
    }

    /// The next job of a thread, which goes back into the idle class when there is none for a moment.
    fn next(&self, thread: Pid, mut helped: bool) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.take() {
                state.hashing.push(Hashing { thread, since: Instant::now(), helped });
                return Some(job);
            }
            if std::mem::take(&mut helped) {
                set_class(thread, Class::Idle);
            }
            self.wake.wait(&mut state);
        }
    }

    /// Takes threads that got no turn for so long out of the idle class.
    fn help(&self, patience: Duration) {
        for hashing in &mut self.state.lock().hashing {
            if !hashing.helped && hashing.since.elapsed() >= patience {
                set_class(hashing.thread, Class::Normal);
                hashing.helped = true;
            }
        }
    }
}

/// Scheduling classes, by the kernel's numbers.
#[derive(Clone, Copy)]
enum Class {
    Normal = libc::SCHED_OTHER as isize,
    Idle = libc::SCHED_IDLE as isize,
}

/// Where the kernel refuses it, passwords are hashed at niceness [`NICENESS`] all the time.
fn set_class(thread: Pid, class: Class) {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameters during the call and keeps nothing. The thread is one of
    // ours that has not ended: it takes itself off the list first.
    unsafe {
        let _ = libc::syscall(
            libc::SYS_sched_setscheduler,
            thread.as_raw_nonzero().get(),
            class as libc::c_int,
            &raw const none,
        );
    }
}

impl State {
    /// The next user's oldest job; the user goes to the end of the line.
    fn take(&mut self) -> Option<Job> {
        let user = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&user)?;
        let job = own.pop_front();
        self.count -= 1;
        if own.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.turns.push_back(user);
        }
        job
    }

    /// A thread has done its job. Returns whether it was helped.
    fn finish(&mut self, thread: Pid) -> bool {
        let place = self.hashing.iter().position(|hashing| hashing.thread == thread);
        place.is_some_and(|place| self.hashing.swap_remove(place).helped)
    }
}

fn thread_limit() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1)
}

/// Random bytes from the system.
///
/// # Panics
/// If the system has none: then no secret can be made.
pub fn draw(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .expect("the system has random numbers");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns() {
        let mut state = State::default();
        let done: Arc<Mutex<Vec<&str>>> = Arc::default();
        for user in ["a", "a", "a", "b", "c", "b"] {
            let done = done.clone();
            let own = state.waiting.entry(user.to_owned()).or_default();
            if own.is_empty() {
                state.turns.push_back(user.to_owned());
            }
            own.push_back(Box::new(move || done.lock().push(user)));
            state.count += 1;
        }
        while let Some(job) = state.take() {
            job();
        }
        assert_eq!(*done.lock(), ["a", "b", "c", "a", "b", "a"]);
        assert!(state.count == 0 && state.waiting.is_empty());
    }

    #[tokio::test]
    async fn one_user_cannot_fill_the_line() {
        let passwords = Passwords::new(4);
        // Holds up all threads.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..thread_limit() {
            let held = held.clone();
            let hold = move || held.lock().recv().expect_err("nothing is ever sent");
            passwords.push("holder", Box::new(move || _ = hold())).unwrap();
        }
        // Threads may or may not have taken the holders' jobs: those are another user's.
        for _ in 0..MAX_WAITING_PER_USER {
            passwords.push("guesser", Box::new(|| {})).unwrap();
        }
        assert_eq!(passwords.push("guesser", Box::new(|| {})), Err(Error::TooManyRequests));
        passwords.push("other", Box::new(|| {})).unwrap();
        drop(release);
        assert!(passwords.hash("other", "pw".to_owned()).await.unwrap().starts_with("$2a$04$"));
    }

    /// The scheduling class of a thread of this process.
    fn class_of(thread: Pid) -> Option<i32> {
        let stat = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
        let stat = std::fs::read_to_string(stat).ok()?;
        // Behind the name, which ends with the last bracket, the policy is the 39th field.
        stat.rsplit(") ").next()?.split(' ').nth(38)?.parse().ok()
    }

    #[test]
    fn who_starves_is_helped_until_nobody_waits() {
        let passwords = Passwords::new(4);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (say, heard) = std::sync::mpsc::channel();
        let job = move || {
            let _ = say.send(rustix::thread::gettid());
            let _ = held.recv();
        };
        passwords.push("u", Box::new(job)).unwrap();
        let thread = heard.recv().unwrap();
        assert_eq!(class_of(thread), Some(libc::SCHED_IDLE));
        passwords.queue.help(Duration::from_secs(3600));
        assert_eq!(class_of(thread), Some(libc::SCHED_IDLE), "it has had its time");
        passwords.queue.help(Duration::ZERO);
        assert_eq!(class_of(thread), Some(libc::SCHED_OTHER));
        release.send(()).unwrap();
        while class_of(thread) != Some(libc::SCHED_IDLE) {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_right_password_is_hashed_once() {
        let passwords = Passwords::new(4);
        let stored: bytes::Bytes = passwords.hash("u", "pw".to_owned()).await.unwrap().into();
        assert!(passwords.check("u", 3, stored.clone(), "pw").await.unwrap());
        assert!(passwords.verified.knows(3, &stored, "pw"));
        assert!(!passwords.check("u", 3, stored.clone(), "pw2").await.unwrap());
        assert!(!passwords.verified.knows(3, &stored, "pw2"));
        assert_eq!(
            passwords.hash("u", "x".repeat(73)).await,
            Err(Error::Other("bcrypt: password length exceeds 72 bytes".to_owned()))
        );
    }
}
