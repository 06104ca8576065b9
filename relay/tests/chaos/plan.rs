//! What a seed decides: the layout of each round, and what is done next.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One cluster, one table, one topic, one set of relays.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) seed: u64,
    pub(crate) number: u64,
    /// One or three.
    pub(crate) brokers: u8,
    pub(crate) tablets: bool,
    /// `--share auto`; otherwise each relay has its part.
    pub(crate) auto: bool,
    /// `sink.guarantee: ExactlyOnce`.
    pub(crate) exactly: bool,
    /// Log rows surface late, and no relay dies: what a dead owner had delivered and not saved could come before a row
    /// that surfaces afterwards, and nobody would know (docs/guarantees.md).
    pub(crate) late_rows: bool,
}

/// Relays side by side.
pub(crate) const RELAYS: usize = 3;

/// What the relays reach through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Scylla,
    Kafka,
}

/// One thing that is done, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    /// kill -9, and how long until the next one starts in its place.
    Kill(usize, Duration),
    /// SIGTERM, likewise.
    Stop(usize, Duration),
    /// SIGSTOP, then SIGCONT.
    Freeze(usize, Duration),
    KillBroker(usize, Duration),
    PauseBroker(usize, Duration),
    Cut(Line),
    Slow(Line, Duration, Duration),
    Silent(Line, Duration),
    /// A rule of the sandbox, by its number in [`HAZARDS`].
    Hazard(usize, Duration),
    /// A new generation, or a split of all tablets; when it starts, and when it is published.
    Switch(Duration, Duration),
}

impl Action {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kill(..) => "kill -9",
            Self::Stop(..) => "SIGTERM",
            Self::Freeze(..) => "SIGSTOP",
            Self::KillBroker(..) => "broker killed",
            Self::PauseBroker(..) => "broker paused",
            Self::Cut(Line::Scylla) => "ScyllaDB cut off",
            Self::Cut(Line::Kafka) => "Kafka cut off",
            Self::Slow(Line::Scylla, ..) => "ScyllaDB slow",
            Self::Slow(Line::Kafka, ..) => "Kafka slow",
            Self::Silent(Line::Scylla, _) => "ScyllaDB silent",
            Self::Silent(Line::Kafka, _) => "Kafka silent",
            Self::Hazard(..) => "hazard of the log or the state",
            Self::Switch(..) => "streams switched",
        }
    }
}

/// Rules of the sandbox that may hold for a while.
pub(crate) const HAZARDS: usize = 7;

impl Round {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
        Self {
            seed: random.random(),
            number,
            brokers: if number % 2 == 1 { 3 } else { 1 },
            tablets: random.random_bool(0.5),
            auto: random.random_bool(0.5),
            exactly: matches!(number % 4, 1 | 2),
            late_rows: number % 4 == 3,
        }
    }

    pub(crate) fn guarantee(&self) -> &'static str {
        if self.exactly {
            "ExactlyOnce"
        } else {
            "AtLeastOnce"
        }
    }

    pub(crate) fn actions(&self) -> Actions {
        Actions {
            random: StdRng::seed_from_u64(self.seed),
            brokers: usize::from(self.brokers),
            kills: !self.late_rows,
        }
    }
}

/// An endless series.
pub(crate) struct Actions {
    random: StdRng,
    brokers: usize,
    kills: bool,
}

impl Actions {
    /// What to do next, and how long to wait first.
    pub(crate) fn next(&mut self) -> (Duration, Action) {
        let pause = self.milliseconds(100, 1800);
        let kind = self.random.random_range(0..100);
        let action = match kind {
            0..40 if self.kills => Action::Kill(self.relay(), self.milliseconds(0, 2500)),
            0..50 => Action::Stop(self.relay(), self.milliseconds(0, 2000)),
            50..57 if self.kills => Action::Freeze(self.relay(), self.milliseconds(300, 7000)),
            57..62 => Action::KillBroker(self.broker(), self.milliseconds(0, 3000)),
            62..69 => Action::PauseBroker(self.broker(), self.milliseconds(200, 6000)),
            69..76 => Action::Cut(self.line()),
            76..82 => {
                let delay = self.milliseconds(5, 300);
                Action::Slow(self.line(), delay, self.milliseconds(500, 3000))
            }
            82..86 => Action::Silent(self.line(), self.milliseconds(300, 2500)),
            86..97 => {
                let hazard = self.random.random_range(0..HAZARDS);
                Action::Hazard(hazard, self.milliseconds(500, 4000))
            }
            97.. => Action::Switch(self.milliseconds(500, 3000), self.milliseconds(0, 4000)),
            _ => Action::Cut(self.line()),
        };
        (pause, action)
    }

    fn milliseconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    fn relay(&mut self) -> usize {
        self.random.random_range(0..RELAYS)
    }

    fn broker(&mut self) -> usize {
        self.random.random_range(1..=self.brokers)
    }

    fn line(&mut self) -> Line {
        if self.random.random_bool(0.5) {
            Line::Scylla
        } else {
            Line::Kafka
        }
    }
}
