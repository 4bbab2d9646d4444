//! Statements, one a line, into a scenario.

use bytes::Bytes;

use super::command::{command, option};
use super::line::{Line, Token, string};
use super::reply::{acts, bytes, expectations};
use super::{Mistake, ScriptError};
use crate::testkit::mta::{MtaScript, Turn};
use crate::testkit::scenario::{Chain, Claim, Dialogue, OnFailure, Place, Scenario, SmtpStep};
use crate::testkit::script::{At, Cue, FilterScript, Nth};

const STATEMENTS: &str = "write filter, chain, mta, smtp or told";

/// What the last statement of its own line was, that the next lines are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    None,
    Filter,
    Chain,
    Mta,
    Smtp,
}

/// What has been read so far.
struct Reader {
    scenario: Scenario,
    section: Section,
    /// Whether the text names a chain.
    chained: bool,
}

/// Reads a whole text.
pub(in crate::testkit) fn parse(file: &str, source: &str) -> Result<Scenario, ScriptError> {
    let mut reader = Reader {
        scenario: Scenario::default(),
        section: Section::None,
        chained: false,
    };
    for (number, text) in statements(source) {
        reader.line(&text).map_err(|mistake| ScriptError {
            file: file.to_owned(),
            line: number,
            what: mistake.what,
            instead: mistake.instead,
        })?;
    }
    let mut scenario = reader.scenario;
    if !reader.chained {
        scenario.chain = Chain::of(scenario.filters.iter().map(|filter| filter.name.as_str()));
    }
    Ok(scenario)
}

/// The statements with the number of their first line: one that ends in `;` goes on in the next.
/// What is sent as it is (`|`, `C:`) is never a part of one.
fn statements(source: &str) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, text) in source.lines().enumerate() {
        let text = text.trim();
        match statements.last_mut() {
            Some((_, statement)) if goes_on => {
                statement.push(' ');
                statement.push_str(text);
            }
            _ => statements.push((index + 1, text.to_owned())),
        }
        let verbatim = !goes_on && (text.starts_with('|') || text.starts_with("C:"));
        goes_on =
            !verbatim && text.ends_with(';') && Line::new(text).is_ok_and(|line| line.goes_on());
    }
    statements
}

impl Reader {
    fn line(&mut self, text: &str) -> Result<(), Mistake> {
        if let Some(rest) = text.strip_prefix('|') {
            return self.message_line(rest.strip_prefix(' ').unwrap_or(rest));
        }
        if let Some(rest) = text.strip_prefix("C:") {
            let step = SmtpStep::Command(verbatim(rest.trim())?);
            self.dialogue("C:")?.steps.push(step);
            return Ok(());
        }
        let mut line = Line::new(text)?;
        if line.is_done() {
            return Ok(());
        }
        let word = line.word("a statement", STATEMENTS)?;
        match (word.as_str(), self.section) {
            ("filter", _) => self.filter(&mut line)?,
            ("chain", _) => self.chain(&mut line)?,
            ("mta", _) => {
                self.scenario.mtas.push(MtaScript::default());
                self.section = Section::Mta;
            }
            ("smtp", _) => {
                self.scenario.smtp.push(Dialogue::default());
                self.section = Section::Smtp;
            }
            ("told", _) => {
                let claim = self.claim(&mut line)?;
                self.scenario.claims.push(claim);
                self.section = Section::None;
            }
            (">" | "<", _) => self.turn(&word, &mut line)?,
            (word, Section::Filter) => self.of_filter(word, &mut line)?,
            (word, Section::Chain) => self.of_chain(word, &mut line)?,
            (word, Section::None | Section::Mta | Section::Smtp) => {
                return Err(Mistake::new(
                    format!("{word:?} is no statement"),
                    STATEMENTS,
                ));
            }
        }
        line.end()
    }

    fn filter(&mut self, line: &mut Line) -> Result<(), Mistake> {
        let name = line.word("the filter's name", "filter first")?;
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            let instead = "write letters, digits, dots, hyphens and underscores";
            return Err(Mistake::new(format!("{name:?} is no name"), instead));
        }
        if self.scenario.filter(&name).is_some() {
            let what = format!("there is a filter {name:?} already");
            return Err(Mistake::new(what, "give this one another name"));
        }
        self.scenario.filters.push(FilterScript::new(name));
        self.section = Section::Filter;
        Ok(())
    }

    fn of_filter(&mut self, word: &str, line: &mut Line) -> Result<(), Mistake> {
        // The section began with a filter.
        let Some(filter) = self.scenario.filters.last_mut() else {
            return Err(Mistake::new("there is no filter", STATEMENTS));
        };
        match word {
            "at" => filter.cues.push(cue(line)?),
            "version" | "actions" | "steps" | "macros" => option(word, line, &mut filter.offer)?,
            other => {
                return Err(Mistake::new(
                    format!("{other:?} says nothing about a filter"),
                    "write version, actions, steps, macros or at",
                ));
            }
        }
        Ok(())
    }

    fn chain(&mut self, line: &mut Line) -> Result<(), Mistake> {
        if self.chained {
            let what = "there is a chain already";
            return Err(Mistake::new(what, "write all filters in one line"));
        }
        self.chained = true;
        self.section = Section::Chain;
        while !line.is_done() {
            let mut segment = Vec::new();
            if line.marks('[') {
                while !line.marks(']') {
                    segment.push(self.place(line, &segment)?);
                }
            } else {
                segment.push(self.place(line, &[])?);
            }
            self.scenario.chain.segments.push(segment);
        }
        Ok(())
    }

    fn place(&self, line: &mut Line, beside: &[Place]) -> Result<Place, Mistake> {
        let name = line.word("a filter's name or ]", "chain first [second third]")?;
        self.known(&name)?;
        let before = self.scenario.chain.segments.iter().flatten();
        if before.chain(beside).any(|place| place.filter == name) {
            let what = format!("{name:?} stands in the chain twice");
            return Err(Mistake::new(
                what,
                "write a second filter with a name of its own",
            ));
        }
        Ok(Place::new(name))
    }

    fn of_chain(&mut self, word: &str, line: &mut Line) -> Result<(), Mistake> {
        match word {
            "strict" => self.scenario.chain.strict = true,
            "on-failure" => {
                let name = line.word("a filter's name", "on-failure first accept")?;
                let word = line.word("a policy", "on-failure first accept")?;
                let policy = OnFailure::ALL.into_iter().find(|one| one.name() == word);
                let place = self.in_chain(&name)?;
                place.on_failure = Some(policy.ok_or_else(|| {
                    let instead = "write accept, tempfail, reject or quarantine";
                    Mistake::new(format!("{word:?} is no policy"), instead)
                })?);
            }
            "timeout" => {
                let name = line.word("a filter's name", "timeout first 500ms")?;
                let time = line.time()?;
                self.in_chain(&name)?.timeout = Some(time);
            }
            other => {
                return Err(Mistake::new(
                    format!("{other:?} says nothing about a chain"),
                    "write strict, on-failure or timeout",
                ));
            }
        }
        Ok(())
    }

    fn in_chain(&mut self, name: &str) -> Result<&mut Place, Mistake> {
        let mut places = self.scenario.chain.segments.iter_mut().flatten();
        places.find(|place| place.filter == name).ok_or_else(|| {
            let what = format!("{name:?} is not in the chain");
            Mistake::new(what, "name a filter of the chain above")
        })
    }

    fn turn(&mut self, direction: &str, line: &mut Line) -> Result<(), Mistake> {
        let turn = if direction == ">" {
            let word = line.word("a command", "> helo \"client.example\"")?;
            match (word.as_str(), bytes(&word, line)?) {
                (_, Some(bytes)) => Turn::Raw(bytes),
                ("wait", _) => Turn::Wait(line.time()?),
                ("close", _) => Turn::Close,
                (word, None) => Turn::Send(command(word, line)?),
            }
        } else {
            Turn::Expect(expectations(line)?)
        };
        let (Section::Mta, Some(mta)) = (self.section, self.scenario.mtas.last_mut()) else {
            let what = format!("{direction:?} stands outside of a conversation");
            return Err(Mistake::new(
                what,
                "write a line \"mta\" before the first one",
            ));
        };
        mta.turns.push(turn);
        Ok(())
    }

    fn dialogue(&mut self, what: &str) -> Result<&mut Dialogue, Mistake> {
        match (self.section, self.scenario.smtp.last_mut()) {
            (Section::Smtp, Some(dialogue)) => Ok(dialogue),
            _ => Err(Mistake::new(
                format!("{what:?} stands outside of a conversation"),
                "write a line \"smtp\" before the first one",
            )),
        }
    }

    fn message_line(&mut self, text: &str) -> Result<(), Mistake> {
        let text = verbatim(text)?;
        let steps = &mut self.dialogue("|")?.steps;
        match steps.last_mut() {
            Some(SmtpStep::Message(lines)) => lines.push(text),
            Some(SmtpStep::Command(_)) | None => steps.push(SmtpStep::Message(vec![text])),
        }
        Ok(())
    }

    fn claim(&self, line: &mut Line) -> Result<Claim, Mistake> {
        let example = "told first: connect helo mail rcpt";
        let filter = line.word("a filter's name", example)?;
        self.known(&filter)?;
        if line.takes("connections") {
            let count = line.number("a number", "told first connections 1")?;
            return Ok(Claim::Connections { filter, count });
        }
        let has = line.takes("has");
        if has || line.takes("has-not") {
            let word = line.word("a command", "told first has rcpt \"<user@example.org>\"")?;
            let command = command(&word, line)?;
            return Ok(match has {
                true => Claim::Has { filter, command },
                false => Claim::HasNot { filter, command },
            });
        }
        let connection = match line.takes("on") {
            true => Some(line.number("a connection's number", "told first on 2: connect")?),
            false => None,
        };
        line.mark(':', example)?;
        let mut commands: Vec<At> = Vec::new();
        while !line.is_done() {
            commands.push(line.at()?);
        }
        Ok(Claim::Sequence {
            filter,
            connection,
            commands,
        })
    }

    fn known(&self, name: &str) -> Result<(), Mistake> {
        if self.scenario.filter(name).is_some() {
            return Ok(());
        }
        let what = format!("there is no filter {name:?}");
        Err(Mistake::new(
            what,
            format!("write filter {name} and its script above"),
        ))
    }
}

/// Reads what follows `at`.
fn cue(line: &mut Line) -> Result<Cue, Mistake> {
    let example = "at rcpt 2 in-message 1 on-connection 1: reject";
    let mut cue = Cue::new(line.at()?, []);
    if let Some(nth) = line.maybe_number() {
        let of_connection = line.takes("of-connection");
        cue.nth = Some(match of_connection {
            true => Nth::OfConnection(nth),
            false => Nth::OfMessage(nth),
        });
    }
    if line.takes("in-message") {
        cue.message = Some(line.number("a message's number", example)?);
    }
    if line.takes("on-connection") {
        cue.connection = Some(line.number("a connection's number", example)?);
    }
    line.mark(':', example)?;
    cue.acts = acts(line)?;
    Ok(cue)
}

/// A line as it is, or in quotes.
fn verbatim(text: &str) -> Result<Bytes, Mistake> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Ok(Bytes::from(text.to_owned()));
    };
    let (bytes, rest) = string(quoted)?;
    match Line::new(rest)?.peek() {
        None => Ok(bytes),
        Some(Token::Word(_) | Token::Text(_) | Token::Mark(_)) => Err(Mistake::new(
            "something follows the string",
            "put the whole line in quotes",
        )),
    }
}
