//! A filter that lets everything pass, as a process: this very test binary, started again.

use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::net::{Address, Limits, Listener, serve};
use milter_proto::verdict::{Outcome, Verdict};

/// What turns the test below into a filter: `inherit`, or the path of a socket to bind.
const SOCKET: &str = "ORCHESTRATOR_TEST_SOCKET";
/// Milliseconds before it listens.
const PAUSE: &str = "ORCHESTRATOR_TEST_PAUSE";

/// The `command` and `environment` of a milter that takes its socket after a pause.
pub(crate) fn milter(pause: Duration) -> String {
    section("inherit", pause)
}

/// The same for a milter that binds its socket by itself, at this path.
pub(crate) fn binding(path: &str) -> String {
    section(path, Duration::ZERO)
}

fn section(socket: &str, pause: Duration) -> String {
    let program = std::env::current_exe().unwrap();
    format!(
        "command = [\"{}\", \"--exact\", \"filter::process\", \"--nocapture\"]\n\
         environment = {{ {SOCKET} = \"{socket}\", {PAUSE} = \"{}\" }}\n",
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
        serve(vec![listener], || Arc::new(Pass), Limits::default(), never).await;
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
