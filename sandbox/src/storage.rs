//! Mutations, partitions and reads.

pub mod mutation;
