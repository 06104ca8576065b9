//! Real relay processes with ScyllaDB (the sandbox) and a real Kafka broker: several of them under one identity, and
//! worlds that are unfit or not there yet. Load and verifier of the order service are the judges.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../kafka/acl.rs"]
mod acl;
mod audited;
mod exactly;
mod granted;
mod letters;
mod overload;
mod polled;
mod process;
mod rotation;
mod several;
mod snapshot;
mod stack;
mod tidy;
mod topology;
mod worlds;
