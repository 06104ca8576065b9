//! Statements that change or describe the schema.

use crate::cql::ast::QualifiedName;
use crate::cql::ast::term::{Term, TypeExpr};

/// `WITH a = 1 AND b = {...}`, in the order written; names in lower case.
pub type Properties = Vec<(String, PropertyValue)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyValue {
    /// A constant or a bare word, as text without quotes.
    Scalar(String),
    /// Keys and values as text without quotes, in the order written.
    Map(Vec<(String, String)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateKeyspace {
    pub name: String,
    pub if_not_exists: bool,
    pub properties: Properties,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AlterKeyspace {
    pub name: String,
    pub if_exists: bool,
    pub properties: Properties,
}

/// DROP TABLE, TYPE, INDEX, MATERIALIZED VIEW.
#[derive(Debug, Clone, PartialEq)]
pub struct DropObject {
    pub name: QualifiedName,
    pub if_exists: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    pub name: QualifiedName,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDefinition>,
    /// One per PRIMARY KEY that was written, inline or not; a table needs exactly one.
    pub primary_keys: Vec<PrimaryKey>,
    pub clustering_order: Vec<(String, Direction)>,
    pub compact_storage: bool,
    pub properties: Properties,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDefinition {
    pub name: String,
    pub ty: TypeExpr,
    pub is_static: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryKey {
    pub partition: Vec<String>,
    pub clustering: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AlterTable {
    pub name: QualifiedName,
    pub if_exists: bool,
    pub change: TableChange,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TableChange {
    Add {
        columns: Vec<ColumnDefinition>,
        if_not_exists: bool,
    },
    Drop {
        columns: Vec<String>,
        if_exists: bool,
        /// `USING TIMESTAMP`, microseconds.
        timestamp: Option<Term>,
    },
    Rename(Vec<(String, String)>),
    AlterType {
        column: String,
        ty: TypeExpr,
    },
    With(Properties),
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateType {
    pub name: QualifiedName,
    pub if_not_exists: bool,
    pub fields: Vec<(String, TypeExpr)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AlterType {
    pub name: QualifiedName,
    pub if_exists: bool,
    pub change: TypeChange,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TypeChange {
    Add(Vec<(String, TypeExpr)>),
    Rename(Vec<(String, String)>),
    AlterField { field: String, ty: TypeExpr },
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreateIndex {
    pub name: Option<String>,
    pub if_not_exists: bool,
    pub table: QualifiedName,
    /// Columns as written, `values(c)`, `keys(c)`, `entries(c)` and `full(c)` included.
    pub targets: Vec<String>,
    /// CUSTOM ... USING 'class'.
    pub class: Option<String>,
}

/// CREATE MATERIALIZED VIEW, just enough of it to be refused by name.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    pub name: QualifiedName,
    pub if_not_exists: bool,
    pub base: QualifiedName,
}

/// DESCRIBE, as cqlsh sends it.
#[derive(Debug, Clone, PartialEq)]
pub struct Describe {
    pub what: DescribeTarget,
    /// WITH INTERNALS.
    pub with_internals: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DescribeTarget {
    Cluster,
    /// FULL: system keyspaces too.
    Schema {
        full: bool,
    },
    Keyspaces,
    /// None: the session's keyspace. ONLY: without what it holds.
    Keyspace {
        name: Option<String>,
        only: bool,
    },
    Tables,
    Table(QualifiedName),
    Types,
    Type(QualifiedName),
    Index(QualifiedName),
    View(QualifiedName),
    Functions,
    Function(QualifiedName),
    Aggregates,
    Aggregate(QualifiedName),
    /// A bare name: a keyspace, else a table, view or index.
    Any(QualifiedName),
}
