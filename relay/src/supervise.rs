//! Keeps a part of the process running: what fails or panics starts again, later each time, and health shows it.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::health::{Board, Part};
use crate::ports::Clock;

/// Restart delays double from the first to the last; a part that ran longer than the last starts over.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(10);

/// Runs what `make` makes until it ends with Ok or `stop` is cancelled and it returns. Each run is a task of its own,
/// so that a panic ends the run and not the process.
pub async fn supervise<F, E>(
    part: Part,
    board: &Board,
    clock: &impl Clock,
    stop: &CancellationToken,
    mut make: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let mut delay = FIRST_DELAY;
    loop {
        let started = clock.elapsed();
        let mut runs = tokio::task::JoinSet::new();
        runs.spawn(make());
        let reason = match runs.join_next().await {
            Some(Ok(Ok(()))) | None => return,
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(error)) => format!("panicked: {error}"),
        };
        if stop.is_cancelled() {
            return;
        }
        if clock.elapsed().saturating_sub(started) > LAST_DELAY {
            delay = FIRST_DELAY;
        }
        error!(part = part.name(), %reason, restart_in_milliseconds = delay.as_millis() as u64, "part failed");
        board.failed(part, reason, clock.now());
        board.restarted(part);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(LAST_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn errors_and_panics_restart_with_growing_delay_until_it_ends_well() {
        let (board, clock) = (Board::new(0), SystemClock::start());
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        supervise(
            Part::Source,
            &board,
            &clock,
            &CancellationToken::new(),
            move || {
                let run = counted.fetch_add(1, Ordering::Relaxed);
                async move {
                    assert_ne!(run, 1, "the second run panics");
                    if run < 3 { Err("not yet") } else { Ok(()) }
                }
            },
        )
        .await;
        assert_eq!(runs.load(Ordering::Relaxed), 4);
        assert_eq!(clock.elapsed(), FIRST_DELAY * (1 + 2 + 4));
        assert_eq!(board.part(Part::Source).unwrap().restarts, 3);
    }
}
