//! What the engine leaves to the node: permissions and role statements, and DESCRIBE.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cql::ast::Statement;
use crate::describe;
use crate::error::CqlError;
use crate::query::api::QueryResult;
use crate::query::hooks::Administration;
use crate::query::virtual_table::VirtualContext;
use crate::roles::Roles;

pub(crate) struct NodeAdministration {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) roles: Arc<Roles>,
}

impl Administration for NodeAdministration {
    fn authorize(
        &self,
        context: &VirtualContext<'_>,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<(), CqlError> {
        self.roles.authorize(context, statement, keyspace)
    }

    fn execute(&self, context: &VirtualContext<'_>, statement: &Statement) -> Result<QueryResult, CqlError> {
        match statement {
            Statement::Describe(what) => describe::describe(&self.cluster, context, what),
            _ => self.roles.execute(context, statement),
        }
    }
}
