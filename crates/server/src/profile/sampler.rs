//! Takes moments of threads: every ten milliseconds of their CPU time, or of all of them once.
//!
//! ```text
//!  timer of a thread ── SIGPROF ──▶ handler on that thread: registers and stack into a free slot
//!                                        collector: slot ──▶ unwind ──▶ count, slot free again
//! ```
//!
//! - The handler does what is allowed in one: atomics, and one system call that copies the stack and fails
//!   where there is none. It takes no lock and no memory; the slots exist before it is installed and for
//!   ever after.
//! - While nothing is profiled there are no timers and no signals, and nothing here costs anything. Once
//!   installed the handler stays: a late signal must not end the process.
//! - One profile at a time.
//!
//! Threads that begin while a profile is taken are found within a tenth of a second.
//!
//! **Source**: `timer_create(2)`, `process_vm_readv(2)`; the rate is that of Go's profiles.

use std::cell::UnsafeCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gimli::UnwindContext;
use parking_lot::{Mutex, MutexGuard};

use super::modules::{self, Module};
use super::unwind::{IS_SUPPORTED, Moment, REGISTERS, STACK_POINTER, unwind};

/// CPU time between two moments of a thread.
pub const PERIOD: Duration = Duration::from_millis(10);
/// How much of a stack is kept.
const STACK_BYTES: usize = 32 << 10;
const PAGE: u64 = 4096;
/// Moments that wait for the collector. It looks often enough for hundreds of busy threads.
const SLOTS: usize = 64;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
const THREADS_INTERVAL: Duration = Duration::from_millis(100);
/// How long a thread may take to say what it does.
const DUMP_PATIENCE: Duration = Duration::from_secs(1);

const FREE: u8 = 0;
const FILLING: u8 = 1;
const READY: u8 = 2;

struct Slot {
    state: AtomicU8,
    taken: UnsafeCell<Taken>,
}

/// What the handler leaves.
struct Taken {
    thread: i32,
    address: u64,
    registers: [u64; REGISTERS],
    length: usize,
    stack: [u8; STACK_BYTES],
}

// SAFETY: `taken` belongs to the handler that changed `state` from free to filling, and from ready on to
// the collector, of which there is one.
unsafe impl Sync for Slot {}

static SLOT_TABLE: OnceLock<Box<[Slot]>> = OnceLock::new();
/// Whether moments are wanted.
static WANTED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
static PROCESS: AtomicU32 = AtomicU32::new(0);
static BUSY: Mutex<()> = Mutex::new(());

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Only one at a time.
    #[error("Could not enable CPU profiling: cpu profiling already in use")]
    InUse,
    /// The system refused.
    #[error("Could not enable CPU profiling: {0}")]
    System(#[from] io::Error),
}

/// Stacks and how often they were met.
#[derive(Debug, Default)]
pub struct Counted {
    /// Addresses from the innermost on, by thread for a dump; how often.
    pub stacks: BTreeMap<(Option<i32>, Vec<u64>), u64>,
    /// Moments for which there was no room.
    pub lost: u64,
    /// What the addresses belong to.
    pub modules: Vec<Module>,
}

/// The processor's registers when the signal came.
///
/// # Safety
/// `context` is what the kernel passed to a handler.
#[cfg(target_arch = "x86_64")]
unsafe fn registers(context: *const libc::ucontext_t) -> (u64, [u64; REGISTERS]) {
    use libc::*;
    // DWARF's order.
    const ORDER: [c_int; 17] = [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10,
        REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP,
    ];
    // SAFETY: as the caller promises.
    let saved = unsafe { &(*context).uc_mcontext.gregs };
    let mut all = [0; REGISTERS];
    for (register, place) in all.iter_mut().zip(ORDER) {
        *register = saved[place as usize] as u64;
    }
    (saved[REG_RIP as usize] as u64, all)
}

/// The processor's registers when the signal came.
///
/// # Safety
/// `context` is what the kernel passed to a handler.
#[cfg(target_arch = "aarch64")]
unsafe fn registers(context: *const libc::ucontext_t) -> (u64, [u64; REGISTERS]) {
    // SAFETY: as the caller promises.
    let saved = unsafe { &(*context).uc_mcontext };
    let mut all = [0; REGISTERS];
    all[..31].copy_from_slice(&saved.regs);
    all[STACK_POINTER] = saved.sp;
    (saved.pc, all)
}

/// No processor that is known here: [`install`] refuses before this is called.
///
/// # Safety
/// Does nothing.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn registers(_: *const libc::ucontext_t) -> (u64, [u64; REGISTERS]) {
    (0, [0; REGISTERS])
}

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    if !WANTED.load(Ordering::Acquire) {
        return;
    }
    let Some(slots) = SLOT_TABLE.get() else { return };
    let first = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut turns = (0..slots.len()).map(|turn| &slots[first.wrapping_add(turn) % slots.len()]);
    let free = turns.find(|slot| {
        slot.state.compare_exchange(FREE, FILLING, Ordering::Acquire, Ordering::Relaxed).is_ok()
    });
    let Some(slot) = free else {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    };
    // SAFETY: the slot is ours until it is ready; the context comes from the kernel; the other calls are
    // allowed in a handler, and `errno` is put back for the code that was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let taken = &mut *slot.taken.get();
        taken.thread = libc::syscall(libc::SYS_gettid) as i32;
        (taken.address, taken.registers) = registers(context.cast());
        taken.length = copy_stack(taken.registers[STACK_POINTER], &mut taken.stack);
        *libc::__errno_location() = errno;
    }
    slot.state.store(READY, Ordering::Release);
}

/// Copies what lies on the stack, page by page until there is none. Returns how much.
///
/// # Safety
/// Safe to call anywhere: the kernel does the reading, and says where there is nothing.
unsafe fn copy_stack(start: u64, stack: &mut [u8; STACK_BYTES]) -> usize {
    const PARTS: usize = STACK_BYTES / PAGE as usize + 1;
    let local = libc::iovec { iov_base: stack.as_mut_ptr().cast(), iov_len: STACK_BYTES };
    let mut remote = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS];
    let (mut at, mut left) = (start, STACK_BYTES as u64);
    for part in &mut remote {
        let length = (PAGE - at % PAGE).min(left);
        *part = libc::iovec { iov_base: at as *mut c_void, iov_len: length as usize };
        (at, left) = (at.wrapping_add(length), left - length);
    }
    let process = PROCESS.load(Ordering::Relaxed) as libc::pid_t;
    // SAFETY: the local part is ours, and the remote ones are only read, by the kernel.
    let copied =
        unsafe { libc::process_vm_readv(process, &local, 1, remote.as_ptr(), PARTS as libc::c_ulong, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// Prepares slots and handler; what is prepared stays.
fn install() -> io::Result<&'static [Slot]> {
    if !IS_SUPPORTED {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this processor's registers are not known"));
    }
    let slots = SLOT_TABLE.get_or_init(|| {
        PROCESS.store(std::process::id(), Ordering::Relaxed);
        let slot = || Slot {
            state: AtomicU8::new(FREE),
            taken: UnsafeCell::new(Taken {
                thread: 0,
                address: 0,
                registers: [0; REGISTERS],
                length: 0,
                stack: [0; STACK_BYTES],
            }),
        };
        std::iter::repeat_with(slot).take(SLOTS).collect()
    });
    // SAFETY: an all-zero action is one without flags and with an empty mask; the handler has the form that
    // the flag asks for.
    let set = unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_signal;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut())
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(slots)
}

/// The threads of this process.
fn threads() -> BTreeSet<i32> {
    let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A timer that counts the CPU time of one thread and sends it the signal.
struct Timer(libc::timer_t);

impl Timer {
    fn start(thread: i32) -> io::Result<Self> {
        // The clock of a thread's CPU time, as the kernel numbers them.
        let clock = (!thread << 3) | 6;
        let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD.as_nanos() as libc::c_long };
        let times = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: an all-zero event is valid; the pointers are to values that outlive the calls, and the
        // timer is used only once it was made.
        unsafe {
            let mut event: libc::sigevent = MaybeUninit::zeroed().assume_init();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGPROF;
            event.sigev_notify_thread_id = thread;
            let mut timer = MaybeUninit::<libc::timer_t>::zeroed();
            if libc::timer_create(clock, &mut event, timer.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let timer = Self(timer.assume_init());
            match libc::timer_settime(timer.0, 0, &times, std::ptr::null_mut()) {
                0 => Ok(timer),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer was made, and is deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Moments are wanted while this lives.
struct Session {
    slots: &'static [Slot],
    counted: Counted,
    context: UnwindContext<usize>,
    _busy: MutexGuard<'static, ()>,
}

impl Session {
    fn begin() -> Result<Self, ProfileError> {
        let busy = BUSY.try_lock().ok_or(ProfileError::InUse)?;
        let slots = install()?;
        let counted = Counted { modules: modules::loaded(), ..Counted::default() };
        LOST.store(0, Ordering::Relaxed);
        WANTED.store(true, Ordering::Release);
        Ok(Self { slots, counted, context: UnwindContext::new(), _busy: busy })
    }

    /// Counts what the handler left. Returns how many moments that were.
    fn collect(&mut self, by_thread: bool) -> usize {
        let mut moments = 0;
        for slot in self.slots {
            if slot.state.load(Ordering::Acquire) != READY {
                continue;
            }
            // SAFETY: a slot that is ready is the collector's, and there is one: this.
            let taken = unsafe { &*slot.taken.get() };
            let moment = Moment {
                address: taken.address,
                registers: taken.registers,
                stack: &taken.stack[..taken.length],
            };
            let stack = unwind(&moment, &self.counted.modules, &mut self.context);
            let thread = by_thread.then_some(taken.thread);
            slot.state.store(FREE, Ordering::Release);
            *self.counted.stacks.entry((thread, stack)).or_default() += 1;
            moments += 1;
        }
        moments
    }

    fn end(mut self, by_thread: bool) -> Counted {
        WANTED.store(false, Ordering::Release);
        self.collect(by_thread);
        self.counted.lost = LOST.load(Ordering::Relaxed);
        std::mem::take(&mut self.counted)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        WANTED.store(false, Ordering::Release);
    }
}

/// Where CPU time goes, for so long or until `cancelled`.
///
/// # Errors
/// There is another profile being taken, or the system refuses.
pub fn profile(length: Duration, cancelled: &AtomicBool) -> Result<Counted, ProfileError> {
    let mut session = Session::begin()?;
    let begun = Instant::now();
    let mut timers: BTreeMap<i32, Timer> = BTreeMap::new();
    let mut next_threads = begun;
    while begun.elapsed() < length && !cancelled.load(Ordering::Relaxed) {
        if Instant::now() >= next_threads {
            next_threads = Instant::now() + THREADS_INTERVAL;
            let threads = threads();
            timers.retain(|thread, _| threads.contains(thread));
            for thread in threads {
                if timers.contains_key(&thread) {
                    continue;
                }
                match Timer::start(thread) {
                    Ok(timer) => drop(timers.insert(thread, timer)),
                    // It may have ended meanwhile; if no thread can be watched, that is an error.
                    Err(error) if timers.is_empty() => return Err(error.into()),
                    Err(_) => {}
                }
            }
        }
        std::thread::sleep(LOOK_INTERVAL.min(length.saturating_sub(begun.elapsed())));
        session.collect(false);
    }
    drop(timers);
    Ok(session.end(false))
}

/// What every thread does now.
///
/// # Errors
/// There is another profile being taken, or the system refuses.
pub fn dump() -> Result<Counted, ProfileError> {
    let mut session = Session::begin()?;
    let process = std::process::id() as libc::pid_t;
    let mut asked = 0;
    let mut answered = 0;
    let begun = Instant::now();
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    // As many at a time as there are slots.
    for thread in threads().into_iter().filter(|thread| *thread != own) {
        // SAFETY: sends a signal that has a handler; a thread that has ended meanwhile is an error.
        asked += usize::from(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGPROF) } == 0);
        while asked - answered >= SLOTS / 2 && begun.elapsed() < DUMP_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
            answered += session.collect(true);
        }
    }
    while answered < asked && begun.elapsed() < DUMP_PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
        answered += session.collect(true);
    }
    Ok(session.end(true))
}

#[cfg(test)]
pub(super) mod tests {
    use std::hint::black_box;

    use super::*;

    /// Serialises tests that profile: there is one profile per process.
    pub(crate) static TURN: Mutex<()> = Mutex::new(());

    #[inline(never)]
    fn burn_cycles_for_the_test(stop: &AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            for number in 0..1000_u64 {
                sum = black_box(sum.wrapping_mul(31).wrapping_add(number));
            }
        }
        sum
    }

    #[inline(never)]
    fn wait_for_the_test(stop: &Mutex<()>) {
        let _locked = stop.lock();
    }

    fn names(counted: &Counted, stack: &[u64]) -> Vec<String> {
        let name = |address: u64| {
            let module = counted.modules.iter().find(|module| module.has_code_at(address))?;
            module.function(address - 1)
        };
        stack.iter().filter_map(|address| name(*address)).collect()
    }

    #[test]
    fn a_busy_thread_is_found_with_its_callers() {
        let _turn = TURN.lock();
        let stop = AtomicBool::new(false);
        let counted = std::thread::scope(|scope| {
            scope.spawn(|| burn_cycles_for_the_test(&stop));
            let patience = Instant::now() + Duration::from_secs(30);
            let hit = |counted: &Counted| {
                counted.stacks.keys().any(|(_, stack)| {
                    let names = names(counted, stack);
                    let burning = names.iter().any(|name| name.contains("burn_cycles_for_the_test"));
                    // Down to the first function of every thread.
                    burning && names.iter().any(|name| name.contains("thread") && name.contains("start"))
                })
            };
            let counted = loop {
                let counted = profile(Duration::from_millis(300), &AtomicBool::new(false)).unwrap();
                if hit(&counted) || Instant::now() > patience {
                    break counted;
                }
            };
            stop.store(true, Ordering::Relaxed);
            assert!(hit(&counted), "{counted:?}");
            counted
        });
        assert_eq!(counted.lost, 0);
        // A signal that comes late does no harm.
        // SAFETY: a signal with a handler, to this thread.
        unsafe { libc::raise(libc::SIGPROF) };
    }

    #[test]
    fn threads_say_where_they_wait() {
        let _turn = TURN.lock();
        let lock = Mutex::new(());
        let held = lock.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| wait_for_the_test(&lock));
            let patience = Instant::now() + Duration::from_secs(30);
            let waits = || {
                let counted = dump().unwrap();
                counted.stacks.keys().any(|(thread, stack)| {
                    let is_it = |name: &String| name.contains("wait_for_the_test");
                    thread.is_some() && names(&counted, stack).iter().any(is_it)
                })
            };
            while !waits() {
                assert!(Instant::now() < patience, "the waiting thread is not found");
            }
            drop(held);
        });
    }

    #[test]
    fn one_at_a_time_and_cancelled_at_once() {
        let _turn = TURN.lock();
        let session = Session::begin().unwrap();
        assert!(matches!(dump(), Err(ProfileError::InUse)));
        drop(session);
        let begun = Instant::now();
        profile(Duration::from_secs(3600), &AtomicBool::new(true)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
