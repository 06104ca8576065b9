//! No text makes the parser panic or run away.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::proptest;
use proptest::sample::select;

use super::parse;
use super::tests::ACCEPTED;

/// Pieces that steer into the grammar's corners more often than random characters do.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<",
    ">",
    "'",
    "\"",
    "$$",
    "--",
    "/*",
    "*/",
    ":",
    "?",
    ".",
    ",",
    ";",
    "-",
    "+",
    "=",
    "0x",
    "P1",
    "1e",
    "1mo",
    " IN ",
    " TOKEN(",
    " null ",
    " frozen<",
    " IF ",
    " USING ",
    "µs",
    "é",
    "\u{0}",
    "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
];

fn mutated() -> impl Strategy<Value = String> {
    let edits = vec(
        (any::<u16>(), 0..8usize, prop_oneof![select(PIECES), Just("")]),
        1..6,
    );
    (select(ACCEPTED), edits).prop_map(|(text, edits)| {
        let mut characters: Vec<char> = text.chars().collect();
        for (place, removed, inserted) in edits {
            let start = usize::from(place) % (characters.len() + 1);
            let end = (start + removed).min(characters.len());
            characters.splice(start..end, inserted.chars());
        }
        characters.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn pieces_are_answered(pieces in vec(prop_oneof![select(PIECES), select(ACCEPTED)], 0..20)) {
        let _ = parse(&pieces.concat());
    }

    #[test]
    fn mutated_statements_are_answered(text in mutated()) {
        let _ = parse(&text);
    }
}

/// The corpus that `cargo fuzz run cql` starts from, and what it found.
#[test]
fn the_corpus_is_answered() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus/cql");
    let files: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(
        files.len() > ACCEPTED.len(),
        "{} files in {}",
        files.len(),
        corpus.display()
    );
    for file in files {
        let _ = parse(&String::from_utf8_lossy(&std::fs::read(file).unwrap()));
    }
}
