//! The rows of LIST ROLES, LIST USERS and LIST PERMISSIONS.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Role;
use super::permissions::{describe, name_of};
use super::statements::resolved;
use crate::cql::ast::access::{ListPermissions, ListRoles, Permission};
use crate::query::api::{ColumnSpec, QueryResult, ResultMetadata, Rows};
use crate::types::CqlType;

/// What ALL stands for.
const ALL_PERMISSIONS: [Permission; 8] = [
    Permission::Create,
    Permission::Alter,
    Permission::Drop,
    Permission::Select,
    Permission::Modify,
    Permission::Authorize,
    Permission::Describe,
    Permission::Execute,
];

/// The permissions named, or all if none is.
pub(super) fn or_all(permissions: &[Permission]) -> Vec<Permission> {
    match permissions {
        [] => ALL_PERMISSIONS.to_vec(),
        named => named.to_vec(),
    }
}

pub(super) fn roles(roles: &BTreeMap<String, Role>, list: &ListRoles) -> QueryResult {
    let listed = roles.iter().filter(|(name, role)| {
        let of = list.of.as_ref().is_none_or(|of| {
            of == *name
                || roles
                    .get(of)
                    .is_some_and(|grantee| grantee.member_of.contains(*name))
        });
        of && (role.login || !list.users)
    });
    if list.users {
        let columns = [("name", CqlType::Text), ("super", CqlType::Boolean)];
        let rows = listed
            .map(|(name, role)| vec![text(name), boolean(role.superuser)])
            .collect();
        return table("users", &columns, rows);
    }
    let columns = [
        ("role", CqlType::Text),
        ("super", CqlType::Boolean),
        ("login", CqlType::Boolean),
    ];
    let rows = listed
        .map(|(name, role)| vec![text(name), boolean(role.superuser), boolean(role.login)])
        .collect();
    table("roles", &columns, rows)
}

pub(super) fn permissions(
    roles: &BTreeMap<String, Role>,
    list: &ListPermissions,
    keyspace: Option<&str>,
) -> QueryResult {
    let wanted = or_all(&list.permissions);
    let resource = list
        .resource
        .as_ref()
        .map(|resource| resolved(resource, keyspace));
    let mut rows = Vec::new();
    for (name, role) in roles {
        if list.of.as_ref().is_some_and(|of| of != name) {
            continue;
        }
        for (on, permission) in &role.grants {
            if wanted.contains(permission) && resource.as_ref().is_none_or(|resource| resource == on) {
                rows.push(vec![
                    text(name),
                    text(name),
                    text(&describe(on)),
                    text(name_of(*permission)),
                ]);
            }
        }
    }
    let columns = ["role", "username", "resource", "permission"].map(|name| (name, CqlType::Text));
    table("permissions", &columns, rows)
}

fn table(name: &str, columns: &[(&str, CqlType)], rows: Vec<Vec<Vec<u8>>>) -> QueryResult {
    let (keyspace, table): (Arc<str>, Arc<str>) = (Arc::from("system_auth"), Arc::from(name));
    let columns = columns
        .iter()
        .map(|(name, ty)| ColumnSpec {
            keyspace: keyspace.clone(),
            table: table.clone(),
            name: (*name).to_owned(),
            ty: ty.clone(),
        })
        .collect();
    let mut data = Vec::new();
    for value in rows.iter().flatten() {
        // Names and flags: far below 2 GiB.
        data.extend_from_slice(&(value.len() as i32).to_be_bytes());
        data.extend_from_slice(value);
    }
    QueryResult::Rows(Rows {
        metadata: Arc::new(ResultMetadata { columns }),
        row_count: rows.len() as i32,
        data,
        paging_state: None,
    })
}

fn text(value: &str) -> Vec<u8> {
    value.as_bytes().to_vec()
}

fn boolean(value: bool) -> Vec<u8> {
    vec![u8::from(value)]
}
