//! Values and type names as written.

use crate::cql::ast::QualifiedName;

/// A value as written. Which type it has is decided by where it stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    Null,
    Literal(Literal),
    Marker(Marker),
    List(Vec<Term>),
    /// `{a, b}`; `{}` too, which may also stand for an empty map or UDT.
    Set(Vec<Term>),
    /// `{k: v}`, at least one entry.
    Map(Vec<(Term, Term)>),
    /// `(a, b)`.
    Tuple(Vec<Term>),
    /// `{field: value}`, at least one field.
    Udt(Vec<(String, Term)>),
    Call {
        function: QualifiedName,
        arguments: Vec<Term>,
    },
    /// `(int) x`.
    Hint {
        ty: TypeExpr,
        term: Box<Term>,
    },
}

/// `?` or `:name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Position of its variable among `Parsed::markers`.
    pub index: usize,
    pub name: Option<String>,
}

/// A constant: its kind and its text without quotes or the `0x` of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    pub kind: LiteralKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiteralKind {
    String,
    /// Optional sign and digits, as many as were written.
    Integer,
    /// Also `NaN` and `Infinity`, signed or not.
    Float,
    /// `true` or `false`, in lower case.
    Boolean,
    Uuid,
    /// Hex digits, an even number or not.
    Hex,
    /// `1y2mo3d4h`, ISO 8601 forms included.
    Duration,
}

/// A type as written; names of user-defined types are not looked up yet.
#[derive(Debug, Clone, PartialEq)]
pub enum TypeExpr {
    /// A lower-case native type name, `varchar` already replaced by `text`; or a user-defined type.
    Named(QualifiedName),
    Frozen(Box<TypeExpr>),
    List(Box<TypeExpr>),
    Set(Box<TypeExpr>),
    Map(Box<TypeExpr>, Box<TypeExpr>),
    Tuple(Vec<TypeExpr>),
    Vector(Box<TypeExpr>, u16),
    /// `'org.apache.cassandra.db.marshal...'`.
    Custom(String),
}
