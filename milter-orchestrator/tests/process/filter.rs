//! A filter that lets everything pass, as a process: this very test binary, started again. It may
//! put a stamp on each message, so that a test sees which process it was.

use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use milter_proto::edit::Edit;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::net::{Address, Limits, Listener, serve};
use milter_proto::verdict::{Outcome, Verdict};
use milter_proto::wire::Actions;

/// What turns the test below into a filter: `inherit`, or the path of a socket to bind.
const SOCKET: &str = "ORCHESTRATOR_TEST_SOCKET";
/// Milliseconds before it listens.
const PAUSE: &str = "ORCHESTRATOR_TEST_PAUSE";
/// What it writes into messages.
const STAMP: &str = "ORCHESTRATOR_TEST_STAMP";
/// The header field that it does that in.
pub(crate) const STAMP_FIELD: &str = "X-Stamp";

/// The stamp of a filter that negotiates and never gets done with a message.
pub(crate) const NEVER: &str = "never";

/// The `command` and `environment` of a milter that takes its socket after a pause.
pub(crate) fn milter(pause: Duration) -> String {
    section("inherit", pause, "")
}

/// The same for a milter that puts a stamp on messages.
pub(crate) fn stamping(stamp: &str) -> String {
    section("inherit", Duration::ZERO, stamp)
}

/// The same for a milter that binds its socket by itself, at this path.
pub(crate) fn binding(path: &str, stamp: &str) -> String {
    section(path, Duration::ZERO, stamp)
}

fn section(socket: &str, pause: Duration, stamp: &str) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "command = [\"{}\", \"--exact\", \"filter::process\", \"--nocapture\"]\n\
         environment = {{ {SOCKET} = \"{socket}\", {PAUSE} = \"{}\", {STAMP} = \"{stamp}\" }}\n",
        program.display(),
        pause.as_millis()
    )
}

/// Not a test of anything unless the variable is set: then a filter that serves until it is killed.
#[test]
fn process() {
    let Ok(socket) = std::env::var(SOCKET) else {
        return;
    };
    let pause = std::env::var(PAUSE).unwrap().parse().unwrap();
    let stamp = std::env::var(STAMP).unwrap();
    std::thread::sleep(Duration::from_millis(pause));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let inherited = ListenFd::from_env().take_unix_listener(0).unwrap();
        let listener = match inherited {
            Some(listener) => Listener::from_unix(listener).unwrap(),
            None => Listener::bind(&Address::Unix(socket.into())).await.unwrap(),
        };
        let never = std::future::pending();
        let filter = Arc::new(Stamping(stamp));
        let limits = Limits::default();
        serve(vec![listener], move || Arc::clone(&filter), limits, never).await;
    });
}

/// Lets everything pass.
pub(crate) struct Pass;

impl Filter for Pass {
    type Transaction = Self;

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn begin(&self, _cx: Context<'_>) -> Self {
        Self
    }
}

impl Transaction for Pass {
    async fn finish(self, _cx: Context<'_>) -> Outcome {
        Verdict::Continue.into()
    }
}

/// Lets everything pass, with its stamp where it has one.
struct Stamping(String);

impl Filter for Stamping {
    type Transaction = Stamp;

    fn needs(&self) -> Needs {
        Needs {
            actions: Actions::ADD_HEADERS,
            ..Needs::default()
        }
    }

    fn begin(&self, _cx: Context<'_>) -> Stamp {
        Stamp(self.0.clone())
    }
}

/// A message that gets a stamp.
struct Stamp(String);

impl Transaction for Stamp {
    async fn finish(self, _cx: Context<'_>) -> Outcome {
        if self.0 == NEVER {
            std::future::pending::<()>().await;
        }
        if self.0.is_empty() {
            return Verdict::Continue.into();
        }
        Outcome {
            verdict: Verdict::Continue,
            edits: vec![Edit::add(STAMP_FIELD, self.0)],
        }
    }
}
