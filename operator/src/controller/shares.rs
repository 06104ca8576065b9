//! The second half of a pass: what there is of each share, and what its relay says.

use super::{Identity, Operator};
use crate::names::share_label;
use crate::observe::Unknown;
use crate::plan::SeenShare;
use crate::status::{RelayView, ShareView};
use crate::watches::{NOT_YET, RelayPod, order, share_name};
use crds::outbox_relay::OutboxRelay;
use crds::pods::Placement;
use std::collections::BTreeSet;

impl Operator {
    /// `applied` are shares that exist although no watch may show them yet: a status that said otherwise would be
    /// corrected a moment later.
    pub(super) async fn look_at_shares(&self, relay: &OutboxRelay, applied: &[String]) -> Vec<ShareView> {
        let identity = Identity::of(relay);
        let deployments = self.world.shares(identity.owner());
        let pods = self.world.pods(identity.owner());
        let mut shares = Vec::new();
        let mut asked = Vec::new();
        for label in labels(&deployments, &pods, applied) {
            let pod = pod_of(&pods, &label);
            let is_seen = |share: &SeenShare| share.label == label && share.replicas > 0 && !share.deleting;
            let exists = applied.contains(&label) || deployments.iter().any(is_seen);
            if !exists && pod.is_none() {
                continue;
            }
            if let Some(address) = pod.and_then(|pod| pod.address) {
                asked.push((shares.len(), address));
            }
            shares.push(ShareView {
                share: share_name(&label),
                sidecar: false,
                wanted: relay.spec.placement == Placement::Deployments && is_wanted(relay, &label),
                exists,
                relay: RelayView::Absent(pod.map_or_else(|| NOT_YET.to_owned(), |pod| pod.why.clone())),
            });
        }
        for pod in sidecars(relay, &deployments, &pods) {
            asked.extend(pod.address.map(|address| (shares.len(), address)));
            shares.push(ShareView {
                share: pod.name.clone(),
                sidecar: true,
                wanted: relay.spec.placement == Placement::Sidecar && !pod.deleting,
                exists: true,
                relay: RelayView::Absent(pod.why.clone()),
            });
        }
        let addresses: Vec<_> = asked.iter().map(|(_, address)| *address).collect();
        let answers = match self.secrets.access(relay).await {
            Ok(access) => self.observer.ask_all(&addresses, &access).await,
            Err(why) => vec![Err(Unknown::Access(why)); addresses.len()],
        };
        for ((index, _), answer) in asked.into_iter().zip(answers) {
            let result = if answer.is_ok() { "answered" } else { "unknown" };
            self.metrics.observations.with_label_values(&[result]).inc();
            shares[index].relay = match answer {
                Ok(status) => RelayView::Says(Box::new(status)),
                Err(why) => RelayView::Unknown(why.to_string()),
            };
        }
        shares
    }
}

/// Sidecars that count: beside shares that run they stand by and own nothing.
fn sidecars<'a>(
    relay: &OutboxRelay,
    deployments: &[SeenShare],
    pods: &'a [RelayPod],
) -> impl Iterator<Item = &'a RelayPod> {
    let runs = |share: &SeenShare| share.replicas > 0 && !share.deleting;
    let count = relay.spec.placement == Placement::Sidecar || !deployments.iter().any(runs);
    pods.iter().filter(move |pod| pod.sidecar && count)
}

/// Shares that exist in any form, in order.
fn labels(deployments: &[SeenShare], pods: &[RelayPod], applied: &[String]) -> Vec<String> {
    let of_deployments = deployments.iter().map(|share| share.label.clone());
    let of_pods = pods.iter().filter_map(|pod| pod.share.clone());
    let applied = applied.iter().cloned();
    let labels: BTreeSet<_> = of_deployments.chain(of_pods).chain(applied).collect();
    let mut labels: Vec<_> = labels.into_iter().collect();
    labels.sort_by_key(|label| order(label));
    labels
}

fn is_wanted(relay: &OutboxRelay, label: &str) -> bool {
    let (count, index) = order(label);
    count == relay.spec.shares && share_label(index, count) == label
}

/// The pod that stands for a share: one that stays rather than one that stops, one that runs rather than one that does
/// not.
fn pod_of<'a>(pods: &'a [RelayPod], label: &str) -> Option<&'a RelayPod> {
    pods.iter()
        .filter(|pod| pod.share.as_deref() == Some(label))
        .max_by_key(|pod| (!pod.deleting, pod.address.is_some()))
}
