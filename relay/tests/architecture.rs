//! What ARCHITECTURE.md and README.md say about the code is true.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What stands between backticks and looks like a path of the repository.
fn paths(document: &str) -> Vec<String> {
    let text = read_to_string(root().join(document)).unwrap();
    let quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    let is_path = |text: &String| {
        let first = text.split('/').next().unwrap_or_default();
        text.contains('/')
            && !text.contains(' ')
            && ["crds", "relay", "sandbox", "examples", "docs", "scripts"].contains(&first)
    };
    quoted.filter(is_path).collect()
}

#[test]
fn every_path_that_is_named_exists() {
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        for path in paths(document) {
            assert!(root().join(&path).exists(), "{document} names {path}");
        }
    }
    assert!(paths("ARCHITECTURE.md").len() > 8, "the map names paths at all");
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read_to_string(root().join("Makefile")).unwrap();
    let readme = read_to_string(root().join("README.md")).unwrap();
    let named: Vec<_> = readme
        .split("make ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next())
        .filter(|target| !target.is_empty())
        .collect();
    assert!(named.len() > 4, "{named:?}");
    for target in named {
        assert!(
            makefile.contains(&format!("\n{target}:")),
            "README names make {target}"
        );
    }
}

/// Files below `folder` that contain `word`, relative to it.
fn files_with(folder: &Path, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs")
                && read_to_string(&path).unwrap().contains(word)
            {
                found.push(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// Only these files, or those below these folders, of the relay may contain the word.
fn only_in(word: &str, allowed: &[&str]) {
    for file in files_with(&root().join("relay/src"), word) {
        assert!(
            allowed.iter().any(|place| file.starts_with(place)),
            "{word} in {file}; allowed in {allowed:?}"
        );
    }
}

#[test]
fn modules_that_decide_know_neither_driver_nor_broker() {
    only_in(
        "rdkafka::",
        &["deliver/kafka", "deliver/classify.rs", "dead_letters/topic.rs"],
    );
    only_in(
        "client::session",
        &[
            "cdc_log",
            "state/scylla",
            "dead_letters/table.rs",
            "cli/setup.rs",
            "run/prepare.rs",
        ],
    );
    only_in("SystemTime::now", &["clock.rs", "cdc_log/streams.rs"]);
}

#[test]
fn the_relay_never_calls_kubernetes_and_nothing_shares_its_assumptions() {
    let manifest = |of: &str| read_to_string(root().join(of).join("Cargo.toml")).unwrap();
    assert!(!manifest("relay").contains("kube"));
    for other in ["sandbox", "examples/orders", "crds"] {
        assert!(
            !manifest(other).contains("outbox-relay.workspace"),
            "{other} depends on the relay"
        );
    }
    assert!(
        !manifest("examples/orders").contains("outbox-relay-crds"),
        "the verifier shares nothing with the relay"
    );
}

#[test]
fn metrics_keep_the_names_that_dashboards_use() {
    let text = relay::metrics::Metrics::new().unwrap().render();
    for name in [
        "retry_success_total",
        "retry_failure_total",
        "dlq_messages_total",
        "circuit_breaker_state",
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} ")),
            "{name} is missing:\n{text}"
        );
    }
}
