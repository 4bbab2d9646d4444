//! What the orchestrator gives up for itself once it runs: to execute anything, to write anywhere
//! but where its sockets and its spool are, to signal anybody else, and system calls that it has
//! no use for.
//!
//! Its nurseries are started before and keep what they need; they execute the commands of the
//! configuration, and the next binary of an upgrade. What has gone wrong in the process that reads
//! mail from outside cannot execute or write anything by a system call of its own. It is no wall
//! against somebody who knows the nurseries and speaks to them over the sockets that are open here:
//! they start what they are asked to, with the rights of a filter's user. Reading is not restricted
//! either, since a new configuration may name any list or file; both are for the unit, and for the
//! users that we and the filters run as.
//!
//! What the kernel does not offer is logged once and is no failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictSelfAttr,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};
use nix::libc;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::config::Settings;

/// The newest rights that are asked for; older kernels know fewer of them.
const RIGHTS: ABI = ABI::V6;

/// Calls that start programs or processes, look into others, or change the machine. They fail with
/// `EPERM`.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_mknodat,
];

/// Calls of this processor alone.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
/// Calls of this processor alone.
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
enum Unavailable {
    #[error("{0}")]
    Landlock(#[from] RulesetError),
    #[error("{0}")]
    Compile(#[from] seccompiler::BackendError),
    #[error("{0}")]
    Install(#[from] seccompiler::Error),
}

/// Where the orchestrator may write, and what it does there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Directories of sockets, which come and go.
    sockets: BTreeSet<PathBuf>,
    /// Directories of files without a name.
    spools: BTreeSet<PathBuf>,
}

impl Places {
    /// Those of a configuration.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let listeners = settings.listen.values().map(|listen| &listen.socket);
        let spawned = settings
            .milter
            .values()
            .filter(|milter| !milter.command.is_empty());
        let milters = spawned.filter_map(|milter| milter.socket.as_ref());
        let control = [&settings.control.socket];
        let sockets = listeners
            .chain(milters)
            .chain(control)
            .chain(&settings.metrics.socket);
        let folders = sockets.filter_map(|address| address.path()?.parent());
        let mut sockets: BTreeSet<PathBuf> = folders.map(Path::to_owned).collect();
        sockets.insert(settings.supervisor.directory.clone());
        Self {
            sockets,
            spools: BTreeSet::from([settings.limits.spool_directory.clone()]),
        }
    }

    /// What may be done in each of them.
    fn rights(&self) -> BTreeMap<&Path, BitFlags<AccessFs>> {
        let sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
        let spools =
            AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
        let mut rights = BTreeMap::new();
        for (folders, right) in [(&self.sockets, sockets), (&self.spools, spools)] {
            for folder in folders {
                *rights.entry(&**folder).or_insert(BitFlags::EMPTY) |= right;
            }
        }
        rights.insert(Path::new("/dev/null"), AccessFs::WriteFile.into());
        rights
    }
}

/// Gives up what is not needed, as the configuration says. For good: no thread or process that
/// comes from this one gets it back.
pub fn enter(settings: &Settings) {
    if settings.sandbox.landlock {
        match landlock(&Places::of(settings)) {
            Ok(status) => match status.ruleset {
                RulesetStatus::FullyEnforced => tracing::debug!("Landlock: in force"),
                RulesetStatus::PartiallyEnforced => {
                    tracing::info!("Landlock: in force as far as this kernel knows it");
                }
                RulesetStatus::NotEnforced => tracing::warn!(
                    "Landlock: this kernel does not offer it; what we may write to and execute is \
                     up to the user that we run as"
                ),
            },
            Err(error) => tracing::warn!(%error, "Landlock: not in force"),
        }
    }
    if settings.sandbox.seccomp
        && let Err(error) = seccomp()
    {
        tracing::warn!(%error, "seccomp: not in force");
    }
}

fn landlock(places: &Places) -> Result<RestrictionStatus, Unavailable> {
    let handled = AccessFs::from_write(RIGHTS) | AccessFs::Execute;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .scope(Scope::Signal)?
        .create()?;
    for (folder, rights) in places.rights() {
        // What is not there yet cannot be named; what is put there later cannot be written to.
        if let Ok(folder) = PathFd::new(folder) {
            rules = rules.add_rule(PathBeneath::new(folder, rights))?;
        }
    }
    Ok(rules.all_threads(true)?.restrict_self()?)
}

/// Two filters, since each knows one answer: no to what is never needed; and that `clone3` does not
/// exist, whose arguments cannot be looked at, so that the C library makes its threads with
/// `clone`, whose can.
fn seccomp() -> Result<(), Unavailable> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refused = REFUSED.iter().chain(REFUSED_HERE);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        refused.map(|call| (*call, Vec::new())).collect();
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let process = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(thread),
        0,
    )?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![process])?]);
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (rules, errno) in [(missing, libc::ENOSYS), (rules, libc::EPERM)] {
        let errno = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?;
        let program: seccompiler::BpfProgram = filter.try_into()?;
        apply_filter_all_threads(&program)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_may_come_and_go_where_they_are_configured_and_nothing_else_be_written() {
        let mut settings = Settings::default();
        settings.control.socket = "unix:/run/x/control.sock".parse().unwrap();
        settings.supervisor.directory = "/run/x/children".into();
        settings.limits.spool_directory = "/var/spool/x".into();
        let places = Places::of(&settings);
        let rights = places.rights();
        let folders: Vec<&str> = rights.keys().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            folders,
            ["/dev/null", "/run/x", "/run/x/children", "/var/spool/x"]
        );
        for (folder, right) in rights {
            assert!(!right.contains(AccessFs::Execute), "{}", folder.display());
            let writes = right.contains(AccessFs::WriteFile);
            assert_eq!(writes, !folder.starts_with("/run"), "{}", folder.display());
        }
    }
}
