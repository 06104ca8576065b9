//! The relay's own tables: which are missing, and making them.

use std::collections::HashMap;

use crds::RelayConfig;
use crds::dead_letter::DeadLetterTarget;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;

use crate::dead_letters::table;
use crate::state::schema;

#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The statements that are left, a line each.
    #[error("the relay's tables are missing; have them made by someone who may:\n\n{statements}\n{source}")]
    Missing {
        statements: String,
        source: Box<ExecutionError>,
    },
    #[error("the schema cannot be read: {0}")]
    Schema(Box<dyn std::error::Error + Send + Sync>),
}

/// Replicas that the state keyspace gets in each datacenter where nobody says: three, or as many as there are nodes.
pub fn replication(session: &Session) -> usize {
    let state = session.get_cluster_state();
    let mut nodes: HashMap<&str, usize> = HashMap::new();
    for node in state.get_nodes_info() {
        *nodes
            .entry(node.datacenter.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    nodes.into_values().min().unwrap_or(1).clamp(1, 3)
}

/// Makes what is missing.
///
/// # Errors
/// The exact statements that have to be executed by somebody who may.
pub async fn create_tables(
    session: &Session,
    config: &RelayConfig,
    replicas: usize,
) -> Result<(), TablesError> {
    let replication = format!("{{'class': 'NetworkTopologyStrategy', 'replication_factor': {replicas}}}");
    let statements = missing(session, statements(config, &replication)).await?;
    for (done, statement) in statements.iter().enumerate() {
        if let Err(source) = execute(session, &statement.text).await {
            let left = &statements[done..];
            let statements = left.iter().map(|left| format!("  {};\n", left.text)).collect();
            return Err(TablesError::Missing {
                statements,
                source: Box::new(source),
            });
        }
    }
    Ok(())
}

/// Makes a keyspace, or a table in it, or what a table of an earlier version lacks.
struct Creation {
    keyspace: String,
    table: Option<String>,
    /// One of those that are missing; then only to a table that is there.
    column: Option<&'static str>,
    text: String,
}

fn statements(config: &RelayConfig, replication: &str) -> Vec<Creation> {
    let keyspace = &config.state.keyspace;
    let texts = schema::statements(keyspace, replication, true);
    let tables = [None, Some("slots"), Some("processes"), Some("audits")];
    let mut statements: Vec<_> = tables
        .into_iter()
        .zip(texts)
        .map(|(table, text)| Creation {
            keyspace: keyspace.clone(),
            table: table.map(str::to_owned),
            column: None,
            text,
        })
        .collect();
    statements.push(Creation {
        keyspace: keyspace.clone(),
        table: Some("slots".to_owned()),
        column: Some(schema::SINCE_FORMAT_2),
        text: schema::to_format_2(keyspace),
    });
    if config.dead_letter.target != DeadLetterTarget::Topic {
        let (keyspace, table) = table::name(config);
        let additions = table::additions(&keyspace, &table);
        let texts = [(None, table::create_table(&keyspace, &table))]
            .into_iter()
            .chain(additions.map(|(column, text)| (Some(column), text)));
        statements.extend(texts.map(|(column, text)| Creation {
            keyspace: keyspace.clone(),
            table: Some(table.clone()),
            column,
            text,
        }));
    }
    statements
}

/// Those that make something that is not there: who may use the tables need not be allowed to make them.
async fn missing(session: &Session, statements: Vec<Creation>) -> Result<Vec<Creation>, TablesError> {
    let mut missing = Vec::new();
    for creation in statements {
        let Creation {
            keyspace,
            table,
            column,
            ..
        } = &creation;
        let is_missing = match (table, column) {
            (None, _) => {
                let text = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
                rows(session.query_unpaged(text, (keyspace,)).await)? == 0
            }
            (Some(table), None) => {
                let text =
                    "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
                rows(session.query_unpaged(text, (keyspace, table)).await)? == 0
            }
            (Some(table), Some(column)) => {
                let all = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
                let one = format!("{all} AND column_name = ?");
                rows(session.query_unpaged(all, (keyspace, table)).await)? > 0
                    && rows(session.query_unpaged(one, (keyspace, table, column)).await)? == 0
            }
        };
        if is_missing {
            missing.push(creation);
        }
    }
    Ok(missing)
}

fn rows(result: Result<QueryResult, ExecutionError>) -> Result<usize, TablesError> {
    let result = result.map_err(|error| TablesError::Schema(error.into()))?;
    let rows = result
        .into_rows_result()
        .map_err(|error| TablesError::Schema(error.into()))?;
    Ok(rows.rows_num())
}

async fn execute(session: &Session, statement: &str) -> Result<(), ExecutionError> {
    let Err(error) = session.query_unpaged(statement, ()).await else {
        return Ok(());
    };
    // A database without tablets refuses the option that turns them off.
    let plain = statement.replace(schema::NO_TABLETS, "");
    if plain != statement && session.query_unpaged(plain, ()).await.is_ok() {
        return Ok(());
    }
    Err(error)
}
