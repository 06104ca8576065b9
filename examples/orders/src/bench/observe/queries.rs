//! What a relay asks of ScyllaDB, by what asks.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::DELIVERED;
use crate::bench::BenchError;
use crate::bench::prometheus::Metrics;

/// What asks: the passes over young rows, the same far behind, the aged cursors, what these found missing in full, and
/// checks before something is handed over.
const CURSORS: [&str; 5] = ["fast", "catch_up", "aged", "fetch", "check"];

/// The load of a relay while it was observed.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryLoad {
    pub seconds: f64,
    /// Of the table's log.
    pub streams: u32,
    pub events: f64,
    pub rows: f64,
    /// Per cursor: queries, and stream partitions that they touched.
    pub cursors: Vec<(&'static str, f64, f64)>,
}

/// Observes for its whole duration.
///
/// # Errors
/// The relay is not there.
pub async fn queries(metrics: &str, streams: u32, duration: Duration) -> Result<QueryLoad, BenchError> {
    let client = reqwest::Client::new();
    let before = Metrics::scrape(&client, metrics).await?;
    let started = Instant::now();
    tokio::time::sleep(duration).await;
    let after = Metrics::scrape(&client, metrics).await?;
    let seconds = started.elapsed().as_secs_f64();
    let added = |name: &str| after.sum(name) - before.sum(name);
    let of = |name: &str, cursor: &str| {
        let labels = format!("cursor=\"{cursor}\"");
        after.sum_with(name, &labels) - before.sum_with(name, &labels)
    };
    let cursor = |name: &'static str| {
        let asked = of("outbox_relay_cql_queries_total", name);
        (name, asked, of("outbox_relay_partitions_touched_total", name))
    };
    Ok(QueryLoad {
        seconds,
        streams,
        events: added(DELIVERED),
        rows: added("outbox_relay_log_rows_total"),
        cursors: CURSORS.map(cursor).into(),
    })
}

impl fmt::Display for QueryLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_event = |count: f64| {
            let each = count / self.events;
            if self.events > 0.0 {
                format!("{each:.3}")
            } else {
                "-".to_owned()
            }
        };
        writeln!(
            f,
            "{:.0} events/s, {} streams, {:.0} s, {} log rows read per event",
            self.events / self.seconds,
            self.streams,
            self.seconds,
            per_event(self.rows)
        )?;
        writeln!(
            f,
            "| cursor | queries/s | stream partitions/s | partitions/s per stream | queries per event |"
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        let (queries, partitions) = self
            .cursors
            .iter()
            .fold((0.0, 0.0), |sum, cursor| (sum.0 + cursor.1, sum.1 + cursor.2));
        for (name, queries, partitions) in self.cursors.iter().copied().chain([("all", queries, partitions)])
        {
            writeln!(
                f,
                "| {name} | {:.1} | {:.1} | {:.2} | {} |",
                queries / self.seconds,
                partitions / self.seconds,
                partitions / self.seconds / f64::from(self.streams),
                per_event(queries)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_rates_per_stream_and_per_event() {
        let load = QueryLoad {
            seconds: 10.0,
            streams: 16,
            events: 2000.0,
            rows: 3000.0,
            cursors: vec![("fast", 1000.0, 4000.0), ("aged", 100.0, 400.0)],
        };
        let text = load.to_string();
        for line in [
            "200 events/s, 16 streams, 10 s, 1.500 log rows read per event",
            "| fast | 100.0 | 400.0 | 25.00 | 0.500 |",
            "| all | 110.0 | 440.0 | 27.50 | 0.550 |",
        ] {
            assert!(text.contains(line), "should say {line}:\n{text}");
        }
        let idle = QueryLoad { events: 0.0, ..load };
        assert!(idle.to_string().contains("| fast | 100.0 | 400.0 | 25.00 | - |"));
    }
}
