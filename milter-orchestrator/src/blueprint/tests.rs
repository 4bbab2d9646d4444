//! Mistakes and oddities as data.

use super::*;
use crate::config::{Listen, Match, Milter, Names, Route as RouteSettings};
use crate::member::OnFailure;
use milter_proto::daemon::config::{FileMode, Seconds, Size};

fn names(names: &[&str]) -> Names {
    Names(names.iter().map(|name| (*name).to_owned()).collect())
}

fn spawned(name: &str) -> Milter {
    Milter {
        command: vec![format!("milter-{name}")],
        ..Milter::default()
    }
}

/// Two listeners, three milters, two routes.
pub(crate) fn settings() -> Settings {
    let listen = |socket: &str| Listen {
        socket: socket.parse().unwrap(),
        mode: FileMode::from_bits(0o660),
        group: None,
        max_connections: 10,
    };
    let spam = Milter {
        on_failure: OnFailure::Accept,
        ..spawned("spam")
    };
    let legacy = Milter {
        socket: Some("inet:11332@127.0.0.1".parse().unwrap()),
        ..Milter::default()
    };
    let mut settings = Settings {
        listen: BTreeMap::from([
            ("inbound".to_owned(), listen("inet:10025@127.0.0.1")),
            (
                "submission".to_owned(),
                listen("unix:/run/test/submission.sock"),
            ),
        ]),
        milter: BTreeMap::from([
            ("dkim".to_owned(), spawned("dkim")),
            ("spam".to_owned(), spam),
            ("legacy".to_owned(), legacy),
        ]),
        route: vec![
            RouteSettings {
                name: Some("outbound".to_owned()),
                condition: Match {
                    listen: names(&["submission"]),
                    authenticated: Some(true),
                    ..Match::default()
                },
                chain: Some(vec![names(&["dkim"])]),
                strict: false,
            },
            RouteSettings {
                name: Some("inbound".to_owned()),
                condition: Match {
                    listen: names(&["inbound"]),
                    ..Match::default()
                },
                chain: Some(vec![names(&["dkim", "spam"]), names(&["legacy"])]),
                strict: false,
            },
        ],
        ..Settings::default()
    };
    settings.supervisor.directory = PathBuf::from("/run/test");
    settings
}

/// The mistake that `change` makes: its path, and what is said of it.
fn mistake(change: impl FnOnce(&mut Settings)) -> (String, String) {
    let mut settings = settings();
    change(&mut settings);
    let error = draw(&settings).unwrap_err();
    (error.path, format!("{}; {}", error.message, error.help))
}

fn milter<'a>(settings: &'a mut Settings, name: &str) -> &'a mut Milter {
    settings.milter.get_mut(name).unwrap()
}

type Change = fn(&mut Settings);

/// Each change makes the mistake at the path, and these words are said of it.
fn check(table: &[(Change, &str, &str)]) {
    for (change, path, words) in table {
        let (at, said) = mistake(change);
        assert_eq!(at, *path, "{said}");
        assert!(said.contains(words), "{path}: {said}");
    }
}

#[test]
fn mistakes_in_listeners_have_a_path_and_advice() {
    check(&[
        (|s| s.listen.clear(), "", "[listen.inbound]"),
        (
            |s| {
                let twin = s.listen["inbound"].clone();
                s.listen.insert("twin".to_owned(), twin);
            },
            "listen.twin.socket",
            "[listen.inbound] already",
        ),
        (
            |s| {
                let odd = s.listen["inbound"].clone();
                s.listen.insert("a.b".to_owned(), odd);
            },
            "listen.a.b",
            "letters, digits",
        ),
        (
            |s| s.listen.get_mut("inbound").unwrap().max_connections = 0,
            "listen.inbound.max_connections",
            "512",
        ),
    ]);
}

#[test]
fn mistakes_about_processes_have_a_path_and_advice() {
    check(&[
        (
            |s| milter(s, "dkim").group = Some("root".to_owned()),
            "milter.dkim.group",
            "add user",
        ),
        (
            |s| milter(s, "dkim").user = Some("no such user".to_owned()),
            "milter.dkim.user",
            "useradd --system",
        ),
        (
            |s| {
                let dkim = milter(s, "dkim");
                dkim.user = Some("root".to_owned());
                dkim.group = Some("no such group".to_owned());
            },
            "milter.dkim.group",
            "groupadd --system",
        ),
        (
            |s| milter(s, "dkim").memory = Some(Size::from_bytes(4096)),
            "milter.dkim.memory",
            "512MB",
        ),
        (
            |s| milter(s, "dkim").open_files = Some(3),
            "milter.dkim.open_files",
            "1024",
        ),
        (
            |s| milter(s, "dkim").nice = 20,
            "milter.dkim.nice",
            "0 to 19",
        ),
        (
            |s| {
                let dkim = milter(s, "dkim");
                dkim.command.clear();
                dkim.socket = Some("inet:11332@127.0.0.1".parse().unwrap());
                dkim.nice = 3;
            },
            "milter.dkim.nice",
            "somebody else's",
        ),
    ]);
}

#[test]
fn mistakes_in_milters_have_a_path_and_advice() {
    check(&[
        (
            |s| milter(s, "dkim").command.clear(),
            "milter.dkim",
            "neither a command",
        ),
        (
            |s| milter(s, "dkim").command[0].clear(),
            "milter.dkim.command",
            "no name",
        ),
        (
            |s| milter(s, "dkim").command.push("a\0b".to_owned()),
            "milter.dkim.command",
            "NUL",
        ),
        (
            |s| milter(s, "legacy").socket = "inet:0@localhost".parse().ok(),
            "milter.legacy.socket",
            "port 0",
        ),
        (
            |s| milter(s, "dkim").binds_itself = true,
            "milter.dkim.binds_itself",
            "add socket",
        ),
        (
            |s| milter(s, "legacy").binds_itself = true,
            "milter.legacy.binds_itself",
            "leave it out",
        ),
        (
            |s| milter(s, "dkim").pool = 257,
            "milter.dkim.pool",
            "a number up to 256",
        ),
        (
            |s| {
                milter(s, "dkim").pool = 1;
                milter(s, "dkim").shadow = true;
            },
            "milter.dkim.pool",
            "leave pool out, or shadow",
        ),
        (
            |s| {
                let variables = &mut milter(s, "dkim").environment;
                variables.insert("A=B".to_owned(), String::new());
            },
            "milter.dkim.environment",
            "variable",
        ),
        (
            |s| milter(s, "dkim").start_timeout = Seconds::default(),
            "milter.dkim.start_timeout",
            "some time",
        ),
        (
            |s| {
                let taken = s.listen["inbound"].socket.clone();
                milter(s, "legacy").socket = Some(taken);
            },
            "milter.legacy.socket",
            "[listen.inbound] already",
        ),
    ]);
}

#[test]
fn mistakes_in_routes_have_a_path_and_advice() {
    check(&[
        (|s| s.route.clear(), "", "[[route]]"),
        (
            |s| s.route[1].chain = Some(vec![names(&["dkim", "spm"])]),
            "route.1.chain.0",
            "did you mean \"spam\"?",
        ),
        (
            |s| s.route[1].chain = Some(vec![names(&["dkim"]), names(&[])]),
            "route.1.chain.1",
            "empty list",
        ),
        (
            |s| s.route[1].chain = Some(vec![names(&["dkim"]), names(&["spam", "dkim"])]),
            "route.1.chain.1",
            "once in a chain",
        ),
        (|s| s.route[0].chain = None, "route.0", "chain = []"),
        (
            |s| s.route[0].name = Some("inbound".to_owned()),
            "route.1.name",
            "name of its own",
        ),
        (
            |s| s.route[0].condition.listen = names(&["submision"]),
            "route.0.match.listen",
            "did you mean \"submission\"?",
        ),
        (
            |s| s.route[0].condition.client = names(&["192.0.2.0/33"]),
            "route.0.match.client",
            "192.0.2.0/24",
        ),
    ]);
}

#[test]
fn directories_and_control_sockets_must_be_usable() {
    let long = |s: &mut Settings| s.supervisor.directory = format!("/{}", "x".repeat(120)).into();
    assert_eq!(mistake(long).0, "supervisor.directory");
    let relative = |s: &mut Settings| s.supervisor.directory = "run".into();
    assert_eq!(mistake(relative).0, "supervisor.directory");
    let network = |s: &mut Settings| s.control.socket = "inet:1@localhost".parse().unwrap();
    assert_eq!(mistake(network).0, "control.socket");
    let nowhere = |s: &mut Settings| s.limits.spool_directory = "/nonexistent".into();
    assert_eq!(mistake(nowhere).0, "limits.spool_directory");
    let nothing = |s: &mut Settings| s.limits.header_fields = 0;
    assert_eq!(mistake(nothing).0, "limits.header_fields");
    let stall = |s: &mut Settings| s.limits.stall_timeout = Seconds::default();
    assert_eq!(mistake(stall).0, "limits.stall_timeout");
    let finish = |s: &mut Settings| s.limits.finish_timeout = Seconds::default();
    assert_eq!(mistake(finish).0, "limits.finish_timeout");
    let headers = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let no_received = |s: &mut Settings| s.sendmail.headers = headers(&["Date", "From"]);
    assert_eq!(mistake(no_received).0, "sendmail.headers");
    let flags = |s: &mut Settings| s.sendmail.headers = headers(&["?D?Date:", "Received"]);
    assert_eq!(mistake(flags).0, "sendmail.headers");
    let never = |s: &mut Settings| s.supervisor.probe_interval = Seconds::default();
    assert_eq!(mistake(never).0, "supervisor.probe_interval");
}

#[test]
fn all_mistakes_are_found_at_once() {
    let mut settings = settings();
    settings.listen.get_mut("inbound").unwrap().max_connections = 0;
    milter(&mut settings, "dkim").command.clear();
    milter(&mut settings, "spam").pool = 1000;
    settings.route[0].chain = Some(vec![names(&["dkmi", "spam", "spam"])]);
    settings.route[1].condition.client = names(&["nonsense", "192.0.2.0/33"]);
    settings.limits.header_fields = 0;
    settings.supervisor.probe_interval = Seconds::default();
    settings.sendmail.headers.clear();
    let mistakes = survey(&settings, &Known::new()).unwrap_err();
    let paths: Vec<&str> = mistakes.iter().map(|mistake| &*mistake.path).collect();
    assert_eq!(
        paths,
        [
            "listen.inbound.max_connections",
            "milter.dkim",
            "milter.spam.pool",
            "route.0.chain.0",
            "route.0.chain.0",
            "route.1.match.client",
            "route.1.match.client",
            "supervisor.probe_interval",
            "limits.header_fields",
            "sendmail.headers",
        ]
    );
}

#[test]
fn what_is_odd_and_legal_is_a_warning() {
    let warnings = |change: Change| {
        let mut settings = settings();
        change(&mut settings);
        let warnings = draw(&settings).unwrap().warnings;
        let said: Vec<String> = warnings.into_iter().map(|odd| odd.message).collect();
        said.join("\n")
    };
    let normal = warnings(|_| {});
    assert!(normal.contains("[listen.submission]"), "{normal}");
    assert!(!normal.contains("[listen.inbound]"), "{normal}");

    let unused = warnings(|s| s.route[1].chain = Some(vec![names(&["dkim"])]));
    assert!(unused.contains("[milter.spam] is in no chain"), "{unused}");

    let shadowed = warnings(|s| s.route[0].condition = Match::default());
    assert!(
        shadowed.contains("route \"inbound\" never matches"),
        "{shadowed}"
    );
    assert!(!shadowed.contains("[listen.submission]"), "{shadowed}");
}

#[test]
fn only_milters_of_some_chain_are_wanted_and_known_ones_keep_place_and_health() {
    let mut settings = settings();
    settings.route.pop();
    let health = Arc::new(Health::default());
    health.counters().message(crate::counters::Word::Continue);
    let address: Address = "unix:/run/test/dkim.2.sock".parse().unwrap();
    let running = Running {
        address: address.clone(),
        health,
    };
    let known = Known::from([("dkim".to_owned(), running)]);
    let blueprint = redraw(&settings, &known).unwrap();
    let [only] = blueprint.milters.as_slice() else {
        panic!("{:?}", blueprint.milters);
    };
    assert_eq!(only.member.name, "dkim");
    assert_eq!(only.member.health.messages(), 1);
    assert_eq!(only.member.address, address);
    assert!(matches!(only.source, Source::HandOver(_)));
}
