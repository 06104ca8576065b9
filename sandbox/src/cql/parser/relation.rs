//! Restrictions of WHERE and conditions of IF.

use super::{Parser, Result};
use crate::cql::ast::data::{Condition, Operator, Relation, RelationValue, Subject};
use crate::cql::ast::term::Term;

impl Parser<'_> {
    /// What follows WHERE.
    pub(super) fn filter(&mut self) -> Result<Vec<Relation>> {
        let mut relations = Vec::new();
        loop {
            self.where_relation(&mut relations)?;
            if !self.skip_word("and") {
                return Ok(relations);
            }
        }
    }

    /// What follows a write: IF EXISTS, IF conditions or nothing.
    pub(super) fn condition(&mut self) -> Result<Condition> {
        if self.if_exists() {
            return Ok(Condition::Exists);
        }
        if !self.skip_word("if") {
            return Ok(Condition::None);
        }
        let mut relations = Vec::new();
        loop {
            let subject = self.condition_subject()?;
            relations.push(self.operator_and_value(subject)?);
            if !self.skip_word("and") {
                return Ok(Condition::Relations(relations));
            }
        }
    }

    fn where_relation(&mut self, relations: &mut Vec<Relation>) -> Result<()> {
        if self.is_symbol("(") && !self.is_tuple_of_names() {
            return self.nested(|parser| {
                parser.expect_symbol("(")?;
                parser.where_relation(relations)?;
                while parser.skip_word("and") {
                    parser.where_relation(relations)?;
                }
                parser.expect_symbol(")")
            });
        }
        let subject = if self.is_symbol("(") {
            Subject::Tuple(self.names_in_parentheses()?)
        } else if self.is_word("token") && self.is_symbol_at(1, "(") {
            self.advance();
            Subject::Token(self.names_in_parentheses()?)
        } else {
            self.column_or_element()?
        };
        let relation = self.operator_and_value(subject)?;
        relations.push(relation);
        Ok(())
    }

    /// Whether `(` starts `(a)` or `(a, b, ...)` rather than a relation in parentheses.
    fn is_tuple_of_names(&self) -> bool {
        self.is_name_at(1) && (self.is_symbol_at(2, ",") || self.is_symbol_at(2, ")"))
    }

    fn column_or_element(&mut self) -> Result<Subject> {
        let column = self.name()?;
        if !self.skip_symbol("[") {
            return Ok(Subject::Column(column));
        }
        let key = self.term()?;
        self.expect_symbol("]")?;
        Ok(Subject::Element { column, key })
    }

    fn condition_subject(&mut self) -> Result<Subject> {
        match self.column_or_element()? {
            Subject::Column(column) if self.skip_symbol(".") => Ok(Subject::Field {
                column,
                field: self.name()?,
            }),
            subject => Ok(subject),
        }
    }

    fn operator_and_value(&mut self, subject: Subject) -> Result<Relation> {
        let relation = |operator, value| Relation {
            subject,
            operator,
            value,
        };
        if self.skip_words(&["is", "not", "null"]) {
            return Ok(relation(Operator::IsNotNull, RelationValue::None));
        }
        if self.skip_word("in") {
            return Ok(relation(Operator::In, self.in_values()?));
        }
        let operator = if self.skip_word("contains") {
            if self.skip_word("key") {
                Operator::ContainsKey
            } else {
                Operator::Contains
            }
        } else if self.skip_word("like") {
            Operator::Like
        } else {
            self.comparison()?
        };
        Ok(relation(operator, RelationValue::One(self.term()?)))
    }

    fn comparison(&mut self) -> Result<Operator> {
        const OPERATORS: [(&str, Operator); 6] = [
            ("=", Operator::Eq),
            ("!=", Operator::NotEq),
            ("<", Operator::Less),
            ("<=", Operator::LessOrEq),
            (">", Operator::Greater),
            (">=", Operator::GreaterOrEq),
        ];
        match OPERATORS.iter().find(|(symbol, _)| self.is_symbol(symbol)) {
            Some((_, operator)) => {
                self.advance();
                Ok(*operator)
            }
            None => Err(self.unexpected()),
        }
    }

    fn in_values(&mut self) -> Result<RelationValue> {
        if let Some(marker) = self.marker()? {
            return Ok(RelationValue::One(Term::Marker(marker)));
        }
        self.expect_symbol("(")?;
        self.list_until(")", Self::term).map(RelationValue::Many)
    }
}
