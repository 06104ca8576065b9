//! What is answered: which resource a selector means, and its lag as a value. Pure.

use super::{GROUP, METRIC, VERSION};
use crds::outbox_relay::OutboxRelay;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Label of the values: the name of their OutboxRelay.
const RELAY: &str = "relay";

/// The name that a label selector asks for; None asks for all of the namespace.
pub(super) fn selected(selector: &str) -> Result<Option<String>, String> {
    let selector = selector.trim();
    if selector.is_empty() {
        return Ok(None);
    }
    let wanted = selector.split_once("==").or_else(|| selector.split_once('='));
    match wanted.map(|(label, name)| (label.trim(), name.trim())) {
        Some((RELAY, name)) if is_name(name) => Ok(Some(name.to_owned())),
        _ => Err(format!(
            "labelSelector: found {selector:?}; accepted: {RELAY}=<name of an OutboxRelay>"
        )),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The lag of these resources. One of which nothing is known is left out: an autoscaler then leaves it as it is.
pub(super) fn list(relays: &[OutboxRelay], now: Timestamp) -> Value {
    let value = |relay: &OutboxRelay| {
        let lag = relay.status.as_ref()?.lag_seconds?;
        Some(json!({
            "metricName": METRIC,
            "metricLabels": {RELAY: relay.name_any()},
            "timestamp": now,
            "value": lag.to_string(),
        }))
    };
    let items: Vec<_> = relays.iter().filter_map(value).collect();
    json!({
        "kind": "ExternalMetricValueList",
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": {},
        "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::outbox_relay::OutboxRelaySpec;
    use crds::outbox_relay::status::OutboxRelayStatus;

    #[test]
    fn a_selector_names_one_resource_or_none_at_all() {
        for (selector, expected) in [
            ("", None),
            ("relay=orders", Some("orders")),
            (" relay == orders ", Some("orders")),
        ] {
            assert_eq!(selected(selector), Ok(expected.map(str::to_owned)), "{selector}");
        }
        for wrong in [
            "relay",
            "relay!=orders",
            "relay=",
            "relay=a,b=c",
            "app=orders",
            "relay in (a)",
        ] {
            assert!(
                selected(wrong).unwrap_err().contains("accepted: relay="),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let relay = |name: &str, lag_seconds| {
            let mut relay = OutboxRelay::new(name, OutboxRelaySpec::default());
            relay.status = Some(OutboxRelayStatus {
                lag_seconds,
                ..OutboxRelayStatus::default()
            });
            relay
        };
        let now = Timestamp::from_second(1_000).unwrap();
        let list = list(&[relay("a", Some(90)), relay("b", None)], now);
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(
            (&items[0]["metricLabels"]["relay"], &items[0]["value"]),
            (&json!("a"), &json!("90"))
        );
        assert_eq!(items[0]["timestamp"], "1970-01-01T00:16:40Z");
    }
}
