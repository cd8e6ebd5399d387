//! Sizes for people.

/// A size in powers of 1000 as upstream's records print it: two digits below ten, none behind the
/// point from there on (`2.1 GB`, `29 kB`, `8 B`).
pub fn text(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog10() / 3) as usize;
    let scaled = bytes as f64 / 1000f64.powi(unit as i32);
    let rounded = (scaled * 10.0 + 0.5).floor() / 10.0;
    let digits = usize::from(rounded < 10.0);
    format!("{rounded:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn sizes_read_as_upstream_writes_them() {
        for (bytes, expected) in
            [(0, "0 B"), (9, "9 B"), (20_480, "20 kB"), (2_147_483_648, "2.1 GB"), (8_589_934_592, "8.6 GB")]
        {
            assert_eq!(text(bytes), expected);
        }
    }
}
