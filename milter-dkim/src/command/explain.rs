//! `milter-dkim explain`: what would be done with a message, without sending it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use milter_proto::daemon::exit::EX_USAGE;
use milter_proto::daemon::{CommandContext, Failure};
use milter_proto::message::Address;

use crate::Dkim;
use crate::auth::header::{Field, Header};
use crate::config::Meaning;
use crate::decide::{Decision, NoAuthor, Subject, author, decide};

/// What is asked.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The From field: an address, with or without a name
    #[arg(long)]
    from: String,
    /// The client's address, or `unix` for a client on a unix socket, or `unknown`
    #[arg(long, default_value = "unknown")]
    client: String,
    /// The name under which the client has logged in
    #[arg(long, default_value = "")]
    auth: String,
}

/// Prints decision and reason.
pub(super) fn run(
    arguments: &Arguments,
    context: &CommandContext<'_, Dkim>,
) -> Result<ExitCode, Failure> {
    let client = client(&arguments.client)?;
    let program = context.prepare()?;
    super::print(explanation(arguments, &client, program.meaning()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The client in the words of the protocol.
fn client(text: &str) -> Result<Address, Failure> {
    match text {
        "unix" => Ok(Address::Unix(bytes::Bytes::new())),
        "unknown" => Ok(Address::Unknown),
        _ => match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Address::Inet(SocketAddr::new(ip, 0))),
            Err(_) => {
                let message = format!(
                    "--client {}: an IP address, unix or unknown is expected",
                    text.escape_debug()
                );
                Err(Failure::new(EX_USAGE, message))
            }
        },
    }
}

/// The answer, a line for the decision and one for each key.
fn explanation(arguments: &Arguments, client: &Address, meaning: &Meaning) -> String {
    let mut header = Header::default();
    let from = format!(" {}", arguments.from);
    let author = match header.push(Field::new("From", from)) {
        Ok(()) => author(&header),
        Err(_) => Err(NoAuthor::HeaderTooLarge),
    };
    let subject = Subject {
        client: Some(client),
        login: arguments.auth.as_bytes(),
        author,
    };
    let decision = decide(&subject, meaning.mode, &meaning.internal, &meaning.table);
    let mut out = format!("{}: {}\n", decision.word(), decision.reason());
    if let Decision::Sign { keys, .. } = decision {
        for entry in keys {
            let signer = &entry.signer;
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "  d={} s={} a={} c={}",
                signer.domain,
                signer.selector,
                signer.key.algorithm().as_str(),
                meaning.style.canonicalization
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dkim::private_key::PrivateKey;
    use crate::auth::dkim::sign::Signer;
    use crate::auth::domain::Domain;
    use crate::config::Settings;
    use crate::keys::{Entry, SigningTable};
    use std::sync::Arc;

    #[test]
    fn the_answer_is_that_of_the_filter() {
        let domain = |text: &str| Domain::parse(text).unwrap();
        let key = Arc::new(PrivateKey::generate_ed25519().unwrap());
        let signer = Signer {
            domain: domain("example.org"),
            selector: domain("s1"),
            key,
        };
        let mut meaning = Settings::default().mean().unwrap();
        meaning.table = SigningTable::new(vec![Entry {
            signer,
            subdomains: true,
        }]);
        let signs = "  d=example.org s=s1 a=ed25519-sha256 c=relaxed/simple\n";
        let cases = [
            (
                "Joe <joe@x.example.org>",
                "::1",
                "",
                "sign: client ::1 is in the internal network ::1/128\n",
                signs,
            ),
            (
                "joe@example.org",
                "203.0.113.1",
                "joe",
                "sign: the client has logged in\n",
                signs,
            ),
            (
                "joe@example.com",
                "unix",
                "",
                "verify: there is no key for example.com\n",
                "",
            ),
            ("joe", "unix", "", "verify: From holds no address\n", ""),
        ];
        for (from, address, auth, first, rest) in cases {
            let arguments = Arguments {
                from: from.to_owned(),
                client: address.to_owned(),
                auth: auth.to_owned(),
            };
            let got = explanation(&arguments, &client(address).unwrap(), &meaning);
            assert_eq!(got, format!("{first}{rest}"), "{arguments:?}");
        }
        assert!(client("nobody").is_err());
    }
}
