//! One drain: a relay is started on a full log and watched until everything is delivered.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::DELIVERED;
use crate::bench::processes::{Meter, Watched, memory};
use crate::bench::prometheus::Metrics;
use crate::bench::topic::EndOffsets;
use crate::bench::{BenchError, Drained, Part};
use crate::kafka::Cluster;

/// How often the relay is asked. The measured time is too long by at most two of these, never too short.
const POLL: Duration = Duration::from_millis(50);
/// How often the topic's ends are asked for: a request per partition.
const OFFSETS_EVERY: Duration = Duration::from_millis(200);
/// How long nothing may be delivered before the drain has failed.
const STALL: Duration = Duration::from_secs(60);
/// A graceful stop takes about a second.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What to drain, and how.
pub struct Drain {
    pub round: u32,
    /// Log rows that wait.
    pub events: u64,
    /// Besides the relay.
    pub watched: Vec<Watched>,
    /// The relay's `/metrics`.
    pub metrics: String,
    pub cluster: Cluster,
    /// Must exist and be empty.
    pub topic: String,
    /// The relay writes in transactions, whose ends take places in the topic.
    pub exactly_once: bool,
    /// Program and arguments.
    pub relay: Vec<String>,
}

/// What only a relay has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayDrain {
    /// From the start of the process to the first delivery: connecting, claiming, and the first read.
    pub start_seconds: f64,
    /// The drain once more, by the topic's end offsets alone.
    pub seconds_by_offsets: f64,
    /// The relay's CPU before the first delivery.
    pub start_cpu_seconds: f64,
    pub peak_resident_bytes: u64,
    /// Reads of the CDC log.
    pub queries: f64,
    pub log_rows: f64,
    /// From the request to stop to the end of the process.
    pub stop_seconds: f64,
}

/// Starts a relay, and times it from the last look that found nothing delivered to the first that found everything.
///
/// # Errors
/// The relay ended, stalled, delivered too little or too much, or did not stop in time with exit code 0.
pub async fn drain(plan: Drain) -> Result<Drained, BenchError> {
    let ends = {
        let (cluster, topic) = (plan.cluster.clone(), plan.topic.clone());
        blocking(move || EndOffsets::open(&cluster, &topic)).await?
    };
    let ends = Arc::new(ends);
    let mut relay = start(&plan.relay)?;
    let pid = relay
        .id()
        .ok_or_else(|| BenchError::new("starting the relay", "it ended at once"))?;
    let mut watched = plan.watched.clone();
    watched.push(Watched {
        name: "relay".to_owned(),
        pid,
    });

    let (stop, stopped) = watch::channel(());
    let offsets = tokio::spawn(follow_offsets(Arc::clone(&ends), plan.events, stopped));
    let delivered = follow_metrics(&plan, &watched, &mut relay).await?;
    let seconds_by_offsets = timeout(STALL, offsets).await;
    drop(stop);
    let seconds_by_offsets = seconds_by_offsets
        .map_err(|_| {
            BenchError::new(
                "counting the topic",
                "it holds fewer messages than were delivered",
            )
        })?
        .map_err(|error| BenchError::new("counting the topic", error))??;
    let peak_resident_bytes = memory(pid)?.peak;
    let stop_seconds = stop_gracefully(&mut relay, pid).await?;

    let messages = blocking(move || ends.messages()).await?;
    if messages < plan.events || messages > plan.events && !plan.exactly_once {
        let detail = format!("{messages} messages of {} events", plan.events);
        return Err(BenchError::new("counting the topic", detail));
    }
    Ok(Drained {
        part: if plan.exactly_once {
            Part::ExactlyOnce
        } else {
            Part::Relay
        },
        round: plan.round,
        events: plan.events,
        usage: delivered.meter_usage,
        relay: Some(RelayDrain {
            start_seconds: delivered.start_seconds,
            seconds_by_offsets,
            start_cpu_seconds: delivered.start_cpu_seconds,
            peak_resident_bytes,
            queries: delivered.last.sum("outbox_relay_cql_queries_total"),
            log_rows: delivered.last.sum("outbox_relay_log_rows_total"),
            stop_seconds,
        }),
    })
}

struct Delivered {
    meter_usage: crate::bench::processes::Usage,
    start_seconds: f64,
    start_cpu_seconds: f64,
    last: Metrics,
}

fn start(command: &[String]) -> Result<Child, BenchError> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| BenchError::new("starting the relay", "no command given"))?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        // Standard output is for the measurement.
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| BenchError::new(format!("starting {program}"), error))
}

async fn follow_metrics(
    plan: &Drain,
    watched: &[Watched],
    relay: &mut Child,
) -> Result<Delivered, BenchError> {
    let client = reqwest::Client::new();
    let started = Instant::now();
    let whole = Meter::start(watched)?;
    let mut idle = (Meter::start(watched)?, Duration::ZERO, 0.0);
    let mut progress = (0.0, Instant::now());
    let mut polls = interval(POLL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            status = relay.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(BenchError::new("the relay ended", status));
            }
            _ = polls.tick() => {}
        }
        // No answer is an answer: the relay is not up yet, or busy.
        let metrics = Metrics::scrape(&client, &plan.metrics).await.unwrap_or_default();
        let delivered = metrics.sum(DELIVERED);
        if delivered == 0.0 && progress.0 == 0.0 {
            idle = (
                Meter::start(watched)?,
                started.elapsed(),
                whole.read()?.cpu("relay"),
            );
        }
        if delivered >= plan.events as f64 {
            return Ok(Delivered {
                meter_usage: idle.0.read()?,
                start_seconds: idle.1.as_secs_f64(),
                start_cpu_seconds: idle.2,
                last: metrics,
            });
        }
        if delivered > progress.0 {
            progress = (delivered, Instant::now());
        }
        if progress.1.elapsed() > STALL {
            let detail = format!(
                "{} of {} events after {} s without progress",
                progress.0,
                plan.events,
                STALL.as_secs()
            );
            return Err(BenchError::new("delivering", detail));
        }
    }
}

/// Seconds from the last look at an empty topic to the first at a full one.
async fn follow_offsets(
    ends: Arc<EndOffsets>,
    events: u64,
    mut stopped: watch::Receiver<()>,
) -> Result<f64, BenchError> {
    let mut empty = Instant::now();
    let mut looks = interval(OFFSETS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return Err(BenchError::new("counting the topic", "given up")),
            _ = looks.tick() => {}
        }
        let asked = Instant::now();
        let ends = Arc::clone(&ends);
        let messages = blocking(move || ends.messages()).await?;
        if messages == 0 {
            empty = asked;
        }
        if messages >= events {
            return Ok(empty.elapsed().as_secs_f64());
        }
    }
}

async fn stop_gracefully(relay: &mut Child, pid: u32) -> Result<f64, BenchError> {
    let failed = |detail: &dyn std::fmt::Display| BenchError::new("stopping the relay", detail);
    let asked = Instant::now();
    let signal = Command::new("kill")
        .arg("-TERM")
        .arg(pid.to_string())
        .status()
        .await;
    signal.map_err(|error| failed(&error))?;
    let status = timeout(STOP_TIMEOUT, relay.wait())
        .await
        .map_err(|_| failed(&"it did not end in time"))?
        .map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(failed(&status));
    }
    Ok(asked.elapsed().as_secs_f64())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BenchError> + Send + 'static,
) -> Result<T, BenchError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| BenchError::new("asking Kafka", error))?
}
