//! What a new producer may have on its way to a partition that does not know it. Pure.
//!
//! A broker keeps the sequence numbers of each idempotent producer, and refuses what does not follow on what it took last;
//! so nothing overtakes a batch that it refused. Of a producer that is new to it, or whose numbers it has forgotten, it
//! takes whatever comes: were two batches under way and the first one refused, the second would be written. So the first
//! message to a partition goes alone, and the others once the broker has taken it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::deliver::lane::{Generation, Seq};

/// A partition of a topic; None as long as nobody could say how many the topic has: then all of them together.
pub(super) type Place = (Arc<str>, Option<i32>);

/// How long a broker surely remembers a producer: its `producer.id.expiration.ms` is a day by default.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// Partitions remembered, about 2 MiB. One that is forgotten costs a round trip.
const MAX_PLACES: usize = 20_000;

/// One producer at a time: what was known of another is forgotten.
#[derive(Debug, Default)]
pub(super) struct Introductions {
    generation: Generation,
    places: HashMap<Place, Standing>,
    /// Messages that went alone.
    first: HashMap<Seq, Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The first message is under way.
    Meeting,
    /// Something was taken; this is when something was sent last.
    Known(Duration),
}

impl Introductions {
    /// Whether the producer may send another message there now. Say so with [`Self::sent`] if it did.
    pub(super) fn admits(&self, generation: Generation, place: &Place) -> bool {
        self.generation != generation || self.places.get(place) != Some(&Standing::Meeting)
    }

    /// The producer took a message.
    pub(super) fn sent(&mut self, generation: Generation, seq: Seq, place: Place, now: Duration) {
        if self.generation != generation {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
        if let Some(Standing::Known(last)) = self.places.get_mut(&place)
            && now.saturating_sub(*last) < REMEMBERED_FOR
        {
            *last = now;
            return;
        }
        if self.places.len() >= MAX_PLACES {
            self.places.retain(|_, standing| *standing == Standing::Meeting);
        }
        self.places.insert(place.clone(), Standing::Meeting);
        self.first.insert(seq, place);
    }

    /// The broker took a message, into this partition.
    pub(super) fn delivered(&mut self, generation: Generation, seq: Seq, partition: i32, now: Duration) {
        if self.generation != generation {
            return;
        }
        let Some((topic, expected)) = self.first.remove(&seq) else {
            return;
        };
        // More partitions than were known of, perhaps: what was expected is as new as before.
        self.places.remove(&(Arc::clone(&topic), expected));
        self.places.insert((topic, Some(partition)), Standing::Known(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn place(partition: impl Into<Option<i32>>) -> Place {
        ("orders".into(), partition.into())
    }

    #[test]
    fn the_first_message_to_a_partition_goes_alone_and_the_others_after_its_acknowledgement() {
        let mut introductions = Introductions::default();
        assert!(introductions.admits(1, &place(0)));
        introductions.sent(1, 10, place(0), NOW);
        assert!(!introductions.admits(1, &place(0)));
        assert!(
            introductions.admits(1, &place(1)),
            "another partition has its own"
        );
        introductions.sent(1, 11, place(1), NOW);
        introductions.delivered(1, 11, 1, NOW);
        assert!(!introductions.admits(1, &place(0)));
        assert!(introductions.admits(1, &place(1)));
        introductions.sent(1, 12, place(1), NOW);
        introductions.sent(1, 13, place(1), NOW);
        assert!(introductions.admits(1, &place(1)));
        introductions.delivered(1, 10, 0, NOW);
        assert!(introductions.admits(1, &place(0)));
    }

    #[test]
    fn the_next_producer_is_new_everywhere() {
        let mut introductions = Introductions::default();
        introductions.sent(1, 10, place(0), NOW);
        introductions.delivered(1, 10, 0, NOW);
        introductions.sent(1, 11, place(1), NOW);
        assert!(
            introductions.admits(2, &place(1)),
            "what the last one waits for is over"
        );
        introductions.sent(2, 12, place(0), NOW);
        assert!(!introductions.admits(2, &place(0)));
        introductions.delivered(1, 11, 0, NOW);
        assert!(!introductions.admits(2, &place(0)), "a report for the last one");
    }

    #[test]
    fn who_was_silent_for_long_introduces_itself_again() {
        let mut introductions = Introductions::default();
        introductions.sent(1, 10, place(0), NOW);
        introductions.delivered(1, 10, 0, NOW);
        let later = NOW + REMEMBERED_FOR - Duration::from_secs(1);
        introductions.sent(1, 11, place(0), later);
        assert!(introductions.admits(1, &place(0)));
        introductions.sent(1, 12, place(0), later + REMEMBERED_FOR);
        assert!(!introductions.admits(1, &place(0)));
    }

    #[test]
    fn where_partitions_are_unknown_or_others_than_expected_each_message_goes_alone() {
        let mut introductions = Introductions::default();
        introductions.sent(1, 10, place(None), NOW);
        assert!(!introductions.admits(1, &place(None)));
        introductions.delivered(1, 10, 7, NOW);
        introductions.sent(1, 11, place(None), NOW);
        assert!(!introductions.admits(1, &place(None)));
        introductions.sent(1, 12, place(3), NOW);
        introductions.delivered(1, 12, 5, NOW);
        introductions.sent(1, 13, place(3), NOW);
        assert!(!introductions.admits(1, &place(3)));
        introductions.sent(1, 14, place(5), NOW);
        assert!(introductions.admits(1, &place(5)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut introductions = Introductions::default();
        introductions.sent(1, 0, place(0), NOW);
        for seq in 1..=MAX_PLACES as u64 + 10 {
            introductions.sent(1, seq, place(seq as i32), NOW);
            introductions.delivered(1, seq, seq as i32, NOW);
        }
        assert!(introductions.places.len() <= MAX_PLACES);
        assert!(!introductions.admits(1, &place(0)), "what waits is not forgotten");
    }
}
