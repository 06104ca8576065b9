//! The application: writes outbox rows through coordinators whose clocks differ, in every shape that CDC logs.

use std::sync::Arc;

use relay::model::{CdcTime, SourcePosition, StreamId};
use relay::ports::Operation;
use scylla::value::CqlValue;

use crate::broker::Poison;
use crate::chance::Chance;
use crate::log::{self, Seen};
use crate::oracle::{Kind, Row};
use crate::plan::Hazard;
use crate::world::{MS, Micros, SECOND, START, World};

/// Coordinators go on writing to the streams of an older set for this long at most.
const SLOW_COORDINATOR: Micros = 1500 * MS;

/// One change of a record, in one or several rows.
struct Change {
    kind: Kind,
    payload: Option<String>,
    rows: Vec<(Operation, Values)>,
}

type Values = Vec<Option<CqlValue>>;

/// What was written, for a client that writes it again.
struct Past {
    aggregate: i64,
    event: usize,
    time: Micros,
    values: Values,
}

pub(crate) struct Writer {
    world: Arc<World>,
    /// Clustering keys count up.
    keys: u64,
    past: Vec<Past>,
    last: Micros,
    /// The newest write timestamp.
    newest: Micros,
}

impl Writer {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self {
            world: world.clone(),
            keys: 0,
            past: Vec::new(),
            last: START,
            newest: START,
        }
    }

    /// Writes everything, and returns the newest write timestamp.
    pub(crate) async fn run(mut self) -> Micros {
        let plan = &self.world.clone().plan;
        let mut left = plan.events;
        if plan.has(Hazard::Backlog) {
            self.world.count("log: backlog older than the horizon");
            for _ in 0..left / 4 {
                let time = self.chance(|chance| chance.within(START - 60 * SECOND, START - SECOND));
                left -= self.write(time);
            }
        }
        let mut times: Vec<Micros> = (0..left)
            .map(|_| self.chance(|chance| chance.within(START, plan.written_until)))
            .collect();
        // Some come in bursts.
        for index in 1..times.len() {
            if self.world.percent(20) {
                times[index] = times[index - 1] + self.chance(|chance| chance.below(2 * MS));
            }
        }
        times.sort_unstable();
        for at in times {
            if left == 0 {
                break;
            }
            self.world.sleep_until(at).await;
            // What is no new event comes on top.
            loop {
                let time = self.stamp();
                let written = self.write(time);
                left = left.saturating_sub(written);
                if written > 0 {
                    break;
                }
            }
        }
        self.newest
    }

    fn chance<R>(&self, choose: impl FnOnce(&mut Chance) -> R) -> R {
        self.world.chance(choose)
    }

    /// A write timestamp, by some coordinator's clock.
    fn stamp(&mut self) -> Micros {
        let plan = &self.world.plan;
        if plan.has(Hazard::Collisions) && self.world.percent(15) {
            self.world.count("log: same microsecond");
            return self.last;
        }
        let skew = self.chance(|chance| chance.pick(&plan.coordinators));
        if skew.abs() > 500 * MS {
            self.world.count("log: clock of a coordinator ahead or behind");
        }
        let mut time = self.world.now() + skew + self.chance(|chance| chance.below(MS));
        if plan.has(Hazard::Ahead) && self.world.percent(6) {
            self.world.count("log: dated ahead by seconds");
            // By the coordinator's own clock 5 s are the most that it takes.
            time = self.world.now() + self.chance(|chance| chance.within(SECOND, 5 * SECOND));
        }
        self.last = time;
        time
    }

    /// Writes one record at this time; returns how many events it holds.
    fn write(&mut self, time: Micros) -> usize {
        let plan = &self.world.clone().plan;
        let aggregate = self.chance(|chance| chance.below(plan.aggregates));
        if plan.has(Hazard::Repeats) && self.world.percent(8) && self.repeat(time) {
            return 0;
        }
        if self.world.percent(8) {
            self.world.count("log: image, update, delete or unknown row");
            let noise = self.noise();
            self.put(aggregate, time, noise, 1);
            return 0;
        }
        let count = if self.world.percent(10) {
            self.chance(|chance| chance.within(2, 4))
        } else {
            1
        } as usize;
        if count > 1 {
            self.world.count("log: batch of several events");
        }
        let changes = (0..count).map(|_| self.insert(aggregate, time)).collect();
        self.put(aggregate, time, changes, 0);
        count
    }

    fn insert(&mut self, aggregate: i64, time: Micros) -> Change {
        let named = |number: usize| format!("event-{number}");
        let number = self.world.judge(|oracle| oracle.event(named));
        let id = named(number);
        let poison = (self.world.plan.has(Hazard::Poison) && self.world.percent(6))
            .then(|| self.chance(|chance| chance.pick(&Poison::ALL)));
        let note = poison.map_or("", Poison::mark);
        if poison == Some(Poison::Unusable) {
            self.world.count("broker: message that no check passes");
        }
        let payload =
            (poison != Some(Poison::Unusable)).then(|| format!("{{\"n\":{number},\"note\":\"{note}\"}}"));
        let text = |text: String| Some(CqlValue::Text(text));
        let values = vec![
            text(id),
            text(aggregate.to_string()),
            text("Changed".into()),
            payload.clone().and_then(text),
        ];
        if poison.is_none() {
            self.past.push(Past {
                aggregate,
                event: number,
                time,
                values: values.clone(),
            });
        }
        let kind = if poison.is_some() {
            Kind::Poison(number)
        } else {
            Kind::Event(number)
        };
        // USING TTL with a collection: what has no TTL comes first, then the row, then the rest of it.
        let rows = if poison.is_none() && self.world.percent(12) {
            self.world.count("log: insert as several rows");
            let mut first = values.clone();
            let rest = vec![None, None, None, first[3].take()];
            vec![
                (Operation::Update, vec![None; 4]),
                (Operation::Insert, first),
                (Operation::Update, rest),
            ]
        } else {
            vec![(Operation::Insert, values)]
        };
        Change { kind, payload, rows }
    }

    /// A client's retry: the same event in a row of its own. Whether there is one to retry.
    fn repeat(&mut self, time: Micros) -> bool {
        let recent: Vec<usize> = (0..self.past.len())
            .filter(|at| self.past[*at].time > time - 5 * SECOND)
            .collect();
        if recent.is_empty() {
            return false;
        }
        let past = &self.past[self.chance(|chance| chance.pick(&recent))];
        self.world.count("log: second row of an event");
        let (aggregate, event, values) = (past.aggregate, past.event, past.values.clone());
        let payload = match &values[3] {
            Some(CqlValue::Text(payload)) => Some(payload.clone()),
            _ => None,
        };
        let change = Change {
            kind: Kind::Event(event),
            payload,
            rows: vec![(Operation::Insert, values)],
        };
        self.put(aggregate, time, vec![change], 0);
        true
    }

    /// What is no event.
    fn noise(&mut self) -> Vec<Change> {
        let operation = self.chance(|chance| {
            chance.pick(&[
                Operation::Update,
                Operation::RowDelete,
                Operation::PartitionDelete,
                Operation::RangeDelete,
                Operation::Expiration,
                Operation::Unknown(42),
            ])
        });
        let values = vec![None, None, Some(CqlValue::Text("Touched".into())), None];
        let change = || Change {
            kind: Kind::Noise,
            payload: None,
            rows: vec![(operation, values.clone())],
        };
        // A range has two ends.
        if operation == Operation::RangeDelete {
            vec![change(), change()]
        } else {
            vec![change()]
        }
    }

    /// Commits a record; `images` of it before and after.
    fn put(&mut self, aggregate: i64, time: Micros, changes: Vec<Change>, images: usize) {
        let world = self.world.clone();
        self.newest = self.newest.max(time);
        let token = token(world.plan.seed, aggregate);
        let (set, slow) = self.set(time);
        let stream = world.log.lock().stream(set, token);
        let uuid = log::uuid(time, self.chance(Chance::bits));
        let seen = self.seen(time, slow.then(|| world.plan.sets[set + 1].start));
        let mut rows: Vec<log::Row> = Vec::new();
        let mut facts: Option<(usize, usize)> = None;
        let row = |seq: usize, operation, values, seen, key: u64| log::Row {
            uuid,
            seq: seq as i32,
            operation,
            end: false,
            token,
            key: Arc::from(key.to_be_bytes()),
            values,
            seen,
        };
        let image_values = || vec![Some(CqlValue::Text("image".into())); 4];
        for _ in 0..images {
            rows.push(row(
                rows.len(),
                Operation::PreImage,
                image_values(),
                seen,
                self.keys,
            ));
        }
        for change in changes {
            self.keys += 1;
            let position = SourcePosition {
                stream: StreamId(stream),
                time: CdcTime(uuid),
                batch_seq_no: rows.len() as i32,
            };
            let fact = Row {
                position: format!("{}:{uuid}:{}", hex::encode(stream), rows.len()),
                row_id: position.row_id(),
                order: (log::order(&uuid), rows.len() as i32),
                aggregate: aggregate as usize,
                slot: ((i128::from(token) + (1 << 63)) >> 58) as usize,
                set,
                kind: change.kind,
                maybe: seen.maybe,
                surely: seen.surely,
                vanishes: seen.vanishes,
                expires: seen.expires,
                message: change.payload.map(|payload| (aggregate.to_string(), payload)),
            };
            world.tell(|| {
                format!(
                    "written {} {:?} {} visible after {} us",
                    fact.position,
                    fact.kind,
                    token,
                    seen.surely - time
                )
            });
            let fact = world.judge(|oracle| oracle.written(fact));
            facts.get_or_insert((fact, fact)).1 = fact;
            for (operation, values) in change.rows {
                rows.push(row(rows.len(), operation, values, seen, self.keys));
            }
        }
        for _ in 0..images {
            rows.push(row(
                rows.len(),
                Operation::PostImage,
                image_values(),
                seen,
                self.keys,
            ));
        }
        finish(&mut rows, facts.unwrap_or_default());
        world.log.lock().put(stream, rows);
    }

    /// The set whose streams the coordinator writes to, and whether that is an older one than it should be.
    fn set(&self, time: Micros) -> (usize, bool) {
        let world = &self.world;
        let set = world.log.lock().set_at(time);
        let slow = set > 0
            && world.plan.has(Hazard::SlowCoordinator)
            && world.now() < world.plan.sets[set].start + SLOW_COORDINATOR
            && time < world.plan.sets[set].start + SLOW_COORDINATOR
            && world.percent(40);
        if slow {
            world.count("log: closed stream written to");
        }
        (set - usize::from(slow), slow)
    }

    /// When the record is there for readers: within the horizon of its timestamp, and in a closed stream within the
    /// horizon of the switch.
    fn seen(&self, time: Micros, switched: Option<Micros>) -> Seen {
        let (world, plan) = (&self.world, &self.world.plan);
        let now = world.now();
        let latest = switched.map_or(time, |switched| switched.min(time)) + plan.horizon - 1;
        let mut maybe = now + self.chance(|chance| chance.within(0, 4 * MS));
        if plan.has(Hazard::Late) && world.percent(10) {
            let nearly = world.percent(if plan.has(Hazard::Lingering) { 60 } else { 30 });
            world.count(if nearly {
                "log: row late by nearly the horizon"
            } else {
                "log: row late"
            });
            maybe = if nearly {
                latest - self.chance(|chance| chance.below(50 * MS))
            } else {
                now + self.chance(|chance| 20 * MS * chance.spread(150))
            };
        }
        let subset = plan.has(Hazard::Subset) && world.percent(15);
        let spread = if subset {
            self.chance(|chance| chance.within(5 * MS, 600 * MS))
        } else {
            0
        };
        let vanishes = plan.has(Hazard::Vanish) && world.percent(30);
        let vanishes = vanishes.then(|| now + self.chance(|chance| chance.within(0, 4 * SECOND)));
        let maybe = if time < START - SECOND / 2 {
            START
        } else {
            maybe.min(latest)
        };
        let surely = if time < START - SECOND / 2 {
            START
        } else {
            (maybe + spread).min(latest)
        };
        Seen {
            maybe,
            surely,
            vanishes,
            expires: plan.retention.map_or(Micros::MAX, |ttl| now + ttl),
            facts: (0, 0),
        }
    }
}

/// A record says where it ends; and the oracle knows its changes.
fn finish(rows: &mut [log::Row], facts: (usize, usize)) {
    for row in &mut *rows {
        row.seen.facts = facts;
    }
    if let Some(last) = rows.last_mut() {
        last.end = true;
    }
}

/// Of the aggregate's partition key: any good hash will do.
fn token(seed: u64, aggregate: i64) -> i64 {
    let mut bits = (aggregate as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.rotate_left(17);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) as i64
}
