//! CQL in, rows or error code out.

mod ddl;
mod modify;
mod paging;
mod select;
mod speed;

use std::sync::Arc;

use super::api::{QueryParams, QueryResult, Rows, Session, Values};
use super::engine::{Engine, EngineOptions};
use crate::error::CqlError;
use crate::storage::clock::ManualClock;
use crate::types::display;

/// An engine, a session that uses keyspace `ks`, and a clock that the test turns.
struct Fixture {
    engine: Arc<Engine>,
    session: Session,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(EngineOptions::default())
    }

    fn with(options: EngineOptions) -> Self {
        // 2024-01-01.
        let clock = Arc::new(ManualClock::new(1_704_067_200_000_000));
        let mut fixture = Self::timed(EngineOptions {
            clock: clock.clone(),
            ..options
        });
        fixture.clock = clock;
        fixture
    }

    /// With the clock of the options.
    fn timed(options: EngineOptions) -> Self {
        let mut fixture = Self {
            engine: Engine::new(options),
            session: Session::default(),
            clock: Arc::new(ManualClock::new(0)),
        };
        fixture
            .ok("CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}");
        fixture.ok("USE ks");
        fixture
    }

    fn query(&mut self, text: &str, params: &QueryParams) -> Result<QueryResult, CqlError> {
        self.engine
            .query(&mut self.session, text, &Values::default(), params)
    }

    /// Rows as `1, 'a'; 2, null`; `-` without rows; `!2200 ...` for an error.
    fn run(&mut self, text: &str) -> String {
        match self.query(text, &QueryParams::default()) {
            Ok(QueryResult::Rows(rows)) => show(&rows),
            Ok(_) => "-".to_owned(),
            Err(error) => format!("!{:04x} {}", error.code(), error.message),
        }
    }

    fn ok(&mut self, text: &str) {
        let shown = self.run(text);
        assert!(!shown.starts_with('!'), "{text}: {shown}");
    }

    /// Runs statements in turn. An expectation that begins with `!` is the beginning of an error.
    fn check(&mut self, cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            let shown = self.run(text);
            if expected.starts_with('!') {
                assert!(
                    shown.starts_with(expected),
                    "{text}\n expected {expected}\n got      {shown}"
                );
            } else {
                assert_eq!(shown, *expected, "{text}");
            }
        }
    }
}

fn show(rows: &Rows) -> String {
    let columns = &rows.metadata.columns;
    let row = |values: &Vec<Option<bytes::Bytes>>| {
        let values = values.iter().zip(columns).map(|(value, column)| match value {
            Some(value) => display::literal(&column.ty, value).unwrap_or_else(|error| error.message),
            None => "null".to_owned(),
        });
        values.collect::<Vec<_>>().join(", ")
    };
    rows.to_vec().iter().map(row).collect::<Vec<_>>().join("; ")
}
