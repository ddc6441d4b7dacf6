//! What the operating system has accounted to a process.

use std::{fs, time::Duration};

/// CPU time of a process so far, user and system.
///
/// `/proc/PID/task/*/schedstat` counts nanoseconds; `/proc/PID/stat` counts in hundredths of a second, which is coarse
/// for a round of a second, and is read where the kernel keeps no scheduler statistics.
pub fn cpu(pid: u32) -> Duration {
    by_thread(pid).or_else(|| by_stat(pid)).unwrap_or_default()
}

/// CPU time so far of a process and of its children that live.
pub fn cpu_with_children(pid: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    cpu(pid) + children.map(cpu).sum::<Duration>()
}

fn by_thread(pid: u32) -> Option<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

fn by_stat(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; utime and stime are the 14th and 15th field, in ticks of 10 ms.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Resident memory of a process in MiB; the peak so far as the second number.
pub fn resident_mib(pid: u32) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let read = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    (read("VmRSS:").unwrap_or_default() / 1024.0, read("VmHWM:").unwrap_or_default() / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let pid = std::process::id();
        let before = cpu(pid);
        let mut sum = 0_u64;
        while cpu(pid) - before < Duration::from_millis(20) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(by_stat(pid).is_some());
        let (now, peak) = resident_mib(pid);
        assert!(now > 0.5 && peak >= now);
    }
}
