//! The nursery itself: a process with one thread that waits for its holders and its children.
//!
//! It ignores all signals that can be ignored, so as to outlive the orchestrator by the moment
//! that it takes to end the children. Being their parent it never mixes up process numbers: a child
//! keeps its own until it is reaped here.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use milter_proto::daemon::{Failure, become_user, exit::EX_OSERR};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{self, User};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::brood::{Brood, News};
use super::channel::Channel;
use super::exec::open_descriptors;
use super::message::{ChildId, Identity, Report, Request};

/// Name of the sub-command.
pub const NAME: &str = "nursery";

/// Arguments of the hidden sub-command.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Whom to become before anything else.
    #[arg(long)]
    user: Option<String>,
    /// The group, where it is not that of the user.
    #[arg(long, requires = "user")]
    group: Option<String>,
}

/// What starts a nursery that is the present user's, with its end of the socket.
pub(super) fn command(program: &Path, socket: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command
        .arg(NAME)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .process_group(0);
    command
}

/// The same for somebody else's.
pub(super) fn command_for(program: &Path, socket: OwnedFd, identity: &Identity) -> Command {
    let mut command = command(program, socket);
    if let Some(user) = &identity.user {
        command.arg(format!("--user={user}"));
    }
    if let Some(group) = &identity.group {
        command.arg(format!("--group={group}"));
    }
    command
}

/// Tends children until no holder is left, then ends them.
///
/// # Errors
/// When it cannot become the user, or the system refuses what it cannot do without. Whatever
/// happens to a socket counts as the end of that holder.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let profile = settle(arguments)?;
    let unusable = |error: io::Error| Failure::new(EX_OSERR, format!("nursery: {error}"));
    let mut nursery = Nursery::open(profile).map_err(unusable)?;
    while !nursery.holders.is_empty() {
        nursery.turn().map_err(unusable)?;
    }
    nursery.brood.end();
    Ok(())
}

/// Becomes the user for good; the variables that tell children who that is.
fn settle(arguments: &Arguments) -> Result<Vec<(&'static str, String)>, Failure> {
    let Some(name) = &arguments.user else {
        return Ok(Vec::new());
    };
    become_user(name, arguments.group.as_deref())?;
    let home = match User::from_name(name) {
        Ok(Some(user)) => user.dir.display().to_string(),
        Ok(None) | Err(_) => "/".to_owned(),
    };
    Ok(vec![
        ("USER", name.clone()),
        ("LOGNAME", name.clone()),
        ("HOME", home),
    ])
}

#[derive(Debug)]
struct Nursery {
    holders: Vec<Holder>,
    brood: Brood,
    /// Says when a child has ended.
    signals: SignalFd,
}

/// Somebody for whom the children live.
#[derive(Debug)]
struct Holder {
    channel: Channel,
    /// What it has not taken yet: a few reports for each child at most, since it is the holders who
    /// start them.
    waiting: VecDeque<News>,
    gone: bool,
}

/// What one look at everything has shown.
struct Seen {
    holders: Vec<PollFlags>,
    starting: Vec<ChildId>,
    ended: bool,
}

impl Nursery {
    fn open(profile: Vec<(&'static str, String)>) -> io::Result<Self> {
        // What our parent has left open is not ours.
        for fd in open_descriptors()?.into_iter().filter(|fd| *fd > 2) {
            let _ = unistd::close(fd);
        }
        prctl::set_no_new_privs()?;
        // Descendants that have lost their parents become ours, so that they can be ended.
        prctl::set_child_subreaper(true)?;
        // All of them: what is meant for the orchestrator may be sent to everybody of its name.
        SigSet::all().thread_block()?;
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let first = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self {
            holders: vec![Holder::new(first)],
            brood: Brood::new(profile),
            signals: SignalFd::with_flags(&ends, flags)?,
        })
    }

    /// Waits until something happens, and does what follows from it.
    fn turn(&mut self) -> io::Result<()> {
        let seen = self.look()?;
        for (index, flags) in seen.holders.into_iter().enumerate() {
            if flags.contains(PollFlags::OUT) {
                self.holders[index].flush();
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                self.listen(index);
            }
        }
        for child in seen.starting {
            if let Some(news) = self.brood.heard(child) {
                self.tell(&news);
            }
        }
        if seen.ended {
            while let Ok(Some(_)) = self.signals.read_signal() {}
            for news in self.brood.reap() {
                self.tell(&news);
            }
        }
        self.brood.hurry();
        self.holders.retain(|holder| !holder.gone);
        Ok(())
    }

    fn look(&self) -> io::Result<Seen> {
        let signals = self.signals.as_fd();
        let mut polled = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        for holder in &self.holders {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, !holder.waiting.is_empty());
            polled.push(PollFd::new(&holder.channel, flags));
        }
        let starting: Vec<_> = self.brood.starting().collect();
        for (_, control) in &starting {
            polled.push(PollFd::from_borrowed_fd(*control, PollFlags::IN));
        }
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        // Whoever starts is looked after now and then.
        let patience = (!starting.is_empty()).then_some(&second);
        match poll(&mut polled, patience) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut shown = polled.iter().map(PollFd::revents);
        let ended = shown.next().is_some_and(|flags| !flags.is_empty());
        let holders = shown.by_ref().take(self.holders.len()).collect();
        let starting = starting.iter().zip(shown);
        let starting = starting.filter(|(_, flags)| !flags.is_empty());
        Ok(Seen {
            ended,
            holders,
            starting: starting.map(|((id, _), _)| *id).collect(),
        })
    }

    /// Does what a holder asks.
    fn listen(&mut self, index: usize) {
        loop {
            match self.holders[index].channel.receive() {
                Ok(Some((request, descriptors))) => self.obey(request, descriptors),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What a newer orchestrator says and we do not understand.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => {
                    self.holders[index].gone = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        match request {
            Request::Start(id, start) => {
                if let Some(news) = self.brood.start(id, start, descriptors) {
                    self.tell(&news);
                }
            }
            Request::Signal(id, signal) => self.brood.signal(id, signal),
            Request::Sweep(groups) => self.brood.sweep(&groups),
            Request::Share => {
                for socket in descriptors {
                    self.share(socket);
                }
            }
            Request::Breed => {
                for socket in descriptors {
                    // The holder sees the socket close when there will be no other nursery.
                    let _ = self.brood.breed(socket);
                }
            }
        }
    }

    fn share(&mut self, socket: OwnedFd) {
        let mut holder = Holder::new(socket);
        for news in self.brood.all() {
            holder.tell(&news);
        }
        holder.tell(&Report::Told.into());
        self.holders.push(holder);
    }

    fn tell(&mut self, news: &News) {
        for holder in &mut self.holders {
            holder.tell(news);
        }
    }
}

impl Holder {
    fn new(socket: OwnedFd) -> Self {
        Self {
            channel: socket.into(),
            waiting: VecDeque::new(),
            gone: false,
        }
    }

    fn tell(&mut self, news: &News) {
        let pipes = news.pipes.iter();
        self.waiting.push_back(News {
            report: news.report.clone(),
            pipes: pipes.filter_map(|pipe| pipe.try_clone().ok()).collect(),
        });
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(news) = self.waiting.front() {
            let pipes: Vec<_> = news.pipes.iter().map(AsFd::as_fd).collect();
            match self.channel.send(&news.report, &pipes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // That it has gone shows when it is listened to.
                Ok(()) | Err(_) => self.waiting.pop_front(),
            };
        }
    }
}
