//! The process itself in numbers, as far as `/proc` lets us see it. What cannot be read is left
//! out.

use std::fs;

use super::Exposition;

/// Parts of a second in which the kernel counts processor time (`USER_HZ`, the same everywhere).
const TICKS: f64 = 100.0;

/// What `/proc/self` tells.
pub(super) fn measure(page: &mut Exposition) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref() {
        // Behind the name, which may hold anything: the state is the third field.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let field = |number: usize| fields.split(' ').nth(number - 3)?.parse::<f64>().ok();
        if let (Some(user), Some(system)) = (field(14), field(15)) {
            page.counter("process_cpu_seconds", "Processor time, in seconds.")
                .sample(&[], (user + system) / TICKS);
        }
        if let Some(threads) = field(20) {
            page.gauge("process_threads", "Threads.")
                .sample(&[], threads);
        }
        if let (Some(started), Some(boot)) = (field(22), boot_time()) {
            page.gauge(
                "process_start_time_seconds",
                "Start of the process, in seconds since 1970.",
            )
            .sample(&[], boot + started / TICKS);
        }
    }
    if let Some(bytes) = resident() {
        page.gauge("process_resident_memory_bytes", "Memory in use, in bytes.")
            .sample(&[], bytes);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let open = u64::try_from(entries.count()).unwrap_or(u64::MAX);
        page.gauge("milter_fds_open", "Open file descriptors.")
            // The one that counts them is among them.
            .sample(&[], open.saturating_sub(1));
    }
    if let Some(most) = descriptors_max() {
        page.gauge("milter_fds_max", "File descriptors that may be open.")
            .sample(&[], most);
    }
}

/// When the system started.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn descriptors_max() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
