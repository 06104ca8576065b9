//! How a process meets the log: delays, failures, limits.

use relay::ports::{Capture, ChangeLog, Columns, LogError, LogPage, LogQuery, StreamSet};

use crate::chance::Chance;
use crate::log::order;
use crate::plan::{Fault, Hazard};
use crate::process::Point;
use crate::relay_process::Port;
use crate::world::{MS, Micros, START, World};

/// The list that a node shows may be this old.
const STALE: Micros = 3000 * MS;

impl ChangeLog for Port {
    async fn stream_sets(&self) -> Result<Vec<StreamSet>, LogError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::SetsAsked).await;
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 5 * MS)))
            .await;
        let fails = world.fault(Fault::SetsFail, process.seat) && world.percent(70);
        let stale = world.fault(Fault::SetsStale, process.seat) && world.percent(70);
        let as_of = world.now() - if stale { STALE } else { 0 };
        let (numbers, sets) = world.log.lock().published(as_of);
        if stale && sets.len() < world.log.lock().published(world.now()).0.len() {
            world.count("log: stream sets stale");
        }
        process.pass(Point::SetsAnswered).await;
        if fails {
            world.count("log: stream sets unreadable");
            return Err(LogError::Transient("planted".into()));
        }
        let late = world.judge(|oracle| oracle.learned(process.life, &numbers, world.now()));
        if late && world.plan.has(Hazard::Crashes) && world.percent(50) {
            // Before it has saved that it knows of it.
            let interval = world.plan.config.state.checkpoint_interval_milliseconds;
            process.dies_within(Micros::from(interval) * MS);
        }
        Ok(sets)
    }

    async fn capture(&self) -> Result<Capture, LogError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::SetsAsked).await;
        world
            .sleep(world.chance(|chance| chance.within(MS / 2, 5 * MS)))
            .await;
        if world.fault(Fault::SetsFail, process.seat) && world.percent(50) {
            process.thawed().await;
            return Err(LogError::Transient("planted".into()));
        }
        let clock = world.chance(|chance| chance.pick(&world.plan.coordinators));
        let time = world.now() + clock;
        process.thawed().await;
        Ok(Capture {
            hidden: None,
            time: Some(time),
        })
    }

    async fn read(&self, query: LogQuery) -> Result<LogPage, LogError> {
        let (process, world) = (&self.0, &self.0.world);
        process.pass(Point::ReadAsked).await;
        process.may_panic();
        let running = Running::start(self);
        let slow = world.fault(Fault::ReadsSlow, process.seat) && world.percent(50);
        let delay = |chance: &mut Chance| {
            if slow {
                chance.within(20 * MS, 1500 * MS)
            } else {
                chance.within(MS / 5, 2 * MS)
            }
        };
        if slow {
            world.count("log: query slow");
        }
        world.sleep(world.chance(delay)).await;
        let answer = match failure(world, process.seat) {
            Some(error) => {
                if world.plan.has(Hazard::Lingering) && is_old(&query, world.now() - world.plan.horizon) {
                    world.count("log: query for the oldest rows failed");
                }
                Err(error)
            }
            None => Ok(self.answer(&query)),
        };
        world.sleep(world.chance(delay) / 2).await;
        process.pass(Point::ReadAnswered).await;
        drop(running);
        let page = answer?;
        world.tell(|| {
            let until = query.until.map_or("now".to_owned(), |at| at.0.to_string());
            let rows: Vec<_> = page.rows.iter().map(|row| row.position.to_string()).collect();
            format!(
                "{} reads {:?} of {} streams from {} until {until}: {rows:?}{}",
                process.name,
                query.columns,
                query.streams.len(),
                query.from.0,
                if page.next.is_some() { " ..." } else { "" }
            )
        });
        Ok(page)
    }
}

impl Port {
    fn answer(&self, query: &LogQuery) -> LogPage {
        let world = &self.0.world;
        let (now, rows) = (world.now(), world.plan.page_rows);
        let (page, remarks) = world.chance(|chance| {
            let oracle = world.oracle.lock();
            world
                .log
                .lock()
                .page(query, now, rows, chance, |fact| oracle.is_settled(fact))
        });
        // Only then is it asked which of two sets was read first.
        if world.plan.sets.len() > 1 && query.columns == Columns::Full {
            world.judge(|oracle| oracle.read(self.0.life, &remarks.records, now));
        }
        let remarkable = [
            (remarks.missed, "log: row missed by a subset of replicas"),
            (remarks.vanished, "log: row vanished"),
            (remarks.returned, "log: row that vanished returned"),
            (remarks.cut, "log: page cut a record"),
            (remarks.empty, "log: empty page with more to come"),
        ];
        for (_, what) in remarkable.iter().filter(|(is, _)| *is) {
            world.count(what);
        }
        page
    }
}

/// Whether it ends before this time, but within the schedule.
fn is_old(query: &LogQuery, time: Micros) -> bool {
    let until = query.until.map(|until| order(&until.0).0);
    until.is_some_and(|until| (START..time).contains(&until))
}

fn failure(world: &World, seat: usize) -> Option<LogError> {
    let planted = || "planted".to_owned();
    let now = |fault| world.fault(fault, seat) && world.percent(60);
    if now(Fault::ReadsFail) {
        world.count("log: query failed");
        return Some(LogError::Transient(planted()));
    }
    if now(Fault::ReadsOverloaded) {
        world.count("log: query overloaded");
        return Some(LogError::Overloaded(planted()));
    }
    if now(Fault::ReadsMisconfigured) && world.percent(20) {
        world.count("log: query with a configuration error");
        return Some(LogError::Configuration(planted()));
    }
    None
}

/// Counts queries in flight, whichever way they end.
struct Running<'a>(&'a Port);

impl<'a> Running<'a> {
    fn start(port: &'a Port) -> Self {
        let process = &port.0;
        let running = process.query_starts();
        let limit = process.world.plan.config.source.load.max_concurrent_queries;
        if running > limit {
            let detail = format!(
                "{} has {running} queries in flight; its limit is {limit}",
                process.name
            );
            process.world.judge(|oracle| oracle.fail("query-bound", detail));
        }
        Self(port)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.query_ends();
    }
}
