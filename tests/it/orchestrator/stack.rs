//! An orchestrator with three filters, configured in a folder of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use milter_orchestrator::control::{self, Answer, Question};
use milter_orchestrator::member::Readiness;
use milter_orchestrator::status::MilterStatus;
use milter_proto::net::Address;
use milter_tests::clamd::Clamd;
use milter_tests::process::Process;
use milter_tests::programs::binary;
use tempfile::TempDir;

/// The domain whose mail is signed.
pub(crate) const DOMAIN: &str = "example.org";

/// The filters that every stack has; `clamav` comes with a clamd.
pub(crate) const FILTERS: [&str; 2] = ["dkim", "spam"];

/// A folder with keys and the filters' configuration, before the orchestrator's own is known.
pub(crate) struct Site {
    directory: TempDir,
    clamd: Option<Clamd>,
}

/// A running orchestrator.
pub(crate) struct Stack {
    /// Where the MTA connects.
    pub(crate) address: Address,
    /// The orchestrator.
    pub(crate) process: Process,
    site: Site,
}

impl Site {
    /// With a clamd where there is one on this machine.
    pub(crate) fn new() -> Self {
        let clamd = Clamd::program().map(|_| Clamd::start("").unwrap());
        Self::furnish(clamd)
    }

    /// Without virus scanner.
    pub(crate) fn without_clamd() -> Self {
        Self::furnish(None)
    }

    fn furnish(clamd: Option<Clamd>) -> Self {
        let site = Self {
            directory: tempfile::tempdir().unwrap(),
            clamd,
        };
        let mut genkey = Command::new(binary("milter-dkim").unwrap());
        genkey.args(["genkey", "--domain", DOMAIN, "--selector", "s1"]);
        genkey.args(["--type", "ed25519", "--directory"]);
        let output = genkey.arg(site.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let key = |kind: &str| site.path().join(format!("{DOMAIN}.s1.{kind}"));
        let dkim = format!(
            "authserv_id = \"mx.example.org\"\n[dns]\nkey_file = \"{}\"\n\
             [[sign]]\ndomain = \"{DOMAIN}\"\nselector = \"s1\"\nkey = \"{}\"\n",
            key("txt").display(),
            key("pem").display()
        );
        site.write("dkim", &dkim);
        site.write("spam", "");
        if let Some(clamd) = &site.clamd {
            let clamav = format!("[clamd]\nservers = [\"{}\"]\n", clamd.address);
            site.write("clamav", &clamav);
        }
        site
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Names of the filters, in the order of the usual chain.
    pub(crate) fn filters(&self) -> Vec<&'static str> {
        let mut filters = FILTERS.to_vec();
        if self.has_clamd() {
            filters.insert(1, "clamav");
        }
        filters
    }

    /// Whether mail is scanned for malware.
    pub(crate) fn has_clamd(&self) -> bool {
        self.clamd.is_some()
    }

    /// The filters as a chain in parallel, or one after the other.
    pub(crate) fn chain(&self, parallel: bool) -> String {
        let names = self.filters().join("\", \"");
        if parallel {
            format!("[[route]]\nchain = [[\"{names}\"]]\n")
        } else {
            format!("[[route]]\nchain = [\"{names}\"]\n")
        }
    }

    fn write(&self, filter: &str, sections: &str) {
        fs::write(self.file(filter), sections).unwrap();
    }

    /// The configuration of a filter.
    pub(crate) fn file(&self, filter: &str) -> PathBuf {
        self.path().join(format!("{filter}.toml"))
    }

    /// Starts the orchestrator with all filters and these further sections, and waits until the
    /// filters are up.
    pub(crate) fn start(self, sections: &str) -> Stack {
        let milters = self.filters().into_iter().map(|name| self.milter(name));
        let text = self.frame() + &milters.collect::<String>() + sections;
        let stack = self.start_with(&text);
        stack.wait_until_up();
        stack
    }

    /// The section of one of the filters.
    pub(crate) fn milter(&self, filter: &str) -> String {
        format!(
            "[milter.{filter}]\ncommand = [\"{}\", \"--config\", \"{}\"]\n",
            binary(&format!("milter-{filter}")).unwrap().display(),
            self.file(filter).display()
        )
    }

    /// Listener, control socket and supervision.
    pub(crate) fn frame(&self) -> String {
        let path = self.path().display();
        format!(
            "[listen.inbound]\nsocket = \"unix:{path}/inbound.sock\"\n\
             [control]\nsocket = \"unix:{path}/control.sock\"\n\
             [supervisor]\ndirectory = \"{path}/children\"\nprobe_interval = \"200ms\"\n"
        )
    }

    /// Starts the orchestrator with just this configuration.
    pub(crate) fn start_with(self, text: &str) -> Stack {
        self.write("orchestrator", text);
        let mut command = Command::new(binary("milter-orchestrator").unwrap());
        command
            .arg("--config")
            .arg(self.file("orchestrator"))
            .arg("run");
        let mut process = Process::start(&mut command).unwrap();
        let socket = self.path().join("inbound.sock");
        let control = self.path().join("control.sock");
        let answers = || {
            UnixStream::connect(&socket).is_ok()
                && control::ask(&control, &Question::Status).is_ok()
        };
        process.wait_until("listening", answers).unwrap();
        Stack {
            address: Address::Unix(socket),
            process,
            site: self,
        }
    }
}

impl Stack {
    /// Its folder and filters.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// Asks over its control socket.
    pub(crate) fn ask(&self, question: &Question) -> Answer {
        control::ask(&self.site.path().join("control.sock"), question)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.process.output()))
    }

    /// All milters.
    pub(crate) fn milters(&self) -> Vec<MilterStatus> {
        match self.ask(&Question::Status) {
            Answer::Status(snapshot) => snapshot.milters,
            other => panic!("{other:?}"),
        }
    }

    /// The status of one milter.
    pub(crate) fn milter(&self, name: &str) -> MilterStatus {
        let mut milters = self.milters().into_iter();
        milters.find(|milter| milter.name == name).unwrap()
    }

    /// Waits until all milters are up.
    pub(crate) fn wait_until_up(&self) {
        self.wait_until("all up", |stack| {
            let mut milters = stack.milters().into_iter();
            milters.all(|milter| milter.readiness == Readiness::Ready)
        });
    }

    /// Waits until `done`, or fails with the log.
    pub(crate) fn wait_until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = std::time::Instant::now() + milter_tests::process::PATIENCE;
        while !done(self) {
            let late = std::time::Instant::now() > deadline;
            assert!(!late, "not {what}:\n{}", self.process.output());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Runs a sub-command with its configuration; what it writes.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary("milter-orchestrator").unwrap())
            .arg("--config")
            .arg(self.site.file("orchestrator"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}
