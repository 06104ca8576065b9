//! SELECT.

use super::{Parser, Result};
use crate::cql::ast::data::{Ordering, Select, SelectExpr, Selection, Selector};
use crate::cql::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn select(&mut self) -> Result<Select> {
        self.expect_word("select")?;
        let json = self.is_select_mode("json") && self.skip_word("json");
        let distinct = self.is_select_mode("distinct") && self.skip_word("distinct");
        let selection = self.selection()?;
        self.expect_word("from")?;
        let table = self.qualified_name()?;
        let filter = if self.skip_word("where") {
            self.filter()?
        } else {
            Vec::new()
        };
        let group_by = if self.skip_words(&["group", "by"]) {
            self.list_of(Self::name)?
        } else {
            Vec::new()
        };
        let order_by = if self.skip_words(&["order", "by"]) {
            self.list_of(Self::ordering)?
        } else {
            Vec::new()
        };
        let per_partition_limit = if self.skip_words(&["per", "partition", "limit"]) {
            Some(self.term()?)
        } else {
            None
        };
        let limit = if self.skip_word("limit") {
            Some(self.term()?)
        } else {
            None
        };
        Ok(Select {
            table,
            selection,
            distinct,
            json,
            filter,
            group_by,
            order_by,
            per_partition_limit,
            limit,
            allow_filtering: self.skip_words(&["allow", "filtering"]),
            bypass_cache: self.skip_words(&["bypass", "cache"]),
            using: self.using(&["timeout"])?,
        })
    }

    /// JSON and DISTINCT are also names of columns: what follows decides.
    fn is_select_mode(&self, word: &str) -> bool {
        let is_column = self.is_word_at(1, "from")
            || (self.is_word_at(1, "as") && self.is_name_at(2))
            || [",", ".", "[", "("]
                .iter()
                .any(|symbol| self.is_symbol_at(1, symbol));
        self.is_word(word) && !is_column
    }

    fn selection(&mut self) -> Result<Selection> {
        if self.skip_symbol("*") {
            return Ok(Selection::All);
        }
        self.list_of(|parser| {
            let expression = parser.select_expr()?;
            let alias = if parser.skip_word("as") {
                Some(parser.name()?)
            } else {
                None
            };
            Ok(Selector { expression, alias })
        })
        .map(Selection::Selectors)
    }

    fn ordering(&mut self) -> Result<Ordering> {
        let column = self.name()?;
        let descending = self.skip_word("desc");
        if !descending {
            self.skip_word("asc");
        }
        Ok(Ordering { column, descending })
    }

    fn select_expr(&mut self) -> Result<SelectExpr> {
        self.nested(|parser| {
            let mut expression = parser.select_primary()?;
            loop {
                expression = if parser.skip_symbol(".") {
                    SelectExpr::Field {
                        of: Box::new(expression),
                        field: parser.name()?,
                    }
                } else if parser.skip_symbol("[") {
                    let key = parser.term()?;
                    parser.expect_symbol("]")?;
                    SelectExpr::Element {
                        of: Box::new(expression),
                        key,
                    }
                } else {
                    return Ok(expression);
                };
            }
        })
    }

    fn select_primary(&mut self) -> Result<SelectExpr> {
        let called = self.peek().kind == TokenKind::Word && self.is_symbol_at(1, "(");
        if !called {
            let qualified_call = self.is_name_at(0) && self.is_symbol_at(1, ".") && self.is_symbol_at(3, "(");
            if qualified_call || (self.peek().kind == TokenKind::QuotedName && self.is_symbol_at(1, "(")) {
                return self.select_call();
            }
            return if self.is_name_at(0) {
                self.name().map(SelectExpr::Column)
            } else {
                self.term().map(SelectExpr::Term)
            };
        }
        match self.found().to_ascii_lowercase().as_str() {
            "count" if self.is_symbol_at(2, "*") || self.text_of(self.peek_at(2)) == "1" => {
                self.at += 3;
                self.expect_symbol(")")?;
                Ok(SelectExpr::CountRows)
            }
            "writetime" => Ok(SelectExpr::WriteTime(self.one_argument()?)),
            "ttl" => Ok(SelectExpr::Ttl(self.one_argument()?)),
            "cast" => self.cast(),
            _ => self.select_call(),
        }
    }

    fn one_argument(&mut self) -> Result<Box<SelectExpr>> {
        self.at += 2;
        let argument = self.select_expr()?;
        self.expect_symbol(")")?;
        Ok(Box::new(argument))
    }

    fn cast(&mut self) -> Result<SelectExpr> {
        self.at += 2;
        let expression = Box::new(self.select_expr()?);
        self.expect_word("as")?;
        let ty = self.type_expr()?;
        self.expect_symbol(")")?;
        Ok(SelectExpr::Cast { expression, ty })
    }

    fn select_call(&mut self) -> Result<SelectExpr> {
        let function = self.function_name()?;
        self.expect_symbol("(")?;
        Ok(SelectExpr::Call {
            function,
            arguments: self.list_until(")", Self::select_expr)?,
        })
    }
}
