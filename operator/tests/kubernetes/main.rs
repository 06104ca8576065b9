//! The operator on a real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler. It runs as a
//! process of its own with the rights of its own service account.
//!
//! There is no kubelet, so no container runs. [`played`] plays what is missing: it says that pods run, and answers
//! `/status` where the relays would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first thing that is not as it must be"
)]

mod autoscaling;
mod bench;
mod changes;
mod children;
mod cluster;
mod definition;
mod deletion;
mod outages;
mod played;
mod quiet;
mod running;
mod sidecar;
mod truth;
mod upgrade;
