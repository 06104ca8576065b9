//! Which streams there are, and which slots are ours.

use crate::source::topology::cut;

use super::{
    Group, GroupId, IDLE_INTERVAL, IDLE_PARTITIONS_PER_SECOND, Ledger, Micros, Phase, SECOND, SlotId,
    SlotSet, StreamSet, Tail,
};

impl Tail {
    /// The slot is ours and its ledger is open: it is read from its bound on. Groups that hold it and stand further
    /// begin there again, and answers to their earlier queries are dropped: newer rows of the slot must not come first.
    pub fn add_slot(&mut self, slot: SlotId, ledger: &mut Ledger) {
        if !ledger.reading().contains(slot) {
            return;
        }
        let Some(owned) = ledger.slot_mut(slot) else {
            return;
        };
        self.owned.insert(slot);
        self.openings.insert(slot, owned.opening());
        self.handover.forget(slot);
        let (slots, swept): (SlotSet, _) = ([slot].into_iter().collect(), owned.bound());
        let groups = self.groups.values_mut();
        for group in groups.filter(|group| group.cut.slots.contains(slot)) {
            // The checkpoint tells, not the memory of this process: the owner before may have died with what it had just
            // learned.
            let from = if owned.accounts_for(group.start) {
                swept
            } else {
                owned.lower(group.start.max(0));
                group.start
            };
            group.take(slots, from.min(swept), self.config.horizon);
            group.known_until = group.known_until.max(owned.known_until());
        }
        let starts: Vec<Micros> = self.groups.values().map(|group| group.start).collect();
        owned.account_for_sets(&starts);
        self.set_pace();
    }

    /// A ledger that was opened anew knows nothing of what was read for the one before, and one that rows went back to
    /// has to get them again: their slots are read again.
    pub(super) fn notice_reopened(&mut self, ledger: &mut Ledger) {
        let openings = self.openings.iter();
        let reopened = openings.filter(|(slot, opening)| {
            ledger
                .slot(**slot)
                .is_some_and(|owned| owned.opening() != **opening)
        });
        for slot in reopened.map(|(slot, _)| *slot).collect::<Vec<_>>() {
            self.add_slot(slot, ledger);
        }
    }

    /// The slot is not ours any more: its rows are ignored from now on.
    pub fn remove_slot(&mut self, slot: SlotId) {
        self.owned.remove(slot);
        self.openings.remove(&slot);
        self.handover.forget(slot);
        for group in self.groups.values_mut() {
            group.drop_slots([slot].into_iter().collect());
        }
        self.set_pace();
    }

    /// Every stream set that is published, in any order. Sets that are known stay as they are; one that is learned late
    /// is read from its own start, even if that lies below a slot's bound.
    pub fn on_stream_sets(&mut self, sets: &[StreamSet], ledger: &mut Ledger) {
        let first_time = self.groups.is_empty();
        for set in sets {
            if self.groups.values().any(|group| group.start == set.start) {
                continue;
            }
            for cut in cut(set) {
                self.add_group(Group::new(set.start, cut), first_time, ledger);
            }
        }
        let starts: Vec<Micros> = self.groups.values().map(|group| group.start).collect();
        for slot in self.owned.iter() {
            if let Some(owned) = ledger.slot_mut(slot) {
                owned.account_for_sets(&starts);
            }
        }
        for group in self.groups.values_mut() {
            group.closes = starts.iter().copied().filter(|start| *start > group.start).min();
        }
        let listed = |group: &Group| sets.iter().any(|set| set.start == group.start);
        self.groups
            .retain(|_, group| group.phase != Phase::Retired || listed(group));
        self.set_pace();
    }

    fn add_group(&mut self, mut group: Group, first_time: bool, ledger: &mut Ledger) {
        for slot in group.cut.slots.intersection(self.owned).iter() {
            let Some(owned) = ledger.slot_mut(slot) else {
                continue;
            };
            if !first_time || !owned.accounts_for(group.start) {
                owned.lower(group.start.max(0));
            }
            group.take([slot].into_iter().collect(), owned.bound(), self.config.horizon);
            group.known_until = group.known_until.max(owned.known_until());
        }
        self.groups.insert(GroupId(self.next_group), group);
        self.next_group += 1;
    }

    fn set_pace(&mut self) {
        let active = self.groups.values().filter(|group| group.active());
        let streams: usize = active.map(|group| group.streams.len()).sum();
        let pause = streams as Micros * SECOND / IDLE_PARTITIONS_PER_SECOND;
        self.idle = pause.max(IDLE_INTERVAL);
    }
}
