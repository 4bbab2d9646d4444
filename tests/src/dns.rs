//! A name server with the TXT records of a test, on a port of its own; it knows nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// A running name server.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Starts one with these names and values; every other name does not exist.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(records: HashMap<String, String>) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(answer) = answer(&buffer[..length], &records) {
                    // A client that is gone asks again or not at all.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a query with one question, without EDNS.
fn answer(query: &[u8], records: &HashMap<String, String>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        name = format!("{name}.{}", String::from_utf8_lossy(label));
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let record = records.get(&name.trim_start_matches('.').to_ascii_lowercase());
    let (code, count) = if record.is_some() { (0, 1) } else { (3, 0) };
    let mut out = query.get(..2)?.to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    out.extend_from_slice(question);
    if let Some(value) = record {
        // Name by pointer, TXT, IN, 60 seconds.
        out.extend([0xc0, 0x0c, 0, 16, 0, 1, 0, 0, 0, 60]);
        let mut data = Vec::new();
        for string in value.as_bytes().chunks(255) {
            data.push(u8::try_from(string.len()).ok()?);
            data.extend_from_slice(string);
        }
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(data);
    }
    Some(out)
}
