//! `outbox-relay dead-letters replay`: asks for letters to be sent again, no more at a time than is wanted, and watches
//! what becomes of them. The owners of their slots do the work.

mod result_file;
mod topic;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crds::dead_letter::OnAggregate;
use serde_json::json;
use tokio::time::Instant;

use super::dead_letters::{found, only_topic, open};
use super::progress::Progress;
use super::{Exit, ReplayArgs};
use crate::dead_letters::replay::{Refusal, judge};
use crate::dead_letters::stored::Stored;
use crate::dead_letters::table::{REPLAYING, SENDING, TableDeadLetters};
use crate::model::{SlotId, SourcePosition};
use crate::ports::Standing;
use crate::replay::chains::Chains;

/// Letters asked for at once without a rate: enough that no owner waits for the next ones.
const WINDOW: usize = 1_000;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

type Place = (SlotId, SourcePosition);

/// What is to be done, in the order in which it is asked for.
struct Plan {
    letters: VecDeque<(Place, String)>,
    refused: Vec<(String, Refusal)>,
}

/// What has become of it.
#[derive(Debug, Default)]
struct Outcome {
    delivered: usize,
    failed: Vec<String>,
    /// Asked for, and not carried out yet.
    asked: BTreeMap<Place, String>,
}

/// What is said at the end.
#[derive(Debug, Default)]
struct Told {
    /// Those that could be sent.
    asked: usize,
    delivered: usize,
    failed: Vec<String>,
    refused: Vec<(String, Refusal)>,
    /// Those of them that could be sent, but for one before them.
    stopped: usize,
    waiting: usize,
}

pub(super) async fn replay(args: &ReplayArgs) -> anyhow::Result<Exit> {
    let config = match super::file::load(&args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    if args.filter.filter().is_empty() && args.newest.is_none() {
        eprintln!(
            "replay takes what a filter names; accepted: --event-id, --event-type, --aggregate, --class, --older-than or \
             --newest"
        );
        return Ok(Exit::Usage);
    }
    if let Some(letters) = only_topic(&config) {
        return topic::replay(args, &config, letters).await;
    }
    let table = open(&config).await?;
    let mut letters = found(&table, &args.filter.filter()).await?;
    if let Some(newest) = args.newest {
        letters.drain(..letters.len().saturating_sub(newest as usize));
    }
    if let (Some(event_id), true) = (&args.filter.event_id, letters.is_empty()) {
        eprintln!("there is no such dead letter of event {event_id}");
        return Ok(Exit::Failed);
    }
    let mut plan = plan(letters, config.dead_letter.max_replays);
    if config.dead_letter.on_aggregate == OnAggregate::Hold {
        plan.refuse_those_behind(&table).await?;
    }
    tell_refused(&plan.refused);
    let mut told = Told {
        asked: plan.letters.len(),
        refused: plan.refused,
        ..Told::default()
    };
    if args.dry_run {
        if !args.json {
            plan.letters
                .iter()
                .for_each(|(_, event_id)| println!("{event_id}"));
        }
    } else {
        let outcome = carry_out(&table, plan.letters, args).await?;
        told.delivered = outcome.delivered;
        told.failed = outcome.failed;
        told.waiting = outcome.asked.len();
    }
    let exit = told.conclude(args, "still asked for")?;
    if told.waiting > 0 {
        eprintln!(
            "no relay of identity {} has carried out the rest: what is asked for stays so until one does, or until it is \
             discarded",
            config.identity
        );
    }
    Ok(exit)
}

fn tell_refused(refused: &[(String, Refusal)]) {
    for (event_id, refusal) in refused {
        eprintln!("{event_id}: {refusal}");
    }
}

impl Told {
    /// Says it. `waiting`: what those are that were neither delivered nor failed.
    fn conclude(&self, args: &ReplayArgs, waiting: &str) -> anyhow::Result<Exit> {
        let (asked, delivered, left) = (self.asked, self.delivered, self.waiting);
        let (failed, refused) = (self.failed.len(), self.refused.len());
        let document = json!({
            "dryRun": args.dry_run, "letters": asked, "replayed": delivered, "failed": self.failed,
            "refused": self.refused.iter().map(named).collect::<Vec<_>>(), "waiting": left,
        });
        if let Some(path) = &args.result_file {
            result_file::write(path, &document)?;
        }
        if args.json {
            println!("{document:#}");
        } else if args.dry_run {
            println!("{asked} dead letters would be replayed, {refused} would not");
        } else {
            println!(
                "{delivered} of {asked} dead letters replayed, {failed} failed again, {left} {waiting}, {refused} refused"
            );
        }
        let all = refused == 0 && failed == 0 && (args.dry_run || delivered == asked);
        Ok(if all { Exit::Fine } else { Exit::Failed })
    }
}

fn named((event_id, refusal): &(String, Refusal)) -> serde_json::Value {
    json!({ "eventId": event_id, "reason": refusal.to_string() })
}

/// The letters that can be sent, in the order of the log: as the owner of a slot sends what is asked for in that order, an
/// aggregate's letters never overtake each other.
fn plan(letters: Vec<Stored>, max: u32) -> Plan {
    let (mut takes, mut refused) = (Vec::new(), Vec::new());
    for letter in letters {
        let judged = judge(&letter, max).and_then(|_| letter.place().ok_or(Refusal::Foreign));
        let event_id = letter.event_id.unwrap_or_default();
        match judged {
            Ok(place) => takes.push((place, event_id)),
            Err(refusal) => refused.push((event_id, refusal)),
        }
    }
    takes.sort_by_key(|((_, position), _)| (position.time, position.stream, position.batch_seq_no));
    Plan {
        letters: takes.into(),
        refused,
    }
}

impl Plan {
    /// Letters that would have to overtake another one of their aggregate.
    async fn refuse_those_behind(&mut self, table: &TableDeadLetters) -> anyhow::Result<()> {
        let asked: BTreeSet<Place> = self.letters.iter().map(|(place, _)| *place).collect();
        let slots: BTreeSet<_> = asked.iter().map(|(slot, _)| *slot).collect();
        let mut behind = BTreeMap::new();
        for slot in slots {
            let mut chains = Chains::new(usize::MAX);
            let see = |letter: Standing<'_>| {
                let asked = asked.contains(&(slot, letter.position));
                let status = if asked { Some(REPLAYING) } else { letter.status };
                chains.see(Standing { status, ..letter });
            };
            table.standing(slot, see).await?;
            let of_slot = chains.behind().iter();
            behind.extend(of_slot.map(|behind| ((slot, behind.position), behind.event_id.clone())));
        }
        for (place, event_id) in std::mem::take(&mut self.letters) {
            match behind.remove(&place) {
                None => self.letters.push_back((place, event_id)),
                Some(before) => self
                    .refused
                    .push((event_id, Refusal::Behind { event_id: before })),
            }
        }
        Ok(())
    }
}

async fn carry_out(
    table: &TableDeadLetters,
    mut letters: VecDeque<(Place, String)>,
    args: &ReplayArgs,
) -> anyhow::Result<Outcome> {
    let all = letters.len();
    let (mut outcome, mut told) = (Outcome::default(), None);
    let progress = Progress::new(all, args.json);
    let mut moved_at = Instant::now();
    loop {
        let room = WINDOW - outcome.asked.len().min(WINDOW);
        let turn = room
            .min(args.rate.map_or(WINDOW, |rate| rate as usize))
            .min(letters.len());
        let next: Vec<_> = letters.drain(..turn).collect();
        if !next.is_empty() {
            let places: Vec<_> = next.iter().map(|(place, _)| *place).collect();
            table.ask(&places).await?;
            outcome.asked.extend(next);
        }
        if outcome.asked.is_empty() {
            return Ok(outcome);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        look(table, &mut outcome).await?;
        let now = (outcome.delivered, outcome.failed.len());
        if told.replace(now) != Some(now) {
            moved_at = Instant::now();
            progress.at(now.0 + now.1, now.1);
            if !progress.is_shown() {
                eprintln!("{} of {all} replayed, {} failed again", now.0, now.1);
            }
        }
        if moved_at.elapsed() >= args.patience {
            return Ok(outcome);
        }
    }
}

/// Finds out what became of what is asked for.
async fn look(table: &TableDeadLetters, outcome: &mut Outcome) -> anyhow::Result<()> {
    let slots: BTreeSet<_> = outcome.asked.keys().map(|(slot, _)| *slot).collect();
    let mut states = BTreeMap::new();
    for slot in slots {
        states.insert(slot, table.states(slot).await?);
    }
    for (place, event_id) in std::mem::take(&mut outcome.asked) {
        match states.get(&place.0).and_then(|states| states.get(&place.1)) {
            None => outcome.delivered += 1,
            Some(status) if matches!(status.as_deref(), Some(REPLAYING | SENDING)) => {
                outcome.asked.insert(place, event_id);
            }
            Some(_) => outcome.failed.push(event_id),
        }
    }
    Ok(())
}

/// `50/s`.
///
/// # Errors
/// What is accepted.
pub fn parse_rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    number
        .filter(|rate| (1..=100_000).contains(rate))
        .ok_or_else(|| format!("\"{text}\" is no rate; accepted: 1/s to 100000/s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::stored::tests::letter;
    use crate::model::CdcTime;

    #[test]
    fn letters_are_asked_for_in_the_order_of_the_log_and_what_cannot_be_sent_is_named() {
        let at = |second: i64, event_id: &str, payload: Option<Vec<u8>>| Stored {
            source_time: CdcTime::min_of(second * 1_000_000).0.into(),
            event_id: Some(event_id.to_owned()),
            payload,
            ..letter()
        };
        // Given up in another order than they were written in.
        let letters = vec![
            at(3, "third", Some(Vec::new())),
            at(2, "second", None),
            at(1, "first", Some(Vec::new())),
        ];
        let plan = plan(letters, 5);
        let asked: Vec<_> = plan
            .letters
            .iter()
            .map(|(_, event_id)| event_id.as_str())
            .collect();
        assert_eq!(asked, ["first", "third"]);
        assert_eq!(plan.refused, [("second".to_owned(), Refusal::NoPayload)]);
    }

    #[test]
    fn rates_are_read_and_wrong_ones_named() {
        assert_eq!((parse_rate("1/s"), parse_rate("100000/s")), (Ok(1), Ok(100_000)));
        for wrong in ["", "50", "0/s", "-1/s", "1.5/s", "100001/s", "5/m", "/s"] {
            let error = parse_rate(wrong).unwrap_err();
            assert!(
                error.contains(&format!("\"{wrong}\"")) && error.contains("accepted"),
                "{error}"
            );
        }
    }
}
