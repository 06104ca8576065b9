//! Topics that depend on an event: `${aggregate_type}-events`.

use crate::names::{CQL_NAME, is_cql_name, is_topic, is_topic_byte};

/// A topic name with columns of the outbox row in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

/// One part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Characters that stand for themselves.
    Text(String),
    /// The value of this column.
    Column(String),
}

/// A template that no topic can come from, in words that continue "accepted:".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

impl TopicTemplate {
    /// Reads a fixed name or a template.
    ///
    /// # Errors
    /// When a `${` has no `}`, the name of a column is none, or the rest holds what Kafka does not accept in a topic.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (fixed, column) = rest.split_at(at);
            let (column, after) = column[2..]
                .split_once('}')
                .ok_or_else(|| TemplateError("a } after every ${".to_owned()))?;
            if !is_cql_name(column) {
                return Err(TemplateError(format!(
                    "between ${{ and }} the name of a column: {CQL_NAME}"
                )));
            }
            parts.extend((!fixed.is_empty()).then(|| Part::Text(fixed.to_owned())));
            parts.push(Part::Column(column.to_owned()));
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        let template = Self { parts };
        let acceptable = match template.fixed() {
            Some(name) => is_topic(name),
            None => {
                template.text_length() < 249 && template.texts().all(|text| text.bytes().all(is_topic_byte))
            }
        };
        if acceptable {
            Ok(template)
        } else {
            Err(TemplateError(ACCEPTED.to_owned()))
        }
    }

    /// The topic, if it does not depend on the event.
    pub fn fixed(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(name)] => Some(name),
            _ => None,
        }
    }

    /// The columns that the topic depends on.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(column) => Some(column.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The parts in their order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Column(_) => None,
        })
    }

    fn text_length(&self) -> usize {
        self.texts().map(str::len).sum()
    }
}

/// What a topic may look like.
pub(crate) const ACCEPTED: &str =
    "1 to 249 letters, digits, dots, underscores and dashes, with columns as in ${aggregate_type}-events";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        for (text, fixed, columns) in [
            ("order-events", Some("order-events"), vec![]),
            ("${aggregate_type}-events", None, vec!["aggregate_type"]),
            ("${a}${b}", None, vec!["a", "b"]),
            ("x.${Region}.y", None, vec!["Region"]),
        ] {
            let template = TopicTemplate::parse(text).unwrap();
            assert_eq!(
                (template.fixed(), template.columns().collect::<Vec<_>>()),
                (fixed, columns),
                "{text}"
            );
        }
    }

    #[test]
    fn refused_templates() {
        let long = "x".repeat(249) + "${a}";
        for text in [
            "", "..", "a b", "${", "${}", "${a b}", "${a}/b", "$a", "a}", "ü${a}", &long,
        ] {
            assert!(TopicTemplate::parse(text).is_err(), "{text}");
        }
    }
}
