//! Frame headers: version, flags, stream, opcode, length.

use bytes::{Buf, Bytes, BytesMut};

use super::{MAX_FRAME_BODY_BYTES, PROTOCOL_VERSION, compression};
use crate::error::CqlError;

pub const HEADER_BYTES: usize = 9;

/// Set in the version byte of everything that a server sends.
pub const RESPONSE_BIT: u8 = 0x80;

/// Header flags.
pub mod flag {
    pub const COMPRESSED: u8 = 0x01;
    pub const CUSTOM_PAYLOAD: u8 = 0x04;
    pub const WARNING: u8 = 0x08;
}

/// The stream id of what a client did not ask for.
pub const EVENT_STREAM: i16 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Error = 0x00,
    Startup = 0x01,
    Ready = 0x02,
    Authenticate = 0x03,
    Options = 0x05,
    Supported = 0x06,
    Query = 0x07,
    Result = 0x08,
    Prepare = 0x09,
    Execute = 0x0A,
    Register = 0x0B,
    Event = 0x0C,
    Batch = 0x0D,
    AuthResponse = 0x0F,
    AuthSuccess = 0x10,
}

impl Opcode {
    /// The opcodes that a client may send.
    pub fn from_client(code: u8) -> Option<Self> {
        Some(match code {
            0x01 => Opcode::Startup,
            0x05 => Opcode::Options,
            0x07 => Opcode::Query,
            0x09 => Opcode::Prepare,
            0x0A => Opcode::Execute,
            0x0B => Opcode::Register,
            0x0D => Opcode::Batch,
            0x0F => Opcode::AuthResponse,
            _ => return None,
        })
    }
}

/// A request as it lay on the wire, its body not yet uncompressed.
#[derive(Debug, Clone)]
pub struct Frame {
    pub flags: u8,
    pub stream: i16,
    pub opcode: u8,
    pub body: Bytes,
}

impl Frame {
    /// The body, uncompressed, without the custom payload in front (which no request here needs).
    ///
    /// # Errors
    /// A protocol error if it is compressed although STARTUP agreed on no compression, or broken.
    pub fn plain_body(&self, compression_agreed: bool) -> Result<Bytes, CqlError> {
        let mut body = match self.flags & flag::COMPRESSED != 0 {
            true if !compression_agreed => {
                return Err(CqlError::protocol(
                    "Received a compressed frame, but no compression was agreed on in STARTUP",
                ));
            }
            true => compression::decompress(&self.body)?,
            false => self.body.clone(),
        };
        if self.flags & flag::CUSTOM_PAYLOAD != 0 {
            super::read::skip_bytes_map(&mut body)?;
        }
        Ok(body)
    }
}

/// Why a connection cannot go on: after such bytes nobody knows where the next frame starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unframed {
    /// The stream to answer on; 0 where the header could not be understood.
    pub stream: i16,
    pub error: CqlError,
}

/// Takes the next whole frame off `input`; None if more bytes are needed.
///
/// # Errors
/// [`Unframed`] for another protocol version, a response sent to a server, or a body longer than `limit`
/// bytes: answer, then close.
pub fn take_frame(input: &mut BytesMut, limit: usize) -> Result<Option<Frame>, Unframed> {
    let Some(&version) = input.first() else {
        return Ok(None);
    };
    if version != PROTOCOL_VERSION {
        return Err(Unframed {
            stream: 0,
            error: unsupported_version(version),
        });
    }
    if input.len() < HEADER_BYTES {
        return Ok(None);
    }
    let stream = i16::from_be_bytes([input[2], input[3]]);
    let length = u32::from_be_bytes([input[5], input[6], input[7], input[8]]) as usize;
    if length > limit {
        return Err(Unframed {
            stream,
            error: too_large(length, limit),
        });
    }
    if input.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    let (flags, opcode) = (input[1], input[4]);
    input.advance(HEADER_BYTES);
    Ok(Some(Frame {
        flags,
        stream,
        opcode,
        body: input.split_to(length).freeze(),
    }))
}

/// How many bytes the frame at the start of `input` has in all, once its header is there.
pub fn expected_bytes(input: &[u8]) -> Option<usize> {
    let length: [u8; 4] = input.get(5..HEADER_BYTES)?.try_into().ok()?;
    Some(HEADER_BYTES + u32::from_be_bytes(length) as usize)
}

/// ScyllaDB's answers: in its own words, and Invalid once a client has introduced itself.
fn too_large(length: usize, limit: usize) -> CqlError {
    if limit < MAX_FRAME_BODY_BYTES {
        return CqlError::protocol(format!(
            "Initial message size too large ({length}), rejecting as invalid"
        ));
    }
    // What ScyllaDB reckons a request to take in memory.
    let estimate = |bytes: usize| bytes * 2 + 8_000;
    CqlError::invalid(format!(
        "request size too large (frame size {length}; estimate {}; allowed {})",
        estimate(length),
        estimate(limit)
    ))
}

/// The words are what drivers look for: "unsupported protocol version" makes the Python driver step down,
/// the second half tells gocql where to.
fn unsupported_version(version: u8) -> CqlError {
    if version & RESPONSE_BIT != 0 {
        return CqlError::protocol(format!(
            "Expected a request of protocol version {PROTOCOL_VERSION}, got first byte {version:#04x}"
        ));
    }
    CqlError::protocol(format!(
        "Invalid or unsupported protocol version ({version}); the lowest supported version is \
         {PROTOCOL_VERSION} and the greatest is {PROTOCOL_VERSION}"
    ))
}

/// Appends one response to `out`: header, then what `body` writes, compressed if `compress` and worth it.
/// `flags` are those the body's contents need.
pub fn put_response(
    out: &mut BytesMut,
    stream: i16,
    opcode: Opcode,
    mut flags: u8,
    compress: bool,
    body: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    body(out);
    if compress && compression::compress_tail(out, start + HEADER_BYTES) {
        flags |= flag::COMPRESSED;
    }
    let length = u32::try_from(out.len() - start - HEADER_BYTES).unwrap_or(u32::MAX);
    let header = &mut out[start..start + HEADER_BYTES];
    header[0] = PROTOCOL_VERSION | RESPONSE_BIT;
    header[1] = flags;
    header[2..4].copy_from_slice(&stream.to_be_bytes());
    header[4] = opcode as u8;
    header[5..9].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100;

    #[test]
    fn frames_come_off_one_by_one() {
        let mut input = BytesMut::from(&[4, 0, 0, 7, 5, 0, 0, 0, 2, b'a', b'b', 4, 0, 0][..]);
        let frame = take_frame(&mut input, LIMIT).unwrap().unwrap();
        assert_eq!((frame.stream, frame.opcode, &frame.body[..]), (7, 5, &b"ab"[..]));
        assert!(take_frame(&mut input, LIMIT).unwrap().is_none());
        assert_eq!(input.len(), 3);
    }

    #[test]
    fn what_cannot_be_framed_is_refused() {
        let check = |bytes: &[u8], stream: i16, text: &str| {
            let refusal = take_frame(&mut BytesMut::from(bytes), LIMIT).unwrap_err();
            assert_eq!(refusal.stream, stream);
            assert_eq!(refusal.error.code(), 0x000A);
            assert!(refusal.error.message.contains(text), "{}", refusal.error.message);
        };
        check(
            &[5],
            0,
            "unsupported protocol version (5); the lowest supported version is 4",
        );
        check(&[1, 0, 0, 5, 0, 0, 0, 0], 0, "unsupported protocol version (1)");
        check(&[0x84], 0, "first byte 0x84");
        check(b"GET / HTTP/1.1", 0, "unsupported protocol version (71)");
        check(
            &[4, 0, 0, 9, 7, 0, 0, 0, 101],
            9,
            "Initial message size too large (101)",
        );
        let length = MAX_FRAME_BODY_BYTES as u32 + 1;
        let header = [&[4, 0, 0, 9, 7][..], &length.to_be_bytes()].concat();
        let refusal = take_frame(&mut BytesMut::from(&header[..]), MAX_FRAME_BODY_BYTES).unwrap_err();
        assert_eq!((refusal.stream, refusal.error.code()), (9, 0x2200));
        assert!(refusal.error.message.starts_with("request size too large"));
    }

    #[test]
    fn a_response_carries_its_length() {
        let mut out = BytesMut::new();
        put_response(&mut out, -1, Opcode::Event, 0, false, |out| {
            out.extend_from_slice(b"xyz")
        });
        assert_eq!(
            &out[..],
            &[0x84, 0, 0xff, 0xff, 0x0c, 0, 0, 0, 3, b'x', b'y', b'z']
        );
    }
}
