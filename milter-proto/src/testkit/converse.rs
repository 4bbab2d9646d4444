//! An MTA's script over a stream.
//!
//! Waits for what the script expects, for a limited time; gives up at the first thing that it does
//! not. A stream that breaks counts as closed: what the script makes of that, it says.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::mta::{Exchange, Mismatch, MtaScript, MtaStep, ScriptedMta};
use crate::wire::{Decoder, Reply, WireError};

/// How long silence must last.
const MOMENT: Duration = Duration::from_millis(60);

/// Follows `script` on `stream`, and says what went over it. The stream is closed afterwards.
///
/// # Errors
/// When something else comes than the script expects, or nothing for `patience`.
pub async fn converse<S>(
    script: &MtaScript,
    mut stream: S,
    patience: Duration,
) -> Result<Vec<Exchange>, Mismatch>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut mta = ScriptedMta::new(script.clone());
    let mut input = BytesMut::new();
    loop {
        let mut output = BytesMut::new();
        match mta.next_step() {
            MtaStep::Send(command) => {
                let encoded = command.encode(&mut output);
                encoded.map_err(|error| mta.garbled(&error.to_string()))?;
            }
            MtaStep::Raw(bytes) => output.extend_from_slice(&bytes),
            MtaStep::Wait(time) => tokio::time::sleep(time).await,
            MtaStep::Read => {
                let came = timeout(patience, read(&mut stream, &mut input)).await;
                let came = came.map_err(|_| mta.overdue())?;
                let came = came.map_err(|error| mta.garbled(&error.to_string()))?;
                mta.told(came)?;
            }
            MtaStep::Listen => match timeout(MOMENT, read(&mut stream, &mut input)).await {
                Err(_) => mta.silent(),
                Ok(came) => {
                    let came = came.map_err(|error| mta.garbled(&error.to_string()))?;
                    mta.told(came)?;
                }
            },
            MtaStep::Close | MtaStep::Done => return Ok(mta.record().to_vec()),
        }
        // A peer that has gone away is noticed by what does not come.
        let written = timeout(patience, stream.write_all(&output)).await;
        if written.is_err() {
            return Err(mta.garbled("a peer that takes nothing any more"));
        }
    }
}

/// The next reply; `None` when there is none any more.
async fn read<S>(stream: &mut S, input: &mut BytesMut) -> Result<Option<Reply>, WireError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(frame) = Decoder::default().decode(input)? {
            return Reply::parse(frame).map(Some);
        }
        if !matches!(stream.read_buf(input).await, Ok(1..)) {
            return Ok(None);
        }
    }
}
