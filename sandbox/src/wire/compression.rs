//! LZ4 bodies: a big-endian u32 with the uncompressed length, then one LZ4 block.

use bytes::{Bytes, BytesMut};

use super::MAX_FRAME_BODY_BYTES;
use crate::error::CqlError;

/// Bodies below this stay as they are: the saving would not pay for the work. Bytes.
const MIN_COMPRESSED_BODY_BYTES: usize = 512;

/// Undoes what the client's LZ4 did.
///
/// # Errors
/// A protocol error if the body is no LZ4 block of the length it claims, or claims more than
/// [`MAX_FRAME_BODY_BYTES`].
pub fn decompress(body: &[u8]) -> Result<Bytes, CqlError> {
    let Some((length, block)) = body.split_first_chunk::<4>() else {
        return Err(CqlError::protocol(
            "Truncated frame: an LZ4 body starts with 4 bytes of length",
        ));
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_FRAME_BODY_BYTES {
        return Err(CqlError::protocol(format!(
            "Uncompressed length {length} is larger than the maximum of {MAX_FRAME_BODY_BYTES} bytes"
        )));
    }
    if length == 0 {
        return Ok(Bytes::new());
    }
    let mut raw = vec![0; length];
    match lz4_flex::block::decompress_into(block, &mut raw) {
        Ok(written) if written == length => Ok(Bytes::from(raw)),
        Ok(written) => Err(CqlError::protocol(format!(
            "LZ4 body has {written} bytes where its header says {length}"
        ))),
        Err(error) => Err(CqlError::protocol(format!("LZ4 body cannot be read: {error}"))),
    }
}

/// Compresses `out[start..]` in place. False if that would not make it smaller: then nothing has changed.
pub fn compress_tail(out: &mut BytesMut, start: usize) -> bool {
    let raw = &out[start..];
    if raw.len() < MIN_COMPRESSED_BODY_BYTES {
        return false;
    }
    let Ok(raw_length) = u32::try_from(raw.len()) else {
        return false;
    };
    let block = lz4_flex::block::compress(raw);
    if block.len() + 4 >= raw.len() {
        return false;
    }
    out.truncate(start);
    out.extend_from_slice(&raw_length.to_be_bytes());
    out.extend_from_slice(&block);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_survives_the_round_trip() {
        let body = b"outbox ".repeat(500);
        let mut out = BytesMut::from(&b"head"[..]);
        out.extend_from_slice(&body);
        assert!(compress_tail(&mut out, 4));
        assert_eq!(&out[..4], b"head");
        assert!(out.len() < body.len() / 4, "{} bytes", out.len());
        assert_eq!(decompress(&out[4..]).unwrap(), body);
    }

    #[test]
    fn bodies_that_would_not_shrink_stay() {
        let mut short = BytesMut::from(&b"abc"[..]);
        assert!(!compress_tail(&mut short, 0));
        let noise: Vec<u8> = (0..4096_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let mut out = BytesMut::from(&noise[..]);
        if !compress_tail(&mut out, 0) {
            assert_eq!(&out[..], &noise[..]);
        }
    }

    #[test]
    fn bad_bodies_are_protocol_errors() {
        let check = |body: &[u8], text: &str| {
            let error = decompress(body).unwrap_err();
            assert_eq!(error.code(), 0x000A);
            assert!(error.message.contains(text), "{}", error.message);
        };
        check(&[0, 0], "4 bytes of length");
        check(&[0x7f, 0xff, 0xff, 0xff, 0], "larger than the maximum");
        check(&[0, 0, 0, 9, 0xf0], "LZ4 body");
        check(&[0, 0, 0, 9, 0x10, b'a'], "LZ4 body");
        assert_eq!(decompress(&[0, 0, 0, 0]).unwrap().len(), 0);
    }
}
