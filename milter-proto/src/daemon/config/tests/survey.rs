//! Several mistakes in one file, and what is not told because it follows from another one.

use std::collections::BTreeMap;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::daemon::config::load::Source;
use crate::daemon::config::{Common, ConfigError, Log, Seconds, Server};
use crate::daemon::{CommandContext, Failure, Host, NoCommand, Program};

/// A program with sections whose names it refers to.
#[derive(Debug)]
struct Sample;

#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Doors by name.
    door: BTreeMap<String, Door>,
    /// Ways in.
    way: Vec<Way>,
    /// Where it listens.
    server: Server,
}

/// A door.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Door {
    /// Its colour.
    colour: String,
    /// How long it stays open.
    #[serde(default)]
    open: Seconds,
}

/// A way in.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Way {
    /// Doors, one after the other.
    through: Option<Vec<String>>,
    /// How many at a time.
    width: u16,
}

impl Program for Sample {
    const NAME: &'static str = "sample";
    const ABOUT: &'static str = "Stands for a program";
    const CONFIG: &'static str = "/etc/sample.toml";
    type Settings = Settings;
    type Command = NoCommand;

    fn common(settings: &Settings) -> Common {
        Common::filter(&settings.server, &Log::default())
    }

    fn survey(settings: &Settings) -> Vec<ConfigError> {
        let mut mistakes = Vec::new();
        for (number, way) in settings.way.iter().enumerate() {
            let at = format!("way.{number}");
            let Some(through) = &way.through else {
                mistakes.push(ConfigError::at(at, "the way leads nowhere"));
                continue;
            };
            for door in through
                .iter()
                .filter(|door| !settings.door.contains_key(*door))
            {
                let message = format!("there is no door {door:?}");
                mistakes.push(ConfigError::at(format!("{at}.through"), message));
            }
        }
        mistakes
    }

    fn prepare(_: Settings) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    async fn run(self, _host: Host<Self>) -> Result<(), Failure> {
        Ok(())
    }

    fn command(command: NoCommand, _cx: CommandContext<'_, Self>) -> Result<ExitCode, Failure> {
        match command {}
    }
}

/// Line and first words of every mistake.
fn mistakes(text: &str) -> Vec<String> {
    let Err(failure) = Source::of_text("s", text).program::<Sample>() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut title = "";
    for line in failure.message.lines() {
        match line.trim_start().strip_prefix("--> s") {
            Some(place) => {
                let number = place.trim_start_matches(':').split(':').next();
                found.push(format!("{} {title}", number.unwrap_or_default()));
            }
            None => title = line,
        }
    }
    found
}

#[test]
fn all_mistakes_of_a_file_are_told_in_its_order() {
    let text = "\
[door.front]
colour = \"red\"
opne = \"5s\"
[door.back]
colour = \"green\"
open = 5
[server]
max_connections = 0
user = \"nobody-of-that-name\"
stall_timeout = \"0s\"
[[way]]
through = [\"front\", \"bcak\", \"side\"]
width = \"wide\"
[[way]]
";
    assert_eq!(
        mistakes(text),
        [
            "3 unknown key `opne` in [door.front]",
            "6 `open`: expected a duration such as \"5s\" (units: ms, s, m, h, d; at most ten \
             years), found integer `5`",
            "8 0 lets nobody in",
            "9 user \"nobody-of-that-name\" does not exist: create it with `useradd --system \
             nobody-of-that-name`, or name another",
            "10 in no time nothing can be done",
            "12 there is no door \"bcak\"",
            "12 there is no door \"side\"",
            "13 `width`: expected a whole number, found string \"wide\"",
            "14 the way leads nowhere",
        ]
    );
}

#[test]
fn what_follows_from_a_mistake_is_not_told() {
    for (text, expected) in [
        // The door is there, though nothing is known of its colour.
        (
            "[door.a]\ncolour = 5\n[[way]]\nthrough = [\"a\"]",
            vec!["2 `colour`: expected a string in quotes, found integer `5`"],
        ),
        (
            "[[way]]\nthrough = \"a\"",
            vec!["2 `through`: expected a list, found string \"a\""],
        ),
        (
            "[door.a]\ncolour = \"x\"\ncolour = \"y\"\n[[way]]\nthrough = [\"b\"]",
            vec!["3 duplicate key", "5 there is no door \"b\""],
        ),
    ] {
        assert_eq!(mistakes(text), expected, "{text}");
    }
}

#[test]
fn text_that_is_no_toml_is_told_alone() {
    let found = mistakes("a = [\n[[way]]\nthrough = [\"b\"]\n");
    assert!(!found.is_empty());
    assert!(found.iter().all(|one| !one.contains("door")), "{found:?}");
}

#[test]
fn very_many_mistakes_have_an_end() {
    let text: String = (0..1000).map(|number| format!("k{number} = 1\n")).collect();
    assert_eq!(mistakes(&text).len(), super::MISTAKES_MAX);
}
