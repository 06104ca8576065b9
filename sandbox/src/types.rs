//! CQL types. Values travel through the node in their serialized form (native protocol, section 6), as they
//! do in the real one: nothing is decoded only to be stored or sent.
//!
//! `composite` takes collections apart, `validate` refuses malformed values, `constant` makes values of
//! what a CQL text says, `function` and `aggregate` compute, `json` and `display` print. All of it is pure; order
//! lives in `storage::ordered`, type names in `schema::type_name`.

pub mod aggregate;
pub mod calendar;
pub mod composite;
pub mod constant;
pub mod display;
pub mod duration;
pub mod function;
pub mod json;
pub mod validate;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod order_tests;

use std::sync::Arc;

/// A CQL data type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CqlType {
    Ascii,
    Bigint,
    Blob,
    Boolean,
    Counter,
    Date,
    Decimal,
    Double,
    Duration,
    Float,
    Inet,
    Int,
    Smallint,
    Text,
    Time,
    Timestamp,
    Timeuuid,
    Tinyint,
    Uuid,
    Varint,
    /// Collections and UDTs carry whether they are frozen: a frozen one is a single cell.
    List {
        element: Arc<CqlType>,
        frozen: bool,
    },
    Set {
        element: Arc<CqlType>,
        frozen: bool,
    },
    Map {
        key: Arc<CqlType>,
        value: Arc<CqlType>,
        frozen: bool,
    },
    /// Always frozen.
    Tuple(Arc<[CqlType]>),
    Udt {
        definition: Arc<UdtDefinition>,
        frozen: bool,
    },
    /// `vector<float, n>` and relatives.
    Vector {
        element: Arc<CqlType>,
        dimensions: u16,
    },
}

/// A user-defined type: names and types of its fields in order.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct UdtDefinition {
    pub keyspace: String,
    pub name: String,
    pub fields: Vec<(String, CqlType)>,
}

impl CqlType {
    /// True if a value is stored as several cells, one per element: non-frozen collections and UDTs.
    pub fn is_multi_cell(&self) -> bool {
        matches!(
            self,
            CqlType::List { frozen: false, .. }
                | CqlType::Set { frozen: false, .. }
                | CqlType::Map { frozen: false, .. }
                | CqlType::Udt { frozen: false, .. }
        )
    }
}
