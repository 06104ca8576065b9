//! No text may make the parser panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sandbox::cql::parse;

fuzz_target!(|text: &str| {
    let _ = parse(text);
});
