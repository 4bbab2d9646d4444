//! Every mistake of a configuration file in one go.
//!
//! Reading with the settings' types stops at the first mistake. So what is wrong is taken out of
//! the document, and the rest is read again, until it can be; then the program is asked what is
//! wrong with the meaning of the rest. What follows from something that was taken out is not told:
//! that it is missing, or that its name is unknown elsewhere. Text that is no TOML ends the survey,
//! since everything behind it may be meant otherwise.

use serde::Deserialize;
use toml::de::{DeTable, DeValue, Deserializer};
use toml::{Spanned, Table};

use super::load::Source;
use super::mistake::Mistake;
use super::outline::Outline;
use super::place;
use super::{ConfigError, check, overlay};
use crate::daemon::{Failure, Program};

/// Mistakes that are told at most.
const MISTAKES_MAX: usize = 50;

/// What could be read of a file, and what is wrong with it.
pub(super) struct Survey<'t, S> {
    document: Spanned<DeTable<'t>>,
    /// None where too little is left.
    settings: Option<S>,
    mistakes: Vec<Mistake>,
    /// Paths of what was taken out.
    cut: Vec<Vec<String>>,
}

impl Source {
    /// The settings that are written, over the defaults of the program.
    pub(crate) fn settings<P: Program>(&self) -> Result<P::Settings, Failure> {
        let outline = Outline::of::<P::Settings>();
        let survey = Survey::read::<P>(self.text(), &outline);
        match (survey.settings, survey.mistakes.is_empty()) {
            (Some(settings), true) => Ok(settings),
            (_, _) => Err(self.all(survey.mistakes)),
        }
    }

    /// The settings and the program that they make; nothing is opened but what
    /// [`Program::survey`] and [`Program::prepare`] read. All mistakes are told at once.
    pub(crate) fn program<P: Program>(&self) -> Result<P, Failure> {
        self.program_with(P::survey)
    }

    /// The same where this machine must fit the settings as well.
    pub(crate) fn fitting_program<P: Program>(&self) -> Result<P, Failure> {
        self.program_with(|settings| {
            let mut mistakes = P::survey(settings);
            mistakes.extend(P::obstacles(settings));
            mistakes
        })
    }

    fn program_with<P: Program>(
        &self,
        survey_meaning: impl FnOnce(&P::Settings) -> Vec<ConfigError>,
    ) -> Result<P, Failure> {
        let outline = Outline::of::<P::Settings>();
        let mut survey = Survey::read::<P>(self.text(), &outline);
        let Some(settings) = survey.settings.take() else {
            return Err(self.all(survey.mistakes));
        };
        let mut meant = check::sections(&P::common(&settings));
        meant.extend(survey_meaning(&settings));
        let clean = meant.is_empty() && survey.mistakes.is_empty();
        survey.add(meant);
        if !clean {
            return Err(self.all(survey.mistakes));
        }
        P::prepare(settings).map_err(|error| {
            survey.add(vec![error]);
            self.all(survey.mistakes)
        })
    }

    /// What is odd about a program that could be made: as `check` shows it.
    pub(crate) fn oddities<P: Program>(&self, program: &P) -> Vec<String> {
        let (document, _) = DeTable::parse_recoverable(self.text());
        let odd = program.warnings();
        let shown = odd.iter().map(|odd| {
            let mistake = Mistake::of_meaning(odd, document.get_ref());
            mistake.render_as_warning(&self.path().display().to_string(), self.text())
        });
        shown.collect()
    }

    /// What is odd about a program and its settings, each in one line for the log.
    pub(crate) fn remarks<P: Program>(&self, program: &P, settings: &P::Settings) -> Vec<String> {
        let (document, _) = DeTable::parse_recoverable(self.text());
        let mut odd = program.warnings();
        odd.extend(P::obstacles(settings));
        let shown = odd.iter().map(|odd| {
            let mistake = Mistake::of_meaning(odd, document.get_ref());
            let line = mistake.span.as_ref().map(|span| {
                let (line, _) = place::line_and_column(self.text(), span.start);
                format!("{}:{line}: ", self.path().display())
            });
            format!("{}{}", line.unwrap_or_default(), mistake.message)
        });
        shown.collect()
    }

    /// All of them in the order of the file, as one failure.
    fn all(&self, mut mistakes: Vec<Mistake>) -> Failure {
        mistakes.sort_by_key(|mistake| mistake.span.as_ref().map_or(0, |span| span.start));
        let path = self.path().display().to_string();
        let rendered: Vec<String> = mistakes
            .iter()
            .map(|mistake| mistake.render(&path, self.text()))
            .collect();
        let mut message = rendered.join("\n\n");
        match mistakes.len() {
            0 | 1 => {}
            MISTAKES_MAX => message += &format!("\n\n{MISTAKES_MAX} mistakes, perhaps more"),
            count => message += &format!("\n\n{count} mistakes"),
        }
        Failure::new(crate::daemon::exit::EX_CONFIG, message)
    }
}

impl<'t, S> Survey<'t, S> {
    /// Reads a text with the types of a program's settings.
    fn read<P: Program<Settings = S>>(text: &'t str, outline: &Outline) -> Self
    where
        S: for<'de> Deserialize<'de>,
    {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut mistakes: Vec<Mistake> = errors.iter().map(Mistake::of_syntax).collect();
        mistakes.truncate(MISTAKES_MAX);
        let mut survey = Self {
            document,
            settings: None,
            mistakes,
            cut: Vec::new(),
        };
        // A key that stands twice is known for what it is.
        let readable = errors
            .iter()
            .all(|error| error.message() == "duplicate key");
        while readable && survey.mistakes.len() < MISTAKES_MAX {
            let typed = P::Settings::deserialize(Deserializer::from(survey.document.clone()));
            let Err(error) = typed else {
                survey.settings = survey.merge::<P>(outline);
                break;
            };
            if !survey.take_out(&error, outline) {
                break;
            }
        }
        survey
    }

    /// Notes a mistake and takes its cause out; `false` when nothing more can be found by that.
    fn take_out(&mut self, error: &toml::de::Error, outline: &Outline) -> bool {
        let mistake = Mistake::of_types(error, self.document.get_ref(), outline);
        let path = error
            .span()
            .map(|span| place::path_at(self.document.get_ref(), &span))
            .unwrap_or_default();
        // The key that holds the value, and not an item of a list alone.
        let is_key = |step: &String| step.parse::<usize>().is_err();
        let depth = path.iter().rposition(is_key).map_or(0, |last| last + 1);
        let path = path.get(..depth).unwrap_or_default();
        let inside = |cut: &Vec<String>| cut.starts_with(path);
        let follows = error.message().starts_with("missing field") && self.cut.iter().any(inside);
        if !follows {
            self.mistakes.push(mistake);
        }
        let taken = remove(self.document.get_mut(), path);
        if taken {
            self.cut.push(path.to_vec());
        }
        taken
    }

    /// The settings, each key that is not written having the program's default.
    fn merge<P: Program<Settings = S>>(&mut self, outline: &Outline) -> Option<S>
    where
        S: for<'de> Deserialize<'de>,
    {
        let merged = effective::<P>(self.document.clone(), outline).and_then(|table| {
            S::deserialize(table).map_err(|error| Mistake::new(error.message(), None))
        });
        match merged {
            Ok(settings) => Some(settings),
            Err(mistake) => {
                self.mistakes.push(mistake);
                None
            }
        }
    }

    /// Adds mistakes in the meaning, but for those that follow from what was taken out.
    fn add(&mut self, errors: Vec<ConfigError>) {
        for error in errors {
            let follows = self.cut.iter().any(|cut| follows(&error, cut));
            if !follows && self.mistakes.len() < MISTAKES_MAX {
                let mistake = Mistake::of_meaning(&error, self.document.get_ref());
                self.mistakes.push(mistake);
            }
        }
    }
}

/// The file over the defaults, as a table.
fn effective<P: Program>(
    document: Spanned<DeTable<'_>>,
    outline: &Outline,
) -> Result<Table, Mistake> {
    let written = Table::deserialize(Deserializer::from(document))
        .map_err(|error| Mistake::new(error.message(), error.span()))?;
    let defaults = Table::try_from(P::Settings::default())
        .map_err(|error| Mistake::new(format!("the defaults are not TOML: {error}"), None))?;
    Ok(overlay::lay(defaults, written, outline.root()))
}

/// Whether a mistake may come from what was taken out: it is about that, what is around it or in
/// it, or about a section of that name.
fn follows(error: &ConfigError, cut: &[String]) -> bool {
    let path = cut.join(".");
    let around = path.starts_with(&error.path) || error.path.starts_with(&path);
    let named = match cut {
        [_, name] => error.message.contains(&format!("{name:?}")),
        _ => false,
    };
    around || named
}

/// Takes a key out of the table that holds it; `false` when it is not there.
fn remove(table: &mut DeTable<'_>, path: &[String]) -> bool {
    match path {
        [] => false,
        [key] => table.remove(key.as_str()).is_some(),
        [key, rest @ ..] => table
            .get_mut(key.as_str())
            .is_some_and(|value| remove_below(value, rest)),
    }
}

fn remove_below(value: &mut Spanned<DeValue<'_>>, path: &[String]) -> bool {
    match (value.get_mut(), path) {
        (DeValue::Table(table), path) => remove(table, path),
        (DeValue::Array(items), [index, rest @ ..]) => index
            .parse()
            .ok()
            .and_then(|index: usize| items.get_mut(index))
            .is_some_and(|item| remove_below(item, rest)),
        _ => false,
    }
}

#[cfg(test)]
#[path = "tests/survey.rs"]
mod tests;
