//! Files and what they come to: rows of what goes in, and what stands in the result.

use std::path::Path;

use super::{Translation, main_cf, manager};
use crate::blueprint;
use crate::config::Settings;

const LISTEN: &str = "inet:8890@127.0.0.1";

/// The text that the translation becomes has the pieces, and is a configuration without mistakes.
#[track_caller]
fn check(translation: &Translation, pieces: &[&str], not: &[&str]) {
    let text = translation.render(Path::new("old")).unwrap();
    for piece in pieces {
        assert!(text.contains(piece), "no {piece:?} in\n{text}");
    }
    for piece in not {
        assert!(!text.contains(piece), "{piece:?} in\n{text}");
    }
    let settings: Settings = toml::from_str(&text).unwrap();
    blueprint::draw(&settings).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
}

#[track_caller]
fn ruby(text: &str, pieces: &[&str], not: &[&str]) {
    check(&manager::translate(text, LISTEN), pieces, not);
}

#[track_caller]
fn postfix(text: &str, master: Option<&str>, pieces: &[&str], not: &[&str]) {
    check(&main_cf::translate(text, master, LISTEN), pieces, not);
}

const WHOLE: &str = r##"
# -*- ruby -*-
log.level = "warning"
manager.connection_spec = "inet:10025@[127.0.0.1]"
manager.unix_socket_mode = 0660
manager.fallback_status = "accept" # for all
security.effective_user = "nobody"
load_if_exist("milter-manager.local.conf")
define_applicable_condition("Mine") do |condition|
  condition.define_connect_stopper do |context, host, socket_address|
    if host == "x"
      true
    end
  end
end
define_milter("greylist") do |milter|
  milter.connection_spec = "unix:/run/milter-greylist/milter-greylist.sock"
  milter.description = "grey # list"
  milter.enabled = true
  milter.fallback_status = "temporary-failure"
  milter.applicable_conditions = [
    "S25R", # who knows
    "Remote Network",
  ]
  milter.connection_timeout = 3.5
  milter.reading_timeout = 7
end
define_milter("clamav") do |milter|
  milter.connection_spec = "inet:7357"
  milter.command = "/bin/sh"
  milter.command_options = "--foreground --config-file x"
  milter.add_applicable_condition("Unauthenticated")
  milter.user_name = "nobody"
end
define_milter("off") do |milter|
  milter.connection_spec = "inet:1@localhost"
  milter.enabled = false
end
define_milter("gone") { |milter| milter.enabled = true }
define_milter("try") do |milter|
  milter.connection_spec = "inet6:9999"
  milter.evaluation_mode = true
end
define_milter("greylist") do |milter|
  milter.end_of_message_timeout = 60
end
"##;

#[test]
fn a_whole_file_of_milter_manager() {
    let pieces = [
        "socket = \"inet:10025@127.0.0.1\"",
        "mode = \"0660\"",
        "user = \"nobody\"",
        "chain = [\"greylist\", \"clamav\", \"try\"]",
        "[milter.greylist]\nsocket = \"unix:/run/milter-greylist/milter-greylist.sock\"\n\
         on_failure = \"tempfail\"\nconnect_timeout = \"3500ms\"\ncommand_timeout = \"7s\"\n\
         end_of_message_timeout = \"60s\"\n",
        "[milter.greylist.match.not]",
        "[milter.clamav.match]\nauthenticated = false",
        "socket = \"inet:7357@127.0.0.1\"\nbinds_itself = true\non_failure = \"accept\"",
        "user = \"nobody\"\n\n[milter.clamav.match]",
        "shadow = true",
        "socket = \"inet:9999@[::1]\"",
        "line 3: log.level: see [log]",
        "line 6: manager.fallback_status: each filter has an on_failure of its own",
        "line 8: milter-manager.local.conf is not followed",
        "line 9: not translated: define_applicable_condition(\"Mine\") do |condition|",
        "line 21: greylist: the condition \"S25R\" has no counterpart: it sees all mail",
        "line 35: off is not enabled: left out",
        "line 39: not translated: define_milter(\"gone\")",
    ];
    ruby(
        WHOLE,
        &pieces,
        &["[milter.off]", "condition.define", "grey #"],
    );
}

/// Whatever a file holds, the result is a configuration or nothing.
#[test]
fn strange_files_of_milter_manager() {
    let good = "define_milter('a') do |m|\nm.connection_spec = 'inet:1@h'\n";
    for (rest, piece) in [
        (
            "m.connection_spec = \"inet:#{port}@h\"\nend",
            "line 3: a: not translated",
        ),
        (
            "m.unknown = [1, [2, 'x']]\nend",
            "line 3: a: unknown has no counterpart",
        ),
        (
            "m.fallback_status = 'discard'\nend",
            "\"discard\" has no counterpart",
        ),
        ("m.connection_timeout = -1\nend", "a time that is no number"),
        (
            "if x\nm.enabled = false\nend\nend",
            "line 3: a: not translated: if x",
        ),
        (
            "end\n=begin\ndefine_milter('b') do |m|\n=end",
            "chain = [\"a\"]",
        ),
        (
            "end\nmanager.connection_spec = \"\\e[31m\\n[[x]]\"",
            "chain = [\"a\"]",
        ),
        ("m.enabled = true", "chain = [\"a\"]"),
    ] {
        ruby(&format!("{good}{rest}"), &[piece], &[]);
    }
    let deep = format!("x.y = {}", "[".repeat(100_000));
    assert!(manager::translate(&deep, LISTEN).sections.milter.is_empty());
}

#[test]
fn the_filters_of_postfix() {
    let text = "queue_directory = /var/spool/postfix\n\
        # smtpd_milters = inet:localhost:1\n\
        clam = unix:/clamav/clamav-milter.ctl\n\
        smtpd_milters = inet:localhost:8891, { inet:127.0.0.1:11332,\n\
        \x20 default_action=accept, connect_timeout = 5, content_timeout=2m }\n\
        \t${clam} local:x unix:opendmarc/opendmarc.sock\n\
        non_smtpd_milters = $smtpd_milters\n\
        milter_default_action = quarantine\n\
        milter_command_timeout = 20s\n";
    let pieces = [
        "chain = [\"opendkim\", \"rspamd\", \"clamav-milter\", \"opendmarc\"]",
        "[milter.opendkim]\nsocket = \"inet:8891@localhost\"\non_failure = \"quarantine\"\n\
         command_timeout = \"20s\"\n",
        "[milter.rspamd]\nsocket = \"inet:11332@127.0.0.1\"\non_failure = \"accept\"\n\
         connect_timeout = \"5s\"\ncommand_timeout = \"20s\"\nend_of_message_timeout = \"120s\"\n",
        "socket = \"unix:/var/spool/postfix/opendmarc/opendmarc.sock\"",
        "line 4: not translated: \"local:x\"",
        "# smtpd_milters = inet:127.0.0.1:8890\n# non_smtpd_milters = $smtpd_milters\n",
    ];
    let open = "smtp inet n - n - - smtpd\n";
    let free = "socket = \"unix:/clamav/clamav-milter.ctl\"";
    postfix(text, Some(open), &[&pieces[..], &[free]].concat(), &[]);
    let jailed = "smtp inet n - y - - smtpd\n  -o smtpd_milters=inet:x:1\n";
    let jail = [
        "socket = \"unix:/var/spool/postfix/clamav/clamav-milter.ctl\"",
        "# * master.cf, line 2, gives a service other filters: it stays as it is",
    ];
    postfix(text, Some(jailed), &[&pieces[..], &jail].concat(), &[free]);
}

#[test]
fn strange_files_of_postfix() {
    for (text, piece) in [
        (
            "smtpd_milters = inet:h:1 inet:g:1",
            "chain = [\"filter-1\", \"filter-1-2\"]",
        ),
        (
            "smtpd_milters = { inet:h:1, default_action=shutdown",
            "on_failure = \"tempfail\"",
        ),
        (
            "smtpd_milters = { inet:h:1, default_action=what }",
            "the action \"what\" is not known",
        ),
        (
            "smtpd_milters = {inet:h:1,foo=1}",
            "inet:h:1: foo has no counterpart",
        ),
        (
            "a=$a\nsmtpd_milters = $a inet:h:1 ${a",
            "chain = [\"filter-1\"]",
        ),
        (
            "smtpd_milters = inet:h:1\nnon_smtpd_milters =",
            "non_smtpd_milters is another list",
        ),
    ] {
        postfix(text, None, &[piece], &[]);
    }
    let growing: String = (1..40)
        .map(|n| format!("a{n} = $a{0}$a{0}\n", n - 1))
        .collect();
    let text = format!("a0=inet:h:1 \n{growing}smtpd_milters = $a39");
    assert!(
        main_cf::translate(&text, None, LISTEN)
            .sections
            .milter
            .is_empty()
    );
}
