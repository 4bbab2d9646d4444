//! The filter in C on connections that are kept: the next client is a client like any other.

use milter_orchestrator::counters::Link;

use super::masks::BY_ITSELF;
use super::runs::{Sample, Way};

/// What the filter does for one client after the other. It counts messages of a client, and what it
/// was told before would show in what it answers, or notes down. A connection is kept behind those
/// who leave with a message that passed.
const SCRIPTS: [&str; 7] = [
    "actions\t1ff\ncount\nadd\tX-New\tvalue\nquarantine\twhy not\n",
    "actions\t1ff\ncount\nverdict\tmail\treject\n",
    "actions\t1ff\ncount\nbody\tanother body\n",
    "actions\t1ff\ncount\nverdict\teom\ttempfail\n",
    "actions\t1ff\ncount\nfrom\t<other@example.net>\tBODY=7BIT\n",
    "actions\t1ff\ncount\nrcpt\t<three@example.org>\n",
    "actions\t1ff\ncount\nverdict\trcpt\taccept\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_client_is_left_for_the_next_on_a_kept_connection() {
    let pooled = format!("{BY_ITSELF}\npool = 1");
    let test = "nothing_of_a_client_is_left_for_the_next_on_a_kept_connection";
    let Some(sample) = Sample::start(test, &pooled) else {
        return;
    };
    for round in 0..2 {
        for script in SCRIPTS {
            sample.set_script(script);
            let direct = sample.run(Way::Direct).await;
            let behind = sample.run(Way::Behind).await;
            let difference = direct.difference(&behind);
            assert_eq!(difference, None, "{round} {script}\n{}", sample.output());
        }
    }
    let counts = sample.counts();
    let links = &counts.connections_total;
    let clients = 2 * SCRIPTS.len() as u64;
    assert!(
        links[&Link::New] + links[&Link::Kept] >= clients,
        "{links:?}"
    );
    // Seven of the fourteen clients came behind one whose connection can be kept.
    assert!(links[&Link::Kept] >= 4, "{links:?}");
    let failed: u64 = counts.failures_total.values().sum();
    assert_eq!(failed, 0, "{counts:?}\n{}", sample.output());
}
