//! Which share Deployments are applied and removed now, and what is waited for: a pure function of what is wanted and
//! what is there. It is asked again after every change, so it keeps no state and an operator that starts in the middle
//! goes on.
//!
//! - Shares of another count drain first: their Deployments are deleted, and the new ones are made when their last pod
//!   is gone. (The relays' claims on slots keep order in any case; this makes the change quick and visible.)
//! - Shares whose pod template changes are rolled one after another, each ready before the next.
//! - Pausing and resuming, and the first start, are for all shares at once.

use crate::desired::Share;
use crds::pods::Placement;

/// A share Deployment that exists and belongs to the resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenShare {
    /// Its share, as in `2-of-4`.
    pub label: String,
    /// Name of the Deployment.
    pub name: String,
    /// Checksum of the pod template that was applied last.
    pub revision: Option<String>,
    /// Replicas that it asks for.
    pub replicas: i32,
    /// Whether its controller has acted on the newest generation and the relay is ready.
    pub ready: bool,
    /// Whether its controller has acted on the newest generation and no pod of a former one is left.
    pub settled: bool,
    /// Whether it is as it was made: its pod is its first.
    pub unchanged: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A pod of the resource that has not gone yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenPod {
    /// Whether it is a pod of the application, and the relay its sidecar.
    pub sidecar: bool,
    /// Its share, as in `2-of-4`; none if it carries no such label.
    pub share: Option<String>,
    /// Its name.
    pub name: String,
}

/// What is done now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Positions of wanted shares that are applied.
    pub apply: Vec<usize>,
    /// Names of Deployments that are deleted.
    pub delete: Vec<String>,
    /// What is waited for before the rest is done.
    pub waiting: Option<Waiting>,
}

/// Why not everything is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Pods that must be gone before new shares start.
    Draining(Vec<String>),
    /// The share that must be ready before the next one is rolled.
    Rolling(String),
    /// The share whose first pod is not there yet.
    Starting(String),
}

/// The pods that must be gone before shares start. Sidecars hold back shares that would start beside them; for shares
/// that run they are no reason to stop, because the relays' claims keep a sidecar that comes later out.
pub fn in_the_way(placement: Placement, seen: &[SeenShare], pods: Vec<SeenPod>) -> Vec<SeenPod> {
    let runs = |share: &SeenShare| share.replicas > 0 && !share.deleting;
    let bear_sidecars = placement == Placement::Sidecar || seen.iter().any(runs);
    pods.into_iter()
        .filter(|pod| !(pod.sidecar && bear_sidecars))
        .collect()
}

/// What to do so that `wanted` becomes true.
pub fn plan(wanted: &[Share], seen: &[SeenShare], pods: &[SeenPod]) -> Plan {
    let is_wanted = |label: &str| wanted.iter().any(|share| share.label == label);
    let stale: Vec<_> = seen.iter().filter(|share| !is_wanted(&share.label)).collect();
    let mut plan = Plan {
        delete: stale
            .iter()
            .filter(|share| !share.deleting)
            .map(|share| share.name.clone())
            .collect(),
        ..Plan::default()
    };
    let mut draining: Vec<String> = pods
        .iter()
        .filter(|pod| pod.share.as_deref().is_none_or(|label| !is_wanted(label)))
        .map(|pod| pod.name.clone())
        .collect();
    if draining.is_empty() {
        // A Deployment that was never acted on has no pod, and may still make one.
        draining.extend(stale.iter().map(|share| share.name.clone()));
    }
    let mut outdated = Vec::new();
    let mut rolling = None;
    let unsettled = seen
        .iter()
        .find(|known| !known.settled && known.replicas > 0 && is_wanted(&known.label));
    for (index, share) in wanted.iter().enumerate() {
        let known = seen.iter().find(|seen| seen.label == share.label);
        match known {
            Some(known) if known.deleting => draining.push(known.name.clone()),
            None => {
                let left = pods
                    .iter()
                    .filter(|pod| pod.share.as_deref() == Some(&share.label));
                let left: Vec<_> = left.map(|pod| pod.name.clone()).collect();
                if left.is_empty() {
                    plan.apply.push(index);
                }
                draining.extend(left);
            }
            Some(known) if share.replicas == 0 || known.replicas == 0 => {
                plan.apply.push(index);
            }
            Some(known) if known.revision.as_ref() == Some(&share.revision) => {
                plan.apply.push(index);
                if !known.ready {
                    rolling.get_or_insert_with(|| share.label.clone());
                }
            }
            // A relay that delivers nothing is mended before one that delivers is stopped.
            Some(known) => outdated.push((known.ready, index)),
        }
    }
    if !draining.is_empty() {
        // What runs is kept in shape; nothing is started.
        let starts = |index: &usize| {
            let known = seen.iter().find(|seen| seen.label == wanted[*index].label);
            wanted[*index].replicas > 0 && known.is_none_or(|known| known.replicas == 0)
        };
        plan.apply.retain(|index| !starts(index));
        plan.waiting = Some(Waiting::Draining(draining));
    } else if let (None, Some((_, index))) = (&rolling, outdated.iter().min()) {
        plan.apply.push(*index);
        rolling = Some(wanted[*index].label.clone());
        plan.waiting = rolling.map(Waiting::Rolling);
    } else if !outdated.is_empty() {
        plan.waiting = rolling.map(Waiting::Rolling);
    } else {
        // All was applied, and the last of it still happens: what answers may be a former relay.
        plan.waiting = unsettled.map(|known| {
            let label = known.label.clone();
            if known.unchanged {
                Waiting::Starting(label)
            } else {
                Waiting::Rolling(label)
            }
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::{Child, Kind};
    use crate::names::share_label;

    fn wanted(count: u32, revision: &str, replicas: u32) -> Vec<Share> {
        (1..=count)
            .map(|index| Share {
                label: share_label(index, count),
                revision: revision.to_owned(),
                replicas,
                child: Child {
                    kind: Kind::Deployment,
                    name: share_label(index, count),
                    object: serde_json::Value::Null,
                },
            })
            .collect()
    }

    /// `1-of-2 a ready`: share, revision and what else is the case.
    fn seen(lines: &[&str]) -> Vec<SeenShare> {
        lines
            .iter()
            .map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                SeenShare {
                    label: words[0].to_owned(),
                    name: format!("d-{}", words[0]),
                    revision: Some(words[1].to_owned()),
                    replicas: i32::from(!words.contains(&"paused")),
                    ready: words.contains(&"ready"),
                    settled: !words.contains(&"moving"),
                    unchanged: words.contains(&"new"),
                    deleting: words.contains(&"deleting"),
                }
            })
            .collect()
    }

    fn pods(shares: &[&str]) -> Vec<SeenPod> {
        let pod = |share: &&str| SeenPod {
            sidecar: false,
            share: Some((*share).to_owned()),
            name: format!("p-{share}"),
        };
        shares.iter().map(pod).collect()
    }

    fn draining(names: &[&str]) -> Option<Waiting> {
        Some(Waiting::Draining(
            names.iter().map(|name| (*name).to_owned()).collect(),
        ))
    }

    fn rolling(share: &str) -> Option<Waiting> {
        Some(Waiting::Rolling(share.to_owned()))
    }

    #[track_caller]
    fn check(
        wanted: &[Share],
        shares: &[&str],
        of_pods: &[&str],
        apply: &[usize],
        delete: &[&str],
        waiting: Option<Waiting>,
    ) {
        let plan = plan(wanted, &seen(shares), &pods(of_pods));
        assert_eq!(
            (plan.apply, plan.delete, plan.waiting),
            (
                apply.to_vec(),
                delete.iter().map(|name| (*name).to_owned()).collect(),
                waiting
            ),
            "{shares:?} {of_pods:?}"
        );
    }

    #[test]
    fn the_first_start_is_for_all_shares_at_once() {
        check(&wanted(3, "a", 1), &[], &[], &[0, 1, 2], &[], None);
        check(&wanted(2, "a", 1), &["1-of-2 a"], &["1-of-2"], &[0, 1], &[], None);
    }

    #[test]
    fn a_new_template_goes_from_share_to_share() {
        let to = wanted(3, "b", 1);
        let all = ["1-of-3", "2-of-3", "3-of-3"];
        let all_a = ["1-of-3 a ready", "2-of-3 a ready", "3-of-3 a ready"];
        check(&to, &all_a, &all, &[0], &[], rolling("1-of-3"));
        let first_starts = ["1-of-3 b", "2-of-3 a ready", "3-of-3 a ready"];
        check(&to, &first_starts, &all[1..], &[0], &[], rolling("1-of-3"));
        let first_is_ready = ["1-of-3 b ready", "2-of-3 a ready", "3-of-3 a ready"];
        check(&to, &first_is_ready, &all, &[0, 1], &[], rolling("2-of-3"));
        let done = ["1-of-3 b ready", "2-of-3 b ready", "3-of-3 b ready"];
        check(&to, &done, &all, &[0, 1, 2], &[], None);
        let last = ["1-of-3 b ready", "2-of-3 b ready", "3-of-3 b moving"];
        check(&to, &last, &all, &[0, 1, 2], &[], rolling("3-of-3"));
    }

    #[test]
    fn a_broken_relay_is_mended_first_and_alone() {
        let mended = wanted(3, "c", 1);
        let half_rolled = ["1-of-3 a ready", "2-of-3 b", "3-of-3 a ready"];
        check(&mended, &half_rolled, &[], &[1], &[], rolling("2-of-3"));
    }

    #[test]
    fn other_counts_drain_before_the_new_shares_start() {
        let to = wanted(3, "b", 1);
        let old = ["1-of-2 a ready", "2-of-2 a ready"];
        let (names, running) = (["d-1-of-2", "d-2-of-2"], ["1-of-2", "2-of-2"]);
        check(
            &to,
            &old,
            &running,
            &[],
            &names,
            draining(&["p-1-of-2", "p-2-of-2"]),
        );
        check(&to, &[], &["2-of-2"], &[], &[], draining(&["p-2-of-2"]));
        let unseen = ["1-of-2 a deleting"];
        check(&to, &unseen, &[], &[], &[], draining(&["d-1-of-2"]));
        check(&to, &[], &[], &[0, 1, 2], &[], None);
    }

    #[test]
    fn a_first_start_is_no_roll() {
        let to = wanted(1, "a", 1);
        let starting = Some(Waiting::Starting("1-of-1".to_owned()));
        check(&to, &["1-of-1 a moving new"], &[], &[0], &[], starting);
        check(&to, &["1-of-1 a moving"], &[], &[0], &[], rolling("1-of-1"));
        check(&to, &["1-of-1 a new"], &[], &[0], &[], None);
    }

    #[test]
    fn a_share_that_was_deleted_by_hand_comes_back_when_its_pod_is_gone() {
        let to = wanted(2, "a", 1);
        check(
            &to,
            &["1-of-2 a ready"],
            &["1-of-2", "2-of-2"],
            &[0],
            &[],
            draining(&["p-2-of-2"]),
        );
        check(&to, &["1-of-2 a ready"], &["1-of-2"], &[0, 1], &[], None);
    }

    #[test]
    fn pausing_and_resuming_are_for_all_at_once() {
        let both = ["1-of-2 a ready", "2-of-2 a"];
        check(
            &wanted(2, "b", 0),
            &both,
            &["1-of-2", "2-of-2"],
            &[0, 1],
            &[],
            None,
        );
        let paused = ["1-of-2 a paused", "2-of-2 a paused"];
        check(&wanted(2, "b", 1), &paused, &[], &[0, 1], &[], None);
    }

    #[test]
    fn resuming_with_another_count_starts_nothing_before_the_old_is_gone() {
        let paused = ["1-of-2 a paused", "2-of-2 a paused"];
        let names = ["d-1-of-2", "d-2-of-2"];
        check(&wanted(3, "a", 1), &paused, &[], &[], &names, draining(&names));
        // While paused the new Deployments are made beside the old ones: they start nothing.
        check(
            &wanted(3, "a", 0),
            &paused,
            &[],
            &[0, 1, 2],
            &names,
            draining(&names),
        );
    }

    #[test]
    fn sidecars_hold_back_what_would_start_and_nothing_that_runs() {
        let sidecar = SeenPod {
            sidecar: true,
            share: None,
            name: "app".to_owned(),
        };
        let of = |placement, shares: &[&str], wanted: &[Share]| {
            let seen = seen(shares);
            let pods = in_the_way(placement, &seen, vec![sidecar.clone()]);
            let plan = plan(wanted, &seen, &pods);
            (plan.apply, plan.delete.len(), plan.waiting)
        };
        let to = wanted(1, "a", 1);
        // The application still has its sidecars.
        assert_eq!(
            of(Placement::Deployments, &[], &to),
            (vec![], 0, draining(&["app"]))
        );
        assert_eq!(
            of(Placement::Deployments, &["1-of-1 a ready"], &to),
            (vec![0], 0, None)
        );
        // The shares drain, and sidecars may be there before they have.
        let drains = draining(&["d-1-of-1"]);
        assert_eq!(
            of(Placement::Sidecar, &["1-of-1 a ready"], &[]),
            (vec![], 1, drains)
        );
        assert_eq!(of(Placement::Sidecar, &[], &[]), (vec![], 0, None));
    }
}
