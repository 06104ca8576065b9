//! The range of every number and the size of every text and list, in one place: validation, the custom resource's
//! schema and the documentation take them from here.

use crate::problems::Problems;
use serde_json::Value;

/// Range of a whole number.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    /// The field.
    pub path: &'static str,
    /// The smallest accepted value.
    pub min: u64,
    /// The largest accepted value.
    pub max: u64,
}

/// Size of a text, a list or a map.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// The field; `[]` stands for every element of a list, `{}` for every value of a map.
    pub path: &'static str,
    /// Characters, elements or entries at most.
    pub max: u64,
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// All numbers.
pub const NUMBERS: &[Number] = &[
    // A share owns at least one of the 64 slots.
    number("shares", 1, 64),
    // Sooner than ten times a second the looks cost more than what they find.
    number("source.pollIntervalMilliseconds", 100, HOUR * 1000),
    number("source.horizonSeconds", 1, HOUR),
    number("source.duplicateWindowSeconds", 0, HOUR),
    number("source.load.maxConcurrentQueries", 1, 4096),
    number("source.load.queriesPerSecond", 1, 1_000_000),
    number("source.load.rampSeconds", 0, HOUR),
    number("source.load.deletesPerSecond", 1, 1_000_000),
    number("source.load.snapshotRowsPerSecond", 1, 1_000_000),
    number("source.reconcile.intervalSeconds", 1, 30 * DAY),
    number("source.reconcile.marginSeconds", 0, DAY),
    number("source.reconcile.rowsPerSecond", 1, 1_000_000),
    number("retry.maxAttempts", 1, 1000),
    number("retry.initialBackoffMilliseconds", 1, HOUR * 1000),
    number("retry.maxBackoffMilliseconds", 1, HOUR * 1000),
    // Below 100 the delay would shrink from attempt to attempt.
    number("retry.multiplierPercent", 100, 1000),
    number("retry.attemptTimeoutMilliseconds", 100, 600_000),
    number("circuitBreaker.failureThreshold", 1, 10_000),
    number("circuitBreaker.openSeconds", 1, DAY),
    number("circuitBreaker.successThreshold", 1, 1000),
    number("tracing.samplePercent", 0, 100),
    number("deadLetter.maxReplays", 1, 1000),
    number("deadLetter.replay.initialBackoffSeconds", 1, DAY),
    number("deadLetter.replay.maxBackoffSeconds", 1, 7 * DAY),
    number("deadLetter.replay.lettersPerSecond", 1, 10_000),
    number("deadLetter.replayRequest.olderThanSeconds", 0, 30 * DAY),
    number("deadLetter.replayRequest.lettersPerSecond", 1, 10_000),
    // A lease must outlast a slow lightweight transaction (about a second) with a margin.
    number("state.leaseSeconds", 2, 300),
    number("state.checkpointIntervalMilliseconds", 10, 60_000),
    number("memory.inFlightMessages", 1, 1_000_000),
    number("memory.inFlightBytes", MIB, 4 * GIB),
    number("monitoring.intervalSeconds", 1, HOUR),
];

/// All texts, lists and maps.
pub const SIZES: &[Size] = &[
    size("identity", 253),
    size("source.contactPoints", 64),
    // The longest DNS name, a colon and a port.
    size("source.contactPoints[]", 259),
    size("source.localDatacenter", 100),
    size("source.keyspace", NAME),
    size("source.table", NAME),
    size("source.startFrom", 40),
    size("source.columns.id", NAME),
    size("source.columns.aggregateId", NAME),
    size("source.columns.aggregateType", NAME),
    size("source.columns.eventType", NAME),
    size("source.columns.payload", NAME),
    size("source.columns.createdAt", NAME),
    size("source.columns.sequence", NAME),
    size("source.columns.headers", NAME),
    size("source.columns.traceContext", NAME),
    size("source.credentialsSecretRef.name", SECRET),
    size("source.credentialsSecretRef.usernameKey", SECRET),
    size("source.credentialsSecretRef.passwordKey", SECRET),
    size("source.tls.caSecretRef.name", SECRET),
    size("source.tls.caSecretRef.key", SECRET),
    size("source.tls.certificateSecretRef.name", SECRET),
    size("source.tls.certificateSecretRef.certificateKey", SECRET),
    size("source.tls.certificateSecretRef.privateKeyKey", SECRET),
    size("sink.bootstrapServers", 64),
    size("sink.bootstrapServers[]", 259),
    // Kafka's 249 characters and room for the names of columns.
    size("sink.topic", 500),
    size("sink.keyColumn", NAME),
    size("sink.cloudEvents.source", 500),
    size("sink.cloudEvents.dataContentType", 200),
    size("sink.headers", 32),
    size("sink.headers[].name", 100),
    size("sink.headers[].column", NAME),
    size("sink.headers[].value", 1000),
    size("sink.tls.caSecretRef.name", SECRET),
    size("sink.tls.caSecretRef.key", SECRET),
    size("sink.tls.certificateSecretRef.name", SECRET),
    size("sink.tls.certificateSecretRef.certificateKey", SECRET),
    size("sink.tls.certificateSecretRef.privateKeyKey", SECRET),
    size("sink.sasl.credentialsSecretRef.name", SECRET),
    size("sink.sasl.credentialsSecretRef.usernameKey", SECRET),
    size("sink.sasl.credentialsSecretRef.passwordKey", SECRET),
    // The longest URL that servers agree on.
    size("sink.sasl.oauthBearer.tokenEndpoint", 2000),
    size("sink.sasl.oauthBearer.scope", 1000),
    size("sink.sasl.oauthBearer.caSecretRef.name", SECRET),
    size("sink.sasl.oauthBearer.caSecretRef.key", SECRET),
    size("http.tls.certificateSecretRef.name", SECRET),
    size("http.tls.certificateSecretRef.certificateKey", SECRET),
    size("http.tls.certificateSecretRef.privateKeyKey", SECRET),
    size("http.tls.caSecretRef.name", SECRET),
    size("http.tls.caSecretRef.key", SECRET),
    size("http.tokenSecretRef.name", SECRET),
    size("http.tokenSecretRef.key", SECRET),
    size("tracing.endpoint", 2000),
    size("sink.properties", 64),
    size("sink.properties{}", 1000),
    size("deadLetter.table", 2 * NAME + 1),
    size("deadLetter.topic", 249),
    size("deadLetter.replayRequest.id", 100),
    size("deadLetter.replayRequest.eventId", 500),
    size("deadLetter.replayRequest.eventType", 500),
    size("deadLetter.replayRequest.aggregateId", 500),
    size("state.keyspace", NAME),
    size("log.level", 500),
    size("template.image", 500),
    size("template.imagePullSecrets", 16),
    size("template.imagePullSecrets[]", SECRET),
    size("template.labels", 64),
    size("template.labels{}", LABEL),
    size("template.annotations", 64),
    size("template.annotations{}", 4096),
    size("template.nodeSelector", 64),
    size("template.nodeSelector{}", LABEL),
    size("template.tolerations", 32),
    size("template.tolerations[].key", 317),
    size("template.tolerations[].value", LABEL),
    size("template.priorityClassName", SECRET),
    size("template.resources.requests", 16),
    size("template.resources.requests{}", 40),
    size("template.resources.limits", 16),
    size("template.resources.limits{}", 40),
    size("monitoring.labels", 64),
    size("monitoring.labels{}", LABEL),
];

/// Names of keyspaces and tables: ScyllaDB takes up to 192 bytes since 2025.2 (scylladb#4480), and 48 before.
pub(crate) const NAME: u64 = 192;

/// Names of Secrets and of their keys, as Kubernetes limits them.
const SECRET: u64 = 253;

/// Values of labels, as Kubernetes limits them.
const LABEL: u64 = 63;

const fn number(path: &'static str, min: u64, max: u64) -> Number {
    Number { path, min, max }
}

const fn size(path: &'static str, max: u64) -> Size {
    Size { path, max }
}

impl Number {
    /// The range in words.
    pub fn accepted(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }

    /// The range of a field, if it holds a number.
    pub fn of(path: &str) -> Option<&'static Self> {
        NUMBERS.iter().find(|number| number.path == path)
    }
}

/// Checks all numbers and sizes of a configuration, given as JSON.
pub(crate) fn check(config: &Value, problems: &mut Problems) {
    for number in NUMBERS {
        each(config, number.path, "", &mut |path, value| {
            if value.as_u64().is_none_or(|n| n < number.min || n > number.max) {
                problems.refuse(path, value, number.accepted());
            }
        });
    }
    for size in SIZES {
        each(config, size.path, "", &mut |path, value| {
            let (length, what) = match value {
                Value::String(text) => (text.chars().count(), "characters"),
                Value::Array(list) => (list.len(), "elements"),
                Value::Object(map) => (map.len(), "entries"),
                _ => (0, ""),
            };
            if length as u64 > size.max {
                problems.refuse(
                    path,
                    format!("{length} {what}"),
                    format!("at most {} {what}", size.max),
                );
            }
        });
    }
}

/// Calls `visit` with the path and value of every field that `pattern` names below `value`.
fn each(value: &Value, pattern: &str, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    let pattern = pattern.strip_prefix('.').unwrap_or(pattern);
    if pattern.is_empty() {
        visit(path, value);
    } else if let (Some(rest), Value::Array(list)) = (pattern.strip_prefix("[]"), value) {
        for (index, element) in list.iter().enumerate() {
            each(element, rest, &format!("{path}[{index}]"), visit);
        }
    } else if let (Some(rest), Value::Object(map)) = (pattern.strip_prefix("{}"), value) {
        for (key, element) in map {
            each(element, rest, &format!("{path}[{key}]"), visit);
        }
    } else {
        let end = pattern.find(['.', '[', '{']).unwrap_or(pattern.len());
        let (field, rest) = pattern.split_at(end);
        if let Some(element) = value.get(field) {
            let path = if path.is_empty() {
                field.to_owned()
            } else {
                format!("{path}.{field}")
            };
            each(element, rest, &path, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RelayConfig;
    use crate::outbox_relay::OutboxRelaySpec;
    use serde_json::json;

    #[test]
    fn every_number_of_the_defaults_has_a_range_that_holds_it() {
        let mut defaults = serde_json::to_value(RelayConfig::default()).unwrap();
        let resource = serde_json::to_value(OutboxRelaySpec::default()).unwrap();
        for part in ["template", "monitoring"] {
            defaults[part] = resource[part].clone();
        }
        let reconcile = serde_json::to_value(crate::source::Reconcile::default()).unwrap();
        defaults["source"]["reconcile"] = reconcile;
        let replay = serde_json::to_value(crate::dead_letter::AutomaticReplay::default()).unwrap();
        defaults["deadLetter"]["replay"] = replay;
        let request = crate::replay::ReplayRequest {
            older_than_seconds: Some(0),
            ..Default::default()
        };
        defaults["deadLetter"]["replayRequest"] = serde_json::to_value(request).unwrap();
        defaults["tracing"] = serde_json::to_value(crate::Tracing::default()).unwrap();
        let mut numbers = Vec::new();
        collect_numbers(&defaults, String::new(), &mut numbers);
        let mut ranged: Vec<_> = NUMBERS.iter().map(|number| number.path.to_owned()).collect();
        ranged.sort();
        numbers.sort();
        assert_eq!(numbers, ranged);
        let mut problems = Problems::default();
        check(&defaults, &mut problems);
        assert_eq!(problems, Problems::default());
    }

    fn collect_numbers(value: &Value, path: String, into: &mut Vec<String>) {
        match value {
            Value::Number(_) => into.push(path.trim_start_matches('.').to_owned()),
            Value::Object(map) => {
                for (key, value) in map {
                    collect_numbers(value, format!("{path}.{key}"), into);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn both_ends_belong_to_a_range() {
        for (attempts, expected) in [(0, 1), (1, 0), (1000, 0), (1001, 1)] {
            let mut problems = Problems::default();
            check(&json!({"retry": {"maxAttempts": attempts}}), &mut problems);
            assert_eq!(problems.len(), expected, "{attempts}");
        }
    }

    #[test]
    fn elements_of_lists_and_maps_are_reached() {
        let long = "x".repeat(1001);
        let config = json!({"sink": {
            "bootstrapServers": ["a:1", long],
            "headers": [{"name": "n", "value": long}],
            "properties": {"linger.ms": long},
        }});
        let mut problems = Problems::default();
        check(&config, &mut problems);
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "sink.bootstrapServers[1]",
                "sink.headers[0].value",
                "sink.properties[linger.ms]"
            ]
        );
    }
}
