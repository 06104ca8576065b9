//! What is ready and what is to be done where the relays are sidecars: how many there are, the application decides.

use super::conditions::{Verdict, no, shortcoming, yes};
use super::{ShareView, View};
use crate::names::RELAY;

/// Every slot is owned by a relay that is ready. Relays that are not needed for that may be as they are.
pub(super) fn ready(view: &View<'_>) -> Verdict {
    let sidecars: Vec<_> = view.shares.iter().filter(|share| share.wanted).collect();
    let ready = sidecars.iter().filter(|share| share.is_ready());
    let owned: u16 = ready
        .filter_map(|share| share.says())
        .map(|status| status.slots.owned)
        .sum();
    if owned >= crds::SLOTS {
        return yes(
            "AllSharesReady",
            "every slot is owned, read and able to be delivered",
        );
    }
    if let Some(verdict) = shortcoming(sidecars.iter().copied()) {
        return verdict;
    }
    if sidecars.is_empty() {
        let label = RELAY;
        return no(
            "NoSidecar",
            format!("no pod that runs carries the label {label} with this name"),
        );
    }
    let slots = crds::SLOTS;
    no("ShareNotReady", format!("{owned} of {slots} slots are owned"))
}

/// Sidecars that were started with another configuration than the resource now asks for. Their pods belong to the application,
/// so somebody else has to restart them. A Secret that was changed they read again by themselves.
pub(super) fn reconciling(view: &View<'_>) -> Verdict {
    let wanted = view.shares.iter().filter(|share| share.wanted);
    let asked: Vec<_> = wanted.filter(|share| share.says().is_some()).collect();
    let outdated = |share: &&&ShareView| {
        let runs_with = share.says().and_then(|status| status.configuration.as_deref());
        runs_with.is_some() && view.configuration.is_some() && runs_with != view.configuration
    };
    match asked.iter().filter(outdated).count() {
        0 => no("Reconciled", "the children are as the resource wants them"),
        count => yes(
            "SidecarsOutdated",
            format!(
                "{count} of {} sidecars run with a former configuration until their pods are restarted, as by kubectl rollout \
                 restart",
                asked.len()
            ),
        ),
    }
}
