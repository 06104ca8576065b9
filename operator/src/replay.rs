//! The replay that a resource asks for once: what is to be done next, from the request, what the status tells of it, and what
//! there is of its Job. Pure.
//!
//! An id is carried out once, whoever leads meanwhile: it is `Pending` in the status before there is a Job, and `Running` once
//! there is one. So a Job that is missing is made while the status says `Pending`, and never again afterwards.

use crate::status::cut;
use crds::outbox_relay::status::{ReplayPhase, ReplayStatus};
use crds::replay::{ReplayRequest, ReplayResult};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What there is of the Job of the request that the status names.
#[derive(Debug, Clone, PartialEq)]
pub enum SeenJob {
    /// Nobody looked: nothing is under way.
    Unasked,
    /// The API server could not be asked, and why.
    Unknown(String),
    /// There is none.
    Absent,
    /// Another one has its name.
    Foreign,
    /// It has not ended.
    Runs {
        /// When it was made.
        since: Option<Time>,
        /// What keeps its pod from running.
        waits: Option<String>,
    },
    /// It has ended.
    Ended(End),
}

/// The end of a Job.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct End {
    /// When it was made.
    pub since: Option<Time>,
    /// When it ended.
    pub at: Option<Time>,
    /// Whether Kubernetes calls it complete.
    pub complete: bool,
    /// The last line that its pod said.
    pub said: Option<String>,
    /// Why it failed, in Kubernetes' words.
    pub why: Option<String>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// What the status says from now on.
    pub status: Option<ReplayStatus>,
    /// Whether the Job is made now.
    pub make: bool,
}

/// Whether something is to be done or waited for.
pub fn is_under_way(known: Option<&ReplayStatus>) -> bool {
    known.is_some_and(|replay| !replay.phase.has_ended())
}

/// What comes next. `known` is what the status says as it was written; `hindered` is why no Job can be made now; `job_of` names
/// the Job of an id.
pub fn next(
    request: Option<&ReplayRequest>,
    known: Option<&ReplayStatus>,
    seen: SeenJob,
    hindered: Option<&str>,
    job_of: impl Fn(&str) -> String,
) -> Next {
    let Some(known) = known.filter(|replay| !replay.phase.has_ended()) else {
        return take_up(request, known, job_of);
    };
    Next::is(match seen {
        SeenJob::Unasked => known.clone(),
        SeenJob::Unknown(why) => waits(known, &why),
        SeenJob::Foreign => waits(known, "a Job of its name belongs to somebody else"),
        SeenJob::Runs { since, waits } => ReplayStatus {
            phase: ReplayPhase::Running,
            started_at: since,
            message: waits.as_deref().map(cut),
            ..known.clone()
        },
        SeenJob::Ended(end) => ended(known, end),
        SeenJob::Absent if known.phase == ReplayPhase::Running => failed(known, DELETED),
        SeenJob::Absent => return not_made(request, known, hindered, job_of),
    })
}

const DELETED: &str =
    "its Job was deleted before it had ended; the letters that it had asked for stay asked for";

impl Next {
    fn is(status: ReplayStatus) -> Self {
        Self {
            status: Some(status),
            make: false,
        }
    }
}

/// Nothing is under way.
fn take_up(
    request: Option<&ReplayRequest>,
    known: Option<&ReplayStatus>,
    job_of: impl Fn(&str) -> String,
) -> Next {
    let new = request.filter(|request| known.is_none_or(|replay| replay.id != request.id));
    let taken_up = new.map(|request| ReplayStatus {
        id: request.id.clone(),
        job: Some(job_of(&request.id)),
        ..ReplayStatus::default()
    });
    Next {
        status: taken_up.or_else(|| known.cloned()),
        make: false,
    }
}

/// The request was taken up and has no Job yet.
fn not_made(
    request: Option<&ReplayRequest>,
    known: &ReplayStatus,
    hindered: Option<&str>,
    job_of: impl Fn(&str) -> String,
) -> Next {
    match request {
        None => Next::is(failed(known, "it was taken out of the resource before it began")),
        Some(request) if request.id != known.id => take_up(Some(request), None, job_of),
        Some(_) => Next {
            make: hindered.is_none(),
            status: Some(ReplayStatus {
                message: hindered.map(cut),
                ..known.clone()
            }),
        },
    }
}

/// It goes on once this is over.
pub fn waits(known: &ReplayStatus, why: &str) -> ReplayStatus {
    ReplayStatus {
        message: Some(cut(why)),
        ..known.clone()
    }
}

/// It ends without a result.
pub fn failed(known: &ReplayStatus, why: &str) -> ReplayStatus {
    ReplayStatus {
        phase: ReplayPhase::Failed,
        ..waits(known, why)
    }
}

fn ended(known: &ReplayStatus, end: End) -> ReplayStatus {
    let said = end.said.as_deref();
    let result = said.and_then(|said| serde_json::from_str::<ReplayResult>(said).ok());
    let count = |of: fn(&ReplayResult) -> u64| result.as_ref().map(of);
    let message = match &result {
        Some(result) => result.message.clone(),
        None if end.complete => Some("its pod is gone, and with it the number of letters".to_owned()),
        // A program that ends without a result says why at the end of its log.
        None => end.said.or(end.why),
    };
    ReplayStatus {
        phase: if end.complete {
            ReplayPhase::Succeeded
        } else {
            ReplayPhase::Failed
        },
        started_at: end.since,
        completed_at: end.at,
        letters: count(|result| result.letters),
        replayed: count(|result| result.replayed),
        failed: count(|result| result.failed),
        waiting: count(|result| result.waiting),
        refused: count(|result| result.refused),
        message: message.as_deref().map(cut),
        ..known.clone()
    }
}

#[cfg(test)]
mod tests;
