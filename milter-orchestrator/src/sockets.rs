//! The sockets that the orchestrator binds besides its listeners: one for each child, and control.
//!
//! Children's sockets stay ours for as long as we run, so that connections queue while a child
//! restarts. Those without a place of their own live in a private directory. Failures name the
//! place and what to do.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use milter_proto::daemon::config::{FileMode, Listener};
use milter_proto::daemon::exit::{EX_CANTCREAT, EX_NOPERM, EX_OSERR};
use milter_proto::daemon::{Bound, Failure, Socket, bind_one};
use milter_proto::net::Address;
use nix::unistd::Uid;
use tokio::net::UnixListener;

use crate::blueprint::Blueprint;
use crate::member::Member;

/// Sockets that only we connect to.
const OURS_ALONE: FileMode = FileMode::from_bits(0o600);

/// Makes sure that there is a directory for private sockets, where any are needed.
pub(crate) fn prepare(blueprint: &Blueprint) -> Result<(), Failure> {
    if blueprint.milters.iter().any(|plan| plan.private) {
        ensure_private(&blueprint.directory)?;
    }
    Ok(())
}

/// Binds the socket that a child is to be handed. In our own directory, where there is nobody but
/// us (the control socket tells), whatever is at a private place is from before, even if children
/// of then are not quite gone.
pub(crate) fn for_child(member: &Member, private: bool) -> Result<Bound, Failure> {
    let name = format!("milter.{}", member.name);
    if let Some(path) = member.address.path().filter(|_| private) {
        // Where it cannot be removed, binding says why.
        let _ = fs::remove_file(path);
    }
    let bound = bind_one(&Listener {
        section: name.clone(),
        name,
        socket: member.address.clone(),
        mode: OURS_ALONE,
        group: None,
    })?;
    make_blocking(&bound)?;
    Ok(bound)
}

/// A child that knows nothing of non-blocking sockets must be able to wait in accept(2). Not while
/// a child has it: the two share that property.
pub(crate) fn make_blocking(bound: &Bound) -> Result<(), Failure> {
    let made = match &bound.socket {
        Socket::Tcp(tcp) => tcp.set_nonblocking(false),
        Socket::Unix(unix) => unix.set_nonblocking(false),
    };
    made.map_err(|error| unusable(bound, &error))
}

/// The socket of a child, to be given away.
pub(crate) fn to_hand_over(bound: &Bound) -> Result<OwnedFd, Failure> {
    bound.duplicate().map_err(|error| unusable(bound, &error))
}

fn unusable(bound: &Bound, error: &io::Error) -> Failure {
    Failure::new(EX_OSERR, format!("{}: {error}", bound.address))
}

/// Binds the control socket.
pub(crate) fn control(path: &Path) -> Result<Bound, Failure> {
    bind_one(&Listener {
        name: "control".to_owned(),
        section: "control".to_owned(),
        socket: Address::Unix(path.to_owned()),
        mode: OURS_ALONE,
        group: None,
    })
}

/// The control socket, as part of the runtime; `bound` keeps it and its file.
pub(crate) fn listen(bound: &Bound) -> Result<UnixListener, Failure> {
    let unusable = |error: io::Error| unusable(bound, &error);
    match bound.socket.try_clone().map_err(unusable)? {
        Socket::Unix(unix) => UnixListener::from_std(unix).map_err(unusable),
        Socket::Tcp(_) => Err(unusable(io::ErrorKind::InvalidInput.into())),
    }
}

/// Makes a directory that only we can look into, or makes sure that it is one.
fn ensure_private(directory: &Path) -> Result<(), Failure> {
    let shown = directory.display();
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    made.map_err(|error| {
        let message = format!(
            "{shown}: cannot be created: {error}; create it for the user that we run as (systemd: \
             RuntimeDirectory=), or set another [supervisor] directory"
        );
        Failure::new(EX_CANTCREAT, message)
    })?;
    let meta = fs::symlink_metadata(directory)
        .map_err(|error| Failure::new(EX_CANTCREAT, format!("{shown}: {error}")))?;
    let private = meta.is_dir() && meta.uid() == Uid::effective().as_raw();
    if private && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        EX_NOPERM,
        format!(
            "{shown}: it must be a directory of our own user and closed to all others; run \
             `chmod 0700 {shown}` and `chown` it to user {}, or set another [supervisor] directory",
            Uid::effective()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_directory_is_made_private_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("a/b");
        ensure_private(&new).unwrap();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o700);
        ensure_private(&new).unwrap();

        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        let error = ensure_private(&new).unwrap_err();
        assert!(error.message.contains("chmod 0700"), "{error}");

        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = ensure_private(&file).unwrap_err();
        assert!(error.message.contains("cannot be created"), "{error}");
    }
}
