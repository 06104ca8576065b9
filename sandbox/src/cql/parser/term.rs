//! Terms, bind markers and type names.

use super::{Parser, Result};
use crate::cql::ast::QualifiedName;
use crate::cql::ast::term::{Literal, LiteralKind, Marker, Term, TypeExpr};
use crate::cql::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn term(&mut self) -> Result<Term> {
        self.nested(Self::term_inner)
    }

    fn term_inner(&mut self) -> Result<Term> {
        if let Some(marker) = self.marker()? {
            return Ok(Term::Marker(marker));
        }
        if let Some(literal) = self.literal()? {
            return Ok(Term::Literal(literal));
        }
        if self.skip_word("null") {
            return Ok(Term::Null);
        }
        if self.skip_symbol("[") {
            return self.list_until("]", Self::term).map(Term::List);
        }
        if self.skip_symbol("{") {
            return self.braces();
        }
        if self.is_symbol("(") {
            return if self.is_hint() { self.hint() } else { self.tuple() };
        }
        self.call()
    }

    /// `?`, `:name` or nothing.
    pub(super) fn marker(&mut self) -> Result<Option<Marker>> {
        if self.skip_symbol("?") {
            self.markers.push(None);
            return Ok(Some(Marker {
                index: self.markers.len() - 1,
                name: None,
            }));
        }
        if !self.skip_symbol(":") {
            return Ok(None);
        }
        let name = Some(self.name()?);
        let known = self.markers.iter().position(|marker| *marker == name);
        let index = known.unwrap_or_else(|| {
            self.markers.push(name.clone());
            self.markers.len() - 1
        });
        Ok(Some(Marker { index, name }))
    }

    pub(super) fn literal(&mut self) -> Result<Option<Literal>> {
        let negative = self.is_symbol("-");
        let token = self.peek_at(usize::from(negative));
        let text = self.text_of(token);
        let (kind, text) = match token.kind {
            TokenKind::String | TokenKind::DollarString if !negative => {
                let text = self.string()?;
                return Ok(Some(Literal {
                    kind: LiteralKind::String,
                    text,
                }));
            }
            TokenKind::Integer => (LiteralKind::Integer, text.to_owned()),
            TokenKind::Float => (LiteralKind::Float, text.to_owned()),
            TokenKind::Duration => (LiteralKind::Duration, text.to_owned()),
            TokenKind::Uuid if !negative => (LiteralKind::Uuid, text.to_owned()),
            TokenKind::Hex if !negative => (LiteralKind::Hex, text[2..].to_owned()),
            TokenKind::Word => match text.to_ascii_lowercase().as_str() {
                boolean @ ("true" | "false") if !negative => (LiteralKind::Boolean, boolean.to_owned()),
                "nan" => (LiteralKind::Float, "NaN".to_owned()),
                "infinity" => (LiteralKind::Float, "Infinity".to_owned()),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.at += 1 + usize::from(negative);
        let text = if negative { format!("-{text}") } else { text };
        Ok(Some(Literal { kind, text }))
    }

    /// What follows `{`: a set, a map or a user-defined type's value.
    fn braces(&mut self) -> Result<Term> {
        if self.skip_symbol("}") {
            return Ok(Term::Set(Vec::new()));
        }
        if self.is_name_at(0) && self.is_symbol_at(1, ":") {
            let fields = self.list_until("}", |parser| {
                let field = parser.name()?;
                parser.expect_symbol(":")?;
                Ok((field, parser.term()?))
            })?;
            return Ok(Term::Udt(fields));
        }
        let first = self.term()?;
        if self.skip_symbol(":") {
            let mut entries = vec![(first, self.term()?)];
            while self.skip_symbol(",") {
                let key = self.term()?;
                self.expect_symbol(":")?;
                entries.push((key, self.term()?));
            }
            self.expect_symbol("}")?;
            return Ok(Term::Map(entries));
        }
        let mut elements = vec![first];
        while self.skip_symbol(",") {
            elements.push(self.term()?);
        }
        self.expect_symbol("}")?;
        Ok(Term::Set(elements))
    }

    /// Whether `(` starts `(type) x`: a bare name is no term, so a name that is no call is a type.
    fn is_hint(&self) -> bool {
        let is_call = self.is_symbol_at(2, "(") || (self.is_symbol_at(2, ".") && self.is_symbol_at(4, "("));
        self.is_name_at(1) && !is_call
    }

    fn hint(&mut self) -> Result<Term> {
        self.expect_symbol("(")?;
        let ty = self.type_expr()?;
        self.expect_symbol(")")?;
        Ok(Term::Hint {
            ty,
            term: Box::new(self.term()?),
        })
    }

    fn tuple(&mut self) -> Result<Term> {
        self.expect_symbol("(")?;
        let elements = self.list_of(Self::term)?;
        self.expect_symbol(")")?;
        Ok(Term::Tuple(elements))
    }

    fn call(&mut self) -> Result<Term> {
        let function = self.function_name()?;
        self.expect_symbol("(")?;
        Ok(Term::Call {
            function,
            arguments: self.list_until(")", Self::term)?,
        })
    }

    /// Like a table's name, but `token` is one too.
    pub(super) fn function_name(&mut self) -> Result<QualifiedName> {
        if self.skip_word("token") {
            return Ok(QualifiedName {
                keyspace: None,
                name: "token".to_owned(),
            });
        }
        self.qualified_name()
    }

    pub(super) fn type_expr(&mut self) -> Result<TypeExpr> {
        self.nested(Self::type_inner)
    }

    fn type_inner(&mut self) -> Result<TypeExpr> {
        if self.peek().kind == TokenKind::String {
            return self.string().map(TypeExpr::Custom);
        }
        if self.peek().kind == TokenKind::Word && self.is_symbol_at(1, "<") {
            let constructor = self.found().to_ascii_lowercase();
            let error = self.unexpected();
            self.at += 2;
            let ty = match constructor.as_str() {
                "frozen" => TypeExpr::Frozen(Box::new(self.type_expr()?)),
                "list" => TypeExpr::List(Box::new(self.type_expr()?)),
                "set" => TypeExpr::Set(Box::new(self.type_expr()?)),
                "map" => {
                    let key = Box::new(self.type_expr()?);
                    self.expect_symbol(",")?;
                    TypeExpr::Map(key, Box::new(self.type_expr()?))
                }
                "tuple" => TypeExpr::Tuple(self.list_of(Self::type_expr)?),
                "vector" => {
                    let element = Box::new(self.type_expr()?);
                    self.expect_symbol(",")?;
                    TypeExpr::Vector(element, self.dimensions()?)
                }
                _ => return Err(error),
            };
            self.expect_symbol(">")?;
            return Ok(ty);
        }
        let quoted = self.peek().kind == TokenKind::QuotedName;
        let mut name = self.qualified_name()?;
        if name.keyspace.is_none() && !quoted && name.name == "varchar" {
            name.name = "text".to_owned();
        }
        Ok(TypeExpr::Named(name))
    }

    /// The dimensions of a vector; ScyllaDB's limit is 16000.
    fn dimensions(&mut self) -> Result<u16> {
        let dimensions = self
            .found()
            .parse()
            .ok()
            .filter(|dimensions| (1..=16_000).contains(dimensions));
        match dimensions {
            Some(dimensions) => {
                self.advance();
                Ok(dimensions)
            }
            None => Err(self.error(&format!(
                "mismatched input '{}' expecting the number of dimensions, 1 to 16000",
                self.found()
            ))),
        }
    }
}
