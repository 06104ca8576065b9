//! Publishing: events wait in order until the broker acknowledges them or a dead letter is durable.
//!
//! `lane` decides, with `retry`, `breaker` and `classify` (pure); `prepare` makes messages of events (pure);
//! `kafka` does IO; `transactions` is what exactly-once needs of it; `shell` drives a lane with them.

pub mod breaker;
pub mod classify;
pub mod kafka;
pub mod lane;
pub mod narrowing;
pub mod prepare;
pub mod retry;
pub mod shell;
mod topics;
pub mod transactions;
