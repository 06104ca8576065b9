//! CQL text to tokens. Tokens are positions in the text; what they mean is read off the text when needed.

use crate::error::CqlError;

/// Longest statement in bytes. A token takes 12 bytes, so this bounds the parser's memory to 48 MiB at worst;
/// values beyond it belong into bind markers.
pub(super) const MAX_STATEMENT_BYTES: usize = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// Unquoted: a keyword or a name.
    Word,
    QuotedName,
    String,
    /// `$$...$$`.
    DollarString,
    Integer,
    Float,
    Uuid,
    /// `0x...`.
    Hex,
    Duration,
    /// One of `? : ; , . ( ) [ ] { } = < > + - * %` or `!=`, `<=`, `>=`.
    Symbol,
    End,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// All tokens of a text; the last one is `End`.
///
/// # Errors
/// Syntax: a character that no token starts with, an unterminated string, comment or name; too long a text.
pub(super) fn tokenize(text: &str) -> Result<Vec<Token>, CqlError> {
    if text.len() > MAX_STATEMENT_BYTES {
        return Err(CqlError::syntax(format!(
            "statement of {} bytes is longer than the {MAX_STATEMENT_BYTES} that are accepted",
            text.len()
        )));
    }
    let mut lexer = Lexer {
        text,
        bytes: text.as_bytes(),
        at: 0,
    };
    let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
    loop {
        let token = lexer.next()?;
        tokens.push(token);
        if token.kind == TokenKind::End {
            return Ok(tokens);
        }
    }
}

/// `line 1:7 `: line from 1, column in characters from 0, as ANTLR counts.
pub(super) fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    format!("line {line}:{} ", before[line_start..].chars().count())
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Token, CqlError> {
        self.skip_blanks()?;
        let start = self.at;
        let Some(&first) = self.bytes.get(start) else {
            return Ok(self.token(TokenKind::End, start, start));
        };
        let (kind, end) = match first {
            b'\'' => (TokenKind::String, self.quoted(start, b'\'')?),
            b'"' => (TokenKind::QuotedName, self.quoted(start, b'"')?),
            b'$' if self.bytes[start..].starts_with(b"$$") => (TokenKind::DollarString, self.dollars(start)?),
            b'0'..=b'9' => self.number(start),
            b'a'..=b'z' | b'A'..=b'Z' => self.word(start),
            b'!' | b'<' | b'>' if self.bytes.get(start + 1) == Some(&b'=') => (TokenKind::Symbol, start + 2),
            b'?' | b':' | b';' | b',' | b'.' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'=' | b'<'
            | b'>' | b'+' | b'-' | b'*' | b'%' => (TokenKind::Symbol, start + 1),
            _ => {
                let character = self.text[start..].chars().next().unwrap_or('\u{fffd}');
                return Err(self.error(
                    start,
                    &format!("no viable alternative at character '{character}'"),
                ));
            }
        };
        Ok(self.token(kind, start, end))
    }

    fn token(&mut self, kind: TokenKind, start: usize, end: usize) -> Token {
        self.at = end;
        // Texts are shorter than MAX_STATEMENT_BYTES, which fits u32.
        Token {
            kind,
            start: start as u32,
            end: end as u32,
        }
    }

    fn error(&self, offset: usize, problem: &str) -> CqlError {
        CqlError::syntax(format!("{}{problem}", position(self.text, offset)))
    }

    /// White space and comments.
    fn skip_blanks(&mut self) -> Result<(), CqlError> {
        loop {
            let rest = &self.bytes[self.at..];
            match rest {
                [b' ' | b'\t' | b'\r' | b'\n', ..] => self.at += 1,
                [b'-', b'-', ..] | [b'/', b'/', ..] => {
                    self.at += rest
                        .iter()
                        .position(|&byte| byte == b'\n')
                        .map_or(rest.len(), |newline| newline + 1);
                }
                [b'/', b'*', ..] => match find(&rest[2..], b"*/") {
                    Some(length) => self.at += length + 4,
                    None => {
                        return Err(self.error(
                            self.at,
                            "unterminated comment: mismatched character '<EOF>' expecting '*'",
                        ));
                    }
                },
                _ => return Ok(()),
            }
        }
    }

    /// The end of a quoted string or name; a doubled quote stands for one.
    fn quoted(&self, start: usize, quote: u8) -> Result<usize, CqlError> {
        let mut at = start + 1;
        while let Some(length) = self.bytes[at..].iter().position(|&byte| byte == quote) {
            at += length + 1;
            if self.bytes.get(at) != Some(&quote) {
                return Ok(at);
            }
            at += 1;
        }
        let quote = char::from(quote);
        Err(self.error(
            start,
            &format!("mismatched character '<EOF>' expecting '{quote}'"),
        ))
    }

    fn dollars(&self, start: usize) -> Result<usize, CqlError> {
        match find(&self.bytes[start + 2..], b"$$") {
            Some(length) => Ok(start + length + 4),
            None => Err(self.error(start, "mismatched character '<EOF>' expecting '$'")),
        }
    }

    fn number(&self, start: usize) -> (TokenKind, usize) {
        if let Some(end) = self.uuid(start) {
            return (TokenKind::Uuid, end);
        }
        if self.bytes[start] == b'0' && matches!(self.bytes.get(start + 1), Some(b'x' | b'X')) {
            return (
                TokenKind::Hex,
                self.run(start + 2, |byte| byte.is_ascii_hexdigit()),
            );
        }
        if let Some(end) = self.duration(start) {
            return (TokenKind::Duration, end);
        }
        let mut end = self.run(start, |byte| byte.is_ascii_digit());
        let mut kind = TokenKind::Integer;
        if self.bytes.get(end) == Some(&b'.') {
            kind = TokenKind::Float;
            end = self.run(end + 1, |byte| byte.is_ascii_digit());
        }
        if matches!(self.bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent_end = self.run(end + 1 + sign, |byte| byte.is_ascii_digit());
            if exponent_end > end + 1 + sign {
                return (TokenKind::Float, exponent_end);
            }
        }
        (kind, end)
    }

    fn word(&self, start: usize) -> (TokenKind, usize) {
        if let Some(end) = self.uuid(start) {
            return (TokenKind::Uuid, end);
        }
        if let Some(end) = self.iso_duration(start) {
            return (TokenKind::Duration, end);
        }
        (TokenKind::Word, self.run(start, is_word))
    }

    /// The end of a run of bytes that satisfy `is`.
    fn run(&self, start: usize, is: impl Fn(u8) -> bool) -> usize {
        let length = self.bytes[start..].iter().position(|&byte| !is(byte));
        length.map_or(self.bytes.len(), |length| start + length)
    }

    fn uuid(&self, start: usize) -> Option<usize> {
        let candidate = self.bytes.get(start..start + 36)?;
        let shaped = candidate.iter().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        shaped.then_some(start + 36)
    }

    /// `1y2mo`: numbers with units.
    fn duration(&self, start: usize) -> Option<usize> {
        const UNITS: [&str; 11] = ["mo", "ms", "us", "µs", "ns", "y", "w", "d", "h", "m", "s"];
        let mut end = start;
        loop {
            let digits_end = self.run(end, |byte| byte.is_ascii_digit());
            if digits_end == end {
                break;
            }
            let rest = &self.bytes[digits_end..];
            let Some(unit) = UNITS.iter().find(|unit| {
                rest.get(..unit.len())
                    .is_some_and(|text| text.eq_ignore_ascii_case(unit.as_bytes()))
            }) else {
                break;
            };
            end = digits_end + unit.len();
        }
        let ends_here = !self.bytes.get(end).is_some_and(|&byte| is_word(byte));
        (end > start && ends_here).then_some(end)
    }

    /// `P1Y2M3DT4H5M6S`, `P4W`, `P0001-02-03T04:05:06`.
    fn iso_duration(&self, start: usize) -> Option<usize> {
        if self.bytes[start] != b'P' || !matches!(self.bytes.get(start + 1), Some(b'0'..=b'9' | b'T')) {
            return None;
        }
        let alternative = self.bytes.get(start + 1..start + 20).is_some_and(|text| {
            text.iter().enumerate().all(|(i, byte)| match i {
                4 | 7 => *byte == b'-',
                10 => *byte == b'T',
                13 | 16 => *byte == b':',
                _ => byte.is_ascii_digit(),
            })
        });
        if alternative {
            return Some(start + 20);
        }
        let end = self.run(start, is_word);
        let (mut digits, mut time) = (false, false);
        for &byte in &self.bytes[start + 1..end] {
            match byte {
                b'0'..=b'9' => digits = true,
                b'T' if !time && !digits => time = true,
                b'Y' | b'M' | b'W' | b'D' if digits && !time => digits = false,
                b'H' | b'M' | b'S' if digits && time => digits = false,
                _ => return None,
            }
        }
        let complete = !digits && self.bytes[end - 1] != b'T';
        complete.then_some(end)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn find(haystack: &[u8], needle: &[u8; 2]) -> Option<usize> {
    haystack.windows(2).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::TokenKind::{Duration, Float, Hex, Integer, QuotedName, String, Symbol, Uuid, Word};
    use super::*;

    fn check(text: &str, expected: &[(TokenKind, &str)]) {
        let tokens = tokenize(text).unwrap();
        let found: Vec<_> = tokens[..tokens.len() - 1]
            .iter()
            .map(|token| (token.kind, &text[token.start as usize..token.end as usize]))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn tokens() {
        check("a1_b \"C$\"\"d\"", &[(Word, "a1_b"), (QuotedName, "\"C$\"\"d\"")]);
        check(
            "'it''s' $$it's$$",
            &[(String, "'it''s'"), (TokenKind::DollarString, "$$it's$$")],
        );
        check(
            "1 1. 1.5e-3 2E5 12e",
            &[
                (Integer, "1"),
                (Float, "1."),
                (Float, "1.5e-3"),
                (Float, "2E5"),
                (Integer, "12"),
                (Word, "e"),
            ],
        );
        check(
            "1h30m 5µs 10mo 3x",
            &[
                (Duration, "1h30m"),
                (Duration, "5µs"),
                (Duration, "10mo"),
                (Integer, "3"),
                (Word, "x"),
            ],
        );
        check(
            "P1Y2MT3H P4W PT5M P1 PT p1y",
            &[
                (Duration, "P1Y2MT3H"),
                (Duration, "P4W"),
                (Duration, "PT5M"),
                (Word, "P1"),
                (Word, "PT"),
                (Word, "p1y"),
            ],
        );
        check("P0001-02-03T04:05:06", &[(Duration, "P0001-02-03T04:05:06")]);
        check("0xCafe 0x", &[(Hex, "0xCafe"), (Hex, "0x")]);
        let uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        check(uuid, &[(Uuid, uuid)]);
        check(
            "a<=-1!=b",
            &[
                (Word, "a"),
                (Symbol, "<="),
                (Symbol, "-"),
                (Integer, "1"),
                (Symbol, "!="),
                (Word, "b"),
            ],
        );
        check(
            "a -- x\n b // y\r\n/* z\n */ c --",
            &[(Word, "a"), (Word, "b"), (Word, "c")],
        );
    }

    #[test]
    fn what_is_no_token_is_refused_with_its_place() {
        for (text, message) in [
            ("a\n 'b", "line 2:1 mismatched character '<EOF>' expecting '''"),
            ("é", "line 1:0 no viable alternative at character 'é'"),
            (
                "a /* b",
                "line 1:2 unterminated comment: mismatched character '<EOF>' expecting '*'",
            ),
            ("$$a$", "line 1:0 mismatched character '<EOF>' expecting '$'"),
        ] {
            assert_eq!(tokenize(text).unwrap_err().message, message);
        }
        assert!(tokenize(&" ".repeat(MAX_STATEMENT_BYTES + 1)).is_err());
    }
}
