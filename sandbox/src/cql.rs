//! CQL texts: what they can say (`ast`). Pure; knows no schema.

pub mod ast;
