//! Keyspaces, and the properties behind WITH.

use super::{Parser, Result};
use crate::cql::ast::Statement;
use crate::cql::ast::definition::{AlterKeyspace, CreateKeyspace, Properties, PropertyValue};
use crate::cql::ast::term::LiteralKind;
use crate::cql::lexer::TokenKind;

impl Parser<'_> {
    pub(super) fn use_keyspace(&mut self) -> Result<Statement> {
        self.expect_word("use")?;
        self.name().map(Statement::Use)
    }

    /// Behind CREATE KEYSPACE.
    pub(super) fn create_keyspace(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.name()?;
        self.expect_word("with")?;
        Ok(Statement::CreateKeyspace(CreateKeyspace {
            name,
            if_not_exists,
            properties: self.properties()?,
        }))
    }

    /// Behind ALTER KEYSPACE.
    pub(super) fn alter_keyspace(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        let name = self.name()?;
        self.expect_word("with")?;
        Ok(Statement::AlterKeyspace(AlterKeyspace {
            name,
            if_exists,
            properties: self.properties()?,
        }))
    }

    /// Behind DROP KEYSPACE.
    pub(super) fn drop_keyspace(&mut self) -> Result<Statement> {
        let if_exists = self.if_exists();
        Ok(Statement::DropKeyspace {
            name: self.name()?,
            if_exists,
        })
    }

    pub(super) fn properties(&mut self) -> Result<Properties> {
        let mut properties = vec![self.property()?];
        while self.skip_word("and") {
            properties.push(self.property()?);
        }
        Ok(properties)
    }

    pub(super) fn property(&mut self) -> Result<(String, PropertyValue)> {
        let name = self.name()?;
        self.expect_symbol("=")?;
        if !self.skip_symbol("{") {
            return Ok((name, PropertyValue::Scalar(self.property_text()?)));
        }
        let entries = self.list_until("}", |parser| {
            let key = parser.property_text()?;
            parser.expect_symbol(":")?;
            Ok((key, parser.property_text()?))
        })?;
        Ok((name, PropertyValue::Map(entries)))
    }

    /// A constant or a bare word.
    fn property_text(&mut self) -> Result<String> {
        if let Some(literal) = self.literal()? {
            return Ok(match literal.kind {
                LiteralKind::Hex => format!("0x{}", literal.text),
                _ => literal.text,
            });
        }
        if self.peek().kind == TokenKind::Word {
            return self.name();
        }
        Err(self.unexpected())
    }
}
