//! Change data capture: base mutations to log mutations, and the streams that log rows go to.
//!
//! Reading order: `options` (the table option), `log_schema` (the log table) and `log_rules` (what may not be done
//! to it), `augment` (one write's log rows), `stream_id`, `generations` (vnodes) and `tablets` (streams by token
//! and time, with `timestamps` for what may be written when), `service` (all of it for one cluster), `tables`
//! (what readers see of the streams).

pub mod augment;
pub mod generations;
pub mod log_rules;
pub mod log_schema;
pub mod options;
pub mod service;
pub mod stream_id;
pub mod tables;
pub mod tablets;
pub mod timestamps;
