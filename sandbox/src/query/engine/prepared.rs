//! Prepared statements.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::RwLock;

use super::Dialect;
use super::lwt::outcome::scylla_metadata;
use crate::cql;
use crate::cql::ast::Parsed;
use crate::error::{CqlError, ErrorKind};
use crate::query::api::ResultMetadata;
use crate::query::plan::Planned;
use crate::schema::Catalog;

/// A statement planned against one schema version.
#[derive(Debug)]
pub struct Prepared {
    /// MD5 of keyspace and text, as ScyllaDB derives it: equal on all nodes.
    pub id: Bytes,
    pub text: String,
    /// The keyspace that unqualified names belong to.
    pub keyspace: Option<String>,
    pub parsed: Parsed,
    pub binds: Arc<ResultMetadata>,
    /// For each partition key column, which bind marker gives it; empty if not all of them are markers.
    pub partition_key_binds: Vec<u16>,
    /// None: the statement returns no rows, or rows whose columns depend on the outcome.
    pub result: Option<Arc<ResultMetadata>>,
    pub conditional: bool,
    pub(super) planned: Planned,
}

/// Prepared statements by id; the oldest is forgotten when there are too many, and its clients prepare again.
#[derive(Default)]
pub(super) struct PreparedCache {
    statements: RwLock<Statements>,
}

#[derive(Default)]
struct Statements {
    by_id: HashMap<Bytes, Arc<Prepared>>,
    /// Ids by age.
    order: VecDeque<Bytes>,
    /// Of all their texts.
    text_bytes: usize,
}

/// Statements. An application has hundreds; one that prepares text with values inside must not eat the memory
/// (a plan is a few KiB, so this is some 50 MiB at most).
const MAX_PREPARED: usize = 10_000;

/// Bytes of their texts: a statement may be as large as a frame, and its plan a few times as large as that.
const MAX_PREPARED_TEXT_BYTES: usize = 16 * 1024 * 1024;

impl Prepared {
    pub(super) fn new(
        catalog: &Catalog,
        keyspace: Option<&str>,
        text: &str,
        id: Bytes,
        dialect: Dialect,
    ) -> Result<Self, CqlError> {
        let parsed = cql::parse(text)?;
        let planned = Planned::new(catalog, keyspace, &parsed)?;
        let conditional = planned.conditional();
        let outcome = conditional.filter(|_| dialect == Dialect::Scylla);
        Ok(Self {
            id,
            text: text.to_owned(),
            keyspace: keyspace.map(str::to_owned),
            parsed,
            binds: Arc::new(ResultMetadata {
                columns: planned.binds.clone(),
            }),
            partition_key_binds: planned.partition_key_binds(),
            result: planned
                .result()
                .or_else(|| outcome.map(|(statements, batch)| Arc::new(scylla_metadata(statements, batch)))),
            conditional: conditional.is_some(),
            planned,
        })
    }
}

impl PreparedCache {
    pub(super) fn get(&self, id: &[u8]) -> Option<Arc<Prepared>> {
        self.statements.read().by_id.get(id).cloned()
    }

    /// # Errors
    /// Unprepared: the id is unknown, or the schema changed since.
    pub(super) fn current(&self, id: &[u8], catalog: &Catalog) -> Result<Arc<Prepared>, CqlError> {
        self.get(id)
            .filter(|known| known.planned.is_current(catalog))
            .ok_or_else(|| {
                let kind = ErrorKind::Unprepared {
                    id: Bytes::copy_from_slice(id),
                };
                CqlError::new(
                    kind,
                    format!("No prepared statement with ID {} found.", hex::encode(id)),
                )
            })
    }

    pub(super) fn insert(&self, prepared: Arc<Prepared>) {
        let mut statements = self.statements.write();
        let id = prepared.id.clone();
        statements.text_bytes += prepared.text.len();
        match statements.by_id.insert(id.clone(), prepared) {
            Some(before) => statements.text_bytes -= before.text.len(),
            None => statements.order.push_back(id),
        }
        // The newest stays, however large it is.
        while statements.order.len() > MAX_PREPARED
            || statements.text_bytes > MAX_PREPARED_TEXT_BYTES && statements.order.len() > 1
        {
            let oldest = statements.order.pop_front();
            let Some(forgotten) = oldest.and_then(|id| statements.by_id.remove(&id)) else {
                break;
            };
            statements.text_bytes -= forgotten.text.len();
        }
    }
}

pub(super) fn id_of(keyspace: Option<&str>, text: &str) -> Bytes {
    let mut hash = Md5::new();
    hash.update(keyspace.unwrap_or_default());
    hash.update(text);
    Bytes::copy_from_slice(&hash.finalize())
}
