//! Values of virtual rows in their serialized form.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::types::CqlType;

pub(super) fn text(value: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

pub(super) fn int(value: i32) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(&value.to_be_bytes()))
}

pub(super) fn float(value: f32) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(&value.to_be_bytes()))
}

pub(super) fn boolean(value: bool) -> Option<Bytes> {
    Some(Bytes::from_static(if value { &[1] } else { &[0] }))
}

pub(super) fn uuid(value: Uuid) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

pub(super) fn inet(value: IpAddr) -> Option<Bytes> {
    Some(match value {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    })
}

/// A `set<text>`; sets are stored in the order of their elements.
pub(super) fn text_set(items: impl IntoIterator<Item = String>) -> Option<Bytes> {
    let mut items: Vec<String> = items.into_iter().collect();
    items.sort();
    let mut out = BytesMut::new();
    // Tokens and features: thousands at most.
    out.put_i32(items.len() as i32);
    for item in &items {
        out.put_i32(item.len() as i32);
        out.extend_from_slice(item.as_bytes());
    }
    Some(out.freeze())
}

pub(super) fn text_set_type() -> CqlType {
    CqlType::Set {
        element: Arc::new(CqlType::Text),
        frozen: false,
    }
}
