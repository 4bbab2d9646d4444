//! Whether the commands of `[milter.NAME]` can be executed at all. The file system is looked at,
//! and nothing is started.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use milter_proto::daemon::ConfigError;

use crate::config::{Milter, Settings};

/// Every command that could not be started, and every directory that it could not be started in.
pub(crate) fn check(settings: &Settings) -> Vec<ConfigError> {
    let mut mistakes = Vec::new();
    for (name, milter) in &settings.milter {
        let at = |key: &str| format!("milter.{name}.{key}");
        if let Some(directory) = &milter.directory
            && !directory.is_dir()
        {
            let message = format!("{} is no directory", directory.display());
            let mistake = ConfigError::at(at("directory"), message);
            mistakes.push(mistake.help("name one, or leave it out for ours"));
        }
        if let Some((message, help)) = executable(milter) {
            mistakes.push(ConfigError::at(at("command"), message).help(help));
        }
    }
    mistakes
}

/// What is wrong with the program of a command, and what to write.
fn executable(milter: &Milter) -> Option<(String, &'static str)> {
    let program = milter
        .command
        .first()
        .filter(|program| !program.is_empty())?;
    if !program.contains('/') {
        let path = milter.environment.get("PATH").map(Into::into);
        let path = path.or_else(|| env::var_os("PATH")).unwrap_or_default();
        let found = env::split_paths(&path).any(|folder| obstacle(&folder.join(program)).is_none());
        let message = || format!("there is no program {program:?} in the directories of PATH");
        let help = "write its path, as in \"/usr/sbin/milter-x\", or install it";
        return (!found).then(|| (message(), help));
    }
    let path = match &milter.directory {
        Some(directory) => directory.join(program),
        None => PathBuf::from(program),
    };
    obstacle(&path)
}

/// Why a file cannot be executed, and what to do.
fn obstacle(path: &Path) -> Option<(String, &'static str)> {
    let shown = path.display();
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some((
            format!("there is no program {shown}"),
            "write the path of the filter, or install it",
        )),
        Err(error) => Some((
            format!("{shown} cannot be executed: {error}"),
            "let the user we run as into the directories above it",
        )),
        Ok(meta) if !meta.is_file() => Some((
            format!("{shown} is no program"),
            "write the path of the filter, then its arguments as words of their own",
        )),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Some((
            format!("{shown} is not executable"),
            "make it so with chmod +x, or name the interpreter first, as in [\"python3\", \"…\"]",
        )),
        Ok(_) => None,
    }
}
