//! Tokens to statements: recursive descent, one token of lookahead in most places.
//!
//! This file holds the cursor over the tokens; each family of statements has its own file.

mod access;
mod definition;
mod describe;
mod keyspace;
mod relation;
mod select;
mod term;
mod write;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

use crate::cql::ast::{Parsed, QualifiedName, Statement};
use crate::cql::lexer::{Token, TokenKind, position, tokenize};
use crate::error::CqlError;

/// How deep terms, types, selectors and parentheses may nest: beyond what anyone writes, far below what the
/// stack holds.
const MAX_DEPTH: usize = 64;

/// Words that are names only in quotes; all others may be used as they are.
const RESERVED: &[&str] = &[
    "add",
    "allow",
    "alter",
    "and",
    "apply",
    "asc",
    "authorize",
    "batch",
    "begin",
    "by",
    "columnfamily",
    "create",
    "delete",
    "desc",
    "describe",
    "drop",
    "entries",
    "execute",
    "false",
    "from",
    "full",
    "grant",
    "if",
    "in",
    "index",
    "infinity",
    "insert",
    "into",
    "is",
    "keyspace",
    "limit",
    "materialized",
    "modify",
    "nan",
    "norecursive",
    "not",
    "null",
    "of",
    "on",
    "or",
    "order",
    "primary",
    "rename",
    "revoke",
    "schema",
    "select",
    "set",
    "table",
    "to",
    "token",
    "true",
    "truncate",
    "unlogged",
    "update",
    "use",
    "using",
    "view",
    "where",
    "with",
];

type Result<T> = std::result::Result<T, CqlError>;

/// Reads one statement, with or without semicolons behind it.
///
/// # Errors
/// Syntax, with line and column; nothing is looked up, so no other.
pub fn parse(text: &str) -> Result<Parsed> {
    let mut parser = Parser {
        text,
        tokens: tokenize(text)?,
        at: 0,
        depth: 0,
        markers: Vec::new(),
    };
    let statement = parser.statement()?;
    while parser.skip_symbol(";") {}
    if parser.peek().kind != TokenKind::End {
        return Err(parser.error(&format!("missing EOF at '{}'", parser.found())));
    }
    Ok(Parsed {
        statement,
        markers: parser.markers,
    })
}

struct Parser<'a> {
    text: &'a str,
    /// Never empty: the last one is `End`.
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    markers: Vec<Option<String>>,
}

impl<'a> Parser<'a> {
    fn statement(&mut self) -> Result<Statement> {
        if self.peek().kind != TokenKind::Word {
            return Err(self.unexpected());
        }
        match self.found().to_ascii_lowercase().as_str() {
            "select" => self.select().map(|select| Statement::Select(Box::new(select))),
            "insert" => self.insert().map(|insert| Statement::Insert(Box::new(insert))),
            "update" => self.update().map(|update| Statement::Update(Box::new(update))),
            "delete" => self.delete().map(|delete| Statement::Delete(Box::new(delete))),
            "begin" => self.batch().map(|batch| Statement::Batch(Box::new(batch))),
            "truncate" => self.truncate().map(Statement::Truncate),
            "use" => self.use_keyspace(),
            "create" => self.create(),
            "alter" => self.alter(),
            "drop" => self.drop(),
            "grant" => self.grant(),
            "revoke" => self.revoke(),
            "list" => self.list(),
            "describe" | "desc" => self.describe().map(Statement::Describe),
            _ => Err(self.unexpected()),
        }
    }

    fn peek(&self) -> Token {
        self.peek_at(0)
    }

    /// The token `ahead` of the current one; `End` behind the last.
    fn peek_at(&self, ahead: usize) -> Token {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn advance(&mut self) -> Token {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn text_of(&self, token: Token) -> &'a str {
        match token.kind {
            TokenKind::End => "<EOF>",
            _ => &self.text[token.start as usize..token.end as usize],
        }
    }

    /// The current token as written.
    fn found(&self) -> &'a str {
        self.text_of(self.peek())
    }

    fn error(&self, problem: &str) -> CqlError {
        CqlError::syntax(format!(
            "{}{problem}",
            position(self.text, self.peek().start as usize)
        ))
    }

    fn unexpected(&self) -> CqlError {
        self.error(&format!("no viable alternative at input '{}'", self.found()))
    }

    fn is_symbol_at(&self, ahead: usize, symbol: &str) -> bool {
        let token = self.peek_at(ahead);
        token.kind == TokenKind::Symbol && self.text_of(token) == symbol
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        self.is_symbol_at(0, symbol)
    }

    fn skip_symbol(&mut self, symbol: &str) -> bool {
        let is = self.is_symbol(symbol);
        self.at += usize::from(is);
        is
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<()> {
        if self.skip_symbol(symbol) {
            return Ok(());
        }
        Err(self.error(&format!(
            "mismatched input '{}' expecting '{symbol}'",
            self.found()
        )))
    }

    fn is_word_at(&self, ahead: usize, word: &str) -> bool {
        let token = self.peek_at(ahead);
        token.kind == TokenKind::Word && self.text_of(token).eq_ignore_ascii_case(word)
    }

    fn is_word(&self, word: &str) -> bool {
        self.is_word_at(0, word)
    }

    fn skip_word(&mut self, word: &str) -> bool {
        let is = self.is_word(word);
        self.at += usize::from(is);
        is
    }

    /// All of these words in a row, or none.
    fn skip_words(&mut self, words: &[&str]) -> bool {
        let are = words
            .iter()
            .enumerate()
            .all(|(ahead, word)| self.is_word_at(ahead, word));
        if are {
            self.at += words.len();
        }
        are
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.skip_word(word) {
            return Ok(());
        }
        let (found, expected) = (self.found(), word.to_ascii_uppercase());
        Err(self.error(&format!("mismatched input '{found}' expecting K_{expected}")))
    }

    /// Whether the token `ahead` can be a name: quoted, or a word that is not reserved.
    fn is_name_at(&self, ahead: usize) -> bool {
        let token = self.peek_at(ahead);
        match token.kind {
            TokenKind::QuotedName => true,
            TokenKind::Word => !is_reserved(self.text_of(token)),
            _ => false,
        }
    }

    /// A column, table, keyspace or type name.
    fn name(&mut self) -> Result<String> {
        if !self.is_name_at(0) {
            return Err(self.unexpected());
        }
        let name = self.name_text(self.peek());
        if name.is_empty() {
            return Err(self.error("no viable alternative at input '\"\"'"));
        }
        self.advance();
        Ok(name)
    }

    fn name_text(&self, token: Token) -> String {
        let text = self.text_of(token);
        match token.kind {
            TokenKind::QuotedName => text[1..text.len() - 1].replace("\"\"", "\""),
            _ => text.to_ascii_lowercase(),
        }
    }

    /// `name` or `keyspace.name`.
    fn qualified_name(&mut self) -> Result<QualifiedName> {
        let first = self.name()?;
        if !self.skip_symbol(".") {
            return Ok(QualifiedName {
                keyspace: None,
                name: first,
            });
        }
        Ok(QualifiedName {
            keyspace: Some(first),
            name: self.name()?,
        })
    }

    fn string(&mut self) -> Result<String> {
        let token = self.peek();
        let text = self.text_of(token);
        let string = match token.kind {
            TokenKind::String => text[1..text.len() - 1].replace("''", "'"),
            TokenKind::DollarString => text[2..text.len() - 2].to_owned(),
            _ => return Err(self.unexpected()),
        };
        self.advance();
        Ok(string)
    }

    /// One or more items with commas between.
    fn list_of<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.skip_symbol(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Zero or more items with commas between, up to and including `close`.
    fn list_until<T>(&mut self, close: &str, item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        if self.skip_symbol(close) {
            return Ok(Vec::new());
        }
        let items = self.list_of(item)?;
        self.expect_symbol(close)?;
        Ok(items)
    }

    /// `(a, b, c)`, at least one name.
    fn names_in_parentheses(&mut self) -> Result<Vec<String>> {
        self.expect_symbol("(")?;
        let names = self.list_of(Self::name)?;
        self.expect_symbol(")")?;
        Ok(names)
    }

    fn if_not_exists(&mut self) -> bool {
        self.skip_words(&["if", "not", "exists"])
    }

    fn if_exists(&mut self) -> bool {
        self.skip_words(&["if", "exists"])
    }

    /// Runs a parser that may call itself.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(&format!(
                "nested more than {MAX_DEPTH} levels deep at '{}'",
                self.found()
            )));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }
}

fn is_reserved(word: &str) -> bool {
    RESERVED
        .iter()
        .any(|reserved| reserved.eq_ignore_ascii_case(word))
}
