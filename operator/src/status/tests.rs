//! What is told in each state, in the words of kstatus too.

use super::*;
use crds::outbox_relay::status::condition;
use mlua::{Lua, LuaSerdeExt as _, Table};
use serde_json::{Value, json};

/// What tools that wait for a resource make of it (kstatus): Stalled, then Reconciling, then Ready.
fn kstatus(status: &OutboxRelayStatus, generation: i64) -> &'static str {
    let is = |type_: &str, value: &str| of(status, type_).0 == value;
    if status.observed_generation != Some(generation) {
        "InProgress"
    } else if is(condition::STALLED, "True") {
        "Failed"
    } else if is(condition::RECONCILING, "True") || !is(condition::READY, "True") {
        "InProgress"
    } else {
        "Current"
    }
}

/// What Argo CD makes of a resource, by its own language's interpreter.
fn argo(status: &OutboxRelayStatus, generation: i64) -> String {
    let lua = Lua::new();
    let resource = json!({"metadata": {"generation": generation}, "status": status});
    lua.globals()
        .set("obj", lua.to_value(&resource).unwrap())
        .unwrap();
    let script = include_str!("../../../deploy/argocd/health.lua");
    let health: Table = lua.load(script).eval().unwrap();
    assert!(!health.get::<_, String>("message").unwrap().is_empty());
    health.get("status").unwrap()
}

#[test]
fn argo_cd_waits_for_a_look_at_the_newest_generation() {
    let outcome = Outcome::Applied(None);
    let shares = [share("1/2", well()), share("2/2", well())];
    let status = look(&outcome, false, &shares, &OutboxRelayStatus::default());
    assert_eq!(
        (argo(&status, 7).as_str(), argo(&status, 8).as_str()),
        ("Healthy", "Progressing")
    );
    assert_eq!(argo(&OutboxRelayStatus::default(), 1), "Progressing");
    let config: Value = serde_yaml::from_str(include_str!("../../../deploy/argocd/argocd-cm.yaml")).unwrap();
    let script = &config["data"]["resource.customizations.health.outboxrelay.dev_OutboxRelay"];
    assert_eq!(
        script,
        include_str!("../../../deploy/argocd/health.lua"),
        "the ConfigMap holds another script"
    );
}

fn of(status: &OutboxRelayStatus, type_: &str) -> (String, String) {
    let known = status
        .conditions
        .iter()
        .find(|known| known.type_ == type_)
        .unwrap();
    (known.status.clone(), known.reason.clone())
}

/// What a relay says, with some of it changed.
pub(crate) fn says(change: Value) -> RelayView {
    let time = "2026-01-31T12:00:00.000Z";
    let mut status = json!({
        "schemaVersion": 1, "identity": "i", "share": "1/2", "version": "1", "process": "p", "started": time,
        "time": time, "phase": "Streaming", "ready": true,
        "slots": {"wanted": 32, "owned": 32, "ranges": [], "slowest": []},
        "components": [
            {"name": "source", "health": "Healthy", "since": time},
            {"name": "sink", "health": "Healthy", "since": time},
        ],
        "breaker": {"state": "Closed", "consecutiveFailures": 0},
        "totals": {"processed": 5},
        "lag": {"milliseconds": 2500, "inFlight": 1},
        "retention": {},
        "deadLettersPending": 0,
        "order": {"preserved": true},
    });
    for (name, value) in change.as_object().unwrap() {
        status[name] = value.clone();
    }
    RelayView::Says(Box::new(serde_json::from_value(status).unwrap()))
}

pub(crate) fn share(name: &str, relay: RelayView) -> ShareView {
    ShareView {
        share: name.to_owned(),
        sidecar: !name.contains('/'),
        wanted: name.ends_with("/2") || !name.contains('/'),
        exists: true,
        relay,
    }
}

fn well() -> RelayView {
    says(json!({}))
}

fn look(
    outcome: &Outcome,
    paused: bool,
    shares: &[ShareView],
    previous: &OutboxRelayStatus,
) -> OutboxRelayStatus {
    roll_up(&view(outcome, paused, shares, previous))
}

fn view<'a>(
    outcome: &'a Outcome,
    paused: bool,
    shares: &'a [ShareView],
    previous: &'a OutboxRelayStatus,
) -> View<'a> {
    View {
        generation: Some(7),
        paused,
        placement: if shares.iter().any(|share| share.sidecar) {
            Placement::Sidecar
        } else {
            Placement::Deployments
        },
        count: 2,
        configuration: Some("new"),
        selector: "s",
        outcome,
        shares,
        replay: None,
        previous,
        now: Timestamp::from_second(1000).unwrap(),
    }
}

fn stalled() -> Outcome {
    Outcome::Stalled {
        reason: "InvalidSpec",
        message: "spec.x: found 1; accepted: 2".to_owned(),
    }
}

#[rustfmt::skip]
#[test]
fn each_state_is_told_as_it_is() {
    let applied = Outcome::Applied(None);
    let draining = Outcome::Applied(Some(Waiting::Draining(vec!["pod".to_owned()])));
    let rolling = Outcome::Applied(Some(Waiting::Rolling("1-of-2".to_owned())));
    let failed = Outcome::Failed("no answer".to_owned());
    let unready = || says(json!({"ready": false, "notReadyBecause": "12 slots are not owned yet"}));
    let absent = || RelayView::Absent("its pod starts".to_owned());
    let silent = || RelayView::Unknown("no answer".to_owned());
    let both = |first: RelayView, second: RelayView| vec![share("1/2", first), share("2/2", second)];
    let deleting = Outcome::Deleting("a Job deletes the state".to_owned());
    let starting = || says(json!({"ready": false, "components": [
        {"name": "source", "health": "Starting", "since": "2026-01-31T12:00:00Z"}]}));
    let refused = || says(json!({"ready": false, "components": [{"name": "source", "health": "Failed",
        "message": "source.columns.id: no such column", "since": "2026-01-31T12:00:00Z"}]}));
    // Ready and its reason, Reconciling, Stalled, and what kstatus and Argo CD make of them.
    for (outcome, paused, shares, expected) in [
        (&applied, false, both(well(), well()), "True AllSharesReady, False, False, Current, Healthy"),
        (&applied, false, both(well(), unready()), "False ShareNotReady, False, False, InProgress, Progressing"),
        (&applied, false, both(well(), absent()), "False Starting, True, False, InProgress, Progressing"),
        (&applied, false, both(well(), silent()), "Unknown ShareUnreachable, False, False, InProgress, Progressing"),
        (&applied, false, both(silent(), unready()), "False ShareNotReady, False, False, InProgress, Progressing"),
        (&applied, false, vec![share("1/2", well())], "False Starting, True, False, InProgress, Progressing"),
        (&draining, false, vec![share("1/3", well())], "False Draining, True, False, InProgress, Progressing"),
        (&rolling, false, both(well(), well()), "True AllSharesReady, True, False, InProgress, Progressing"),
        (&failed, false, both(well(), well()), "True AllSharesReady, True, False, InProgress, Progressing"),
        (&stalled(), false, both(well(), well()), "False InvalidSpec, False, True, Failed, Degraded"),
        (&applied, true, vec![], "False Paused, False, False, InProgress, Suspended"),
        (&stalled(), true, vec![], "False Paused, False, True, Failed, Degraded"),
        (&applied, false, both(well(), starting()), "False ShareNotReady, False, False, InProgress, Progressing"),
        (&applied, false, both(well(), refused()), "False ShareNotReady, False, False, InProgress, Degraded"),
        (&deleting, true, vec![], "False Deleting, True, False, InProgress, Progressing"),
    ] {
        let status = look(outcome, paused, &shares, &OutboxRelayStatus::default());
        let (is_ready, reason) = of(&status, condition::READY);
        let reconciling = of(&status, condition::RECONCILING).0;
        let stalls = of(&status, condition::STALLED).0;
        let (kstatus, argo) = (kstatus(&status, 7), argo(&status, 7));
        let told = format!("{is_ready} {reason}, {reconciling}, {stalls}, {kstatus}, {argo}");
        assert_eq!(told, expected, "{outcome:?} {shares:?}");
        assert_eq!(
            status.conditions.len(),
            10,
            "all conditions are there in every state"
        );
        assert!(
            status
                .conditions
                .iter()
                .all(|known| known.observed_generation == Some(7) && !known.reason.is_empty())
        );
    }
}

#[test]
fn sidecars_are_ready_when_together_they_own_every_slot() {
    let owns = |slots: u16, configuration: &str| {
        says(json!({"share": "auto", "configuration": configuration,
            "slots": {"wanted": slots, "owned": slots, "ranges": [], "slowest": []}}))
    };
    let unready = || says(json!({"ready": false, "notReadyBecause": "sink: no broker"}));
    let silent = || RelayView::Unknown("no answer".to_owned());
    let absent = || RelayView::Absent("its pod starts".to_owned());
    let standby = || owns(0, "new");
    for (sidecars, expected) in [
        (
            vec![owns(32, "new"), owns(32, "new"), standby()],
            "True AllSharesReady, False Reconciled, Current",
        ),
        (
            vec![owns(64, "new"), silent()],
            "True AllSharesReady, False Reconciled, Current",
        ),
        (
            vec![owns(32, "new"), silent()],
            "Unknown ShareUnreachable, False Reconciled, InProgress",
        ),
        (
            vec![owns(32, "new"), unready()],
            "False ShareNotReady, False Reconciled, InProgress",
        ),
        (
            vec![owns(32, "new"), standby()],
            "False ShareNotReady, False Reconciled, InProgress",
        ),
        (vec![absent()], "False Starting, False Reconciled, InProgress"),
        (
            vec![owns(32, "old"), owns(32, "new")],
            "True AllSharesReady, True SidecarsOutdated, InProgress",
        ),
    ] {
        let shares: Vec<_> = sidecars
            .into_iter()
            .enumerate()
            .map(|(index, relay)| share(&format!("app-{index}"), relay))
            .collect();
        let status = look(
            &Outcome::Applied(None),
            false,
            &shares,
            &OutboxRelayStatus::default(),
        );
        let told = |type_| {
            let (value, reason) = of(&status, type_);
            format!("{value} {reason}")
        };
        let (ready, reconciling) = (told(condition::READY), told(condition::RECONCILING));
        let told = format!("{ready}, {reconciling}, {}", kstatus(&status, 7));
        assert_eq!(told, expected, "{shares:?}");
    }
}

#[test]
fn of_what_relays_say_the_worst_counts_and_what_is_unknown_is_not_fine() {
    let check = |type_: &str, change: Value, expected: (&str, &str)| {
        let outcome = Outcome::Applied(None);
        let silent = || RelayView::Unknown("no answer".to_owned());
        let shares = [share("1/2", well()), share("2/2", says(change.clone()))];
        let found = of(
            &look(&outcome, false, &shares, &OutboxRelayStatus::default()),
            type_,
        );
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{type_} {change}");
        let shares = [share("1/2", silent()), share("2/2", says(change.clone()))];
        let (found, _) = of(
            &look(&outcome, false, &shares, &OutboxRelayStatus::default()),
            type_,
        );
        assert_eq!(
            found,
            if expected.0 == "False" { "False" } else { "Unknown" },
            "{type_} {change}"
        );
    };
    let component = |name: &str, health: &str| json!({"components": [{"name": name, "health": health, "since": "2026-01-31T12:00:00Z"}]});
    check(condition::SOURCE_CONNECTED, json!({}), ("True", "Connected"));
    check(
        condition::SOURCE_CONNECTED,
        component("source", "Failed"),
        ("False", "Failed"),
    );
    let named = |reason: &str| json!({"components": [{"name": "source", "health": "Failed", "reason": reason, "since": "2026-01-31T12:00:00Z"}]});
    check(
        condition::SOURCE_CONNECTED,
        named("TableUnfit"),
        ("False", "TableUnfit"),
    );
    check(
        condition::SOURCE_CONNECTED,
        named("no reason"),
        ("False", "Failed"),
    );
    check(
        condition::SOURCE_CONNECTED,
        component("source", "Starting"),
        ("Unknown", "Starting"),
    );
    check(
        condition::SINK_CONNECTED,
        component("sink", "Degraded"),
        ("True", "Degraded"),
    );
    check(
        condition::SINK_CONNECTED,
        component("source", "Healthy"),
        ("Unknown", "NotReported"),
    );
    let breaker = |state: &str| json!({"breaker": {"state": state, "consecutiveFailures": 5}});
    check(condition::CIRCUIT_CLOSED, breaker("Open"), ("False", "Open"));
    check(
        condition::CIRCUIT_CLOSED,
        breaker("HalfOpen"),
        ("False", "HalfOpen"),
    );
    check(
        condition::DEAD_LETTERS_EMPTY,
        json!({"deadLettersPending": 2}),
        ("False", "Pending"),
    );
    let retention = |headroom: i64| json!({"retention": {"ttlSeconds": 1000, "headroomSeconds": headroom}});
    check(condition::RETENTION_SAFE, retention(249), ("False", "AtRisk"));
    check(condition::RETENTION_SAFE, retention(-1), ("False", "AtRisk"));
    check(
        condition::ORDER_PRESERVED,
        json!({"order": {"preserved": false}}),
        ("False", "NotPreserved"),
    );
}

/// An audit of so many hours after the epoch that found 3 of something.
fn audited(hours: u64, found: &str) -> RelayView {
    let time = crds::Timestamp::from_milliseconds(hours * 3_600_000);
    let mut audit = json!({"time": time, "from": time, "to": time, "events": 9, "notYetDue": 0, "missing": 0,
        "reordered": 0, "repeated": 0});
    audit[found] = 3.into();
    says(json!({ "audit": audit }))
}

#[test]
fn an_audit_is_believed_for_a_day_and_the_newest_counts() {
    let check = |hour: i64, relays: Vec<RelayView>, expected: (&str, &str)| {
        let shares: Vec<_> = relays.into_iter().map(|relay| share("1/2", relay)).collect();
        let (outcome, previous) = (Outcome::Applied(None), OutboxRelayStatus::default());
        let status = roll_up(&View {
            now: Timestamp::from_second(hour * 3_600).unwrap(),
            ..view(&outcome, false, &shares, &previous)
        });
        let found = of(&status, condition::DELIVERY_AUDITED);
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "at hour {hour}");
    };
    check(12, vec![well()], ("Unknown", "NotAudited"));
    check(
        12,
        vec![RelayView::Unknown("no answer".to_owned())],
        ("Unknown", "NotAudited"),
    );
    check(35, vec![audited(10, "events")], ("True", "Clean"));
    check(36, vec![audited(10, "events")], ("Unknown", "Outdated"));
    check(12, vec![audited(10, "notYetDue")], ("Unknown", "NotYetDue"));
    for found in ["missing", "reordered", "repeated"] {
        check(12, vec![audited(10, found)], ("False", "Findings"));
        check(99, vec![audited(10, found)], ("False", "Findings"));
    }
    check(
        12,
        vec![audited(10, "missing"), audited(11, "events"), well()],
        ("True", "Clean"),
    );
}

#[test]
fn numbers_are_sums_or_the_worst_and_a_silent_share_keeps_what_was_told_of_it() {
    let event =
        json!([{"sequence": 4, "time": "2026-01-31T12:00:00Z", "kind": "LateEvents", "message": "m"}]);
    let worse = says(
        json!({"dataEvents": event, "phase": "CatchingUp", "deadLettersPending": 3,
        "lag": {"milliseconds": 61000, "inFlight": 9}, "checkpointAgeMilliseconds": 1999}),
    );
    let shares = [share("1/2", well()), share("2/2", worse)];
    let outcome = Outcome::Applied(None);
    let first = look(&outcome, false, &shares, &OutboxRelayStatus::default());
    assert_eq!(
        (first.shares, first.ready_shares, first.totals.processed),
        (2, 2, 10)
    );
    assert_eq!(
        (first.lag_seconds, first.checkpoint_age_seconds),
        (Some(61), Some(1))
    );
    assert_eq!(
        (first.phase, first.dead_letters_pending),
        (Some(Phase::CatchingUp), Some(3))
    );

    let silent = [
        share("1/2", well()),
        share("2/2", RelayView::Unknown("no answer".to_owned())),
    ];
    let mut second = look(&outcome, false, &silent, &first);
    let told = &second.share_statuses[1];
    assert_eq!(
        (told.ready, told.event_sequence, told.process.as_deref()),
        (false, Some(4), Some("p"))
    );
    // What did not change keeps its time.
    second = roll_up(&View {
        generation: Some(8),
        paused: false,
        placement: Placement::Deployments,
        count: 2,
        configuration: None,
        selector: "s",
        outcome: &outcome,
        shares: &shares,
        replay: None,
        previous: &second,
        now: Timestamp::from_second(2000).unwrap(),
    });
    let time = |type_: &str| {
        let known = second
            .conditions
            .iter()
            .find(|known| known.type_ == type_)
            .unwrap();
        known.last_transition_time.0.as_second()
    };
    assert_eq!((time(condition::STALLED), time(condition::READY)), (1000, 2000));
}

#[test]
fn events_are_due_once() {
    let event = |sequence: u64| json!({"sequence": sequence, "time": "2026-01-31T12:00:00Z", "kind": "DeadLettered", "message": "m"});
    let with = |process: &str, events: Vec<Value>| {
        [share(
            "1/2",
            says(json!({"process": process, "dataEvents": events})),
        )]
    };
    let outcome = Outcome::Applied(None);
    let keys = |previous: &OutboxRelayStatus, shares: &[ShareView]| {
        let new = look(&outcome, false, shares, previous);
        let due = crate::events::due(previous, &new, shares);
        (new, due.into_iter().map(|due| due.key).collect::<Vec<_>>())
    };
    let (first, due) = keys(
        &OutboxRelayStatus::default(),
        &with("a", vec![event(1), event(2)]),
    );
    assert_eq!(due, ["a/1", "a/2"]);
    let (second, due) = keys(&first, &with("a", vec![event(1), event(2), event(3)]));
    assert_eq!(due, ["a/3"]);
    assert_eq!(keys(&second, &with("a", vec![event(3)])).1, Vec::<String>::new());
    assert_eq!(
        keys(&second, &with("b", vec![event(1)])).1,
        ["b/1"],
        "another process counts anew"
    );
}
