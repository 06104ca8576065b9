//! Which statements and tables a rule is about.

/// A text in which `*` stands for anything. Compared without regard to case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<String>,
}

impl Pattern {
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let parts = normalized(&text).split('*').map(str::to_owned).collect();
        Self { text, parts }
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the pattern is found anywhere in a statement. Runs of white space count as one space.
    pub fn occurs_in(&self, statement: &str) -> bool {
        let statement = normalized(statement);
        let mut rest = statement.as_str();
        self.parts.iter().all(|part| match rest.find(part.as_str()) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    }

    /// True if the pattern is the whole of a name.
    pub fn is(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|only| *only == name);
        };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else {
            return false;
        };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

fn normalized(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements() {
        let check = |pattern: &str, statement: &str, expected: bool| {
            assert_eq!(
                Pattern::new(pattern).occurs_in(statement),
                expected,
                "{pattern} in {statement}"
            );
        };
        check("insert into", "  INSERT\n INTO ks.t (a) VALUES (1)", true);
        check("select * ks.t", "SELECT a, b FROM ks.t WHERE c = 1", true);
        check("select*ks.t*token", "SELECT a FROM ks.t", false);
        check("*", "anything", true);
        check("b*a", "a b", false);
    }

    #[test]
    fn names() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(Pattern::new(pattern).is(name), expected, "{pattern} is {name}");
        };
        check("ks.t", "ks.t", true);
        check("ks.t", "ks.t2", false);
        check("ks.*", "ks.t2", true);
        check("*_log", "ks.t_scylla_cdc_log", true);
        check("k*.t*x", "ks.tax", true);
        check("k*.t*x", "ks.ta", false);
        check("*", "ks.t", true);
        check("ab*ba", "aba", false);
    }
}
