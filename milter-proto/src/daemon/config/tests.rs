//! Mistakes in configuration files and what is said about them; defaults and where they hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::load::Source;
use super::{
    Common, ConfigError, Log, Seconds, Secret, Server, Size, default_file, effective,
    round_trip_of_defaults,
};
use crate::daemon::exit::{EX_CONFIG, EX_NOINPUT, EX_NOPERM};
use crate::daemon::{CommandContext, Failure, Host, NoCommand, Program};

/// A program with one of everything that settings can hold.
struct Sample;

/// Its settings.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Greets in the log.
    greeting: String,
    /// Where it listens.
    server: Server,
    log: Log,
    /// How names are looked up.
    dns: Dns,
    /// Keys, the first that fits.
    keys: Vec<Key>,
    /// What each check counts.
    weights: BTreeMap<String, f64>,
    /// Other machines by name.
    peers: BTreeMap<String, Peer>,
    /// Shared state; without it everything is local.
    store: Option<Store>,
    /// What to do when in doubt.
    policy: Option<Policy>,
    /// Who vouches.
    voucher: Voucher,
}

/// Names.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Dns {
    /// How long to wait.
    timeout: Seconds,
    /// Bytes to keep.
    cache: Size,
    /// How many at a time.
    parallel: u16,
    /// Whom to ask.
    servers: Vec<String>,
    /// Ask at all.
    enabled: bool,
}

/// A key.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Key {
    /// Whose.
    domain: String,
    /// Where it is.
    file: String,
}

/// Another machine.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Peer {
    /// Its port.
    port: u16,
    /// More about it.
    about: BTreeMap<String, String>,
    /// Names it asks.
    dns: Dns,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            port: 25,
            about: BTreeMap::new(),
            dns: Dns::default(),
        }
    }
}

/// Shared state.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Store {
    /// Where.
    url: String,
    /// What it wants to hear.
    password: Secret,
}

/// In doubt.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Policy {
    /// Let it pass.
    Accept,
    /// Not now.
    Tempfail,
    /// Never.
    Reject,
}

/// Somebody who vouches.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Voucher {
    Nobody,
    Token { token: Secret },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            greeting: "hello".to_owned(),
            server: Server::on_port(8891),
            log: Log::default(),
            dns: Dns {
                timeout: Seconds::from_secs(5),
                ..Dns::default()
            },
            keys: vec![Key {
                domain: "example.org".to_owned(),
                ..Key::default()
            }],
            weights: BTreeMap::from([("A.B".to_owned(), 1.5), ("C".to_owned(), -2.0)]),
            peers: BTreeMap::new(),
            store: None,
            policy: None,
            voucher: Voucher::Nobody,
        }
    }
}

impl Program for Sample {
    const NAME: &'static str = "milter-sample";
    const ABOUT: &'static str = "Is there for tests";
    const CONFIG: &'static str = "/etc/milter/sample.toml";
    type Settings = Settings;
    type Command = NoCommand;

    fn common(settings: &Settings) -> Common {
        Common::filter(&settings.server, &settings.log)
    }

    fn prepare(settings: Settings) -> Result<Self, ConfigError> {
        for (index, key) in settings.keys.iter().enumerate() {
            if key.file == "bad" {
                let path = format!("keys.{index}.file");
                return Err(ConfigError::at(path, "not a key").help("write a path to a PEM file"));
            }
        }
        match settings.dns.parallel {
            13 => Err(ConfigError::at(
                "dns.cache",
                "too small for so many at a time",
            )),
            14 => Err(ConfigError::at("store.url", "nothing works without")),
            15 => Err(ConfigError::at("", "nothing fits together")),
            _ => Ok(Self),
        }
    }

    async fn run(self, _host: Host<Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn command(command: NoCommand, _cx: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        match command {}
    }
}

fn load(text: &str) -> Result<Settings, Failure> {
    let source = Source::of_text("sample.toml", text);
    source.program::<Sample>()?;
    source.settings::<Sample>()
}

/// `text` is refused at `place` (`line:column`), and all of `says` is said.
fn refused(text: &str, place: &str, says: &[&str]) {
    let failure = load(text).unwrap_err();
    assert_eq!(failure.code, EX_CONFIG, "{text:?}");
    let arrow = format!(
        "--> sample.toml{}{place}",
        if place.is_empty() { "" } else { ":" }
    );
    for part in says.iter().copied().chain([arrow.as_str()]) {
        assert!(
            failure.message.contains(part),
            "{text:?}: no {part:?} in\n{failure}"
        );
    }
}

#[test]
fn a_mistake_is_shown_as_a_compiler_would() {
    let failure = load("[server]\nsokcet = \"inet:1@localhost\"\n").unwrap_err();
    let expected = "\
unknown key `sokcet` in [server]
 --> sample.toml:2:1
  |
2 | sokcet = \"inet:1@localhost\"
  | ^^^^^^
  |
  = help: did you mean `socket`?";
    assert_eq!(failure.message, expected);
}

#[test]
fn unknown_keys() {
    for (text, place, says) in [
        ("[sever]\n", "1:2", ["`sever`", "did you mean `server`?"]),
        (
            "[dns]\ntimout = 1\n",
            "2:1",
            ["`timout` in [dns]", "`timeout`"],
        ),
        ("[dns]\nTIMEOUT = 1\n", "2:1", ["`TIMEOUT`", "`timeout`"]),
        (
            "[server]\nidle-timeout = \"1s\"",
            "2:1",
            ["`idle-timeout`", "`idle_timeout`"],
        ),
        (
            "[dns]\nsocket = 1",
            "2:1",
            ["`socket` in [dns]", "`socket` belongs in [server]"],
        ),
        (
            "[dns]\ngreeting = 1",
            "2:1",
            ["`greeting`", "at the top of the file"],
        ),
        (
            "[dns]\nzzz = 1",
            "2:1",
            [
                "`zzz`",
                "known are: timeout, cache, parallel, servers, enabled",
            ],
        ),
        (
            "[[keys]]\n[[keys]]\ndomian = 'x'",
            "3:1",
            ["`domian` in [keys.1]", "`domain`"],
        ),
        (
            "[peers.a]\nprot = 1",
            "2:1",
            ["`prot` in [peers.a]", "did you mean `port`?"],
        ),
        (
            "[store]\npasword = 'x'",
            "2:1",
            ["`pasword` in [store]", "`password`"],
        ),
        (
            "dns = { x = 1 }",
            "1:9",
            ["unknown key `x` in [dns]", "known are"],
        ),
    ] {
        refused(text, place, &says);
    }
}

#[test]
fn wrong_values() {
    for (text, place, says) in [
        (
            "[server]\nmax_connections = \"many\"",
            "2:19",
            [
                "`max_connections`: expected a whole number, found string \"many\"",
                "max_connections = 512",
            ],
        ),
        (
            "[server]\nidle_timeout = 5",
            "2:16",
            ["expected a duration such as \"5s\"", "found integer `5`"],
        ),
        (
            "[server]\nmode = 0660",
            "2:8",
            ["unexpected leading zero", "help: write it in quotes"],
        ),
        (
            "[server]\nmode = 660",
            "2:8",
            [
                "expected a file mode in octal such as \"0660\"",
                "found integer",
            ],
        ),
        (
            "[server]\nsocket = 25",
            "2:10",
            [
                "expected a string in quotes, found integer `25`",
                "socket = ",
            ],
        ),
        ("[dns]\nparallel = -1", "2:12", ["`parallel`: ", "-1"]),
        ("[dns]\nparallel = 65536", "2:12", ["`parallel`: ", "65536"]),
        (
            "[dns]\nenabled = \"yes\"",
            "2:11",
            ["expected true or false, found string", "enabled = false"],
        ),
        (
            "[dns]\nservers = \"1.1.1.1\"",
            "2:11",
            ["expected a list, found string", ""],
        ),
        (
            "[dns]\nservers = [\"a\", 2]",
            "2:17",
            ["expected a string in quotes, found integer `2`", ""],
        ),
        (
            "server = 5",
            "1:10",
            ["expected a table, found integer", ""],
        ),
    ] {
        refused(text, place, &says);
    }
}

#[test]
fn wrong_words_and_wrong_texts() {
    for (text, place, says) in [
        (
            "[server]\nsocket = \"localhost\"",
            "2:10",
            ["\"localhost\" names no kind of socket", "inet:port@host"],
        ),
        (
            "[dns]\ncache = \"1XB\"",
            "2:9",
            ["\"1XB\" is not a size", "KB, MB, GB"],
        ),
        (
            "[dns]\ntimeout = \"5 apples\"",
            "2:11",
            [
                "`timeout`: \"5 apples\" is not a duration",
                "ms, s, m, h, d",
            ],
        ),
        (
            "[log]\nlevel = \"infos\"",
            "2:9",
            [
                "unknown value \"infos\" for `level`",
                "did you mean \"info\"?",
            ],
        ),
        (
            "policy = \"whatever\"",
            "1:10",
            [
                "unknown value \"whatever\"",
                "\"accept\", \"tempfail\", \"reject\"",
            ],
        ),
    ] {
        refused(text, place, &says);
    }
}

#[test]
fn text_that_is_no_toml() {
    for (text, place, says) in [
        ("[server\n", "1:8", "`]`"),
        (
            "[dns]\nenabled = true\nenabled = false\n",
            "3:1",
            "duplicate key",
        ),
        ("[dns]\n[dns]\n", "2:", "duplicate key"),
        ("greeting = hello\n", "1:12", "string values must be quoted"),
        ("greeting = \"hello\n", "1:18", "\""),
        ("greeting", "1:9", "="),
    ] {
        refused(text, place, &[says]);
    }
}

#[test]
fn what_the_program_refuses_names_the_line() {
    refused(
        "[[keys]]\nfile = 'good'\n[[keys]]\nfile = 'bad'\n",
        "4:8",
        &[
            "not a key",
            "4 | file = 'bad'",
            "help: write a path to a PEM file",
        ],
    );
    refused("[dns]\nparallel = 13\n", "1:2", &["dns.cache: too small"]);
    refused("[dns]\nparallel = 14\n", "", &["store.url: nothing works"]);
    refused("[dns]\nparallel = 15\n", "", &["nothing fits together"]);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let read = |path: &Path| Source::read::<Sample>(path).unwrap_err();

    let missing = folder.path().join("none.toml");
    let failure = read(&missing);
    assert_eq!(failure.code, EX_NOINPUT);
    let advice = format!("`milter-sample default-config > {}`", missing.display());
    assert!(failure.message.contains(&advice), "{failure}");

    let failure = read(folder.path());
    assert_eq!(failure.code, EX_NOINPUT);
    assert!(failure.message.contains("is a directory"), "{failure}");

    let latin = folder.path().join("latin.toml");
    fs::write(&latin, b"# fine\n# \xfcber\n").unwrap();
    let failure = read(&latin);
    assert_eq!(failure.code, EX_CONFIG);
    assert!(failure.message.contains("latin.toml:2:3"), "{failure}");
    assert!(failure.message.contains("not UTF-8"), "{failure}");

    let huge = folder.path().join("huge.toml");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    assert!(read(&huge).message.contains("larger than"));

    let hidden = folder.path().join("hidden.toml");
    fs::write(&hidden, "").unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o0)).unwrap();
    // Root may read everything; then there is nothing to refuse.
    if let Err(failure) = Source::read::<Sample>(&hidden) {
        assert_eq!(failure.code, EX_NOPERM);
        assert!(failure.message.contains("may not read it"), "{failure}");
    }
}

#[test]
fn a_file_that_all_may_write_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("open.toml");
    fs::write(&path, "").unwrap();
    for (mode, warned) in [(0o600, false), (0o644, false), (0o646, true), (0o666, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let warning = Source::read::<Sample>(&path).unwrap().warnings();
        assert_eq!(warning.is_some(), warned, "{mode:o} {warning:?}");
    }
}

#[test]
fn a_section_in_part_keeps_the_programs_defaults() {
    let settings = load("[server]\nmax_connections = 7\n[dns]\nparallel = 2\n").unwrap();
    assert_eq!(settings.server.max_connections, 7);
    assert_eq!(settings.server.socket.to_string(), "inet:8891@127.0.0.1");
    assert_eq!(settings.dns.parallel, 2);
    assert_eq!(settings.dns.timeout, Seconds::from_secs(5));
}

#[test]
fn names_add_to_the_defaults_and_lists_replace_them() {
    let settings = load("[weights]\nC = 9\nD = 1\n[[keys]]\nfile = 'x'\n").unwrap();
    let weights: Vec<_> = settings.weights.into_iter().collect();
    let expected = [("A.B", 1.5), ("C", 9.0), ("D", 1.0)];
    assert_eq!(
        weights,
        expected.map(|(name, weight)| (name.to_owned(), weight))
    );
    assert_eq!(settings.keys.len(), 1);
    assert_eq!(settings.keys[0].domain, "");
}

#[test]
fn the_default_file_means_the_defaults() {
    round_trip_of_defaults::<Sample>().unwrap();
}

#[test]
fn the_default_file_shows_every_key_with_its_doc() {
    let text = default_file::<Sample>().unwrap();
    for part in [
        "# Greets in the log.\n#greeting = \"hello\"\n",
        "# Where it listens.\n[server]\n",
        "#socket = \"inet:8891@127.0.0.1\"\n",
        "#group = \"...\"  # not set\n",
        "# - \"info\": Start, stop, reload, and one line for each message.\n",
        "#level = \"info\"\n",
        "#[[keys]]\n",
        "#domain = \"example.org\"\n",
        "[weights]\n#\"A.B\" = 1.5\n",
        "#[peers.NAME]\n",
        "#port = 25\n",
        "#[peers.NAME.about]\n",
        "#[peers.NAME.dns]\n",
        "# Shared state; without it everything is local.\n#[store]\n",
        "# - \"tempfail\": Not now.\n",
        "#policy = \"...\"  # not set\n",
        "#voucher = { kind = \"nobody\" }\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let too_wide = text.lines().find(|line| line.chars().count() > 100);
    assert_eq!(too_wide, None);
}

#[test]
fn the_effective_configuration_tells_origins_and_keeps_secrets() {
    let text = "\
policy = \"reject\"
[store]
url = \"redis://x\"
password = \"hunter2\"
[server]
mode = \"0600\"
[[keys]]
domain = \"a.example\"
[voucher]
kind = \"token\"
token = \"hunter3\"
";
    let source = Source::of_text("sample.toml", text);
    let printed = effective::<Sample>(&source).unwrap();
    for part in [
        "greeting = \"hello\"  # default\n",
        "policy = \"reject\"  # sample.toml:1\n",
        "url = \"redis://x\"  # sample.toml:3\n",
        "password = \"***\"  # sample.toml:4\n",
        "socket = \"inet:8891@127.0.0.1\"  # default\n",
        "mode = \"0600\"  # sample.toml:6\n",
        "\n[[keys]]\ndomain = \"a.example\"  # sample.toml:8\nfile = \"\"  # default\n",
        "\"A.B\" = 1.5  # default\n",
        "voucher = \"***\"  # sample.toml:9\n",
    ] {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    assert!(!printed.contains("hunter"), "{printed}");
    assert!(toml::from_str::<toml::Table>(&printed).is_ok(), "{printed}");
}

/// Whatever is written, there is an answer and no panic: cut anywhere, with anything anywhere.
#[test]
fn no_text_is_too_strange() {
    const TEXT: &str = "\
greeting = \"\u{fc}\"
[server]
mode = \"0600\"
[[keys]]
file = 'a'
[weights]
\"A.B\" = 1.0
";
    for at in (0..=TEXT.len()).filter(|at| TEXT.is_char_boundary(*at)) {
        let (before, after) = TEXT.split_at(at);
        let _ = load(before);
        for strange in [
            "\0", "\"", "[", "]", "=", ".", "\n", "\r", "\u{e9}", "{", "0", "''",
        ] {
            let _ = load(&format!("{before}{strange}{after}"));
        }
    }
    for deep in ["[", "a.", "a={", "[[", "a=[["] {
        let text = deep.repeat(100_000);
        assert!(load(&text).is_err());
        assert!(load(&format!("x = {text}")).is_err());
    }
}
