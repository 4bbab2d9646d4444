//! Filters of others and one of ours in one chain, one after the other and in parallel.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use milter_tests::clamd::{Clamd, eicar};
use milter_tests::equivalence::mta::{free_ports, private_address};
use milter_tests::foreign::{Foreign, sendmail_style};
use milter_tests::process::Process;
use milter_tests::programs::binary;
use tempfile::TempDir;

use super::both::{Both, Letter};
use super::filters::{gtube, text};
use super::possible;

/// A key of example.org, in files.
pub(super) struct Keys {
    folder: TempDir,
}

impl Keys {
    pub(super) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut genkey = Command::new(binary("milter-dkim").unwrap());
        genkey.args(["genkey", "--domain", "example.org", "--selector", "s1"]);
        let output = genkey
            .arg("--directory")
            .arg(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { folder }
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.path().join(format!("example.org.s1.{kind}"))
    }

    /// The public half, as opendkim reads it.
    pub(super) fn record(&self) -> String {
        let text = std::fs::read_to_string(self.file("txt")).unwrap();
        let strings: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
        format!("s1._domainkey.example.org {}\n", strings.concat())
    }

    /// Settings of an opendkim that signs.
    pub(super) fn signer(&self, pair: &str) -> String {
        format!(
            "Mode s\nDomain example.org\nSelector s1\nKeyFile {}\nCanonicalization {pair}\n\
             OversignHeaders From",
            self.file("pem").display()
        )
    }

    /// The section of a milter-dkim that signs.
    pub(super) fn signing(&self) -> String {
        let key = self.file("pem");
        let key = key.display();
        format!("[[sign]]\ndomain = \"example.org\"\nselector = \"s1\"\nkey = \"{key}\"\n")
    }

    /// The configuration of a milter-dkim that verifies.
    pub(super) fn verifier(&self) -> String {
        format!("[dns]\nkey_file = \"{}\"\n", self.file("txt").display())
    }
}

/// One of our filters on a port, for Postfix.
pub(super) fn ours(filter: &str, sections: &str, folder: &TempDir) -> (SocketAddr, Process) {
    let ip = private_address();
    let address = SocketAddr::from((ip, free_ports(ip, 1).unwrap()[0]));
    let file = folder.path().join(format!("{filter}.toml"));
    let text = format!(
        "[server]\nsocket = \"{}\"\n{sections}",
        sendmail_style(address)
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary(&format!("milter-{filter}")).unwrap());
    let mut process = Process::start(command.arg("--config").arg(&file)).unwrap();
    let listens = || std::net::TcpStream::connect(address).is_ok();
    process.wait_until("listening", listens).unwrap();
    (address, process)
}

/// milter-clamav reads nothing that the others write: it may run beside them. milter-spam reads
/// the results of opendkim: it must come behind it.
#[tokio::test(flavor = "multi_thread")]
async fn opendkim_rspamd_and_ours_in_one_chain_case_088() {
    if !possible("together", &["opendkim", "rspamd", "clamd"]) {
        return;
    }
    let keys = Keys::make();
    let folder = tempfile::tempdir().unwrap();
    let clamd = Clamd::start("").unwrap();
    let settings = "Mode v\nAlwaysAddARHeader yes";
    let opendkim = Foreign::opendkim(settings, &keys.record()).unwrap();
    let rspamd = Foreign::rspamd().unwrap();
    let (spam, _spam) = ours("spam", "", &folder);
    let servers = format!("[clamd]\nservers = [\"{}\"]\n", clamd.address);
    let (clamav, _clamav) = ours("clamav", &servers, &folder);
    let theirs = [("opendkim", opendkim.address), ("rspamd", rspamd.address)];
    for (name, address, field, last_chain) in [
        (
            "spam",
            spam,
            "X-Spamd-Result",
            "[[\"opendkim\", \"rspamd\"], \"spam\"]",
        ),
        (
            "clamav",
            clamav,
            "X-Virus-Status",
            "[[\"opendkim\", \"rspamd\", \"clamav\"]]",
        ),
    ] {
        let filters = [&theirs[..], &[(name, address)]].concat();
        let sequence = format!("[\"opendkim\", \"rspamd\", \"{name}\"]");
        let both = Both::start(&filters, &[&sequence, last_chain]).await;
        for (body, refused) in [
            ("Hello.".to_owned(), None),
            (gtube(), Some("554 5.7.1")),
            (
                eicar(),
                (name == "clamav").then_some("550 5.7.1 malware found"),
            ),
        ] {
            let outcome = both
                .send(&Letter {
                    client: Some("192.0.2.1"),
                    from: "stranger@example.net",
                    to: "user@example.org",
                    text: &text("stranger@example.net", &body),
                })
                .await;
            if let Some(reply) = refused {
                assert!(outcome.verdict().starts_with(reply), "{outcome:#?}");
                continue;
            }
            let message = outcome.message();
            for field in ["Authentication-Results", "X-Spamd-Bar", field] {
                assert!(
                    !message.values(field).is_empty(),
                    "no {field}: {outcome:#?}"
                );
            }
        }
        both.assert_nobody_complained();
    }
}
