//! CDC of one cluster: its streams, and the hooks by which schema changes and writes reach it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::cdc::augment::{self, LogLayout, Surroundings};
use crate::cdc::generations::{Generation, Generations, RingToken, SwitchDelays};
use crate::cdc::log_schema::{self, log_name};
use crate::cdc::options;
use crate::cdc::stream_id::StreamId;
use crate::cdc::tablets::{StreamSet, TableName, TabletChange, TabletStreams};
use crate::error::CqlError;
use crate::query::hooks::{Cdc, WriteContext};
use crate::schema::{Catalog, CdcOptions, TableSchema};
use crate::storage::clock::Clock;
use crate::storage::mutation::{Mutation, Timestamp};

/// Tablets of a new table whose keyspace does not say how many.
pub const DEFAULT_TABLETS: u32 = 2;

/// CDC of one cluster. All its nodes share one, since generations and stream sets are the cluster's.
pub struct CdcService {
    clock: Arc<dyn Clock>,
    streams: RwLock<Streams>,
    /// By version of the whole schema (a log may change without its base) and id of the base table; emptied with
    /// every schema change.
    layouts: RwLock<HashMap<(Uuid, Uuid), Arc<LogLayout>>>,
}

/// What writes are routed by and readers are told.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    pub ring: Vec<RingToken>,
    pub generations: Generations,
    pub tablets: TabletStreams,
}

impl CdcService {
    /// Starts with a first generation for `ring`, in effect and published at once.
    pub fn new(clock: Arc<dyn Clock>, ring: Vec<RingToken>) -> Self {
        let mut generations = Generations::default();
        // Starts are rounded up to a millisecond, and the first write must not be before the start.
        let at_once = SwitchDelays {
            start: -1_000,
            ..SwitchDelays::default()
        };
        generations.switch(&ring, at_once, clock.now_micros(), &mut rand::rng());
        Self {
            clock,
            streams: RwLock::new(Streams {
                ring,
                generations,
                tablets: TabletStreams::default(),
            }),
            layouts: RwLock::default(),
        }
    }

    /// Makes a new generation for the ring (for `ring`, if it changed).
    pub fn switch_generation(&self, ring: Option<Vec<RingToken>>, delays: SwitchDelays) -> Arc<Generation> {
        let mut streams = self.streams.write();
        let Streams {
            ring: current,
            generations,
            ..
        } = &mut *streams;
        if let Some(changed) = ring {
            *current = changed;
        }
        generations.switch(current, delays, self.clock.now_micros(), &mut rand::rng())
    }

    /// Splits or merges all tablets of a base table; delays as `SwitchDelays` has them (`learn` is not used).
    ///
    /// # Errors
    /// Invalid if it cannot be done, Server if the table has no streams.
    pub fn change_tablets(
        &self,
        keyspace: &str,
        table: &str,
        change: TabletChange,
        delays: SwitchDelays,
    ) -> Result<StreamSet, CqlError> {
        let name = (keyspace.to_owned(), table.to_owned());
        let when = (delays.start, delays.publish);
        self.streams
            .write()
            .tablets
            .change(&name, change, when, self.clock.now_micros(), &mut rand::rng())
    }

    /// Forgets the stream sets of tablet tables that were closed longer ago than their log rows live.
    pub fn collect_garbage(&self, catalog: &Catalog) {
        let now = self.clock.now_micros();
        for log in catalog.tables() {
            if let Some(name) = tablet_table(catalog, log)
                && let Some(options) = catalog.table(&name.0, &name.1).and_then(|base| base.cdc.as_ref())
            {
                self.streams
                    .write()
                    .tablets
                    .collect_garbage(&name, options.ttl, now);
            }
        }
    }

    /// The streams as they are now.
    pub fn with_streams<T>(&self, read: impl FnOnce(&Streams, Timestamp) -> T) -> T {
        read(&self.streams.read(), self.clock.now_micros())
    }

    /// The stream of a write to a base table.
    ///
    /// # Errors
    /// Invalid or Server, by the write's timestamp.
    pub fn stream_for(
        &self,
        catalog: &Catalog,
        base: &TableSchema,
        token: i64,
        write: Timestamp,
        now: Timestamp,
    ) -> Result<StreamId, CqlError> {
        let streams = self.streams.read();
        if uses_tablets(catalog, &base.keyspace) {
            let name = (base.keyspace.clone(), base.name.clone());
            return streams.tablets.stream_for(&name, token, write, now);
        }
        streams.generations.stream_for(token, write, now)
    }

    fn layout(&self, catalog: &Catalog, base: &TableSchema) -> Result<Arc<LogLayout>, CqlError> {
        let key = (catalog.version, base.id);
        if let Some(layout) = self.layouts.read().get(&key) {
            return Ok(layout.clone());
        }
        let name = log_name(&base.name);
        let log = catalog.table(&base.keyspace, &name).ok_or_else(|| {
            CqlError::server(format!("CDC log table {}.{name} does not exist", base.keyspace))
        })?;
        let layout = Arc::new(augment::layout(base, log)?);
        self.layouts.write().insert(key, layout.clone());
        Ok(layout)
    }
}

impl Cdc for CdcService {
    fn parse_options(
        &self,
        given: &BTreeMap<String, String>,
        altering: bool,
    ) -> Result<CdcOptions, CqlError> {
        if altering {
            options::parse_alter(given)
        } else {
            options::parse_create(given)
        }
    }

    fn log_table(
        &self,
        catalog: &Catalog,
        base: &TableSchema,
        existing: Option<&TableSchema>,
    ) -> Result<TableSchema, CqlError> {
        log_schema::log_table(catalog, base, existing, self.clock.now_micros())
    }

    fn schema_changed(&self, before: &Catalog, after: &Catalog) {
        let now = self.clock.now_micros();
        let mut streams = self.streams.write();
        for log in before.tables() {
            let kept = after
                .table(&log.keyspace, &log.name)
                .is_some_and(|table| table.id == log.id);
            if let Some(name) = tablet_table(before, log).filter(|_| !kept) {
                streams.tablets.drop_table(&name);
            }
        }
        for log in after.tables() {
            if let Some(name) = tablet_table(after, log) {
                let tablets = initial_tablets(after, &log.keyspace);
                streams.tablets.create(name, tablets, now, &mut rand::rng());
            }
        }
        drop(streams);
        self.layouts.write().clear();
    }

    fn augment(&self, write: &WriteContext<'_>, mutations: &mut Vec<Mutation>) -> Result<(), CqlError> {
        for index in 0..mutations.len() {
            let base = &mutations[index];
            if !base.table.cdc_enabled() {
                continue;
            }
            let layout = self.layout(write.catalog, &base.table)?;
            let stream = |timestamp| {
                self.stream_for(
                    write.catalog,
                    &base.table,
                    base.key.token,
                    timestamp,
                    write.now_micros,
                )
            };
            let around = Surroundings {
                layout: &layout,
                now_seconds: write.now_micros.div_euclid(1_000_000),
                rows: write.rows,
                stream: &stream,
                random: &rand::random::<u64>,
            };
            let log = augment::log_mutations(base, &around)?;
            mutations.extend(log);
        }
        Ok(())
    }
}

fn uses_tablets(catalog: &Catalog, keyspace: &str) -> bool {
    catalog
        .keyspace(keyspace)
        .is_some_and(|keyspace| keyspace.initial_tablets.is_some())
}

/// The base table of a log in a keyspace with tablets.
fn tablet_table(catalog: &Catalog, log: &TableSchema) -> Option<TableName> {
    let base = log.cdc_log_of.clone()?;
    uses_tablets(catalog, &log.keyspace).then(|| (log.keyspace.clone(), base))
}

fn initial_tablets(catalog: &Catalog, keyspace: &str) -> u32 {
    let given = catalog
        .keyspace(keyspace)
        .and_then(|keyspace| keyspace.initial_tablets);
    given
        .and_then(|count| u32::try_from(count).ok())
        .filter(|count| *count > 0)
        .unwrap_or(DEFAULT_TABLETS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::CdcService;
    use crate::cdc::generations::{RingToken, SwitchDelays};
    use crate::cdc::log_schema::log_table;
    use crate::cdc::tablets::TabletChange;
    use crate::error::ErrorKind;
    use crate::query::hooks::Cdc;
    use crate::schema::builder::TableBuilder;
    use crate::schema::{Catalog, CdcOptions, KeyspaceSchema, TableSchema};
    use crate::storage::clock::{Clock, ManualClock};
    use crate::types::CqlType;

    const NOW: i64 = 1_700_000_000_000_000;

    fn base() -> Arc<TableSchema> {
        let options = CdcOptions {
            enabled: true,
            ttl: 60,
            ..CdcOptions::default()
        };
        let builder = TableBuilder::new("ks", "t").partition_key("pk", CqlType::Int);
        Arc::new(builder.with(|table| table.cdc = Some(options)).build())
    }

    /// Keyspace `ks` with table `t` and its log.
    fn catalog(initial_tablets: Option<i32>) -> Catalog {
        let log = log_table(&Catalog::default(), &base(), None, NOW).unwrap();
        let tables = [base(), Arc::new(log)].map(|table| (table.name.clone(), table));
        let keyspace = KeyspaceSchema {
            name: "ks".into(),
            replication: BTreeMap::new(),
            durable_writes: true,
            initial_tablets,
            tables: BTreeMap::from(tables),
            types: BTreeMap::new(),
        };
        Catalog {
            keyspaces: BTreeMap::from([("ks".to_string(), Arc::new(keyspace))]),
            ..Catalog::default()
        }
    }

    fn service() -> (CdcService, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(NOW));
        let ring = vec![RingToken { token: 0, shards: 2 }];
        (CdcService::new(clock.clone(), ring), clock)
    }

    #[test]
    fn writes_are_accepted_from_the_start_on() {
        for initial_tablets in [None, Some(4)] {
            let (service, _) = service();
            let catalog = catalog(initial_tablets);
            service.schema_changed(&Catalog::default(), &catalog);
            let stream = service.stream_for(&catalog, &base(), 5, NOW, NOW);
            assert!(stream.is_ok(), "{initial_tablets:?}: {stream:?}");
        }
    }

    #[test]
    fn tablet_streams_come_and_go_with_the_log() {
        let (service, _) = service();
        let nothing = Catalog::default();
        let current = |service: &CdcService| {
            service.with_streams(|streams, now| {
                let name = ("ks".to_string(), "t".to_string());
                streams
                    .tablets
                    .published(&name, now)
                    .map(|set| set.streams.clone())
                    .next()
            })
        };
        let (first, second) = (catalog(Some(4)), catalog(Some(4)));
        service.schema_changed(&nothing, &first);
        let streams = current(&service).unwrap();
        assert_eq!(streams.len(), 4);
        service.schema_changed(&first, &first);
        assert_eq!(
            current(&service),
            Some(streams.clone()),
            "other changes leave them"
        );
        service.schema_changed(&first, &second);
        assert_ne!(
            current(&service),
            Some(streams),
            "the table was dropped and made anew"
        );
        service.schema_changed(&second, &nothing);
        assert_eq!(current(&service), None);
    }

    #[test]
    fn a_log_that_changed_without_its_base_is_found_anew() {
        let (service, _) = service();
        let before = catalog(None);
        let mut after = Catalog {
            version: uuid::Uuid::new_v4(),
            ..before.clone()
        };
        let keyspace = Arc::make_mut(after.keyspaces.get_mut("ks").unwrap());
        let log = Arc::make_mut(keyspace.tables.get_mut("t_scylla_cdc_log").unwrap());
        log.version = uuid::Uuid::new_v4();
        let version = |catalog: &Catalog| service.layout(catalog, &base()).unwrap().log.version;
        assert_ne!(version(&before), version(&after));
        assert_eq!(
            version(&after),
            after.table("ks", "t_scylla_cdc_log").unwrap().version
        );
    }

    #[test]
    fn garbage_is_collected_by_the_tables_ttl() {
        let (service, clock) = service();
        let catalog = catalog(Some(0));
        service.schema_changed(&Catalog::default(), &catalog);
        service
            .change_tablets("ks", "t", TabletChange::Split, SwitchDelays::default())
            .unwrap();
        let oldest = |service: &CdcService| {
            service
                .stream_for(&catalog, &base(), 5, NOW - 1, clock.now_micros())
                .map_err(|error| error.kind)
        };
        clock.advance_seconds(59);
        service.collect_garbage(&catalog);
        assert!(oldest(&service).is_ok());
        clock.advance_seconds(2);
        service.collect_garbage(&catalog);
        assert_eq!(oldest(&service), Err(ErrorKind::Server));
    }
}
