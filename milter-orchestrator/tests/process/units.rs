//! The units that are shipped: how much they leave to whoever takes over a daemon, as systemd
//! itself judges it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The worst that a unit may be, in tenths of systemd's scale from 0 to 10.
const EXPOSURE_MAX: u32 = 15;

fn units(extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

#[test]
fn every_service_is_as_closed_as_it_can_be() {
    let services = units("service");
    assert_eq!(services.len(), 4);
    for service in services {
        let analysed = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={EXPOSURE_MAX}"))
            .arg(&service)
            .output();
        match analysed {
            Ok(output) => assert!(
                output.status.success(),
                "{}: {}{}",
                service.display(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = "every_service_is_as_closed_as_it_can_be";
                assert!(std::env::var_os("CI").is_none(), "{name} needs systemd");
                eprintln!("skipped: {name}: systemd-analyze is not installed");
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A socket is found by its name, and belongs to the service of the same name.
#[test]
fn every_socket_has_a_service_and_says_which_listener_it_is() {
    let sockets = units("socket");
    assert_eq!(sockets.len(), 1);
    let config = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/orchestrator.toml"),
    )
    .unwrap();
    for socket in sockets {
        assert!(socket.with_extension("service").exists(), "{socket:?}");
        let unit = fs::read_to_string(&socket).unwrap();
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FileDescriptorName=").unwrap();
        let (host, port) = value("ListenStream=").unwrap().split_once(':').unwrap();
        let listener = format!("[listen.{name}]\nsocket = \"inet:{port}@{host}\"");
        assert!(config.contains(&listener), "{listener}");
    }
}
