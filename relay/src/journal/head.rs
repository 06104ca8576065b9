//! Whether a topic is the journal that the state keyspace means. Pure.

use super::{Head, Incarnation, Refusal};

/// What stands at the beginning of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Its first record, if that is a head.
    pub head: Option<Head>,
    /// Whether it holds anything but heads.
    pub used: bool,
}

/// How a journal is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Nobody has used it: write a head, survey it again, and record what stands first.
    Begin,
    /// Its head is not recorded yet: record it in the state keyspace, if that names no other meanwhile.
    Adopt(Incarnation),
    Open(Incarnation),
}

/// `recorded` is what the state keyspace names. The head is written first and recorded second, so a topic that has
/// nothing but heads may be adopted, and one without a head that is recorded was emptied.
///
/// # Errors
/// The topic is not the journal of this identity and this state.
pub fn opening(identity: &str, recorded: Option<Incarnation>, survey: &Survey) -> Result<Opening, Refusal> {
    let Some(head) = &survey.head else {
        return match recorded {
            None if !survey.used => Ok(Opening::Begin),
            _ => Err(Refusal::Headless),
        };
    };
    if head.identity != identity {
        return Err(Refusal::AnotherIdentity(head.identity.clone()));
    }
    match recorded {
        Some(recorded) if recorded == head.incarnation => Ok(Opening::Open(recorded)),
        Some(_) => Err(Refusal::AnotherIncarnation(0)),
        None if survey.used => Err(Refusal::UnknownIncarnation),
        None => Ok(Opening::Adopt(head.incarnation)),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn incarnation(number: u128) -> Incarnation {
        Incarnation(Uuid::from_u128(number))
    }

    fn survey(head: Option<(&str, u128)>, used: bool) -> Survey {
        let head = head.map(|(identity, number)| Head {
            identity: identity.to_owned(),
            incarnation: incarnation(number),
        });
        Survey { head, used }
    }

    #[test]
    fn a_journal_is_opened_only_if_it_is_the_one_that_the_state_means() {
        let check = |recorded: Option<u128>, survey: Survey, expected: Result<Opening, Refusal>| {
            let recorded = recorded.map(incarnation);
            assert_eq!(
                opening("a", recorded, &survey),
                expected,
                "{recorded:?} {survey:?}"
            );
        };
        check(None, survey(None, false), Ok(Opening::Begin));
        check(
            None,
            survey(Some(("a", 1)), false),
            Ok(Opening::Adopt(incarnation(1))),
        );
        check(
            Some(1),
            survey(Some(("a", 1)), false),
            Ok(Opening::Open(incarnation(1))),
        );
        check(
            Some(1),
            survey(Some(("a", 1)), true),
            Ok(Opening::Open(incarnation(1))),
        );

        check(Some(1), survey(None, false), Err(Refusal::Headless));
        check(Some(1), survey(None, true), Err(Refusal::Headless));
        check(None, survey(None, true), Err(Refusal::Headless));
        check(
            Some(1),
            survey(Some(("a", 2)), true),
            Err(Refusal::AnotherIncarnation(0)),
        );
        check(
            None,
            survey(Some(("a", 1)), true),
            Err(Refusal::UnknownIncarnation),
        );
        let another = Err(Refusal::AnotherIdentity("b".to_owned()));
        check(Some(1), survey(Some(("b", 1)), true), another.clone());
        check(None, survey(Some(("b", 1)), false), another);
    }
}
