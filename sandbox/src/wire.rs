//! The native protocol, version 4: bytes to requests, answers to bytes. No IO and no state beyond a frame.
//!
//! Source of every layout here: the CQL binary protocol v4 specification, and ScyllaDB's
//! `transport/server.cc` where it differs.

pub mod compression;
pub mod frame;
pub mod read;
pub mod request;
pub mod response;
pub mod rows;
pub mod write;

/// The only version spoken. Drivers that start higher step down when told so.
pub const PROTOCOL_VERSION: u8 = 4;

/// Largest frame body taken, compressed or not, in bytes. 16 MiB is Cassandra's default
/// `native_transport_max_frame_size`; ScyllaDB's own limit depends on the memory of a shard.
pub const MAX_FRAME_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Largest frame body taken before STARTUP and authentication are done, in bytes (as ScyllaDB's first frame): room
/// for the options a driver introduces itself with, not for a stranger to fill memory.
pub const MAX_HANDSHAKE_BODY_BYTES: usize = 100_000;
