//! The protocol of exactly-once (ARCHITECTURE.md, flow three) as a model: processes that claim, fence, replay, send,
//! commit, save, release, begin anew and die, in random order, one step with the outside at a time. Leases play no part:
//! a slot may be taken from its owner at any moment.

mod model;

use model::{Flaw, Outcome, run};

const SEEDS: u64 = 10_000;

#[test]
fn whoever_takes_a_slot_whenever_each_event_is_committed_once_and_in_order() {
    let mut total = Outcome::default();
    for seed in 0..SEEDS {
        match run(seed, Flaw::None) {
            Ok(outcome) => total.add(&outcome),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    // A schedule that never happens proves nothing.
    let Outcome {
        commits,
        fenced_commits,
        lost_answers,
        late_commits,
        restarted,
        superseded,
        replayed,
        dirty_releases,
        own_ids,
    } = total;
    for (what, count) in [
        ("commits", commits),
        ("commits refused to a fenced owner", fenced_commits),
        ("commits without an answer", lost_answers),
        ("of these, that took place", late_commits),
        ("processes that began anew", restarted),
        ("claims superseded while they read", superseded),
        ("ids found in the journal alone", replayed),
        ("releases with something in flight", dirty_releases),
        ("own ids found in a row", own_ids),
    ] {
        assert!(count > 50, "{what}: {count}");
    }
}

#[test]
fn each_rule_of_the_protocol_is_needed() {
    for flaw in Flaw::ALL {
        let caught = (0..SEEDS).find(|seed| run(*seed, flaw).is_err());
        assert!(caught.is_some(), "{flaw:?} breaks nothing");
    }
}
