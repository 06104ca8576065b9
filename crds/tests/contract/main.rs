//! The contract as files show it: samples, refused files, the generated resource definition and reference.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it must be"
)]

mod any_input;
#[cfg(feature = "kubernetes")]
mod definition;
mod files;
#[cfg(feature = "kubernetes")]
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Fails unless the file holds exactly this text; with `UPDATE_GENERATED=1` writes it.
fn matches_file(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(path, text).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "{} is not what the types say; UPDATE_GENERATED=1 rewrites it. Now it would be:\n{text}",
        path.display()
    );
}
