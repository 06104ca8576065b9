//! From a resource to the configuration of its relays, or everything that is wrong with it. What the resource's schema
//! and rules see was refused before; here the same validation as in the relay and the command line looks at the rest.

use crate::names::MAX_NAME;
use crds::outbox_relay::OutboxRelay;
use crds::relay_config::LogFormat;
use crds::{Problems, RelayConfig};
use kube::ResourceExt;
use std::path::Path;

/// Where Secrets are mounted in a relay's container.
pub const SECRETS_DIR: &str = "/etc/outbox-relay/secrets";

/// The configuration that the relays of a resource load. They listen on `port` and write JSON lines.
///
/// # Errors
/// All that is wrong with the resource.
pub fn validate(relay: &OutboxRelay, port: u16) -> Result<RelayConfig, Problems> {
    let name = relay.name_any();
    let mut problems = Problems::default();
    if !is_name(&name) {
        let accepted = format!("at most {MAX_NAME} lower case letters, digits and dashes, from a letter on");
        problems.refuse_text("metadata.name", &name, accepted);
    }
    let namespace = relay.namespace().unwrap_or_default();
    let config = relay.spec.relay_config(&name, &namespace, Path::new(SECRETS_DIR));
    match config {
        Ok(mut config) if problems.is_empty() => {
            config.http.listen = format!("0.0.0.0:{port}");
            config.log.format = LogFormat::Json;
            Ok(config)
        }
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// A label of DNS that begins with a letter, short enough for the names of children.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::outbox_relay::OutboxRelaySpec;

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let mut relay = OutboxRelay::new("Orders.x", OutboxRelaySpec::default());
        relay.metadata.namespace = Some("shop".to_owned());
        let problems = validate(&relay, 9090).unwrap_err().to_string();
        for expected in [
            "metadata.name: found \"Orders.x\"",
            "spec.source.contactPoints: missing",
            "spec.sink.topic: missing",
        ] {
            assert!(problems.contains(expected), "{expected} in\n{problems}");
        }
    }
}
