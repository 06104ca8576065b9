//! No bytes may make the frame and request readers panic.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sandbox::wire::{MAX_FRAME_BODY_BYTES, frame, request};

fuzz_target!(|bytes: &[u8]| {
    let mut input = BytesMut::from(bytes);
    while let Ok(Some(frame)) = frame::take_frame(&mut input, MAX_FRAME_BODY_BYTES) {
        if let Ok(body) = frame.plain_body(true) {
            let _ = request::decode(frame.opcode, body);
        }
    }
});
