//! What memory is used for, by what it is mapped from.
//!
//! There is no record of who allocated what: keeping one would cost every allocation. The system's own
//! record is exact in sum, and tells the heap from the database's pages, the program and the stacks.
//!
//! **Source**: `proc_pid_smaps(5)`.

use std::collections::BTreeMap;

/// Memory of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// In memory now.
    pub resident_bytes: u64,
    /// Of that what cannot be read again from a file.
    pub dirty_bytes: u64,
}

/// Memory by what it is mapped from.
pub fn by_mapping() -> BTreeMap<String, Use> {
    parse(&std::fs::read_to_string("/proc/self/smaps").unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, Use> {
    let mut uses: BTreeMap<String, Use> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        let Some(field) = first.strip_suffix(':') else {
            // Range, rights, offset, device, inode, and perhaps what is mapped.
            name = match words.nth(4) {
                Some(path) => path.to_owned(),
                None => "[anonymous memory: heap and stacks of threads]".to_owned(),
            };
            continue;
        };
        let bytes = words.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024;
        let entry = uses.entry(name.clone()).or_default();
        match field {
            "Rss" => entry.resident_bytes += bytes,
            "Private_Dirty" | "Shared_Dirty" => entry.dirty_bytes += bytes,
            _ => {}
        }
    }
    uses.retain(|_, entry| entry.resident_bytes > 0);
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_a_name_are_summed() {
        let text = "55d0-55d1 r-xp 00000000 08:01 42  /usr/bin/etcd\nRss:  8 kB\nShared_Dirty: 0 kB\n\
                    7f00-7f01 rw-p 00000000 00:00 0 \nRss: 4 kB\nPrivate_Dirty: 4 kB\nVmFlags: rd wr\n\
                    7f02-7f03 rw-p 00000000 00:00 0 \nRss: 12 kB\nPrivate_Dirty: 8 kB\n\
                    7f04-7f05 rw-p 00000000 00:00 0 [vvar]\nRss: 0 kB\n";
        let uses = parse(text);
        assert_eq!(uses.len(), 2);
        assert_eq!(uses["/usr/bin/etcd"], Use { resident_bytes: 8192, dirty_bytes: 0 });
        let anonymous = uses.values().find(|entry| entry.dirty_bytes > 0).unwrap();
        assert_eq!(*anonymous, Use { resident_bytes: 16384, dirty_bytes: 12288 });
    }

    #[test]
    fn this_process_has_memory() {
        assert!(by_mapping().values().map(|entry| entry.resident_bytes).sum::<u64>() > 1 << 20);
    }
}
