//! The replay that a resource asks for once: a Job of the relays' image carries it out, and what it says at its end becomes the
//! status. What is decided, is decided in [`crate::replay`].

use super::children::{not_writable, outcome_of};
use super::{Identity, Operator, PassError, jobs};
use crate::apply::{Owner, controller_of};
use crate::child::{Child, Kind};
use crate::names::{self, MANAGER};
use crate::replay::{End, SeenJob, failed, is_under_way, next, waits};
use crate::status::Outcome;
use crate::watches::{last_words_of, waits_for};
use crate::{desired, replay};
use crds::outbox_relay::OutboxRelay;
use crds::outbox_relay::status::ReplayStatus;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Patch, PatchParams, PostParams};
use tracing::warn;

/// How long a Job stays whose result is told: its log names every letter.
const KEPT_SECONDS: u32 = 3600;

impl Operator {
    /// One step; what the status says of it afterwards. `known` is what it says.
    pub(super) async fn replay(
        &self,
        relay: &OutboxRelay,
        known: Option<&ReplayStatus>,
        outcome: &Outcome,
    ) -> Option<ReplayStatus> {
        let identity = Identity::of(relay);
        let owner = identity.owner();
        let request = relay.spec.dead_letter.replay_request.as_ref();
        let job_of = |id: &str| names::replay(owner.name, owner.uid, id);
        let step = |seen| next(request, known, seen, hindrance(relay, outcome), job_of);
        let seen = match known {
            Some(known) if is_under_way(Some(known)) => self.look_at_replay(owner, known).await,
            Some(known) => {
                self.let_job_go(relay, owner, known).await;
                SeenJob::Unasked
            }
            None => SeenJob::Unasked,
        };
        let replay::Next { status, make } = step(seen);
        let (true, Some(status)) = (make, &status) else {
            return status;
        };
        match self.make_job_of_replay(relay, owner).await {
            Ok(since) => step(SeenJob::Runs { since, waits: None }).status,
            Err(why) => Some(waits(status, &why)),
        }
    }

    /// The resource is being deleted, and its state may be too.
    pub(super) async fn give_up_replay(
        &self,
        relay: &OutboxRelay,
        known: Option<&ReplayStatus>,
    ) -> Result<Option<ReplayStatus>, PassError> {
        let Some(known) = known.filter(|known| is_under_way(Some(known))) else {
            return Ok(known.cloned());
        };
        let identity = Identity::of(relay);
        let (owner, job) = (identity.owner(), job_of(known));
        let failed_to = |error: crate::apply::ApplyError| PassError::Child(error.to_string());
        if let Some(seen) = self
            .applier
            .look(owner, Kind::Job, job)
            .await
            .map_err(failed_to)?
        {
            self.applier
                .remove(owner, Kind::Job, job, &seen)
                .await
                .map_err(failed_to)?;
        }
        Ok(Some(failed(known, "the resource was deleted")))
    }

    /// What Jobs are made of has to stay while one may begin.
    pub(super) fn is_replaying(&self, relay: &OutboxRelay) -> bool {
        let written = self.remember(relay, |memory| {
            let (_, status) = memory.written.as_ref()?;
            Some(is_under_way(status.replay.as_ref()))
        });
        let shown = || relay.status.as_ref().and_then(|status| status.replay.as_ref());
        written.unwrap_or_else(|| is_under_way(shown()))
    }

    async fn look_at_replay(&self, owner: Owner<'_>, known: &ReplayStatus) -> SeenJob {
        match self.job_of_replay(owner, job_of(known)).await {
            Ok(seen) => seen,
            Err(error) => SeenJob::Unknown(format!("its Job cannot be looked at: {error}")),
        }
    }

    async fn job_of_replay(&self, owner: Owner<'_>, name: &str) -> Result<SeenJob, kube::Error> {
        let Some(job) = self.jobs(owner).get_opt(name).await? else {
            return Ok(SeenJob::Absent);
        };
        if controller_of(&job.metadata).is_none_or(|by| by.uid != owner.uid) {
            return Ok(SeenJob::Foreign);
        }
        let since = job.metadata.creation_timestamp.clone();
        let complete = jobs::condition(&job, "Complete");
        if let Some(end) = complete.or_else(|| jobs::condition(&job, "Failed")) {
            let pods = self.pods_of_job(owner, name).await?;
            return Ok(SeenJob::Ended(End {
                since,
                at: end.last_transition_time.clone(),
                complete: complete.is_some(),
                said: pods.iter().find_map(last_words_of),
                why: jobs::reason(end),
            }));
        }
        let runs = job
            .status
            .as_ref()
            .is_some_and(|status| status.ready.unwrap_or(0) > 0);
        let pods = if runs {
            Vec::new()
        } else {
            self.pods_of_job(owner, name).await?
        };
        Ok(SeenJob::Runs {
            since,
            waits: pods.first().and_then(waits_for),
        })
    }

    /// When it was made; or why there is none yet.
    async fn make_job_of_replay(
        &self,
        relay: &OutboxRelay,
        owner: Owner<'_>,
    ) -> Result<Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, String> {
        let Some(request) = &relay.spec.dead_letter.replay_request else {
            return Ok(None);
        };
        let (config, references) = self.basis(relay).await.map_err(in_words)?;
        let name = names::replay(owner.name, owner.uid, &request.id);
        let children = desired::replay(relay, &config, &references, &self.settings, (request, name));
        let mut children = children.map_err(|error| in_words(not_writable(&error)))?;
        let job = children.pop();
        for child in &children {
            let applied = self.apply(owner, child).await;
            applied.map_err(|error| in_words(outcome_of(&error)))?;
        }
        match job {
            Some(job) => self.create(owner, job).await,
            None => Ok(None),
        }
    }

    /// Never applied a second time: one that is there is looked at.
    async fn create(
        &self,
        owner: Owner<'_>,
        job: Child,
    ) -> Result<Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, String> {
        let job: Job = serde_json::from_value(job.object).map_err(|error| error.to_string())?;
        let by = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.jobs(owner).create(&by, &job).await {
            Ok(made) => {
                self.metrics.applies.with_label_values(&["Job"]).inc();
                Ok(made.metadata.creation_timestamp)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                Err("its Job is there already".to_owned())
            }
            Err(error) => Err(format!("its Job cannot be made: {error}")),
        }
    }

    /// Its result is told, so it may go.
    async fn let_job_go(&self, relay: &OutboxRelay, owner: Owner<'_>, known: &ReplayStatus) {
        let job = job_of(known);
        if self.remember(relay, |memory| memory.let_go.as_deref() == Some(job)) {
            return;
        }
        let done = match self.applier.look(owner, Kind::Job, job).await {
            Ok(Some(seen)) if seen.owner.as_deref() == Some(owner.uid) => {
                let patch = Patch::Merge(serde_json::json!({
                    "metadata": {"uid": seen.uid},
                    "spec": {"ttlSecondsAfterFinished": KEPT_SECONDS},
                }));
                let by = PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let patched = self.jobs(owner).patch_metadata(job, &by, &patch).await;
                patched.map(|_| ()).map_err(|error| error.to_string())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        match done {
            Ok(()) => self.remember(relay, |memory| memory.let_go = Some(job.to_owned())),
            // It is tried again in the next pass.
            Err(error) => {
                warn!(name = owner.name, job, %error, "the Job of a replay that has ended stays for now")
            }
        }
    }
}

/// Why no Job can be made now.
fn hindrance(relay: &OutboxRelay, outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        _ if relay.spec.paused => Some("it begins when spec.paused is false"),
        Outcome::Applied(_) => None,
        Outcome::Stalled { .. } => Some("it begins when what the condition Stalled says is mended"),
        Outcome::Deleting(_) | Outcome::Failed(_) => Some("it begins when the children are made"),
    }
}

fn job_of(replay: &ReplayStatus) -> &str {
    replay.job.as_deref().unwrap_or_default()
}

fn in_words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Stalled { message, .. } => message,
        Outcome::Failed(why) | Outcome::Deleting(why) => why,
        Outcome::Applied(_) => String::new(),
    }
}
