//! One pass over a resource, and the loop that makes passes. This is the shell: what is decided, is decided in
//! [`crate::validate`], [`crate::desired`], [`crate::plan`] and [`crate::status`].

mod children;
mod deletion;
mod jobs;
mod replay;
mod shares;

use crate::apply::{Applier, Owner};
use crate::desired::Settings;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::references::Secrets;
use crate::status::{Outcome, RelayView, ShareView, View, Write, roll_up, when_to_write};
use crate::watches::{Triggers, World};
use crate::{backoff, events, names};
use children::Made;
use crds::outbox_relay::OutboxRelay;
use crds::outbox_relay::status::{OutboxRelayStatus, ReplayPhase, condition};
use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use rand::random;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Time between two looks at relays that are not ready: somebody waits for them. It costs the API server nothing.
const LOOK_WHILE_NOT_READY: Duration = Duration::from_secs(2);

/// A burst of triggers of one resource becomes one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A child could not be made true for now.
    #[error("{0}")]
    Child(String),
    /// Status or Events could not be written.
    #[error("the status cannot be reported: {0}")]
    Report(#[source] Box<kube::Error>),
    /// The finalizer could not be set or removed.
    #[error("the finalizer cannot be changed: {0}")]
    Finalizer(#[source] Box<kube::Error>),
    /// A bug.
    #[error("the pass panicked: {0}")]
    Panic(String),
}

impl PassError {
    /// All values of the label `category`.
    pub(crate) const CATEGORIES: [&str; 4] = ["child", "report", "finalizer", "panic"];

    fn category(&self) -> &'static str {
        match self {
            Self::Child(_) => "child",
            Self::Report(_) => "report",
            Self::Finalizer(_) => "finalizer",
            Self::Panic(_) => "panic",
        }
    }
}

/// Everything that a pass uses.
pub struct Operator {
    /// To the API server, with the operator's own rights.
    pub client: Client,
    /// As told at the start.
    pub settings: Settings,
    /// What is watched.
    pub world: World,
    /// Makes children true.
    pub applier: Applier,
    /// Reads what resources refer to.
    pub secrets: Secrets,
    /// Asks relays.
    pub observer: Observer,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Name of this process, for Events.
    pub instance: String,
    /// Whether the cluster knows ServiceMonitors.
    pub service_monitors: AtomicBool,
    memory: Mutex<HashMap<String, Memory>>,
}

/// Whose children are looked at.
struct Identity {
    namespace: String,
    name: String,
    uid: String,
}

impl Identity {
    fn of(relay: &OutboxRelay) -> Self {
        Self {
            namespace: relay.namespace().unwrap_or_default(),
            name: relay.name_any(),
            uid: relay.uid().unwrap_or_default(),
        }
    }

    fn owner(&self) -> Owner<'_> {
        Owner {
            namespace: &self.namespace,
            name: &self.name,
            uid: &self.uid,
        }
    }
}

/// What is remembered of a resource between passes, by UID. None of it is needed after a restart.
#[derive(Debug)]
struct Memory {
    /// When the first pass over it began.
    known_since: Instant,
    failures: u32,
    /// The first status is kept back.
    unreported: bool,
    /// The status as it was written last: the watch may lag behind.
    written: Option<(Instant, OutboxRelayStatus)>,
    /// Whether a ServiceMonitor that is not wanted was looked for.
    unmonitored: bool,
    /// The Job of a replay whose result is told, and which is not kept any longer than its log may be wanted.
    let_go: Option<String>,
    /// Whether somebody else has the name of a child: then all names are looked at before anything is made.
    contested: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            known_since: Instant::now(),
            failures: 0,
            unreported: false,
            written: None,
            unmonitored: false,
            let_go: None,
            contested: false,
        }
    }
}

impl Operator {
    /// With these parts; what was read of Secrets is read again after `fresh`.
    ///
    /// # Errors
    /// When there can be no HTTP client.
    pub fn new(
        client: Client,
        settings: Settings,
        world: World,
        metrics: Arc<Metrics>,
        instance: String,
        fresh: Duration,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            applier: Applier::new(client.clone()),
            secrets: Secrets::new(client.clone(), fresh),
            observer: Observer::new(settings.port)?,
            client,
            settings,
            world,
            metrics,
            instance,
            service_monitors: AtomicBool::new(false),
            memory: Mutex::default(),
        })
    }

    /// Makes passes until `stop`; those that run come to their end.
    pub async fn run(self: Arc<Self>, mut triggers: Triggers, concurrency: u16, stop: CancellationToken) {
        let Some(first) = until_listed(self.world.ready(), &mut triggers, &stop).await else {
            return;
        };
        let metrics = self.metrics.clone();
        let queue = stream::unfold((triggers, metrics), |(mut triggers, metrics)| async move {
            let relay = triggers.recv().await?;
            metrics
                .queue
                .set(i64::try_from(triggers.len()).unwrap_or(i64::MAX));
            Some((Ok::<_, Infallible>(relay), (triggers, metrics)))
        });
        let queue = stream::iter(first.into_iter().map(Ok)).chain(queue);
        let config = controller::Config::default()
            .concurrency(concurrency)
            .debounce(DEBOUNCE);
        let passes = kube::runtime::applier(
            |relay, operator: Arc<Self>| Box::pin(reconcile(relay, operator)),
            |relay, error, operator: Arc<Self>| operator.after_error(&relay, error),
            self.clone(),
            self.world.relays.clone(),
            Box::pin(queue.take_until(stop.cancelled_owned())),
            config,
        );
        passes
            .for_each(|pass| {
                if let Err(controller::Error::ObjectNotFound(gone)) = pass {
                    self.forget(&gone.name, gone.namespace.as_deref());
                }
                std::future::ready(())
            })
            .await;
    }

    fn after_error(&self, relay: &OutboxRelay, error: &PassError) -> Action {
        let failures = self.remember(relay, |memory| {
            memory.failures = memory.failures.saturating_add(1);
            memory.failures
        });
        let delay = backoff::delay(failures, random());
        self.metrics
            .reconcile_errors
            .with_label_values(&[error.category()])
            .inc();
        warn!(
            namespace = relay.namespace(), name = relay.name_any(), %error, failures,
            again_in_milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "a pass failed"
        );
        Action::requeue(delay)
    }

    fn remember<T>(&self, relay: &OutboxRelay, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(
            self.memory
                .lock()
                .entry(relay.uid().unwrap_or_default())
                .or_default(),
        )
    }

    /// The resource is gone, and Kubernetes removes its children.
    fn forget(&self, name: &str, namespace: Option<&str>) {
        let known: HashSet<_> = self
            .world
            .relays
            .state()
            .iter()
            .filter_map(|relay| relay.uid())
            .collect();
        self.memory.lock().retain(|uid, _| known.contains(uid));
        let shared = names::shared(name);
        self.applier
            .forget(namespace.unwrap_or_default(), |child| child.starts_with(&shared));
    }

    /// One pass; how long until the next one if nothing happens.
    async fn pass(&self, relay: &OutboxRelay) -> Result<Duration, PassError> {
        let previous = self.remember(relay, |memory| memory.written.clone().map(|(_, status)| status));
        let previous = previous.or_else(|| relay.status.clone()).unwrap_or_default();
        let known = previous.replay.as_ref();
        let (made, replay) = if relay.metadata.deletion_timestamp.is_some() {
            let replay = self.give_up_replay(relay, known).await?;
            match self.end(relay).await? {
                Some(outcome) => (Made::nothing(outcome), replay),
                // Kubernetes removes the children; the relays drain as they are stopped.
                None => return Ok(self.settings.look_every),
            }
        } else {
            self.keep_finalizer(relay).await?;
            let made = self.make_children(relay).await;
            let replay = self.replay(relay, known, &made.outcome).await;
            (made, replay)
        };
        let shares = self.look_at_shares(relay, &made.shares).await;
        let status = roll_up(&View {
            generation: relay.metadata.generation,
            paused: relay.spec.paused,
            placement: relay.spec.placement,
            count: relay.spec.shares,
            configuration: made.configuration.as_deref(),
            selector: &names::selector_text(&relay.name_any(), relay.spec.placement),
            outcome: &made.outcome,
            shares: &shares,
            replay: replay.as_ref(),
            previous: &previous,
            now: Timestamp::now(),
        });
        let unwritten = self.report(relay, &previous, &status, &shares).await?;
        match made.outcome {
            Outcome::Failed(error) => Err(PassError::Child(error)),
            // Nobody watches its Job.
            Outcome::Applied(_) if goes_on(&status) => Ok(LOOK_WHILE_NOT_READY.min(self.settings.look_every)),
            // Of pods that do not run yet a watch will tell; a thousand resources that start must not be looked at for it.
            Outcome::Applied(_) if is_ready(&status) || nobody_to_ask(&shares) => {
                let again = self.settings.look_every;
                Ok(unwritten.map_or(again, |left| left.min(again)))
            }
            Outcome::Applied(_) | Outcome::Deleting(_) | Outcome::Stalled { .. } => {
                Ok(LOOK_WHILE_NOT_READY.min(self.settings.look_every))
            }
        }
    }

    /// Events before the status: what the status says was published, was published. When a status that is kept back is to
    /// be written.
    async fn report(
        &self,
        relay: &OutboxRelay,
        previous: &OutboxRelayStatus,
        status: &OutboxRelayStatus,
        shares: &[ShareView],
    ) -> Result<Option<Duration>, PassError> {
        let failed = |error| PassError::Report(Box::new(error));
        let due = events::due(previous, status, shares);
        self.metrics.events.inc_by(due.len() as u64);
        events::publish(&self.client, relay, &due, &self.instance)
            .await
            .map_err(failed)?;
        let (since, known_for) = self.remember(relay, |memory| {
            let since = memory.written.as_ref().map(|(at, _)| at.elapsed());
            (since, memory.known_since.elapsed())
        });
        let others = self
            .memory
            .lock()
            .values()
            .filter(|memory| memory.unreported)
            .count();
        let write = when_to_write(previous, status, since, (known_for, others));
        self.remember(relay, |memory| {
            memory.unreported = previous.conditions.is_empty() && write != Write::Now;
        });
        match write {
            Write::Now => {}
            Write::After(left) => return Ok(Some(left)),
            Write::No => return Ok(None),
        }
        self.write(relay, status).await.map_err(failed)?;
        self.metrics.status_writes.inc();
        let written = Some((Instant::now(), status.clone()));
        self.remember(relay, |memory| memory.written = written);
        Ok(None)
    }

    async fn write(&self, relay: &OutboxRelay, status: &OutboxRelayStatus) -> Result<(), kube::Error> {
        let api: Api<OutboxRelay> =
            Api::namespaced(self.client.clone(), &relay.namespace().unwrap_or_default());
        let patch = serde_json::json!({
            "apiVersion": crds::API_VERSION,
            "kind": crds::outbox_relay::KIND,
            // A resource of the same name that was made since is another one.
            "metadata": {"uid": relay.uid()},
            "status": status,
        });
        // What the definition does not know is dropped in any case; checking for it would be a tenth of the work.
        let parameters = PatchParams::apply(names::MANAGER)
            .force()
            .validation(ValidationDirective::Ignore);
        match api
            .patch_status(&relay.name_any(), &parameters, &Patch::Apply(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(error)) if error.is_not_found() || error.is_conflict() => {
                debug!(name = relay.name_any(), "the resource is gone");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// What was triggered until every watch has listed what there is; None if it is to stop. Nobody makes passes before, but
/// triggers are taken all the same: a watch that waits for room in their queue does not come to the end of its list.
async fn until_listed(
    listed: impl Future<Output = ()>,
    triggers: &mut Triggers,
    stop: &CancellationToken,
) -> Option<HashSet<ObjectRef<OutboxRelay>>> {
    let mut triggered = HashSet::new();
    let mut listed = pin!(listed);
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            () = &mut listed => return Some(triggered),
            Some(relay) = triggers.recv() => {
                triggered.insert(relay);
            }
        }
    }
}

fn nobody_to_ask(shares: &[ShareView]) -> bool {
    shares
        .iter()
        .all(|share| matches!(share.relay, RelayView::Absent(_)))
}

/// A replay is under way, and nothing else has to happen first.
fn goes_on(status: &OutboxRelayStatus) -> bool {
    let replay = status.replay.as_ref();
    replay.is_some_and(|replay| match replay.phase {
        ReplayPhase::Pending => replay.message.is_none(),
        ReplayPhase::Running => true,
        ReplayPhase::Succeeded | ReplayPhase::Failed => false,
    })
}

fn is_ready(status: &OutboxRelayStatus) -> bool {
    let ready =
        |known: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| known.type_ == condition::READY;
    status
        .conditions
        .iter()
        .find(ready)
        .is_some_and(|ready| ready.status == "True")
}

async fn reconcile(relay: Arc<OutboxRelay>, operator: Arc<Operator>) -> Result<Action, PassError> {
    let metrics = operator.metrics.clone();
    metrics
        .resources
        .set(i64::try_from(operator.world.relays.len()).unwrap_or(i64::MAX));
    metrics.reconciling.inc();
    let timer = metrics.reconcile_seconds.start_timer();
    // A task of its own, so that a panic ends the pass and not the operator.
    let pass = tokio::spawn({
        let (relay, operator) = (relay.clone(), operator.clone());
        async move { operator.pass(&relay).await }
    });
    let result = pass
        .await
        .unwrap_or_else(|error| Err(PassError::Panic(error.to_string())));
    timer.observe_duration();
    metrics.reconciling.dec();
    let again = result?;
    operator.remember(&relay, |memory| memory.failures = 0);
    Ok(Action::requeue(backoff::spread(again, random())))
}

/// Keeps looking whether the cluster knows ServiceMonitors: the prometheus-operator may come later.
pub async fn look_for_service_monitors(operator: Arc<Operator>) {
    loop {
        let found = operator
            .client
            .list_api_group_resources("monitoring.coreos.com/v1")
            .await;
        match found {
            Ok(list) => {
                let known = list
                    .resources
                    .iter()
                    .any(|resource| resource.kind == "ServiceMonitor");
                operator.service_monitors.store(known, Ordering::Relaxed);
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                operator.service_monitors.store(false, Ordering::Relaxed);
            }
            Err(error) => debug!(%error, "the API server was not asked for ServiceMonitors"),
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{mpsc, oneshot};

    #[tokio::test(start_paused = true)]
    async fn more_triggers_than_their_queue_holds_do_not_keep_the_watches_from_their_lists() {
        let (sender, mut triggers) = mpsc::channel(1);
        let (end_of_list, listed) = oneshot::channel();
        tokio::spawn(async move {
            for name in ["a", "b", "b", "c"] {
                let relay = ObjectRef::new(name).within("shop");
                sender.send(relay).await.unwrap();
            }
            end_of_list.send(()).unwrap();
            // As a watch does, it goes on.
            std::future::pending::<()>().await;
            drop(sender);
        });
        let stop = CancellationToken::new();
        let listed = async { listed.await.unwrap() };
        let wait = until_listed(listed, &mut triggers, &stop);
        let first = tokio::time::timeout(Duration::from_secs(60), wait).await;
        let mut triggered = first.expect("the watch waits for ever").unwrap();
        // The last one may still be in the queue.
        triggered.extend(triggers.try_recv());
        assert_eq!(triggered.len(), 3);
    }
}
