//! What is known of the topics that events go to, and when to ask again. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::deliver::prepare::TopicKnowledge;

/// Topics remembered, about 2 MiB. A template over a column with more values than this asks again for each.
const MAX_TOPICS: usize = 10_000;

/// A topic's limit rarely changes, and the broker has the last word anyway.
const EXISTING_FOR: Duration = Duration::from_secs(300);

/// Somebody may be making the topic right now.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// Not to be asked with every event while nobody answers.
const UNASKED_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Topics {
    known: HashMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    knowledge: TopicKnowledge,
    until: Duration,
}

/// What to do before an event for a topic goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advice<'a> {
    /// Nothing is known: ask, and wait for the answer.
    Ask,
    /// Ask again, but go on with this.
    Refresh(&'a TopicKnowledge),
    Known(&'a TopicKnowledge),
}

impl Topics {
    pub(super) fn advice(&self, topic: &str, now: Duration) -> Advice<'_> {
        match self.known.get(topic) {
            None => Advice::Ask,
            Some(entry) if now < entry.until => Advice::Known(&entry.knowledge),
            // Nothing becomes a dead letter for what was true a while ago.
            Some(entry) if matches!(entry.knowledge, TopicKnowledge::Missing(_)) => Advice::Ask,
            Some(entry) => Advice::Refresh(&entry.knowledge),
        }
    }

    pub(super) fn learn(&mut self, topic: Arc<str>, knowledge: TopicKnowledge, now: Duration) {
        if self.known.len() >= MAX_TOPICS && !self.known.contains_key(&topic) {
            self.known.clear();
        }
        let lasts = match knowledge {
            TopicKnowledge::Exists(_) => EXISTING_FOR,
            TopicKnowledge::Missing(_) => MISSING_FOR,
            TopicKnowledge::Unasked => UNASKED_FOR,
        };
        let until = now + lasts;
        // An answer that did not come does not undo one that did.
        if let (TopicKnowledge::Unasked, Some(entry)) = (&knowledge, self.known.get_mut(&topic)) {
            entry.until = until;
            return;
        }
        self.known.insert(topic, Entry { knowledge, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{DeliveryError, ErrorClass, Outcome};

    fn missing() -> TopicKnowledge {
        TopicKnowledge::Missing(DeliveryError {
            class: ErrorClass::Message,
            code: "UnknownTopic".into(),
            detail: String::new(),
            outcome: Outcome::NotWritten,
        })
    }

    #[test]
    fn knowledge_ages_by_what_it_is() {
        let exists = TopicKnowledge::Exists(Some(7));
        let unasked = TopicKnowledge::Unasked;
        let missing = missing();
        let check = |knowledge: &TopicKnowledge, at, expected: Advice<'_>| {
            let mut topics = Topics::default();
            topics.learn("t".into(), knowledge.clone(), Duration::ZERO);
            assert_eq!(topics.advice("t", at), expected, "{knowledge:?} at {at:?}");
            assert_eq!(topics.advice("u", at), Advice::Ask);
        };
        let just_before = |limit: Duration| limit - Duration::from_nanos(1);
        check(&exists, just_before(EXISTING_FOR), Advice::Known(&exists));
        check(&exists, EXISTING_FOR, Advice::Refresh(&exists));
        check(&missing, just_before(MISSING_FOR), Advice::Known(&missing));
        check(&missing, MISSING_FOR, Advice::Ask);
        check(&unasked, just_before(UNASKED_FOR), Advice::Known(&unasked));
        check(&unasked, UNASKED_FOR, Advice::Refresh(&unasked));
    }

    #[test]
    fn no_answer_does_not_undo_an_answer() {
        let exists = TopicKnowledge::Exists(Some(7));
        let mut topics = Topics::default();
        topics.learn("t".into(), exists.clone(), Duration::ZERO);
        topics.learn("t".into(), TopicKnowledge::Unasked, EXISTING_FOR);
        assert_eq!(topics.advice("t", EXISTING_FOR), Advice::Known(&exists));
    }

    #[test]
    fn it_never_holds_more_than_its_bound() {
        let mut topics = Topics::default();
        for i in 0..MAX_TOPICS + 5 {
            topics.learn(i.to_string().into(), TopicKnowledge::Exists(None), Duration::ZERO);
        }
        assert_eq!(topics.known.len(), 5);
    }
}
