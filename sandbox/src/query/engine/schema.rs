//! Schema changes, and the schema that a node starts with.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::Engine;
use crate::cql::ast::Statement;
use crate::error::CqlError;
use crate::query::api::QueryResult;
use crate::query::virtual_table::VirtualTable;
use crate::schema::ddl::{self, DdlContext, Outcome};
use crate::schema::{Catalog, KeyspaceSchema};

impl Engine {
    /// Makes a schema change of the node itself (system keyspaces); clients use DDL.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change_schema(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<(), CqlError>,
    ) -> Result<(), CqlError> {
        let _only_one = self.ddl.lock();
        let mut next = Catalog::clone(&self.catalog());
        change(&mut next)?;
        self.publish(next);
        Ok(())
    }

    pub(super) fn execute_ddl(
        &self,
        keyspace: Option<&str>,
        statement: &Statement,
    ) -> Result<QueryResult, CqlError> {
        let _only_one = self.ddl.lock();
        let mut next = Catalog::clone(&self.catalog());
        let context = DdlContext {
            keyspace,
            cdc: &*self.options.cdc,
            now_micros: self.options.clock.now_micros(),
            tablets_by_default: self.options.tablets_by_default,
            datacenter: &self.options.datacenter,
        };
        match ddl::apply(&context, &mut next, statement)? {
            Outcome::Unchanged => Ok(QueryResult::Void),
            Outcome::Changed(change) => {
                self.publish(next);
                Ok(QueryResult::SchemaChange(change))
            }
        }
    }

    /// Makes a catalog the current one; called with `ddl` held.
    fn publish(&self, mut next: Catalog) {
        next.version = Uuid::new_v4();
        let before = self.catalog();
        let next = Arc::new(next);
        let tables: HashSet<Uuid> = next.tables().map(|table| table.id).collect();
        for id in tables.iter().filter(|id| !self.virtual_tables.contains_key(id)) {
            self.storage.create(*id);
        }
        *self.catalog.write() = next.clone();
        for id in self.storage.ids() {
            if !tables.contains(&id) {
                self.storage.drop_table(&id);
            }
        }
        self.options.cdc.schema_changed(&before, &next);
    }
}

pub(super) fn initial_catalog(virtual_tables: &[Arc<dyn VirtualTable>]) -> Catalog {
    let mut catalog = Catalog {
        version: Uuid::new_v4(),
        keyspaces: BTreeMap::new(),
    };
    for table in virtual_tables {
        let schema = table.schema();
        let name = &schema.keyspace;
        let keyspace = catalog
            .keyspaces
            .entry(name.clone())
            .or_insert_with(|| Arc::new(system_keyspace(name)));
        // Nobody else has it yet: nothing is copied.
        Arc::make_mut(keyspace).tables.insert(schema.name.clone(), schema);
    }
    catalog
}

fn system_keyspace(name: &str) -> KeyspaceSchema {
    let locator = "org.apache.cassandra.locator.";
    let replication: &[(&str, String)] = match name {
        "system_distributed" => &[
            ("class", format!("{locator}SimpleStrategy")),
            ("replication_factor", "3".to_owned()),
        ],
        "system_traces" | "system_auth" => &[
            ("class", format!("{locator}SimpleStrategy")),
            ("replication_factor", "1".to_owned()),
        ],
        _ => &[("class", format!("{locator}LocalStrategy"))],
    };
    KeyspaceSchema {
        name: name.to_owned(),
        replication: replication
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
        durable_writes: true,
        initial_tablets: None,
        tables: BTreeMap::new(),
        types: BTreeMap::new(),
    }
}
