//! What a person sees while a load runs: numbers redrawn on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::verify::follow::Progress;
use crate::verify::latency::Percentiles;

/// Time between two lines where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(5);
const SCRAPE_EVERY: Duration = Duration::from_millis(500);
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the relay says of itself on `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RelayMetrics {
    pub reachable: bool,
    /// 0 closed, 1 open, 2 half-open.
    pub breaker: Option<u8>,
    pub processed: f64,
    pub dead_lettered: f64,
}

/// Shows progress.
pub struct View {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Option<Instant>,
    relay: Option<watch::Receiver<RelayMetrics>>,
}

impl View {
    /// A view on this process's terminal, with the relay's own numbers beside if it is asked for them.
    pub fn new(relay: Option<watch::Receiver<RelayMetrics>>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is constant; should it not parse, the default one shows the message too.
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar
        });
        Self {
            bar,
            started: Instant::now(),
            last_line: None,
            relay,
        }
    }

    pub fn show(&mut self, progress: &Progress) {
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if self.bar.is_none() && !due {
            return;
        }
        let relay = self.relay.as_ref().map(|relay| *relay.borrow());
        let cells = cells(progress, relay);
        let elapsed = self.started.elapsed().as_secs();
        match &self.bar {
            Some(bar) => {
                let lines: Vec<String> = cells
                    .iter()
                    .map(|(name, value)| format!("{name:<14}{value:>22}"))
                    .collect();
                bar.set_message(format!("{elapsed} s\n{}", lines.join("\n")));
                bar.tick();
            }
            None => {
                let line: Vec<String> = cells
                    .iter()
                    .map(|(name, value)| format!("{name} {value}"))
                    .collect();
                eprintln!("{elapsed:>4} s  {}", line.join(", "));
                self.last_line = Some(Instant::now());
            }
        }
    }

    /// Leaves the terminal to what comes next.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn cells(progress: &Progress, relay: Option<RelayMetrics>) -> Vec<(&'static str, String)> {
    let lag = progress
        .oldest_outstanding()
        .map_or_else(String::new, |age| format!(" ({:.1} s)", age.as_secs_f64()));
    let mut cells = vec![
        ("committed", progress.committed.to_string()),
        ("delivered", progress.delivered.to_string()),
        ("lag", format!("{}{lag}", progress.outstanding())),
    ];
    if let Some(Percentiles { p50, p99, .. }) = progress.latency.summary().commit_to_consumption_ms {
        cells.push(("p50 / p99", format!("{p50:.1} / {p99:.1} ms")));
    }
    match relay {
        None => {}
        Some(RelayMetrics { reachable: false, .. }) => cells.push(("relay", "does not answer".to_owned())),
        Some(metrics) => {
            cells.push(("relay delivered", format!("{:.0}", metrics.processed)));
            cells.push(("dead letters", format!("{:.0}", metrics.dead_lettered)));
            let breaker = match metrics.breaker {
                Some(0) => "closed",
                Some(1) => "open",
                Some(2) => "half-open",
                _ => "unknown",
            };
            cells.push(("breaker", breaker.to_owned()));
        }
    }
    cells
}

/// Reads `/metrics` at `url` until `stop`; what it says arrives in the receiver.
pub async fn scrape(url: String, latest: watch::Sender<RelayMetrics>, stop: CancellationToken) {
    let client = reqwest::Client::new();
    let mut ticks = tokio::time::interval(SCRAPE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let text = async {
            let response = client
                .get(&url)
                .timeout(SCRAPE_TIMEOUT)
                .send()
                .await?
                .error_for_status()?;
            response.text().await
        };
        latest.send_replace(text.await.map(|text| parse(&text)).unwrap_or_default());
    }
}

/// The relay's numbers from Prometheus' text format; counters are summed over their labels.
pub fn parse(text: &str) -> RelayMetrics {
    let mut metrics = RelayMetrics {
        reachable: true,
        ..RelayMetrics::default()
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Ok(value) = value.parse::<f64>() else { continue };
        match series.split('{').next().unwrap_or_default() {
            "circuit_breaker_state" => metrics.breaker = Some(value as u8),
            "cdc_events_processed_total" => metrics.processed += value,
            "dlq_messages_total" => metrics.dead_lettered += value,
            _ => {}
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_their_labels() {
        let text = "# TYPE cdc_events_processed_total counter\n\
                    cdc_events_processed_total{event_type=\"OrderCreated\"} 40\n\
                    cdc_events_processed_total{event_type=\"Order Shipped\"} 2\n\
                    cdc_events_failed_total{event_type=\"OrderCreated\"} 7\n\
                    dlq_messages_total 3\n\
                    circuit_breaker_state 2\n";
        let expected = RelayMetrics {
            reachable: true,
            breaker: Some(2),
            processed: 42.0,
            dead_lettered: 3.0,
        };
        assert_eq!(parse(text), expected);
        assert_eq!(parse("").breaker, None);
    }
}
