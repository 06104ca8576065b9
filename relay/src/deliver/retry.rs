//! When to try again. Pure.

use std::time::Duration;

use crds::Retry;
use crds::retry::Jitter;
use rand::Rng;

/// Delays between the attempts of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    initial: Duration,
    max: Duration,
    multiplier_percent: u32,
    jitter: Jitter,
}

impl Schedule {
    pub fn new(retry: &Retry) -> Self {
        Self {
            initial: retry.initial_backoff(),
            max: retry.max_backoff(),
            multiplier_percent: retry.multiplier_percent,
            jitter: retry.jitter,
        }
    }

    /// The delay after the `failures`-th failed attempt, counted from 1.
    pub fn delay(&self, failures: u32, random: &mut impl Rng) -> Duration {
        let full = self.full(failures);
        match self.jitter {
            Jitter::None => full,
            Jitter::Full => full.mul_f64(random.random::<f64>()),
        }
    }

    fn full(&self, failures: u32) -> Duration {
        let growth = f64::from(self.multiplier_percent) / 100.0;
        // Any exponent beyond the range of i32 has long reached the maximum, or leaves the delay as it is.
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * growth.powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.max, |delay| delay.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn schedule(initial: u32, max: u32, multiplier_percent: u32, jitter: Jitter) -> Schedule {
        Schedule::new(&Retry {
            initial_backoff_milliseconds: initial,
            max_backoff_milliseconds: max,
            multiplier_percent,
            jitter,
            ..Retry::default()
        })
    }

    #[test]
    fn without_jitter_the_schedule_is_exact() {
        let check = |schedule: Schedule, expected: &[u64]| {
            let mut random = StdRng::seed_from_u64(1);
            let delays: Vec<_> = (1..=expected.len() as u32)
                .map(|failures| schedule.delay(failures, &mut random).as_millis() as u64)
                .collect();
            assert_eq!(delays, expected);
        };
        check(schedule(100, 500, 200, Jitter::None), &[100, 200, 400, 500, 500]);
        check(
            schedule(1000, 10_000, 300, Jitter::None),
            &[1000, 3000, 9000, 10_000],
        );
        check(schedule(100, 500, 100, Jitter::None), &[100, 100, 100]);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let mut random = StdRng::seed_from_u64(1);
        let schedule = schedule(100, 500, 1000, Jitter::None);
        assert_eq!(schedule.delay(u32::MAX, &mut random), Duration::from_millis(500));
        assert_eq!(schedule.delay(0, &mut random), Duration::from_millis(100));
    }

    #[test]
    fn full_jitter_uses_the_whole_range_up_to_the_delay() {
        let schedule = schedule(100, 500, 200, Jitter::Full);
        let mut random = StdRng::seed_from_u64(1);
        let delays: Vec<_> = (0..1000).map(|_| schedule.delay(3, &mut random)).collect();
        let full = Duration::from_millis(400);
        assert!(delays.iter().all(|delay| *delay <= full));
        assert!(delays.iter().any(|delay| *delay < full / 10));
        assert!(delays.iter().any(|delay| *delay > full * 9 / 10));
    }
}
