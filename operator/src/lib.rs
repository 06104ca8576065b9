//! The control plane: turns `OutboxRelay` resources into relay Deployments, and tells what their relays really do.
//!
//! One pass over a resource is `references -> validate -> desired -> plan -> apply -> observe -> status`, each a
//! module. [`validate`], [`desired`], [`plan`] and [`status`] are pure; [`controller`] calls them in this order.

pub mod apply;
pub mod backoff;
pub mod child;
pub mod cli;
pub mod controller;
pub mod desired;
pub mod events;
pub mod external_metrics;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod observe;
pub mod plan;
pub mod references;
pub mod replay;
pub mod status;
pub mod validate;
pub mod watches;
