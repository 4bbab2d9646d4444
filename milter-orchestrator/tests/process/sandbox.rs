//! What the orchestrator has given up once it runs; this test binary tries it out.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use milter_orchestrator::config::Settings;
use milter_orchestrator::sandbox;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getppid};

use super::filter;
use super::house::House;

/// What turns the test below into a confined process: the directory to play in, and the file that
/// says which parts of the sandbox.
const PLAYGROUND: &str = "ORCHESTRATOR_TEST_PLAYGROUND";

/// What was tried, and how it went.
fn attempts(directory: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let socket = |folder: &str| directory.join(folder).join("new.sock");
    let bind = |path| std::os::unix::net::UnixListener::bind(path).map(drop);
    vec![
        ("read", fs::read("/proc/self/stat").map(drop)),
        (
            "spool",
            tempfile::tempfile_in(directory.join("spool")).map(drop),
        ),
        ("socket", bind(socket("run"))),
        ("remove socket", fs::remove_file(socket("run"))),
        ("thread", std::thread::Builder::new().spawn(|| ()).map(drop)),
        (
            "file beside a socket",
            File::create(directory.join("run/file")).map(drop),
        ),
        (
            "file elsewhere",
            File::create(directory.join("file")).map(drop),
        ),
        ("socket elsewhere", bind(socket("."))),
        (
            "append",
            File::options()
                .append(true)
                .open(directory.join("victim"))
                .map(drop),
        ),
        ("remove", fs::remove_file(directory.join("victim"))),
        ("execute", Command::new("/bin/true").status().map(drop)),
        ("signal", kill(getppid(), None).map_err(Into::into)),
    ]
}

/// Not a test of anything unless the variable is set: then a process that confines itself.
#[test]
fn process() {
    let Some(directory) = std::env::var_os(PLAYGROUND) else {
        return;
    };
    let directory = Path::new(&directory);
    let mut settings = Settings::default();
    let text = fs::read_to_string(directory.join("parts")).unwrap();
    settings.sandbox.landlock = text.contains("landlock");
    settings.sandbox.seccomp = text.contains("seccomp");
    settings.limits.spool_directory = directory.join("spool");
    settings.supervisor.directory = directory.join("run");
    // As after root was given up, which the kernel asks for.
    nix::sys::prctl::set_no_new_privs().unwrap();
    sandbox::enter(&settings);
    for (what, outcome) in attempts(directory) {
        let outcome = outcome.map_or_else(|error| error.kind().to_string(), |()| "done".to_owned());
        eprintln!("tried {what}: {outcome}");
    }
}

/// What a process that is confined like this could not do.
fn refused(parts: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    for folder in ["spool", "run"] {
        fs::create_dir(directory.path().join(folder)).unwrap();
    }
    fs::write(directory.path().join("victim"), "").unwrap();
    fs::write(directory.path().join("parts"), parts).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::process", "--nocapture"])
        .env(PLAYGROUND, directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let tried: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("tried ")?.split_once(": "))
        .collect();
    assert_eq!(tried.len(), 12, "{text}");
    let refused = tried.into_iter().filter(|(_, outcome)| *outcome != "done");
    refused.map(|(what, _)| what.to_owned()).collect()
}

#[test]
fn nothing_is_executed_and_nothing_written_but_sockets_and_spools() {
    assert_eq!(refused(""), Vec::<String>::new());
    // Processes are not made, so nothing is executed; the rest is up to Landlock.
    assert_eq!(refused("seccomp"), ["execute"]);
    let by_landlock = refused("landlock");
    if by_landlock.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "no Landlock");
        eprintln!("skipped: Landlock: this kernel has none");
        return;
    }
    let mut expected = vec![
        "file beside a socket",
        "file elsewhere",
        "socket elsewhere",
        "append",
        "remove",
        "execute",
    ];
    // From the sixth version of Landlock on.
    if by_landlock.contains(&"signal".to_owned()) {
        expected.push("signal");
    }
    assert_eq!(by_landlock, expected);
    assert_eq!(refused("landlock seccomp"), expected);
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, line: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.unwrap_or_default().trim().to_owned()
}

#[test]
fn the_orchestrator_is_confined_and_its_children_are_not() {
    let good = filter::milter(std::time::Duration::ZERO);
    let sections = format!("[milter.good]\n{good}[[route]]\nchain = [\"good\"]\n");
    for (parts, mode) in [
        ("", "2"),
        ("[sandbox]\nlandlock = false\nseccomp = false\n", "0"),
    ] {
        let house = House::start(&format!("{parts}{sections}"));
        let child = house.wait_until_up("good").unwrap();
        assert_eq!(status(house.pid(), "Seccomp:"), mode, "{}", house.log());
        assert_eq!(status(child, "Seccomp:"), "0");
        // Each thread of it.
        for thread in fs::read_dir(format!("/proc/{}/task", house.pid())).unwrap() {
            let thread = thread.unwrap().file_name().into_string().unwrap();
            assert_eq!(status(thread.parse().unwrap(), "Seccomp:"), mode);
        }
        kill(Pid::from_raw(child), None).unwrap();
    }
}
