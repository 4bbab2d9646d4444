//! A whole milter: it adds a header field with a text from its configuration to every message.
//!
//! Try it: `cargo run --features daemon --example greeter -- default-config`.

use std::process::ExitCode;

use bytes::Bytes;
use milter_proto::daemon::config::{Log, Metrics, Server};
use milter_proto::daemon::{
    CommandContext, Common, ConfigError, Failure, Host, NoCommand, Program, escaped, main as daemon,
};
use milter_proto::edit::Edit;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::verdict::{Outcome, Verdict};
use milter_proto::wire::Actions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::info;

fn main() -> ExitCode {
    daemon::<Greeter>()
}

/// The program, and the filter that it runs.
struct Greeter {
    greeting: Bytes,
}

/// The configuration file of the greeter.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// What the field `X-Greeting` says.
    greeting: String,
    /// Where it listens, as whom it runs, and its limits.
    server: Server,
    /// What is logged, and how.
    log: Log,
    /// Where monitoring asks.
    metrics: Metrics,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            greeting: "hello".to_owned(),
            server: Server::on_port(10099),
            log: Log::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Program for Greeter {
    const NAME: &'static str = "greeter";
    const ABOUT: &'static str = "Adds a greeting to every message";
    const CONFIG: &'static str = "/etc/milter/greeter.toml";
    type Settings = Settings;
    type Command = NoCommand;

    fn common(settings: &Settings) -> Common {
        Common::filter(&settings.server, &settings.log).watched(&settings.metrics)
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        if settings.greeting.contains(['\r', '\n', '\0']) {
            return Err(ConfigError::at("greeting", "holds a line break or NUL")
                .help("a header field is one line"));
        }
        let greeting = Bytes::from(settings.greeting);
        Ok(Self { greeting })
    }

    async fn run(self, host: Host<Self>) -> Result<(), Failure> {
        host.serve(self).await
    }

    fn command(command: NoCommand, _cx: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        match command {}
    }
}

impl Filter for Greeter {
    type Transaction = Greeting;

    fn needs(&self) -> Needs {
        Needs {
            actions: Actions::ADD_HEADERS,
            ..Needs::default()
        }
    }

    fn begin(&self, _cx: Context<'_>) -> Greeting {
        Greeting(self.greeting.clone())
    }
}

/// One message.
struct Greeting(Bytes);

impl Transaction for Greeting {
    async fn finish(self, cx: Context<'_>) -> Outcome {
        info!(queue_id = %escaped(cx.queue_id()), decision = "greet", "message");
        Outcome {
            edits: vec![Edit::AddHeader {
                name: Bytes::from_static(b"X-Greeting"),
                value: self.0,
            }],
            verdict: Verdict::Continue,
        }
    }
}
