//! A relay process as the operating system sees it: it may be killed or frozen at any point at which it meets the
//! world, and its clocks tell what they tell.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use relay::ports::{Clock, Placement};
use tokio::sync::Notify;

use crate::chance::Chance;
use crate::plan::Hazard;
use crate::world::{MS, Micros, SECOND, START, World};

/// A point at which a process meets the world. What it does between two of them nobody can see, so a crash at each of
/// them is a crash at every await.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    ClockRead,
    SetsAsked,
    SetsAnswered,
    ReadAsked,
    ReadAnswered,
    BeatAsked,
    BeatApplied,
    OwnersAsked,
    OwnersAnswered,
    ClaimAsked,
    ClaimApplied,
    LoadAsked,
    LoadAnswered,
    SaveAsked,
    SaveApplied,
    SaveAnswered,
    ReleaseAsked,
    ReleaseApplied,
    RetireAsked,
    TopicAsked,
    ProducerMade,
    Sending,
    Sent,
    Reported,
    Purging,
    LettersAsked,
    LettersWritten,
    LettersAnswered,
    InitialiseAsked,
    InitialiseAnswered,
    FenceAsked,
    FenceAnswered,
    CommitAsked,
    CommitApplied,
    CommitTold,
    AbortAsked,
    AbortApplied,
    AbortTold,
    JournalAsked,
    JournalAnswered,
    SettleAsked,
    Settled,
    RecoverAsked,
    Recovered,
    Sealing,
}

/// With their names, and about how often a process passes each.
pub(crate) const POINTS: [(Point, &str, i64); 45] = [
    (Point::ClockRead, "at a look at the clock", 4096),
    (Point::SetsAsked, "asking for stream sets", 16),
    (Point::SetsAnswered, "with stream sets", 16),
    (Point::ReadAsked, "asking for rows", 512),
    (Point::ReadAnswered, "with rows", 512),
    (Point::BeatAsked, "sending a heartbeat", 16),
    (Point::BeatApplied, "heartbeat arrived, not told", 16),
    (Point::OwnersAsked, "asking for owners", 8),
    (Point::OwnersAnswered, "with owners", 8),
    (Point::ClaimAsked, "sending a claim", 32),
    (Point::ClaimApplied, "claim arrived, not told", 32),
    (Point::LoadAsked, "asking for a checkpoint", 32),
    (Point::LoadAnswered, "with a checkpoint", 32),
    (Point::SaveAsked, "sending a save", 128),
    (Point::SaveApplied, "save arrived, not told", 128),
    (Point::SaveAnswered, "save told", 128),
    (Point::ReleaseAsked, "sending a release", 4),
    (Point::ReleaseApplied, "release arrived, not told", 4),
    (Point::RetireAsked, "sending its own or another's end", 1),
    (Point::TopicAsked, "asking about the topic", 1),
    (Point::ProducerMade, "with a new producer", 2),
    (Point::Sending, "before a message", 64),
    (Point::Sent, "after a message", 64),
    (Point::Reported, "with a report", 64),
    (Point::Purging, "purging a producer", 1),
    (Point::LettersAsked, "sending dead letters", 2),
    (Point::LettersWritten, "dead letters durable, not told", 2),
    (Point::LettersAnswered, "dead letters told", 2),
    (Point::InitialiseAsked, "asking for a transactional id", 1),
    (Point::InitialiseAnswered, "with a transactional id", 1),
    (Point::FenceAsked, "fencing a former owner", 2),
    (Point::FenceAnswered, "with a former owner fenced", 2),
    (Point::CommitAsked, "sending a commit", 64),
    (Point::CommitApplied, "commit arrived, not told", 64),
    (Point::CommitTold, "commit told", 64),
    (Point::AbortAsked, "sending an abort", 4),
    (Point::AbortApplied, "abort arrived, not told", 4),
    (Point::AbortTold, "abort told", 4),
    (Point::JournalAsked, "asking for the journal", 4),
    (Point::JournalAnswered, "with the journal", 4),
    (Point::SettleAsked, "settling dead letters", 2),
    (Point::Settled, "dead letters settled, not told", 2),
    (Point::RecoverAsked, "asking for undecided dead letters", 4),
    (Point::Recovered, "with dead letters decided", 4),
    (Point::Sealing, "after a journal record", 16),
];

/// Those that every process passes come first, and last those that are chosen for a reason only.
const WITHOUT_TRANSACTIONS: usize = 28;
const CHOSEN_AT_RANDOM: usize = 44;

pub(crate) struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) seat: usize,
    /// Number of this start among all starts.
    pub(crate) life: usize,
    pub(crate) name: String,
    started: Micros,
    state: Mutex<State>,
    killed: Notify,
}

struct State {
    dead: bool,
    frozen: Option<Frozen>,
    hits: [i64; POINTS.len()],
    crash: Option<(Point, i64)>,
    freeze: Option<(Point, i64, Micros)>,
    panics: u32,
    queries: u32,
    /// Looks at the clock since it moved.
    looks: (Micros, u32),
}

#[derive(Clone, Copy)]
struct Frozen {
    since: Micros,
    until: Micros,
    /// Messages that it had already decided to send.
    decided: u32,
}

impl Process {
    pub(crate) fn start(world: &Arc<World>, seat: usize, placement: Placement) -> Arc<Self> {
        let life = world.judge(|oracle| oracle.started(placement));
        let now = world.now();
        let faulty = now + SECOND / 4 < world.plan.faults_until;
        let points = if world.plan.exactly_once {
            &POINTS[..CHOSEN_AT_RANDOM]
        } else {
            &POINTS[..WITHOUT_TRANSACTIONS]
        };
        let chosen = |percent| {
            let chosen = world.percent(percent);
            chosen.then(|| world.chance(|chance| choose(points, chance)))
        };
        let lease = Micros::from(world.plan.config.state.lease_seconds) * SECOND;
        let crash = (faulty && world.plan.has(Hazard::Crashes))
            .then(|| chosen(80))
            .flatten();
        let freeze = (faulty && world.plan.has(Hazard::Freezes))
            .then(|| chosen(60))
            .flatten();
        // The process that is killed at a chosen await has no other end.
        let swept = life == 0 && world.kill_at.is_some();
        let (crash, freeze) = if swept { (None, None) } else { (crash, freeze) };
        let freeze = freeze.map(|(point, nth)| {
            let length = world.chance(|chance| chance.within(lease / 2, 2 * lease));
            (point, nth, length)
        });
        let (crash, freeze) = if faulty && !swept && world.plan.has(Hazard::Zombies) {
            (
                in_a_takeover(world).or(crash),
                in_a_transaction(world, lease).or(freeze),
            )
        } else {
            (crash, freeze)
        };
        let (crash, freeze) = if faulty && !swept && world.plan.has(Hazard::HalfFenced) {
            half_fenced(world, seat, life, lease).unwrap_or((crash, freeze))
        } else {
            (crash, freeze)
        };
        let crash = if faulty && !swept && world.plan.has(Hazard::LettersLeft) {
            Some(before_letters_are_decided(world, life))
        } else {
            crash
        };
        let panics = u32::from(faulty && world.plan.has(Hazard::Panics));
        // The name's order decides on fair parts; it must not follow the seats.
        let tag = world.chance(|chance| chance.below(0x1_0000));
        let name = format!("relay-{tag:04x}-{life}");
        world.tell(|| format!("{name} starts in seat {seat}; crash {crash:?}, freeze {freeze:?}"));
        world.judge(|oracle| oracle.named(life, &name));
        Arc::new(Self {
            world: world.clone(),
            seat,
            life,
            name,
            started: now,
            state: Mutex::new(State {
                dead: false,
                frozen: None,
                hits: [0; POINTS.len()],
                crash,
                freeze,
                panics,
                queries: 0,
                looks: (0, 0),
            }),
            killed: Notify::new(),
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Ends when the process is killed.
    pub(crate) async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Is killed within so long, wherever it then is.
    pub(crate) fn dies_within(self: &Arc<Self>, most: Micros) {
        let process = self.clone();
        tokio::spawn(async move {
            let world = &process.world;
            world.sleep(world.chance(|chance| chance.within(0, most))).await;
            let mut state = process.state.lock();
            let now = world.now();
            let frozen = state.frozen.is_some_and(|frozen| now < frozen.until);
            if state.dead || frozen || !world.is_faulty() {
                return;
            }
            state.dead = true;
            drop(state);
            world.count("crash: soon after a late stream set");
            world.tell(|| format!("{} is killed soon after a late stream set", process.name));
            world.judge(|oracle| oracle.killed(process.life, now));
            process.killed.notify_one();
        });
    }

    /// Passes a point; false if the process dies here, or is dead.
    pub(crate) fn point(&self, point: Point) -> bool {
        let now = self.world.now();
        let mut state = self.state.lock();
        if state.dead {
            return false;
        }
        if state.frozen.is_some_and(|frozen| now < frozen.until) {
            return true;
        }
        let Some(index) = POINTS.iter().position(|(listed, ..)| *listed == point) else {
            return true;
        };
        state.hits[index] += 1;
        let hits = state.hits[index];
        let faulty = self.world.is_faulty();
        let swept = self.life == 0 && point != Point::ClockRead && self.world.is_kill();
        if faulty && state.crash == Some((point, hits)) || swept {
            state.dead = true;
            drop(state);
            self.world.count(&format!("crash: {}", POINTS[index].1));
            self.world
                .tell(|| format!("{} is killed {}", self.name, POINTS[index].1));
            self.world.judge(|oracle| oracle.killed(self.life, now));
            self.killed.notify_one();
            return false;
        }
        if let Some((at, nth, length)) = state.freeze
            && faulty
            && at == point
            && nth == hits
        {
            // At least one, whose report the others wait for: no code runs in a process that does not.
            let decided = self.world.chance(|chance| chance.within(1, 8)) as u32;
            state.frozen = Some(Frozen {
                since: now,
                until: now + length,
                decided,
            });
            drop(state);
            let lease = Micros::from(self.world.plan.config.state.lease_seconds) * SECOND;
            if length > lease {
                self.world.count("process: frozen for longer than the lease");
            }
            if IN_A_TRANSACTION.contains(&point) && self.world.plan.exactly_once || point == Point::Sealing {
                self.world.count("process: frozen in a transaction");
            }
            self.world.tell(|| {
                format!(
                    "{} is frozen {} for {} ms",
                    self.name,
                    POINTS[index].1,
                    length / MS
                )
            });
            self.world.judge(|oracle| oracle.frozen(self.life, now + length));
        }
        true
    }

    /// Passes a point, and goes on once the process runs; never if it dies.
    pub(crate) async fn pass(&self, point: Point) {
        if !self.point(point) {
            std::future::pending::<()>().await;
        }
        self.thawed().await;
    }

    /// Goes on once the process runs; never if it is dead.
    pub(crate) async fn thawed(&self) {
        while let Some(until) = self.frozen_until() {
            self.world.sleep_until(until).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn frozen_until(&self) -> Option<Micros> {
        let now = self.world.now();
        let state = self.state.lock();
        state
            .frozen
            .map(|frozen| frozen.until)
            .filter(|until| now < *until)
    }

    /// Whether a message may still be sent: a frozen process sends only what it had decided on.
    pub(crate) fn may_send(&self) -> bool {
        let now = self.world.now();
        let mut state = self.state.lock();
        match &mut state.frozen {
            Some(frozen) if now < frozen.until => {
                let decided = frozen.decided > 0;
                frozen.decided = frozen.decided.saturating_sub(1);
                decided
            }
            _ => true,
        }
    }

    /// Time as the process has it: it stands still while it is frozen.
    fn time(&self) -> Micros {
        let now = self.world.now();
        let mut state = self.state.lock();
        state.looks = if state.looks.0 == now {
            (now, state.looks.1 + 1)
        } else {
            (now, 0)
        };
        if state.looks.1 > LOOKS_MAX {
            state.looks = (0, 0);
            drop(state);
            let detail = format!(
                "{} looks at the clock {LOOKS_MAX} times while no time passes",
                self.name
            );
            self.world.judge(|oracle| oracle.fail("no-spin", detail));
            std::panic::panic_any(Injected);
        }
        match state.frozen {
            Some(frozen) if now < frozen.until => frozen.since,
            _ => now,
        }
    }

    /// Panics, if one is left and it is time.
    pub(crate) fn may_panic(&self) {
        if !self.world.is_faulty() || self.is_dead() || !self.world.percent(2) {
            return;
        }
        let mut state = self.state.lock();
        if state.panics > 0 {
            state.panics -= 1;
            drop(state);
            self.world.count("process: component panicked");
            self.world.tell(|| format!("{} panics", self.name));
            std::panic::panic_any(Injected);
        }
    }

    pub(crate) fn query_starts(&self) -> u32 {
        let mut state = self.state.lock();
        state.queries += 1;
        state.queries
    }

    pub(crate) fn query_ends(&self) {
        self.state.lock().queries -= 1;
    }

    fn skew(&self, now: Micros) -> Micros {
        let plan = &self.world.plan;
        let steps = plan.clock_steps.iter();
        let stepped = steps.filter(|(seat, at, _)| *seat == self.seat && *at <= now);
        // No clock is ever more than 5 s off.
        (plan.skews[self.seat] + stepped.map(|(_, _, by)| by).sum::<Micros>()).max(-5 * SECOND)
    }
}

/// A process that looks at the clock more often than this in a millisecond goes round in circles.
const LOOKS_MAX: u32 = 50_000;

/// The payload of panics that are part of the schedule.
pub(crate) struct Injected;

const IN_A_TRANSACTION: [Point; 3] = [Point::Sent, Point::Reported, Point::CommitAsked];

/// Where a process dies that takes slots: between two of the steps that ARCHITECTURE.md names.
fn in_a_takeover(world: &World) -> Option<(Point, i64)> {
    const STEPS: [Point; 4] = [
        Point::FenceAsked,
        Point::FenceAsked,
        Point::FenceAnswered,
        Point::JournalAnswered,
    ];
    let dies = world.percent(40);
    dies.then(|| world.chance(|chance| (chance.pick(&STEPS), chance.spread(3))))
}

/// Where an owner stops with a transaction open, and for how long: until others are about to have taken its slots, or
/// until those who took them may be dead as well.
fn in_a_transaction(world: &World, lease: Micros) -> Option<(Point, i64, Micros)> {
    let stops = world.percent(70);
    stops.then(|| {
        world.chance(|chance| {
            let taken = if chance.percent(70) {
                lease
            } else {
                2 * lease + SECOND
            };
            let length = chance.within(taken - lease / 8, taken + 2500 * MS);
            (chance.pick(&IN_A_TRANSACTION), chance.spread(48), length)
        })
    })
}

type Crash = Option<(Point, i64)>;
type Freeze = Option<(Point, i64, Micros)>;

/// The first owner stops, or dies, while it seals a transaction, until two others could have taken its slots one after the
/// other; those die before they have fenced it, or live on.
fn half_fenced(world: &World, seat: usize, life: usize, lease: Micros) -> Option<(Crash, Freeze)> {
    let mut chance = Chance::new(world.plan.seed ^ 0x5eed_0000_0000_0004 ^ (life as u64) << 8);
    if seat > 0 {
        return chance.percent(50).then_some((Some((Point::FenceAsked, 1)), None));
    }
    if world.now() > START + SECOND {
        return None;
    }
    let nth = chance.spread(POINTS[POINTS.len() - 1].2);
    let length = 2 * lease + chance.within(SECOND, 4 * SECOND);
    Some(if chance.percent(75) {
        (None, Some((Point::Sealing, nth, length)))
    } else {
        (Some((Point::Sealing, nth)), None)
    })
}

/// Some dead letters after its start, and more often than not with no other event of their slots to come.
fn before_letters_are_decided(world: &World, life: usize) -> (Point, i64) {
    let mut chance = Chance::new(world.plan.seed ^ 0x5eed_0000_0000_0006 ^ (life as u64) << 8);
    (
        chance.pick(&[Point::SettleAsked, Point::SettleAsked, Point::Settled]),
        chance.within(1, 8),
    )
}

fn choose(points: &[(Point, &str, i64)], chance: &mut Chance) -> (Point, i64) {
    let (point, _, often) = chance.pick(points);
    (point, chance.spread(often))
}

/// A process's clocks.
#[derive(Clone)]
pub(crate) struct ProcessClock(pub(crate) Arc<Process>);

impl Clock for ProcessClock {
    fn now(&self) -> relay::model::Micros {
        self.0.point(Point::ClockRead);
        let now = self.0.time();
        now + self.0.skew(now)
    }

    fn elapsed(&self) -> Duration {
        self.0.point(Point::ClockRead);
        Duration::from_micros((self.0.time() - self.0.started) as u64)
    }
}
