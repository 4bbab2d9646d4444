//! Lines of the log on their way to stderr, so that nobody who logs waits for whoever reads.
//!
//! A thread writes them. What it cannot get rid of is kept up to a limit; lines beyond it are lost,
//! counted, and the count is written as soon as somebody reads again. Before [`Queue::start`]
//! everything is written in place, so that a process has no second thread before it needs one. What
//! is kept when the process is killed is lost as well.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that are kept at most.
const KEPT_MAX: usize = 1 << 20;

/// How a line says that so many were lost.
pub(super) type Lost = fn(u64) -> String;

/// Lines on their way; clones are the same queue.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is to be written, or everything is.
    changed: Condvar,
    lost: Lost,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<u8>,
    /// Lines that found no room since the last time that this was written.
    lost: u64,
    started: bool,
    /// Whether the thread has something in hand.
    writing: bool,
}

impl Queue {
    /// Empty, and written in place.
    pub(super) fn new(lost: Lost) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            lost,
        }))
    }

    /// From now on a thread writes to `out`.
    ///
    /// # Errors
    /// When there can be no thread; lines are written in place then.
    pub(super) fn start(&self, out: impl Write + Send + 'static) -> io::Result<()> {
        let queue = self.clone();
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || queue.drain(out))?;
        self.lock().started = true;
        Ok(())
    }

    /// Waits until everything is written, but no longer than that.
    pub(super) fn settle(&self, limit: Duration) {
        let busy = |state: &mut State| {
            state.started && (state.writing || !state.kept.is_empty() || state.lost > 0)
        };
        let state = self.lock();
        // Whoever waits for the end of a process does not care who has panicked before.
        drop(self.0.changed.wait_timeout_while(state, limit, busy));
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if !state.started {
            drop(state);
            // A closed stderr loses lines and stops nothing.
            let _ = io::stderr().write_all(line);
            return;
        }
        match state.kept.len() + line.len() <= KEPT_MAX {
            true => state.kept.extend_from_slice(line),
            false => state.lost += 1,
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// The thread: it ends with the process.
    fn drain(&self, mut out: impl Write) {
        let mut hand = Vec::new();
        loop {
            let idle = |state: &mut State| state.kept.is_empty() && state.lost == 0;
            let waited = self.0.changed.wait_while(self.lock(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.kept, &mut hand);
            let lost = std::mem::take(&mut state.lost);
            state.writing = true;
            drop(state);
            if lost > 0 {
                hand.extend_from_slice((self.0.lost)(lost).as_bytes());
            }
            let _ = out.write_all(&hand).and_then(|()| out.flush());
            hand.clear();
            self.lock().writing = false;
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Bytes are whole lines at every moment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Takes one line, in one piece.
#[derive(Debug)]
pub(super) struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn lost(count: u64) -> String {
        format!("lost {count}\n")
    }

    #[test]
    fn nobody_waits_for_a_reader_and_lost_lines_are_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Queue::new(lost);
        queue.start(writer).unwrap();
        // More than a pipe and the queue can hold, and nobody reads.
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let lines = 4 * KEPT_MAX / line.len();
        for _ in 0..lines {
            queue.make_writer().write_all(&line).unwrap();
        }
        queue.settle(Duration::from_millis(50));
        let reading = thread::spawn(move || {
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            while !text.ends_with(b"end\n") {
                let read = reader.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
            }
            text
        });
        queue.settle(Duration::from_secs(30));
        queue.make_writer().write_all(b"end\n").unwrap();
        let text = reading.join().unwrap();
        let text = String::from_utf8(text).unwrap();
        let written = text.lines().filter(|line| line.starts_with('x')).count();
        let counted: usize = text
            .lines()
            .filter_map(|line| line.strip_prefix("lost "))
            .map(|count| count.parse::<usize>().unwrap())
            .sum();
        assert!(counted > 0);
        assert_eq!(written + counted, lines);
    }
}
