//! `main.cf`: the filters of `smtpd_milters` become one chain, and the lines that put the
//! orchestrator in their place are printed.

use std::collections::{BTreeMap, HashSet};

use milter_proto::net::Address;

use super::{Entrance, Filter, Route, Translation, policy};
use crate::member::OnFailure;

/// Where Postfix keeps its queue if `main.cf` does not say.
const QUEUE: &str = "/var/spool/postfix";

/// Filters by the ports that their packages or manuals give them.
const PORTS: [(u16, &str); 5] = [
    (7357, "clamav-milter"),
    (8891, "opendkim"),
    (8893, "opendmarc"),
    (8892, "opendkim-sign"),
    (11332, "rspamd"),
];

/// Names inside names at most.
const DEPTH_MAX: usize = 16;

/// The longest value that names may come to.
const VALUE_MAX: usize = 64 * 1024;

/// A parameter.
struct Parameter {
    line: usize,
    value: String,
}

type Parameters = BTreeMap<String, Parameter>;

/// What `main.cf` comes to; `master` is the `master.cf` beside it, `listen` where to listen.
pub(super) fn translate(text: &str, master: Option<&str>, listen: &str) -> Translation {
    let parameters = read(text);
    let mut to = Translation::default();
    let value = |name: &str| {
        let parameter = parameters.get(name)?;
        let value = expand(&parameter.value, &parameters, DEPTH_MAX);
        Some((parameter.line, value))
    };
    let queue = value("queue_directory").map_or_else(|| QUEUE.to_owned(), |(_, path)| path);
    let jail = master.is_some_and(is_jailed);
    let defaults = Filter {
        on_failure: default_policy(value("milter_default_action"), &mut to),
        connect_timeout: value("milter_connect_timeout").and_then(|(_, time)| seconds(&time)),
        command_timeout: value("milter_command_timeout").and_then(|(_, time)| seconds(&time)),
        end_of_message_timeout: value("milter_content_timeout")
            .and_then(|(_, time)| seconds(&time)),
        ..Filter::default()
    };
    let (line, list) = value("smtpd_milters").unwrap_or_default();
    let mut chain = Vec::new();
    for entry in entries(&list) {
        let Some(socket) = entry.socket(&queue, jail) else {
            to.remark(line, format!("not translated: {:?}", entry.place));
            continue;
        };
        let filter = entry.filter(socket, &defaults, line, &mut to);
        let name = unused(&name_of(&filter.socket), &chain);
        chain.push(name.clone());
        to.sections.milter.insert(name, filter);
    }
    let entrance = Entrance::at(listen);
    to.sections.listen.insert("postfix".to_owned(), entrance);
    to.sections.route.push(Route { chain });
    let other = value("non_smtpd_milters");
    if let Some((line, other)) = other.as_ref().filter(|(_, other)| !same(other, &list)) {
        to.remark(
            *line,
            format!("non_smtpd_milters is another list and stays as it is: {other}"),
        );
    }
    for line in master.map(overrides).unwrap_or_default() {
        let what =
            format!("master.cf, line {line}, gives a service other filters: it stays as it is");
        to.remark(0, what);
    }
    to.advice = lines(listen, other.is_some_and(|(_, other)| same(&other, &list)));
    to
}

/// The lines for `main.cf`.
fn lines(listen: &str, non_smtpd: bool) -> Vec<String> {
    let place = match listen.parse() {
        Ok(Address::Inet { host, port }) if host.contains(':') => format!("inet:[{host}]:{port}"),
        Ok(Address::Inet { host, port }) => format!("inet:{host}:{port}"),
        Ok(Address::Unix(_)) | Err(_) => listen.to_owned(),
    };
    let mut lines = vec![
        "Then, in main.cf, in place of the old lines, followed by `postfix reload`:".to_owned(),
        String::new(),
        format!("smtpd_milters = {place}"),
    ];
    if non_smtpd {
        lines.push("non_smtpd_milters = $smtpd_milters".to_owned());
    }
    lines.extend([
        "milter_protocol = 6".to_owned(),
        "milter_default_action = tempfail".to_owned(),
        "milter_connect_timeout = 30s".to_owned(),
        "milter_command_timeout = 30s".to_owned(),
        "milter_content_timeout = 300s".to_owned(),
    ]);
    lines
}

/// The parameters of a `main.cf`; the last of a name counts.
fn read(text: &str) -> Parameters {
    let mut all = Parameters::new();
    let mut last: Option<String> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let parameter = last.as_ref().and_then(|name| all.get_mut(name));
            if let Some(parameter) = parameter {
                parameter.value.push(' ');
                parameter.value.push_str(trimmed);
            }
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            last = None;
            continue;
        };
        let name = name.trim().to_owned();
        let parameter = Parameter {
            line: index + 1,
            value: value.trim().to_owned(),
        };
        all.insert(name.clone(), parameter);
        last = Some(name);
    }
    all
}

/// A value with `$name`, `${name}` and `$(name)` replaced; unknown names are empty.
fn expand(value: &str, parameters: &Parameters, depth: usize) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let close = match rest.chars().next() {
            Some('{') => Some('}'),
            Some('(') => Some(')'),
            _ => None,
        };
        let body = rest.get(usize::from(close.is_some())..).unwrap_or_default();
        let end = body
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(body.len());
        let (name, after) = body.split_at(end);
        rest = close.map_or(after, |close| {
            after.split_once(close).map_or("", |(_, after)| after)
        });
        let within = depth.checked_sub(1).filter(|_| out.len() < VALUE_MAX);
        if let (Some(parameter), Some(depth)) = (parameters.get(name), within) {
            out.push_str(&expand(&parameter.value, parameters, depth));
        }
        while out.len() > VALUE_MAX {
            out.pop();
        }
    }
    out.push_str(rest);
    out
}

/// An entry of `smtpd_milters`.
struct Entry {
    place: String,
    settings: Vec<(String, String)>,
}

/// The entries of a list: words between white space and commas, or in braces.
fn entries(list: &str) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (text, after) = if let Some(inner) = rest.strip_prefix('{') {
            inner.split_once('}').unwrap_or((inner, ""))
        } else if rest.is_empty() {
            return all;
        } else {
            rest.split_at(rest.find([' ', '\t', ',']).unwrap_or(rest.len()))
        };
        rest = after;
        let mut parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let Some(place) = parts.next() else { continue };
        let setting = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.trim().to_owned(), value.trim().to_owned())
        };
        all.push(Entry {
            place: place.to_owned(),
            settings: parts.map(setting).collect(),
        });
    }
}

impl Entry {
    /// Its socket as we write it.
    fn socket(&self, queue: &str, jail: bool) -> Option<String> {
        let text = match self.place.strip_prefix("unix:") {
            // Postfix works in its queue, and a jailed one sees nothing else.
            Some(path) if !path.starts_with('/') => format!("unix:{queue}/{path}"),
            Some(path) if jail && !path.starts_with(queue) => format!("unix:{queue}{path}"),
            _ => self.place.clone(),
        };
        let address: Address = text.parse().ok()?;
        Some(address.to_string())
    }

    /// Its section.
    fn filter(&self, socket: String, usual: &Filter, line: usize, to: &mut Translation) -> Filter {
        let mut filter = Filter {
            socket,
            on_failure: usual.on_failure,
            connect_timeout: usual.connect_timeout.clone(),
            command_timeout: usual.command_timeout.clone(),
            end_of_message_timeout: usual.end_of_message_timeout.clone(),
            ..Filter::default()
        };
        for (name, value) in &self.settings {
            let time = || seconds(value);
            match name.as_str() {
                "default_action" => filter.on_failure = action(value, line, to),
                "connect_timeout" => filter.connect_timeout = time(),
                "command_timeout" => filter.command_timeout = time(),
                "content_timeout" => filter.end_of_message_timeout = time(),
                "protocol" => {}
                name => to.remark(line, format!("{}: {name} has no counterpart", self.place)),
            }
        }
        filter
    }
}

/// What Postfix does where `main.cf` does not say is to defer, in whatever words.
fn default_policy(written: Option<(usize, String)>, to: &mut Translation) -> OnFailure {
    written.map_or(OnFailure::TempFail, |(line, value)| {
        action(&value, line, to)
    })
}

fn action(value: &str, line: usize, to: &mut Translation) -> OnFailure {
    if value == "shutdown" {
        return OnFailure::TempFail;
    }
    policy(value).unwrap_or_else(|| {
        to.remark(
            line,
            format!("the action {value:?} is not known: tempfail it is"),
        );
        OnFailure::TempFail
    })
}

/// A time of Postfix as we write it; without a unit it is of seconds.
fn seconds(value: &str) -> Option<String> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let scale = match unit.trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(format!("{}s", number.checked_mul(scale)?))
}

/// A name for the filter at a socket.
fn name_of(socket: &str) -> String {
    match socket.parse() {
        Ok(Address::Inet { port, .. }) => PORTS
            .iter()
            .find(|(known, _)| *known == port)
            .map_or_else(|| format!("filter-{port}"), |(_, name)| (*name).to_owned()),
        Ok(Address::Unix(path)) => {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy());
            let folder = path.parent().and_then(|folder| folder.file_name());
            let folder = folder.map(|folder| folder.to_string_lossy());
            // Some call the socket after what it is, and the folder after the program.
            let telling = stem.filter(|stem| !matches!(&**stem, "milter" | "sock" | "socket"));
            telling.or(folder).unwrap_or_default().into_owned()
        }
        Err(_) => "filter".to_owned(),
    }
}

fn unused(name: &str, taken: &[String]) -> String {
    let taken: HashSet<&str> = taken.iter().map(String::as_str).collect();
    let others = (2_u32..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.to_owned())
        .chain(others)
        .find(|name| !taken.contains(name.as_str()))
        .unwrap_or_default()
}

fn same(one: &str, other: &str) -> bool {
    one.split_ascii_whitespace()
        .eq(other.split_ascii_whitespace())
}

/// Whether the server that takes mail sees nothing but Postfix's queue: column five of its line.
fn is_jailed(master: &str) -> bool {
    let mut lines = master
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines.any(|words| {
        matches!(words[..], [_, "inet" | "pass", _, _, "y", .., ] if words.contains(&"smtpd"))
    })
}

/// Lines of `master.cf` that give a service filters of its own.
fn overrides(master: &str) -> Vec<usize> {
    let of_filters =
        |line: &str| !line.trim_start().starts_with('#') && line.contains("smtpd_milters=");
    let numbered = master.lines().enumerate();
    numbered
        .filter(|(_, line)| of_filters(line))
        .map(|(index, _)| index + 1)
        .collect()
}
