//! Processor time of a process and its children, the ended ones included, from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What a process and all of its descendants have used so far. What a child has used before it
/// ended is in its parent's account once it has been waited for.
pub(super) fn of_tree(root: Pid) -> Result<Duration> {
    let all = processes()?;
    let mut ticks = 0;
    let mut open = vec![root.as_raw()];
    while let Some(pid) = open.pop() {
        ticks += all
            .iter()
            .filter(|one| one.pid == pid)
            .map(|one| one.ticks)
            .sum::<u64>();
        open.extend(
            all.iter()
                .filter(|one| one.parent == pid)
                .map(|one| one.pid),
        );
    }
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// A process, all of its descendants, in no order.
pub(super) fn tree(root: Pid) -> Result<Vec<Pid>> {
    let all = processes()?;
    let mut found = vec![root.as_raw()];
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        found.extend(
            all.iter()
                .filter(|one| one.parent == pid)
                .map(|one| one.pid),
        );
        at += 1;
    }
    Ok(found.into_iter().map(Pid::from_raw).collect())
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub(super) fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse(&stat).is_some_and(|process| process.state != "Z")
}

/// A line of `/proc/PID/stat`.
struct Process {
    pid: i32,
    state: String,
    parent: i32,
    /// User and system time, its own and of children that have been waited for.
    ticks: u64,
}

fn processes() -> Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        all.extend(parse(&stat));
    }
    Ok(all)
}

/// proc_pid_stat(5). The name may hold anything but ends with the last bracket.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks: Option<u64> = fields
        .get(11..15)?
        .iter()
        .map(|one| one.parse::<u64>().ok())
        .sum();
    Some(Process {
        pid: pid.parse().ok()?,
        state: (*fields.first()?).to_owned(),
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 99";
        let process = parse(line).unwrap();
        let read = (process.pid, process.parent, process.ticks);
        assert_eq!(read, (7, 3, 100));
        assert_eq!(process.state, "S");
        assert!(parse("").is_none());
        assert!(is_alive(Pid::this()));
        assert!(tree(Pid::this()).unwrap().contains(&Pid::this()));
    }
}
