//! A filter that lets every message pass, after as long as it is told to take.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use milter_proto::filter::{Context, Filter, Needs, Transaction};
use milter_proto::net::{Address, Limits, Listener, serve};
use milter_proto::verdict::{Outcome, Verdict};
use milter_proto::wire::{Actions, Steps};

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// Answers nothing but the end of the message.
    pub(crate) silent: bool,
    /// Milliseconds that the end of the message takes.
    pub(crate) wait: u64,
    /// Says that it may edit the header, and never does.
    pub(crate) edits: bool,
}

/// Serves until the process is ended.
pub(crate) fn run(address: &Address, manners: Manners) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = Listener::bind(address).await?;
        let mut limits = Limits::default();
        limits.connections = 20_000;
        let filter = Arc::new(Passing(manners));
        let never = std::future::pending();
        serve(vec![listener], || Arc::clone(&filter), limits, never).await;
        Ok(())
    })
}

#[derive(Debug)]
struct Passing(Manners);

impl Filter for Passing {
    type Transaction = Message;

    fn needs(&self) -> Needs {
        let steps = if self.0.silent {
            // Sendmail never aborts a message whose MAIL needed no answer: nobody should ask for
            // it.
            Steps::NR_ALL - Steps::NR_MAIL
        } else {
            Steps::empty()
        };
        let actions = if self.0.edits {
            Actions::ADD_HEADERS
        } else {
            Actions::empty()
        };
        Needs {
            actions,
            steps: steps | Steps::LEADING_SPACE,
            macros: Vec::new(),
        }
    }

    fn begin(&self, _: Context<'_>) -> Message {
        Message(Duration::from_millis(self.0.wait))
    }
}

#[derive(Debug)]
struct Message(Duration);

impl Transaction for Message {
    async fn finish(self, _: Context<'_>) -> Outcome {
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
        Verdict::Continue.into()
    }
}
