//! Finding the messages that a broker will never accept among those that failed with them. Pure.
//!
//! A broker refuses a batch as a whole, so its innocents fail with the same error as the guilty. Suspects are sent
//! again in *groups*, on a producer that survives failures, and a group that fails is halved until a message fails
//! alone. No group holds two messages of one aggregate, so whatever part of a group gets through, no aggregate's
//! order suffers; later suspects of an aggregate wait for the next round.
//!
//! Where one message was refused others are often near, and each would end another generation of the flow. So what
//! comes after the suspects is sent in groups too, until [`CLEAN_GROUPS`] in a row were accepted.

use std::collections::{HashSet, VecDeque};

use super::ring::Seq;

/// Accepted groups in a row after which the flow goes on. A group takes a round trip and the linger, 5 ms and more;
/// another generation of the flow takes up to half a second until it has its producer id. So all the care that turns
/// out to be needless costs less than one refusal in the flow would have.
const CLEAN_GROUPS: u32 = 32;

/// The suspects of one failed generation, and what follows them.
#[derive(Debug)]
pub(super) struct Isolation {
    /// Messages and their aggregates, oldest first, that no group holds yet.
    pending: VecDeque<(Seq, u64)>,
    /// Groups that wait for their turn; the last one is next.
    groups: Vec<Vec<Seq>>,
    current: Group,
    /// Groups accepted since the last one that was not.
    clean: u32,
}

#[derive(Debug, Default)]
struct Group {
    size: usize,
    unsent: VecDeque<Seq>,
    unreported: usize,
    failed: Vec<Seq>,
}

/// A group of which every message has its report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) size: usize,
    pub(super) failed: Vec<Seq>,
}

impl Isolation {
    pub(super) fn new(suspects: impl IntoIterator<Item = (Seq, u64)>) -> Self {
        Self {
            pending: suspects.into_iter().collect(),
            groups: Vec::new(),
            current: Group::default(),
            clean: 0,
        }
    }

    /// Goes on with these.
    pub(super) fn follow(&mut self, messages: Vec<(Seq, u64)>) {
        self.pending.extend(messages);
    }

    /// The next message to send; None while a group waits for its reports, and when all is done. `waits` says
    /// whether a suspect is still there.
    pub(super) fn next(&mut self, waits: impl Fn(Seq) -> bool) -> Option<Seq> {
        loop {
            while let Some(seq) = self.current.unsent.front() {
                if waits(*seq) {
                    return Some(*seq);
                }
                self.current.unsent.pop_front();
            }
            if self.current.size > 0 {
                return None;
            }
            let members = self.groups.pop().or_else(|| self.round())?;
            self.current = Group {
                size: members.len(),
                unsent: members.into(),
                ..Group::default()
            };
        }
    }

    /// What [`Self::next`] said was taken by the producer.
    pub(super) fn sent(&mut self, seq: Seq) {
        if self.current.unsent.front() == Some(&seq) {
            self.current.unsent.pop_front();
            self.current.unreported += 1;
        }
    }

    pub(super) fn reported(&mut self, seq: Seq, delivered: bool) {
        self.current.unreported = self.current.unreported.saturating_sub(1);
        if !delivered {
            self.current.failed.push(seq);
        }
    }

    /// The current group, once each of its messages has been sent and reported.
    pub(super) fn finished(&mut self) -> Option<Finished> {
        let group = &self.current;
        if group.size == 0 || group.unreported > 0 || !group.unsent.is_empty() {
            return None;
        }
        let Group { size, mut failed, .. } = std::mem::take(&mut self.current);
        failed.sort_unstable();
        self.clean = if failed.is_empty() { self.clean + 1 } else { 0 };
        Some(Finished { size, failed })
    }

    /// The producer takes no more: what it has not taken of the current group is sent later, as a group of its own.
    pub(super) fn cut(&mut self) {
        let unsent: Vec<_> = std::mem::take(&mut self.current.unsent).into();
        self.current.size -= unsent.len();
        self.again(unsent);
    }

    /// Sends these once more, in two halves.
    pub(super) fn halve(&mut self, mut failed: Vec<Seq>) {
        let second = failed.split_off(failed.len().div_ceil(2));
        self.again(second);
        self.again(failed);
    }

    /// Sends these once more, before all others.
    pub(super) fn again(&mut self, group: Vec<Seq>) {
        if !group.is_empty() {
            self.groups.push(group);
        }
    }

    /// Lets the remaining suspects of an aggregate go: it is held.
    pub(super) fn forget(&mut self, aggregate: u64) {
        self.pending.retain(|(_, of)| *of != aggregate);
    }

    pub(super) fn is_done(&self) -> bool {
        self.current.size == 0 && self.groups.is_empty() && self.pending.is_empty()
    }

    /// Nothing was refused for so long that the flow can go on.
    pub(super) fn is_over(&self) -> bool {
        self.is_done() && self.clean >= CLEAN_GROUPS
    }

    /// The oldest pending message of each aggregate.
    fn round(&mut self) -> Option<Vec<Seq>> {
        let mut taken = HashSet::new();
        let mut group = Vec::new();
        self.pending.retain(|(seq, aggregate)| {
            let first = taken.insert(*aggregate);
            if first {
                group.push(*seq);
            }
            !first
        });
        (!group.is_empty()).then_some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs an isolation against a broker that refuses each group with a guilty member as a whole. Returns the groups
    /// sent, those delivered and those convicted, in order.
    fn run(suspects: &[(Seq, u64)], guilty: &[Seq]) -> (Vec<Vec<Seq>>, Vec<Seq>, Vec<Seq>) {
        let mut isolation = Isolation::new(suspects.iter().copied());
        let (mut groups, mut delivered, mut convicted) = (Vec::new(), Vec::new(), Vec::new());
        while !isolation.is_done() {
            let mut group = Vec::new();
            while let Some(seq) = isolation.next(|_| true) {
                isolation.sent(seq);
                group.push(seq);
            }
            let refused = group.iter().any(|seq| guilty.contains(seq));
            for seq in &group {
                assert_eq!(isolation.finished(), None);
                isolation.reported(*seq, !refused);
            }
            let finished = isolation.finished().expect("the last report ends the group");
            match (finished.failed.as_slice(), finished.size) {
                ([], _) => delivered.extend(&group),
                ([seq], 1) => convicted.push(*seq),
                _ => isolation.halve(finished.failed),
            }
            groups.push(group);
        }
        (groups, delivered, convicted)
    }

    #[test]
    fn halving_finds_the_guilty_in_few_steps() {
        let suspects: Vec<_> = (0..1024).map(|seq| (seq, seq)).collect();
        let (groups, delivered, convicted) = run(&suspects, &[700]);
        assert_eq!(convicted, [700]);
        assert_eq!(delivered.len(), 1023);
        assert_eq!(
            groups.len(),
            1 + 2 * 10,
            "one whole group, then two halves per step"
        );
    }

    #[test]
    fn no_group_holds_two_messages_of_an_aggregate_and_rounds_keep_their_order() {
        let suspects = [(0, 7), (1, 8), (2, 7), (3, 7), (4, 9)];
        let (groups, delivered, convicted) = run(&suspects, &[2]);
        assert_eq!(groups, [vec![0, 1, 4], vec![2], vec![3]]);
        assert_eq!((delivered, convicted), (vec![0, 1, 4, 3], vec![2]));
    }

    #[test]
    fn all_guilty_and_all_innocent() {
        let suspects: Vec<_> = (0..5).map(|seq| (seq, seq)).collect();
        let (_, delivered, convicted) = run(&suspects, &[0, 1, 2, 3, 4]);
        assert_eq!((delivered.len(), convicted), (0, vec![0, 1, 2, 3, 4]));
        let (groups, delivered, _) = run(&suspects, &[]);
        assert_eq!((groups.len(), delivered.len()), (1, 5));
    }

    #[test]
    fn it_is_over_once_nothing_was_refused_for_long_enough() {
        let mut isolation = Isolation::new([]);
        let mut over_after = |accepted| {
            isolation.follow(vec![(0, 0)]);
            let seq = isolation.next(|_| true).unwrap();
            isolation.sent(seq);
            isolation.reported(seq, accepted);
            isolation.finished().unwrap();
            isolation.is_over()
        };
        let before = CLEAN_GROUPS - 1;
        assert!((0..before).all(|_| !over_after(true)));
        assert!(!over_after(false), "it begins anew");
        assert!((0..before).all(|_| !over_after(true)));
        assert!(over_after(true));
    }

    #[test]
    fn suspects_that_have_gone_are_passed_over() {
        let mut isolation = Isolation::new([(0, 0), (1, 1), (2, 0)]);
        assert_eq!(isolation.next(|seq| seq == 2), None);
        let gone = Finished {
            size: 2,
            failed: vec![],
        };
        assert_eq!(isolation.finished(), Some(gone));
        assert_eq!(isolation.next(|seq| seq == 2), Some(2));
        isolation.sent(2);
        assert_eq!(isolation.next(|_| true), None);
        isolation.reported(2, true);
        assert_eq!(isolation.finished().map(|group| group.failed), Some(vec![]));
        assert!(isolation.is_done());
    }

    #[test]
    fn a_group_ends_when_those_not_sent_yet_have_gone() {
        let mut isolation = Isolation::new([(0, 0), (1, 1)]);
        assert_eq!(isolation.next(|_| true), Some(0));
        isolation.sent(0);
        isolation.reported(0, false);
        assert_eq!(isolation.finished(), None);
        assert_eq!(isolation.next(|seq| seq != 1), None);
        assert_eq!(
            isolation.finished(),
            Some(Finished {
                size: 2,
                failed: vec![0]
            })
        );
    }

    #[test]
    fn a_held_aggregate_is_let_go() {
        let mut isolation = Isolation::new([(0, 7), (1, 7), (2, 8)]);
        assert_eq!(isolation.next(|_| true), Some(0));
        isolation.forget(7);
        isolation.sent(0);
        isolation.next(|_| true).map(|seq| isolation.sent(seq)).unwrap();
        isolation.reported(0, false);
        isolation.reported(2, true);
        assert_eq!(isolation.finished().map(|group| group.failed), Some(vec![0]));
        assert!(isolation.is_done());
    }
}
