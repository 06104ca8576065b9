//! CQL texts: what they can say (`ast`) and how they are read (`lexer`, `parser`). Pure; knows no schema.

pub mod ast;
mod lexer;
mod parser;

pub use parser::parse;
