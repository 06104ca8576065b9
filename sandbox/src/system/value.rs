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

pub(super) fn double(value: f64) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(&value.to_be_bytes()))
}

/// Milliseconds since the epoch.
pub(super) fn timestamp(milliseconds: i64) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(&milliseconds.to_be_bytes()))
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

/// Sets are stored in the order of their elements.
pub(super) fn text_set(items: impl IntoIterator<Item = String>) -> Option<Bytes> {
    let mut items: Vec<String> = items.into_iter().collect();
    items.sort();
    text_list(items)
}

pub(super) fn text_list(items: impl IntoIterator<Item = String>) -> Option<Bytes> {
    let items: Vec<String> = items.into_iter().collect();
    let mut out = BytesMut::new();
    put_length(&mut out, items.len());
    for item in &items {
        put(&mut out, item.as_bytes());
    }
    Some(out.freeze())
}

/// Maps are stored in the order of their keys.
pub(super) fn map<K: AsRef<str>, V: AsRef<[u8]>>(entries: impl IntoIterator<Item = (K, V)>) -> Option<Bytes> {
    let mut entries: Vec<(K, V)> = entries.into_iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
    let mut out = BytesMut::new();
    put_length(&mut out, entries.len());
    for (key, value) in &entries {
        put(&mut out, key.as_ref().as_bytes());
        put(&mut out, value.as_ref());
    }
    Some(out.freeze())
}

pub(super) fn text_map<K: AsRef<str>, V: AsRef<str>>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> Option<Bytes> {
    map(entries
        .into_iter()
        .map(|(key, value)| (key, value.as_ref().to_owned())))
}

pub(super) fn text_set_type() -> CqlType {
    CqlType::Set {
        element: Arc::new(CqlType::Text),
        frozen: false,
    }
}

fn put(out: &mut BytesMut, value: &[u8]) {
    put_length(out, value.len());
    out.extend_from_slice(value);
}

fn put_length(out: &mut BytesMut, length: usize) {
    // Names, tokens and options: far below 2 GiB.
    out.put_i32(length as i32);
}
