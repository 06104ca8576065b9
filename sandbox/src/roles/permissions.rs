//! Which permission a statement takes, and who has it.

use super::{Role, Roles};
use crate::cql::ast::access::{Permission, Resource};
use crate::cql::ast::data::BatchItem;
use crate::cql::ast::{QualifiedName, Statement};
use crate::error::{CqlError, ErrorKind};

impl Roles {
    pub(super) fn check_permissions(
        &self,
        user: &str,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<(), CqlError> {
        for (permission, resource) in needs(statement, keyspace) {
            if !self.has(user, permission, &resource) {
                return Err(CqlError::new(
                    ErrorKind::Unauthorized,
                    format!(
                        "User {user} has no {} permission on {} or any of its parents",
                        name_of(permission),
                        describe(&resource)
                    ),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn is_superuser(&self, user: &str) -> bool {
        self.reaches(user, &|role| role.superuser)
    }

    fn has(&self, user: &str, permission: Permission, resource: &Resource) -> bool {
        if permission == Permission::Select && readable_by_all(resource) {
            return true;
        }
        self.reaches(user, &|role| {
            role.superuser
                || role
                    .grants
                    .iter()
                    .any(|(on, granted)| *granted == permission && covers(on, resource))
        })
    }

    /// True for the role or any that it is a member of.
    fn reaches(&self, user: &str, test: &dyn Fn(&Role) -> bool) -> bool {
        let roles = self.roles.read();
        let mut seen: Vec<&str> = vec![user];
        let mut next = 0;
        while let Some(name) = seen.get(next) {
            next += 1;
            let Some(role) = roles.get(*name) else { continue };
            if test(role) {
                return true;
            }
            for parent in &role.member_of {
                if !seen.contains(&parent.as_str()) {
                    seen.push(parent);
                }
            }
        }
        false
    }
}

/// What a statement takes. Role statements check for themselves.
fn needs(statement: &Statement, keyspace: Option<&str>) -> Vec<(Permission, Resource)> {
    let table = |name: &QualifiedName| Resource::Table(qualified(name, keyspace));
    let keyspace_of = |name: &QualifiedName| match qualified(name, keyspace).keyspace {
        Some(keyspace) => Resource::Keyspace(keyspace),
        None => Resource::AllKeyspaces,
    };
    match statement {
        Statement::Select(select) => vec![(Permission::Select, table(&select.table))],
        Statement::Insert(insert) => vec![(Permission::Modify, table(&insert.table))],
        Statement::Update(update) => vec![(Permission::Modify, table(&update.table))],
        Statement::Delete(delete) => vec![(Permission::Modify, table(&delete.table))],
        Statement::Truncate(truncate) => vec![(Permission::Modify, table(&truncate.table))],
        Statement::Batch(batch) => batch
            .statements
            .iter()
            .map(|item| match item {
                BatchItem::Insert(insert) => &insert.table,
                BatchItem::Update(update) => &update.table,
                BatchItem::Delete(delete) => &delete.table,
            })
            .map(|name| (Permission::Modify, table(name)))
            .collect(),
        Statement::CreateKeyspace(_) => vec![(Permission::Create, Resource::AllKeyspaces)],
        Statement::AlterKeyspace(alter) => vec![(Permission::Alter, Resource::Keyspace(alter.name.clone()))],
        Statement::DropKeyspace { name, .. } => vec![(Permission::Drop, Resource::Keyspace(name.clone()))],
        Statement::CreateTable(create) => vec![(Permission::Create, keyspace_of(&create.name))],
        Statement::AlterTable(alter) => vec![(Permission::Alter, table(&alter.name))],
        Statement::DropTable(drop) => vec![(Permission::Drop, table(&drop.name))],
        Statement::CreateType(create) => vec![(Permission::Create, keyspace_of(&create.name))],
        Statement::AlterType(alter) => vec![(Permission::Alter, keyspace_of(&alter.name))],
        Statement::DropType(drop) => vec![(Permission::Drop, keyspace_of(&drop.name))],
        Statement::CreateIndex(create) => vec![(Permission::Alter, table(&create.table))],
        Statement::DropIndex(drop) => vec![(Permission::Alter, keyspace_of(&drop.name))],
        Statement::CreateView(create) => vec![(Permission::Alter, table(&create.base))],
        Statement::DropView(drop) => vec![(Permission::Drop, keyspace_of(&drop.name))],
        Statement::Use(_)
        | Statement::CreateRole(_)
        | Statement::AlterRole(_)
        | Statement::DropRole(_)
        | Statement::GrantRole(_)
        | Statement::RevokeRole(_)
        | Statement::GrantPermission(_)
        | Statement::RevokePermission(_)
        | Statement::ListRoles(_)
        | Statement::ListPermissions(_)
        | Statement::Describe(_) => Vec::new(),
    }
}

pub(super) fn qualified(name: &QualifiedName, keyspace: Option<&str>) -> QualifiedName {
    QualifiedName {
        keyspace: name.keyspace.clone().or_else(|| keyspace.map(str::to_owned)),
        name: name.name.clone(),
    }
}

/// What drivers read to connect (ScyllaDB `service/client_state.cc`): no grant needed.
fn readable_by_all(resource: &Resource) -> bool {
    let Resource::Table(table) = resource else {
        return false;
    };
    match table.keyspace.as_deref() {
        Some("system_schema") => true,
        Some("system") => matches!(table.name.as_str(), "local" | "peers" | "versions"),
        _ => false,
    }
}

fn covers(granted_on: &Resource, resource: &Resource) -> bool {
    match (granted_on, resource) {
        (Resource::AllKeyspaces, Resource::Keyspace(_) | Resource::Table(_) | Resource::AllKeyspaces)
        | (Resource::AllRoles, Resource::Role(_)) => true,
        (Resource::Keyspace(keyspace), Resource::Table(table)) => table.keyspace.as_ref() == Some(keyspace),
        (a, b) => a == b,
    }
}

/// A resource in ScyllaDB's notation.
pub(super) fn describe(resource: &Resource) -> String {
    match resource {
        Resource::AllKeyspaces => "<all keyspaces>".into(),
        Resource::Keyspace(name) => format!("<keyspace {name}>"),
        Resource::Table(table) => {
            let keyspace = table.keyspace.as_deref().unwrap_or_default();
            format!("<table {keyspace}.{}>", table.name)
        }
        Resource::AllRoles => "<all roles>".into(),
        Resource::Role(name) => format!("<role {name}>"),
        Resource::AllFunctions => "<all functions>".into(),
    }
}

pub(super) fn name_of(permission: Permission) -> &'static str {
    match permission {
        Permission::Create => "CREATE",
        Permission::Alter => "ALTER",
        Permission::Drop => "DROP",
        Permission::Select => "SELECT",
        Permission::Modify => "MODIFY",
        Permission::Authorize => "AUTHORIZE",
        Permission::Describe => "DESCRIBE",
        Permission::Execute => "EXECUTE",
    }
}
