//! Statements that read and write rows.

use crate::cql::ast::QualifiedName;
use crate::cql::ast::term::{Term, TypeExpr};

#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    pub table: QualifiedName,
    pub selection: Selection,
    pub distinct: bool,
    pub json: bool,
    pub filter: Vec<Relation>,
    pub group_by: Vec<String>,
    pub order_by: Vec<Ordering>,
    pub per_partition_limit: Option<Term>,
    pub limit: Option<Term>,
    pub allow_filtering: bool,
    pub bypass_cache: bool,
    /// Only `timeout` can be set.
    pub using: Using,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    All,
    Selectors(Vec<Selector>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Selector {
    pub expression: SelectExpr,
    pub alias: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SelectExpr {
    Column(String),
    /// `count(*)` and `count(1)`.
    CountRows,
    /// Scalar functions and aggregates, `token` too. Names are looked up later.
    Call {
        function: QualifiedName,
        arguments: Vec<SelectExpr>,
    },
    /// `writetime(c)`, `writetime(m['k'])`.
    WriteTime(Box<SelectExpr>),
    /// `ttl(c)`.
    Ttl(Box<SelectExpr>),
    /// `CAST(x AS type)`.
    Cast {
        expression: Box<SelectExpr>,
        ty: TypeExpr,
    },
    /// `udt.field`.
    Field {
        of: Box<SelectExpr>,
        field: String,
    },
    /// `m['k']`, `l[0]`.
    Element {
        of: Box<SelectExpr>,
        key: Term,
    },
    /// A value that no column is part of.
    Term(Term),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordering {
    pub column: String,
    pub descending: bool,
}

/// One restriction of a WHERE, or one condition of an IF.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    pub subject: Subject,
    pub operator: Operator,
    pub value: RelationValue,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    Column(String),
    /// `token(a, b)`.
    Token(Vec<String>),
    /// `(a, b)`, also with one column.
    Tuple(Vec<String>),
    /// `m['k']`, `l[0]`.
    Element {
        column: String,
        key: Term,
    },
    /// `udt.field`; conditions only.
    Field {
        column: String,
        field: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    Eq,
    NotEq,
    Less,
    LessOrEq,
    Greater,
    GreaterOrEq,
    In,
    Contains,
    ContainsKey,
    Like,
    /// Its value is `RelationValue::None`.
    IsNotNull,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RelationValue {
    None,
    /// All operators but IN with a list; `IN ?` and `IN :x` too.
    One(Term),
    /// `IN (a, b)`, possibly empty. With a tuple subject each is a `Term::Tuple` or a marker.
    Many(Vec<Term>),
}

/// `USING ...`. What a statement does not allow was refused by the parser.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Using {
    /// Microseconds.
    pub timestamp: Option<Term>,
    /// Seconds.
    pub ttl: Option<Term>,
    /// A duration.
    pub timeout: Option<Term>,
}

/// The IF of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    None,
    Exists,
    /// INSERT only.
    NotExists,
    /// At least one; all must hold.
    Relations(Vec<Relation>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    pub table: QualifiedName,
    pub source: InsertSource,
    pub condition: Condition,
    pub using: Using,
}

#[derive(Debug, Clone, PartialEq)]
pub enum InsertSource {
    /// The parser does not compare their lengths.
    Values { columns: Vec<String>, values: Vec<Term> },
    Json {
        /// A string literal or a marker.
        value: Term,
        /// DEFAULT UNSET: columns that the document lacks stay as they are instead of becoming null.
        default_unset: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub table: QualifiedName,
    pub using: Using,
    pub assignments: Vec<Assignment>,
    pub filter: Vec<Relation>,
    pub condition: Condition,
}

/// One item of an UPDATE's SET.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub column: String,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// `c = x`.
    Set(Term),
    /// `c = c + x`, `c += x`.
    Add(Term),
    /// `c = c - x`, `c -= x`.
    Subtract(Term),
    /// `c = x + c`.
    Prepend(Term),
    /// `c[k] = x`.
    SetElement { key: Term, value: Term },
    /// `c.f = x`.
    SetField { field: String, value: Term },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    pub table: QualifiedName,
    /// Empty: whole rows.
    pub targets: Vec<DeleteTarget>,
    pub using: Using,
    pub filter: Vec<Relation>,
    pub condition: Condition,
}

#[derive(Debug, Clone, PartialEq)]
pub enum DeleteTarget {
    Column(String),
    /// `m['k']`, `l[0]`, `s['x']`.
    Element {
        column: String,
        key: Term,
    },
    /// `udt.field`.
    Field {
        column: String,
        field: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub kind: BatchKind,
    pub using: Using,
    pub statements: Vec<BatchItem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchKind {
    Logged,
    Unlogged,
    Counter,
}

#[derive(Debug, Clone, PartialEq)]
pub enum BatchItem {
    Insert(Insert),
    Update(Update),
    Delete(Delete),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Truncate {
    pub table: QualifiedName,
    pub using: Using,
}
