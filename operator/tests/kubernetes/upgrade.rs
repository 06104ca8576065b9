//! From an older definition of the resource, with resources that live, to the present one.

use crate::cluster::{
    Place, administrator, apply_any, control, documents, minimal, prepare, prepare_with, scratch, start,
};
use crate::played::Relays;
use crate::running::operator_with;
use serde_json::{Value, json};

/// One file per released form of the definition; none is ever removed as long as resources of it may exist.
const OLDER: &[&str] = &["operator/tests/kubernetes/older/outboxrelays-1.yaml"];

pub(crate) async fn resources_of_every_older_definition_go_on_with_the_present_one() {
    for older in OLDER {
        let dir = scratch("kubernetes-upgrade");
        start(&dir);
        prepare_with(&dir, older).await;
        let place = Place::on(&dir, "upgrade").await;
        // All that the older form could say.
        let mut production = documents("deploy/samples/production.yaml").remove(0);
        production["metadata"] = json!({"name": "production"});
        place.apply(&production).await.unwrap();
        place.apply(&minimal("orders")).await.unwrap();
        let before = place.relays().get("orders").await.unwrap();

        // Before the definition, as Helm may do it: the present operator works with the older form as well.
        let relays = Relays::play(&place).await;
        let _operator = operator_with(&place, relays.port, "one", &[], true).await;
        place.until_ready("orders").await;
        prepare(&dir).await;

        let after = place.relays().get("orders").await.unwrap();
        assert_eq!(after.metadata.uid, before.metadata.uid);
        for (field, value) in before.data["spec"].as_object().unwrap() {
            let now = &after.data["spec"][field];
            assert!(holds(now, value), "{field}: {now}");
        }
        relays.forget();
        // A field that the older form did not have, and one that it did.
        place
            .change("orders", json!({"deletionPolicy": "Retain", "shares": 2}))
            .await
            .unwrap();
        let ready = place.until_ready("orders").await;
        assert_eq!(ready["status"]["shares"], 2);
        assert!(
            place
                .change("orders", json!({"source": {"table": "other"}}))
                .await
                .is_err()
        );
        place.change("production", json!({"shares": 3})).await.unwrap();
        apply_any(&administrator(&dir).await, &{
            production["metadata"]["namespace"] = json!(place.namespace);
            production
        })
        .await;
        control(&dir, "stop", &[]);
    }
}

/// Fields that are new have their defaults; what was there is as it was.
fn holds(now: &Value, before: &Value) -> bool {
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => before
            .iter()
            .all(|(name, before)| now.get(name).is_some_and(|now| holds(now, before))),
        (now, before) => now == before,
    }
}
