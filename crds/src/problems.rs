//! What is wrong with a configuration: everything at once, each with its field, what was found and what is accepted.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, as in `source.contactPoints[0]`; empty when the document as a whole is meant.
    pub path: String,
    /// What was found there.
    pub found: Found,
    /// What is accepted there.
    pub accepted: String,
}

/// What was found in a field. Secrets never get here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, though something is required.
    Nothing,
    /// A field of a name that has no meaning here.
    UnknownField,
    /// A field or value that belongs to a later version.
    NotSupported(Option<String>),
    /// This value, as JSON, shortened.
    Value(String),
    /// A value that may hold a secret.
    Hidden,
    /// Text that cannot be read at all, and why.
    Unreadable(String),
}

impl Found {
    /// A value that may be shown, as JSON.
    pub fn shown(value: &serde_json::Value) -> Self {
        Self::Value(shortened(&value.to_string()))
    }
}

/// All that is wrong. Never empty where it is returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(Vec<Problem>);

/// Problems that are listed one by one; a file with more of them is of another kind.
const MAX_LISTED: usize = 50;

/// Characters of a value that are shown.
const MAX_SHOWN: usize = 80;

impl Problems {
    /// The problems, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something is wrong with this field, or with a part that holds it.
    pub fn has(&self, path: &str) -> bool {
        self.0.iter().any(|known| holds(&known.path, path))
    }

    /// `Err` if anything is wrong.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Adds a problem, unless one of this field, or of a part that holds it, is known already.
    pub fn add(&mut self, path: impl Into<String>, found: Found, accepted: impl Into<String>) {
        let path = path.into();
        if !self.has(&path) {
            self.0.push(Problem {
                path,
                found,
                accepted: accepted.into(),
            });
        }
    }

    /// Adds a problem with a value that may be shown.
    pub fn refuse(&mut self, path: impl Into<String>, value: impl fmt::Display, accepted: impl Into<String>) {
        self.add(path, Found::Value(shortened(&value.to_string())), accepted);
    }

    /// Adds a problem with a text that may be shown; shown in quotes.
    pub fn refuse_text(&mut self, path: impl Into<String>, text: &str, accepted: impl Into<String>) {
        self.refuse(path, serde_json::Value::from(text), accepted);
    }

    /// Adds a problem with a required field.
    pub fn missing(&mut self, path: impl Into<String>, accepted: impl Into<String>) {
        self.add(path, Found::Nothing, accepted);
    }

    /// The same problems, of a part that stands below `part` in the document.
    pub fn below(mut self, part: &str) -> Self {
        for problem in &mut self.0 {
            problem.path = if problem.path.is_empty() {
                part.to_owned()
            } else {
                format!("{part}.{}", problem.path)
            };
        }
        self
    }

    /// Adds those of another list.
    pub fn extend(&mut self, others: Self) {
        for other in others.0 {
            self.add(other.path, other.found, other.accepted);
        }
    }
}

/// Whether `part` is `path` or an ancestor of it.
fn holds(part: &str, path: &str) -> bool {
    path.strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// At most [`MAX_SHOWN`] characters, with what is not printable escaped.
fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(printable).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

fn printable(c: char) -> Vec<char> {
    if c.is_control() {
        c.escape_default().collect()
    } else {
        vec![c]
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match &self.found {
            Found::Nothing => f.write_str("missing"),
            Found::UnknownField => f.write_str("unknown field"),
            Found::NotSupported(None) => f.write_str("not supported by this version"),
            Found::NotSupported(Some(value)) => write!(f, "{value} is not supported by this version"),
            Found::Value(value) => write!(f, "found {value}"),
            Found::Hidden => f.write_str("found a value that is not shown here"),
            Found::Unreadable(reason) => f.write_str(reason),
        }?;
        write!(f, "; accepted: {}", self.accepted)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(MAX_LISTED).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.0.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_reported_once_and_not_below_a_reported_part() {
        let mut problems = Problems::default();
        problems.refuse_text("source.tls", "x\ny", "a section");
        problems.missing("source.tls.caFile", "a path");
        problems.missing("source.tlsX", "a path");
        assert_eq!(
            problems.to_string(),
            "source.tls: found \"x\\ny\"; accepted: a section\nsource.tlsX: missing; accepted: a path"
        );
    }

    #[test]
    fn long_values_and_long_lists_are_cut() {
        let mut problems = Problems::default();
        for field in 0..60 {
            problems.refuse_text(format!("f{field}"), &"x".repeat(1000), "less");
        }
        let text = problems.to_string();
        assert!(text.ends_with("\nand 10 more"), "{text}");
        assert!(text.lines().all(|line| line.len() < 120), "{text}");
    }
}
