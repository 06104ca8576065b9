//! What README.md, ARCHITECTURE.md and the pages of docs/ say about the code is true.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What is written for people: the documents of the root and the pages of docs/.
fn documents() -> Vec<String> {
    let pages = std::fs::read_dir(root().join("docs")).unwrap();
    let pages = pages.map(|page| format!("docs/{}", page.unwrap().file_name().to_string_lossy()));
    let of_root = [
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "README.md",
        "SECURITY.md",
    ];
    let all = of_root.into_iter().map(str::to_owned).chain(pages);
    all.filter(|document| document.ends_with(".md")).collect()
}

/// What stands between backticks and looks like a path of the repository.
fn paths(document: &str) -> Vec<String> {
    let text = read_to_string(root().join(document)).unwrap();
    let quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
    let is_path = |text: &String| {
        let first = text.split('/').next().unwrap_or_default();
        text.contains('/')
            && !text.contains(' ')
            && [
                "crds",
                "operator",
                "relay",
                "sandbox",
                "simulation",
                "examples",
                "docs",
                "scripts",
            ]
            .contains(&first)
    };
    quoted.filter(is_path).collect()
}

#[test]
fn every_path_that_is_named_exists() {
    for document in documents() {
        for path in paths(&document) {
            assert!(root().join(&path).exists(), "{document} names {path}");
        }
    }
    assert!(paths("ARCHITECTURE.md").len() > 8, "the map names paths at all");
}

#[test]
fn every_link_leads_to_a_file() {
    let mut links = 0;
    for document in documents() {
        let text = read_to_string(root().join(&document)).unwrap();
        let folder = root().join(&document).parent().unwrap().to_owned();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            // An anchor of the same page leads to its folder.
            let file = target.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{document} links to {target}");
            links += 1;
        }
    }
    assert!(links > 50, "{links}");
}

/// Each guarantee names a file and, after it, the functions in it that prove it.
#[test]
fn every_test_that_proves_a_guarantee_exists() {
    let text = read_to_string(root().join("docs/guarantees.md")).unwrap();
    let is_test = |word: &str| word.matches('_').count() >= 3 && !word.contains(['/', '.']);
    let (mut file, mut proofs) = (String::new(), 0);
    for word in text.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            file = read_to_string(root().join(word)).unwrap();
        } else if is_test(word) {
            assert!(
                file.contains(&format!("fn {word}(")),
                "docs/guarantees.md names {word}"
            );
            proofs += 1;
        }
    }
    assert!(proofs > 20, "{proofs}");
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read_to_string(root().join("Makefile")).unwrap();
    for document in documents() {
        let text = read_to_string(root().join(&document)).unwrap();
        let named: Vec<_> = text
            .match_indices("make ")
            .filter(|(at, _)| text[..*at].ends_with(['`', '\n']))
            .filter_map(|(at, word)| {
                text[at + word.len()..]
                    .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-')
                    .next()
            })
            .collect();
        assert!(document != "README.md" || named.len() > 4, "{named:?}");
        for target in named {
            assert!(
                makefile.contains(&format!("\n{target}:")),
                "{document} names make {target}"
            );
        }
    }
}

/// The fenced blocks of one language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = read_to_string(root().join(document)).unwrap();
    let parts = text.split("```").skip(1).step_by(2);
    parts
        .filter_map(|block| block.strip_prefix(&format!("{language}\n")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn configurations_in_the_documents_are_accepted() {
    assert!(!blocks("README.md", "yaml").is_empty());
    for document in documents() {
        // What has no identity is a part of a configuration.
        let whole = |block: &String| block.contains("identity:");
        for block in blocks(&document, "yaml").into_iter().filter(whole) {
            let config = crds::load(&block, Path::new(""));
            assert!(config.is_ok(), "{document}: {config:?}\n{block}");
        }
    }
}

#[test]
fn every_command_and_option_in_the_documents_exists() {
    use clap::CommandFactory;
    let cli = relay::cli::Cli::command();
    let mut commands = 0;
    for document in documents() {
        let blocks = blocks(&document, "sh");
        let lines = blocks.iter().flat_map(|block| block.lines());
        for line in lines.filter_map(|line| line.strip_prefix("outbox-relay ")) {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap();
            let command = cli.find_subcommand(name);
            let command = command.unwrap_or_else(|| panic!("{document} names outbox-relay {name}"));
            let sub = words.next().and_then(|word| command.find_subcommand(word));
            let command = sub.unwrap_or(command);
            commands += 1;
            for option in line.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
                let option = option.trim_end_matches(',');
                let known = command
                    .get_arguments()
                    .any(|known| known.get_long() == Some(option));
                assert!(known, "{document} names outbox-relay {name} --{option}");
            }
        }
    }
    assert!(commands > 4, "{commands}");
}

#[test]
fn the_audit_sample_runs_a_command_that_exists_with_a_configuration_that_is_accepted() {
    use clap::Parser;
    let text = read_to_string(root().join("deploy/samples/audit.yaml")).unwrap();
    let documents: Vec<serde_yaml::Value> = text
        .split("\n---\n")
        .map(|document| serde_yaml::from_str(document).unwrap())
        .collect();
    let file = documents[0]["data"]["relay.yaml"].as_str().unwrap();
    let minimal = read_to_string(root().join("deploy/samples/minimal.yaml")).unwrap();
    let load = |text: &str| crds::load(text, Path::new("/etc/outbox-relay/secrets")).unwrap();
    assert_eq!(
        load(file),
        load(&minimal),
        "it is the configuration of the smallest sample"
    );
    let pod = &documents[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let arguments = pod["containers"][0]["args"].as_sequence().unwrap();
    let arguments = arguments.iter().map(|argument| argument.as_str().unwrap());
    let command = relay::cli::Cli::try_parse_from(["outbox-relay"].into_iter().chain(arguments));
    let command = command.unwrap().command;
    assert!(
        matches!(&command, relay::cli::Command::Audit(args) if args.record),
        "{command:?}"
    );
}

/// Words that can only be the name of a metric of the relay.
fn metrics_named(text: &str) -> Vec<&str> {
    let beginnings = [
        "outbox_relay_",
        "cdc_events_",
        "cdc_processing_",
        "retry_attempts_",
        "retry_success_",
        "retry_failure_",
        "dlq_messages_",
        "circuit_breaker_",
        "actor_health_",
    ];
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words
        .filter(|word| beginnings.iter().any(|beginning| word.starts_with(beginning)))
        .collect()
}

/// A script that asks for a metric that does not exist reads 0, and is content.
#[test]
fn every_metric_that_is_named_exists() {
    let code: String = files_with(&root().join("relay/src/metrics"), "")
        .iter()
        .map(|file| read_to_string(root().join("relay/src/metrics").join(file)).unwrap())
        .collect();
    let mut files: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md"]
        .map(|file| root().join(file))
        .into();
    for folder in [
        "scripts",
        "docs",
        "examples/orders/src",
        "examples/orders/src/bench/observe",
    ] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        files.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file()),
        );
    }
    let mut named = 0;
    for file in files {
        let Ok(text) = read_to_string(&file) else { continue };
        for name in metrics_named(&text) {
            named += 1;
            let short = name.trim_start_matches("outbox_relay_");
            let forms = [name, short, short.trim_end_matches("_total")];
            assert!(
                forms.iter().any(|form| code.contains(&format!("\"{form}\""))),
                "{} names {name}",
                file.display()
            );
        }
    }
    assert!(named > 10, "{named}");
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
            "dead_letters/table",
            "outbox.rs",
            "cli/check.rs",
            "cli/evidence.rs",
            "run/prepare.rs",
            "run/tables.rs",
        ],
    );
    only_in("crate::cli", &["cli", "main.rs"]);
    // Kafka is told when a token ends by the wall clock, in a callback of librdkafka.
    only_in(
        "SystemTime::now",
        &["clock.rs", "cdc_log/streams.rs", "deliver/kafka/tokens.rs"],
    );
}

#[test]
fn the_relay_never_calls_kubernetes_and_nothing_shares_its_assumptions() {
    let manifest = |of: &str| read_to_string(root().join(of).join("Cargo.toml")).unwrap();
    assert!(!manifest("relay").contains("kube"));
    for other in ["sandbox", "examples/orders", "crds", "operator"] {
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

/// The operator makes it, and neither depends on the other.
#[test]
fn the_job_of_a_replay_runs_a_command_that_exists() {
    use clap::Parser;
    let text = read_to_string(root().join("operator/tests/desired/replay.job.yaml")).unwrap();
    let job: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let arguments = job["spec"]["template"]["spec"]["containers"][0]["args"].as_sequence();
    // What Kubernetes makes of two dollars.
    let arguments = arguments
        .unwrap()
        .iter()
        .map(|argument| argument.as_str().unwrap().replace("$$", "$"));
    let command =
        relay::cli::Cli::try_parse_from(std::iter::once("outbox-relay".to_owned()).chain(arguments));
    let relay::cli::Command::DeadLetters(relay::cli::DeadLettersCommand::Replay(args)) =
        command.unwrap().command
    else {
        panic!("another command")
    };
    assert_eq!(args.filter.event_type.as_deref(), Some("-Order$(Created)"));
    assert_eq!(args.filter.class.as_deref(), Some("message"));
    assert_eq!(args.filter.older_than, Some(std::time::Duration::from_secs(3600)));
    assert_eq!((args.rate, args.patience.as_secs()), (Some(50), 600));
    assert_eq!(
        args.result_file.as_deref(),
        Some(Path::new("/dev/termination-log"))
    );
}
