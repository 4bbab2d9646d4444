//! What an orchestrator and the one that takes its place say to each other.
//!
//! The old one sends a [`Manifest`] with descriptors of everything that must not be closed in
//! between. The new one makes itself ready with them and says so, or why it cannot; told to go on,
//! it serves and says so. From then on the old one only finishes its connections; when it hangs up,
//! they have ended. Two versions may talk here: fields may be added with a default, none may change
//! its meaning.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use milter_proto::daemon::exit::EX_OSERR;
use milter_proto::daemon::{Bound, Failure, SocketFile};
use milter_proto::net::Address;
use serde::{Deserialize, Serialize};

use crate::supervisor::nursery::channel::{Channel, Watched};
use crate::supervisor::nursery::message::Identity;
use crate::supervisor::nursery::{Cradle, Share};

/// Everything that goes from one orchestrator to the next. Numbers are places among the descriptors
/// that come along.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// What the sockets of the next generations are to be distinguished by.
    number: u32,
    /// No mail is wanted for now.
    draining: bool,
    control: Option<Place>,
    /// Listeners whose socket files the old one has made; their sockets come by `LISTEN_FDS`.
    files: Vec<(String, Address)>,
    milters: Vec<(String, Place)>,
    nurseries: Vec<SharedNursery>,
}

/// A socket and where it is. There is none for a milter that binds its own.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    address: Address,
    socket: Option<usize>,
    /// Somebody answers there.
    #[serde(default)]
    ready: bool,
}

/// A nursery that both hold from now on.
#[derive(Debug, Serialize, Deserialize)]
struct SharedNursery {
    identity: Identity,
    active: usize,
    spare: Option<usize>,
}

/// What the old one says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHeir {
    /// This is all yours when you are ready.
    Manifest(Manifest),
    /// Serve.
    Go,
}

/// What the new one says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToPredecessor {
    /// Everything is there.
    Ready,
    /// It cannot be: why, for people.
    Failed(String),
    /// Connections are taken.
    Serving,
}

/// A manifest in the making.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    manifest: Manifest,
    descriptors: Vec<OwnedFd>,
}

impl Parcel {
    pub(super) fn new(number: u32, draining: bool) -> Self {
        Self {
            manifest: Manifest {
                number,
                draining,
                ..Manifest::default()
            },
            descriptors: Vec::new(),
        }
    }

    fn put(&mut self, descriptor: OwnedFd) -> usize {
        self.descriptors.push(descriptor);
        self.descriptors.len() - 1
    }

    /// A milter, with the socket that is handed to its processes.
    pub(super) fn milter(
        &mut self,
        name: &str,
        address: &Address,
        socket: Option<&Bound>,
        ready: bool,
    ) -> io::Result<()> {
        let socket = socket.map(Bound::duplicate).transpose()?;
        let place = Place {
            address: address.clone(),
            socket: socket.map(|socket| self.put(socket)),
            ready,
        };
        self.manifest.milters.push((name.to_owned(), place));
        Ok(())
    }

    /// The socket file of a listener.
    pub(super) fn file(&mut self, name: &str, address: &Address) {
        let file = (name.to_owned(), address.clone());
        self.manifest.files.push(file);
    }

    /// The control socket.
    pub(super) fn control(&mut self, address: Address, bound: &Bound) -> io::Result<()> {
        let socket = Some(self.put(bound.duplicate()?));
        self.manifest.control = Some(Place {
            address,
            socket,
            ready: true,
        });
        Ok(())
    }

    /// Nurseries that the new one shares.
    pub(super) fn nurseries(&mut self, shares: Vec<Share>) {
        for share in shares {
            let shared = SharedNursery {
                identity: share.identity,
                active: self.put(share.active),
                spare: share.spare.map(|spare| self.put(spare)),
            };
            self.manifest.nurseries.push(shared);
        }
    }

    /// Sends it.
    pub(super) fn send(self, channel: &Channel) -> io::Result<()> {
        let descriptors: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        channel.send(&ToHeir::Manifest(self.manifest), &descriptors)
    }
}

/// What a predecessor has left, and the way to it.
#[derive(Debug)]
pub(super) struct Heritage {
    manifest: Manifest,
    descriptors: Vec<Option<OwnedFd>>,
    channel: Watched,
}

impl Heritage {
    /// Waits for what the predecessor sends.
    pub(super) async fn receive(socket: OwnedFd) -> Result<Self, Failure> {
        let broken = |error: io::Error| {
            let message = format!("the orchestrator that we are to replace: {error}");
            Failure::new(EX_OSERR, message)
        };
        let channel = Channel::from(socket).watched().map_err(broken)?;
        match channel.receive().await.map_err(broken)? {
            Some((ToHeir::Manifest(manifest), descriptors)) => Ok(Self {
                manifest,
                descriptors: descriptors.into_iter().map(Some).collect(),
                channel,
            }),
            Some((ToHeir::Go, _)) | None => Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn take(&mut self, number: usize) -> Option<OwnedFd> {
        self.descriptors.get_mut(number).and_then(Option::take)
    }

    /// What the sockets of the next generations are to be distinguished by.
    pub(super) fn number(&self) -> u32 {
        self.manifest.number
    }

    /// Whether mail is wanted.
    pub(super) fn draining(&self) -> bool {
        self.manifest.draining
    }

    /// Where a milter is.
    pub(super) fn place(&self, name: &str) -> Option<&Address> {
        let mut milters = self.manifest.milters.iter();
        milters
            .find(|(one, _)| one == name)
            .map(|(_, place)| &place.address)
    }

    /// The milters that answer so far.
    pub(super) fn ready(&self) -> Vec<String> {
        let ready = self.manifest.milters.iter().filter(|(_, one)| one.ready);
        ready.map(|(name, _)| name.clone()).collect()
    }

    /// The socket of a milter, if it is the one at that place.
    pub(super) fn milter(&mut self, name: &str, address: &Address) -> Option<Bound> {
        let mut milters = self.manifest.milters.iter();
        let (_, place) = milters.find(|(one, place)| one == name && place.address == *address)?;
        let socket = place.socket?;
        let socket = self.take(socket)?;
        Some(Bound::taken_over(
            &format!("milter.{name}"),
            address,
            socket,
        ))
    }

    /// A listener, with the file that is ours to remove from now on, if any.
    pub(super) fn with_file(&self, mut bound: Bound) -> Bound {
        let mut files = self.manifest.files.iter();
        let file = files.find(|(one, _)| *one == bound.name);
        if let Some(path) = file.and_then(|(_, address)| address.path()) {
            bound.file = bound.file.or_else(|| Some(SocketFile::adopt(path)));
        }
        bound
    }

    /// The control socket, if it is the one at that place.
    pub(super) fn control(&mut self, address: &Address) -> Option<Bound> {
        let place = self.manifest.control.as_ref();
        let socket = place.filter(|place| place.address == *address)?.socket?;
        let socket = self.take(socket)?;
        Some(Bound::taken_over("control", address, socket))
    }

    /// The nurseries.
    pub(super) fn cradles(&mut self) -> Vec<Cradle> {
        let shared = std::mem::take(&mut self.manifest.nurseries);
        let shared = shared.into_iter().filter_map(|shared| {
            Some(Cradle::shared(Share {
                active: self.take(shared.active)?,
                spare: shared.spare.and_then(|spare| self.take(spare)),
                identity: shared.identity,
            }))
        });
        shared.collect()
    }

    /// The way to the predecessor.
    pub(super) fn into_channel(self) -> Watched {
        self.channel
    }

    /// Tells the predecessor why it has to stay.
    pub(super) fn fail(&self, failure: &Failure) {
        // If it does not hear that, it sees us end.
        let _ = self
            .channel
            .send(&ToPredecessor::Failed(failure.to_string()), &[]);
    }
}
