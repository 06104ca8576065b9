//! The status of a resource, from what was applied and what its relays say: a pure roll-up.

mod conditions;
mod sidecars;
mod write;

pub use write::{Write, when_to_write};

use crate::plan::Waiting;
use crds::outbox_relay::status::{OutboxRelayStatus, ReplayStatus, ShareStatus};
use crds::pods::Placement;
use crds::relay_status::{BreakerState, Phase, RelayStatus, Totals};
use k8s_openapi::jiff::Timestamp;

/// Entries of `shareStatuses`, as the resource's definition bounds them.
pub const MAX_SHARES: usize = 64;

/// Characters of a message; more is cut.
pub const MAX_MESSAGE: usize = 1000;

/// What became of the children in this pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All that can be done now is done.
    Applied(Option<Waiting>),
    /// Only a person can help. What runs, runs on with what was applied before.
    Stalled {
        /// For conditions and Kubernetes Events: `InvalidSpec`, `SecretNotFound`, ...
        reason: &'static str,
        /// The fields, what is wrong with them, and what would be accepted.
        message: String,
    },
    /// The resource is being deleted and its state is not gone yet: what is waited for.
    Deleting(String),
    /// The API server could not be reached or had no time; it is tried again.
    Failed(String),
}

/// What is known of one share.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareView {
    /// As in `2/4`; of a sidecar the name of its pod.
    pub share: String,
    /// Whether it is a sidecar.
    pub sidecar: bool,
    /// Whether it is one of those that the resource asks for.
    pub wanted: bool,
    /// Whether its Deployment asks for a pod.
    pub exists: bool,
    /// Its relay.
    pub relay: RelayView,
}

/// What is known of the relay of a share.
#[derive(Debug, Clone, PartialEq)]
pub enum RelayView {
    /// It does not run, and why.
    Absent(String),
    /// It runs and cannot be asked.
    Unknown(String),
    /// What it says.
    Says(Box<RelayStatus>),
}

impl ShareView {
    fn says(&self) -> Option<&RelayStatus> {
        match &self.relay {
            RelayView::Says(status) => Some(status),
            RelayView::Absent(_) | RelayView::Unknown(_) => None,
        }
    }

    /// As messages call it.
    pub fn title(&self) -> String {
        let kind = if self.sidecar { "pod" } else { "share" };
        format!("{kind} {}", self.share)
    }

    fn why_not_ready<'a>(&self, status: &'a RelayStatus) -> &'a str {
        let why = status.not_ready_because.as_deref();
        why.unwrap_or("it does not own all its slots")
    }

    /// Its relay says that it is ready, and owns every slot of its share.
    fn is_ready(&self) -> bool {
        self.says()
            .is_some_and(|status| status.ready && status.slots.owned >= status.slots.wanted)
    }
}

/// Everything that the roll-up looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Generation of the specification that was looked at.
    pub generation: Option<i64>,
    /// Whether no relay is to run.
    pub paused: bool,
    /// Where relays run.
    pub placement: Placement,
    /// How many shares the resource asks for.
    pub count: u32,
    /// Checksum of the configuration that relays are to run with; none while there is no valid one.
    pub configuration: Option<&'a str>,
    /// Label selector of the relays' pods.
    pub selector: &'a str,
    /// What became of the children.
    pub outcome: &'a Outcome,
    /// The shares that exist or are wanted.
    pub shares: &'a [ShareView],
    /// The replay that was asked for last.
    pub replay: Option<&'a ReplayStatus>,
    /// The status as it was.
    pub previous: &'a OutboxRelayStatus,
    /// For the times at which conditions change.
    pub now: Timestamp,
}

/// The status that is true now.
pub fn roll_up(view: &View<'_>) -> OutboxRelayStatus {
    let says = || view.shares.iter().filter_map(ShareView::says);
    OutboxRelayStatus {
        observed_generation: view.generation,
        conditions: conditions::all(view),
        phase: says()
            .map(|status| status.phase)
            .max_by_key(|phase| concern(*phase)),
        shares: count(view.shares.iter().filter(|share| share.wanted && share.exists)),
        ready_shares: count(
            view.shares
                .iter()
                .filter(|share| share.wanted && share.is_ready()),
        ),
        selector: Some(view.selector.to_owned()),
        totals: says().fold(Totals::default(), |sum, status| add(sum, &status.totals)),
        lag_seconds: says().map(|status| status.lag.seconds()).max(),
        checkpoint_age_seconds: says()
            .filter_map(|status| status.checkpoint_age_milliseconds)
            .map(|age| age / 1000)
            .max(),
        breaker: says()
            .map(|status| status.breaker.state)
            .max_by_key(|state| match state {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            }),
        dead_letters_pending: says()
            .map(|status| status.dead_letters_pending)
            .reduce(|a, b| a + b),
        replay: view.replay.cloned(),
        share_statuses: view
            .shares
            .iter()
            .take(MAX_SHARES)
            .map(|share| share_status(share, view.previous))
            .collect(),
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// The phase that a person should see first is the highest.
fn concern(phase: Phase) -> u8 {
    match phase {
        Phase::Streaming => 0,
        Phase::Standby => 1,
        Phase::CatchingUp => 2,
        Phase::Draining => 3,
        Phase::Starting => 4,
        Phase::CircuitOpen => 5,
        Phase::Stopped => 6,
    }
}

fn add(a: Totals, b: &Totals) -> Totals {
    Totals {
        processed: a.processed + b.processed,
        failed: a.failed + b.failed,
        retries: a.retries + b.retries,
        dead_lettered: a.dead_lettered + b.dead_lettered,
        late: a.late + b.late,
        duplicates_suppressed: a.duplicates_suppressed + b.duplicates_suppressed,
        changes_ignored: a.changes_ignored + b.changes_ignored,
    }
}

fn share_status(share: &ShareView, previous: &OutboxRelayStatus) -> ShareStatus {
    let known = previous
        .share_statuses
        .iter()
        .find(|known| known.share == share.share);
    match &share.relay {
        RelayView::Says(status) => ShareStatus {
            share: share.share.clone(),
            phase: Some(status.phase),
            ready: share.is_ready(),
            owned_slots: status.slots.owned.into(),
            lag_seconds: Some(status.lag.seconds()),
            version: Some(status.version.clone()),
            message: status.not_ready_because.as_deref().map(cut),
            process: Some(status.process.clone()),
            event_sequence: status.data_events.last().map(|event| event.sequence),
        },
        // What became of its data events is remembered until it answers again.
        RelayView::Absent(why) | RelayView::Unknown(why) => ShareStatus {
            share: share.share.clone(),
            message: Some(cut(why)),
            process: known.and_then(|known| known.process.clone()),
            event_sequence: known.and_then(|known| known.event_sequence),
            ..ShareStatus::default()
        },
    }
}

/// At most [`MAX_MESSAGE`] characters.
pub fn cut(text: &str) -> String {
    if text.chars().nth(MAX_MESSAGE).is_none() {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MAX_MESSAGE - 3).collect();
    short.push_str("...");
    short
}

#[cfg(test)]
pub(crate) mod tests;
