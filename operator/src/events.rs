//! Kubernetes Events for what happens to the data and to the resource, each once: the number of the newest data event
//! is kept in the status, and the name of an Event follows from what it reports, so that the API server refuses it a
//! second time, also after a restart of the operator.

use crate::apply::namespace_ends;
use crate::names::{MANAGER, checksum};
use crate::status::{MAX_SHARES, RelayView, ShareView};
use crds::outbox_relay::OutboxRelay;
use crds::outbox_relay::status::{OutboxRelayStatus, ReplayPhase, ReplayStatus, condition};
use crds::relay_status::{DataEvent, DataEventKind};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};

/// One Event that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Says the same for the same happening.
    pub key: String,
    /// Whether somebody should look.
    pub warning: bool,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// What became due: data events that were not reported yet, and a change of what keeps the resource from being ready.
pub fn due(previous: &OutboxRelayStatus, new: &OutboxRelayStatus, shares: &[ShareView]) -> Vec<Due> {
    let mut due = Vec::new();
    for share in shares.iter().take(MAX_SHARES) {
        let RelayView::Says(status) = &share.relay else {
            continue;
        };
        let known = previous
            .share_statuses
            .iter()
            .find(|known| known.share == share.share && known.process.as_ref() == Some(&status.process));
        let seen = known.and_then(|known| known.event_sequence).unwrap_or(0);
        let fresh = status.data_events.iter().filter(|event| event.sequence > seen);
        due.extend(fresh.filter_map(|event| of_data(&share.title(), &status.process, event)));
    }
    for type_ in [condition::READY, condition::STALLED] {
        due.extend(of_condition(type_, previous, new));
    }
    due.extend(of_replay(previous.replay.as_ref(), new.replay.as_ref()));
    due
}

fn of_replay(previous: Option<&ReplayStatus>, new: Option<&ReplayStatus>) -> Option<Due> {
    let new = new?;
    if previous.is_some_and(|before| (&before.id, before.phase) == (&new.id, new.phase)) {
        return None;
    }
    let reason = match new.phase {
        ReplayPhase::Pending => return None,
        ReplayPhase::Running => "ReplayStarted",
        ReplayPhase::Succeeded => "ReplaySucceeded",
        ReplayPhase::Failed => "ReplayFailed",
    };
    let mut text = format!("replay {}", new.id);
    if let (Some(letters), Some(replayed)) = (new.letters, new.replayed) {
        text += &format!(": {replayed} of {letters} dead letters replayed");
    }
    for (count, what) in [
        (new.failed, "failed again"),
        (new.waiting, "still asked for"),
        (new.refused, "refused"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            text += &format!(", {count} {what}");
        }
    }
    if let Some(message) = &new.message {
        text += &format!(": {message}");
    }
    let began = new.started_at.as_ref().map(|time| time.0);
    Some(Due {
        key: format!("replay/{}/{began:?}/{reason}", new.id),
        warning: new.phase == ReplayPhase::Failed,
        reason: reason.to_owned(),
        note: note(&text),
    })
}

fn of_data(share: &str, process: &str, event: &DataEvent) -> Option<Due> {
    let (reason, warning) = match event.kind {
        DataEventKind::CircuitOpened => ("CircuitOpened", true),
        DataEventKind::CircuitClosed => ("CircuitClosed", false),
        DataEventKind::DeadLettered => ("DeadLettered", true),
        DataEventKind::GenerationSwitched => ("GenerationSwitched", false),
        DataEventKind::StreamsChanged => ("StreamsChanged", false),
        DataEventKind::RetentionAtRisk => ("RetentionAtRisk", true),
        DataEventKind::RetentionGap => ("RetentionGap", true),
        DataEventKind::CheckpointStalled => ("CheckpointStalled", true),
        DataEventKind::SlotsTaken => ("SlotsTaken", false),
        DataEventKind::OwnershipLost => ("OwnershipLost", true),
        DataEventKind::LateEvents => ("LateEvents", true),
        DataEventKind::OrderNotPreserved => ("OrderNotPreserved", true),
        // Of a later program: its name is not known here.
        DataEventKind::Other => return None,
    };
    Some(Due {
        key: format!("{process}/{}", event.sequence),
        warning,
        reason: reason.to_owned(),
        note: note(&format!("{share}, {}: {}", event.time, event.message)),
    })
}

/// Bytes of a note that the API server accepts.
const MAX_NOTE: usize = 1024;

fn note(text: &str) -> String {
    let end = (0..=MAX_NOTE.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

/// Reasons of conditions that are worth an Event when they begin.
const WORTHY: &[(&str, bool)] = &[
    ("AllSharesReady", false),
    ("Paused", false),
    ("Draining", false),
    ("InvalidSpec", true),
    ("SecretNotFound", true),
    ("SecretKeyNotFound", true),
    ("NameConflict", true),
    ("ChildRefused", true),
    ("StateInUse", true),
    ("StateNotDeleted", true),
];

fn of_condition(type_: &str, previous: &OutboxRelayStatus, new: &OutboxRelayStatus) -> Option<Due> {
    let of = |status: &OutboxRelayStatus| {
        let condition = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)?;
        Some((
            condition.reason.clone(),
            condition.message.clone(),
            condition.last_transition_time.clone(),
        ))
    };
    let (reason, message, since) = of(new)?;
    let (_, warning) = WORTHY.iter().find(|(worthy, _)| *worthy == reason)?;
    // Ready repeats what Stalled says.
    let is_repeated = type_ == condition::READY && *warning;
    // A resource that comes up before anything was said of it is as everybody expects.
    let began = match of(previous) {
        Some((before, _, _)) => before != reason,
        None => reason != "AllSharesReady",
    };
    (began && !is_repeated).then(|| Due {
        key: format!("{type_}/{reason}/{:?}/{}", new.observed_generation, since.0),
        warning: *warning,
        reason,
        note: note(&message),
    })
}

/// Publishes; an Event that exists was published before.
///
/// # Errors
/// When the API server does not take one; those before it are published.
pub async fn publish(
    client: &Client,
    relay: &OutboxRelay,
    due: &[Due],
    instance: &str,
) -> Result<(), kube::Error> {
    let namespace = relay.namespace().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    for due in due {
        match api
            .create(&PostParams::default(), &event(relay, due, instance))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            // A namespace that is being deleted takes no Events; nobody reads them any more.
            Err(kube::Error::Api(status)) if namespace_ends(&status) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn event(relay: &OutboxRelay, due: &Due, instance: &str) -> Event {
    let name = relay.name_any();
    let uid = relay.uid().unwrap_or_default();
    let sum = checksum(format!("{uid}/{}", due.key).as_bytes());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}", sum.get(..16).unwrap_or(&sum))),
            namespace: relay.namespace(),
            ..ObjectMeta::default()
        },
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(due.note.clone()),
        reason: Some(due.reason.clone()),
        regarding: Some(relay.object_ref(&())),
        reporting_controller: Some(format!("outboxrelay.dev/{MANAGER}")),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(if due.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_between_characters() {
        let cut = note(&"\u{e9}".repeat(600));
        assert_eq!((cut.len(), cut.chars().count()), (1024, 512));
        assert_eq!(note(&format!("a{}", "\u{e9}".repeat(600))).len(), 1023);
    }
}
