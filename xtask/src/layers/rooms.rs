//! What may not be named in certain rooms of the crates.
//!
//! The protocol's lower floors know no socket, clock, file, task or process; the
//! sender-authentication library knows nothing of the filter around it; the spam filter knows
//! nothing of the DKIM filter but that library. Test items are free.

use std::path::Path;

use crate::finding::Finding;
use crate::source::Source;

/// The folders that hold the rooms.
pub(super) const FOLDERS: &[&str] = &[
    "milter-proto/src",
    "milter-dkim/src/auth",
    "milter-spam/src",
];

/// The floors of the protocol that are pure.
const PURE: &[&str] = &["milter-proto/src/wire", "milter-proto/src/session"];

/// Words that mean a socket, a clock, a file, a task or a process.
const OUTSIDE: &[&str] = &[
    "tokio",
    "async",
    "await",
    "fs",
    "File",
    "thread",
    "process",
    "env",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
];

/// All rooms.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .flat_map(|source| {
            let mut findings = pure(source);
            findings.extend(auth_stays_inside(source));
            findings.extend(spam_sees_auth_alone(source));
            findings
        })
        .collect()
}

fn pure(source: &Source) -> Vec<Finding> {
    if !PURE.iter().any(|room| is_in(&source.path, room)) {
        return Vec::new();
    }
    source
        .identifiers()
        .filter(|(_, word)| OUTSIDE.contains(word))
        .map(|(line, word)| {
            let what = format!("`{word}` here, where no socket, clock, file or task may be known");
            Finding::line(&source.path, line, what)
        })
        .collect()
}

fn auth_stays_inside(source: &Source) -> Option<Finding> {
    const ROOM: &str = "milter-dkim/src/auth";
    if !is_in(&source.path, ROOM) {
        return None;
    }
    let code = source.squeezed();
    let elsewhere = code.split("crate::").skip(1);
    if let Some(path) = elsewhere.into_iter().find(|path| !leads_to(path, "auth")) {
        let what = format!("`crate::{}` leaves auth", first_word(path));
        return Some(Finding::new(source.path.display(), what));
    }
    let inside = source.path.strip_prefix(ROOM).ok()?;
    // auth/mod.rs is at depth 0, auth/dns.rs at 1, auth/dkim/mod.rs at 1, auth/dkim/key.rs at 2.
    let folders = inside.components().count().saturating_sub(1);
    let depth = folders + usize::from(inside.file_name()? != "mod.rs");
    if code.contains(&"super::".repeat(depth + 1)) {
        let what = "`super::` leaves auth";
        return Some(Finding::new(source.path.display(), what));
    }
    None
}

fn spam_sees_auth_alone(source: &Source) -> Option<Finding> {
    if !is_in(&source.path, "milter-spam/src") {
        return None;
    }
    let code = source.squeezed();
    let path = code.split("milter_dkim").skip(1).find(|path| {
        !path
            .strip_prefix("::")
            .is_some_and(|path| leads_to(path, "auth"))
    })?;
    let what = format!(
        "`milter_dkim{}` here, where `milter_dkim::auth` alone may be used",
        path.chars().take(20).collect::<String>()
    );
    Some(Finding::new(source.path.display(), what))
}

fn is_in(path: &Path, room: &str) -> bool {
    path.starts_with(room) || path == Path::new(&format!("{room}.rs"))
}

fn leads_to(path: &str, module: &str) -> bool {
    first_word(path) == module
}

fn first_word(path: &str) -> &str {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_');
    &path[..end.unwrap_or(path.len())]
}

#[cfg(test)]
mod tests {
    use super::super::said;
    use super::*;

    fn found(path: &str, text: &str) -> String {
        said(&check(&[Source::new(path, text)]))
    }

    #[test]
    fn a_socket_clock_or_file_in_a_pure_room_is_found() {
        let pure = "milter-proto/src/wire/command.rs";
        assert_eq!(found(pure, "use std::net::IpAddr; // not a TcpStream"), "");
        assert_eq!(found(pure, "#[cfg(test)]\nmod tests { use std::fs; }"), "");
        for text in [
            "use std::{fs, io};",
            "let now = Instant::now();",
            "use std::net::TcpStream;",
            "tokio::spawn(x)",
            "async fn f() {}",
        ] {
            assert_ne!(found(pure, text), "", "{text}");
            assert_ne!(found("milter-proto/src/session/mta.rs", text), "", "{text}");
            assert_eq!(found("milter-proto/src/net/serve.rs", text), "", "{text}");
        }
        let line = found(pure, "\n\nlet now = Instant::now();");
        assert!(line.starts_with("milter-proto/src/wire/command.rs:3: `Instant`"));
    }

    #[test]
    fn a_way_out_of_auth_is_found() {
        let file = "milter-dkim/src/auth/dkim/key.rs";
        assert_eq!(
            found(file, "use crate::auth::dns; use super::super::tags;"),
            ""
        );
        assert_ne!(found(file, "use crate::config;"), "");
        assert_ne!(found(file, "use crate::{auth, config};"), "");
        assert_ne!(found(file, "use crate::\n  authority::X;"), "");
        assert_ne!(found(file, "use super::super::super::config;"), "");
        assert_ne!(
            found("milter-dkim/src/auth/mod.rs", "use super::config;"),
            ""
        );
        assert_eq!(found("milter-dkim/src/auth/dns.rs", "use super::tags;"), "");
        assert_eq!(found("milter-dkim/src/sign.rs", "use crate::config;"), "");
    }

    #[test]
    fn another_part_of_dkim_in_spam_is_found() {
        let file = "milter-spam/src/rules/auth.rs";
        assert_eq!(found(file, "use milter_dkim::auth::dns::Dns;"), "");
        assert_ne!(found(file, "use milter_dkim::config;"), "");
        assert_ne!(found(file, "use milter_dkim::{auth, config};"), "");
        assert_ne!(found(file, "use milter_dkim as d;"), "");
    }
}
