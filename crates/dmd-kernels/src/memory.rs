//! Memory of the host in bytes, where the system reports it: Linux does.

use std::fs;

/// What this process holds now.
pub fn resident() -> Option<u64> {
    reported("/proc/self/status", "VmRSS:")
}

/// The most that this process has held.
pub fn peak() -> Option<u64> {
    reported("/proc/self/status", "VmHWM:")
}

/// What a new program can have.
pub fn available() -> Option<u64> {
    reported("/proc/meminfo", "MemAvailable:")
}

/// What the machine has.
pub fn total() -> Option<u64> {
    reported("/proc/meminfo", "MemTotal:")
}

/// The number of kibibytes after a name in one of the system's tables.
fn reported(table: &str, name: &str) -> Option<u64> {
    let table = fs::read_to_string(table).ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_in_order() {
        let found = [resident(), peak(), available(), total()];
        if cfg!(target_os = "linux") {
            assert!(found.iter().all(Option::is_some), "{found:?}");
        }
        let [resident, peak, available, total] = found;
        assert!(resident <= peak && peak < total && available <= total, "{found:?}");
    }
}
