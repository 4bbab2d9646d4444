//! Children that are missing, end, keep silent, crash, hang; and foreign milters that come and go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use milter_orchestrator::control::{Answer, Question};
use milter_orchestrator::member::Readiness;
use milter_orchestrator::status::Kind;
use milter_orchestrator::supervisor::child::State;
use milter_proto::net::{Address, Client, Limits, Listener, Timeouts, serve};
use milter_proto::wire::Offer;
use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use super::filter::{self, Pass};
use super::house::{House, PATIENCE, send};
use super::mta::Session;

/// Negotiates at `address`, as an MTA would, and waits for that as long as it takes.
async fn negotiate(address: Address) -> Duration {
    let begun = Instant::now();
    let timeouts = Timeouts::each(PATIENCE);
    let (client, _) = Client::connect(&address, &Offer::full(), timeouts)
        .await
        .unwrap();
    client.quit().await;
    begun.elapsed()
}

#[test]
fn children_that_cannot_start_are_shown_and_cost_the_others_nothing() {
    let good = filter::milter(Duration::ZERO);
    let directory = tempfile::tempdir().unwrap();
    // There, and what is to run it is not.
    let missing = directory.path().join("missing");
    fs::write(&missing, "#!/nonexistent/shell\n").unwrap();
    fs::set_permissions(&missing, fs::Permissions::from_mode(0o755)).unwrap();
    let sections = format!(
        "[milter.good]\n{good}
         [milter.missing]\ncommand = [\"{{dir}}/missing\"]
         [milter.ends]\ncommand = [\"sh\", \"-c\", \"echo to stdout; echo to stderr >&2; exit 3\"]
         [milter.silent]\ncommand = [\"sleep\", \"1000\"]\nstart_timeout = \"300ms\"
         [[route]]\nchain = [\"good\", [\"missing\", \"ends\"], \"silent\"]\n"
    );
    let house = House::start_in(directory, "", &sections);
    house.wait_until_up("good");
    for (name, words) in [
        ("missing", "/missing\": No such file"),
        ("ends", "ended with status 3"),
        ("silent", "LISTEN_FDS"),
    ] {
        house.wait_for(&format!("restart and reason of {name}"), || {
            let milter = house.milter(name);
            let error = milter
                .last_error
                .map_or_else(String::new, |error| error.message);
            milter.restarts >= 1 && error.contains(words)
        });
        house.wait_for_log(&[name, words]);
    }
    for (stream, words) in [("stdout", "to stdout"), ("stderr", "to stderr")] {
        house.wait_for_log(&["ends", stream, words]);
    }
    // Five crashes within ten seconds, and the breaker is open.
    for name in ["missing", "ends"] {
        let open = || house.milter(name).readiness == Readiness::Open;
        house.wait_for(&format!("open breaker of {name}"), open);
        house.wait_for_log(&[name, "again and again", "mail is refused for now"]);
    }
    let good = house.milter("good");
    assert_eq!(
        (good.state, good.restarts),
        (State::Up, 0),
        "{}",
        house.log()
    );
}

#[tokio::test]
async fn a_crashed_child_is_replaced_and_its_callers_wait_in_the_queue() {
    let milter = filter::milter(Duration::from_millis(300));
    let house = House::start(&format!(
        "[milter.good]\n{milter}[[route]]\nchain = [\"good\"]\n"
    ));
    let before = house.wait_until_up("good").unwrap();
    send(before, Signal::SIGKILL);
    let address = Address::Unix(house.path().join("children/good.sock"));
    // Not refused, although nobody is there; the answer comes from the next one.
    negotiate(address).await;
    house.wait_for("another process", || {
        house.milter("good").pid != Some(before)
    });
    let after = house.wait_until_up("good").unwrap();
    assert_ne!(before, after);
    assert_eq!(house.milter("good").restarts, 1);
    house.wait_for_log(&["good", "killed by SIGKILL", "starting it again"]);
}

#[test]
fn a_child_that_hangs_is_killed_and_replaced() {
    let milter = filter::milter(Duration::ZERO);
    let sections = format!("[milter.good]\n{milter}[[route]]\nchain = [\"good\"]\n");
    let house = House::start_with(
        "probe_timeout = \"300ms\"\nhang_timeout = \"1s\"\n",
        &sections,
    );
    let before = house.wait_until_up("good").unwrap();
    send(before, Signal::SIGSTOP);
    house.wait_for("another process", || {
        let milter = house.milter("good");
        milter.state == State::Up && milter.pid != Some(before)
    });
    house.wait_for_log(&["good", "does not answer negotiations any more"]);
    house.wait_for_log(&["good", "runs without answering; killed"]);
}

#[test]
fn a_child_that_answers_probes_and_no_message_is_down_and_then_replaced() {
    let milter = filter::stamping(filter::NEVER);
    let house = House::start(&format!(
        "[milter.idle]\n{milter}on_failure = \"accept\"
         command_timeout = \"200ms\"\nend_of_message_timeout = \"200ms\"
         [[route]]\nchain = [\"idle\"]\n"
    ));
    let before = house.wait_until_up("idle");
    let inbound = house.path().join("inbound.sock");
    house.wait_for("another process", || {
        if let Ok(mut session) = Session::open(&inbound) {
            assert_eq!(session.send().unwrap(), "", "it passes without a word");
            session.quit();
        }
        let pid = house.milter("idle").pid;
        pid.is_some() && pid != before
    });
    house.wait_for_log(&["idle", "messages fail one after the other"]);
    house.wait_for_log(&["idle", "not done its work for a single message"]);
}

#[test]
fn a_restart_that_is_asked_for_is_a_fresh_process_and_no_crash() {
    let milter = filter::milter(Duration::ZERO);
    let house = House::start(&format!(
        "[milter.good]\n{milter}
         [milter.theirs]\nsocket = \"unix:{{dir}}/theirs.sock\"
         [[route]]\nchain = [\"good\", \"theirs\"]\n"
    ));
    let before = house.wait_until_up("good");
    let output = house.run(&["restart", "good"]);
    assert!(output.status.success(), "{output:?}");
    house.wait_for("another process", || {
        let milter = house.milter("good");
        milter.state == State::Up && milter.pid != before
    });
    assert_eq!(house.milter("good").last_error, None);

    for (milter, words) in [("theirs", "not ours"), ("god", "there is no milter")] {
        let output = house.run(&["restart", milter]);
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(words), "{text}");
    }
    let question = Question::Restart {
        milter: "theirs".to_owned(),
    };
    assert!(matches!(house.ask(&question), Some(Answer::Error(_))));
}

#[test]
fn a_program_that_binds_its_socket_itself_is_started_and_watched() {
    let own = filter::binding("{dir}/own.sock", "");
    let house = House::start(&format!(
        "[milter.own]\n{own}socket = \"unix:{{dir}}/own.sock\"\nbinds_itself = true
         [[route]]\nchain = [\"own\"]\n"
    ));
    assert!(house.wait_until_up("own").is_some());
    assert_eq!(house.milter("own").restarts, 0, "{}", house.log());
}

/// A foreign filter at `address`, until the sender is dropped.
async fn foreign(address: &Address) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = Listener::bind(address).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        let pass = || std::sync::Arc::new(Pass);
        serve(vec![listener], pass, Limits::default(), shutdown).await;
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_milter_is_probed_and_never_started() {
    let house = House::start(
        "[milter.theirs]\nsocket = \"unix:{dir}/theirs.sock\"\non_failure = \"reject\"
         [[route]]\nchain = [\"theirs\"]\n",
    );
    house.wait_for("down", || {
        house.milter("theirs").readiness == Readiness::Open
    });
    house.wait_for_log(&["theirs", "mail is refused for good", "not ours to start"]);

    let path = house.path().join("theirs.sock");
    let address = Address::Unix(path.clone());
    let (stop, task) = foreign(&address).await;
    house.wait_until_up("theirs");
    let milter = house.milter("theirs");
    assert_eq!((milter.kind, milter.pid), (Kind::Foreign, None));
    assert_eq!(milter.readiness, Readiness::Ready);

    drop(stop);
    task.await.unwrap();
    house.wait_for("down again", || house.milter("theirs").state == State::Down);
    fs::remove_file(&path).unwrap();
    let (_stop, _task) = foreign(&address).await;
    house.wait_until_up("theirs");
    assert_eq!(house.milter("theirs").restarts, 0);
}
