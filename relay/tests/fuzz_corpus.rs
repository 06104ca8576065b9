//! Inputs that fuzzing found interesting or fatal, again. `make fuzz` looks for more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets use it as a library")]
mod targets;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz-corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{} files in {}", files.len(), folder.display());
    for file in files {
        eprintln!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn configurations() {
    replay("config", targets::config);
}

#[test]
fn log_rows() {
    replay("record", targets::record);
}

#[test]
fn checkpoints() {
    replay("checkpoint", targets::checkpoint);
}

#[test]
fn journals() {
    replay("journal", targets::journal);
}

#[test]
fn topic_templates() {
    replay("topic", targets::topic);
}
