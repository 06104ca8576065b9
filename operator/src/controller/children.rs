//! The first half of a pass: from the resource to its children.

use super::{Identity, Operator};
use crate::apply::{Applied, ApplyError, Owner, SeenObject};
use crate::child::{Child, Kind};
use crate::desired::{Children, NotWritable, References, children, wants_service_monitor};
use crate::names;
use crate::plan::{SeenShare, Waiting, in_the_way, plan};
use crate::references::Broken;
use crate::status::Outcome;
use crate::validate::validate;
use crate::watches::RelayPod;
use crds::RelayConfig;
use crds::outbox_relay::OutboxRelay;
use kube::ResourceExt;
use std::sync::atomic::Ordering;

/// What became of the children.
pub(super) struct Made {
    pub(super) outcome: Outcome,
    /// Checksum of the configuration that relays are to run with, if there is a valid one.
    pub(super) configuration: Option<String>,
    /// Labels of shares whose Deployments are as they must be and ask for a pod, also where no watch shows them yet.
    pub(super) shares: Vec<String>,
}

/// A child that was made in this pass.
pub(super) struct New {
    kind: Kind,
    name: String,
    object: SeenObject,
}

impl Made {
    /// Nothing is known of the children.
    pub(super) fn nothing(outcome: Outcome) -> Self {
        Self {
            outcome,
            configuration: None,
            shares: Vec::new(),
        }
    }
}

impl Operator {
    /// Makes the children true as far as that can be done now. As long as the specification or a reference is broken
    /// nothing is applied: what runs, runs on.
    pub(super) async fn make_children(&self, relay: &OutboxRelay) -> Made {
        let identity = Identity::of(relay);
        let owner = identity.owner();
        let shares = self.world.shares(owner);
        let wanted = match self.wanted(relay).await {
            Ok(wanted) => wanted,
            Err(outcome) => {
                let stopped = self.stop_if_paused(relay, owner, &shares).await;
                return Made::nothing(stopped.err().unwrap_or(outcome));
            }
        };
        let mut new = Vec::new();
        let mut made = self.make(relay, owner, &wanted, &shares, &mut new).await;
        if matches!(made, Err(ApplyError::Foreign { .. })) {
            self.remember(relay, |memory| memory.contested = true);
            made = self.take_back(owner, new).await.and(made);
        }
        let (outcome, shares) = made.map_or_else(
            |error| (outcome_of(&error), Vec::new()),
            |(waiting, shares)| (Outcome::Applied(waiting), shares),
        );
        Made {
            outcome,
            shares,
            configuration: Some(wanted.configuration),
        }
    }

    /// All children, built before one is applied.
    async fn wanted(&self, relay: &OutboxRelay) -> Result<Children, Outcome> {
        let (config, references) = self.basis(relay).await?;
        children(relay, &config, &references, &self.settings).map_err(|error| not_writable(&error))
    }

    /// What children are made from.
    pub(super) async fn basis(&self, relay: &OutboxRelay) -> Result<(RelayConfig, References), Outcome> {
        let config = validate(relay, self.settings.port).map_err(|problems| Outcome::Stalled {
            reason: "InvalidSpec",
            message: problems.to_string(),
        })?;
        let found = self.secrets.fetch(relay).await;
        let found = found.map_err(|error| Outcome::Failed(format!("Secrets cannot be read: {error}")))?;
        let references = References {
            service_monitors: self.service_monitors.load(Ordering::Relaxed),
            ..found.map_err(|broken| of_broken(&broken))?
        };
        Ok((config, references))
    }

    /// What is waited for, and the shares that were applied.
    async fn make(
        &self,
        relay: &OutboxRelay,
        owner: Owner<'_>,
        wanted: &Children,
        shares: &[SeenShare],
        new: &mut Vec<New>,
    ) -> Result<(Option<Waiting>, Vec<String>), ApplyError> {
        // Nothing that runs is stopped or changed before all names are known to be free. Where nothing runs yet the names
        // are tried: what was made is taken back.
        if !shares.is_empty() || self.remember(relay, |memory| memory.contested) {
            for child in wanted.iter() {
                let seen = self.seen(owner, child);
                self.applier.admit(owner, child, seen.as_ref()).await?;
            }
            self.remember(relay, |memory| memory.contested = false);
        }
        for child in &wanted.shared {
            new.extend(self.apply(owner, child).await?);
        }
        let pods = self.world.pods(owner);
        let pods: Vec<_> = pods.iter().map(RelayPod::seen).collect();
        let has_sidecars = pods.iter().any(|pod| pod.sidecar);
        let blocking = in_the_way(relay.spec.placement, shares, pods);
        let plan = plan(&wanted.shares, shares, &blocking);
        for name in &plan.delete {
            if let Some(seen) = self.world.seen(Kind::Deployment, owner.namespace, name) {
                self.applier.remove(owner, Kind::Deployment, name, &seen).await?;
            }
        }
        let mut applied = Vec::new();
        for share in plan.apply.iter().map(|index| &wanted.shares[*index]) {
            new.extend(self.apply(owner, &share.child).await?);
            applied.extend((share.replicas > 0).then(|| share.label.clone()));
        }
        if plan.waiting.is_none() && !self.is_replaying(relay) {
            self.remove_orphans(relay, owner, wanted, has_sidecars).await?;
        }
        Ok((plan.waiting, applied))
    }

    /// What was made, if there was none.
    pub(super) async fn apply(&self, owner: Owner<'_>, child: &Child) -> Result<Option<New>, ApplyError> {
        let seen = self.seen(owner, child);
        let applied = self.applier.apply(owner, child, seen.as_ref()).await?;
        if applied != Applied::Already {
            self.metrics.applies.with_label_values(&[child.kind.name()]).inc();
        }
        Ok(match applied {
            Applied::Made(object) => Some(New {
                kind: child.kind,
                name: child.name.clone(),
                object,
            }),
            Applied::Already | Applied::Changed => None,
        })
    }

    /// Of a resource whose names are not all free there is nothing new.
    async fn take_back(&self, owner: Owner<'_>, new: Vec<New>) -> Result<(), ApplyError> {
        for New { kind, name, object } in new.iter().rev() {
            self.applier.remove(owner, *kind, name, object).await?;
        }
        Ok(())
    }

    fn seen(&self, owner: Owner<'_>, child: &Child) -> Option<SeenObject> {
        self.world.seen(child.kind, owner.namespace, &child.name)
    }

    /// ConfigMaps that nothing was started with any more, what the other placement needed, and a ServiceMonitor that is
    /// not wanted any more.
    async fn remove_orphans(
        &self,
        relay: &OutboxRelay,
        owner: Owner<'_>,
        wanted: &Children,
        has_sidecars: bool,
    ) -> Result<(), ApplyError> {
        let is_wanted = |kind, name: &str| {
            wanted
                .iter()
                .any(|child| child.kind == kind && child.name == name)
        };
        let shared = names::shared(&relay.name_any());
        let mut in_use = self.world.configs_in_use(owner);
        if has_sidecars {
            // Without it no pod of the application would start.
            in_use.push(shared.clone());
        }
        for (name, seen) in self.world.config_maps(owner) {
            if !is_wanted(Kind::ConfigMap, &name) && !in_use.contains(&name) {
                self.applier.remove(owner, Kind::ConfigMap, &name, &seen).await?;
            }
        }
        for kind in [Kind::ServiceAccount, Kind::PodDisruptionBudget] {
            if let Some(seen) = self.world.seen(kind, owner.namespace, &shared)
                && !is_wanted(kind, &shared)
            {
                self.applier.remove(owner, kind, &shared, &seen).await?;
            }
        }
        if wants_service_monitor(relay) || !self.service_monitors.load(Ordering::Relaxed) {
            self.remember(relay, |memory| memory.unmonitored = false);
        } else if !self.remember(relay, |memory| memory.unmonitored) {
            if let Some(seen) = self.applier.look(owner, Kind::ServiceMonitor, &shared).await? {
                self.applier
                    .remove(owner, Kind::ServiceMonitor, &shared, &seen)
                    .await?;
            }
            self.remember(relay, |memory| memory.unmonitored = true);
        }
        Ok(())
    }

    /// A resource that is broken can be paused all the same.
    async fn stop_if_paused(
        &self,
        relay: &OutboxRelay,
        owner: Owner<'_>,
        shares: &[SeenShare],
    ) -> Result<(), Outcome> {
        if relay.spec.paused {
            for share in shares.iter().filter(|share| share.replicas > 0) {
                let stopped = self.applier.stop(owner, &share.name).await;
                stopped.map_err(|error| outcome_of(&error))?;
            }
        }
        Ok(())
    }
}

pub(super) fn not_writable(error: &NotWritable) -> Outcome {
    Outcome::Stalled {
        reason: "InvalidSpec",
        message: error.to_string(),
    }
}

fn of_broken(broken: &[Broken]) -> Outcome {
    let lines: Vec<_> = broken.iter().map(Broken::to_string).collect();
    Outcome::Stalled {
        reason: broken.first().map_or("SecretNotFound", Broken::reason),
        message: lines.join("\n"),
    }
}

pub(super) fn outcome_of(error: &ApplyError) -> Outcome {
    let reason = match error {
        ApplyError::Foreign { .. } => "NameConflict",
        ApplyError::Refused { .. } => "ChildRefused",
        ApplyError::NamespaceEnds { .. } | ApplyError::Api { .. } => {
            return Outcome::Failed(error.to_string());
        }
    };
    Outcome::Stalled {
        reason,
        message: error.to_string(),
    }
}
