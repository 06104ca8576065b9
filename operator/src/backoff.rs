//! How long a resource waits after a failed pass: doubling, with jitter, so that a thousand resources do not return at
//! once when the API server does.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(120);

/// The delay after this many failures in a row (from 1 on). `random` is from 0 to 1: the delay lies between half of the
/// full one and the full one.
pub fn delay(failures: u32, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LAST);
    full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// A period that many resources share, spread over a tenth of it.
pub fn spread(period: Duration, random: f64) -> Duration {
    period.mul_f64(0.95 + random.clamp(0.0, 1.0) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_last_and_jitter_keeps_half() {
        for (failures, random, milliseconds) in [
            (1, 1.0, 500),
            (2, 1.0, 1000),
            (3, 0.0, 1000),
            (9, 1.0, 120_000),
            (u32::MAX, 0.5, 90_000),
        ] {
            assert_eq!(
                delay(failures, random),
                Duration::from_millis(milliseconds),
                "{failures}"
            );
        }
    }
}
