//! The circuit breaker. Pure; times are monotonic and passed in.

use std::time::Duration;

use crds::CircuitBreaker;
use crds::relay_status::BreakerState;

/// Counts failures in a row and decides whether anything is attempted.
#[derive(Debug, Clone)]
pub struct Breaker {
    failure_threshold: u32,
    open_for: Duration,
    success_threshold: u32,
    state: BreakerState,
    failures: u32,
    successes: u32,
    changed_at: Duration,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: BreakerState,
    pub to: BreakerState,
}

impl Breaker {
    pub fn new(settings: &CircuitBreaker) -> Self {
        Self {
            failure_threshold: settings.failure_threshold,
            open_for: settings.open(),
            success_threshold: settings.success_threshold,
            state: BreakerState::Closed,
            failures: 0,
            successes: 0,
            changed_at: Duration::ZERO,
        }
    }

    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Failures in a row.
    pub fn consecutive_failures(&self) -> u32 {
        self.failures
    }

    /// When the open circuit will probe.
    pub fn probes_at(&self) -> Option<Duration> {
        (self.state == BreakerState::Open).then(|| self.changed_at + self.open_for)
    }

    /// An attempt failed. While the circuit is open nothing is attempted, so nothing counts.
    pub fn failed(&mut self, now: Duration) -> Option<Transition> {
        if self.state == BreakerState::Open {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let opens = self.state == BreakerState::HalfOpen || self.failures >= self.failure_threshold;
        opens.then(|| self.change(BreakerState::Open, now))
    }

    /// An attempt succeeded. While the circuit is open this is the late answer of an earlier attempt, and waits to be
    /// confirmed by a probe.
    pub fn succeeded(&mut self, now: Duration) -> Option<Transition> {
        match self.state {
            BreakerState::Open => None,
            BreakerState::Closed => {
                self.failures = 0;
                None
            }
            BreakerState::HalfOpen => {
                self.successes += 1;
                (self.successes >= self.success_threshold).then(|| self.change(BreakerState::Closed, now))
            }
        }
    }

    /// Opens the circuit whatever the count: an event has used up its attempts, or a dead letter cannot be written.
    pub fn trip(&mut self, now: Duration) -> Option<Transition> {
        (self.state != BreakerState::Open).then(|| self.change(BreakerState::Open, now))
    }

    /// Lets an open circuit probe once it has been open for long enough.
    pub fn tick(&mut self, now: Duration) -> Option<Transition> {
        let probes = self.probes_at().is_some_and(|at| at <= now);
        probes.then(|| self.change(BreakerState::HalfOpen, now))
    }

    fn change(&mut self, to: BreakerState, now: Duration) -> Transition {
        let from = std::mem::replace(&mut self.state, to);
        self.changed_at = now;
        self.successes = 0;
        if to == BreakerState::Closed {
            self.failures = 0;
        }
        Transition { from, to }
    }
}

#[cfg(test)]
mod tests {
    use BreakerState::{Closed, HalfOpen, Open};

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Fail,
        Succeed,
        Trip,
        /// Passes seconds, then ticks.
        Wait(u64),
    }
    use Step::{Fail, Succeed, Trip, Wait};

    /// 5 failures, 30 s, 3 successes.
    fn check(steps: &[Step], expected: BreakerState) {
        let mut breaker = Breaker::new(&CircuitBreaker::default());
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Fail => breaker.failed(now),
                Succeed => breaker.succeeded(now),
                Trip => breaker.trip(now),
                Wait(seconds) => {
                    now += Duration::from_secs(*seconds);
                    breaker.tick(now)
                }
            };
        }
        assert_eq!(breaker.state(), expected, "{steps:?}");
    }

    #[test]
    fn failures_in_a_row_open_it_probes_close_it() {
        check(&[Fail; 4], Closed);
        check(&[Fail; 5], Open);
        check(&[Fail, Fail, Fail, Fail, Succeed, Fail], Closed);
        check(&[Trip], Open);
        check(&[Trip, Wait(29)], Open);
        check(&[Trip, Wait(30)], HalfOpen);
        check(&[Trip, Wait(30), Succeed, Succeed], HalfOpen);
        check(&[Trip, Wait(30), Succeed, Succeed, Succeed], Closed);
        check(&[Trip, Wait(30), Succeed, Succeed, Succeed, Fail], Closed);
        check(&[Trip, Wait(30), Succeed, Succeed, Fail], Open);
        check(&[Trip, Wait(30), Fail, Wait(29)], Open);
        check(&[Trip, Wait(30), Fail, Wait(30), Succeed, Succeed], HalfOpen);
    }

    #[test]
    fn an_open_circuit_hears_nothing() {
        check(&[Trip, Succeed, Succeed, Succeed], Open);
        check(&[Trip, Fail, Fail, Wait(30)], HalfOpen);
    }

    #[test]
    fn every_change_is_told_once() {
        let mut breaker = Breaker::new(&CircuitBreaker {
            failure_threshold: 1,
            open_seconds: 1,
            success_threshold: 1,
        });
        let told = |from, to| Some(Transition { from, to });
        let at = Duration::from_secs;
        assert_eq!(breaker.tick(at(0)), None);
        assert_eq!(breaker.failed(at(0)), told(Closed, Open));
        assert_eq!(breaker.trip(at(0)), None);
        assert_eq!(breaker.probes_at(), Some(at(1)));
        assert_eq!(breaker.tick(at(1)), told(Open, HalfOpen));
        assert_eq!(breaker.tick(at(9)), None);
        assert_eq!(breaker.succeeded(at(1)), told(HalfOpen, Closed));
        assert_eq!((breaker.probes_at(), breaker.consecutive_failures()), (None, 0));
    }
}
