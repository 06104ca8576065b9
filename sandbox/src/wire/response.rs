//! Answers and events.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{EVENT_STREAM, Opcode, flag, put_response};
use super::request::EventKind;
use super::{rows, write};
use crate::error::{CqlError, ErrorKind};
use crate::query::api::{QueryResult, ResultMetadata, SchemaChange};

/// Everything that answers a request.
#[derive(Debug)]
pub enum Response {
    Error(CqlError),
    Ready,
    /// The class of the authenticator.
    Authenticate(&'static str),
    AuthSuccess,
    Supported(Vec<(&'static str, Vec<String>)>),
    Result {
        result: QueryResult,
        skip_metadata: bool,
    },
    Prepared(Prepared),
}

/// What PREPARE tells a client.
#[derive(Debug)]
pub struct Prepared {
    pub id: Bytes,
    pub binds: Arc<ResultMetadata>,
    /// Positions among `binds` of the partition key columns, in key order; empty if not all are bound.
    pub partition_key: Vec<u16>,
    pub result: Arc<ResultMetadata>,
}

/// What a server tells those who registered for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `NEW_NODE`, `REMOVED_NODE`.
    Topology(&'static str, IpAddr, u16),
    /// `UP`, `DOWN`.
    Status(&'static str, IpAddr, u16),
    Schema(SchemaChange),
}

impl Event {
    pub fn kind(&self) -> EventKind {
        match self {
            Event::Topology(..) => EventKind::TopologyChange,
            Event::Status(..) => EventKind::StatusChange,
            Event::Schema(_) => EventKind::SchemaChange,
        }
    }
}

/// Kinds of RESULT.
mod kind {
    pub(super) const VOID: i32 = 1;
    pub(super) const ROWS: i32 = 2;
    pub(super) const SET_KEYSPACE: i32 = 3;
    pub(super) const PREPARED: i32 = 4;
    pub(super) const SCHEMA_CHANGE: i32 = 5;
}

/// Appends the frame of an answer to `out`.
pub fn put(out: &mut BytesMut, stream: i16, compress: bool, warnings: &[String], response: &Response) {
    let opcode = match response {
        Response::Error(_) => Opcode::Error,
        Response::Ready => Opcode::Ready,
        Response::Authenticate(_) => Opcode::Authenticate,
        Response::AuthSuccess => Opcode::AuthSuccess,
        Response::Supported(_) => Opcode::Supported,
        Response::Result { .. } | Response::Prepared(_) => Opcode::Result,
    };
    let flags = if warnings.is_empty() { 0 } else { flag::WARNING };
    put_response(out, stream, opcode, flags, compress, |out| {
        if !warnings.is_empty() {
            write::string_list(out, warnings.iter().map(String::as_str));
        }
        match response {
            Response::Error(error) => put_error(out, error),
            Response::Ready => {}
            Response::Authenticate(class) => write::string(out, class),
            Response::AuthSuccess => write::bytes(out, None),
            Response::Supported(options) => put_supported(out, options),
            Response::Result {
                result,
                skip_metadata,
            } => put_result(out, result, *skip_metadata),
            Response::Prepared(prepared) => put_prepared(out, prepared),
        }
    });
}

/// Appends the frame of an event to `out`.
pub fn put_event(out: &mut BytesMut, event: &Event) {
    put_response(out, EVENT_STREAM, Opcode::Event, 0, false, |out| match event {
        Event::Topology(change, address, port) => {
            write::string(out, "TOPOLOGY_CHANGE");
            write::string(out, change);
            write::inet(out, *address, *port);
        }
        Event::Status(change, address, port) => {
            write::string(out, "STATUS_CHANGE");
            write::string(out, change);
            write::inet(out, *address, *port);
        }
        Event::Schema(change) => {
            write::string(out, "SCHEMA_CHANGE");
            put_schema_change(out, change);
        }
    });
}

fn put_supported(out: &mut BytesMut, options: &[(&'static str, Vec<String>)]) {
    out.put_u16(u16::try_from(options.len()).unwrap_or(u16::MAX));
    for (key, values) in options {
        write::string(out, key);
        write::string_list(out, values.iter().map(String::as_str));
    }
}

fn put_result(out: &mut BytesMut, result: &QueryResult, skip_metadata: bool) {
    match result {
        QueryResult::Void => out.put_i32(kind::VOID),
        QueryResult::SetKeyspace(keyspace) => {
            out.put_i32(kind::SET_KEYSPACE);
            write::string(out, keyspace);
        }
        QueryResult::SchemaChange(change) => {
            out.put_i32(kind::SCHEMA_CHANGE);
            put_schema_change(out, change);
        }
        QueryResult::Rows(rows) => {
            out.put_i32(kind::ROWS);
            rows::put(out, rows, skip_metadata);
        }
    }
}

fn put_prepared(out: &mut BytesMut, prepared: &Prepared) {
    out.put_i32(kind::PREPARED);
    write::short_bytes(out, &prepared.id);
    rows::put_bind_metadata(out, &prepared.binds.columns, &prepared.partition_key);
    rows::put_result_metadata(out, &prepared.result);
}

fn put_schema_change(out: &mut BytesMut, change: &SchemaChange) {
    write::string(out, change.change);
    write::string(out, change.target);
    write::string(out, &change.keyspace);
    if change.target != "KEYSPACE" {
        write::string(out, &change.name);
    }
}

fn put_error(out: &mut BytesMut, error: &CqlError) {
    // The rate limit code is an extension that no client here has agreed on; ScyllaDB then says Config.
    let code = match error.kind {
        ErrorKind::RateLimit => 0x2300,
        _ => error.code(),
    };
    out.put_i32(code);
    write::string(out, &error.message);
    match &error.kind {
        ErrorKind::Unavailable {
            consistency,
            required,
            alive,
        } => {
            out.put_u16(*consistency);
            out.put_i32(*required);
            out.put_i32(*alive);
        }
        ErrorKind::WriteTimeout {
            consistency,
            received,
            required,
            write_type,
        } => {
            put_answers(out, *consistency, *received, *required);
            write::string(out, write_type);
        }
        ErrorKind::ReadTimeout {
            consistency,
            received,
            required,
            data_present,
        } => {
            put_answers(out, *consistency, *received, *required);
            out.put_u8(u8::from(*data_present));
        }
        ErrorKind::ReadFailure {
            consistency,
            received,
            required,
            failures,
            data_present,
        } => {
            put_answers(out, *consistency, *received, *required);
            out.put_i32(*failures);
            out.put_u8(u8::from(*data_present));
        }
        ErrorKind::WriteFailure {
            consistency,
            received,
            required,
            failures,
            write_type,
        } => {
            put_answers(out, *consistency, *received, *required);
            out.put_i32(*failures);
            write::string(out, write_type);
        }
        ErrorKind::AlreadyExists { keyspace, table } => {
            write::string(out, keyspace);
            write::string(out, table);
        }
        ErrorKind::Unprepared { id } => write::short_bytes(out, id),
        _ => {}
    }
}

fn put_answers(out: &mut BytesMut, consistency: u16, received: i32, required: i32) {
    out.put_u16(consistency);
    out.put_i32(received);
    out.put_i32(required);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(response: &Response) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out, 1, false, &[], response);
        out[9..].to_vec()
    }

    #[test]
    fn errors_carry_what_their_code_asks_for() {
        let check = |kind: ErrorKind, expected: &[u8]| {
            let found = body(&Response::Error(CqlError::new(kind, "m")));
            assert_eq!(found, expected);
        };
        check(ErrorKind::Invalid, &[0, 0, 0x22, 0, 0, 1, b'm']);
        check(
            ErrorKind::WriteTimeout {
                consistency: 6,
                received: 1,
                required: 2,
                write_type: "BATCH",
            },
            &[
                0, 0, 0x11, 0, 0, 1, b'm', 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5, b'B', b'A', b'T', b'C', b'H',
            ],
        );
        check(
            ErrorKind::ReadFailure {
                consistency: 4,
                received: 1,
                required: 2,
                failures: 3,
                data_present: true,
            },
            &[
                0, 0, 0x13, 0, 0, 1, b'm', 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1,
            ],
        );
        check(
            ErrorKind::Unprepared {
                id: Bytes::from_static(&[9, 9]),
            },
            &[0, 0, 0x25, 0, 0, 1, b'm', 0, 2, 9, 9],
        );
        check(ErrorKind::RateLimit, &[0, 0, 0x23, 0, 0, 1, b'm']);
    }

    #[test]
    fn events_go_out_on_the_stream_of_nobody() {
        let mut out = BytesMut::new();
        put_event(&mut out, &Event::Status("UP", IpAddr::from([127, 0, 0, 2]), 9042));
        assert_eq!(&out[..5], &[0x84, 0, 0xff, 0xff, 0x0c]);
        assert_eq!(&out[9..11], &[0, 13]);
        assert_eq!(&out[11..24], b"STATUS_CHANGE");
        assert_eq!(&out[24..], &[0, 2, b'U', b'P', 4, 127, 0, 0, 2, 0, 0, 0x23, 0x52]);
    }

    #[test]
    fn a_keyspace_change_has_no_name() {
        let change = |target, name: &str| Response::Result {
            result: QueryResult::SchemaChange(SchemaChange {
                change: "CREATED",
                target,
                keyspace: "k".into(),
                name: name.into(),
            }),
            skip_metadata: false,
        };
        assert!(
            body(&change("KEYSPACE", ""))
                .ends_with(&[0, 8, b'K', b'E', b'Y', b'S', b'P', b'A', b'C', b'E', 0, 1, b'k'])
        );
        assert!(body(&change("TABLE", "t")).ends_with(&[0, 1, b'k', 0, 1, b't']));
    }
}
