//! Change data capture: base mutations to log mutations, and the streams that log rows go to.
//!
//! Reading order: `options` (the table option), `log_schema` (the log table), `stream_id`, then `generations`
//! (vnodes) and `tablets`: streams by token and time, with `timestamps` for what may be written when.

pub mod generations;
pub mod log_schema;
pub mod options;
pub mod stream_id;
pub mod tablets;
pub mod timestamps;
