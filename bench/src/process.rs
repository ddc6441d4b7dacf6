//! What the operating system has accounted to a process.

use std::{fs, time::Duration};

/// CPU time of a process so far, user and system.
///
/// `/proc/PID/task/*/schedstat` counts nanoseconds; `/proc/PID/stat` counts in hundredths of a second, which is coarse
/// for a round of a second, and is read where the kernel keeps no scheduler statistics.
pub fn cpu(pid: u32) -> Duration {
    by_thread(pid).or_else(|| by_stat(pid)).unwrap_or_default()
}

/// CPU time so far of a process and of its children, those that have ended included.
pub fn cpu_with_children(pid: u32) -> Duration {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    // The 16th and 17th field: children that the process has waited for.
    cpu(pid) + children.map(cpu).sum::<Duration>() + stat(pid, 13).unwrap_or_default()
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
    // The 14th and 15th field: user and system time.
    stat(pid, 11)
}

/// The sum of two fields of `/proc/PID/stat` behind the name, in ticks of 10 ms.
fn stat(pid: u32, first: usize) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces.
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(first)?.parse::<u64>().ok()? + fields.get(first + 1)?.parse::<u64>().ok()?;
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
    fn children_that_have_ended_count() {
        let pid = std::process::id();
        let before = cpu_with_children(pid);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"])
            .spawn()
            .unwrap();
        let child_pid = child.id();
        child.wait().unwrap();
        assert!(!std::path::Path::new(&format!("/proc/{child_pid}")).exists());
        let own = cpu(pid);
        assert!(stat(pid, 13).unwrap() >= Duration::from_millis(20) && cpu_with_children(pid) > before.max(own));
    }

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
