//! What becomes of rows that were read: handed over, held until other streams have been looked at, or fetched in full.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::SourceEvent;
use crate::ledger::{Known, Ledger};
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::{Columns, LogPage};
use crate::source::record::Change;

use super::group::{Check, Fetch, Finds, Group, Held};
use super::scan::Scan;
use super::{GroupId, Tail};

/// How far before a switch the older streams' tails are read again.
const SWITCH_OVERLAP: Micros = SECOND;

impl Tail {
    /// Full changes of a group: handed over at once, or held until other streams have been looked at.
    pub(super) fn receive(
        &mut self,
        id: GroupId,
        changes: Vec<Change>,
        now: Micros,
        ledger: &mut Ledger,
        events: &mut Vec<SourceEvent>,
    ) {
        let fresh = |group: &Group| {
            let new = changes
                .iter()
                .filter(|change| is_new(change, group.slots, ledger));
            new.map(Change::time)
                .fold((0, Micros::MAX), |(n, oldest), time| (n + 1, oldest.min(time)))
        };
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let (new, oldest) = fresh(group);
        let checks = if new == 0 {
            VecDeque::new()
        } else {
            self.checks(id, oldest)
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some(pass) = &mut group.pass {
            pass.new += new;
        }
        if checks.is_empty() {
            let (slots, note_below) = (group.slots, group.known_until);
            self.handover
                .judge(changes, slots, note_below, now, ledger, events);
        } else {
            group.held = Some(Held { changes, checks });
        }
    }

    /// What has to be looked at before new rows of the group, the oldest written at `oldest`, may be handed over.
    fn checks(&self, id: GroupId, oldest: Micros) -> VecDeque<Check> {
        let Some(group) = self.groups.get(&id) else {
            return VecDeque::new();
        };
        let mut checks = VecDeque::new();
        let others = self.groups.iter().filter(|(other, _)| **other != id);
        let mut others: Vec<_> = others.map(|(_, other)| other).collect();
        // The newest first: what a look at the tail of one set finds has to wait for those that are older still.
        others.sort_by_key(|other| std::cmp::Reverse(other.start));
        for other in others {
            if !other.active() || !other.cut.overlaps(&group.cut) {
                continue;
            }
            if let Some(closes) = other.closes
                && other.start < group.start
            {
                let streams = other.cut.streams_of(group.slots);
                // What is swept is settled, and its ids may be forgotten.
                let from = (closes - SWITCH_OVERLAP).max(other.swept());
                let scan = Scan::new(streams, from, None, Columns::Full);
                checks.push_back(Check {
                    scan,
                    finds: Finds::Older,
                });
            } else if other.start > group.start && oldest < group.known_until {
                let until = Some(group.known_until);
                let scan = Scan::new(
                    other.cut.streams_of(group.slots),
                    other.start,
                    until,
                    Columns::Full,
                );
                checks.push_back(Check {
                    scan,
                    finds: Finds::Known,
                });
            }
        }
        if oldest < group.known_until {
            let from = group.pass.as_ref().map_or(oldest, |pass| pass.from.min(oldest));
            let scan = Scan::new(
                Arc::clone(&group.streams),
                from,
                Some(group.known_until),
                Columns::Full,
            );
            checks.push_back(Check {
                scan,
                finds: Finds::Known,
            });
        }
        checks
    }

    pub(super) fn checked(
        &mut self,
        id: GroupId,
        page: LogPage,
        started: Micros,
        now: Micros,
        ledger: &mut Ledger,
        events: &mut Vec<SourceEvent>,
    ) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(held) = &mut group.held else {
            return;
        };
        let Some(check) = held.checks.front_mut() else {
            return;
        };
        let mut changes = Vec::new();
        check.scan.on_page(
            page,
            started,
            (self.config.grace(), &self.config.rules),
            &mut changes,
        );
        match check.finds {
            Finds::Older => held.changes.append(&mut changes),
            Finds::Known => {
                for change in &changes {
                    let slot = SlotId::of_token(change.token);
                    let known = ledger.known(slot, change.time(), change.row_id);
                    if matches!(known, Known::Taken | Known::Resolved) {
                        self.handover.note_known(slot, change);
                    }
                }
            }
        }
        if check.scan.query().is_none() {
            if check.finds == Finds::Known {
                // The last of the checks is the group's own; from here on nothing handed over is unheard of.
                group.known_until = if held.checks.len() == 1 {
                    0
                } else {
                    group.known_until
                };
            }
            held.checks.pop_front();
        }
        if let Some(mut held) = group.held.take_if(|held| held.checks.is_empty()) {
            held.changes
                .sort_by_key(|change| (change.position.time, change.position));
            let (slots, note_below) = (group.slots, group.known_until);
            self.handover
                .judge(held.changes, slots, note_below, now, ledger, events);
        }
    }
}

/// Compares a slice's page with the ledger: what is unknown has surfaced behind the younger cursors and is fetched in
/// full before anything else of the group is read.
pub(super) fn compare(group: &mut Group, cursor: usize, changes: &[Change], ledger: &Ledger) {
    let unknown = || {
        changes
            .iter()
            .filter(|change| is_new(change, group.slots, ledger))
    };
    let times = unknown().map(Change::time);
    let Some((first, last)) = times.fold(None, |span: Option<(Micros, Micros)>, time| {
        Some(span.map_or((time, time), |(first, last)| (first.min(time), last.max(time))))
    }) else {
        return;
    };
    let missing = unknown()
        .map(|change| (SlotId::of_token(change.token), change.time(), change.row_id))
        .collect();
    let mut streams: Vec<_> = unknown().map(|change| change.position.stream).collect();
    streams.sort_unstable_by_key(|stream| stream.token());
    streams.dedup();
    group.fetch = Some(Fetch {
        scan: Scan::new(streams.into(), first, Some(last + 1), Columns::Full),
        cursor,
        missing,
    });
}

fn is_new(change: &Change, slots: SlotSet, ledger: &Ledger) -> bool {
    let slot = SlotId::of_token(change.token);
    slots.contains(slot) && ledger.known(slot, change.time(), change.row_id) == Known::New
}
