//! An order service with a transactional outbox, and what it takes to judge a relay behind it: a load generator that
//! keeps a journal of what it committed, and a verifier that compares the journal with what arrived.
//!
//! Nothing here uses the relay's code, so that both cannot be wrong in the same way.
//!
//! The text of an error carries its cause and the cause is not linked as a source too: the drivers' errors repeat
//! their own causes, and a chain of them says everything three times.

pub mod bench;
pub mod broker;
pub mod clock;
pub mod commands;
pub mod consume;
pub mod cql;
pub mod dead_letters;
pub mod journal;
pub mod kafka;
pub mod load;
pub mod order;
pub mod service;
pub mod store;
pub mod verify;
pub mod view;
