//! The statements that configurations of milter-manager are made of. Nothing is evaluated: what is
//! not a plain assignment or call with constants is [`What::Other`].

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A string without interpolation.
    Text(String),
    /// A number without a point.
    Whole(i64),
    /// A number with one.
    Real(f64),
    /// `true` or `false`.
    Bool(bool),
    /// `nil`.
    Nil,
    /// An array of constants.
    List(Vec<Self>),
}

/// A statement and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    /// Counted from 1.
    pub(super) line: usize,
    /// What it says.
    pub(super) what: What,
}

/// What a statement says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// `receiver.name = value`, or `receiver.name(value)`.
    Set {
        receiver: String,
        name: String,
        value: Value,
    },
    /// `name("argument")`.
    Call { name: String, argument: String },
    /// `define_milter("name") do |variable|`, and what stands in the block.
    Milter { name: String, body: Vec<Statement> },
    /// Anything else, with all that belongs to it; its first line.
    Other(String),
}

/// The statements of a file.
pub(super) fn read(text: &str) -> Vec<Statement> {
    let mut lines = Lines::of(text);
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        all.push(lines.statement(line));
    }
    all
}

/// A line, with those joined to it that its brackets leave open.
struct Line {
    number: usize,
    text: String,
}

struct Lines {
    rest: std::vec::IntoIter<Line>,
}

impl Iterator for Lines {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        self.rest.next()
    }
}

impl Lines {
    fn of(text: &str) -> Self {
        let mut all: Vec<Line> = Vec::new();
        let mut open = false;
        let mut in_comment = false;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with("=begin") {
                in_comment = true;
            }
            let code = if in_comment { "" } else { code_of(line).trim() };
            if line.starts_with("=end") {
                in_comment = false;
            }
            match all.last_mut() {
                Some(last) if open => {
                    last.text.push(' ');
                    last.text.push_str(code);
                }
                _ if code.is_empty() => continue,
                _ => all.push(Line {
                    number: index + 1,
                    text: code.to_owned(),
                }),
            }
            open = all.last().is_some_and(|last| is_open(&last.text));
        }
        Self {
            rest: all.into_iter(),
        }
    }

    fn statement(&mut self, line: Line) -> Statement {
        let what = match milter_of(&line.text) {
            Some(name) => What::Milter {
                name,
                body: self.body(),
            },
            None => {
                let what = plain(&line.text);
                if opens_block(&line.text) {
                    self.skip_block();
                }
                what
            }
        };
        Statement {
            line: line.number,
            what,
        }
    }

    /// The statements up to the `end` of a block.
    fn body(&mut self) -> Vec<Statement> {
        let mut body = Vec::new();
        while let Some(line) = self.next() {
            if is_end(&line.text) {
                break;
            }
            body.push(self.statement(line));
        }
        body
    }

    fn skip_block(&mut self) {
        let mut depth = 1_usize;
        while depth > 0
            && let Some(line) = self.next()
        {
            if is_end(&line.text) {
                depth -= 1;
            } else if opens_block(&line.text) {
                depth += 1;
            }
        }
    }
}

/// Goes through code with the strings in it marked: a byte, its place, and whether it is quoted.
fn marked(text: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let mut quote = None;
    let mut escaped = false;
    text.char_indices().map(move |(at, c)| {
        let inside = quote.is_some();
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(_) | None => {}
        }
        (at, c, inside)
    })
}

/// A line without its comment.
fn code_of(line: &str) -> &str {
    let comment = marked(line).find(|(_, c, quoted)| *c == '#' && !quoted);
    comment.map_or(line, |(at, ..)| &line[..at])
}

/// Whether brackets are open at the end.
fn is_open(text: &str) -> bool {
    let step = |depth: i32, (_, c, quoted): (usize, char, bool)| match c {
        '(' | '[' | '{' if !quoted => depth.saturating_add(1),
        ')' | ']' | '}' if !quoted => depth.saturating_sub(1),
        _ => depth,
    };
    marked(text).fold(0, step) > 0
}

fn is_end(text: &str) -> bool {
    text == "end" || text.starts_with("end ") || text.starts_with("end.")
}

/// Whether an `end` follows later.
fn opens_block(text: &str) -> bool {
    let first = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words = [
        "if", "unless", "case", "def", "class", "module", "begin", "while", "until", "for",
    ];
    let one_line = text.ends_with(" end") || text.ends_with(";end");
    let named = first
        .into_iter()
        .next()
        .is_some_and(|word| words.contains(&word));
    let given = marked(text)
        .filter(|(.., quoted)| !quoted)
        .map(|(_, c, _)| c)
        .collect::<String>();
    let given = given.trim_end_matches('|').trim_end();
    let block = given.ends_with(" do") || given.contains(" do |");
    (named || block) && !one_line
}

/// The name in `define_milter("name") do |variable|`.
fn milter_of(text: &str) -> Option<String> {
    let rest = text.strip_prefix("define_milter")?;
    let (name, rest) = string(rest.trim_start_matches(['(', ' ']))?;
    rest.trim_start_matches([')', ' '])
        .starts_with("do")
        .then_some(name)
}

fn plain(text: &str) -> What {
    let other = || What::Other(text.to_owned());
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let name_end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
        .unwrap_or(text.len());
    let (target, rest) = text.split_at(name_end);
    let rest = rest.trim();
    let argument = match rest.strip_prefix('=') {
        Some(value) => value,
        None => rest
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap_or(rest),
    };
    let argument = argument.trim();
    match target.split_once('.') {
        Some((receiver, name)) if is_name(receiver) && is_name(name) => {
            let value = match argument {
                "" => Some(Value::Nil),
                argument => whole(argument),
            };
            value.map_or_else(other, |value| What::Set {
                receiver: receiver.to_owned(),
                name: name.to_owned(),
                value,
            })
        }
        None if is_name(target) => match whole(argument) {
            Some(Value::Text(argument)) => What::Call {
                name: target.to_owned(),
                argument,
            },
            _ => other(),
        },
        _ => other(),
    }
}

/// A text that is one constant and nothing else.
fn whole(text: &str) -> Option<Value> {
    let (value, rest) = value(text)?;
    rest.trim().is_empty().then_some(value)
}

/// Arrays in arrays at most.
const DEPTH_MAX: usize = 8;

fn value(text: &str) -> Option<(Value, &str)> {
    value_within(text, DEPTH_MAX)
}

fn value_within(text: &str, depth: usize) -> Option<(Value, &str)> {
    let text = text.trim_start();
    if text.starts_with(['"', '\'']) {
        return string(text).map(|(string, rest)| (Value::Text(string), rest));
    }
    if let Some(list) = text.strip_prefix('[') {
        return list_within(list, depth.checked_sub(1)?);
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'))
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let value = match word {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "nil" => Value::Nil,
        number => number_of(&number.replace('_', ""))?,
    };
    Some((value, rest))
}

fn list_within(mut rest: &str, depth: usize) -> Option<(Value, &str)> {
    let mut list = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix(']') {
            return Some((Value::List(list), rest));
        }
        let (item, after) = value_within(rest, depth)?;
        list.push(item);
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn number_of(text: &str) -> Option<Value> {
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    if let Some(digits) = octal
        && !digits.is_empty()
        && let Ok(number) = i64::from_str_radix(digits, 8)
    {
        return Some(Value::Whole(number));
    }
    let whole = text.parse().map(Value::Whole);
    let real = || text.parse().ok().filter(|real: &f64| real.is_finite());
    whole.ok().or_else(|| real().map(Value::Real))
}

/// A quoted string at the beginning, and what follows it; `None` for one that is computed.
fn string(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut found = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((found, &text[at + c.len_utf8()..])),
            '\\' => match chars.next()?.1 {
                'n' if quote == '"' => found.push('\n'),
                't' if quote == '"' => found.push('\t'),
                c if c == quote || c == '\\' || quote == '"' => found.push(c),
                c => found.extend(['\\', c]),
            },
            '#' if quote == '"' && text[at..].starts_with("#{") => return None,
            c => found.push(c),
        }
    }
    None
}
