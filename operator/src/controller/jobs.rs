//! What is looked at of the Jobs that the operator makes. They are few and end soon, so nobody watches them.

use super::Operator;
use crate::apply::Owner;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;

/// A condition of a Job that is true.
pub(super) fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|one| one.type_ == type_ && one.status == "True")
}

/// What Kubernetes says of it.
pub(super) fn reason(condition: &JobCondition) -> Option<String> {
    condition.message.clone().or_else(|| condition.reason.clone())
}

impl Operator {
    pub(super) fn jobs(&self, owner: Owner<'_>) -> Api<Job> {
        Api::namespaced(self.client.clone(), owner.namespace)
    }

    /// The pods of a Job, the newest first.
    pub(super) async fn pods_of_job(&self, owner: Owner<'_>, job: &str) -> Result<Vec<Pod>, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), owner.namespace);
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let mut pods = pods.list(&of_job).await?.items;
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
        pods.reverse();
        Ok(pods)
    }
}
