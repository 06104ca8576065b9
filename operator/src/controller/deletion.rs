//! The end of a resource whose state goes with it: the relays stop, a Job of their image deletes the state, the finalizer
//! is removed. What keeps it from ending is told, and `deletionPolicy: Retain` ends it at any time.

use super::children::{not_writable, outcome_of};
use super::{Identity, Operator, PassError, jobs};
use crate::apply::{ApplyError, Owner};
use crate::child::Kind;
use crate::desired::deletion;
use crate::names::{self, FINALIZER, MANAGER};
use crate::status::Outcome;
use crds::outbox_relay::OutboxRelay;
use crds::pods::DeletionPolicy;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use std::time::Duration;
use tracing::warn;

/// A Job that failed is made again after this time: what it failed of may have been mended.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

const WAY_OUT: &str = "Set spec.deletionPolicy to Retain to let the resource go and keep its state.";

impl Operator {
    /// The finalizer stands as long as there is something to do at the end, and no longer.
    pub(super) async fn keep_finalizer(&self, relay: &OutboxRelay) -> Result<(), PassError> {
        let wanted = relay.spec.deletion_policy == DeletionPolicy::Delete;
        if wanted == has_finalizer(relay) {
            return Ok(());
        }
        let mut finalizers = relay.finalizers().to_vec();
        finalizers.retain(|name| name != FINALIZER);
        if wanted {
            finalizers.push(FINALIZER.to_owned());
        }
        self.set_finalizers(relay, &finalizers).await
    }

    /// One step towards the end; None when nothing is left to do.
    pub(super) async fn end(&self, relay: &OutboxRelay) -> Result<Option<Outcome>, PassError> {
        if !has_finalizer(relay) {
            return Ok(None);
        }
        let outcome = match relay.spec.deletion_policy {
            DeletionPolicy::Retain => None,
            DeletionPolicy::Delete => self.delete_state(relay).await,
        };
        if outcome.is_none() {
            let mut finalizers = relay.finalizers().to_vec();
            finalizers.retain(|name| name != FINALIZER);
            self.set_finalizers(relay, &finalizers).await?;
        }
        Ok(outcome)
    }

    /// What is still to be done or waited for; None when the state is gone, or never can be.
    async fn delete_state(&self, relay: &OutboxRelay) -> Option<Outcome> {
        let identity = Identity::of(relay);
        let owner = identity.owner();
        match self.stop_relays(owner).await {
            Ok(None) => {}
            Ok(Some(outcome)) => return Some(outcome),
            Err(error) => return Some(outcome_of(&error)),
        }
        let deleted = match self.run_job(relay, owner).await {
            Ok(progress) => progress,
            Err(End::Outcome(outcome)) => return Some(with_way_out(outcome)),
            Err(End::NamespaceEnds) => {
                warn!(
                    namespace = owner.namespace,
                    name = owner.name,
                    "the namespace is being deleted, in which no Job can be made: the state of the resource stays"
                );
                return None;
            }
        };
        match deleted {
            Progress::Done => None,
            Progress::Running => Some(Outcome::Deleting("a Job deletes the state".to_owned())),
            Progress::Failed(why) => Some(with_way_out(Outcome::Stalled {
                reason: "StateNotDeleted",
                message: format!("the Job {} failed: {why}", names::shared(owner.name)),
            })),
        }
    }

    /// What is waited for until no relay of the resource runs.
    async fn stop_relays(&self, owner: Owner<'_>) -> Result<Option<Outcome>, ApplyError> {
        for share in self.world.shares(owner).iter().filter(|share| !share.deleting) {
            if let Some(seen) = self.world.seen(Kind::Deployment, owner.namespace, &share.name) {
                self.applier
                    .remove(owner, Kind::Deployment, &share.name, &seen)
                    .await?;
            }
        }
        let (sidecars, pods): (Vec<_>, Vec<_>) =
            self.world.pods(owner).into_iter().partition(|pod| pod.sidecar);
        let names = |pods: &[crate::watches::RelayPod]| {
            let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
            names.join(", ")
        };
        if !pods.is_empty() || !self.world.shares(owner).is_empty() {
            let waits = match names(&pods) {
                none if none.is_empty() => "the relays stop".to_owned(),
                names => format!("the relays stop: waiting for {names}"),
            };
            return Ok(Some(Outcome::Deleting(waits)));
        }
        if !sidecars.is_empty() {
            let message = format!(
                "its state is in use by sidecars of the pods {}: take the sidecar out of the application",
                names(&sidecars)
            );
            return Ok(Some(with_way_out(Outcome::Stalled {
                reason: "StateInUse",
                message,
            })));
        }
        Ok(None)
    }

    async fn run_job(&self, relay: &OutboxRelay, owner: Owner<'_>) -> Result<Progress, End> {
        let jobs = self.jobs(owner);
        let name = names::shared(owner.name);
        let found = jobs.get_opt(&name).await.map_err(|error| End::failed(&error))?;
        if let Some(job) = found {
            return self.look_at_job(owner, &jobs, &job).await;
        }
        let (config, references) = self.basis(relay).await.map_err(End::Outcome)?;
        let children = deletion(relay, &config, &references, &self.settings)
            .map_err(|error| End::Outcome(not_writable(&error)))?;
        for child in &children {
            let seen = self.world.seen(child.kind, owner.namespace, &child.name);
            self.applier
                .admit(owner, child, seen.as_ref())
                .await
                .map_err(End::of)?;
            self.apply(owner, child).await.map_err(End::of)?;
        }
        Ok(Progress::Running)
    }

    async fn look_at_job(&self, owner: Owner<'_>, api: &Api<Job>, job: &Job) -> Result<Progress, End> {
        let name = job.name_any();
        let ours = crate::apply::controller_of(&job.metadata).is_some_and(|by| by.uid == owner.uid);
        if !ours {
            return Err(End::of(ApplyError::Foreign {
                kind: Kind::Job,
                name,
            }));
        }
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(Progress::Running);
        }
        if jobs::condition(job, "Complete").is_some() {
            self.remove_job(owner, api, &name).await?;
            return Ok(Progress::Done);
        }
        let Some(failed) = jobs::condition(job, "Failed") else {
            return Ok(Progress::Running);
        };
        let why = self.last_words(owner, &name, failed).await?;
        let since = failed.last_transition_time.as_ref().map(|time| time.0);
        let is_old = since.is_none_or(|since| {
            Timestamp::now().duration_since(since).as_secs() >= AGAIN_AFTER.as_secs() as i64
        });
        if is_old {
            self.remove_job(owner, api, &name).await?;
        }
        Ok(Progress::Failed(why))
    }

    async fn remove_job(&self, owner: Owner<'_>, jobs: &Api<Job>, name: &str) -> Result<(), End> {
        self.applier.forget(owner.namespace, |child| child == name);
        match jobs.delete(name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(End::failed(&error)),
        }
    }

    /// What the newest pod of a failed Job said last, or else what Kubernetes says.
    async fn last_words(&self, owner: Owner<'_>, job: &str, failed: &JobCondition) -> Result<String, End> {
        let pods = self
            .pods_of_job(owner, job)
            .await
            .map_err(|error| End::failed(&error))?;
        let said = pods.iter().find_map(crate::watches::last_words_of);
        Ok(said
            .or_else(|| jobs::reason(failed))
            .unwrap_or_else(|| "for no known reason".to_owned()))
    }

    async fn set_finalizers(&self, relay: &OutboxRelay, finalizers: &[String]) -> Result<(), PassError> {
        let api: Api<OutboxRelay> =
            Api::namespaced(self.client.clone(), &relay.namespace().unwrap_or_default());
        // With the version that was seen: others may change the list too.
        let patch = serde_json::json!({"metadata": {
            "uid": relay.uid(), "resourceVersion": relay.resource_version(), "finalizers": finalizers,
        }});
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api
            .patch_metadata(&relay.name_any(), &parameters, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(PassError::Finalizer(Box::new(error))),
        }
    }
}

/// How far the Job is.
enum Progress {
    Running,
    Done,
    Failed(String),
}

/// Why there is no Job.
enum End {
    Outcome(Outcome),
    NamespaceEnds,
}

impl End {
    fn failed(error: &kube::Error) -> Self {
        Self::Outcome(Outcome::Failed(error.to_string()))
    }

    fn of(error: ApplyError) -> Self {
        match error {
            ApplyError::NamespaceEnds { .. } => Self::NamespaceEnds,
            error => Self::Outcome(outcome_of(&error)),
        }
    }
}

fn has_finalizer(relay: &OutboxRelay) -> bool {
    relay.finalizers().iter().any(|name| name == FINALIZER)
}

fn with_way_out(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Stalled { reason, message } => Outcome::Stalled {
            reason,
            message: format!("the state is not deleted: {message}\n{WAY_OUT}"),
        },
        other => other,
    }
}
