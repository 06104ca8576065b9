//! What a CQL text says, before any name in it is looked up.
//!
//! `data` holds statements that read and write rows, `definition` those that change the schema, `access` roles
//! and permissions, `term` values. Unquoted names arrive here in lower case, quoted ones as written.

pub mod access;
pub mod data;
pub mod definition;
pub mod term;

use access::{
    AlterRole, CreateRole, DropRole, GrantPermission, GrantRole, ListPermissions, ListRoles,
    RevokePermission, RevokeRole,
};
use data::{Batch, Delete, Insert, Select, Truncate, Update};
use definition::{
    AlterKeyspace, AlterTable, AlterType, CreateIndex, CreateKeyspace, CreateTable, CreateType, CreateView,
    Describe, DropObject,
};

/// A statement and its bind markers.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub statement: Statement,
    /// One per variable, in order of first appearance: the name of `:name`, None for `?`. Occurrences of one
    /// name are one variable, as in ScyllaDB.
    pub markers: Vec<Option<String>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Select(Box<Select>),
    Insert(Box<Insert>),
    Update(Box<Update>),
    Delete(Box<Delete>),
    Batch(Box<Batch>),
    Truncate(Truncate),
    Use(String),
    CreateKeyspace(CreateKeyspace),
    AlterKeyspace(AlterKeyspace),
    DropKeyspace { name: String, if_exists: bool },
    CreateTable(Box<CreateTable>),
    AlterTable(AlterTable),
    DropTable(DropObject),
    CreateType(CreateType),
    AlterType(AlterType),
    DropType(DropObject),
    CreateIndex(CreateIndex),
    DropIndex(DropObject),
    CreateView(CreateView),
    DropView(DropObject),
    CreateRole(CreateRole),
    AlterRole(AlterRole),
    DropRole(DropRole),
    GrantRole(GrantRole),
    RevokeRole(RevokeRole),
    GrantPermission(GrantPermission),
    RevokePermission(RevokePermission),
    ListRoles(ListRoles),
    ListPermissions(ListPermissions),
    Describe(Describe),
}

/// The name of a table, type, index or function; without a keyspace it belongs to the session's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QualifiedName {
    pub keyspace: Option<String>,
    pub name: String,
}
