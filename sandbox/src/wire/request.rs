//! Request bodies.

use bytes::Bytes;

use super::frame::Opcode;
use super::read;
use crate::error::CqlError;
use crate::query::api::{BatchKind, BatchStatement, QueryParams, Values};

#[derive(Debug, Clone)]
pub enum Request {
    Options,
    Startup(Vec<(String, String)>),
    /// The SASL token; None where the client sent null.
    AuthResponse(Option<Bytes>),
    Register(Vec<EventKind>),
    Query {
        text: String,
        values: Values,
        params: QueryParams,
    },
    Prepare(String),
    Execute(Execute),
    Batch(Batch),
}

#[derive(Debug, Clone)]
pub struct Execute {
    pub id: Bytes,
    pub values: Values,
    pub params: QueryParams,
    /// The client knows the result columns from PREPARE.
    pub skip_metadata: bool,
}

#[derive(Debug, Clone)]
pub struct Batch {
    pub kind: BatchKind,
    pub statements: Vec<(BatchStatement, Values)>,
    pub params: QueryParams,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    TopologyChange,
    StatusChange,
    SchemaChange,
}

/// Flags of QUERY, EXECUTE and BATCH parameters.
mod param {
    pub(super) const VALUES: u8 = 0x01;
    pub(super) const SKIP_METADATA: u8 = 0x02;
    pub(super) const PAGE_SIZE: u8 = 0x04;
    pub(super) const PAGING_STATE: u8 = 0x08;
    pub(super) const SERIAL_CONSISTENCY: u8 = 0x10;
    pub(super) const TIMESTAMP: u8 = 0x20;
    pub(super) const NAMES: u8 = 0x40;
}

/// Room made up front for a statement's values and a batch's statements. A count is only a claim: the rest
/// grows as the bytes for it are found.
const PREALLOCATED: usize = 64;

/// Reads the body of a request.
///
/// # Errors
/// A protocol error: an opcode that no client sends, or a body that is not what its opcode asks for.
pub fn decode(opcode: u8, mut body: Bytes) -> Result<Request, CqlError> {
    let Some(known) = Opcode::from_client(opcode) else {
        return Err(CqlError::protocol(format!(
            "Unknown opcode {opcode:#04x} of a request"
        )));
    };
    let body = &mut body;
    Ok(match known {
        Opcode::Options => Request::Options,
        Opcode::Startup => Request::Startup(read::string_map(body)?),
        Opcode::AuthResponse => Request::AuthResponse(read::bytes(body)?),
        Opcode::Register => Request::Register(events(body)?),
        Opcode::Prepare => Request::Prepare(read::long_string(body)?),
        Opcode::Query => {
            let text = read::long_string(body)?;
            let (values, params, _) = query_params(body)?;
            Request::Query { text, values, params }
        }
        Opcode::Execute => {
            let id = read::short_bytes(body)?;
            let (values, params, skip_metadata) = query_params(body)?;
            Request::Execute(Execute {
                id,
                values,
                params,
                skip_metadata,
            })
        }
        Opcode::Batch => Request::Batch(batch(body)?),
        Opcode::Error
        | Opcode::Ready
        | Opcode::Authenticate
        | Opcode::Supported
        | Opcode::Result
        | Opcode::Event
        | Opcode::AuthSuccess => {
            return Err(CqlError::protocol(format!("Opcode {opcode:#04x} is no request")));
        }
    })
}

fn events(body: &mut Bytes) -> Result<Vec<EventKind>, CqlError> {
    read::string_list(body)?
        .into_iter()
        .map(|name| match name.as_str() {
            "TOPOLOGY_CHANGE" => Ok(EventKind::TopologyChange),
            "STATUS_CHANGE" => Ok(EventKind::StatusChange),
            "SCHEMA_CHANGE" => Ok(EventKind::SchemaChange),
            other => Err(CqlError::protocol(format!(
                "Invalid value '{other}' for Event.Type, accepted: TOPOLOGY_CHANGE, STATUS_CHANGE, SCHEMA_CHANGE"
            ))),
        })
        .collect()
}

fn query_params(body: &mut Bytes) -> Result<(Values, QueryParams, bool), CqlError> {
    let consistency = consistency(body)?;
    let flags = read::byte(body)?;
    let values = match flags & param::VALUES != 0 {
        true => bound_values(body, flags & param::NAMES != 0)?,
        false => Values::default(),
    };
    let page_size = match flags & param::PAGE_SIZE != 0 {
        true => Some(read::int(body)?),
        false => None,
    };
    let paging_state = match flags & param::PAGING_STATE != 0 {
        true => read::bytes(body)?,
        false => None,
    };
    let (serial_consistency, timestamp) = serial_and_timestamp(body, flags)?;
    let params = QueryParams {
        consistency,
        serial_consistency,
        // A page of zero or fewer rows means no paging, as in ScyllaDB.
        page_size: page_size.filter(|size| *size > 0),
        paging_state,
        timestamp,
    };
    Ok((values, params, flags & param::SKIP_METADATA != 0))
}

fn batch(body: &mut Bytes) -> Result<Batch, CqlError> {
    let kind = match read::byte(body)? {
        0 => BatchKind::Logged,
        1 => BatchKind::Unlogged,
        2 => BatchKind::Counter,
        other => {
            return Err(CqlError::protocol(format!(
                "Invalid batch type {other}, accepted: 0 (logged), 1 (unlogged), 2 (counter)"
            )));
        }
    };
    let count = usize::from(read::short(body)?);
    let mut statements = Vec::with_capacity(count.min(PREALLOCATED));
    for _ in 0..count {
        let statement = match read::byte(body)? {
            0 => BatchStatement::Text(read::long_string(body)?),
            1 => BatchStatement::Prepared(read::short_bytes(body)?),
            other => {
                return Err(CqlError::protocol(format!(
                    "Invalid query kind {other} in BATCH, accepted: 0 (text), 1 (prepared id)"
                )));
            }
        };
        statements.push((statement, bound_values(body, false)?));
    }
    let consistency = consistency(body)?;
    let flags = read::byte(body)?;
    if flags & param::NAMES != 0 {
        // The specification's own mistake: names would have to come before the values they name.
        return Err(CqlError::protocol("Named values are not supported in BATCH"));
    }
    let (serial_consistency, timestamp) = serial_and_timestamp(body, flags)?;
    Ok(Batch {
        kind,
        statements,
        params: QueryParams {
            consistency,
            serial_consistency,
            page_size: None,
            paging_state: None,
            timestamp,
        },
    })
}

fn bound_values(body: &mut Bytes, named: bool) -> Result<Values, CqlError> {
    let count = usize::from(read::short(body)?);
    let room = count.min(PREALLOCATED);
    if named {
        let mut values = Vec::with_capacity(room);
        for _ in 0..count {
            values.push((read::string(body)?, read::value(body)?));
        }
        return Ok(Values::Named(values));
    }
    let mut values = Vec::with_capacity(room);
    for _ in 0..count {
        values.push(read::value(body)?);
    }
    Ok(Values::Positional(values))
}

fn serial_and_timestamp(body: &mut Bytes, flags: u8) -> Result<(Option<u16>, Option<i64>), CqlError> {
    let serial = match flags & param::SERIAL_CONSISTENCY != 0 {
        true => Some(serial_consistency(body)?),
        false => None,
    };
    let timestamp = match flags & param::TIMESTAMP != 0 {
        true => Some(read::long(body)?),
        false => None,
    };
    Ok((serial, timestamp))
}

/// ANY (0) to LOCAL_ONE (10).
fn consistency(body: &mut Bytes) -> Result<u16, CqlError> {
    match read::short(body)? {
        code @ 0..=0x0A => Ok(code),
        other => Err(CqlError::protocol(format!(
            "Unknown consistency level code {other}"
        ))),
    }
}

fn serial_consistency(body: &mut Bytes) -> Result<u16, CqlError> {
    match read::short(body)? {
        code @ 8..=9 => Ok(code),
        other => Err(CqlError::protocol(format!(
            "Serial consistency level code {other}, accepted: 8 (SERIAL), 9 (LOCAL_SERIAL)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::api::BindValue;

    #[test]
    fn query_parameters_come_in_the_order_of_their_flags() {
        let mut body = vec![0, 0, 0, 1, b'q', 0, 6, 0x7f];
        body.extend([0, 1, 0, 1, b'a', 0, 0, 0, 2, 7, 8]); // one named value
        body.extend([0, 0, 0x13, 0x88]); // page size 5000
        body.extend([0, 0, 0, 2, 0xaa, 0xbb]); // paging state
        body.extend([0, 9]); // LOCAL_SERIAL
        body.extend([0, 0, 0, 0, 0, 0, 0, 42]);
        let Request::Query { text, values, params } = decode(0x07, Bytes::from(body)).unwrap() else {
            panic!("a QUERY");
        };
        assert_eq!(text, "q");
        let value = BindValue::Value(Bytes::from_static(&[7, 8]));
        assert_eq!(values, Values::Named(vec![("a".into(), value)]));
        assert_eq!((params.consistency, params.page_size), (6, Some(5000)));
        assert_eq!(params.paging_state.as_deref(), Some(&[0xaa, 0xbb][..]));
        assert_eq!((params.serial_consistency, params.timestamp), (Some(9), Some(42)));
    }

    #[test]
    fn a_batch_mixes_text_and_ids() {
        let mut body = vec![1, 0, 2];
        body.extend([0, 0, 0, 0, 1, b'i', 0, 0]);
        body.extend([1, 0, 2, 1, 2, 0, 1, 0xff, 0xff, 0xff, 0xfe]);
        body.extend([0, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 5]);
        let Request::Batch(batch) = decode(0x0D, Bytes::from(body)).unwrap() else {
            panic!("a BATCH");
        };
        assert_eq!(batch.kind, BatchKind::Unlogged);
        assert_eq!(batch.params.timestamp, Some(5));
        assert!(matches!(&batch.statements[0].0, BatchStatement::Text(text) if text == "i"));
        let (BatchStatement::Prepared(id), values) = &batch.statements[1] else {
            panic!("an id");
        };
        assert_eq!(&id[..], &[1, 2]);
        assert_eq!(*values, Values::Positional(vec![BindValue::Unset]));
    }

    #[test]
    fn bad_bodies_name_what_is_wrong() {
        let check = |opcode: u8, body: &'static [u8], text: &str| {
            let error = decode(opcode, Bytes::from_static(body)).unwrap_err();
            assert_eq!(error.code(), 0x000A);
            assert!(error.message.contains(text), "{}", error.message);
        };
        check(0x55, &[], "Unknown opcode 0x55");
        check(0x08, &[], "Unknown opcode 0x08 of a request");
        check(0x07, &[0, 0, 0, 0, 0, 99, 0], "consistency level code 99");
        check(
            0x07,
            &[0, 0, 0, 0, 0, 1, 0x10, 0, 1],
            "accepted: 8 (SERIAL), 9 (LOCAL_SERIAL)",
        );
        check(0x07, &[0, 0, 0, 0, 0, 1, 1, 0xff, 0xff], "Truncated");
        check(0x0D, &[7], "Invalid batch type 7");
        check(0x0D, &[0, 0, 1, 3], "Invalid query kind 3");
        check(0x0D, &[0, 0, 0, 0, 1, 0x40], "Named values");
        check(0x0B, &[0, 1, 0, 1, b'X'], "Invalid value 'X' for Event.Type");
    }
}
