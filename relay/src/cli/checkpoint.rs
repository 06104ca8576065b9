//! `outbox-relay checkpoint`: what the state keyspace holds of one identity's progress. Only `reset` changes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crds::sink::{Guarantee, journal_topic};
use serde_json::{Value, json};

use super::{CheckpointCommand, Exit};
use crate::cdc_log::session::connect;
use crate::clock::SystemClock;
use crate::health::timestamp;
use crate::model::{Micros, SECOND, SlotId};
use crate::ports::{Clock as _, StateError};
use crate::state::checkpoint::FORMAT;
use crate::state::scylla::{Partition, ScyllaState};

/// Exit code 1 if the state cannot be read, wholly or of one slot.
pub async fn checkpoint(command: &CheckpointCommand) -> Exit {
    let (file, export) = match command {
        CheckpointCommand::Show(file) => (file, false),
        CheckpointCommand::Export(file) => (file, true),
        CheckpointCommand::Reset(args) => return super::reset::reset(args).await,
    };
    let config = match super::file::load(file) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let (identity, keyspace) = (&config.identity, &config.state.keyspace);
    let slots = match read(&config).await {
        Ok(slots) => slots,
        Err(error) => {
            eprintln!("{error:#}");
            return Exit::Failed;
        }
    };
    if export {
        println!("{:#}", document(identity, keyspace, &slots));
    } else {
        print!(
            "{}",
            table(identity, keyspace, &slots, SystemClock::start().now())
        );
        if config.sink.guarantee == Guarantee::ExactlyOnce {
            println!(
                "topic {} holds what was resolved since each was saved",
                journal_topic(identity)
            );
        }
    }
    if slots.iter().all(|(_, slot)| slot.is_ok()) {
        Exit::Fine
    } else {
        Exit::Failed
    }
}

/// A slot, or why its checkpoint cannot be read.
type Slots = Vec<(SlotId, Result<Partition, StateError>)>;

async fn read(config: &crds::RelayConfig) -> anyhow::Result<Slots> {
    let session = connect(&config.source).await?;
    if !ScyllaState::is_there(&session, &config.state.keyspace).await? {
        return Ok(Vec::new());
    }
    let state = ScyllaState::open(session, &config.state.keyspace, &config.identity).await?;
    let mut slots = Vec::new();
    for slot in SlotId::all() {
        match state.look(slot).await {
            Ok(Partition { epoch: None, .. }) => {}
            Err(error) if !matches!(error, StateError::Unreadable { .. }) => return Err(error.into()),
            looked => slots.push((slot, looked)),
        }
    }
    Ok(slots)
}

/// A line per slot, and what they say together.
fn table(identity: &str, keyspace: &str, slots: &Slots, now: Micros) -> String {
    let mut text = String::new();
    if slots.is_empty() {
        return format!("keyspace {keyspace} holds nothing of identity {identity}\n");
    }
    let _ = writeln!(
        text,
        "{:>4} {:>6} {:<26} {:>10} {:>9} {:>9} owner",
        "slot", "epoch", "bound", "behind", "resolved", "revision"
    );
    let (mut oldest, mut snapshots): (Option<Micros>, _) = (None, 0);
    for (slot, state) in slots {
        let slot = slot.index();
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                let _ = writeln!(text, "{slot:>4} {error}");
                continue;
            }
        };
        let epoch = state.epoch.map_or(0, |epoch| epoch.0);
        let owner = state.owner.as_deref().unwrap_or("(none)");
        let Some(saved) = &state.loaded.checkpoint else {
            let _ = writeln!(
                text,
                "{slot:>4} {epoch:>6} {:<26} {:>30} {owner}",
                "nothing saved", ""
            );
            continue;
        };
        let remark = if saved.in_snapshot() {
            snapshots += 1;
            ", reads the table first"
        } else {
            oldest = Some(oldest.map_or(saved.bound, |oldest| oldest.min(saved.bound)));
            ""
        };
        let behind = format!("{} s", (now - saved.bound).max(0) / SECOND);
        let _ = writeln!(
            text,
            "{slot:>4} {epoch:>6} {:<26} {behind:>10} {:>9} {:>9} {owner}{remark}",
            timestamp(saved.bound).to_string(),
            saved.resolved.len(),
            saved.revision
        );
    }
    let bound = oldest.map_or_else(
        || "nothing is saved yet".to_owned(),
        |oldest| {
            format!(
                "everything before {} is resolved in those that are saved",
                timestamp(oldest)
            )
        },
    );
    let _ = writeln!(
        text,
        "identity {identity}, keyspace {keyspace}: {} slots; {bound}",
        slots.len()
    );
    if snapshots > 0 {
        let _ = writeln!(
            text,
            "{snapshots} slots are in their snapshot: rows before their bound are still read from the outbox table"
        );
    }
    text
}

/// Everything, for keeping and for comparing.
fn document(identity: &str, keyspace: &str, slots: &Slots) -> Value {
    let slots: Vec<_> = slots
        .iter()
        .map(|(slot, state)| match state {
            Ok(state) => of_slot(*slot, state),
            Err(error) => json!({"slot": slot.index(), "error": error.to_string()}),
        })
        .collect();
    json!({"format": FORMAT, "identity": identity, "keyspace": keyspace, "slots": slots})
}

fn of_slot(slot: SlotId, state: &Partition) -> Value {
    let checkpoint = state.loaded.checkpoint.as_ref().map(|saved| {
        let mut resolved: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for (second, id) in &saved.resolved {
            resolved
                .entry(*second)
                .or_default()
                .push(format!("{:016x}", id.0));
        }
        json!({
            "boundMicroseconds": saved.bound,
            "bound": timestamp(saved.bound),
            "revision": saved.revision,
            "journal": {"offset": saved.mark.offset, "sequence": saved.mark.sequence},
            "resolvedBySecond": resolved,
        })
    });
    json!({
        "slot": slot.index(),
        "epoch": state.epoch.map(|epoch| epoch.0),
        "owner": state.owner,
        "transactionalId": state.loaded.transactional_id,
        "checkpoint": checkpoint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Mark;
    use crate::model::RowId;
    use crate::ports::{Checkpoint, Epoch, Loaded};

    fn slots() -> Slots {
        let slot = |index| SlotId::new(index).unwrap();
        let checkpoint = Checkpoint {
            bound: 1_000 * SECOND,
            mark: Mark {
                offset: 7,
                sequence: 9,
            },
            resolved: vec![(1_001, RowId(0xab)), (1_001, RowId(1)), (1_002, RowId(2))],
            segments: Vec::new(),
            revision: 12,
        };
        let saved = Partition {
            owner: Some("relay-a".to_owned()),
            epoch: Some(Epoch(3)),
            loaded: Loaded {
                checkpoint: Some(checkpoint),
                transactional_id: Some("orders-0".to_owned()),
            },
        };
        let claimed = Partition {
            owner: None,
            epoch: Some(Epoch(1)),
            loaded: Loaded::default(),
        };
        let refused = StateError::Unreadable {
            slot: slot(9),
            detail: "its checksum does not match".to_owned(),
        };
        vec![
            (slot(2), Ok(saved)),
            (slot(5), Ok(claimed)),
            (slot(9), Err(refused)),
        ]
    }

    #[test]
    fn the_table_shows_each_slot_and_what_is_wrong_with_it() {
        let text = table("orders", "state", &slots(), 1_042 * SECOND);
        let expected = "\
slot  epoch bound                          behind  resolved  revision owner
   2      3 1970-01-01T00:16:40.000Z         42 s         3        12 relay-a
   5      1 nothing saved                                             (none)
   9 checkpoint of slot 9 refused: its checksum does not match
identity orders, keyspace state: 3 slots; everything before 1970-01-01T00:16:40.000Z is resolved in those that are saved
";
        assert_eq!(text, expected);
        assert_eq!(
            table("orders", "state", &Vec::new(), 0),
            "keyspace state holds nothing of identity orders\n"
        );
    }

    #[test]
    fn the_document_holds_everything() {
        let document = document("orders", "state", &slots());
        assert_eq!(
            document["slots"][0]["checkpoint"]["journal"],
            json!({"offset": 7, "sequence": 9})
        );
        assert_eq!(
            document["slots"][0]["checkpoint"]["resolvedBySecond"],
            json!({"1001": ["00000000000000ab", "0000000000000001"], "1002": ["0000000000000002"]})
        );
        assert_eq!(document["slots"][1]["checkpoint"], Value::Null);
        assert_eq!(document["slots"][2]["slot"], 9);
    }
}
