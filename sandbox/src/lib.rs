//! An embedded, ScyllaDB-compatible CQL node with CDC, for demo, tests and fault injection.
//!
//! Reading order: `wire` (bytes to requests), `server` (connections), `query` (statements to mutations and
//! rows), `cdc` (mutations to log rows), `storage` (mutations to partitions), `system` (virtual tables).

mod admin;
mod administration;
pub mod cdc;
pub mod cluster;
pub mod cql;
mod describe;
pub mod embed;
pub mod error;
pub mod fault;
pub mod query;
pub mod roles;
pub mod schema;
pub mod server;
pub mod storage;
pub mod system;
pub mod types;
pub mod wire;

pub use embed::{Sandbox, SandboxBuilder};
