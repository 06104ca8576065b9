//! Leader election by a Lease: of several operators one works, the others wait. Clocks are not compared: a Lease has
//! expired when it was seen unchanged for its whole duration on the own monotonic clock.

use crate::names::MANAGER;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Who does not renew for this long has lost. These are the durations of Kubernetes' own controllers.
pub const DURATION: Duration = Duration::from_secs(15);

/// A leader that could not renew for this long stops before another one may begin.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Time between two attempts.
pub const RETRY: Duration = Duration::from_secs(2);

/// What is known of the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    holder: String,
    /// Changes with every renewal.
    version: String,
    at: Instant,
}

/// When it was last known that somebody leads.
#[derive(Debug, Default)]
pub struct Led(Mutex<Option<Instant>>);

impl Led {
    /// Whether somebody leads now, as far as can be known: what a leader keeps true is true.
    pub fn is_fresh(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < DURATION + RETRY)
    }

    fn at(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }
}

/// One candidate.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    me: String,
    seen: Option<Seen>,
    led: Arc<Led>,
}

/// What a candidate may do with a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is ours: renew it.
    Renew,
    /// It is free or has expired: take it.
    Take,
    /// Somebody else leads.
    Wait,
}

fn judge(seen: &Seen, me: &str, now: Instant) -> Verdict {
    if seen.holder == me {
        Verdict::Renew
    } else if seen.holder.is_empty() || now.saturating_duration_since(seen.at) >= DURATION {
        Verdict::Take
    } else {
        Verdict::Wait
    }
}

impl Candidate {
    /// A candidate `me`, unlike any other, for the Lease `name`.
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            seen: None,
            led: Arc::default(),
        }
    }

    /// Shared: follows what this candidate sees of the Lease.
    pub fn led(&self) -> Arc<Led> {
        self.led.clone()
    }

    /// Waits until this candidate leads, or until `stop`; true if it leads. `reached` is called whenever the API server
    /// has answered.
    pub async fn elected(&mut self, stop: &CancellationToken, reached: impl Fn()) -> bool {
        loop {
            match self.attempt().await {
                Ok(leads) => {
                    reached();
                    if leads {
                        info!(candidate = self.me, "leads");
                        return true;
                    }
                }
                Err(error) => warn!(%error, "the Lease cannot be read or written"),
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Renews until `stop`, or until the lead is lost: then it returns false.
    pub async fn lead(&mut self, stop: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                () = tokio::time::sleep(RETRY) => {}
            }
            let sent = Instant::now();
            let left = RENEW_DEADLINE.saturating_sub(sent.saturating_duration_since(renewed));
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = sent,
                Ok(Ok(false)) => return false,
                Ok(Err(error)) => warn!(%error, "the Lease cannot be renewed"),
                Err(_) => warn!("the Lease was not renewed in time"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return false;
            }
        }
    }

    /// Gives the lead away, so that the next one need not wait for the Lease to expire.
    pub async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else {
            return;
        };
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_ref() == Some(&self.me)
        {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            if let Err(error) = self.replace(&lease).await {
                warn!(%error, "the Lease was not released; it expires by itself");
            }
        }
    }

    /// One look at the Lease, and one write if it may be ours; true if it is ours afterwards.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return self.create().await;
        };
        let seen = self.look(&lease);
        let verdict = judge(&seen, &self.me, Instant::now());
        if verdict == Verdict::Wait {
            self.led.at(seen.at);
            return Ok(false);
        }
        let mut lease = lease;
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        let acquired = lease.spec.as_ref().and_then(|spec| spec.acquire_time.clone());
        let mut spec = self.spec();
        spec.lease_transitions = Some(transitions.unwrap_or(0) + i32::from(verdict == Verdict::Take));
        if verdict == Verdict::Renew {
            spec.acquire_time = acquired;
        }
        lease.spec = Some(spec);
        match self.replace(&lease).await {
            Ok(()) => {
                self.led.at(Instant::now());
                Ok(true)
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn look(&mut self, lease: &Lease) -> Seen {
        let version = lease.resource_version().unwrap_or_default();
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let at = match &self.seen {
            Some(seen) if seen.version == version => seen.at,
            _ => Instant::now(),
        };
        let seen = Seen {
            holder: holder.unwrap_or_default(),
            version,
            at,
        };
        self.seen = Some(seen.clone());
        seen
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec()),
        };
        match self.api.create(&parameters(), &lease).await {
            Ok(_) => {
                self.led.at(Instant::now());
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<(), kube::Error> {
        self.api
            .replace(&self.name, &parameters(), lease)
            .await
            .map(|_| ())
    }

    fn spec(&self) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_was_seen_unchanged_for_its_duration() {
        let start = Instant::now();
        let seen = |holder: &str| Seen {
            holder: holder.to_owned(),
            version: "1".to_owned(),
            at: start,
        };
        let almost = start + DURATION - Duration::from_millis(1);
        for (holder, now, expected) in [
            ("me", almost, Verdict::Renew),
            ("", start, Verdict::Take),
            ("other", almost, Verdict::Wait),
            ("other", start + DURATION, Verdict::Take),
        ] {
            assert_eq!(judge(&seen(holder), "me", now), expected, "{holder:?}");
        }
    }
}
