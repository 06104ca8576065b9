//! INSERT, UPDATE, DELETE, BATCH, TRUNCATE and their USING.

use super::{Parser, Result};
use crate::cql::ast::data::{
    Assignment, Batch, BatchItem, BatchKind, Change, Condition, Delete, DeleteTarget, Insert, InsertSource,
    Truncate, Update, Using,
};
use crate::cql::ast::term::{Literal, LiteralKind, Term};
use crate::cql::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn insert(&mut self) -> Result<Insert> {
        self.expect_word("insert")?;
        self.expect_word("into")?;
        let table = self.qualified_name()?;
        let source = if self.skip_word("json") {
            self.json_source()?
        } else {
            self.values_source()?
        };
        let condition = if self.if_not_exists() {
            Condition::NotExists
        } else {
            Condition::None
        };
        Ok(Insert {
            table,
            source,
            condition,
            using: self.using(&["timestamp", "ttl", "timeout"])?,
        })
    }

    fn values_source(&mut self) -> Result<InsertSource> {
        let columns = self.names_in_parentheses()?;
        self.expect_word("values")?;
        self.expect_symbol("(")?;
        let values = self.list_of(Self::term)?;
        self.expect_symbol(")")?;
        Ok(InsertSource::Values { columns, values })
    }

    fn json_source(&mut self) -> Result<InsertSource> {
        let value = match self.marker()? {
            Some(marker) => Term::Marker(marker),
            None => Term::Literal(Literal {
                kind: LiteralKind::String,
                text: self.string()?,
            }),
        };
        let default_unset = self.skip_words(&["default", "unset"]);
        if !default_unset {
            self.skip_words(&["default", "null"]);
        }
        Ok(InsertSource::Json { value, default_unset })
    }

    pub(super) fn update(&mut self) -> Result<Update> {
        self.expect_word("update")?;
        let table = self.qualified_name()?;
        let using = self.using(&["timestamp", "ttl", "timeout"])?;
        self.expect_word("set")?;
        let assignments = self.list_of(Self::assignment)?;
        self.expect_word("where")?;
        Ok(Update {
            table,
            using,
            assignments,
            filter: self.filter()?,
            condition: self.condition()?,
        })
    }

    fn assignment(&mut self) -> Result<Assignment> {
        let column = self.name()?;
        let change = if self.skip_symbol("[") {
            let key = self.term()?;
            self.expect_symbol("]")?;
            self.expect_symbol("=")?;
            Change::SetElement {
                key,
                value: self.term()?,
            }
        } else if self.skip_symbol(".") {
            let field = self.name()?;
            self.expect_symbol("=")?;
            Change::SetField {
                field,
                value: self.term()?,
            }
        } else if self.is_symbol("+") || self.is_symbol("-") {
            let subtract = self.is_symbol("-");
            self.advance();
            self.expect_symbol("=")?;
            let value = self.term()?;
            if subtract {
                Change::Subtract(value)
            } else {
                Change::Add(value)
            }
        } else {
            self.expect_symbol("=")?;
            self.assigned(&column)?
        };
        Ok(Assignment { column, change })
    }

    /// What follows `column =`: a value, or the column with something added or taken away.
    fn assigned(&mut self, column: &str) -> Result<Change> {
        let operator_follows = self.is_symbol_at(1, "+") || self.is_symbol_at(1, "-");
        if self.is_name_at(0) && operator_follows {
            let operator = self.text_of(self.peek_at(1));
            if self.name_text(self.peek()) != column {
                return Err(self.error(&format!(
                    "Only expressions of the form X = X {operator} <value> are supported."
                )));
            }
            self.at += 2;
            let value = self.term()?;
            return Ok(if operator == "-" {
                Change::Subtract(value)
            } else {
                Change::Add(value)
            });
        }
        let value = self.term()?;
        if !self.skip_symbol("+") {
            return Ok(Change::Set(value));
        }
        if self.name()? != column {
            return Err(self.error("Only expressions of the form X = <value> + X are supported."));
        }
        Ok(Change::Prepend(value))
    }

    pub(super) fn delete(&mut self) -> Result<Delete> {
        self.expect_word("delete")?;
        let targets = if self.is_word("from") {
            Vec::new()
        } else {
            self.list_of(Self::delete_target)?
        };
        self.expect_word("from")?;
        let table = self.qualified_name()?;
        let using = self.using(&["timestamp", "timeout"])?;
        self.expect_word("where")?;
        Ok(Delete {
            table,
            targets,
            using,
            filter: self.filter()?,
            condition: self.condition()?,
        })
    }

    fn delete_target(&mut self) -> Result<DeleteTarget> {
        let column = self.name()?;
        if self.skip_symbol("[") {
            let key = self.term()?;
            self.expect_symbol("]")?;
            return Ok(DeleteTarget::Element { column, key });
        }
        if self.skip_symbol(".") {
            return Ok(DeleteTarget::Field {
                column,
                field: self.name()?,
            });
        }
        Ok(DeleteTarget::Column(column))
    }

    pub(super) fn batch(&mut self) -> Result<Batch> {
        self.expect_word("begin")?;
        let kind = if self.skip_word("unlogged") {
            BatchKind::Unlogged
        } else if self.skip_word("counter") {
            BatchKind::Counter
        } else {
            BatchKind::Logged
        };
        self.expect_word("batch")?;
        let using = self.using(&["timestamp", "timeout"])?;
        let mut statements = Vec::new();
        while !self.skip_words(&["apply", "batch"]) {
            statements.push(self.batch_item()?);
            self.skip_symbol(";");
        }
        Ok(Batch {
            kind,
            using,
            statements,
        })
    }

    fn batch_item(&mut self) -> Result<BatchItem> {
        if self.is_word("insert") {
            self.insert().map(BatchItem::Insert)
        } else if self.is_word("update") {
            self.update().map(BatchItem::Update)
        } else if self.is_word("delete") {
            self.delete().map(BatchItem::Delete)
        } else {
            Err(self.error(&format!("mismatched input '{}' expecting K_APPLY", self.found())))
        }
    }

    pub(super) fn truncate(&mut self) -> Result<Truncate> {
        self.expect_word("truncate")?;
        if !self.skip_word("table") {
            self.skip_word("columnfamily");
        }
        Ok(Truncate {
            table: self.qualified_name()?,
            using: self.using(&["timeout"])?,
        })
    }

    /// `USING a x AND b y` with the attributes that the statement allows, or nothing.
    pub(super) fn using(&mut self, allowed: &[&str]) -> Result<Using> {
        let mut using = Using::default();
        if !self.skip_word("using") {
            return Ok(using);
        }
        loop {
            let attribute = self.found().to_ascii_lowercase();
            if self.peek().kind != TokenKind::Word || !allowed.contains(&attribute.as_str()) {
                return Err(self.unexpected());
            }
            let slot = match attribute.as_str() {
                "timestamp" => &mut using.timestamp,
                "ttl" => &mut using.ttl,
                _ => &mut using.timeout,
            };
            if slot.is_some() {
                return Err(self.error(&format!("Multiple definitions for property '{attribute}'")));
            }
            self.advance();
            *slot = Some(self.using_value()?);
            if !self.skip_word("and") {
                return Ok(using);
            }
        }
    }

    /// A marker, an integer or a duration; which of them fits is checked where the value is used.
    fn using_value(&mut self) -> Result<Term> {
        if let Some(marker) = self.marker()? {
            return Ok(Term::Marker(marker));
        }
        match self.literal()? {
            Some(literal) if matches!(literal.kind, LiteralKind::Integer | LiteralKind::Duration) => {
                Ok(Term::Literal(literal))
            }
            _ => Err(self.unexpected()),
        }
    }
}
