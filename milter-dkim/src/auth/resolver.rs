//! DNS over the network: the implementation of [`Dns`] that asks name servers, with a cache that
//! keeps what their answers allow.
//!
//! Without name servers of its own it uses those of the system. It gives no verdicts: failures are
//! sorted into the three of [`DnsError`]. [`Source`] chooses between it and a key file at run time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as WireError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use hickory_resolver::{Resolver as Hickory, TokioResolver};

use super::dns::{Dns, DnsError, KeyFile, Txt};
use super::domain::Domain;

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name servers with ports, asked in this order; none means those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// How long to wait for one answer.
    pub timeout: Duration,
    /// How often to ask before giving up; at least 1.
    pub attempts: usize,
    /// Answers kept at most.
    pub cache_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            timeout: Duration::from_secs(2),
            attempts: 2,
            cache_size: 4096,
        }
    }
}

/// Asks name servers. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Resolver(Arc<TokioResolver>);

impl Resolver {
    /// A resolver; nothing is asked yet. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system's configuration cannot be read.
    pub fn new(options: &Options) -> Result<Self, DnsError> {
        let failed = |error: NetError| DnsError::Server(format!("no resolver: {error}"));
        let mut builder = if options.name_servers.is_empty() {
            TokioResolver::builder_tokio().map_err(failed)?
        } else {
            let servers = options.name_servers.iter().map(|&address| server(address));
            let config = ResolverConfig::from_name_servers(servers.collect());
            Hickory::builder_with_config(config, TokioRuntimeProvider::default())
        };
        set_options(builder.options_mut(), options);
        builder
            .build()
            .map(|resolver| Self(Arc::new(resolver)))
            .map_err(failed)
    }
}

/// A server that is asked over UDP, and over TCP where the answer is too long.
fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let with_port = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, with_port.to_vec())
}

/// Our options in its terms.
fn set_options(theirs: &mut ResolverOpts, ours: &Options) {
    theirs.timeout = ours.timeout;
    theirs.attempts = ours.attempts.max(1);
    theirs.cache_size = ours.cache_size;
    theirs.edns0 = true;
    // A failure is not remembered for long, nor a record for ever: keys are rotated.
    theirs.positive_max_ttl = Some(Duration::from_secs(24 * 3600));
    theirs.negative_max_ttl = Some(Duration::from_secs(3600));
}

impl Dns for Resolver {
    async fn txt(&self, name: &Domain) -> Result<Vec<Txt>, DnsError> {
        let mut absolute = Name::from_ascii(name.as_str())
            .map_err(|error| DnsError::Server(format!("not a name: {error}")))?;
        absolute.set_fqdn(true);
        let lookup = self
            .0
            .txt_lookup(absolute)
            .await
            .map_err(|error| sort(&error))?;
        let records: Vec<Txt> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(txt) => Some(txt.txt_data.concat()),
                _ => None,
            })
            .collect();
        if records.is_empty() {
            return Err(DnsError::NoRecords);
        }
        Ok(records)
    }
}

/// Which of the three failures it is.
fn sort(error: &NetError) -> DnsError {
    match error {
        NetError::Timeout => DnsError::Timeout,
        NetError::Dns(WireError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => DnsError::NoRecords,
            code => DnsError::Server(format!("server answered {code}")),
        },
        NetError::Dns(WireError::ResponseCode(code)) => {
            DnsError::Server(format!("server answered {code}"))
        }
        other => DnsError::Server(other.to_string()),
    }
}

/// Where answers come from: the network or a file.
#[derive(Clone)]
pub enum Source {
    /// Name servers.
    Network(Resolver),
    /// A file.
    File(KeyFile),
}

impl Dns for Source {
    async fn txt(&self, name: &Domain) -> Result<Vec<Txt>, DnsError> {
        match self {
            Self::Network(resolver) => resolver.txt(name).await,
            Self::File(file) => file.txt(name).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UdpSocket;

    /// A name server for tests: answers `answer(question)` with the header's code and records,
    /// counts questions, or keeps silent.
    struct Server {
        address: SocketAddr,
        asked: Arc<AtomicUsize>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Server {
        async fn start(code: u8, strings: &'static [&'static [u8]], silent: bool) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let asked = Arc::new(AtomicUsize::new(0));
            let counter = asked.clone();
            let task = tokio::spawn(async move {
                let mut buffer = [0; 1500];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let reply = reply(&buffer[..length], code, strings);
                    if !silent {
                        socket.send_to(&reply, from).await.unwrap();
                    }
                }
            });
            Self {
                address,
                asked,
                task,
            }
        }
    }

    /// The question repeated, then one TXT record with these strings, or none.
    fn reply(question: &[u8], code: u8, strings: &[&[u8]]) -> Vec<u8> {
        let name = question[12..].iter().position(|&byte| byte == 0).unwrap();
        let end = 12 + name + 5;
        let count = u8::from(!strings.is_empty());
        let mut out = question[..2].to_vec();
        out.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        out.extend_from_slice(&question[12..end]);
        if count == 1 {
            let data: Vec<u8> = strings
                .iter()
                .flat_map(|string| [&[u8::try_from(string.len()).unwrap()], *string].concat())
                .collect();
            out.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 1, 0]);
            out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            out.extend(data);
        }
        out
    }

    async fn ask(server: &Server) -> Result<Vec<Txt>, DnsError> {
        let options = Options {
            name_servers: vec![server.address],
            timeout: Duration::from_secs(2),
            attempts: 1,
            ..Options::default()
        };
        let resolver = Resolver::new(&options).unwrap();
        let name = Domain::parse("s._domainkey.example.org").unwrap();
        let first = resolver.txt(&name).await;
        let second = resolver.txt(&name).await;
        assert_eq!(first.is_ok(), second.is_ok());
        first
    }

    #[tokio::test]
    async fn strings_are_joined_and_answers_cached() {
        let server = Server::start(0, &[b"v=DKIM1; ", b"p=abc"], false).await;
        assert_eq!(ask(&server).await, Ok(vec![b"v=DKIM1; p=abc".to_vec()]));
        assert_eq!(
            server.asked.load(Ordering::SeqCst),
            1,
            "the second answer is cached"
        );
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let nxdomain = Server::start(3, &[], false).await;
        assert_eq!(ask(&nxdomain).await, Err(DnsError::NoRecords));
        let empty = Server::start(0, &[], false).await;
        assert_eq!(ask(&empty).await, Err(DnsError::NoRecords));
        for code in [2, 5] {
            let server = Server::start(code, &[], false).await;
            let answer = ask(&server).await;
            assert!(
                matches!(answer, Err(DnsError::Server(_))),
                "{code}: {answer:?}"
            );
        }
        let silent = Server::start(0, &[], true).await;
        assert_eq!(ask(&silent).await, Err(DnsError::Timeout));
    }
}
