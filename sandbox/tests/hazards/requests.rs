//! Queries that are slow, refused, unanswered or cut off. `scylla_cdc`'s reader survives what it takes for passing, as
//! long as its session has a timeout; what it does not, ends it. A poller that goes on whatever the answer was loses
//! changes under all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::cdc::generations::SwitchDelays;
use sandbox::embed::DEFAULT_TOKENS_PER_NODE;
use sandbox::fault::rule::{ErrorName, Rule};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::time::sleep;

use super::{Scene, events, finish};
use crate::reader::{self, Reading, SAFETY};
use crate::row;
use crate::scene::rows_of;

/// The reader's queries for changes, and not a scan of the log.
const CHANGES: &str = "t_scylla_cdc_log*cdc$stream_id";

/// How long its reader's session waits for an answer; the driver's default is 30 s.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A session that gives up after `timeout`.
async fn session(scene: &Scene, timeout: Option<Duration>) -> Arc<Session> {
    let profile = ExecutionProfile::builder().request_timeout(timeout).build();
    let session = SessionBuilder::new()
        .known_node_addr(scene.sandbox.addr())
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await
        .unwrap();
    session.use_keyspace(scene.keyspace, false).await.unwrap();
    Arc::new(session)
}

/// The reader at work on a session of its own; it has delivered `e1`.
async fn reading(scene: &Scene, timeout: Option<Duration>) -> Reading {
    let session = session(scene, timeout).await;
    let reading = Reading::start(&session, scene.keyspace, reader::now())
        .await
        .unwrap();
    scene.write(&["e1"]).await;
    reading.until(1).await.unwrap();
    reading
}

/// Changes are not delivered while the rule strikes, and all of them afterwards, in order.
async fn only_delays(rule: Rule) {
    let scene = Scene::new(false, 3_600).await;
    let reading = reading(&scene, Some(TIMEOUT)).await;
    let faults = scene.sandbox.faults();
    let id = faults.add(rule.statement(CHANGES)).unwrap();
    scene.write(&["e2", "e3"]).await;
    // Twice what it takes without the rule.
    sleep(SAFETY * 2).await;
    assert_eq!(reading.delivered(), 1);
    assert!(faults.remove(id).unwrap().hits > 0);
    reading.until(3).await.unwrap();
    assert_eq!(finish(reading).await, ["e1", "e2", "e3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_queries_only_delay_scylla_cdc() {
    let scene = Scene::new(false, 3_600).await;
    let delay = SAFETY * 3;
    let reading = reading(&scene, Some(delay * 10)).await;
    scene.fault(Rule::slow(delay).statement(CHANGES));
    let written = Instant::now();
    scene.write(&["e2", "e3"]).await;
    reading.until(3).await.unwrap();
    assert!(written.elapsed() > delay);
    scene.sandbox.faults().clear();
    assert_eq!(finish(reading).await, ["e1", "e2", "e3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_node_only_delays_scylla_cdc() {
    for error in [ErrorName::Overloaded, ErrorName::ReadTimeout] {
        only_delays(Rule::error(error)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_only_delay_scylla_cdc() {
    only_delays(Rule::disconnect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_queries_only_delay_scylla_cdc_on_a_session_with_a_timeout() {
    only_delays(Rule::no_answer()).await;
}

/// Without a timeout nothing wakes it up again: the node is well, the changes are there, and nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_query_stops_scylla_cdc_for_good_on_a_session_without_a_timeout() {
    let scene = Scene::new(false, 3_600).await;
    let reading = reading(&scene, None).await;
    let faults = scene.sandbox.faults();
    let id = faults.add(Rule::no_answer().statement(CHANGES)).unwrap();
    // One query for each vnode: then every stream waits.
    while faults.get(id).unwrap().hits < DEFAULT_TOKENS_PER_NODE as u64 {
        sleep(Duration::from_millis(5)).await;
    }
    faults.clear();
    scene.write(&["e2", "e3"]).await;
    sleep(SAFETY * 4).await;
    assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
    assert_eq!(reading.delivered(), 1);
}

/// An error that it does not take for passing ends the reader. Its builder starts the next one at the present unless it
/// is told otherwise, and with a checkpoint at the later of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_query_ends_scylla_cdc_and_the_next_one_loses_what_came_between() {
    for error in [
        ErrorName::ServerError,
        ErrorName::ReadFailure,
        ErrorName::RateLimit,
    ] {
        let scene = Scene::new(false, 3_600).await;
        let reading = reading(&scene, Some(TIMEOUT)).await;
        let faults = scene.sandbox.faults();
        faults.add(Rule::error(error).statement(CHANGES)).unwrap();
        scene.write(&["e2"]).await;
        let ended = reading.finish().await.unwrap_err().to_string();
        assert!(ended.contains("while fetching CDC rows"), "{ended}");
        faults.clear();
        let next = scene.read().await;
        scene.write(&["e3"]).await;
        next.until(1).await.unwrap();
        assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
        assert_eq!(finish(next).await, ["e3"], "{error:?}");
    }
}

/// The reader cannot ask for generations when it is told to end: it ends well, and what is in the new one is unread.
#[tokio::test(flavor = "multi_thread")]
async fn failed_queries_for_streams_let_scylla_cdc_end_well_and_lose_the_newest() {
    for (tablets, table) in [(false, "cdc_generation_timestamps"), (true, "cdc_timestamps")] {
        let scene = Scene::new(tablets, 3_600).await;
        let reading = reading(&scene, Some(TIMEOUT)).await;
        scene.fault(Rule::error(ErrorName::ServerError).statement(table));
        scene.switch_streams(SwitchDelays {
            start: 200_000,
            ..SwitchDelays::default()
        });
        sleep(Duration::from_millis(300)).await;
        scene.write(&["e2"]).await;
        sleep(SAFETY * 2).await;
        assert_eq!(scene.log().await, ["e1", "e2"]);
        assert_eq!(finish(reading).await, ["e1"]);
    }
}

/// Reads what is newer than its bound, and moves that to the present, whatever the answer was.
struct Poller {
    session: Arc<Session>,
    since: i64,
    delivered: Vec<String>,
}

impl Poller {
    async fn new(scene: &Scene) -> Self {
        let session = session(scene, Some(TIMEOUT)).await;
        Self {
            session,
            since: 0,
            delivered: Vec::new(),
        }
    }

    /// Says whether there was an answer.
    async fn poll(&mut self) -> bool {
        let text = "SELECT \"cdc$time\", event FROM t_scylla_cdc_log";
        let answer = self.session.query_unpaged(text, ()).await;
        let answered = answer.is_ok();
        if let Ok(answer) = answer {
            let mut rows = rows_of(answer);
            rows.retain(|row| row::micros(row) >= self.since);
            rows.sort_by_key(row::micros);
            self.delivered.extend(events(&rows));
        }
        self.since = reader::now().as_micros() as i64;
        answered
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_that_moves_its_bound_after_a_failed_query_loses_what_that_would_have_read() {
    for rule in [
        // Until after its timeout.
        Rule::slow(TIMEOUT * 2),
        Rule::error(ErrorName::Overloaded),
        Rule::error(ErrorName::ServerError),
        Rule::no_answer(),
        Rule::disconnect(),
    ] {
        let scene = Scene::new(false, 3_600).await;
        let mut poller = Poller::new(&scene).await;
        scene.write(&["e1"]).await;
        assert!(poller.poll().await);
        scene.fault(rule.clone().statement("t_scylla_cdc_log").times(1));
        scene.write(&["e2"]).await;
        assert!(!poller.poll().await);
        scene.write(&["e3"]).await;
        // A connection that was cut has to come back first.
        while poller
            .session
            .query_unpaged("SELECT key FROM system.local", ())
            .await
            .is_err()
        {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(poller.poll().await);
        assert_eq!(scene.log().await, ["e1", "e2", "e3"]);
        assert_eq!(poller.delivered, ["e1", "e3"], "{rule:?}");
    }
}
