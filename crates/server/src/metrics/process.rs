//! What the operating system knows about this process, read from `/proc` at each scrape.
//!
//! A value that cannot be read is left out, as Go's client library does.

use std::fs;

use super::text::{Exposition, Kind};

/// Ticks per second of the times in `/proc/self/stat`; fixed on Linux.
const CLOCK_TICKS: f64 = 100.0;

/// Adds the `process_*` families.
pub(super) fn collect(out: &mut Exposition) {
    let mut gauge = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            out.value(name, Kind::Gauge, help, &[], value);
        }
    };
    let stat = Stat::read();
    gauge(
        "process_resident_memory_bytes",
        "Resident memory in bytes.",
        stat.as_ref().map(|stat| stat.resident_bytes),
    );
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory in bytes.",
        stat.as_ref().map(|stat| stat.virtual_bytes),
    );
    gauge(
        "process_start_time_seconds",
        "Start of the process in seconds since the epoch.",
        stat.as_ref().and_then(|stat| Some(boot_time_seconds()? + stat.started_ticks / CLOCK_TICKS)),
    );
    gauge("process_open_fds", "Open file descriptors.", open_descriptors().map(|count| count as f64));
    gauge("process_max_fds", "Most file descriptors allowed.", descriptor_limit().map(|limit| limit as f64));
    gauge(
        "process_virtual_memory_max_bytes",
        "Most virtual memory allowed in bytes.",
        limit("Max address space").map(|limit| limit as f64),
    );
    gauge("go_threads", "Threads of the process.", stat.as_ref().map(|stat| stat.threads));
    let mut counter = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            out.value(name, Kind::Counter, help, &[], value);
        }
    };
    counter(
        "process_cpu_seconds_total",
        "User and system CPU time in seconds.",
        stat.map(|stat| stat.cpu_seconds),
    );
    let network = network_bytes();
    counter(
        "process_network_receive_bytes_total",
        "Bytes received in the network namespace of the process.",
        network.map(|(received, _)| received),
    );
    counter(
        "process_network_transmit_bytes_total",
        "Bytes sent in the network namespace of the process.",
        network.map(|(_, sent)| sent),
    );
}

/// File descriptors in use.
pub fn open_descriptors() -> Option<u64> {
    // The listing itself holds one.
    let count = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(count.saturating_sub(1))
}

/// The soft limit of file descriptors.
pub fn descriptor_limit() -> Option<u64> {
    limit("Max open files")
}

/// A soft limit; "unlimited" is the largest number.
fn limit(name: &str) -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with(name))?;
    match line[name.len()..].split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

struct Stat {
    cpu_seconds: f64,
    threads: f64,
    started_ticks: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let resident = fs::read_to_string("/proc/self/status").ok()?;
        let kib =
            resident.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?, kib.parse::<f64>().ok()? * 1024.0)
    }

    /// The program name in parentheses may hold anything, blanks and parentheses included.
    fn parse(text: &str, resident_bytes: f64) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / CLOCK_TICKS,
            threads: field(20)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_bytes,
        })
    }
}

fn boot_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Bytes received and sent over all interfaces.
fn network_bytes() -> Option<(f64, f64)> {
    let table = fs::read_to_string("/proc/self/net/dev").ok()?;
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    let mut total = (0.0, 0.0);
    for (_, numbers) in rows {
        let numbers: Vec<f64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        total.0 += numbers.first()?;
        total.1 += numbers.get(8)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_program_names_do_not_shift_fields() {
        let text = "42 (a) b) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 7 0 9900 4096000 25 0";
        let stat = Stat::parse(text, 102_400.0).unwrap();
        assert_eq!((stat.cpu_seconds, stat.threads, stat.started_ticks), (2.0, 7.0, 9900.0));
        assert_eq!((stat.virtual_bytes, stat.resident_bytes), (4_096_000.0, 102_400.0));
    }

    #[test]
    fn the_running_process_has_descriptors() {
        assert!(open_descriptors().unwrap() >= 3);
        assert!(descriptor_limit().unwrap() >= open_descriptors().unwrap());
    }
}
