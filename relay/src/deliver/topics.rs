//! What is known of the topics that events go to, and when to ask again. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::deliver::prepare::TopicKnowledge;

/// Topics remembered, about 2 MiB. A template over a column with more values than this asks again for each.
const MAX_TOPICS: usize = 10_000;

/// A topic's limit rarely changes, and the broker has the last word anyway.
const EXISTING_FOR: Duration = Duration::from_secs(300);

/// How long a topic may be said to be missing, or too small for an event: somebody may be mending that right now.
const REFUSING_FOR: Duration = Duration::from_secs(10);

/// A topic that was made a moment ago is not known to every broker yet, and one that has just started may know none; so
/// a second answer, that much later, has to say the same. The event and what is behind it wait.
const CONFIRMED_AFTER: Duration = Duration::from_secs(1);

/// Names that are waited for like that per minute: a column full of names that nobody made delays the others by no more
/// than a sixth of the time.
const CONFIRMATIONS_PER_MINUTE: usize = 10;

const MINUTE: Duration = Duration::from_secs(60);

/// Not to be asked with every event while nobody answers.
const UNASKED_FOR: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Topics {
    known: HashMap<Arc<str>, Entry>,
    /// When names were suspected to be missing, within the last minute.
    suspected_at: VecDeque<Duration>,
}

#[derive(Debug)]
struct Entry {
    knowledge: TopicKnowledge,
    /// Then it is asked again, while events go on.
    until: Duration,
    /// Then no event is refused because of it any more.
    refuses_until: Duration,
    /// The last question had no answer.
    unanswered: bool,
    /// Said to be missing once; then it is asked again, and nothing is refused before.
    confirmed_at: Option<Duration>,
}

/// What to do before an event for a topic goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advice<'a> {
    /// Nothing is known: ask, and wait for the answer.
    Ask,
    /// It is too soon to ask again.
    Wait,
    /// Ask again, but go on with this.
    Refresh(&'a TopicKnowledge),
    Known(&'a TopicKnowledge),
}

impl Topics {
    /// `size`: that of the event, as a record batch.
    pub(super) fn advice(&self, topic: &str, size: usize, now: Duration) -> Advice<'_> {
        let Some(entry) = self.known.get(topic) else {
            return Advice::Ask;
        };
        if let Some(at) = entry.confirmed_at {
            return if now < at { Advice::Wait } else { Advice::Ask };
        }
        // Nothing becomes a dead letter for what was true a while ago.
        if entry.knowledge.refuses(size) && now >= entry.refuses_until {
            let vain = entry.unanswered && now < entry.until;
            return if vain {
                Advice::Known(&TopicKnowledge::Unasked)
            } else {
                Advice::Ask
            };
        }
        if now < entry.until {
            Advice::Known(&entry.knowledge)
        } else {
            Advice::Refresh(&entry.knowledge)
        }
    }

    /// How many partitions the topic had when it was asked about.
    pub(super) fn partitions(&self, topic: &str) -> Option<i32> {
        match &self.known.get(topic)?.knowledge {
            TopicKnowledge::Exists(info) => Some(info.partitions),
            TopicKnowledge::Missing(_) | TopicKnowledge::Unasked => None,
        }
    }

    pub(super) fn learn(&mut self, topic: Arc<str>, knowledge: TopicKnowledge, now: Duration) {
        if self.known.len() >= MAX_TOPICS && !self.known.contains_key(&topic) {
            self.known.clear();
        }
        let lasts = match knowledge {
            TopicKnowledge::Exists(_) => EXISTING_FOR,
            TopicKnowledge::Missing(_) => REFUSING_FOR,
            TopicKnowledge::Unasked => UNASKED_FOR,
        };
        let until = now + lasts;
        // An answer that did not come does not undo one that did.
        if let (TopicKnowledge::Unasked, Some(entry)) = (&knowledge, self.known.get_mut(&topic)) {
            entry.until = until;
            entry.unanswered = true;
            if entry.confirmed_at.take().is_some() {
                entry.refuses_until = now;
            }
            return;
        }
        let entry = Entry {
            confirmed_at: self
                .suspects(&topic, &knowledge, now)
                .then(|| now + CONFIRMED_AFTER),
            knowledge,
            until,
            refuses_until: now + REFUSING_FOR,
            unanswered: false,
        };
        self.known.insert(topic, entry);
    }

    /// Somebody may have mended what makes the topic refuse an event of this size: it is asked again before it does.
    pub(super) fn doubt(&mut self, topic: &str, size: usize, now: Duration) {
        let known = self.known.get_mut(topic);
        if let Some(entry) = known.filter(|entry| entry.knowledge.refuses(size)) {
            entry.refuses_until = now;
        }
    }

    /// Whether this is the first that is heard of the topic being missing, and somebody may wait for a second answer.
    fn suspects(&mut self, topic: &str, knowledge: &TopicKnowledge, now: Duration) -> bool {
        let missing = |knowledge: &TopicKnowledge| matches!(knowledge, TopicKnowledge::Missing(_));
        let before = self
            .known
            .get(topic)
            .is_some_and(|entry| missing(&entry.knowledge));
        if !missing(knowledge) || before {
            return false;
        }
        while self.suspected_at.front().is_some_and(|at| *at + MINUTE <= now) {
            self.suspected_at.pop_front();
        }
        let waits = self.suspected_at.len() < CONFIRMATIONS_PER_MINUTE;
        if waits {
            self.suspected_at.push_back(now);
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{DeliveryError, ErrorClass, Outcome, TopicInfo};

    fn there(max_uncompressed_bytes: Option<usize>) -> TopicKnowledge {
        TopicKnowledge::Exists(TopicInfo {
            partitions: 3,
            max_uncompressed_bytes,
        })
    }

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
        let exists = there(Some(7));
        let unasked = TopicKnowledge::Unasked;
        let missing = missing();
        let check = |knowledge: &TopicKnowledge, at, expected: Advice<'_>| {
            let mut topics = Topics::default();
            topics.learn("t".into(), knowledge.clone(), Duration::ZERO);
            topics.learn("t".into(), knowledge.clone(), Duration::ZERO);
            assert_eq!(topics.advice("t", 7, at), expected, "{knowledge:?} at {at:?}");
            assert_eq!(topics.advice("u", 7, at), Advice::Ask);
        };
        let just_before = |limit: Duration| limit - Duration::from_nanos(1);
        check(&exists, just_before(EXISTING_FOR), Advice::Known(&exists));
        check(&exists, EXISTING_FOR, Advice::Refresh(&exists));
        check(&missing, just_before(REFUSING_FOR), Advice::Known(&missing));
        check(&missing, REFUSING_FOR, Advice::Ask);
        let small = there(Some(6));
        check(&small, just_before(REFUSING_FOR), Advice::Known(&small));
        check(&small, REFUSING_FOR, Advice::Ask);
        check(&unasked, just_before(UNASKED_FOR), Advice::Known(&unasked));
        check(&unasked, UNASKED_FOR, Advice::Refresh(&unasked));
    }

    #[test]
    fn a_doubted_refusal_is_asked_about_at_once_and_nothing_else_is() {
        let small = there(Some(6));
        let mut topics = Topics::default();
        topics.learn("t".into(), small.clone(), Duration::ZERO);
        topics.doubt("t", 6, Duration::ZERO);
        assert_eq!(topics.advice("t", 7, Duration::ZERO), Advice::Known(&small));
        topics.doubt("t", 7, Duration::ZERO);
        assert_eq!(topics.advice("t", 7, Duration::ZERO), Advice::Ask);
        topics.learn("t".into(), small.clone(), Duration::ZERO);
        assert_eq!(topics.advice("t", 7, Duration::ZERO), Advice::Known(&small));
    }

    #[test]
    fn a_topic_is_missing_once_a_second_answer_says_so() {
        let unasked = TopicKnowledge::Unasked;
        let exists = there(None);
        let missing = missing();
        let check = |second: &TopicKnowledge, expected: &TopicKnowledge| {
            let mut topics = Topics::default();
            topics.learn("t".into(), missing.clone(), Duration::ZERO);
            let early = CONFIRMED_AFTER - Duration::from_nanos(1);
            assert_eq!(topics.advice("t", 7, early), Advice::Wait);
            assert_eq!(topics.advice("t", 7, CONFIRMED_AFTER), Advice::Ask);
            topics.learn("t".into(), second.clone(), CONFIRMED_AFTER);
            assert_eq!(topics.advice("t", 7, CONFIRMED_AFTER), Advice::Known(expected));
        };
        check(&missing, &missing);
        check(&exists, &exists);
        check(&unasked, &unasked);
    }

    #[test]
    fn many_missing_topics_delay_the_others_little() {
        let mut topics = Topics::default();
        let mut waits = |name: usize, at| {
            topics.learn(name.to_string().into(), missing(), at);
            topics.advice(&name.to_string(), 7, at) == Advice::Wait
        };
        let waited = (0..100).filter(|name| waits(*name, Duration::ZERO)).count();
        assert_eq!(waited, CONFIRMATIONS_PER_MINUTE);
        assert!(waits(100, MINUTE));
    }

    #[test]
    fn no_answer_does_not_undo_an_answer() {
        let exists = there(Some(7));
        let mut topics = Topics::default();
        topics.learn("t".into(), exists.clone(), Duration::ZERO);
        topics.learn("t".into(), TopicKnowledge::Unasked, EXISTING_FOR);
        assert_eq!(topics.advice("t", 7, EXISTING_FOR), Advice::Known(&exists));
        assert_eq!(
            topics.advice("t", 8, EXISTING_FOR),
            Advice::Known(&TopicKnowledge::Unasked),
            "but it refuses nothing any more"
        );
        assert_eq!(topics.advice("t", 8, EXISTING_FOR + UNASKED_FOR), Advice::Ask);
    }

    #[test]
    fn it_never_holds_more_than_its_bound() {
        let mut topics = Topics::default();
        for i in 0..MAX_TOPICS + 5 {
            topics.learn(i.to_string().into(), there(None), Duration::ZERO);
        }
        assert_eq!(topics.known.len(), 5);
    }
}
