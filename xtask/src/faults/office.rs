//! What all faults share: a private Postfix, the next hop behind it, configured filters of ours,
//! and the port between Postfix and whatever orchestrator a fault starts there.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tempfile::TempDir;

use super::flow::Sent;
use super::ledger::{Ledger, Mark};
use crate::interrupt::Interrupt;
use crate::postfix::{DOMAIN, HOSTNAME, Postfix, free_port};
use crate::smtp::sink::{Delivered, Sink};
use crate::stack::Site;

/// How long Postfix may take to pass on what it has taken.
const DELIVERY: Duration = Duration::from_secs(60);

/// What all faults share. The order is that in which it ends.
pub(super) struct Office {
    postfix: Postfix,
    sink: Sink,
    /// The filters of ours, configured.
    pub(super) site: Site,
    /// Where Postfix looks for its milter.
    pub(super) milter: SocketAddr,
    /// The key of the marks: of this run alone.
    pub(super) key: String,
    /// Ctrl-C.
    pub(super) interrupt: Interrupt,
    /// In memory where that can be had: the disk is not what is tried here.
    queue: TempDir,
    folder: TempDir,
}

impl Office {
    /// Starts it all but the orchestrator, with copies of `programs` that any account can run.
    pub(super) fn open(built: &Path, programs: &[&str], interrupt: &Interrupt) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("faults-").tempdir()?;
        let in_memory = tempfile::Builder::new()
            .prefix("faults-")
            .tempdir_in("/dev/shm");
        let queue = in_memory.or_else(|_| tempfile::tempdir())?;
        for folder in [&folder, &queue] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        }
        let binaries = folder.path().join("bin");
        fs::create_dir(&binaries)?;
        for program in programs {
            fs::copy(built.join(program), binaries.join(program))?;
        }
        let port = free_port()?;
        let site = Site {
            folder: folder.path().to_owned(),
            binaries,
            listen: format!("inet:{port}@127.0.0.1"),
            clamd: None,
            closed_as: Some(HOSTNAME.to_owned()),
            domain: DOMAIN.to_owned(),
        };
        site.furnish()?;
        let sink = Sink::start()?;
        let milter = format!("inet:127.0.0.1:{port}");
        let postfix = Postfix::start(queue.path(), &milter, sink.address(), interrupt)?;
        let key = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        Ok(Self {
            postfix,
            sink,
            site,
            milter: SocketAddr::from(([127, 0, 0, 1], port)),
            key: format!("{key:x}"),
            interrupt: interrupt.clone(),
            queue,
            folder,
        })
    }

    /// Leaves the folders behind, and says where they are.
    pub(super) fn keep(&mut self) {
        for folder in [&mut self.folder, &mut self.queue] {
            folder.disable_cleanup(true);
            eprintln!("kept: {}", folder.path().display());
        }
    }

    /// Where mail is sent to.
    pub(super) fn server(&self) -> SocketAddr {
        self.postfix.address()
    }

    /// An empty folder for a fault, which the filters' account can write to below `state`.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Waits until everything that was taken has been passed on; what that is.
    pub(super) fn delivered(&self) -> Result<Vec<Delivered>> {
        let waited = self.interrupt.until("the queue is empty", DELIVERY, || {
            Ok(self.postfix.queued()? == 0)
        });
        self.interrupt.check()?;
        // What stays in the queue is counted as lost.
        drop(waited);
        Ok(self.sink.delivered())
    }

    /// What became of these letters.
    pub(super) fn account(&self, sent: &[Sent], marks: &[Mark]) -> Result<Ledger> {
        Ok(Ledger::of(sent, &self.delivered()?, &self.key, marks))
    }

    /// Forgets what has been delivered: the next fault has letters of its own.
    pub(super) fn settle(&self) -> Result<()> {
        self.delivered()?;
        self.sink.forget();
        Ok(())
    }
}
