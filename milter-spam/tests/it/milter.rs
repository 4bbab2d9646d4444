//! The filter behind a real socket, spoken to as an MTA does: what it answers and how it changes
//! the message.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use milter_proto::edit::Edit;
use milter_proto::message::{Address as ClientAddress, Connection, Header, Path};
use milter_proto::net::{Address, Client, Limits, Listener, Response, Timeouts, serve};
use milter_proto::session::Event;
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Actions, Offer, Steps, VERSION};
use milter_spam::config::Settings;
use milter_spam::filter::SpamFilter;

/// Who sends what.
struct Mail<'a> {
    client: &'a str,
    macros: Vec<(Bytes, Bytes)>,
    sender: &'a str,
    header: Vec<(&'a str, &'a str)>,
    body: Vec<u8>,
}

const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";

fn mail(header: &[(&'static str, &'static str)], body: &str) -> Mail<'static> {
    let ordinary = [
        ("From", "Ann Lee <ann@example.org>"),
        ("To", "Bob <bob@example.net>"),
        ("Message-ID", "<1@mail.example.org>"),
    ];
    Mail {
        client: "192.0.2.7:4000",
        macros: Vec::new(),
        sender: "<ann@example.org>",
        header: ordinary.iter().chain(header).copied().collect(),
        body: body.as_bytes().to_vec(),
    }
}

/// What a filter of this configuration answers to the messages, one after the other.
async fn answers(configuration: &str, mails: Vec<Mail<'_>>) -> Vec<Response> {
    let settings: Settings = toml::from_str(configuration).unwrap();
    let filter = Arc::new(SpamFilter::new(settings.mean().unwrap()));
    let listener = Listener::bind(&"inet:0@127.0.0.1".parse().unwrap())
        .await
        .unwrap();
    let address = listener.address().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let server = tokio::spawn(serve(
        vec![listener],
        move || Arc::clone(&filter),
        Limits::default(),
        shutdown,
    ));
    let mut responses = Vec::new();
    for mail in mails {
        responses.push(deliver(&address, mail).await);
    }
    drop(stop);
    server.await.unwrap();
    responses
}

async fn deliver(address: &Address, mail: Mail<'_>) -> Response {
    let offer = Offer {
        version: VERSION,
        actions: Actions::all(),
        steps: Steps::all() - Steps::MDS_256K - Steps::MDS_1M,
        macros: Vec::new(),
    };
    let (mut client, _) = Client::connect(address, &offer, Timeouts::default())
        .await
        .unwrap();
    let inet: SocketAddr = mail.client.parse().unwrap();
    let path = |address: &str| Path {
        address: Bytes::copy_from_slice(address.as_bytes()),
        args: Vec::new(),
    };
    let connect = Event::Connect(Connection {
        hostname: Bytes::from_static(b"mail.example.org"),
        address: ClientAddress::Inet(inet),
    });
    let mut events = vec![
        connect,
        Event::Helo(Bytes::from_static(b"mail.example.org")),
        Event::Mail(path(mail.sender)),
        Event::Rcpt(path("<bob@example.net>")),
    ];
    for (name, value) in mail.header {
        let header = Header::new(name.as_bytes().to_vec(), value.as_bytes().to_vec());
        events.push(Event::Header(header));
    }
    events.push(Event::EndOfHeaders);
    for event in events {
        let macros = matches!(event, Event::Mail(_)).then_some(&mail.macros[..]);
        let response = client.send(event, macros).await.unwrap();
        assert_eq!(
            response.verdict,
            Verdict::Continue,
            "an answer before the end"
        );
    }
    for chunk in mail.body.chunks(65_535) {
        let response = client
            .send(Event::Body(Bytes::copy_from_slice(chunk)), None)
            .await
            .unwrap();
        if response.skip {
            break;
        }
    }
    let response = client.send(Event::EndOfMessage, None).await.unwrap();
    client.quit().await;
    response
}

/// The value that a field is given, if any.
fn added(response: &Response, wanted: &str) -> Option<String> {
    response.edits.iter().find_map(|edit| match edit {
        Edit::AddHeader { name, value } if &name[..] == wanted.as_bytes() => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    })
}

fn reply(response: &Response) -> String {
    match &response.verdict {
        Verdict::Reply(reply) => String::from_utf8_lossy(reply.as_bytes()).into_owned(),
        other => format!("{other:?}"),
    }
}

const HELLO: &str = "Hello Bob, here are the minutes.\r\n";

#[tokio::test]
async fn an_ordinary_message_is_marked_and_forged_marks_go() {
    let forged = [
        ("Subject", "Minutes"),
        ("X-Spam", "No"),
        ("X-Spamd-Result", "default: False [-100.00 / 15.00]"),
        ("x-spam", "never"),
    ];
    let response = answers("", vec![mail(&forged, HELLO)]).await.remove(0);
    assert_eq!(response.verdict, Verdict::Continue);
    let forged = [
        Edit::delete(2, "X-Spam"),
        Edit::delete(1, "X-Spam"),
        Edit::delete(1, "X-Spamd-Result"),
    ];
    assert_eq!(response.edits[..3], forged);
    let result = added(&response, "X-Spamd-Result").unwrap();
    assert!(result.starts_with("default: False ["), "{result}");
    assert!(result.contains(";\n\tMISSING_DATE(1.00)[]"), "{result}");
    assert!(!result.contains("MISSING_TO"), "{result}");
    assert!(
        added(&response, "X-Spam-Status")
            .unwrap()
            .starts_with("No, score=")
    );
    assert_eq!(added(&response, "X-Spam"), None);
}

#[tokio::test]
async fn gtube_is_refused_and_the_next_message_is_not() {
    let mails = vec![
        mail(&[("Subject", "spam")], GTUBE),
        mail(&[("Subject", "ham")], HELLO),
    ];
    let responses = answers("", mails).await;
    assert_eq!(reply(&responses[0]), "554 5.7.1 Spam message rejected");
    assert_eq!(responses[0].edits, []);
    assert_eq!(responses[1].verdict, Verdict::Continue);
}

#[tokio::test]
async fn thresholds_choose_the_action() {
    let subject = [("Subject", "Minutes")];
    for (configuration, expected) in [
        ("actions.add_header = 0.5", "mark"),
        ("actions.rewrite_subject = 0.5", "rewrite"),
        (
            "actions.soft_reject = 0.5\nactions.soft_reject_text = 'Later'",
            "451 4.7.1 Later",
        ),
        (
            "actions.reject = 0.5\nactions.add_header = 0.4",
            "554 5.7.1 Spam message rejected",
        ),
    ] {
        let response = answers(configuration, vec![mail(&subject, HELLO)])
            .await
            .remove(0);
        let rewritten = Edit::change(1, "Subject", "***SPAM*** Minutes");
        let got = match added(&response, "X-Spam") {
            Some(_) if response.edits.contains(&rewritten) => "rewrite".to_owned(),
            Some(_) => "mark".to_owned(),
            None => reply(&response),
        };
        assert_eq!(got, expected, "{configuration}");
    }
}

#[tokio::test]
async fn clients_that_are_ours_are_treated_as_configured() {
    let login = || {
        vec![(
            Bytes::from_static(b"{auth_authen}"),
            Bytes::from_static(b"ann"),
        )]
    };
    let authenticated = || Mail {
        macros: login(),
        ..mail(&[("Subject", "x")], GTUBE)
    };
    let local = || Mail {
        client: "127.0.0.1:4000",
        ..mail(&[("Subject", "x")], HELLO)
    };
    let responses = answers("", vec![authenticated(), local()]).await;
    assert_eq!(reply(&responses[0]), "554 5.7.1 Spam message rejected");
    let result = added(&responses[1], "X-Spamd-Result").unwrap();
    assert!(!result.contains("ONCE_RECEIVED"), "{result}");
    let skip = "clients = { authenticated = 'skip', local = 'skip' }";
    for response in answers(skip, vec![authenticated(), local()]).await {
        assert_eq!(
            (response.verdict, response.edits),
            (Verdict::Continue, vec![])
        );
    }
    let outgoing = Mail {
        macros: login(),
        ..mail(&[("Subject", "x")], HELLO)
    };
    assert_eq!(answers("", vec![outgoing]).await.remove(0).edits, []);
}

#[tokio::test]
async fn a_body_over_the_limit_is_scanned_up_to_it() {
    let start = |text: &str| format!("{text}\r\n{}", "x".repeat(300_000));
    let mails = vec![
        mail(&[("Subject", "x")], &start(GTUBE)),
        mail(&[("Subject", "x")], &format!("{}\r\n{GTUBE}", start(HELLO))),
    ];
    let responses = answers("limits.body = '100KB'", mails).await;
    assert_eq!(reply(&responses[0]), "554 5.7.1 Spam message rejected");
    let result = added(&responses[1], "X-Spamd-Result").unwrap();
    assert!(
        result.contains("SCAN_LIMIT_REACHED(0.00)[body]"),
        "{result}"
    );
}

#[tokio::test]
async fn a_scan_out_of_time_is_what_the_policy_says() {
    let slow = || {
        mail(
            &[("Subject", "x")],
            &"<a href=http://www.example.com/>x</a> ".repeat(100_000),
        )
    };
    let tempfail = "scan.time_budget = '0s'";
    let response = answers(tempfail, vec![slow()]).await.remove(0);
    assert_eq!(response.verdict, Verdict::TempFail);
    let accept = "scan = { time_budget = '0s', on_failure = 'accept' }";
    let response = answers(accept, vec![slow()]).await.remove(0);
    assert_eq!(
        (response.verdict, response.edits),
        (Verdict::Continue, vec![])
    );
}

#[tokio::test]
async fn more_forged_fields_than_can_be_removed_are_refused() {
    let header: Vec<_> = (0..300).map(|_| ("X-Spam", "No")).collect();
    let response = answers("", vec![mail(&header, HELLO)]).await.remove(0);
    assert_eq!(reply(&response), "554 5.7.1 Spam message rejected");
}
