//! Statements to mutations and rows. `api` says what goes in and out, `hooks` where CDC and faults sit.

pub mod api;
pub mod engine;
pub mod hooks;
pub mod modify;
pub mod plan;
pub mod restriction;
pub mod select;
pub mod terms;
pub mod virtual_table;

#[cfg(test)]
mod tests;
