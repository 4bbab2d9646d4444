//! `milter-manager.conf`: filters in the order of their definition become one chain.

use milter_proto::net::Address;

use super::ruby::{self, Statement, Value, What};
use super::{Account, Clients, Condition, Entrance, Filter, Route, Translation, policy};

/// What milter-manager's condition "Remote Network" takes for its own: private and local networks.
const LOCAL_NETWORKS: [&str; 7] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fe80::/10",
];

/// Settings that need none here.
const NEEDLESS: [&str; 14] = [
    "manager.daemon",
    "manager.pid_file",
    "manager.event_loop_backend",
    "manager.n_workers",
    "manager.packet_buffer_size",
    "manager.chunk_size",
    "manager.use_netstat_connection_checker",
    "manager.connection_check_interval",
    "manager.suspend_time_on_unacceptable",
    "manager.max_pending_finished_sessions",
    "manager.maintenance_interval",
    "manager.remove_unix_socket_on_close",
    "manager.remove_unix_socket_on_create",
    "security.privilege_mode",
];

/// A filter as far as it has been read.
#[derive(Debug)]
struct Found {
    line: usize,
    name: String,
    enabled: bool,
    spec: Option<String>,
    command: Option<String>,
    options: Vec<String>,
    conditions: Vec<(usize, String)>,
    filter: Filter,
}

/// What a file comes to; `listen` is where to listen if it does not say.
pub(super) fn translate(text: &str, listen: &str) -> Translation {
    let mut reader = Reader {
        to: Translation::default(),
        found: Vec::new(),
        entrance: Entrance::at(listen),
        account: Account::default(),
    };
    for statement in ruby::read(text) {
        reader.take(statement);
    }
    reader.finish()
}

struct Reader {
    to: Translation,
    found: Vec<Found>,
    entrance: Entrance,
    account: Account,
}

impl Reader {
    fn take(&mut self, Statement { line, what }: Statement) {
        match what {
            What::Milter { name, body } => self.milter(line, name, body),
            What::Set {
                receiver,
                name,
                value,
            } => self.set(line, &format!("{receiver}.{name}"), value),
            What::Call { name, argument } => match name.as_str() {
                "remove_milter" => self.found.retain(|found| found.name != argument),
                "load" | "load_if_exist" | "load_if_exists" | "require" => self.to.remark(
                    line,
                    format!("{argument} is not followed: import it by itself"),
                ),
                _ => self
                    .to
                    .remark(line, format!("{name}(\"{argument}\") has no counterpart")),
            },
            What::Other(text) => self.to.remark(line, format!("not translated: {text}")),
        }
    }

    /// Something that is of no filter.
    fn set(&mut self, line: usize, key: &str, value: Value) {
        match (key, value) {
            (key, Value::Nil) if !key.ends_with("clear") => {}
            ("manager.connection_spec", Value::Text(spec)) => match listener(&spec) {
                Some(socket) => self.entrance.socket = socket,
                None => self
                    .to
                    .remark(line, format!("no socket that could be listened on: {spec}")),
            },
            ("manager.unix_socket_mode", Value::Whole(mode)) => {
                self.entrance.mode = Some(format!("{:04o}", mode & 0o777));
            }
            ("manager.unix_socket_mode", Value::Text(mode)) => self.entrance.mode = Some(mode),
            ("manager.unix_socket_group", Value::Text(group)) => self.entrance.group = Some(group),
            ("manager.max_connections", Value::Whole(most)) => {
                self.entrance.max_connections = u32::try_from(most).ok().filter(|most| *most > 0);
            }
            ("security.effective_user", Value::Text(user)) => self.account.user = Some(user),
            ("security.effective_group", Value::Text(group)) => self.account.group = Some(group),
            ("manager.fallback_status" | "manager.fallback_status_at_disconnect", _) => {
                let what =
                    "each filter has an on_failure of its own; nothing speaks for all of them";
                self.to.remark(line, format!("{key}: {what}"));
            }
            (key, _) if NEEDLESS.contains(&key) => {}
            (key, _) if key.starts_with("log.") => {
                self.to.remark(line, format!("{key}: see [log]"));
            }
            (key, _) if key.starts_with("controller.") => {
                self.to.remark(line, format!("{key}: see [control]"));
            }
            (key, _) => self.to.remark(line, format!("{key} has no counterpart")),
        }
    }

    /// A definition, or more of one.
    fn milter(&mut self, line: usize, name: String, body: Vec<Statement>) {
        let at = self.found.iter().position(|found| found.name == name);
        let at = at.unwrap_or_else(|| {
            self.found.push(Found {
                line,
                name,
                enabled: true,
                spec: None,
                command: None,
                options: Vec::new(),
                conditions: Vec::new(),
                filter: Filter {
                    // What milter-manager does without one.
                    on_failure: crate::member::OnFailure::Accept,
                    ..Filter::default()
                },
            });
            self.found.len() - 1
        });
        for Statement { line, what } in body {
            let remark = match what {
                What::Set { name, value, .. } => self.found[at].set(line, &name, value).err(),
                What::Call { name, .. } => Some(format!("{name} has no counterpart")),
                What::Milter { .. } => Some("a filter in a filter".to_owned()),
                What::Other(text) => Some(format!("not translated: {text}")),
            };
            if let Some(what) = remark {
                let name = &self.found[at].name;
                self.to.remark(line, format!("{name}: {what}"));
            }
        }
    }

    fn finish(mut self) -> Translation {
        let mut chain = Vec::new();
        for found in std::mem::take(&mut self.found) {
            if let Some((name, filter)) = self.filter(found) {
                chain.push(name.clone());
                self.to.sections.milter.insert(name, filter);
            }
        }
        let sections = &mut self.to.sections;
        sections.listen.insert("mta".to_owned(), self.entrance);
        sections.route.push(Route { chain });
        sections.process = Some(self.account).filter(|account| *account != Account::default());
        self.to
    }

    /// The section of a filter that takes part.
    fn filter(&mut self, found: Found) -> Option<(String, Filter)> {
        let (line, name) = (found.line, found.name);
        if !found.enabled {
            self.to
                .remark(line, format!("{name} is not enabled: left out"));
            return None;
        }
        let Some(socket) = found.spec.as_deref().and_then(place) else {
            let spec = found.spec.unwrap_or_default();
            let what = format!("{name} has no socket that could be connected to: {spec:?}");
            self.to.remark(line, what);
            return None;
        };
        let mut filter = found.filter;
        filter.socket = socket;
        if let Some(command) = found.command {
            let words = command.split_ascii_whitespace().map(str::to_owned);
            filter.command = words.chain(found.options).collect();
            filter.binds_itself = true;
            let what = "its command has to stay in the foreground here";
            self.to.remark(line, format!("{name}: {what}"));
        } else {
            filter.user = None;
        }
        let mut condition = Condition::default();
        for (line, wanted) in found.conditions {
            match wanted.as_str() {
                "Authenticated" => condition.authenticated = Some(true),
                "Unauthenticated" => condition.authenticated = Some(false),
                "Remote Network" => {
                    let client = LOCAL_NETWORKS.map(str::to_owned).to_vec();
                    condition.not = Some(Clients { client });
                }
                "Sendmail Compatible" => {}
                _ => self.to.remark(
                    line,
                    format!(
                        "{name}: the condition {wanted:?} has no counterpart: it sees all mail"
                    ),
                ),
            }
        }
        filter.condition = Some(condition).filter(|condition| *condition != Condition::default());
        Some((name, filter))
    }
}

impl Found {
    /// A setting of it; what to remark where it cannot be taken.
    fn set(&mut self, line: usize, name: &str, value: Value) -> Result<(), String> {
        let condition = |text| (line, text);
        match (name, value) {
            ("description" | "name", _) | (_, Value::Nil) if !name.starts_with("clear_") => {}
            ("connection_spec", Value::Text(spec)) => self.spec = Some(spec),
            ("enabled", Value::Bool(enabled)) => self.enabled = enabled,
            ("evaluation_mode", Value::Bool(shadow)) => self.filter.shadow = shadow,
            ("fallback_status", Value::Text(status)) => {
                self.filter.on_failure = policy(&status)
                    .ok_or_else(|| format!("fallback_status {status:?} has no counterpart"))?;
            }
            ("applicable_conditions", value) => {
                let names = texts(value).ok_or("applicable_conditions is no list of names")?;
                self.conditions = names.into_iter().map(condition).collect();
            }
            ("add_applicable_condition", Value::Text(name)) => {
                self.conditions.push(condition(name));
            }
            ("remove_applicable_condition", Value::Text(name)) => {
                self.conditions.retain(|(_, one)| *one != name);
            }
            ("clear_applicable_conditions", _) => self.conditions.clear(),
            ("command", Value::Text(command)) => self.command = Some(command),
            ("command_options", Value::Text(options)) => {
                self.options = options
                    .split_ascii_whitespace()
                    .map(str::to_owned)
                    .collect();
            }
            ("command_options", value @ Value::List(_)) => {
                self.options = texts(value).ok_or("command_options is no list of words")?;
            }
            ("user_name", Value::Text(user)) => self.filter.user = Some(user),
            ("connection_timeout", value) => self.filter.connect_timeout = time(&value)?,
            ("reading_timeout", value) => self.filter.command_timeout = time(&value)?,
            ("end_of_message_timeout", value) => {
                self.filter.end_of_message_timeout = time(&value)?;
            }
            ("writing_timeout", _) => {
                return Err("writing_timeout: see stall_timeout in [limits]".to_owned());
            }
            (name, _) => return Err(format!("{name} has no counterpart")),
        }
        Ok(())
    }
}

/// A string, or a list of them.
fn texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::Text(text) => Some(vec![text]),
        Value::List(list) => list
            .into_iter()
            .map(texts)
            .collect::<Option<Vec<_>>>()
            .map(|all| all.concat()),
        Value::Whole(_) | Value::Real(_) | Value::Bool(_) | Value::Nil => None,
    }
}

/// Seconds as we write them.
fn time(value: &Value) -> Result<Option<String>, String> {
    let seconds = match value {
        Value::Whole(seconds) => *seconds as f64,
        Value::Real(seconds) => *seconds,
        Value::Nil => return Ok(None),
        Value::Text(_) | Value::Bool(_) | Value::List(_) => f64::NAN,
    };
    let milliseconds = (seconds * 1000.0).round();
    if !(1.0..=86_400_000.0).contains(&milliseconds) {
        return Err("a time that is no number of seconds".to_owned());
    }
    let milliseconds = milliseconds as u64;
    Ok(Some(match milliseconds % 1000 {
        0 => format!("{}s", milliseconds / 1000),
        _ => format!("{milliseconds}ms"),
    }))
}

/// A socket to listen on as we write it: without a host, that is all of them.
fn listener(spec: &str) -> Option<String> {
    socket(spec, "0.0.0.0", "[::]")
}

/// Where a filter is, as we write it: without a host, that is this one.
fn place(spec: &str) -> Option<String> {
    socket(spec, "127.0.0.1", "[::1]")
}

fn socket(spec: &str, host: &str, host6: &str) -> Option<String> {
    let spec = spec.trim();
    let written = match spec.strip_prefix("inet6:") {
        Some(port) if !port.contains('@') => format!("inet:{port}@{host6}"),
        Some(rest) => format!("inet:{rest}"),
        None if spec.starts_with("inet:") && !spec.contains('@') => format!("{spec}@{host}"),
        None => spec.to_owned(),
    };
    // An IPv4 address may stand in brackets there.
    let written = match written.split_once("@[") {
        Some((port, rest)) if !rest.contains(':') => {
            format!("{port}@{}", rest.trim_end_matches(']'))
        }
        _ => written,
    };
    let address: Address = written.parse().ok()?;
    Some(address.to_string())
}
