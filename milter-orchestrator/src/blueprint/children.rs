//! What must hold of the keys of `[milter.NAME]` that are about its process: whom it runs as, and
//! how much of everything it may have. Users and groups are looked up, nothing else is touched.

use milter_proto::daemon::config::Size;
use milter_proto::daemon::{ConfigError, current_user};
use nix::unistd::{Group, Uid, User};

use super::{Mistakes, Source};
use crate::config::{self, Settings};
use crate::supervisor::keeper::Plan;
use crate::supervisor::nursery::message::{Identity, Limits};

/// Memory without which no program starts.
const MEMORY_MIN: u64 = 1 << 20;

/// Descriptors without which no filter can work.
const OPEN_FILES_MIN: u64 = 16;

/// The largest niceness.
const NICE_MAX: u8 = 19;

/// Notes what is wrong.
pub(super) fn check(section: &str, milter: &config::Milter, mistakes: &mut Mistakes) {
    let at = |key: &str, message: &str| ConfigError::at(format!("{section}.{key}"), message);
    if milter.command.is_empty() {
        for (key, given) in [
            ("user", milter.user.is_some()),
            ("group", milter.group.is_some()),
            ("memory", milter.memory.is_some()),
            ("open_files", milter.open_files.is_some()),
            ("nice", milter.nice > 0),
        ] {
            if given {
                let mistake = at(key, "there is no command that it could hold for");
                mistakes.note(mistake.help("leave it out: the milter is somebody else's"));
            }
        }
        return;
    }
    check_identity(section, milter, mistakes);
    if milter
        .memory
        .is_some_and(|memory| memory.get() < MEMORY_MIN)
    {
        let mistake = at("memory", "no program starts with so little");
        mistakes.note(mistake.help("write \"512MB\", say"));
    }
    if milter
        .open_files
        .is_some_and(|files| files < OPEN_FILES_MIN)
    {
        let mistake = at("open_files", "no filter can work with so few");
        mistakes.note(mistake.help("write 1024, say"));
    }
    if milter.nice > NICE_MAX {
        let mistake = at("nice", &format!("{} is beyond what there is", milter.nice));
        mistakes.note(mistake.help("write a number from 0 to 19"));
    }
}

fn check_identity(section: &str, milter: &config::Milter, mistakes: &mut Mistakes) {
    let at = |key: &str, message: &str| ConfigError::at(format!("{section}.{key}"), message);
    match (&milter.user, &milter.group) {
        (None, Some(_)) => {
            let mistake = at("group", "a group needs a `user`");
            mistakes.note(mistake.help("add user = \"NAME\""));
        }
        // A directory of users that does not answer is no mistake of the file.
        (Some(user), _) if matches!(User::from_name(user), Ok(None)) => {
            let mistake = at("user", &format!("there is no user {user:?}"));
            let help = format!("create it with `useradd --system {user}`, or name another");
            mistakes.note(mistake.help(help));
        }
        _ => {}
    }
    if let Some(group) = &milter.group
        && group.parse::<u32>().is_err()
        && matches!(Group::from_name(group), Ok(None))
    {
        let mistake = at("group", &format!("there is no group {group:?}"));
        let help = format!("create it with `groupadd --system {group}`, or name another");
        mistakes.note(mistake.help(help));
    }
}

/// What is odd of users: none can be had without root.
pub(super) fn warnings(settings: &Settings) -> Vec<ConfigError> {
    let odd = settings.milter.iter().filter_map(|(name, milter)| {
        let user = identity(milter).user?;
        let message = format!(
            "we run as {:?} and cannot run a command as {user:?}: start as root, and name a \
             `user` in [process] to give that up",
            current_user()
        );
        Some(ConfigError::at(format!("milter.{name}.user"), message))
    });
    if Uid::effective().is_root() {
        return Vec::new();
    }
    odd.collect()
}

/// Whose a milter is.
pub(super) fn source(milter: &config::Milter) -> Source {
    if milter.command.is_empty() {
        return Source::Foreign;
    }
    let plan = Plan {
        command: milter.command.clone(),
        environment: milter.environment.clone(),
        directory: milter.directory.clone(),
        identity: identity(milter),
        limits: Limits {
            memory: milter.memory.map(Size::get),
            open_files: milter.open_files,
            nice: (milter.nice > 0).then_some(milter.nice),
        },
        start_timeout: milter.start_timeout.get(),
        stop_timeout: milter.stop_timeout.get(),
    };
    if milter.binds_itself {
        Source::BindsItself(plan)
    } else {
        Source::HandOver(plan)
    }
}

/// Whom it runs as. Without root, to name our own user is to name nobody.
fn identity(milter: &config::Milter) -> Identity {
    let ours = !Uid::effective().is_root()
        && milter.group.is_none()
        && milter.user.as_deref() == Some(&*current_user());
    if ours {
        return Identity::default();
    }
    Identity {
        user: milter.user.clone(),
        group: milter.group.clone(),
    }
}
