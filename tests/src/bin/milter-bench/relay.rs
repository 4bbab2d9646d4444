//! The limit of what anything between an MTA and a filter can reach: bytes are copied from one
//! socket to the other by threads that wait in the system, and nobody looks at them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::thread;

use anyhow::{Context, Result, bail};
use milter_proto::net::Address;

use crate::mta::Socket;

/// Bytes that are read at a time.
const BUFFER: usize = 128 * 1024;

/// Relays until the process is ended.
pub(crate) fn run(listen: &Address, target: &Address) -> Result<()> {
    match listen {
        Address::Unix(path) => {
            let listener = UnixListener::bind(path)?;
            for stream in listener.incoming() {
                begin(Socket::Unix(stream?), target)?;
            }
        }
        Address::Inet { host, port } => {
            let listener = TcpListener::bind((host.as_str(), *port))?;
            for stream in listener.incoming() {
                let stream = stream?;
                stream.set_nodelay(true)?;
                begin(Socket::Inet(stream), target)?;
            }
        }
    }
    bail!("no more connections come")
}

/// Two threads, one for each direction.
fn begin(near: Socket, target: &Address) -> Result<()> {
    let far = Socket::connect(target).context("the filter cannot be reached")?;
    let (from, to) = (near.again()?, far.again()?);
    thread::spawn(move || copy(from, to));
    thread::spawn(move || copy(far, near));
    Ok(())
}

/// Copies until either side closes, which is then told to the other.
fn copy(mut from: Socket, mut to: Socket) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let ended = loop {
        match from.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(length) => match to.write_all(&buffer[..length]) {
                Ok(()) => {}
                Err(error) => break Err(error),
            },
            Err(error) => break Err(error),
        }
    };
    // One that is gone already need not be told.
    let _ = to.shutdown(Shutdown::Write);
    ended
}
