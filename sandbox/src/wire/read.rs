//! The protocol's primitive notations, read from a body. Every read is checked: a body that ends early or
//! claims more than it has is a protocol error, never a panic.

use bytes::{Buf, Bytes};

use crate::error::CqlError;
use crate::query::api::BindValue;

pub fn byte(body: &mut Bytes) -> Result<u8, CqlError> {
    need(body, 1, "a byte")?;
    Ok(body.get_u8())
}

pub fn short(body: &mut Bytes) -> Result<u16, CqlError> {
    need(body, 2, "a short")?;
    Ok(body.get_u16())
}

pub fn int(body: &mut Bytes) -> Result<i32, CqlError> {
    need(body, 4, "an int")?;
    Ok(body.get_i32())
}

pub fn long(body: &mut Bytes) -> Result<i64, CqlError> {
    need(body, 8, "a long")?;
    Ok(body.get_i64())
}

pub fn string(body: &mut Bytes) -> Result<String, CqlError> {
    let length = usize::from(short(body)?);
    text(take(body, length, "a string")?)
}

pub fn long_string(body: &mut Bytes) -> Result<String, CqlError> {
    let length = int(body)?;
    let length = usize::try_from(length)
        .map_err(|_| CqlError::protocol(format!("Negative length {length} of a long string")))?;
    text(take(body, length, "a long string")?)
}

pub fn short_bytes(body: &mut Bytes) -> Result<Bytes, CqlError> {
    let length = usize::from(short(body)?);
    take(body, length, "short bytes")
}

/// `[bytes]`: None for any negative length.
pub fn bytes(body: &mut Bytes) -> Result<Option<Bytes>, CqlError> {
    match usize::try_from(int(body)?) {
        Ok(length) => take(body, length, "bytes").map(Some),
        Err(_) => Ok(None),
    }
}

/// `[value]`: -1 is null, -2 is unset, other negative lengths are errors.
pub fn value(body: &mut Bytes) -> Result<BindValue, CqlError> {
    match int(body)? {
        -1 => Ok(BindValue::Null),
        -2 => Ok(BindValue::Unset),
        length => {
            let length = usize::try_from(length)
                .map_err(|_| CqlError::protocol(format!("Invalid value length {length}")))?;
            take(body, length, "a value").map(BindValue::Value)
        }
    }
}

pub fn string_list(body: &mut Bytes) -> Result<Vec<String>, CqlError> {
    (0..short(body)?).map(|_| string(body)).collect()
}

pub fn string_map(body: &mut Bytes) -> Result<Vec<(String, String)>, CqlError> {
    (0..short(body)?)
        .map(|_| Ok((string(body)?, string(body)?)))
        .collect()
}

/// Steps over a `[bytes map]`, the form of a custom payload.
pub fn skip_bytes_map(body: &mut Bytes) -> Result<(), CqlError> {
    for _ in 0..short(body)? {
        string(body)?;
        bytes(body)?;
    }
    Ok(())
}

fn take(body: &mut Bytes, length: usize, what: &str) -> Result<Bytes, CqlError> {
    need(body, length, what)?;
    Ok(body.split_to(length))
}

fn need(body: &Bytes, length: usize, what: &str) -> Result<(), CqlError> {
    if body.len() >= length {
        return Ok(());
    }
    Err(CqlError::protocol(format!(
        "Truncated frame: expected {length} bytes of {what}, {} left",
        body.len()
    )))
}

fn text(raw: Bytes) -> Result<String, CqlError> {
    String::from_utf8(raw.into())
        .map_err(|error| CqlError::protocol(format!("Cannot decode string as UTF8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_null_and_unset() {
        let mut body = Bytes::from_static(&[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1, 9, 0, 0, 0, 0,
        ]);
        assert_eq!(value(&mut body).unwrap(), BindValue::Null);
        assert_eq!(value(&mut body).unwrap(), BindValue::Unset);
        assert_eq!(
            value(&mut body).unwrap(),
            BindValue::Value(Bytes::from_static(&[9]))
        );
        assert_eq!(value(&mut body).unwrap(), BindValue::Value(Bytes::new()));
        assert!(body.is_empty());
    }

    #[test]
    fn short_bodies_say_what_is_missing() {
        let check = |raw: &'static [u8], read: fn(&mut Bytes) -> Result<(), CqlError>, text: &str| {
            let error = read(&mut Bytes::from_static(raw)).unwrap_err();
            assert_eq!(error.code(), 0x000A);
            assert!(error.message.contains(text), "{}", error.message);
        };
        check(&[], |b| byte(b).map(drop), "1 bytes of a byte, 0 left");
        check(
            &[0, 5, b'a'],
            |b| string(b).map(drop),
            "5 bytes of a string, 1 left",
        );
        check(&[0, 1, 0xff], |b| string(b).map(drop), "UTF8");
        check(
            &[0xff, 0xff, 0xff, 0xfd],
            |b| value(b).map(drop),
            "value length -3",
        );
        check(&[0x80, 0, 0, 0], |b| long_string(b).map(drop), "Negative length");
        check(
            &[0x7f, 0xff, 0xff, 0xff],
            |b| bytes(b).map(drop),
            "2147483647 bytes of bytes",
        );
        check(
            &[0xff, 0xff],
            |b| string_list(b).map(drop),
            "2 bytes of a short, 0 left",
        );
    }
}
