//! The conditions. All of them are there from the first visit on.

use super::{Outcome, RelayView, ShareView, View, cut, sidecars};
use crate::names::share_of_label;
use crate::plan::Waiting;
use crds::outbox_relay::status::condition;
use crds::pods::Placement;
use crds::relay_status::{Audit, BreakerState, Component, Health, RelayStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::borrow::Cow;

/// Characters of a reason; Kubernetes takes up to 1024.
const MAX_REASON: usize = 64;

/// An audit says little of today once it is this old: a day, and time for one that is made daily to end.
const AUDIT_OUTDATED_MILLISECONDS: i64 = 25 * 3_600 * 1_000;

/// What is found out about one condition.
pub(super) struct Verdict {
    status: Status,
    reason: Cow<'static, str>,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

pub(super) fn yes(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Verdict {
    Verdict {
        status: Status::True,
        reason: reason.into(),
        message: message.into(),
    }
}

pub(super) fn no(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Verdict {
    Verdict {
        status: Status::False,
        reason: reason.into(),
        message: message.into(),
    }
}

fn unknown(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Verdict {
    Verdict {
        status: Status::Unknown,
        reason: reason.into(),
        message: message.into(),
    }
}

pub(super) fn all(view: &View<'_>) -> Vec<Condition> {
    let verdicts = [
        (condition::READY, ready(view)),
        (condition::RECONCILING, reconciling(view)),
        (condition::STALLED, stalled(view)),
        (
            condition::SOURCE_CONNECTED,
            of_all(view, |relay| component(relay, "source")),
        ),
        (
            condition::SINK_CONNECTED,
            of_all(view, |relay| component(relay, "sink")),
        ),
        (condition::CIRCUIT_CLOSED, of_all(view, circuit)),
        (condition::DEAD_LETTERS_EMPTY, of_all(view, dead_letters)),
        (condition::RETENTION_SAFE, of_all(view, retention)),
        (condition::ORDER_PRESERVED, of_all(view, order)),
        (condition::DELIVERY_AUDITED, audited(view)),
    ];
    verdicts
        .into_iter()
        .map(|(type_, verdict)| condition_of(view, type_, &verdict))
        .collect()
}

fn condition_of(view: &View<'_>, type_: &str, verdict: &Verdict) -> Condition {
    let status = verdict.status.name();
    let known = view
        .previous
        .conditions
        .iter()
        .find(|known| known.type_ == type_ && known.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.clone().into_owned(),
        message: cut(&verdict.message),
        observed_generation: view.generation,
        // Whole seconds, as the API server keeps them: else the next pass would see a change.
        last_transition_time: known.map_or_else(
            || Time(k8s_openapi::jiff::Timestamp::from_second(view.now.as_second()).unwrap_or(view.now)),
            |known| known.last_transition_time.clone(),
        ),
    }
}

/// Every slot is owned, read, and able to be delivered, by relays that run what the resource says.
fn ready(view: &View<'_>) -> Verdict {
    if let Outcome::Deleting(what) = view.outcome {
        return no("Deleting", what);
    }
    if view.paused {
        return no("Paused", "spec.paused is true: no relay runs; progress is kept");
    }
    match view.outcome {
        Outcome::Stalled { reason, message } => return no(*reason, still_running(view, message)),
        Outcome::Applied(Some(Waiting::Draining(pods))) => return no("Draining", draining(pods)),
        Outcome::Applied(_) | Outcome::Deleting(_) | Outcome::Failed(_) => {}
    }
    if view.placement == Placement::Sidecar {
        return sidecars::ready(view);
    }
    let wanted = || view.shares.iter().filter(|share| share.wanted);
    let missing = missing(view);
    if missing > 0 {
        return no(
            "Starting",
            format!("{missing} of {} shares do not exist yet", view.count),
        );
    }
    shortcoming(wanted()).unwrap_or_else(|| {
        yes(
            "AllSharesReady",
            "every slot is owned, read and able to be delivered",
        )
    })
}

/// What keeps one of these relays from being ready: the first that says so, or else the first that cannot be asked.
pub(super) fn shortcoming<'a>(shares: impl IntoIterator<Item = &'a ShareView>) -> Option<Verdict> {
    let mut doubt = None;
    for share in shares {
        let title = share.title();
        match &share.relay {
            RelayView::Absent(why) => return Some(no("Starting", format!("{title}: {why}"))),
            RelayView::Says(_) if share.is_ready() => {}
            RelayView::Says(status) => {
                return Some(no(
                    "ShareNotReady",
                    format!("{title}: {}", share.why_not_ready(status)),
                ));
            }
            RelayView::Unknown(why) => {
                doubt.get_or_insert_with(|| unknown("ShareUnreachable", format!("{title}: {why}")));
            }
        }
    }
    doubt
}

/// Shares of which there is nothing yet.
fn missing(view: &View<'_>) -> usize {
    let there = view.shares.iter().filter(|share| share.wanted).count();
    (view.count as usize).saturating_sub(there)
}

fn still_running(view: &View<'_>, message: &str) -> String {
    if view.shares.iter().any(|share| share.exists) {
        format!("{message}\nThe relays run on with the last configuration that was valid.")
    } else {
        message.to_owned()
    }
}

fn starts(share: &str) -> String {
    format!("share {share} starts")
}

fn draining(pods: &[String]) -> String {
    format!(
        "the shares start when the former ones have stopped: waiting for {}",
        pods.join(", ")
    )
}

/// The children are not yet as the resource wants them (kstatus).
fn reconciling(view: &View<'_>) -> Verdict {
    if view.paused && !matches!(view.outcome, Outcome::Deleting(_)) {
        return no("Paused", "nothing is to be done");
    }
    match view.outcome {
        Outcome::Stalled { reason, .. } => no(*reason, "nothing more is done without a change; see Stalled"),
        Outcome::Deleting(what) => yes("Deleting", what),
        Outcome::Failed(error) => yes("ApplyFailed", format!("it is tried again: {error}")),
        Outcome::Applied(Some(Waiting::Draining(pods))) => yes("Draining", draining(pods)),
        Outcome::Applied(Some(Waiting::Rolling(share))) => yes(
            "RollingOut",
            format!(
                "shares change one after another: waiting until {} is ready",
                share_of_label(share)
            ),
        ),
        Outcome::Applied(Some(Waiting::Starting(share))) => yes("Starting", starts(&share_of_label(share))),
        Outcome::Applied(None) if view.placement == Placement::Sidecar => sidecars::reconciling(view),
        Outcome::Applied(None) => {
            let missing = missing(view);
            let starting = view
                .shares
                .iter()
                .filter(|share| share.wanted)
                .find(|share| matches!(share.relay, RelayView::Absent(_)));
            match starting {
                Some(share) => yes("Starting", starts(&share.share)),
                None if missing > 0 => yes("Starting", format!("{missing} shares start")),
                None => no("Reconciled", "the children are as the resource wants them"),
            }
        }
    }
}

/// Nothing more will happen without a change by a person (kstatus).
fn stalled(view: &View<'_>) -> Verdict {
    match view.outcome {
        Outcome::Stalled { reason, message } => yes(*reason, still_running(view, message)),
        Outcome::Applied(_) | Outcome::Deleting(_) | Outcome::Failed(_) => {
            no("NotStalled", "nothing waits for a person")
        }
    }
}

/// False if it is false of any relay, else unknown if any is, else true.
fn of_all(view: &View<'_>, judge: impl Fn(&RelayStatus) -> Verdict) -> Verdict {
    let judged = view.shares.iter().map(|share| match &share.relay {
        RelayView::Says(status) => (share, judge(status)),
        RelayView::Unknown(why) => (share, unknown("ShareUnreachable", why.clone())),
        RelayView::Absent(why) => (share, unknown("ShareNotRunning", why.clone())),
    });
    let worst = judged.max_by_key(|(_, verdict)| match verdict.status {
        Status::True => 0,
        Status::Unknown => 1,
        Status::False => 2,
    });
    match worst {
        None => unknown("NoRelay", "no relay runs"),
        Some((_, verdict)) if verdict.status == Status::True => verdict,
        Some((share, verdict)) => Verdict {
            message: format!("{}: {}", share.title(), verdict.message),
            ..verdict
        },
    }
}

fn component(relay: &RelayStatus, name: &str) -> Verdict {
    let Some(component) = relay.components.iter().find(|component| component.name == name) else {
        return unknown("NotReported", "the relay does not say");
    };
    let message = component.message.clone();
    match component.health {
        Health::Healthy => yes("Connected", "connected"),
        Health::Degraded => yes("Degraded", message.unwrap_or_else(|| "degraded".to_owned())),
        Health::Starting => unknown("Starting", message.unwrap_or_else(|| "connecting".to_owned())),
        Health::Failed => no(
            category(component),
            message.unwrap_or_else(|| "failed".to_owned()),
        ),
    }
}

/// The relay's own name for it, if it is one that a condition may have.
fn category(component: &Component) -> Cow<'static, str> {
    let is_name = |name: &&String| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.len() <= MAX_REASON
            && name.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    match component.reason.as_ref().filter(is_name) {
        Some(name) => Cow::Owned(name.clone()),
        None => Cow::Borrowed("Failed"),
    }
}

fn circuit(relay: &RelayStatus) -> Verdict {
    let error = || {
        relay
            .breaker
            .last_error
            .clone()
            .unwrap_or_else(|| "publishing failed".to_owned())
    };
    match relay.breaker.state {
        BreakerState::Closed => yes("Closed", "events are attempted"),
        BreakerState::Open => no("Open", error()),
        BreakerState::HalfOpen => no("HalfOpen", error()),
    }
}

fn dead_letters(relay: &RelayStatus) -> Verdict {
    match relay.dead_letters_pending {
        0 => yes("Empty", "no dead letter waits for a decision"),
        pending => no("Pending", format!("{pending} dead letters wait for a decision")),
    }
}

fn retention(relay: &RelayStatus) -> Verdict {
    let retention = &relay.retention;
    match retention.headroom_seconds {
        Some(headroom) if retention.is_at_risk() => no(
            "AtRisk",
            format!("the oldest undelivered row expires from the CDC log in {headroom} s"),
        ),
        Some(_) => yes(
            "Safe",
            "no undelivered row is close to the end of the log's retention",
        ),
        None => yes("NothingExpires", "no undelivered row expires"),
    }
}

fn order(relay: &RelayStatus) -> Verdict {
    if relay.order.preserved {
        yes("Preserved", "the table's key keeps an aggregate in one partition")
    } else {
        let reason = relay.order.reason.clone();
        no(
            "NotPreserved",
            reason.unwrap_or_else(|| "the table's key scatters aggregates".to_owned()),
        )
    }
}

/// The newest audit of the identity. Whose relay tells it does not matter: slot 0 has one owner, and a former one may still
/// answer.
fn audited(view: &View<'_>) -> Verdict {
    let told = view.shares.iter().filter_map(|share| match &share.relay {
        RelayView::Says(status) => status.audit,
        RelayView::Unknown(_) | RelayView::Absent(_) => None,
    });
    let Some(audit) = told.max_by_key(|audit| audit.time.milliseconds()) else {
        return unknown(
            "NotAudited",
            "no audit was recorded, or no relay that owns slot 0 answers",
        );
    };
    let about = about(&audit);
    if !audit.is_clean() {
        return no("Findings", about);
    }
    if view.now.as_millisecond() - audit.time.milliseconds() as i64 > AUDIT_OUTDATED_MILLISECONDS {
        return unknown("Outdated", about);
    }
    if audit.not_yet_due > 0 {
        return unknown("NotYetDue", about);
    }
    yes("Clean", about)
}

/// The same until the next audit, so that the resource is not written for it.
fn about(audit: &Audit) -> String {
    format!(
        "audit of {}: of {} events written from {} to {}, {} missing, {} reordered, {} repeated, {} not yet due",
        audit.time,
        audit.events,
        audit.from,
        audit.to,
        audit.missing,
        audit.reordered,
        audit.repeated,
        audit.not_yet_due
    )
}
