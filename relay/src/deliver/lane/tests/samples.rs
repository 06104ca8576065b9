//! What each committed sample's retry and circuit breaker come to, second by second.

use std::path::Path;

use crds::RelayConfig;
use crds::retry::Jitter;

use super::model::Model;
use super::*;

fn sample(name: &str, jitter: Jitter) -> RelayConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples");
    let text = std::fs::read_to_string(path.join(name)).unwrap();
    let mut config = crds::load(&text, Path::new("/secrets")).unwrap();
    config.retry.jitter = jitter;
    config
}

fn model(config: &RelayConfig) -> Model {
    let mut model = Model::new(Policy::new(config), 1);
    model.lane.breaker = Breaker::new(&config.circuit_breaker);
    model
}

/// Runs a lane against a cluster without its topic; returns when attempts failed, in milliseconds after the first, and
/// when the circuit opened.
fn failures(config: &RelayConfig, events: u64) -> (Vec<u128>, u128, Model) {
    let mut model = model(config);
    model.faults.topic_missing = true;
    model.offer_all((0..events).map(|_| 0));
    let (mut times, mut first) = (Vec::new(), None);
    while model.breaker() != Open {
        model.turn();
        model.broker_step();
        let failed = model.failed_attempts().len();
        let now = model.now.elapsed.as_millis();
        if failed > times.len() {
            assert_eq!(failed, times.len() + 1, "attempts fail one by one");
            times.push(now - *first.get_or_insert(now));
        } else {
            model.step(Duration::from_millis(1));
        }
        assert!(model.now.elapsed < MINUTE, "the circuit opens");
    }
    let opened = model.now.elapsed.as_millis() - first.unwrap();
    (times, opened, model)
}

#[test]
fn each_samples_schedule_holds_exactly_without_jitter() {
    let check = |name: &str, expected: &[u128]| {
        let (times, opened, model) = failures(&sample(name, Jitter::None), 20);
        assert_eq!(times, expected, "{name}");
        assert_eq!(
            opened,
            *expected.last().unwrap(),
            "{name}: open with the last one"
        );
        assert!(
            model.letters.is_empty(),
            "{name}: Rejected keeps what may yet be delivered"
        );
    };
    let aggressive = [0, 100, 300, 700, 1_200];
    check("minimal.yaml", &aggressive);
    check("retry-aggressive.yaml", &aggressive);
    check("retry-conservative.yaml", &[0, 1_000, 4_000]);
    check("production.yaml", &aggressive);
}

#[test]
fn with_jitter_no_delay_is_longer_than_without() {
    for name in ["retry-aggressive.yaml", "retry-conservative.yaml"] {
        let exact = failures(&sample(name, Jitter::None), 1).0;
        let jittered = failures(&sample(name, Jitter::Full), 1).0;
        assert_eq!(exact.len(), jittered.len(), "{name}");
        for (exact, jittered) in exact.windows(2).zip(jittered.windows(2)) {
            // A millisecond more: the step of this test.
            assert!(jittered[1] - jittered[0] <= exact[1] - exact[0] + 1, "{name}");
        }
        assert!(jittered.last() < exact.last(), "{name}");
    }
}

/// Under `Exhausted` each event has its attempts, and the circuit opens by its own count, in the middle of an event's.
#[test]
fn exhausted_events_count_together_up_to_the_samples_threshold() {
    let check = |name: &str, attempts: usize, letters: usize| {
        let mut config = sample(name, Jitter::None);
        config.dead_letter.when = DeadLetterWhen::Exhausted;
        let (times, _, mut model) = failures(&config, 20);
        model.turn();
        assert_eq!((times.len(), model.letters.len()), (attempts, letters), "{name}");
    };
    check("retry-aggressive.yaml", 5, 1);
    check("retry-conservative.yaml", 5, 1);
    check("production.yaml", 10, 2);
}

#[test]
fn the_circuit_goes_0_1_2_0_as_each_sample_says() {
    let check = |name: &str, open_seconds: u64, probes: usize| {
        let (_, _, mut model) = failures(&sample(name, Jitter::None), 20);
        model.faults.topic_missing = false;
        model.notes.clear();
        model.pass(Duration::from_secs(open_seconds) - Duration::from_millis(1));
        assert_eq!(model.breaker(), Open, "{name}");
        model.pass(Duration::from_millis(1));
        assert_eq!((model.breaker(), model.resolved.len()), (HalfOpen, 0), "{name}");
        for probe in 1..=probes {
            assert_eq!(model.breaker(), HalfOpen, "{name}: before probe {probe}");
            model.turn();
            assert!(model.broker_step(), "{name}: probe {probe}");
            model.turn();
            assert_eq!(model.resolved.len(), probe, "{name}: one event at a time");
            if probe < probes {
                assert!(!model.lane.accepts(), "{name}: nothing is read between probes");
            }
        }
        assert_eq!(model.breaker(), Closed, "{name}");
        let changes: Vec<_> = model
            .notes
            .iter()
            .filter(|note| matches!(note, Note::Breaker(_)))
            .collect();
        assert_eq!(changes.len(), 2, "{name}: {changes:?}");
        model.run(MINUTE);
        assert_eq!(model.first_appearances(0), ids(0..20), "{name}");
    };
    check("retry-aggressive.yaml", 30, 3);
    check("retry-conservative.yaml", 30, 3);
    check("production.yaml", 60, 5);
}
