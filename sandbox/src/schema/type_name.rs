//! Types as written in CQL, both ways.

use std::sync::Arc;

use super::{Catalog, KeyspaceSchema};
use crate::cql::ast::term::TypeExpr;
use crate::error::CqlError;
use crate::types::{CqlType, UdtDefinition};

/// An identifier as CQL needs it: quoted unless it is lower case and plain.
pub fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A type as system_schema.columns and DESCRIBE have it.
pub fn type_name(ty: &CqlType) -> String {
    let frozen = |frozen: bool, name: String| if frozen { format!("frozen<{name}>") } else { name };
    match ty {
        CqlType::List { element, frozen: is } => frozen(*is, format!("list<{}>", type_name(element))),
        CqlType::Set { element, frozen: is } => frozen(*is, format!("set<{}>", type_name(element))),
        CqlType::Map {
            key,
            value,
            frozen: is,
        } => frozen(*is, format!("map<{}, {}>", type_name(key), type_name(value))),
        CqlType::Tuple(types) => {
            let types: Vec<_> = types.iter().map(type_name).collect();
            format!("frozen<tuple<{}>>", types.join(", "))
        }
        CqlType::Udt {
            definition,
            frozen: is,
        } => frozen(*is, quoted(&definition.name)),
        CqlType::Vector { element, dimensions } => format!("vector<{}, {dimensions}>", type_name(element)),
        native => native_name(native).to_owned(),
    }
}

/// Looks up a type as written; user-defined ones belong to `keyspace`.
///
/// # Errors
/// Invalid: an unknown type, or one that may not stand inside another. Syntax: frozen of what cannot be.
pub fn resolve_type(catalog: &Catalog, keyspace: &str, written: &TypeExpr) -> Result<CqlType, CqlError> {
    let resolver = Resolver {
        keyspace: catalog.keyspace(keyspace).map(Arc::as_ref),
        name: keyspace,
    };
    resolver.resolve(written, false)
}

/// `ty` with every use of a user-defined type replaced by its new definition.
pub fn with_udt(ty: &CqlType, new: &Arc<UdtDefinition>) -> CqlType {
    let inner = |ty: &Arc<CqlType>| Arc::new(with_udt(ty, new));
    match ty {
        CqlType::List { element, frozen } => CqlType::List {
            element: inner(element),
            frozen: *frozen,
        },
        CqlType::Set { element, frozen } => CqlType::Set {
            element: inner(element),
            frozen: *frozen,
        },
        CqlType::Map { key, value, frozen } => CqlType::Map {
            key: inner(key),
            value: inner(value),
            frozen: *frozen,
        },
        CqlType::Tuple(types) => CqlType::Tuple(types.iter().map(|ty| with_udt(ty, new)).collect()),
        CqlType::Vector { element, dimensions } => CqlType::Vector {
            element: inner(element),
            dimensions: *dimensions,
        },
        CqlType::Udt { definition, frozen } if same_type(definition, new) => CqlType::Udt {
            definition: new.clone(),
            frozen: *frozen,
        },
        CqlType::Udt { definition, frozen } => {
            let fields = definition
                .fields
                .iter()
                .map(|(name, ty)| (name.clone(), with_udt(ty, new)))
                .collect();
            CqlType::Udt {
                definition: Arc::new(UdtDefinition {
                    keyspace: definition.keyspace.clone(),
                    name: definition.name.clone(),
                    fields,
                }),
                frozen: *frozen,
            }
        }
        native => native.clone(),
    }
}

/// True if a user-defined type is part of `ty`.
pub fn uses_udt(ty: &CqlType, udt: &UdtDefinition) -> bool {
    match ty {
        CqlType::List { element, .. } | CqlType::Set { element, .. } | CqlType::Vector { element, .. } => {
            uses_udt(element, udt)
        }
        CqlType::Map { key, value, .. } => uses_udt(key, udt) || uses_udt(value, udt),
        CqlType::Tuple(types) => types.iter().any(|ty| uses_udt(ty, udt)),
        CqlType::Udt { definition, .. } => {
            same_type(definition, udt) || definition.fields.iter().any(|(_, ty)| uses_udt(ty, udt))
        }
        _ => false,
    }
}

struct Resolver<'a> {
    keyspace: Option<&'a KeyspaceSchema>,
    name: &'a str,
}

impl Resolver<'_> {
    fn resolve(&self, written: &TypeExpr, frozen: bool) -> Result<CqlType, CqlError> {
        Ok(match written {
            TypeExpr::Named(name) => match native_type(&name.name).filter(|_| name.keyspace.is_none()) {
                Some(native) => native,
                None => self.udt(name.keyspace.as_deref(), &name.name, frozen)?,
            },
            TypeExpr::Frozen(inner) => {
                let ty = self.resolve(inner, true)?;
                let freezable = matches!(
                    ty,
                    CqlType::List { .. }
                        | CqlType::Set { .. }
                        | CqlType::Map { .. }
                        | CqlType::Udt { .. }
                        | CqlType::Tuple(_)
                        | CqlType::Vector { .. }
                );
                if !freezable {
                    return Err(CqlError::syntax(format!(
                        "frozen<> is only allowed on collections, tuples, and user-defined types (got {})",
                        type_name(&ty)
                    )));
                }
                ty
            }
            TypeExpr::List(element) => CqlType::List {
                element: self.element(element, frozen)?,
                frozen,
            },
            TypeExpr::Set(element) => CqlType::Set {
                element: self.key(element, frozen)?,
                frozen,
            },
            TypeExpr::Map(key, value) => CqlType::Map {
                key: self.key(key, frozen)?,
                value: self.element(value, frozen)?,
                frozen,
            },
            TypeExpr::Tuple(types) => {
                let types: Result<Vec<_>, _> = types.iter().map(|ty| self.inner(ty, true)).collect();
                CqlType::Tuple(types?.into())
            }
            TypeExpr::Vector(element, dimensions) => CqlType::Vector {
                element: Arc::new(self.inner(element, true)?),
                dimensions: *dimensions,
            },
            TypeExpr::Custom(class) => {
                return Err(CqlError::invalid(format!(
                    "Custom types are not supported (got '{class}')"
                )));
            }
        })
    }

    fn key(&self, written: &TypeExpr, frozen: bool) -> Result<Arc<CqlType>, CqlError> {
        let ty = self.element(written, frozen)?;
        if *ty == CqlType::Duration {
            return Err(CqlError::invalid(
                "Durations are not allowed inside sets or as map keys",
            ));
        }
        Ok(ty)
    }

    /// An element of a collection: not multi-cell unless the whole collection is frozen.
    fn element(&self, written: &TypeExpr, frozen: bool) -> Result<Arc<CqlType>, CqlError> {
        let ty = self.inner(written, frozen)?;
        if ty.is_multi_cell() {
            let kind = if matches!(ty, CqlType::Udt { .. }) {
                "UDTs"
            } else {
                "collections"
            };
            return Err(CqlError::invalid(format!(
                "Non-frozen {kind} are not allowed inside collections: {}",
                type_name(&ty)
            )));
        }
        Ok(Arc::new(ty))
    }

    fn inner(&self, written: &TypeExpr, frozen: bool) -> Result<CqlType, CqlError> {
        match self.resolve(written, frozen)? {
            CqlType::Counter => Err(CqlError::invalid("Counters are not allowed inside collections")),
            ty => Ok(ty),
        }
    }

    fn udt(&self, keyspace: Option<&str>, name: &str, frozen: bool) -> Result<CqlType, CqlError> {
        if let Some(other) = keyspace.filter(|other| *other != self.name) {
            return Err(CqlError::invalid(format!(
                "Statement on keyspace {} cannot refer to a user type in keyspace {other}; \
                 user types can only be used in the keyspace they are defined in",
                self.name
            )));
        }
        let definition = self.keyspace.and_then(|keyspace| keyspace.types.get(name));
        let definition =
            definition.ok_or_else(|| CqlError::invalid(format!("Unknown type {}.{name}", self.name)))?;
        Ok(CqlType::Udt {
            definition: definition.clone(),
            frozen,
        })
    }
}

fn same_type(a: &UdtDefinition, b: &UdtDefinition) -> bool {
    a.name == b.name && a.keyspace == b.keyspace
}

const NATIVE: [(&str, CqlType); 20] = [
    ("ascii", CqlType::Ascii),
    ("bigint", CqlType::Bigint),
    ("blob", CqlType::Blob),
    ("boolean", CqlType::Boolean),
    ("counter", CqlType::Counter),
    ("date", CqlType::Date),
    ("decimal", CqlType::Decimal),
    ("double", CqlType::Double),
    ("duration", CqlType::Duration),
    ("float", CqlType::Float),
    ("inet", CqlType::Inet),
    ("int", CqlType::Int),
    ("smallint", CqlType::Smallint),
    ("text", CqlType::Text),
    ("time", CqlType::Time),
    ("timestamp", CqlType::Timestamp),
    ("timeuuid", CqlType::Timeuuid),
    ("tinyint", CqlType::Tinyint),
    ("uuid", CqlType::Uuid),
    ("varint", CqlType::Varint),
];

/// A native type by its name.
pub fn native_type(name: &str) -> Option<CqlType> {
    let name = if name == "varchar" { "text" } else { name };
    NATIVE
        .iter()
        .find(|(native, _)| *native == name)
        .map(|(_, ty)| ty.clone())
}

fn native_name(ty: &CqlType) -> &'static str {
    NATIVE
        .iter()
        .find(|(_, native)| native == ty)
        .map_or("blob", |(name, _)| name)
}
