//! What became of a replay, in a few words for whoever reads it from a file and not from the output: the operator, by the
//! termination message of the command's container.

use std::path::Path;

use anyhow::Context as _;
use crds::replay::ReplayResult;
use serde_json::Value;

/// Bytes of the explanation. Kubernetes cuts a termination message at 4096 bytes, and what is cut is no JSON any more; escapes
/// make at most six bytes of one.
const MAX_MESSAGE: usize = 500;

/// Writes it, given the document that `--json` prints.
pub(super) fn write(path: &Path, document: &Value) -> anyhow::Result<()> {
    let text = serde_json::to_string(&result(document))?;
    std::fs::write(path, text).with_context(|| format!("--result-file {}", path.display()))
}

fn result(document: &Value) -> ReplayResult {
    let number = |field: &str| document[field].as_u64().unwrap_or(0);
    let count = |field: &str| document[field].as_array().map_or(0, Vec::len) as u64;
    ReplayResult {
        letters: number("letters"),
        replayed: number("replayed"),
        failed: count("failed"),
        waiting: number("waiting"),
        refused: count("refused"),
        message: message(document),
    }
}

/// The first letter of each kind that was not delivered: all of them are in the output.
fn message(document: &Value) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(refused) = document["refused"].as_array().and_then(|all| all.first()) {
        let text = |field: &str| refused[field].as_str().unwrap_or_default();
        parts.push(format!("refused: {}: {}", text("eventId"), text("reason")));
    }
    if let Some(failed) = document["failed"].as_array().and_then(|all| all.first()) {
        parts.push(format!("failed again: {}", failed.as_str().unwrap_or_default()));
    }
    if document["waiting"].as_u64().is_some_and(|waiting| waiting > 0) {
        parts.push("the rest was not carried out".to_owned());
    }
    let mut message = parts.join("; ");
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    (!message.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_are_those_of_the_document_and_the_first_of_each_kind_is_named() {
        let document = json!({
            "dryRun": false, "letters": 5, "replayed": 2, "failed": ["f1", "f2"], "waiting": 1,
            "refused": [{"eventId": "r1", "reason": "it has no payload"}, {"eventId": "r2", "reason": "x"}],
        });
        let expected = ReplayResult {
            letters: 5,
            replayed: 2,
            failed: 2,
            waiting: 1,
            refused: 2,
            message: Some(
                "refused: r1: it has no payload; failed again: f1; the rest was not carried out".to_owned(),
            ),
        };
        assert_eq!(result(&document), expected);
        let document = json!({"letters": 3, "replayed": 3, "failed": [], "refused": [], "waiting": 0});
        assert_eq!(result(&document).message, None);
    }

    #[test]
    fn it_fits_into_a_termination_message_whatever_events_are_called() {
        for id in ["\u{1}".repeat(9000), "\u{1f980}".repeat(9000)] {
            let document =
                json!({"letters": u64::MAX, "failed": [id], "refused": [{"eventId": id, "reason": id}]});
            let text = serde_json::to_string(&result(&document)).unwrap();
            assert!(text.len() <= 4096, "{} bytes", text.len());
        }
    }
}
