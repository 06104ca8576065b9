//! Samples are accepted; refused files answer with the texts that stand beside them. `UPDATE_GENERATED=1` rewrites the
//! texts.

use crds::dead_letter::DeadLetterTarget;
use crds::sink::Guarantee;
use crds::{RelayConfig, load, validate};
use std::fs;
use std::path::Path;

const SECRETS: &str = "/etc/outbox-relay/secrets";

fn sample(name: &str) -> RelayConfig {
    let path = crate::repository().join("deploy/samples").join(name);
    let config = load(&fs::read_to_string(&path).unwrap(), Path::new(SECRETS))
        .unwrap_or_else(|p| panic!("{name}:\n{p}"));
    assert_eq!(validate(&config), Ok(()), "{name} as a relay's own configuration");
    let file = serde_yaml::to_string(&config).unwrap();
    assert_eq!(
        load(&file, Path::new("")),
        Ok(config.clone()),
        "{name} written and read again"
    );
    config
}

#[test]
fn every_sample_is_accepted() {
    let mut samples = 0;
    for entry in fs::read_dir(crate::repository().join("deploy/samples")).unwrap() {
        let path = entry.unwrap().path();
        // Others show what stands beside a resource: an application, an autoscaler.
        if fs::read_to_string(&path)
            .unwrap()
            .contains("\nkind: OutboxRelay\n")
        {
            sample(path.file_name().unwrap().to_str().unwrap());
            samples += 1;
        }
    }
    assert!(samples >= 5, "only {samples} samples were found");
}

#[test]
fn samples_mean_what_their_names_say() {
    let minimal = sample("minimal.yaml");
    assert_eq!(minimal.identity, "default.orders");
    assert_eq!(
        sample("retry-aggressive.yaml"),
        minimal,
        "the aggressive preset is the default"
    );

    let retry = sample("retry-conservative.yaml").retry;
    let backoff = (
        retry.initial_backoff_milliseconds,
        retry.max_backoff_milliseconds,
        retry.multiplier_percent,
    );
    assert_eq!((retry.max_attempts, backoff), (3, (1000, 10_000, 300)));

    assert_eq!(sample("exactly-once.yaml").sink.guarantee, Guarantee::ExactlyOnce);

    let production = sample("production.yaml");
    let breaker = &production.circuit_breaker;
    assert_eq!(
        (
            breaker.failure_threshold,
            breaker.open_seconds,
            breaker.success_threshold
        ),
        (10, 60, 5)
    );
    assert_eq!(
        (production.identity.as_str(), production.shares),
        ("shop.orders", 4)
    );
    assert_eq!(production.dead_letter.target, DeadLetterTarget::Both);
    let password = production
        .sink
        .sasl
        .unwrap()
        .credentials
        .unwrap()
        .password_file
        .unwrap();
    assert_eq!(password, Path::new(SECRETS).join("orders-kafka/password"));
    assert_eq!(
        production.source.tls.unwrap().ca_file.unwrap(),
        Path::new(SECRETS).join("scylla-ca/ca.crt")
    );
}

#[test]
fn refused_files_answer_with_all_their_problems() {
    let mut cases = 0;
    for entry in fs::read_dir(crate::repository().join("crds/tests/refused")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let problems = load(&fs::read_to_string(&path).unwrap(), Path::new(SECRETS))
                .expect_err(&path.to_string_lossy());
            let text = format!("{problems}\n");
            assert!(!text.contains("hunter2"), "a secret is shown:\n{text}");
            crate::matches_file(&path.with_extension("txt"), &text);
            cases += 1;
        }
    }
    assert!(cases >= 10, "only {cases} cases were found");
}
