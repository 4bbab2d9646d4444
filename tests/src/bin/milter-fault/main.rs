//! The filter that `cargo xtask faults` does harm to and with: it marks every message that it has
//! seen whole, and otherwise does what it is told to do wrong.
//!
//! The mark is a header field `X-Seen-NAME` with a keyed digest of the message's `X-Letter` field
//! and of its body, so that who knows the key can tell whether the filter has really seen what was
//! delivered. It serves the socket that it is handed (`LISTEN_FDS`), each connection in a thread of
//! its own. A connection on which the other side errs is closed; nothing is logged.

mod message;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result};
use bytes::BytesMut;
use clap::Parser;
use listenfd::ListenFd;
use milter_proto::edit::Edit;
use milter_proto::testkit::{Act, FilterScript, Scenario, ScriptedFilter};
use milter_proto::wire::{Actions, Command, Decoder, Reply};

use self::message::Message;

/// Bytes read at a time.
const BUFFER: usize = 64 << 10;
/// Edits that a message gets, the mark included.
const EDITS: usize = 4;
/// Bytes that a hoarder takes at a time.
const HOARD: usize = 4 << 20;

/// How it behaves.
#[derive(Debug, Parser)]
struct Manners {
    /// Its name in the mark
    #[arg(long)]
    name: String,
    /// The key of the mark
    #[arg(long)]
    key: String,
    /// Follow the first filter of this `.milter` file, and mark nothing where it speaks at the end
    #[arg(long)]
    script: Option<PathBuf>,
    /// End at once, whatever is asked
    #[arg(long)]
    useless: bool,
    /// End when a body has this in it
    #[arg(long, value_name = "TOKEN")]
    poison: Option<String>,
    /// Take memory without end when a body has this in it
    #[arg(long, value_name = "TOKEN")]
    hoard: Option<String>,
    /// End after half the edits of every message of this number since the start
    #[arg(long, value_name = "NUMBER")]
    half: Option<u32>,
}

fn main() -> Result<ExitCode> {
    let manners = Manners::parse();
    if manners.useless {
        return Ok(ExitCode::from(3));
    }
    let listener = ListenFd::from_env()
        .take_unix_listener(0)?
        .context("no socket was handed over: this is started by the orchestrator")?;
    listener.set_nonblocking(false)?;
    let shared = Arc::new(Shared {
        script: script(&manners)?,
        manners,
        finished: AtomicU32::new(0),
    });
    loop {
        let (stream, _) = listener.accept()?;
        let shared = Arc::clone(&shared);
        // A broken connection is the other side's doing.
        thread::spawn(move || drop(shared.converse(stream)));
    }
}

fn script(manners: &Manners) -> Result<FilterScript> {
    let Some(file) = &manners.script else {
        return Ok(FilterScript::new(manners.name.as_str()).actions(Actions::ADD_HEADERS));
    };
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let scenario = Scenario::parse(&file.display().to_string(), &text)?;
    let first = scenario.filters.into_iter().next();
    first.with_context(|| format!("{}: no filter in it", file.display()))
}

/// What all connections know.
struct Shared {
    manners: Manners,
    script: FilterScript,
    /// Messages that came to their end since the start.
    finished: AtomicU32,
}

impl Shared {
    fn converse(&self, mut stream: UnixStream) -> Result<()> {
        let mut filter = ScriptedFilter::new(self.script.clone());
        let mut message = Message::new(&self.manners.key, &self.manners.name);
        let mut input = BytesMut::new();
        let mut buffer = vec![0; BUFFER];
        if !obey(&mut stream, filter.open())? {
            return Ok(());
        }
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            input.extend_from_slice(&buffer[..read]);
            while let Some(frame) = Decoder::default().decode(&mut input)? {
                let command = Command::parse(frame)?;
                message.hear(&command);
                let mut acts = filter.hear(&command);
                // Nobody reads it, and it would grow.
                drop(filter.take_transcript());
                if let Command::EndOfMessage(_) = command {
                    self.do_harm(&message);
                    if acts == [Act::Say(Reply::Continue)] {
                        acts = self.finish(&mut stream, &message)?;
                    }
                }
                if !obey(&mut stream, acts)? {
                    return Ok(());
                }
            }
        }
    }

    /// What a message makes of the process.
    fn do_harm(&self, message: &Message) {
        let has = |token: &Option<String>| token.as_ref().is_some_and(|token| message.has(token));
        if has(&self.manners.poison) {
            std::process::abort();
        }
        let mut hoarded = Vec::new();
        while has(&self.manners.hoard) {
            // Written to, so that it is memory and not a promise; the limit of the process, or of
            // its group, ends this.
            hoarded.push(vec![1u8; HOARD]);
        }
    }

    /// The edits and the verdict; half of the edits and the end, where that is to be.
    fn finish(&self, stream: &mut UnixStream, message: &Message) -> Result<Vec<Act>> {
        let finished = self.finished.fetch_add(1, Ordering::SeqCst) + 1;
        let mut edits = vec![add(
            &format!("X-Seen-{}", self.manners.name),
            &message.digest(),
        )];
        if self.manners.half.is_some() {
            edits.extend((1..EDITS).map(|n| add(&format!("X-Part-{n}"), "of four")));
        }
        if self.manners.half == Some(finished) {
            edits.truncate(EDITS / 2);
            obey(
                stream,
                edits
                    .into_iter()
                    .map(|e| Act::Say(Reply::Edit(e)))
                    .collect(),
            )?;
            std::process::abort();
        }
        Ok(Act::edits(edits, Reply::Continue))
    }
}

fn add(name: &str, value: &str) -> Edit {
    Edit::AddHeader {
        name: name.to_owned().into(),
        value: value.to_owned().into(),
    }
}

/// Does what is to be done; `false` when the connection is over.
fn obey(stream: &mut UnixStream, acts: Vec<Act>) -> Result<bool> {
    let mut output = BytesMut::new();
    for act in acts {
        act.encode(&mut output)?;
        match act {
            Act::Say(_) | Act::Raw(_) => continue,
            Act::Wait(_) | Act::Close | Act::Hang => stream.write_all(&output)?,
        }
        output.clear();
        match act {
            Act::Wait(time) => thread::sleep(time),
            Act::Hang => {
                hang(stream);
                return Ok(false);
            }
            Act::Say(_) | Act::Raw(_) | Act::Close => return Ok(false),
        }
    }
    stream.write_all(&output)?;
    Ok(true)
}

/// Says nothing more until the other side has gone.
fn hang(stream: &mut UnixStream) {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
}
