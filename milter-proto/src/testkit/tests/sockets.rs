//! Both sides over a real socket.

use std::time::Duration;

use crate::net::{Address, Stream};
use crate::testkit::*;
use crate::wire::{Command, Reply};

const PATIENCE: Duration = Duration::from_secs(20);

fn scenario(text: &str) -> Scenario {
    Scenario::parse("test", text).unwrap()
}

async fn start(script: &FilterScript) -> FilterServer {
    let address = Address::Inet {
        host: "127.0.0.1".into(),
        port: 0,
    };
    FilterServer::start(&address, script.clone()).await.unwrap()
}

async fn play(server: &FilterServer, mta: &MtaScript) -> Vec<Exchange> {
    let stream = Stream::connect(server.address()).await.unwrap();
    converse(mta, stream, PATIENCE).await.unwrap()
}

#[tokio::test]
async fn a_conversation() {
    let scenario = scenario(
        r#"
        filter slow
          actions add-headers
          at open on-connection 2: close
          at end: wait 20ms; progress; add "X-A" "v"; continue
          at unknown: raw "\0\0\0"; wait 10ms; raw "\x01c"
          at rcpt: nothing
        mta
          > negotiate
          < negotiate version 6 actions add-headers
          > unknown "FOO"
          < continue
          > mail "<a@x>"
          < continue
          > rcpt "<b@x>"
          < nothing
          > end
          < add "X-A" "v"; continue
          > quit
          < closed
        mta
          < closed
        "#,
    );
    let server = start(&scenario.filters[0]).await;
    for mta in &scenario.mtas {
        play(&server, mta).await;
    }
    server.idle().await;
    assert_eq!(server.connections(), 2);
    assert_eq!(server.take_transcript().len(), 6);
    assert_eq!(server.transcript(), []);
}

#[tokio::test]
async fn a_script_is_exchanged() {
    let scenario = scenario(
        r#"
        filter one
        filter two
          at helo on-connection 1: reject
        mta
          > helo "a"
          < continue
        mta
          > helo "b"
          < reject
        "#,
    );
    let server = start(&scenario.filters[0]).await;
    let old = Stream::connect(server.address()).await.unwrap();
    play(&server, &scenario.mtas[0]).await;
    server.set_script(scenario.filters[1].clone());
    assert_eq!(server.connections(), 0);
    let record = play(&server, &scenario.mtas[1]).await;
    assert_eq!(record[1], Exchange::Came(Reply::Reject));
    server.idle().await;
    let told = server.take_transcript();
    let expected = Command::Helo("b".into());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].command, Ok(expected));
    drop(old);
}

#[tokio::test]
async fn a_filter_that_hangs_notices_the_end() {
    let scenario = scenario("filter x\nat helo: hang\nmta\n> helo \"a\"\n< nothing\n> close");
    let server = start(&scenario.filters[0]).await;
    play(&server, &scenario.mtas[0]).await;
    tokio::time::timeout(PATIENCE, server.idle()).await.unwrap();
    assert_eq!(server.open_connections(), 0);
}

#[tokio::test]
async fn a_server_ends_with_its_value() {
    let server = start(&FilterScript::new("x")).await;
    let address = server.address().clone();
    drop(server);
    let gone = async {
        while Stream::connect(&address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
