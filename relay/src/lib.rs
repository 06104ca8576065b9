//! The data plane: CDC log in, Kafka out.
//!
//! Reading order: `model` (the words), `ports` (what the pipeline needs from the world), `ledger` (what is taken,
//! resolved and swept), `source` (reading the log), `deliver` (publishing), `state` (ownership and checkpoints),
//! `run` (composition). The modules that decide know neither clock, network nor async runtime.

pub mod audit;
pub mod cdc_log;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod dead_letters;
pub mod decode;
pub mod deliver;
pub mod encode;
pub mod event;
pub mod fitness;
pub mod health;
pub mod http;
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod model;
pub mod outbox;
pub mod ports;
pub mod reconcile;
pub mod replay;
pub mod route;
pub mod run;
pub mod secrets;
pub mod source;
pub mod spans;
pub mod state;
pub mod status;
pub mod supervise;
