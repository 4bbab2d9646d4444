//! What others say of the signature on outgoing mail: our own `milter-dkim verify`, and OpenDKIM
//! where it is installed. Each is also shown an altered copy, which it must not accept.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::setup::{OPENDKIM, find};
use crate::smtp::sink::Delivered;
use crate::stack::Site;

use super::mail;

/// One program's opinion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opinion {
    /// The program.
    pub(super) who: &'static str,
    /// Whether the message as delivered verifies, and an altered one does not.
    pub(super) good: bool,
    /// What the program said.
    pub(super) said: String,
}

/// Asks everybody about the message that went out; nobody when none did.
pub(super) fn opinions(site: &Site, delivered: &[Delivered]) -> Result<Vec<Opinion>> {
    let outgoing = delivered
        .iter()
        .find(|delivered| delivered.to.iter().any(|to| to == mail::SENDER));
    let Some(outgoing) = outgoing else {
        return Ok(Vec::new());
    };
    let genuine = site.folder.join("outgoing.eml");
    let altered = site.folder.join("altered.eml");
    fs::write(&genuine, &outgoing.message)?;
    let mut changed = outgoing.message.clone();
    changed.extend_from_slice(b"P.S. Send the money to somebody else.\r\n");
    fs::write(&altered, changed)?;
    let mut opinions = vec![ours(site, &genuine, &altered)?];
    if find(OPENDKIM.program).is_some() {
        opinions.push(opendkim(site, &genuine, &altered)?);
    }
    Ok(opinions)
}

fn ours(site: &Site, genuine: &Path, altered: &Path) -> Result<Opinion> {
    let verify = |file: &Path| {
        let mut verify = Command::new(site.binary("milter-dkim"));
        verify
            .arg("verify")
            .arg(file)
            .arg("--keys")
            .arg(site.key_file());
        verify.output()
    };
    let (good, bad) = (verify(genuine)?, verify(altered)?);
    let said = without_folder(site, &String::from_utf8_lossy(&good.stdout));
    Ok(Opinion {
        who: "milter-dkim verify",
        good: good.status.success() && !bad.status.success(),
        said,
    })
}

/// `opendkim -t` ends with 0 whatever it finds; what it says decides.
fn opendkim(site: &Site, genuine: &Path, altered: &Path) -> Result<Opinion> {
    let conf = site.folder.join("opendkim.conf");
    let keys = site.folder.join("opendkim.keys");
    fs::write(&keys, joined(&fs::read_to_string(site.key_file())?))?;
    fs::write(
        &conf,
        format!("Mode v\nTestPublicKeys {}\n", keys.display()),
    )?;
    let verify = |file: &Path| -> Result<String> {
        let mut verify = Command::new(find(OPENDKIM.program).unwrap_or_default());
        verify.arg("-x").arg(&conf).arg("-t").arg(file);
        let output = verify.output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (good, bad) = (verify(genuine)?, verify(altered)?);
    let said = without_folder(site, &good);
    Ok(Opinion {
        who: "opendkim -t",
        good: good.contains("succeeded") && !bad.contains("succeeded"),
        said,
    })
}

/// On one line, and without the name of the temporary folder.
fn without_folder(site: &Site, said: &str) -> String {
    let folder = format!("{}/", site.folder.display());
    said.trim().replace(&folder, "").replace('\n', "; ")
}

/// Records as in a zone file as OpenDKIM reads them: name and value on one line.
fn joined(zone: &str) -> String {
    let mut lines = String::new();
    for line in zone.lines().filter(|line| !line.starts_with(['#', ';'])) {
        if !line.starts_with(char::is_whitespace) {
            let name = line.split_whitespace().next().unwrap_or_default();
            lines.push_str(&format!("\n{} ", name.trim_end_matches('.')));
        }
        lines.extend(line.split('"').skip(1).step_by(2));
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_a_record_are_joined() {
        let zone = "; c\na.b. IN TXT (\n  \"v=DKIM1; \"\n  \"p=x\" )\nc. 60 IN TXT \"y\"\n";
        assert_eq!(joined(zone), "\na.b v=DKIM1; p=x\nc y\n");
    }
}
