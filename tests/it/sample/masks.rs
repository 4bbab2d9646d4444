//! Every mask that a filter can negotiate, with verdicts at every stage and edits of every kind.

use milter_proto::wire::Steps;

use super::runs::{Sample, Way};

/// The filter as a command that binds its own socket.
pub(super) const BY_ITSELF: &str = "command = [\"{sample}\", \"-p\", \"{folder}/behind.sock\", \
     \"-s\", \"{folder}/script\", \"-l\", \"{folder}/behind.log\"]\n\
     socket = \"unix:{folder}/behind.sock\"\nbinds_itself = true";

const STAGES: [&str; 10] = [
    "connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "unknown", "eom",
];
const VERDICTS: [&str; 6] = ["accept", "reject", "tempfail", "discard", "reply", "skip"];
/// Where a field is inserted between others is a matter of the mail server, and not of masks.
const EDITS: [&str; 11] = [
    "add\tX-New\tvalue",
    "insert\t0\tX-Top\tvalue",
    "change\tX-Test\t2\tchanged",
    "delete\tX-Test\t1",
    "rcpt\t<three@example.org>",
    "rcptargs\t<four@example.org>\tNOTIFY=NEVER",
    "unrcpt\t<two@example.org>",
    "from\t<other@example.net>\tBODY=7BIT",
    "body\tanother body",
    "quarantine\twhy not",
    "progress",
];
const REPLIES: [&str; 3] = [
    "550\t5.7.1\tnot here",
    "451\t4.7.1\tnot %% now",
    "554\t5.7.0\tall of it is bad",
];

/// A generator of numbers, the same for each seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        // Knuth's multiplier; the high bits are good enough for choosing.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// Nothing, everything, and each bit alone.
fn masks() -> Vec<Steps> {
    let mut masks = vec![
        Steps::empty(),
        Steps::NO_ALL,
        Steps::NR_ALL,
        Steps::NEGOTIABLE,
    ];
    masks.extend(Steps::NEGOTIABLE.iter());
    masks
}

fn script(steps: Steps, rest: &[String]) -> String {
    format!(
        "actions\t1ff\nsteps\t{:x}\n{}\n",
        steps.bits(),
        rest.join("\n")
    )
}

async fn same(sample: &Sample, script: &str) {
    sample.set_script(script);
    let direct = sample.run(Way::Direct).await;
    let behind = sample.run(Way::Behind).await;
    let difference = direct.difference(&behind);
    assert_eq!(difference, None, "{script}\n{}", sample.output());
}

/// Each bit alone, all, and none, with a message that is edited.
#[tokio::test]
async fn each_mask_alone() {
    let Some(sample) = Sample::start("each_mask_alone", BY_ITSELF) else {
        return;
    };
    for mask in masks() {
        let edits: Vec<String> = EDITS.map(str::to_owned).to_vec();
        same(&sample, &script(mask, &edits)).await;
    }
}

/// Combinations, with verdicts, replies, macro lists and edits. Step by step: libmilter remembers
/// for the whole process what any connection has negotiated away, and then takes what follows a
/// refusal for a message that begins there.
#[tokio::test]
async fn combinations_of_masks() {
    let Some(sample) = Sample::start_chain("combinations_of_masks", BY_ITSELF, true) else {
        return;
    };
    for seed in 0..128 {
        let mut numbers = Numbers(seed);
        numbers.next(1);
        let mut steps = Steps::empty();
        for step in Steps::NEGOTIABLE.iter() {
            // A filter that leaves out most of it sees little.
            if numbers.next(3) == 0 {
                steps |= step;
            }
        }
        let mut rest = vec![format!("reply\t{}", REPLIES[numbers.next(REPLIES.len())])];
        if numbers.next(2) == 0 {
            let stage = STAGES[numbers.next(STAGES.len())];
            let mut verdict = VERDICTS[numbers.next(VERDICTS.len())];
            if verdict == "skip" && !matches!(stage, "header" | "body") {
                verdict = "reject";
            }
            rest.push(format!("verdict\t{stage}\t{verdict}"));
        }
        for _ in 0..numbers.next(3) {
            rest.push(format!("symbols\t{}\t{{mail_addr}} i j", numbers.next(7)));
        }
        for edit in EDITS {
            if numbers.next(3) == 0 {
                rest.push(edit.to_owned());
            }
        }
        same(&sample, &script(steps, &rest)).await;
    }
}
