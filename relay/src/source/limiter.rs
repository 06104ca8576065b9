//! How many queries may be in flight, and how many may start per second. Pure; elapsed time is passed in.
//!
//! Additive increase, multiplicative decrease: errors and overload halve the number of queries in flight, latency
//! well above what it usually is takes a tenth off, and every round of good answers adds one.

use std::time::Duration;

/// Errors closer together than this are one sign of trouble.
const DECREASE_INTERVAL: Duration = Duration::from_millis(500);

/// Latency counts as high above this multiple of the usual one ...
const HIGH_LATENCY: f64 = 8.0;

/// ... and never below this: a few slow milliseconds are no load problem.
const LATENCY_FLOOR: Duration = Duration::from_millis(50);

/// Share of the limits that a start begins with.
const RAMP_START: f64 = 0.1;

/// Queries that may start at once after a pause, as time's worth of the budget.
const BURST: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_in_flight: u32,
    pub queries_per_second: u32,
    /// Time from the start until the limits are at full size.
    pub ramp: Duration,
}

#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    started: Duration,
    in_flight: u32,
    /// What trouble has left of `max_in_flight`.
    allowed: f64,
    decreased_at: Option<Duration>,
    /// Exponentially weighted latency of good answers, seconds.
    usual: Option<f64>,
    tokens: f64,
    filled_at: Duration,
}

/// How a query went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Good,
    Failed,
    Overloaded,
}

impl Limiter {
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self {
            limits,
            started: now,
            in_flight: 0,
            allowed: f64::from(limits.max_in_flight.max(1)),
            decreased_at: None,
            usual: None,
            tokens: 1.0,
            filled_at: now,
        }
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Queries that may be in flight now; at least one.
    pub fn allowed(&self, now: Duration) -> u32 {
        ((self.allowed * self.ramp(now)) as u32).max(1)
    }

    /// Whether a query may start, or how long to wait; None to wait for an answer instead.
    pub fn ready(&mut self, now: Duration) -> Result<(), Option<Duration>> {
        self.fill(now);
        if self.in_flight >= self.allowed(now) {
            return Err(None);
        }
        if self.tokens < 1.0 {
            return Err(Some(Duration::from_secs_f64(
                (1.0 - self.tokens) / self.rate(now),
            )));
        }
        Ok(())
    }

    /// A query starts, which [`Self::ready`] has allowed.
    pub fn begin(&mut self) {
        self.tokens -= 1.0;
        self.in_flight += 1;
    }

    /// A query has ended.
    pub fn end(&mut self, answer: Answer, latency: Duration, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let latency = latency.as_secs_f64();
        let usual = *self.usual.get_or_insert(latency);
        match answer {
            Answer::Overloaded | Answer::Failed => self.decrease(0.5, now),
            Answer::Good => {
                self.usual = Some(usual + (latency - usual) * 0.05);
                if latency > (usual * HIGH_LATENCY).max(LATENCY_FLOOR.as_secs_f64()) {
                    self.decrease(0.9, now);
                } else {
                    let most = f64::from(self.limits.max_in_flight.max(1));
                    self.allowed = (self.allowed + 1.0 / self.allowed).min(most);
                }
            }
        }
    }

    fn decrease(&mut self, factor: f64, now: Duration) {
        if self
            .decreased_at
            .is_some_and(|at| now.saturating_sub(at) < DECREASE_INTERVAL)
        {
            return;
        }
        self.decreased_at = Some(now);
        self.allowed = (self.allowed * factor).max(1.0);
    }

    fn ramp(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.started).as_secs_f64();
        let ramp = self.limits.ramp.as_secs_f64();
        if age >= ramp {
            1.0
        } else {
            RAMP_START + (1.0 - RAMP_START) * age / ramp
        }
    }

    fn rate(&self, now: Duration) -> f64 {
        (f64::from(self.limits.queries_per_second) * self.ramp(now)).max(1.0)
    }

    fn fill(&mut self, now: Duration) {
        let rate = self.rate(now);
        let passed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.filled_at = now;
        let most = (rate * BURST.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + passed * rate).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limiter(ramp: Duration) -> Limiter {
        let limits = Limits {
            max_in_flight: 16,
            queries_per_second: 1000,
            ramp,
        };
        Limiter::new(limits, Duration::ZERO)
    }

    /// Queries started within a second when each takes `latency`.
    fn started_within_a_second(limiter: &mut Limiter, from: Duration, latency: Duration) -> u32 {
        let mut running: Vec<Duration> = Vec::new();
        let mut count = 0;
        for tick in 0..1000 {
            let now = from + tick * MS;
            running.retain(|end| {
                let over = *end <= now;
                if over {
                    limiter.end(Answer::Good, latency, now);
                }
                !over
            });
            while limiter.ready(now).is_ok() {
                limiter.begin();
                running.push(now + latency);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn the_budget_holds_and_can_be_used_up() {
        let count = started_within_a_second(&mut limiter(Duration::ZERO), 5000 * MS, MS);
        assert!((950..=1051).contains(&count), "{count}");
    }

    #[test]
    fn concurrency_holds() {
        let count = started_within_a_second(&mut limiter(Duration::ZERO), 5000 * MS, 40 * MS);
        assert!((380..=416).contains(&count), "16 at a time, 25 rounds: {count}");
    }

    #[test]
    fn a_start_is_gentle() {
        let mut limiter = limiter(5000 * MS);
        assert_eq!(limiter.allowed(Duration::ZERO), 1);
        let first = started_within_a_second(&mut limiter, Duration::ZERO, MS);
        assert!(first < 300, "{first}");
        assert_eq!(limiter.allowed(5000 * MS), 16);
    }

    #[test]
    fn trouble_shrinks_it_and_good_answers_bring_it_back() {
        let mut limiter = limiter(Duration::ZERO);
        let now = |i: u32| i * 1000 * MS;
        for i in 1..=5 {
            limiter.end(Answer::Overloaded, MS, now(i));
        }
        assert_eq!(limiter.allowed(now(5)), 1);
        for _ in 0..200 {
            limiter.end(Answer::Good, MS, now(6));
        }
        assert_eq!(limiter.allowed(now(6)), 16);
        limiter.end(Answer::Good, 100 * MS, now(7));
        assert_eq!(limiter.allowed(now(7)), 14);
        limiter.end(Answer::Failed, 100 * MS, now(7));
        assert_eq!(limiter.allowed(now(7)), 14, "one sign of trouble at a time");
    }

    #[test]
    fn it_says_how_long_to_wait() {
        let mut limiter = limiter(Duration::ZERO);
        assert_eq!(limiter.ready(Duration::ZERO), Ok(()));
        limiter.begin();
        assert_eq!(limiter.ready(Duration::ZERO), Err(Some(MS)));
        assert_eq!(limiter.ready(MS), Ok(()));
    }
}
