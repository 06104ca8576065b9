//! The Job that deletes the state of a resource that is deleted.

use super::Make;
use super::share::config_file;
use crate::child::{Child, Kind};
use crate::names;
use serde_json::json;

/// A relay that was killed holds its slots for a lease; the command waits for that, and a database may be slow.
const DEADLINE_SECONDS: u32 = 600;

/// Pods of one Job that may fail; then it is told, and tried again later.
const RETRIES: u32 = 2;

impl Make<'_> {
    pub(super) fn job(&self) -> Child {
        let file = config_file();
        let container = self.container(&["state", "delete", "--yes", "--file", &file]);
        let mut pod = self.pod(&container);
        pod["restartPolicy"] = json!("Never");
        let labels = names::job_labels(&self.name, "state-deletion");
        let spec = json!({
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        });
        self.child(Kind::Job, names::shared(&self.name), json!({"spec": spec}))
    }
}
