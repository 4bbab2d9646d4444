//! One end of the socket between a nursery and a holder: values and descriptors, a packet each.
//!
//! It never waits: what cannot be sent or received at once is `WouldBlock`. The other end's going
//! shows as `None`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
    recvmsg, sendmsg, shutdown, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Largest packet: a command with its arguments and variables.
const PACKET_MAX: usize = 128 << 10;

/// Descriptors in one packet (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// An end of such a socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends of a new one.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a value and duplicates of these descriptors.
    ///
    /// # Errors
    /// `WouldBlock` when the other end does not keep up, `BrokenPipe` when it is gone.
    pub fn send(&self, value: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.as_fd(), value, descriptors)
    }

    /// Takes the next value and its descriptors, of which some are missing when we may not have
    /// more open; `None` when the other end has hung up.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet, `InvalidData` when it is no such value.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        receive(self.0.as_fd())
    }

    /// The same within the runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn watched(self) -> io::Result<Watched> {
        // Any socket does: only its readiness is asked for.
        UnixDatagram::from_std(self.0.into()).map(Watched)
    }
}

/// An end that the runtime watches.
#[derive(Debug)]
pub struct Watched(UnixDatagram);

impl Watched {
    /// As [`Channel::send`].
    ///
    /// # Errors
    /// The same.
    pub fn send(&self, value: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(self.0.as_fd(), value, descriptors)
    }

    /// As [`Channel::receive`], and waits for it.
    ///
    /// # Errors
    /// The same, but for `WouldBlock`.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let next = || receive(self.0.as_fd());
        self.0.async_io(Interest::READABLE, next).await
    }

    /// Hangs up; what the other end has sent can still be received.
    pub fn hang_up(&self) {
        // It fails when the other end has done so already.
        let _ = shutdown(self.0.as_fd(), Shutdown::Write);
    }
}

fn send(
    socket: BorrowedFd<'_>,
    value: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let packet = serde_json::to_vec(value)?;
    if packet.len() > PACKET_MAX || descriptors.len() > DESCRIPTORS_MAX {
        let message = "a command with its variables, or its number of sockets, is too large";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(&packet)], &mut control, flags)?;
    Ok(())
}

fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut packet = vec![0; PACKET_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut packet)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    );
    let received = match received.map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        received => received?,
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    // Descriptors for which we have no room (CTRUNC) are missing; the value counts all the same.
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let value = serde_json::from_slice(&packet[..received.bytes])?;
    Ok(Some((value, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::super::message::{ChildId, Request, Start};
    use super::*;

    #[test]
    fn values_arrive_one_by_one_with_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let (read, write) = io::pipe().unwrap();
        let start = Start {
            name: "good".to_owned(),
            command: vec!["x".repeat(100_000)],
            ..Start::default()
        };
        let first = Request::Start(ChildId(1), start);
        one.send(&first, &[write.as_fd()]).unwrap();
        one.send(&Request::Breed, &[]).unwrap();
        drop(write);

        let (got, mut descriptors) = other.receive::<Request>().unwrap().unwrap();
        assert_eq!((got, descriptors.len()), (first, 1));
        let mut pipe = File::from(descriptors.remove(0));
        pipe.write_all(b"through").unwrap();
        drop(pipe);
        let mut said = String::new();
        File::from(OwnedFd::from(read))
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "through");

        let (got, descriptors) = other.receive::<Request>().unwrap().unwrap();
        assert_eq!((got, descriptors.len()), (Request::Breed, 0));
        let nothing = other.receive::<Request>().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_sent_before_hanging_up_arrives() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&Request::Breed, &[]).unwrap();
        shutdown(&one, Shutdown::Write).unwrap();
        assert!(other.receive::<Request>().unwrap().is_some());
        assert!(other.receive::<Request>().unwrap().is_none());
        other.send(&Request::Breed, &[]).unwrap();
        assert!(one.receive::<Request>().unwrap().is_some());
        drop(one);
        assert!(other.send(&Request::Breed, &[]).is_err());
    }

    #[test]
    fn what_is_too_large_is_refused_and_what_is_no_value_is_an_error() {
        let (one, other) = Channel::pair().unwrap();
        let large = vec!["x".repeat(PACKET_MAX)];
        assert!(one.send(&large, &[]).is_err());
        one.send(&"rubbish", &[]).unwrap();
        let error = other.receive::<Request>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_end_that_does_not_keep_up_makes_nobody_wait() {
        let (one, _other) = Channel::pair().unwrap();
        let error = loop {
            if let Err(error) = one.send(&Request::Breed, &[]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
