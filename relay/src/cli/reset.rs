//! `outbox-relay checkpoint reset`: sets the bounds of all slots, as if the identity were new and began there. What that
//! repeats and skips is counted from the log first.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crds::RelayConfig;
use crds::sink::Guarantee;
use crds::source::Mode;
use serde_json::{Value, json};

use super::evidence::{Evidence, From};
use super::state::ensure_idle;
use super::{Exit, ResetArgs};
use crate::audit::source::Window;
use crate::health::timestamp;
use crate::ledger::Delta;
use crate::model::{Micros, SECOND, SlotId, SlotSet};
use crate::ports::{Checkpoint, Conditional, Save, StateStore as _};
use crate::source::retention::{Retention, Start};
use crate::state::checkpoint::Book;
use crate::state::scylla::{Partition, ScyllaState};

/// Owner of a slot whose checkpoint is being reset: it beats no heart, so the slot is free again after a lease.
const RESETTING: &str = "checkpoint-reset";

/// Segments that one save removes; more go with further saves.
const SEGMENTS_PER_SAVE: usize = 100;

/// Rows may be dated ahead of our clock by this much, and still are what was written by now.
const AHEAD: Micros = 60 * SECOND;

/// Where the bounds are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Start(Start),
    Ago(std::time::Duration),
}

/// `Oldest`, `Now`, a time or an age.
///
/// # Errors
/// What is accepted.
pub fn parse_to(text: &str) -> Result<To, String> {
    use super::time::{When, parse_when};
    match text {
        "Oldest" => Ok(To::Start(Start::Oldest)),
        "Now" => Ok(To::Start(Start::Now)),
        _ => match parse_when(text) {
            Ok(When::At(time)) => Ok(To::Start(Start::At(time))),
            Ok(When::Ago(age)) if !age.is_zero() => Ok(To::Ago(age)),
            _ => Err(format!(
                "\"{text}\" is nowhere to begin; accepted: Oldest, Now, a time as in 2026-01-31T12:00:00Z, or an age as in -1h"
            )),
        },
    }
}

/// What a reset does to a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Effect {
    from: Option<Micros>,
    /// Events that are resolved and come again.
    repeated: u64,
    /// Events that are not resolved and never come.
    skipped: u64,
}

/// Exit code 1 if a relay of the identity runs, or if not all slots could be set: then the same command goes on.
pub async fn reset(args: &ResetArgs) -> Exit {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if let Some(refusal) = refuse(&config) {
        eprintln!("{refusal}");
        return Exit::Usage;
    }
    if !args.dry_run && !args.yes {
        eprintln!(
            "this sets the checkpoints of identity {}: see with --dry-run what would be repeated and skipped; it was not done; \
             accepted: --dry-run or --yes",
            config.identity
        );
        return Exit::Usage;
    }
    match carry_out(config, args).await {
        Ok(text) => {
            print!("{text}");
            Exit::Fine
        }
        Err(error) => {
            eprintln!("{error:#}");
            Exit::Failed
        }
    }
}

fn refuse(config: &RelayConfig) -> Option<String> {
    if config.source.mode == Mode::Polling {
        return Some(
            "source.mode: Polling; accepted: Streaming. What is to be delivered is what is in the table"
                .to_owned(),
        );
    }
    (config.sink.guarantee == Guarantee::ExactlyOnce).then(|| {
        "sink.guarantee: ExactlyOnce; accepted: AtLeastOnce. A reset repeats or skips events, and the journal knows which were \
         delivered: run and stop a relay with AtLeastOnce once, reset, then change back; or take a new identity with \
         source.startFrom"
            .to_owned()
    })
}

async fn carry_out(config: RelayConfig, args: &ResetArgs) -> anyhow::Result<String> {
    let mut evidence = Evidence::open(config, From::Log).await?;
    let config = evidence.config.clone();
    let (identity, keyspace) = (&config.identity, &config.state.keyspace);
    anyhow::ensure!(
        ScyllaState::is_there(&evidence.session, keyspace).await?,
        "keyspace {keyspace} has no state tables: there is nothing to reset; source.startFrom says where a new identity begins"
    );
    let state = ScyllaState::open(evidence.session.clone(), keyspace, identity).await?;
    // Before the counting, which may take long: whoever takes a slot afterwards raises its epoch, and the reset fails.
    let slots = state.slots().await?;
    ensure_idle(&state, &slots, &config).await?;
    let partitions = evidence.partitions().await?;
    for (slot, partition) in &partitions {
        let seen = slots.iter().find(|row| row.slot == *slot);
        anyhow::ensure!(
            partition.epoch == seen.and_then(|row| row.epoch),
            "slot {slot} was taken by a relay meanwhile; stop it first"
        );
        anyhow::ensure!(
            partition.loaded.transactional_id.is_none(),
            "slot {slot} names a transactional id: a relay with ExactlyOnce did not end well; run and stop a relay with \
             sink.guarantee AtLeastOnce once, which settles it"
        );
    }
    let in_snapshot = |(_, partition): &&(SlotId, Partition)| {
        let checkpoint = partition.loaded.checkpoint.as_ref();
        checkpoint.is_some_and(Checkpoint::in_snapshot)
    };
    if let Some((slot, _)) = partitions.iter().find(in_snapshot) {
        anyhow::bail!(
            "the snapshot of slot {slot} is not finished (source.startFrom): run a relay until it is"
        );
    }
    let to = bound(args.to, &evidence).await?;
    let effects = count(&mut evidence, &partitions, to).await?;
    if !args.dry_run {
        for (slot, partition) in partitions {
            set(&state, slot, &partition, to).await?;
        }
    }
    Ok(if args.json {
        format!("{:#}\n", document(identity, to, args.dry_run, &effects))
    } else {
        text(identity, to, args.dry_run, &effects)
    })
}

/// Never before the oldest row that the log has, nor ahead.
async fn bound(to: To, evidence: &Evidence) -> anyhow::Result<Micros> {
    let now = evidence.now;
    let start = match to {
        To::Start(start) => start,
        To::Ago(age) => Start::At(now - age.as_micros().min(now as u128) as Micros),
    };
    if let Start::At(time) = start {
        anyhow::ensure!(
            time <= now,
            "--to {} lies ahead; accepted: Now or earlier",
            timestamp(time)
        );
        if let Some(retained) = evidence.retained().filter(|retained| time < *retained) {
            anyhow::bail!(
                "--to {}: rows written before {} have expired; accepted: Oldest, or a later time",
                timestamp(time),
                timestamp(retained)
            );
        }
    }
    let first_set = evidence.first_set().await?;
    Ok(Retention::new(evidence.table.cdc.ttl).start(start, first_set, now))
}

/// Reads the log from where something changes.
async fn count(
    evidence: &mut Evidence,
    partitions: &[(SlotId, Partition)],
    to: Micros,
) -> anyhow::Result<BTreeMap<SlotId, Effect>> {
    let resolved = evidence.resolved().await?;
    let mut effects = BTreeMap::new();
    for (slot, partition) in partitions {
        let from = partition.loaded.checkpoint.as_ref().map(|saved| saved.bound);
        effects.insert(
            *slot,
            Effect {
                from,
                ..Effect::default()
            },
        );
    }
    // What has expired can be neither repeated nor skipped. Of a slot without a checkpoint nothing is resolved.
    let oldest = evidence.retained().unwrap_or(0);
    let lowest = resolved.lowest().unwrap_or(oldest);
    let window = Window {
        from: to.min(lowest).max(oldest),
        to: evidence.now + AHEAD,
    };
    evidence
        .events(window, SlotSet::ALL, |event| {
            let done = resolved.covers(event.slot, &event.position);
            let effect = effects.entry(event.slot).or_default();
            let again = event.time() >= to;
            effect.repeated += u64::from(done && again);
            effect.skipped += u64::from(!done && !again);
            Ok(())
        })
        .await?;
    Ok(effects)
}

/// Takes the slot, sets its bound, forgets what is known above it, and frees the slot.
async fn set(state: &ScyllaState, slot: SlotId, seen: &Partition, to: Micros) -> anyhow::Result<()> {
    let taken =
        || anyhow::anyhow!("slot {slot} was taken by a relay meanwhile; stop it, then do the same again");
    let Conditional::Applied(epoch) = state.claim(slot, seen.epoch, RESETTING).await? else {
        return Err(taken());
    };
    let checkpoint = state.load(slot).await?.checkpoint.unwrap_or_default();
    let mut book = Book::open(&checkpoint);
    let mut segments = checkpoint.segments;
    loop {
        let rest = segments.split_off(segments.len().min(SEGMENTS_PER_SAVE));
        let delta = Delta {
            bound: to,
            resolved: Vec::new(),
            // Which go is said below.
            obsolete_below: i64::MIN,
            mark: checkpoint.mark,
        };
        let save = Save {
            remove: segments,
            ..book.save(&delta)
        };
        match state.save(slot, epoch, &save).await? {
            Conditional::Applied(()) => book.saved(&save),
            Conditional::Fenced => return Err(taken()),
        }
        if rest.is_empty() {
            break;
        }
        segments = rest;
    }
    match state.release(slot, epoch, true).await? {
        Conditional::Applied(()) => Ok(()),
        Conditional::Fenced => Err(taken()),
    }
}

fn total(effects: &BTreeMap<SlotId, Effect>) -> (u64, u64) {
    let sum = |of: fn(&Effect) -> u64| effects.values().map(of).sum();
    (sum(|effect| effect.repeated), sum(|effect| effect.skipped))
}

fn text(identity: &str, to: Micros, dry_run: bool, effects: &BTreeMap<SlotId, Effect>) -> String {
    let mut text = format!(
        "{:>4} {:<26} {:>9} {:>9}\n",
        "slot", "bound", "repeated", "skipped"
    );
    for (slot, effect) in effects
        .iter()
        .filter(|(_, effect)| effect.repeated + effect.skipped > 0)
    {
        let bound = effect
            .from
            .map_or("nothing saved".to_owned(), |bound| timestamp(bound).to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>4} {bound:<26} {:>9} {:>9}",
            slot.index(),
            effect.repeated,
            effect.skipped
        );
    }
    let (repeated, skipped) = total(effects);
    let (done, repeats, skips) = if dry_run {
        ("would be set", "would be repeated", "would never be delivered")
    } else {
        ("are set", "will be repeated", "will never be delivered")
    };
    let _ = writeln!(
        text,
        "identity {identity}: the bounds of {} slots {done} to {}; {repeated} events {repeats}, {skipped} {skips}",
        effects.len(),
        timestamp(to)
    );
    text
}

fn document(identity: &str, to: Micros, dry_run: bool, effects: &BTreeMap<SlotId, Effect>) -> Value {
    let (repeated, skipped) = total(effects);
    let slots: Vec<_> = effects
        .iter()
        .map(|(slot, effect)| {
            json!({
                "slot": slot.index(), "boundBefore": effect.from.map(timestamp),
                "repeated": effect.repeated, "skipped": effect.skipped,
            })
        })
        .collect();
    json!({
        "identity": identity, "dryRun": dry_run, "bound": timestamp(to),
        "repeated": repeated, "skipped": skipped, "slots": slots,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_begin_is_read_and_what_is_none_is_named() {
        for (text, expected) in [
            ("Oldest", To::Start(Start::Oldest)),
            ("Now", To::Start(Start::Now)),
            ("1970-01-01T00:00:01Z", To::Start(Start::At(SECOND))),
            ("-1h", To::Ago(std::time::Duration::from_secs(3_600))),
        ] {
            assert_eq!(parse_to(text), Ok(expected));
        }
        for wrong in ["", "now", "oldest", "1h", "-0s", "tomorrow"] {
            let error = parse_to(wrong).unwrap_err();
            assert!(
                error.contains(&format!("\"{wrong}\"")) && error.contains("accepted"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_nobody_could_carry_out_is_refused_with_the_way_out() {
        let mut config = RelayConfig::default();
        assert_eq!(refuse(&config), None);
        config.sink.guarantee = Guarantee::ExactlyOnce;
        assert!(refuse(&config).unwrap().contains("source.startFrom"));
        config.source.mode = Mode::Polling;
        assert!(refuse(&config).unwrap().contains("source.mode: Polling"));
    }

    #[test]
    fn only_slots_that_something_happens_to_are_told_one_by_one() {
        let slot = |index| SlotId::new(index).unwrap();
        let effects = BTreeMap::from([
            (
                slot(1),
                Effect {
                    from: Some(SECOND),
                    repeated: 3,
                    skipped: 0,
                },
            ),
            (slot(2), Effect::default()),
            (
                slot(3),
                Effect {
                    from: None,
                    repeated: 0,
                    skipped: 4,
                },
            ),
        ]);
        let said = text("orders", 2 * SECOND, true, &effects);
        assert_eq!(said.lines().count(), 4, "{said}");
        assert!(
            said.ends_with(
                "identity orders: the bounds of 3 slots would be set to 1970-01-01T00:00:02.000Z; 3 events would be repeated, \
                 4 would never be delivered\n"
            ),
            "{said}"
        );
        assert_eq!(document("orders", 0, false, &effects)["skipped"], 4);
    }
}
