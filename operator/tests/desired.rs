//! What a resource becomes, as files show it: `tests/desired/<case>.in.yaml` is a resource with what its references
//! hold, `<case>.out.yaml` all its children. `UPDATE_GENERATED=1` rewrites the latter.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it must be"
)]

use crds::outbox_relay::OutboxRelay;
use kube::ResourceExt;
use operator::desired::{Children, References, Settings, children, replay};
use operator::validate::validate;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// Checksums of Secrets.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    #[serde(default)]
    service_monitors: bool,
    relay: OutboxRelay,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/desired")
}

fn read(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn settings() -> Settings {
    Settings {
        image: "registry.example.org/outbox-relay:1".to_owned(),
        port: 9090,
        look_every: std::time::Duration::from_secs(10),
    }
}

fn references_of(case: &Case) -> References {
    References {
        secrets: case.secrets.clone(),
        service_monitors: case.service_monitors,
    }
}

fn children_of(case: &Case) -> Children {
    let (settings, references) = (settings(), references_of(case));
    let config = validate(&case.relay, settings.port).unwrap_or_else(|problems| panic!("{problems}"));
    children(&case.relay, &config, &references, &settings).unwrap()
}

fn case(name: &str) -> Case {
    read(&folder().join(format!("{name}.in.yaml")))
}

#[test]
fn every_case_becomes_the_children_that_stand_beside_it() {
    let mut cases = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(name) = name.strip_suffix(".in.yaml") else {
            continue;
        };
        let children = children_of(&read(&path));
        let documents: Vec<_> = children
            .iter()
            .map(|child| serde_yaml::to_string(&child.object).unwrap())
            .collect();
        is_committed(&format!("{name}.out.yaml"), &documents.join("---\n"));
        cases += 1;
    }
    assert!(cases >= 4, "only {cases} cases were found");
}

fn is_committed(file: &str, text: &str) {
    let out = folder().join(file);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&out, text).unwrap();
    }
    let committed = fs::read_to_string(&out).unwrap_or_default();
    assert!(
        committed == text,
        "{} is not what its case becomes; now it would be:\n{text}",
        out.display()
    );
}

#[test]
fn a_replay_is_a_job_that_runs_with_what_the_relays_run_with() {
    let case = case("replay");
    let (settings, references) = (settings(), references_of(&case));
    let config = validate(&case.relay, settings.port).unwrap();
    let request = case.relay.spec.dead_letter.replay_request.as_ref().unwrap();
    let of = |id: &str, uid: &str| operator::names::replay(&case.relay.name_any(), uid, id);
    let name = of(&request.id, "a");
    assert!(
        name.len() <= 63 && name != of("other", "a") && name != of(&request.id, "b"),
        "{name}"
    );
    let children = replay(&case.relay, &config, &references, &settings, (request, name)).unwrap();
    let [config, account, job] = children.as_slice() else {
        panic!("{children:?}")
    };
    is_committed("replay.job.yaml", &serde_yaml::to_string(&job.object).unwrap());
    let shared = &children_of(&case).shared;
    assert!(shared.contains(config) && shared.contains(account));
    let file = config.object["data"]["relay.yaml"].as_str().unwrap();
    assert!(!file.contains("replayRequest"), "{file}");
}

/// Whatever the case, these hold.
#[test]
fn every_child_is_owned_labelled_and_restricted_and_its_configuration_loads() {
    for name in ["minimal", "production", "paused", "sidecar"] {
        let children = children_of(&case(name));
        for child in children.iter() {
            let metadata = &child.object["metadata"];
            assert_eq!(
                metadata["ownerReferences"][0]["controller"], true,
                "{name} {}",
                child.name
            );
            for label in [
                "name",
                "instance",
                "component",
                "part-of",
                "managed-by",
                "version",
            ] {
                assert!(
                    metadata["labels"][format!("app.kubernetes.io/{label}")].is_string(),
                    "{name} {label}"
                );
            }
        }
        let file = children.shared[0].object["data"]["relay.yaml"].as_str().unwrap();
        let loaded = crds::load(file, Path::new("")).unwrap_or_else(|problems| panic!("{problems}"));
        if name != "sidecar" {
            assert_eq!(loaded.shares as usize, children.shares.len(), "{name}");
        }
    }
}

#[test]
fn only_what_a_relay_runs_with_restarts_it() {
    let revision = |case: &Case| children_of(case).shares[0].revision.clone();
    let before = revision(&case("production"));
    let changed = |change: fn(&mut Case)| {
        let mut case = case("production");
        change(&mut case);
        revision(&case)
    };
    for (what, same, after) in [
        ("paused", true, changed(|case| case.relay.spec.paused = true)),
        (
            "scraping",
            true,
            changed(|case| case.relay.spec.monitoring.interval_seconds = 99),
        ),
        (
            "a replay",
            true,
            changed(|case| {
                let request = case.relay.spec.dead_letter.replay_request.get_or_insert_default();
                (request.id, request.older_than_seconds) = ("1".to_owned(), Some(0));
            }),
        ),
        (
            "retries",
            false,
            changed(|case| case.relay.spec.retry.max_attempts = 9),
        ),
        (
            "image",
            false,
            changed(|case| case.relay.spec.template.image = Some("x:1".to_owned())),
        ),
        (
            "secret",
            false,
            changed(|case| drop(case.secrets.insert("orders-kafka".to_owned(), "new".to_owned()))),
        ),
        (
            "restart",
            false,
            changed(|case| {
                let annotations = case.relay.metadata.annotations.get_or_insert_default();
                annotations.insert("outboxrelay.dev/restartedAt".to_owned(), "now".to_owned());
            }),
        ),
    ] {
        assert_eq!(after == before, same, "{what}");
    }
}
