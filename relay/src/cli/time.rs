//! Times as people write them on the command line.

use std::time::Duration;

use crate::model::Micros;

/// A point in time, fixed or relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(Micros),
    Ago(Duration),
}

impl When {
    /// Microseconds since the Unix epoch.
    pub fn resolve(self, now: Micros) -> Micros {
        match self {
            Self::At(time) => time,
            Self::Ago(age) => now.saturating_sub(Micros::try_from(age.as_micros()).unwrap_or(Micros::MAX)),
        }
    }
}

/// `2026-01-31T12:00:00Z`, `-1h`, `now`.
///
/// # Errors
/// What is accepted.
pub fn parse_when(text: &str) -> Result<When, String> {
    if text == "now" {
        return Ok(When::Ago(Duration::ZERO));
    }
    if let Some(age) = text.strip_prefix('-') {
        return crate::dead_letters::stored::parse_age(age)
            .map(When::Ago)
            .map_err(|_| refused(text));
    }
    let time = text.parse::<crds::Timestamp>().map_err(|_| refused(text))?;
    Ok(When::At(time.milliseconds() as Micros * 1000))
}

fn refused(text: &str) -> String {
    format!(
        "\"{text}\" is no time; accepted: a time as in 2026-01-31T12:00:00Z, an age as in -15m, -1h or -7d, or now"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SECOND;

    #[test]
    fn times_are_fixed_or_relative_and_wrong_ones_named() {
        let now = 10_000 * SECOND;
        for (text, expected) in [
            ("now", now),
            ("-90s", now - 90 * SECOND),
            ("-1h", now - 3_600 * SECOND),
            ("1970-01-01T01:00:00Z", 3_600 * SECOND),
            ("1970-01-01T01:00:00.5+01:00", SECOND / 2),
        ] {
            assert_eq!(
                parse_when(text).map(|when| when.resolve(now)),
                Ok(expected),
                "{text}"
            );
        }
        for wrong in ["", "-", "1h", "--1h", "-1w", "yesterday", "2026-01-31", "Now"] {
            let error = parse_when(wrong).unwrap_err();
            assert!(
                error.contains(&format!("\"{wrong}\"")) && error.contains("accepted"),
                "{error}"
            );
        }
    }
}
