//! Faults of whole requests, by the text of their statements.

use std::time::Duration;

use super::Faults;
use super::rule::{Effect, ErrorName, Stage};
use crate::error::{CqlError, ErrorKind};

/// What is to happen to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFault {
    pub delay: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    #[default]
    Execute,
    Fail(CqlError),
    ExecuteAndFail(CqlError),
    NoAnswer,
    Disconnect,
}

/// What error answers claim beside their code: LOCAL_QUORUM, one answer of two needed.
const CONSISTENCY: u16 = 6;
const RECEIVED: i32 = 1;
const REQUIRED: i32 = 2;

impl Faults {
    /// Decides on a request with these statements at this node. Delays add up to the longest; of the other
    /// rules the oldest that strikes decides.
    pub(crate) fn on_request(&self, node: usize, statements: &[&str]) -> RequestFault {
        let mut fault = RequestFault::default();
        for active in self.rules_of(Stage::Request) {
            let rule = &active.rule;
            let here = rule.node.is_none_or(|index| index == node);
            let meant = rule.statement.as_ref().is_none_or(|pattern| {
                let mut statements = statements.iter();
                statements.any(|statement| pattern.occurs_in(statement))
            });
            let decided = fault.outcome != Outcome::Execute && !matches!(rule.effect, Effect::Slow(_));
            if !here || !meant || decided || !active.strikes() {
                continue;
            }
            match &rule.effect {
                Effect::Slow(delay) => fault.delay = fault.delay.max(*delay),
                Effect::Error {
                    error,
                    executed: true,
                } => fault.outcome = Outcome::ExecuteAndFail(error.to_error()),
                Effect::Error { error, .. } => fault.outcome = Outcome::Fail(error.to_error()),
                Effect::NoAnswer => fault.outcome = Outcome::NoAnswer,
                Effect::Disconnect => fault.outcome = Outcome::Disconnect,
                // Rules of other stages.
                _ => {}
            }
        }
        fault
    }
}

impl ErrorName {
    fn to_error(self) -> CqlError {
        let (consistency, received, required) = (CONSISTENCY, RECEIVED, REQUIRED);
        let kind = match self {
            ErrorName::ServerError => ErrorKind::Server,
            ErrorName::Overloaded => ErrorKind::Overloaded,
            ErrorName::IsBootstrapping => ErrorKind::Bootstrapping,
            ErrorName::Unavailable => ErrorKind::Unavailable {
                consistency,
                required,
                alive: received,
            },
            ErrorName::ReadTimeout => ErrorKind::ReadTimeout {
                consistency,
                received,
                required,
                data_present: false,
            },
            ErrorName::WriteTimeout => ErrorKind::WriteTimeout {
                consistency,
                received,
                required,
                write_type: "SIMPLE",
            },
            ErrorName::ReadFailure => ErrorKind::ReadFailure {
                consistency,
                received,
                required,
                failures: 1,
                data_present: false,
            },
            ErrorName::WriteFailure => ErrorKind::WriteFailure {
                consistency,
                received,
                required,
                failures: 1,
                write_type: "SIMPLE",
            },
            ErrorName::Invalid => ErrorKind::Invalid,
            ErrorName::Unauthorized => ErrorKind::Unauthorized,
            ErrorName::RateLimit => ErrorKind::RateLimit,
        };
        CqlError::new(kind, format!("{} by a fault rule", self.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::rule::Rule;

    const INSERT: &str = "INSERT INTO ks.t (a) VALUES (?)";

    #[test]
    fn rules_apply_to_what_they_name() {
        let faults = Faults::default();
        assert!(!faults.touch_requests());
        faults
            .add(Rule::slow(Duration::from_millis(20)).statement("insert into"))
            .unwrap();
        faults.add(Rule::error(ErrorName::Overloaded).node(1)).unwrap();
        faults.add(Rule::no_answer().node(1)).unwrap();
        assert!(faults.touch_requests());
        let slow = faults.on_request(0, &[INSERT]);
        assert_eq!((slow.delay.as_millis(), slow.outcome), (20, Outcome::Execute));
        let both = faults.on_request(1, &["SELECT a FROM b", INSERT]);
        assert_eq!(both.delay.as_millis(), 20);
        assert!(matches!(both.outcome, Outcome::Fail(error) if error.code() == 0x1001));
        assert_eq!(
            faults.on_request(0, &["SELECT a FROM b"]),
            RequestFault::default()
        );
        let hits: Vec<u64> = faults.list().iter().map(|rule| rule.hits).collect();
        assert_eq!(hits, [2, 1, 0]);
    }

    #[test]
    fn removed_rules_are_gone() {
        let faults = Faults::default();
        let id = faults.add(Rule::disconnect()).unwrap();
        assert_eq!(faults.on_request(0, &[INSERT]).outcome, Outcome::Disconnect);
        assert_eq!(faults.remove(id).unwrap().hits, 1);
        assert_eq!(faults.remove(id), None);
        assert!(!faults.touch_requests());
        assert_eq!(faults.on_request(0, &[INSERT]), RequestFault::default());
    }
}
