use super::*;

const LEASE: Duration = Duration::from_secs(10);

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn owned_by(owner: impl Fn(usize) -> Option<&'static str>) -> Vec<SlotRow> {
    let row = |slot: SlotId| {
        let owner = owner(slot.index()).map(str::to_owned);
        SlotRow {
            slot,
            epoch: owner.as_ref().map(|_| Epoch(1)),
            owner,
        }
    };
    SlotId::all().map(row).collect()
}

fn alive(process: &str, beat: i64, placement: Placement) -> ProcessRow {
    ProcessRow {
        process: process.into(),
        beat,
        placement,
    }
}

fn claimed(plan: &Plan) -> String {
    plan.claim
        .iter()
        .map(|claim| claim.slot)
        .collect::<SlotSet>()
        .to_string()
}

#[test]
fn a_pinned_share_claims_its_own_free_slots_only() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 2, count: 4 }, LEASE);
    let plan = us.plan(&owned_by(|_| None), &[], SlotSet::EMPTY, secs(0));
    assert_eq!(claimed(&plan), "16-31");
    let plan = us.plan(&owned_by(|_| Some("us")), &[], SlotSet::of_share(2, 4), secs(1));
    assert_eq!((claimed(&plan).as_str(), plan.release), ("", SlotSet::EMPTY));
}

#[test]
fn a_live_owner_keeps_its_slots_and_a_silent_one_loses_them_after_the_lease() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
    let slots = owned_by(|_| Some("them"));
    let mut plan_at = |beat, at| {
        us.plan(
            &slots,
            &[alive("them", beat, Placement::Pinned)],
            SlotSet::EMPTY,
            secs(at),
        )
    };
    assert_eq!(plan_at(1, 0).waiting, SlotSet::ALL);
    assert_eq!(claimed(&plan_at(1, 9)), "");
    assert_eq!(claimed(&plan_at(2, 10)), "", "it moved");
    assert_eq!(claimed(&plan_at(2, 19)), "");
    assert_eq!(claimed(&plan_at(2, 20)), "0-63");
}

/// Rows are read from one replica, which may not have our claim yet.
#[test]
fn a_slot_that_is_held_is_not_claimed_again_because_of_a_stale_row() {
    for share in [Share::Pinned { index: 1, count: 1 }, Share::Auto] {
        let mut us = Ownership::new("us".into(), share, LEASE);
        let before = owned_by(|_| None);
        assert_eq!(claimed(&us.plan(&before, &[], SlotSet::EMPTY, secs(0))), "0-63");
        let plan = us.plan(&before, &[], SlotSet::ALL, secs(1));
        assert_eq!(
            (claimed(&plan).as_str(), plan.release),
            ("", SlotSet::EMPTY),
            "{share:?}"
        );
        let dead = owned_by(|_| Some("dead"));
        us.plan(&dead, &[], SlotSet::ALL, secs(2));
        assert_eq!(
            claimed(&us.plan(&dead, &[], SlotSet::ALL, secs(20))),
            "",
            "{share:?}"
        );
    }
}

#[test]
fn a_taker_that_was_suspended_while_it_looked_does_not_take_its_pause_for_silence() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
    let slots = owned_by(|_| Some("them"));
    let mut plan_at = |asked, answered| {
        let (asked, answered) = (secs(asked), secs(answered));
        us.plan(
            &slots,
            &[alive("them", 1, Placement::Pinned)],
            SlotSet::EMPTY,
            Look { asked, answered },
        )
    };
    assert_eq!(claimed(&plan_at(0, 3)), "");
    assert_eq!(
        claimed(&plan_at(4, 40)),
        "",
        "the rows are from the fourth second"
    );
    assert_eq!(
        claimed(&plan_at(12, 12)),
        "",
        "seen for the first time after three"
    );
    assert_eq!(claimed(&plan_at(13, 13)), "0-63");
}

#[test]
fn an_owner_without_heartbeat_row_loses_its_slots_after_the_lease_too() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
    let slots = owned_by(|_| Some("ghost"));
    assert_eq!(claimed(&us.plan(&slots, &[], SlotSet::EMPTY, secs(5))), "");
    assert_eq!(claimed(&us.plan(&slots, &[], SlotSet::EMPTY, secs(14))), "");
    assert_eq!(claimed(&us.plan(&slots, &[], SlotSet::EMPTY, secs(15))), "0-63");
}

#[test]
fn auto_processes_share_evenly_and_give_up_what_is_too_much() {
    let mut a = Ownership::new("a".into(), Share::Auto, LEASE);
    let alone = a.plan(&owned_by(|_| None), &[], SlotSet::EMPTY, secs(0));
    assert_eq!(claimed(&alone), "0-63");
    let both = [alive("a", 1, Placement::Auto), alive("b", 1, Placement::Auto)];
    let crowded = a.plan(&owned_by(|_| Some("a")), &both, SlotSet::ALL, secs(1));
    assert_eq!(crowded.release.to_string(), "32-63");
    let mut b = Ownership::new("b".into(), Share::Auto, LEASE);
    let half = owned_by(|slot| (slot < 32).then_some("a"));
    assert_eq!(claimed(&b.plan(&half, &both, SlotSet::EMPTY, secs(1))), "32-63");
}

#[test]
fn surplus_auto_processes_stand_by() {
    let names: Vec<String> = (0..SLOTS).map(|i| format!("p{i:02}")).collect();
    let rows: Vec<_> = names.iter().map(|name| alive(name, 1, Placement::Auto)).collect();
    let mut last = Ownership::new("z".into(), Share::Auto, LEASE);
    assert_eq!(
        claimed(&last.plan(&owned_by(|_| None), &rows, SlotSet::EMPTY, secs(0))),
        ""
    );
}

/// Whoever owns something goes first; otherwise the pinned ones.
#[test]
fn pinned_and_auto_are_never_mixed_and_the_newcomer_is_the_one_refused() {
    let pinned = Share::Pinned { index: 1, count: 1 };
    let check = |ours: Share, we_own: bool, they_own: bool, refused: bool| {
        let mut us = Ownership::new("us".into(), ours, LEASE);
        let theirs = match ours {
            Share::Auto => Placement::Pinned,
            Share::Pinned { .. } => Placement::Auto,
        };
        let rows = [alive("us", 1, ours.placement()), alive("them", 1, theirs)];
        let slots = owned_by(|slot| match slot {
            0 if we_own => Some("us"),
            1 if they_own => Some("them"),
            _ => None,
        });
        let mine: SlotSet = SlotId::all().take(usize::from(we_own)).collect();
        let plan = us.plan(&slots, &rows, mine, secs(0));
        assert_eq!(
            plan.conflict.is_some(),
            refused,
            "{ours:?}, we own: {we_own}, they own: {they_own}"
        );
        assert_eq!(plan.claim.is_empty(), refused);
        if refused {
            assert_eq!(plan.release, mine, "what a race gave us goes back");
        }
    };
    check(Share::Auto, false, false, true);
    check(Share::Auto, false, true, true);
    check(Share::Auto, true, false, false);
    check(Share::Auto, true, true, true);
    check(pinned, false, false, false);
    check(pinned, false, true, true);
    check(pinned, true, false, false);
    check(pinned, true, true, false);
}

#[test]
fn a_newcomer_of_the_same_kind_is_not_refused_because_somebody_else_was() {
    let mut us = Ownership::new("us".into(), Share::Auto, LEASE);
    let rows = [
        alive("owner", 1, Placement::Auto),
        alive("us", 1, Placement::Auto),
        alive("wrong", 1, Placement::Pinned),
    ];
    let plan = us.plan(&owned_by(|_| Some("owner")), &rows, SlotSet::EMPTY, secs(0));
    assert_eq!(
        (plan.conflict, plan.wanted),
        (None, 32),
        "and the refused one gets no part"
    );
}

#[test]
fn what_a_dead_process_leaves_is_dealt_out_without_overlap() {
    let names = ["a", "b", "c"];
    let rows: Vec<_> = names.iter().map(|name| alive(name, 1, Placement::Auto)).collect();
    let slots = owned_by(|slot| match slot {
        0..16 => Some("a"),
        16..32 => Some("b"),
        32..48 => Some("c"),
        _ => None,
    });
    let mut claimed_by_all = SlotSet::EMPTY;
    for name in names {
        let mine = slots.iter().filter(|row| row.owner.as_deref() == Some(name));
        let mine: SlotSet = mine.map(|row| row.slot).collect();
        let plan = Ownership::new(name.into(), Share::Auto, LEASE).plan(&slots, &rows, mine, secs(0));
        let claims: SlotSet = plan.claim.iter().map(|claim| claim.slot).collect();
        assert!(claims.intersection(claimed_by_all).is_empty(), "{name}: {claims}");
        claimed_by_all = claimed_by_all.union(claims);
    }
    assert_eq!(claimed_by_all.to_string(), "48-63");
}

#[test]
fn a_slot_that_carries_our_name_and_is_neither_held_nor_wanted_is_given_up_again() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 64 }, LEASE);
    let slots = owned_by(|slot| (slot == 9).then_some("us"));
    let plan = us.plan(&slots, &[], SlotSet::EMPTY, secs(0));
    assert_eq!(plan.disown, [(SlotId::new(9).unwrap(), Epoch(1))]);
}

#[test]
fn only_a_change_of_the_living_calls_for_a_new_plan() {
    let mut us = Ownership::new("us".into(), Share::Auto, LEASE);
    let at = |beat| {
        [
            alive("us", 1, Placement::Auto),
            alive("them", beat, Placement::Auto),
        ]
    };
    us.plan(&owned_by(|_| None), &at(1), SlotSet::EMPTY, secs(0));
    assert!(!us.has_changed(&at(2), secs(1)));
    assert!(us.has_changed(&at(2)[..1], secs(2)), "it is gone");
    assert!(!us.has_changed(&at(3), secs(3)));
    assert!(us.has_changed(&at(3), secs(13)), "it is silent");
}

#[test]
fn ended_processes_are_retired_once_they_own_nothing() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 2 }, LEASE);
    let dead = [alive("dead", 1, Placement::Pinned)];
    let still_owns = owned_by(|slot| (slot == 63).then_some("dead"));
    assert!(
        us.plan(&still_owns, &dead, SlotSet::EMPTY, secs(0))
            .retire
            .is_empty()
    );
    assert!(
        us.plan(&still_owns, &dead, SlotSet::EMPTY, secs(11))
            .retire
            .is_empty()
    );
    assert_eq!(
        us.plan(&owned_by(|_| None), &dead, SlotSet::EMPTY, secs(12))
            .retire,
        dead
    );
}

#[test]
fn a_slot_that_carries_our_name_but_is_not_held_is_claimed_again() {
    let mut us = Ownership::new("us".into(), Share::Pinned { index: 1, count: 1 }, LEASE);
    assert_eq!(
        claimed(&us.plan(&owned_by(|_| Some("us")), &[], SlotSet::EMPTY, secs(0))),
        "0-63"
    );
}
