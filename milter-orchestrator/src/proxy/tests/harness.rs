//! A scripted MTA and scripted filters, with the real frames and real sockets between.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use milter_proto::edit::Edit;
use milter_proto::message::{Address as ClientAddress, Connection, Header, Path as Mailbox};
use milter_proto::net::{Address, Peer, Stop};
use milter_proto::wire::{Actions, Command, Decoder, MacroStage, Macros, Offer, Reply, Steps};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::member::{Chain, Health, Member, OnFailure, Timeouts};
use crate::proxy::{ConnectionError, Limits, Proxy};
use crate::route::{Condition, Route, Routes};

/// How long a test waits; longer than anything that it expects to be cut short.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a scripted filter does when it is told something.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Replies with these.
    Say(Vec<Reply>),
    /// Waits, then does the other thing.
    After(Duration, Box<Self>),
    /// Closes the connection.
    Close,
    /// Replies with these and closes.
    SayAndClose(Vec<Reply>),
    /// Says this often, each time after so long, that it is still at it; then the other thing.
    Progress(Duration, usize, Box<Self>),
    /// Never says anything again.
    Hang,
    /// Writes these bytes as they are.
    Raw(&'static [u8]),
}

impl Act {
    /// Edits and a verdict.
    pub(super) fn edits(edits: Vec<Edit>, last: Reply) -> Self {
        Self::Say(edits.into_iter().map(Reply::Edit).chain([last]).collect())
    }

    pub(super) fn progress(ms: u64, times: usize, act: Self) -> Self {
        Self::Progress(Duration::from_millis(ms), times, Box::new(act))
    }

    pub(super) fn after(ms: u64, act: Self) -> Self {
        Self::After(Duration::from_millis(ms), Box::new(act))
    }
}

/// One line of a filter's script.
#[derive(Debug, Clone)]
struct Cue {
    /// The command's letter.
    letter: char,
    /// Which one of that letter on a connection, from 0; `None` for all.
    nth: Option<usize>,
    /// On which connection, from 0; `None` for all.
    connection: Option<usize>,
    act: Act,
}

/// A scripted filter: `Continue` to everything that the script does not name.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    name: &'static str,
    answer: Offer,
    cues: Vec<Cue>,
    on_failure: OnFailure,
    timeouts: Timeouts,
    shadow: bool,
    pool: usize,
    untried: bool,
    condition: Condition,
}

impl Filter {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            answer: Offer {
                steps: Steps::SKIP,
                ..Offer::full()
            },
            cues: Vec::new(),
            on_failure: OnFailure::TempFail,
            timeouts: Timeouts {
                connect: PATIENCE,
                command: PATIENCE,
                end_of_message: PATIENCE,
            },
            shadow: false,
            pool: 0,
            untried: false,
            condition: Condition::default(),
        }
    }

    /// Nothing is known yet of how it answers. The others have shown that they keep step.
    pub(super) fn untried(mut self) -> Self {
        self.untried = true;
        self
    }

    /// It sees only such messages.
    pub(super) fn when(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// The edits that it asks for, instead of all.
    pub(super) fn actions(mut self, actions: Actions) -> Self {
        self.answer.actions = actions;
        self
    }

    /// What it negotiates beside all actions.
    pub(super) fn steps(mut self, steps: Steps) -> Self {
        self.answer.steps = steps;
        self
    }

    /// A macro list that it asks for.
    pub(super) fn macros(mut self, stage: MacroStage, names: &'static str) -> Self {
        let names = Bytes::from_static(names.as_bytes());
        self.answer.macros.push((stage, names));
        self
    }

    pub(super) fn on(self, letter: char, act: Act) -> Self {
        self.cue(letter, None, None, act)
    }

    pub(super) fn on_nth(self, letter: char, nth: usize, act: Act) -> Self {
        self.cue(letter, Some(nth), None, act)
    }

    /// On the connection of that number only.
    pub(super) fn once(self, connection: usize, letter: char, act: Act) -> Self {
        self.cue(letter, None, Some(connection), act)
    }

    fn cue(
        mut self,
        letter: char,
        nth: Option<usize>,
        connection: Option<usize>,
        act: Act,
    ) -> Self {
        self.cues.push(Cue {
            letter,
            nth,
            connection,
            act,
        });
        self
    }

    pub(super) fn on_failure(mut self, policy: OnFailure) -> Self {
        self.on_failure = policy;
        self
    }

    pub(super) fn patience(mut self, ms: u64) -> Self {
        let patience = Duration::from_millis(ms);
        self.timeouts = Timeouts {
            connect: patience,
            command: patience,
            end_of_message: patience,
        };
        self
    }

    pub(super) fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// So many connections to it are kept.
    pub(super) fn pool(mut self, connections: usize) -> Self {
        self.pool = connections;
        self
    }

    fn member(&self, directory: &Path) -> Arc<Member> {
        let health = Health::default();
        if !self.untried {
            health.show_step();
        }
        Arc::new(Member {
            name: self.name.to_owned(),
            address: Address::Unix(directory.join(self.name)),
            on_failure: self.on_failure,
            timeouts: self.timeouts,
            shadow: self.shadow,
            condition: self.condition.clone(),
            pool: self.pool,
            health: Arc::new(health),
        })
    }
}

/// What a filter has been told, one string a connection.
type Heard = Arc<Mutex<Vec<String>>>;

/// What a filter has been told.
#[derive(Clone, Default)]
struct Logs {
    heard: Heard,
    bodies: Heard,
    /// Every macro frame, its stage first.
    macros: Heard,
}

/// Everything around a proxy.
pub(super) struct Stage {
    pub(super) members: Vec<Arc<Member>>,
    heard: Vec<Heard>,
    bodies: Vec<Heard>,
    macros: Vec<Heard>,
    proxy: Proxy,
    directory: tempfile::TempDir,
    servers: Vec<JoinHandle<()>>,
    /// Connections to filters that are still open.
    open: Arc<AtomicUsize>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

impl Stage {
    /// Filters in segments.
    pub(super) fn new(segments: Vec<Vec<Filter>>) -> Self {
        Self::with_limits(segments, |_| {})
    }

    /// Filters of a strict chain.
    pub(super) fn strict(filters: Vec<Filter>) -> Self {
        let groups = filters.into_iter().map(|one| vec![one]).collect();
        Self::build(groups, true, |_| {})
    }

    pub(super) fn with_limits(
        segments: Vec<Vec<Filter>>,
        change: impl FnOnce(&mut Limits),
    ) -> Self {
        Self::build(segments, false, change)
    }

    /// Filters in chains of several routes: of each its name, what must hold, and the numbers of
    /// the filters in its segments.
    pub(super) fn routed(
        filters: Vec<Filter>,
        routes: Vec<(&str, Condition, Vec<Vec<usize>>)>,
    ) -> Self {
        let mut stage = Self::new(Vec::new());
        for filter in filters {
            stage.start(filter);
        }
        let route = |(name, condition, segments): (&str, Condition, Vec<Vec<usize>>)| {
            let member = |number: usize| Arc::clone(&stage.members[number]);
            let group = |group: Vec<usize>| group.into_iter().map(member).collect();
            Route {
                condition,
                chain: Arc::new(Chain {
                    name: name.to_owned(),
                    segments: segments.into_iter().map(group).collect(),
                    strict: false,
                }),
            }
        };
        let routes = Routes {
            routes: routes.into_iter().map(route).collect(),
        };
        stage.proxy = Proxy::new("test", Arc::new(routes), Limits::default());
        stage
    }

    fn build(segments: Vec<Vec<Filter>>, strict: bool, change: impl FnOnce(&mut Limits)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut limits = Limits::default();
        change(&mut limits);
        let mut stage = Self {
            members: Vec::new(),
            heard: Vec::new(),
            bodies: Vec::new(),
            macros: Vec::new(),
            proxy: Proxy::new("test", Arc::default(), Limits::default()),
            directory,
            servers: Vec::new(),
            open: Arc::default(),
        };
        let segments = segments
            .into_iter()
            .map(|segment| segment.into_iter().map(|one| stage.start(one)).collect())
            .collect();
        let routes = Routes {
            routes: vec![Route {
                condition: Condition::default(),
                chain: Arc::new(Chain {
                    name: "test".to_owned(),
                    segments,
                    strict,
                }),
            }],
        };
        stage.proxy = Proxy::new("test", Arc::new(routes), limits);
        stage
    }

    fn start(&mut self, filter: Filter) -> Arc<Member> {
        let member = filter.member(self.directory.path());
        let logs = Logs::default();
        let listener = UnixListener::bind(self.directory.path().join(filter.name)).unwrap();
        self.members.push(Arc::clone(&member));
        self.heard.push(Arc::clone(&logs.heard));
        self.bodies.push(Arc::clone(&logs.bodies));
        self.macros.push(Arc::clone(&logs.macros));
        let open = Arc::clone(&self.open);
        self.servers.push(tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let mut actor = Actor::new(filter.clone(), stream, logs.clone());
                open.fetch_add(1, Ordering::SeqCst);
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    actor.run().await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }));
        member
    }

    /// An MTA connects, and negotiates.
    pub(super) async fn mta(&self) -> Mta {
        let mut mta = self.raw_mta();
        mta.send(Command::Negotiate(Offer::full())).await;
        match mta.reply().await {
            Reply::Negotiate(agreed) => mta.agreed = agreed,
            other => panic!("not an answer to the negotiation: {other:?}"),
        }
        mta
    }

    /// An MTA that has said nothing yet.
    pub(super) fn raw_mta(&self) -> Mta {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.mta_by(ours, theirs)
    }

    /// One whose other end the proxy has by way of `theirs`.
    pub(super) fn mta_by<S>(&self, ours: DuplexStream, theirs: S) -> Mta
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let proxy = self.proxy.clone();
        let server = tokio::spawn(async move {
            proxy
                .serve(theirs, &Peer::from("test"), Stop::never())
                .await
        });
        Mta {
            stream: ours,
            input: BytesMut::new(),
            agreed: Offer::full(),
            server,
        }
    }

    /// Waits until every filter has read everything and is disconnected.
    pub(super) async fn closed(&self) {
        for _ in 0..2000 {
            if self.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("a filter is still connected");
    }

    /// What the filter of that number was told on its connection of that number.
    pub(super) fn heard(&self, filter: usize, connection: usize) -> String {
        let heard = self.heard[filter].lock().unwrap();
        heard.get(connection).cloned().unwrap_or_default()
    }

    /// The last macros of a stage that the filter of that number was told.
    pub(super) fn macros(&self, filter: usize, stage: char) -> String {
        let macros = self.macros[filter].lock().unwrap();
        let of_stage = macros.iter().rev().find_map(|line| {
            let (letter, pairs) = line.split_once('|')?;
            letter.starts_with(stage).then(|| pairs.to_owned())
        });
        of_stage.unwrap_or_default()
    }

    /// The filter of that number is gone: its socket refuses connections.
    pub(super) fn remove(&self, filter: usize) {
        self.servers[filter].abort();
        let Address::Unix(path) = &self.members[filter].address else {
            return;
        };
        std::fs::remove_file(path).unwrap();
    }

    /// How often the filter of that number was connected to.
    pub(super) fn connections(&self, filter: usize) -> usize {
        self.heard[filter].lock().unwrap().len()
    }

    /// The body that the filter of that number saw on its connection of that number.
    pub(super) fn body(&self, filter: usize, connection: usize) -> String {
        let bodies = self.bodies[filter].lock().unwrap();
        bodies.get(connection).cloned().unwrap_or_default()
    }
}

/// One connection to a scripted filter.
struct Actor {
    filter: Filter,
    stream: UnixStream,
    logs: Logs,
    connection: usize,
    counts: [usize; 128],
}

impl Actor {
    fn new(filter: Filter, stream: UnixStream, logs: Logs) -> Self {
        logs.bodies.lock().unwrap().push(String::new());
        let connection = {
            let mut heard = logs.heard.lock().unwrap();
            heard.push(String::new());
            heard.len() - 1
        };
        Self {
            filter,
            stream,
            logs,
            connection,
            counts: [0; 128],
        }
    }

    async fn run(&mut self) {
        let mut input = BytesMut::new();
        let decoder = Decoder::default();
        loop {
            while let Some(frame) = decoder.decode(&mut input).unwrap() {
                let command = Command::parse(frame).unwrap();
                if !self.hear(command).await {
                    return;
                }
            }
            if !matches!(self.stream.read_buf(&mut input).await, Ok(1..)) {
                return;
            }
        }
    }

    /// `false` when the connection is over.
    async fn hear(&mut self, command: Command) -> bool {
        let letter = char::from(command.code());
        self.note(&command);
        let nth = self.counts[letter as usize];
        self.counts[letter as usize] += 1;
        // The last line that fits counts.
        let cue = self.filter.cues.iter().rev().find(|cue| {
            cue.letter == letter
                && cue.nth.is_none_or(|wanted| wanted == nth)
                && cue
                    .connection
                    .is_none_or(|wanted| wanted == self.connection)
        });
        let act = match (cue, &command) {
            (Some(cue), _) => cue.act.clone(),
            (None, Command::Negotiate(_)) => {
                Act::Say(vec![Reply::Negotiate(self.filter.answer.clone())])
            }
            (None, Command::Quit) => return false,
            (None, command) if self.owes(command) => Act::Say(vec![Reply::Continue]),
            (None, _) => return true,
        };
        self.act(act).await
    }

    fn owes(&self, command: &Command) -> bool {
        let silent = match command {
            Command::Connect(_) => Steps::NR_CONNECT,
            Command::Helo(_) => Steps::NR_HELO,
            Command::Mail(_) => Steps::NR_MAIL,
            Command::Rcpt(_) => Steps::NR_RCPT,
            Command::Data => Steps::NR_DATA,
            Command::Header(_) => Steps::NR_HEADER,
            Command::EndOfHeaders => Steps::NR_EOH,
            Command::Body(_) => Steps::NR_BODY,
            Command::Unknown(_) => Steps::NR_UNKNOWN,
            Command::EndOfMessage(_) => return true,
            _ => return false,
        };
        !self.filter.answer.steps.contains(silent)
    }

    async fn act(&mut self, act: Act) -> bool {
        let act = match act {
            Act::After(wait, act) => {
                tokio::time::sleep(wait).await;
                *act
            }
            Act::Progress(wait, times, act) => {
                for _ in 0..times {
                    tokio::time::sleep(wait).await;
                    self.say(&[Reply::Progress]).await;
                }
                *act
            }
            act => act,
        };
        match act {
            Act::Say(replies) => self.say(&replies).await,
            Act::SayAndClose(replies) => {
                self.say(&replies).await;
                false
            }
            Act::Raw(bytes) => self.stream.write_all(bytes).await.is_ok(),
            Act::Close | Act::After(..) | Act::Progress(..) => false,
            Act::Hang => {
                tokio::time::sleep(PATIENCE).await;
                false
            }
        }
    }

    async fn say(&mut self, replies: &[Reply]) -> bool {
        let mut out = BytesMut::new();
        for reply in replies {
            reply.encode(&mut out).unwrap();
        }
        self.stream.write_all(&out).await.is_ok()
    }

    fn note(&self, command: &Command) {
        let told = match command {
            Command::Negotiate(_) => return,
            Command::Macros(macros) => {
                let pair =
                    |(name, value): &(Bytes, Bytes)| format!("{}={}", show(name), show(value));
                let pairs: Vec<String> = macros.pairs.iter().map(pair).collect();
                let line = format!("{}|{}", char::from(macros.stage), pairs.join(" "));
                self.logs.macros.lock().unwrap().push(line);
                return;
            }
            Command::Mail(path) | Command::Rcpt(path) => {
                format!("{}{}", char::from(command.code()), show(&path.address))
            }
            Command::Helo(name) => format!("H:{}", show(name)),
            Command::Header(header) => {
                format!("L:{}={}", show(&header.name), show(&header.value))
            }
            Command::Body(chunk) => {
                let mut bodies = self.logs.bodies.lock().unwrap();
                bodies[self.connection].push_str(&show(chunk));
                "B".to_owned()
            }
            command => char::from(command.code()).to_string(),
        };
        let mut heard = self.logs.heard.lock().unwrap();
        let line = &mut heard[self.connection];
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&told);
    }
}

/// Lets everybody who can go on do so, how long that may take: proxy and filters share one thread,
/// and each pause gives all of them a turn.
pub(super) async fn settle() {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A scripted MTA.
pub(super) struct Mta {
    stream: DuplexStream,
    input: BytesMut,
    pub(super) agreed: Offer,
    server: JoinHandle<Result<(), ConnectionError>>,
}

impl Mta {
    pub(super) async fn send(&mut self, command: Command) {
        let mut out = BytesMut::new();
        command.encode(&mut out).unwrap();
        self.send_bytes(&out).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        // A proxy that has hung up is noticed by what it does not reply.
        let _ = sent.expect("the proxy takes what is sent");
    }

    pub(super) async fn macros(&mut self, stage: char, pairs: &[(&'static str, &'static str)]) {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let pairs = pairs
            .iter()
            .map(|(name, value)| (bytes(name), bytes(value)));
        self.send(Command::Macros(Macros {
            stage: stage as u8,
            pairs: pairs.collect(),
        }))
        .await;
    }

    /// The next reply; `None` when the proxy has closed.
    pub(super) async fn try_reply(&mut self) -> Option<Reply> {
        loop {
            if let Some(frame) = Decoder::default().decode(&mut self.input).unwrap() {
                return Some(Reply::parse(frame).unwrap());
            }
            let read = self.stream.read_buf(&mut self.input);
            let read = tokio::time::timeout(PATIENCE, read).await;
            if read.expect("a reply within the patience").unwrap() == 0 {
                return None;
            }
        }
    }

    pub(super) async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("the proxy has closed")
    }

    /// Whether nothing arrives for a moment.
    pub(super) async fn is_silent(&mut self) -> bool {
        self.is_silent_for(Duration::from_millis(50)).await
    }

    /// Whether nothing arrives for so long.
    pub(super) async fn is_silent_for(&mut self, wait: Duration) -> bool {
        self.input.is_empty()
            && tokio::time::timeout(wait, self.stream.read_buf(&mut self.input))
                .await
                .is_err()
    }

    /// Sends, and reads a reply where one is due.
    pub(super) async fn ask(&mut self, command: Command) -> Reply {
        let silent = match &command {
            Command::Connect(_) => Steps::NR_CONNECT,
            Command::Helo(_) => Steps::NR_HELO,
            Command::Rcpt(_) => Steps::NR_RCPT,
            Command::Data => Steps::NR_DATA,
            Command::Header(_) => Steps::NR_HEADER,
            Command::EndOfHeaders => Steps::NR_EOH,
            Command::Body(_) => Steps::NR_BODY,
            _ => Steps::empty(),
        };
        self.send(command).await;
        if !silent.is_empty() && self.agreed.steps.contains(silent) {
            return Reply::Continue;
        }
        self.reply().await
    }

    /// CONNECT and HELO, as Postfix would.
    pub(super) async fn greet(&mut self) {
        self.macros('C', &[("j", "mx.test"), ("v", "Postfix 3.7.11")])
            .await;
        assert_eq!(self.ask(connect()).await, Reply::Continue);
        assert_eq!(self.ask(helo("client.test")).await, Reply::Continue);
    }

    /// The envelope of a message for one recipient, and DATA.
    pub(super) async fn envelope(&mut self) {
        assert_eq!(self.ask(mail()).await, Reply::Continue);
        assert_eq!(self.ask(rcpt("<r@x>")).await, Reply::Continue);
        self.macros('T', &[("i", "QID1")]).await;
        if !self.agreed.steps.contains(Steps::NO_DATA) {
            assert_eq!(self.ask(Command::Data).await, Reply::Continue);
        }
    }

    /// Header and body. The first word that is not `Continue` ends it.
    pub(super) async fn content(&mut self, body: &'static str) -> Reply {
        let mut commands: Vec<Command> = Vec::new();
        if !self.agreed.steps.contains(Steps::NO_HEADERS) {
            commands.push(header("Received", " r1"));
            commands.push(header("Subject", " s"));
        }
        if !self.agreed.steps.contains(Steps::NO_EOH) {
            commands.push(Command::EndOfHeaders);
        }
        if !self.agreed.steps.contains(Steps::NO_BODY) && !body.is_empty() {
            commands.push(Command::Body(Bytes::from_static(body.as_bytes())));
        }
        for command in commands {
            match self.ask(command).await {
                Reply::Continue => {}
                // Nobody wants what is left of the body.
                Reply::Skip => break,
                reply => return reply,
            }
        }
        Reply::Continue
    }

    /// The end of the message: edits and the verdict, progress left out.
    pub(super) async fn end(&mut self) -> (Vec<Edit>, Reply) {
        self.send(Command::EndOfMessage(Bytes::new())).await;
        let mut edits = Vec::new();
        loop {
            match self.reply().await {
                Reply::Edit(edit) => edits.push(edit),
                Reply::Progress => {}
                last => return (edits, last),
            }
        }
    }

    /// A whole message after the greeting.
    pub(super) async fn message(&mut self, body: &'static str) -> (Vec<Edit>, Reply) {
        self.envelope().await;
        match self.content(body).await {
            Reply::Continue => self.end().await,
            refused => (Vec::new(), refused),
        }
    }

    /// Quits, and waits for the proxy to be done.
    pub(super) async fn quit(mut self) -> Result<(), ConnectionError> {
        self.send(Command::Quit).await;
        self.outcome().await
    }

    /// Closes, and waits for the proxy to be done.
    pub(super) async fn outcome(self) -> Result<(), ConnectionError> {
        drop(self.stream);
        let ended = tokio::time::timeout(PATIENCE, self.server).await;
        ended.expect("the proxy ends").expect("no panic")
    }
}

pub(super) fn connect() -> Command {
    Command::Connect(Connection {
        hostname: Bytes::from_static(b"client.test"),
        address: ClientAddress::Inet("192.0.2.1:1234".parse().unwrap()),
    })
}

pub(super) fn helo(name: &'static str) -> Command {
    Command::Helo(Bytes::from_static(name.as_bytes()))
}

pub(super) fn mail() -> Command {
    mailbox("<s@x>", Command::Mail)
}

pub(super) fn rcpt(address: &'static str) -> Command {
    mailbox(address, Command::Rcpt)
}

fn mailbox(address: &'static str, command: fn(Mailbox) -> Command) -> Command {
    command(Mailbox {
        address: Bytes::from_static(address.as_bytes()),
        args: Vec::new(),
    })
}

pub(super) fn header(name: &'static str, value: &'static str) -> Command {
    Command::Header(Header::new(name, value))
}

pub(super) fn text(code: u16, enhanced: &str, words: &str) -> Reply {
    Reply::SmtpReply(milter_proto::verdict::SmtpReply::new(code, enhanced, words).unwrap())
}

/// A member for a session without sockets: nothing is ever dialled.
pub(in crate::proxy) fn unreachable_member(
    number: usize,
    on_failure: OnFailure,
    pool: usize,
) -> Arc<Member> {
    Arc::new(Member {
        name: number.to_string(),
        address: Address::Unix("/nonexistent".into()),
        on_failure,
        timeouts: Timeouts::default(),
        shadow: false,
        condition: Condition::default(),
        pool,
        health: Arc::new(Health::default()),
    })
}
