//! Root is given up once the sockets are bound, for good: group list, group and user are set and
//! it is verified that none comes back. No core dumps, no new privileges through exec.
//!
//! Runs before the runtime has threads. Any failure ends the program: serving with more rights
//! than configured is worse than not serving.

use std::ffi::CString;

use nix::sys::prctl;
use nix::unistd::{self, Gid, Group, Uid, User};
use tracing::{info, warn};

use super::Failure;
use super::config::Common;
use super::exit::{EX_NOUSER, EX_OSERR};

/// Becomes the configured user, and hardens the process.
pub(crate) fn settle(common: &Common) -> Result<(), Failure> {
    match (unistd::geteuid().is_root(), common.user.as_deref()) {
        (true, Some(user)) => become_user(user, common.group.as_deref())?,
        (true, None) => {
            warn!("running as root: set `user` in the configuration to an account without rights");
        }
        (false, Some(user)) if user != current_user() => {
            warn!(
                user,
                running_as = current_user(),
                "not started as root, so `user` has no effect"
            );
        }
        (false, _) => {}
    }
    harden();
    Ok(())
}

/// The name of the effective user, or its number where it has none.
#[must_use]
pub fn current_user() -> String {
    let uid = unistd::geteuid();
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// The group of that name, or of that number.
pub(crate) fn group(name: &str) -> Result<Gid, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(no_such("group", name, "groupadd --system")),
        Err(error) => Err(system(&format!("looking up group {name}"), error)),
    }
}

/// The user of that name.
pub(crate) fn user(name: &str) -> Result<User, Failure> {
    User::from_name(name)
        .map_err(|error| system(&format!("looking up user {name}"), error))?
        .ok_or_else(|| no_such("user", name, "useradd --system"))
}

/// Becomes a user for good: group list, group (the user's own without `group_name`), user. Needs
/// root; all threads become that user.
///
/// # Errors
/// When there is no such user or group, or what was given up could be had again.
pub fn become_user(name: &str, group_name: Option<&str>) -> Result<(), Failure> {
    let user = user(name)?;
    let gid = group_name.map_or(Ok(user.gid), group)?;
    let c_name = CString::new(name).map_err(|_| no_such("user", name, "useradd --system"))?;
    // In this order: without root neither of the first two is allowed any more.
    unistd::initgroups(&c_name, gid).map_err(|error| system("initgroups", error))?;
    unistd::setgid(gid).map_err(|error| system("setgid", error))?;
    unistd::setuid(user.uid).map_err(|error| system("setuid", error))?;
    verify(user.uid, gid)?;
    info!(
        user = name,
        uid = user.uid.as_raw(),
        gid = gid.as_raw(),
        "root given up"
    );
    Ok(())
}

/// Root must not come back: neither the real, the effective nor the saved ids may hold it.
fn verify(uid: Uid, gid: Gid) -> Result<(), Failure> {
    if uid.is_root() {
        warn!("the configured user is root itself");
        return Ok(());
    }
    let regained = unistd::setuid(Uid::from_raw(0)).is_ok()
        || unistd::seteuid(Uid::from_raw(0)).is_ok()
        || (gid.as_raw() != 0 && unistd::setgid(Gid::from_raw(0)).is_ok());
    if regained || unistd::geteuid() != uid || unistd::getegid() != gid {
        return Err(Failure::new(
            EX_OSERR,
            "root could be regained after giving it up",
        ));
    }
    Ok(())
}

/// Mail and keys are in memory: no core dumps, no debugger of the same user, nothing gained by
/// exec.
fn harden() {
    if let Err(error) = prctl::set_dumpable(false) {
        warn!(%error, "core dumps cannot be switched off");
    }
    if let Err(error) = prctl::set_no_new_privs() {
        warn!(%error, "no_new_privs cannot be set");
    }
}

fn no_such(kind: &str, name: &str, create: &str) -> Failure {
    Failure::new(
        EX_NOUSER,
        format!(
            "{kind} {name:?} does not exist: create it with `{create} {name}`, or name another"
        ),
    )
}

fn system(what: &str, error: nix::Error) -> Failure {
    Failure::new(EX_OSERR, format!("{what}: {}", error.desc()))
}
