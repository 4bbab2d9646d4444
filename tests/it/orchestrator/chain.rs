//! What three filters make of a message, in sequence and in parallel; what `status` shows of it.

use milter_proto::net::Address;
use milter_proto::verdict::Verdict;
use milter_tests::clamd::{SIGNATURE, eicar};
use milter_tests::mta::{Delivery, Envelope, Message, Mta, deliver};
use milter_tests::programs::Daemon;
use milter_tests::skip::skip;
use nix::sys::signal::Signal;

use super::stack::{DOMAIN, Site, Stack};

const ORDINARY: &str = "From: <stranger@example.net>\n\
    To: <user@example.org>\n\
    Date: Mon, 1 Jan 2024 00:00:00 +0000\n\
    Message-ID: <1@example.net>\n\
    Authentication-Results: mx.example.org; dkim=pass header.d=example.net\n\
    X-Spamd-Result: default: False [-99.00 / 15.00]\n\
    Subject: greetings\n\
    \n\
    Hello.\n";

/// The test pattern that every spam filter refuses.
const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";

fn message(body: &str) -> Message {
    Message::parse(ORDINARY.replace("Hello.", body).as_bytes())
}

async fn send(stack: &Stack, envelope: &Envelope, message: &Message) -> Delivery {
    let delivery = deliver(&stack.address, envelope, message).await;
    delivery.unwrap_or_else(|error| panic!("{error:#}\n{}", stack.process.output()))
}

/// Starts the usual stack with the filters in parallel or in sequence.
fn start(parallel: bool) -> Stack {
    let site = Site::new();
    if !site.has_clamd() {
        skip(
            "orchestrator::chain",
            "clamd is not installed: clamav is left out",
        );
    }
    let chain = site.chain(parallel);
    site.start(&chain)
}

async fn everything_is_done(parallel: bool) {
    let stack = start(parallel);
    let stranger = Envelope::default();
    let ordinary = message("Hello.");
    let delivery = send(&stack, &stranger, &ordinary).await;
    assert_eq!(
        delivery.verdict,
        Verdict::Continue,
        "{}",
        stack.process.output()
    );
    let delivered = ordinary.edited(&delivery.edits);
    // The forged results are gone, those of our own filters are there, each once.
    let results = delivered.values("Authentication-Results");
    assert_eq!(results.len(), 1, "{results:?}");
    assert!(results[0].contains("dkim=none"), "{results:?}");
    let spam = delivered.values("X-Spamd-Result");
    assert_eq!(spam.len(), 1, "{spam:?}");
    assert!(!spam[0].contains("-99.00"), "{spam:?}");
    assert_eq!(delivered.values("Subject"), ["greetings"]);
    assert_eq!(delivered.body, ordinary.body);

    let refused = send(&stack, &stranger, &message(GTUBE)).await;
    let reply = refused.reply().unwrap_or_default();
    assert!(reply.starts_with("554 5.7.1"), "{refused:?}");
    assert_eq!(refused.edits, [], "a refused message is not changed");

    if stack.site().has_clamd() {
        assert_eq!(delivered.values("X-Virus-Status"), ["Clean"]);
        let infected = send(&stack, &stranger, &message(&eicar())).await;
        let reply = infected.reply().unwrap_or_default();
        assert!(reply.contains(SIGNATURE), "{infected:?}");
    }
    for milter in stack.milters() {
        let sent = if stack.site().has_clamd() { 3 } else { 2 };
        let heard = milter.messages;
        // In sequence, those behind the one that refuses are not asked.
        assert!(
            heard >= 1 && heard <= sent,
            "{}: {heard} of {sent}",
            milter.name
        );
        assert_eq!(milter.fallbacks, 0, "{milter:?}");
    }
    let table = stack.run(&["status"]);
    for words in ["dkim", "spam", "spawned", "up"] {
        assert!(table.contains(words), "{table}");
    }
}

#[tokio::test]
async fn filters_in_sequence() {
    everything_is_done(false).await;
}

#[tokio::test]
async fn filters_in_parallel() {
    everything_is_done(true).await;
}

/// Signed behind the orchestrator, verified without it.
#[tokio::test]
async fn our_own_mail_is_signed_and_the_signature_holds() {
    for parallel in [false, true] {
        let stack = start(parallel);
        let text = ORDINARY.replace("stranger@example.net", &format!("joe@{DOMAIN}"));
        let message = Message::parse(text.as_bytes());
        let envelope = Envelope {
            login: "joe".to_owned(),
            sender: format!("joe@{DOMAIN}"),
            recipients: vec!["friend@example.com".to_owned()],
            ..Envelope::default()
        };
        let delivery = send(&stack, &envelope, &message).await;
        assert_eq!(delivery.verdict, Verdict::Continue);
        let signed = message.edited(&delivery.edits);
        assert_eq!(signed.values("DKIM-Signature").len(), 1, "{delivery:?}");

        let keys = stack.site().path().join(format!("{DOMAIN}.s1.txt"));
        let sections = format!(
            "[dns]\nkey_file = \"{}\"\n[log]\nlevel = \"debug\"\n",
            keys.display()
        );
        let daemon = Daemon::start("milter-dkim", &sections).unwrap();
        let outside = deliver(&daemon.address, &Envelope::default(), &signed).await;
        let received = signed.edited(&outside.unwrap().edits);
        let results = received.values("Authentication-Results").join("\n");
        assert!(results.contains("dkim=pass"), "{results}\n{signed:?}");
    }
}

/// Several messages over one connection, as MTAs send them; one of them is refused.
#[tokio::test]
async fn messages_of_one_session_do_not_touch_each_other() {
    let stack = start(true);
    let envelope = Envelope::default();
    let mut mta = Mta::connect(&stack.address).await.unwrap();
    assert_eq!(mta.greet(&envelope).await.unwrap(), Verdict::Continue);
    for number in 0..6 {
        let refused = number % 3 == 1;
        let body = if refused { GTUBE } else { "Hello." };
        let delivery = mta.send(&envelope, &message(body)).await.unwrap();
        assert_eq!(delivery.is_taken(), !refused, "{number}: {delivery:?}");
        assert_eq!(delivery.edits.is_empty(), refused, "{number}: {delivery:?}");
    }
    mta.quit().await;
}

/// A message in hand is finished when the orchestrator is told to stop.
#[tokio::test]
async fn a_stop_lets_the_message_in_hand_finish() {
    let mut stack = start(true);
    let envelope = Envelope::default();
    let large = message(&"filler\n".repeat(100_000));
    let mut mta = Mta::connect(&stack.address).await.unwrap();
    assert_eq!(mta.greet(&envelope).await.unwrap(), Verdict::Continue);
    let stop = || stack.process.signal(Signal::SIGTERM).unwrap();
    let delivery = mta.send_and(&envelope, &large, stop).await.unwrap();
    mta.quit().await;
    assert!(delivery.is_taken(), "{delivery:?}");
    let status = tokio::task::spawn_blocking(move || (stack.process.wait().unwrap(), stack));
    let (status, stack) = status.await.unwrap();
    assert!(status.success(), "{}", stack.process.output());
}

/// A milter that somebody else runs, by its socket.
#[tokio::test]
async fn a_foreign_milter_is_asked_like_any_other() {
    let daemon = Daemon::start("milter-spam", "").unwrap();
    let Address::Unix(socket) = &daemon.address else {
        panic!("{:?}", daemon.address);
    };
    let site = Site::without_clamd();
    let text = format!(
        "{}{}[milter.theirs]\nsocket = \"unix:{}\"\n\
         [[route]]\nchain = [\"dkim\", \"theirs\"]\n",
        site.frame(),
        site.milter("dkim"),
        socket.display()
    );
    let stack = site.start_with(&text);
    stack.wait_until_up();
    let ordinary = message("Hello.");
    let delivery = send(&stack, &Envelope::default(), &ordinary).await;
    let delivered = ordinary.edited(&delivery.edits);
    assert_eq!(delivered.values("X-Spamd-Result").len(), 1, "{delivery:?}");
    let theirs = stack.milter("theirs");
    assert_eq!((theirs.pid, theirs.messages), (None, 1));
}
