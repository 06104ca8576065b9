//! What a seed decides before its schedule starts: configuration, topology, which hazards and when.

mod handovers;
mod lingering;
mod transactions;

use std::collections::BTreeSet;

use crds::RelayConfig;
use crds::dead_letter::{DeadLetterWhen, OnAggregate};
use crds::retry::Jitter;
use crds::sink::Guarantee;
use crds::source::OnRetentionGap;

use crate::chance::Chance;
use crate::world::{MS, Micros, SECOND, START};
use transactions::Transactions;

/// Time in which events are written.
const WRITING: Micros = 6 * SECOND;

/// Faults go on for this long after the last write.
const FAULTS_LINGER: Micros = 2 * SECOND;

/// Hazards of a schedule, at least; the log's ordinary latencies and the clocks' differences come on top.
const HAZARDS_MIN: i64 = 3;

/// How long rows are kept where they expire unread: longer than bounds are behind when all is well.
const RETENTION: Micros = 24 * SECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hazard {
    Backlog,
    Late,
    Subset,
    Vanish,
    Ahead,
    Collisions,
    Pages,
    Switches,
    LateSets,
    SlowCoordinator,
    Queries,
    Sets,
    Poison,
    Repeats,
    Broker,
    BrokerOutcome,
    Letters,
    State,
    Crashes,
    Freezes,
    Stops,
    Reshard,
    ClockSteps,
    Panics,
    Skew,
    Intruder,
    Retention,
    /// Owners that come back in the middle of a transaction, and takers that die between two of their steps; only where
    /// there are transactions.
    Zombies,
    /// A transaction that does not end while shares change; likewise.
    Stuck,
    /// Faults until what was written has been read for the last time, and reads that fail all the while.
    Lingering,
    /// An owner that stops while it seals a transaction, and takers that die before they have fenced it.
    HalfFenced,
    /// Owners that die between a commit and what it decides of dead letters.
    LettersLeft,
}

const HAZARDS: [Hazard; 27] = [
    Hazard::Backlog,
    Hazard::Late,
    Hazard::Subset,
    Hazard::Vanish,
    Hazard::Ahead,
    Hazard::Collisions,
    Hazard::Pages,
    Hazard::Switches,
    Hazard::LateSets,
    Hazard::SlowCoordinator,
    Hazard::Queries,
    Hazard::Sets,
    Hazard::Poison,
    Hazard::Repeats,
    Hazard::Broker,
    Hazard::BrokerOutcome,
    Hazard::Letters,
    Hazard::State,
    Hazard::Crashes,
    Hazard::Freezes,
    Hazard::Stops,
    Hazard::Reshard,
    Hazard::ClockSteps,
    Hazard::Panics,
    Hazard::Skew,
    Hazard::Intruder,
    Hazard::Retention,
];

/// What goes wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    ReadsFail,
    ReadsOverloaded,
    ReadsMisconfigured,
    ReadsSlow,
    SetsFail,
    SetsStale,
    BrokersDown,
    BrokerStall,
    BrokerConfiguration,
    BrokerTransient,
    BrokerUnknown,
    BrokerReportsLate,
    BrokerRefusesLate,
    BrokerFatal,
    BrokerTrouble,
    QueueFull,
    ProducerNotMade,
    TopicUnasked,
    LettersFail,
    LettersUntold,
    LettersSlow,
    StateDown,
    StateSlow,
    StateUntold,
    OwnersStale,
    BeatsFade,
    CoordinatorDown,
    CoordinatorUntold,
    CommitRefused,
    MarkersSlow,
    JournalFails,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) fault: Fault,
    /// None: for everybody.
    pub(crate) seat: Option<usize>,
    pub(crate) from: Micros,
    pub(crate) until: Micros,
}

/// A stream set: its start, when it is published, and of how many vnodes or tablets it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetPlan {
    pub(crate) start: Micros,
    pub(crate) published: Micros,
    pub(crate) parts: i64,
}

pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) hazards: BTreeSet<Hazard>,
    pub(crate) config: RelayConfig,
    pub(crate) horizon: Micros,
    /// `sink.guarantee: ExactlyOnce`
    pub(crate) exactly_once: bool,
    /// The cluster takes a transaction back that has been open for this long.
    pub(crate) transaction_timeout: Micros,
    /// `--share auto`; otherwise pinned.
    pub(crate) auto: bool,
    /// From when on how many processes share the work.
    pub(crate) layouts: Vec<(Micros, usize)>,
    /// Processes that share the work, at most.
    seats: usize,
    /// A process that takes its share the other way than all others is there from and until then.
    pub(crate) intruder: Option<(Micros, Micros)>,
    /// What each seat's clock is ahead of true time; the last is the intruder's.
    pub(crate) skews: Vec<Micros>,
    /// A seat's clock is set by this much, then.
    pub(crate) clock_steps: Vec<(usize, Micros, Micros)>,
    /// What each coordinator's clock is ahead of true time.
    pub(crate) coordinators: [Micros; 3],
    /// How long the log keeps a row; None: for longer than the schedule.
    pub(crate) retention: Option<Micros>,
    pub(crate) tablets: bool,
    pub(crate) sets: Vec<SetPlan>,
    /// Rows of a page at most.
    pub(crate) page_rows: usize,
    pub(crate) events: usize,
    pub(crate) aggregates: i64,
    pub(crate) windows: Vec<Window>,
    /// When seats are asked to stop.
    pub(crate) stops: Vec<(usize, Micros)>,
    pub(crate) written_until: Micros,
    pub(crate) faults_until: Micros,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let chance = &mut chance;
        let mut hazards = BTreeSet::new();
        let count = HAZARDS_MIN + chance.spread(12) - 1;
        while (hazards.len() as i64) < count {
            let hazard = chance.pick(&HAZARDS);
            // What it costs is hidden from all other hazards.
            if hazard != Hazard::Retention || chance.percent(30) {
                hazards.insert(hazard);
            }
        }
        if hazards.contains(&Hazard::Retention) {
            // A backlog would be gone before the first reader comes; the retention is judged by exact clocks.
            hazards.remove(&Hazard::Backlog);
            hazards.remove(&Hazard::Skew);
            hazards.remove(&Hazard::Reshard);
        }
        let retention = hazards.contains(&Hazard::Retention);
        let skewed = hazards.contains(&Hazard::Skew);
        // A row's lateness counts from its timestamp, so a clock that is behind uses up horizon.
        let horizon = (chance.within(4, 6) + if skewed { 5 } else { 0 }) * SECOND;
        let written_until = START + WRITING;
        let mut faults_until = written_until + FAULTS_LINGER;
        let tablets = chance.percent(50);
        let mut layouts = layouts(chance, &hazards, faults_until);
        let transactions = Transactions::of(seed, &hazards, faults_until);
        let stuck = transactions
            .as_ref()
            .and_then(|transactions| transactions.stuck.as_ref());
        if let Some(stuck) = stuck {
            layouts.clone_from(&stuck.layouts);
            faults_until = faults_until.max(stuck.window.until);
        }
        let seats = layouts.iter().map(|(_, seats)| *seats).max().unwrap_or(1);
        // Clocks differ by at most 5 s, and none is more than 5 s off.
        let slowest = chance.pick(&[-5 * SECOND, -5 * SECOND / 2, 0]);
        let mut plan = Self {
            seed,
            config: config(chance, horizon),
            horizon,
            exactly_once: transactions.is_some(),
            transaction_timeout: transactions
                .as_ref()
                .map_or(SECOND, |transactions| transactions.timeout),
            auto: chance.percent(50),
            seats,
            intruder: hazards.contains(&Hazard::Intruder).then(|| {
                let from = chance.within(START, faults_until - 3 * SECOND);
                (from, chance.within(from + 2 * SECOND, faults_until))
            }),
            skews: (0..=seats).map(|_| slowest + chance.below(5 * SECOND)).collect(),
            clock_steps: clock_steps(chance, &hazards, seats, faults_until),
            coordinators: std::array::from_fn(|_| {
                let most = match (retention, skewed) {
                    (true, _) => 0,
                    (false, true) => 5 * SECOND,
                    (false, false) => SECOND,
                };
                chance.within(-most, most)
            }),
            retention: retention.then_some(RETENTION),
            tablets,
            sets: sets(chance, &hazards, tablets, horizon),
            page_rows: if hazards.contains(&Hazard::Pages) {
                chance.pick(&[2, 3, 5, 11])
            } else {
                usize::MAX
            },
            events: chance.within(200, 260) as usize,
            aggregates: chance.pick(&[6, 20, 60]),
            windows: windows(chance, &hazards, seats, faults_until),
            stops: stops(chance, &hazards, seats, faults_until),
            layouts,
            hazards,
            written_until,
            faults_until,
        };
        if let Some(transactions) = transactions {
            plan.deliver_exactly_once(transactions);
        }
        plan.linger();
        plan.hand_over();
        plan
    }

    fn deliver_exactly_once(&mut self, transactions: Transactions) {
        self.config.sink.guarantee = Guarantee::ExactlyOnce;
        self.windows.extend(transactions.windows);
        self.hazards.extend(transactions.hazards);
        if let Some(stuck) = transactions.stuck {
            self.auto = true;
            self.windows.push(stuck.window);
        }
    }

    /// When everything is there again.
    pub(crate) fn calm_from(&self) -> Micros {
        let layout = self.layouts.last().map_or(START, |(from, _)| *from);
        let stopped = if self.has(Hazard::HalfFenced) {
            handovers::STOPPED
        } else {
            0
        };
        (self.faults_until + stopped).max(layout)
    }

    pub(crate) fn has(&self, hazard: Hazard) -> bool {
        self.hazards.contains(&hazard)
    }

    pub(crate) fn seats(&self) -> usize {
        self.seats
    }

    /// How many processes share the work now, and when that changes next.
    pub(crate) fn layout(&self, now: Micros) -> (usize, Option<Micros>) {
        let current = self.layouts.iter().rev().find(|(from, _)| *from <= now);
        let next = self
            .layouts
            .iter()
            .map(|(from, _)| *from)
            .find(|from| *from > now);
        (current.map_or(0, |(_, seats)| *seats), next)
    }
}

fn config(chance: &mut Chance, horizon: Micros) -> RelayConfig {
    let mut config = RelayConfig {
        identity: "simulated".into(),
        ..RelayConfig::default()
    };
    config.source.horizon_seconds = (horizon / SECOND) as u32;
    config.source.load.ramp_seconds = chance.pick(&[0, 1]);
    config.source.load.queries_per_second = chance.pick(&[80, 150, 400]);
    config.source.load.max_concurrent_queries = chance.pick(&[1, 2, 4, 16]);
    config.sink.topic = "events".into();
    config.retry.max_attempts = chance.pick(&[1, 2, 3, 5]);
    config.retry.initial_backoff_milliseconds = chance.pick(&[5, 50, 100]);
    config.retry.max_backoff_milliseconds = 200;
    config.retry.attempt_timeout_milliseconds = chance.pick(&[150, 400, 1500]);
    config.retry.jitter = chance.pick(&[Jitter::None, Jitter::Full]);
    config.circuit_breaker.failure_threshold = chance.pick(&[1, 3, 5]);
    config.circuit_breaker.open_seconds = 1;
    config.circuit_breaker.success_threshold = chance.pick(&[1, 3]);
    config.dead_letter.when = chance.pick(&[
        DeadLetterWhen::Rejected,
        DeadLetterWhen::Rejected,
        DeadLetterWhen::Rejected,
        DeadLetterWhen::Exhausted,
        DeadLetterWhen::Exhausted,
    ]);
    config.dead_letter.on_aggregate = chance.pick(&[OnAggregate::Continue, OnAggregate::Hold]);
    config.state.lease_seconds = chance.pick(&[2, 3]);
    config.state.checkpoint_interval_milliseconds = chance.pick(&[100, 400, 1000]);
    config.source.on_retention_gap = chance.pick(&[OnRetentionGap::Stop, OnRetentionGap::Continue]);
    config.memory.in_flight_messages = chance.pick(&[1, 4, 30, 1000]);
    config
}

fn within_faults(chance: &mut Chance, faults_until: Micros) -> Micros {
    chance.within(START + SECOND / 2, faults_until - SECOND / 2)
}

fn layouts(chance: &mut Chance, hazards: &BTreeSet<Hazard>, faults_until: Micros) -> Vec<(Micros, usize)> {
    let count = chance.within(2, 3) as usize;
    if hazards.contains(&Hazard::Retention) {
        // Nobody reads for about as long as rows are kept.
        let from = START + chance.within(SECOND, 7 * SECOND);
        let until = from + RETENTION + chance.within(-12 * SECOND, 8 * SECOND);
        return vec![(START, count), (from, 0), (until, count)];
    }
    if !hazards.contains(&Hazard::Reshard) {
        return vec![(START, count)];
    }
    let counts = if chance.percent(50) {
        vec![1, 3, 2, 5]
    } else {
        (0..chance.within(2, 4))
            .map(|_| chance.within(1, 5) as usize)
            .collect()
    };
    let mut times: Vec<Micros> = (1..counts.len())
        .map(|_| within_faults(chance, faults_until))
        .collect();
    times.sort_unstable();
    [START].into_iter().chain(times).zip(counts).collect()
}

fn clock_steps(
    chance: &mut Chance,
    hazards: &BTreeSet<Hazard>,
    seats: usize,
    faults_until: Micros,
) -> Vec<(usize, Micros, Micros)> {
    if !hazards.contains(&Hazard::ClockSteps) {
        return Vec::new();
    }
    let seat = chance.below(seats as i64) as usize;
    let back = (
        seat,
        within_faults(chance, faults_until),
        -chance.within(1200 * MS, 3 * SECOND),
    );
    vec![back]
}

fn stops(
    chance: &mut Chance,
    hazards: &BTreeSet<Hazard>,
    seats: usize,
    faults_until: Micros,
) -> Vec<(usize, Micros)> {
    if !hazards.contains(&Hazard::Stops) {
        return Vec::new();
    }
    (0..chance.within(1, 3))
        .map(|_| {
            (
                chance.below(seats as i64) as usize,
                within_faults(chance, faults_until),
            )
        })
        .collect()
}

fn sets(chance: &mut Chance, hazards: &BTreeSet<Hazard>, tablets: bool, horizon: Micros) -> Vec<SetPlan> {
    let first = START - 100 * SECOND;
    let mut parts = if tablets {
        chance.pick(&[1, 2, 8])
    } else {
        chance.pick(&[1, 3, 7])
    };
    let mut sets = vec![SetPlan {
        start: first,
        published: first,
        parts,
    }];
    if !hazards.contains(&Hazard::Switches)
        && !hazards.contains(&Hazard::LateSets)
        && !hazards.contains(&Hazard::SlowCoordinator)
    {
        return sets;
    }
    let mut start = START;
    for _ in 0..chance.within(1, 3) {
        start += chance.within(SECOND, 3 * SECOND);
        parts = match (tablets, chance.percent(50)) {
            (true, true) => parts * 2,
            (true, false) => (parts / 2).max(1),
            (false, _) => chance.pick(&[1, 3, 7, 12]),
        };
        let published = if hazards.contains(&Hazard::LateSets) && chance.percent(60) {
            start + chance.within(100 * MS, horizon + 12 * SECOND)
        } else {
            start - chance.within(500 * MS, 10 * SECOND)
        };
        sets.push(SetPlan {
            start,
            published,
            parts,
        });
    }
    sets
}

fn windows(
    chance: &mut Chance,
    hazards: &BTreeSet<Hazard>,
    seats: usize,
    faults_until: Micros,
) -> Vec<Window> {
    use Fault::{
        BeatsFade, BrokerConfiguration, BrokerFatal, BrokerRefusesLate, BrokerReportsLate, BrokerStall,
        BrokerTransient, BrokerTrouble, BrokerUnknown, BrokersDown, LettersFail, LettersSlow, LettersUntold,
        OwnersStale, ProducerNotMade, QueueFull, ReadsFail, ReadsMisconfigured, ReadsOverloaded, ReadsSlow,
        SetsFail, SetsStale, StateDown, StateSlow, StateUntold, TopicUnasked,
    };
    let choices: [(Hazard, &[Fault]); 6] = [
        (
            Hazard::Queries,
            &[ReadsFail, ReadsOverloaded, ReadsMisconfigured, ReadsSlow],
        ),
        (Hazard::Sets, &[SetsFail, SetsStale]),
        (
            Hazard::Broker,
            &[
                BrokersDown,
                BrokerStall,
                BrokerConfiguration,
                BrokerTransient,
                BrokerReportsLate,
                BrokerRefusesLate,
                BrokerRefusesLate,
                BrokerTrouble,
                QueueFull,
                ProducerNotMade,
                TopicUnasked,
            ],
        ),
        (Hazard::BrokerOutcome, &[BrokerUnknown, BrokerFatal]),
        (Hazard::Letters, &[LettersFail, LettersUntold, LettersSlow]),
        (
            Hazard::State,
            &[
                StateDown,
                StateSlow,
                StateUntold,
                OwnersStale,
                OwnersStale,
                BeatsFade,
                BeatsFade,
            ],
        ),
    ];
    let mut windows = Vec::new();
    for (_, faults) in choices.iter().filter(|(hazard, _)| hazards.contains(hazard)) {
        for _ in 0..chance.within(1, 3) {
            let from = within_faults(chance, faults_until);
            let fault = chance.pick(faults);
            // Longer than a lease, or nothing comes of it.
            let least = if fault == BeatsFade { 2000 * MS } else { 100 * MS };
            let length = chance.within(least, least + 2400 * MS);
            windows.push(Window {
                fault,
                seat: chance.percent(50).then(|| chance.below(seats as i64) as usize),
                from,
                until: (from + length).min(faults_until),
            });
        }
    }
    windows
}
