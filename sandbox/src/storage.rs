//! Mutations, partitions and reads.

pub mod clock;
pub mod mutation;
