//! An embedded, ScyllaDB-compatible CQL node with CDC, for demo, tests and fault injection.
//!
//! Reading order: `wire` (bytes to requests), `server` (connections), `query` (statements to mutations and
//! rows), `cdc` (mutations to log rows), `storage` (mutations to partitions), `system` (virtual tables).

pub mod cdc;
pub mod cql;
pub mod error;
pub mod query;
pub mod schema;
pub mod storage;
pub mod types;
pub mod wire;
