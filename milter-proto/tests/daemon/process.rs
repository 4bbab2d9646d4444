//! A process of the example program, its folder, and a client that sends it messages.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use command_fds::{CommandFdExt, FdMapping};
use milter_proto::edit::Edit;
use milter_proto::message::{self, Connection};
use milter_proto::net::{Address, Client, Timeouts};
use milter_proto::session::Event;
use milter_proto::wire::Offer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Generous: only a hang takes so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The folder of a test: configuration, socket, the service manager's socket, and the log.
pub(crate) struct Room {
    folder: TempDir,
    manager: UnixDatagram,
}

impl Room {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        Self { folder, manager }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("milter.sock")
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.socket())
    }

    /// Writes the configuration: our socket, and whatever else.
    pub(crate) fn configure(&self, top: &str, server: &str) {
        let socket = self.socket();
        let text = format!(
            "{top}\n[server]\nsocket = \"unix:{}\"\n{server}\n",
            socket.display()
        );
        fs::write(self.path("greeter.toml"), text).unwrap();
    }

    /// The program with these arguments, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("greeter"));
        command
            .arg("--config")
            .arg(self.path("greeter.toml"))
            .args(arguments)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null());
        command
    }

    /// Starts the program and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon {
        self.spawn(self.command(&["run"]))
    }

    pub(crate) fn spawn(&self, mut command: Command) -> Daemon {
        let log = self.path("log");
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let daemon = Daemon { child, log };
        self.hear("READY=1\n", &daemon);
        daemon
    }

    /// What the service manager is told next.
    pub(crate) fn hear(&self, expected: &str, daemon: &Daemon) {
        let mut buffer = [0; 256];
        let length = self
            .manager
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("no {expected:?}: {error}\n{}", daemon.log()));
        let heard = String::from_utf8_lossy(&buffer[..length]);
        assert!(heard.starts_with(expected), "{heard:?}, not {expected:?}");
    }
}

/// A running process. It is killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.id()).unwrap());
        kill(id, signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for a text in the log.
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_until("the end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the program, as an MTA has it.
pub(crate) struct Mta {
    client: Client,
    runtime: Runtime,
}

impl Mta {
    pub(crate) fn connect(address: &Address) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (client, warnings) = runtime
            .block_on(Client::connect(
                address,
                &Offer::full(),
                Timeouts::default(),
            ))
            .unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        Self { client, runtime }
    }

    fn tell(&mut self, event: Event) -> Vec<Edit> {
        let response = self.runtime.block_on(self.client.send(event, None));
        response.unwrap().edits
    }

    /// Begins a message.
    pub(crate) fn begin(&mut self) {
        self.tell(Event::Connect(Connection {
            hostname: Bytes::from_static(b"client.example"),
            address: message::Address::Unknown,
        }));
        self.tell(Event::Helo(Bytes::from_static(b"client.example")));
        self.tell(Event::Mail(path(b"<a@client.example>")));
        self.tell(Event::Rcpt(path(b"<b@here.example>")));
    }

    /// Ends the message, and returns the greeting that it got.
    pub(crate) fn end(&mut self) -> String {
        self.tell(Event::EndOfHeaders);
        let edits = self.tell(Event::EndOfMessage);
        match &edits[..] {
            [Edit::AddHeader { value, .. }] => String::from_utf8(value.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// Gives the sockets to the command, as a service manager does.
pub(crate) fn hand_over(command: &mut Command, sockets: Vec<OwnedFd>) {
    command.env("LISTEN_FDS", sockets.len().to_string());
    let mappings = (3..)
        .zip(sockets)
        .map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect();
    command.fd_mappings(mappings).unwrap();
}

/// The greeting that a message gets.
pub(crate) fn greeting(address: &Address) -> String {
    let mut mta = Mta::connect(address);
    mta.begin();
    mta.end()
}

fn path(address: &'static [u8]) -> message::Path {
    message::Path {
        address: Bytes::from_static(address),
        args: Vec::new(),
    }
}

/// An example program. Cargo builds them beside the tests, but not for `--test daemon` alone.
pub(crate) fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.parent().and_then(Path::parent).unwrap();
    let program = target.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: cargo build -p milter-proto --features daemon --examples",
        program.display()
    );
    program
}

fn wait_until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
