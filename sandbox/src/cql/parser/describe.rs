//! DESCRIBE.

use super::{Parser, Result};
use crate::cql::ast::definition::{Describe, DescribeTarget};
use crate::cql::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn describe(&mut self) -> Result<Describe> {
        if !self.skip_word("describe") {
            self.expect_word("desc")?;
        }
        let what = self.describe_target()?;
        Ok(Describe {
            what,
            with_internals: self.skip_words(&["with", "internals"]),
        })
    }

    fn describe_target(&mut self) -> Result<DescribeTarget> {
        if self.skip_words(&["full", "schema"]) {
            return Ok(DescribeTarget::Schema { full: true });
        }
        if self.skip_words(&["only", "keyspace"]) {
            return self.describe_keyspace(true);
        }
        if self.skip_word("keyspace") {
            return self.describe_keyspace(false);
        }
        if self.skip_words(&["materialized", "view"]) {
            return self.qualified_name().map(DescribeTarget::View);
        }
        if self.peek().kind != TokenKind::Word {
            return self.qualified_name().map(DescribeTarget::Any);
        }
        let plural = match self.found().to_ascii_lowercase().as_str() {
            "cluster" => Some(DescribeTarget::Cluster),
            "schema" => Some(DescribeTarget::Schema { full: false }),
            "keyspaces" => Some(DescribeTarget::Keyspaces),
            "tables" | "columnfamilies" => Some(DescribeTarget::Tables),
            "types" => Some(DescribeTarget::Types),
            "functions" => Some(DescribeTarget::Functions),
            "aggregates" => Some(DescribeTarget::Aggregates),
            _ => None,
        };
        if let Some(target) = plural {
            self.advance();
            return Ok(target);
        }
        let named = if self.skip_table_word() {
            DescribeTarget::Table
        } else if self.skip_word("index") {
            DescribeTarget::Index
        } else if self.skip_before_name("type") {
            DescribeTarget::Type
        } else if self.skip_before_name("function") {
            DescribeTarget::Function
        } else if self.skip_before_name("aggregate") {
            DescribeTarget::Aggregate
        } else {
            DescribeTarget::Any
        };
        self.qualified_name().map(named)
    }

    fn describe_keyspace(&mut self, only: bool) -> Result<DescribeTarget> {
        let name = if self.is_name_at(0) {
            Some(self.name()?)
        } else {
            None
        };
        Ok(DescribeTarget::Keyspace { name, only })
    }

    /// A word that is a keyword only if a name follows; else it is the name itself.
    fn skip_before_name(&mut self, word: &str) -> bool {
        self.is_name_at(1) && self.skip_word(word)
    }
}
