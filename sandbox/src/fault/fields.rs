//! Fields of a JSON object, read one by one so that everything wrong with it is reported at once.

use std::time::Duration;

use serde_json::{Map, Value};

/// Longest delay and furthest step back, in milliseconds: one day, the default life of a log row.
const MAX_MILLISECONDS: u64 = 86_400_000;

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Empty: the request as a whole.
    pub field: String,
    /// As given; null if missing.
    pub value: Value,
    pub accepted: String,
}

/// What was read is known from then on; what is left in the end is unknown.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// The value is no object.
    pub(crate) fn new(body: &'a Value) -> Result<Self, Vec<Problem>> {
        match body.as_object() {
            Some(map) => Ok(Self {
                map,
                known: Vec::new(),
                problems: Vec::new(),
            }),
            None => Err(vec![Problem {
                field: String::new(),
                value: body.clone(),
                accepted: "a JSON object".into(),
            }]),
        }
    }

    /// Ends the reading; `what` says in problems what the fields belong to.
    ///
    /// # Errors
    /// All problems found, unknown fields among them.
    pub(crate) fn finish(mut self, what: &str) -> Result<(), Vec<Problem>> {
        let accepted = format!("{what}: {}", self.known.join(", "));
        for (field, value) in self.map {
            if !self.known.contains(&field.as_str()) {
                self.problems.push(Problem {
                    field: field.clone(),
                    value: value.clone(),
                    accepted: accepted.clone(),
                });
            }
        }
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(self.problems),
        }
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Option<String> {
        match self.take(field)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            _ => self.problem(field, "a text that is not empty"),
        }
    }

    /// One of `names`; required.
    pub(crate) fn choice<'n>(&mut self, field: &'static str, names: &[&'n str]) -> Option<&'n str> {
        let given = self.take(field).and_then(Value::as_str);
        let found = names.iter().find(|name| Some(**name) == given).copied();
        found.or_else(|| self.problem(field, &names.join(", ")))
    }

    pub(crate) fn number(&mut self, field: &'static str, least: u64, most: u64) -> Option<u64> {
        match self.take(field)?.as_u64() {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ => self.problem(field, &range(least, most)),
        }
    }

    /// Milliseconds, at least one; required.
    pub(crate) fn duration(&mut self, field: &'static str) -> Duration {
        let given = match self.map.contains_key(field) {
            true => self.number(field, 1, MAX_MILLISECONDS),
            false => self.missing(field, &range(1, MAX_MILLISECONDS)),
        };
        Duration::from_millis(given.unwrap_or(0))
    }

    /// Milliseconds; zero if not given.
    pub(crate) fn delay(&mut self, field: &'static str) -> Duration {
        Duration::from_millis(self.number(field, 0, MAX_MILLISECONDS).unwrap_or(0))
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Option<bool> {
        match self.take(field)? {
            Value::Bool(flag) => Some(*flag),
            _ => self.problem(field, "true, false"),
        }
    }

    pub(crate) fn required_flag(&mut self, field: &'static str) -> bool {
        let given = match self.map.contains_key(field) {
            true => self.flag(field),
            false => self.missing(field, "true, false"),
        };
        given.unwrap_or(false)
    }

    /// Notes a problem with a field that was read already.
    pub(crate) fn refuse(&mut self, field: &'static str, accepted: &str) {
        self.problem::<()>(field, accepted);
    }

    fn take(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.push(field);
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn missing<T>(&mut self, field: &'static str, accepted: &str) -> Option<T> {
        self.known.push(field);
        self.problem(field, accepted)
    }

    fn problem<T>(&mut self, field: &str, accepted: &str) -> Option<T> {
        self.problems.push(Problem {
            field: field.to_owned(),
            value: self.map.get(field).cloned().unwrap_or(Value::Null),
            accepted: accepted.to_owned(),
        });
        None
    }
}

fn range(least: u64, most: u64) -> String {
    match most {
        u64::MAX => format!("a whole number from {least}"),
        _ => format!("a whole number from {least} to {most}"),
    }
}
