//! One client's conversation: what it may say when, and the answers. No IO: frames in, bytes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{Shared, options, schema_events};
use crate::error::CqlError;
use crate::fault::request::{Outcome, RequestFault};
use crate::query::api::{BatchStatement, QueryResult, SchemaChange, Session};
use crate::query::engine::Prepared;
use crate::schema::Catalog;
use crate::wire::frame::Frame;
use crate::wire::request::{self, EventKind, Request};
use crate::wire::response::{self, Event, Response};
use crate::wire::{MAX_FRAME_BODY_BYTES, MAX_HANDSHAKE_BODY_BYTES};

/// A request that took this long is heavy: while a connection's requests are, its worker's other connections
/// are handed to another thread first. Half the time in which an answer is expected at all (milliseconds).
const HEAVY_REQUEST: Duration = Duration::from_micros(500);

/// The authenticator's class, by which drivers choose theirs.
const AUTHENTICATOR: &str = "org.apache.cassandra.auth.PasswordAuthenticator";

/// What a frame led to.
#[derive(Debug)]
pub(super) enum Step {
    /// The answer stands in the output.
    Answered,
    /// A fault: answer after the delay.
    Held(Duration, Box<HeldRequest>),
    /// A fault: no answer, ever.
    Silent,
    /// A fault: close.
    Disconnect,
}

/// A request that a fault keeps back.
#[derive(Debug)]
pub(super) struct HeldRequest {
    stream: i16,
    request: Request,
    then: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing but OPTIONS and STARTUP.
    New,
    Authenticating,
    Ready,
}

pub(super) struct Conversation {
    shared: Arc<Shared>,
    phase: Phase,
    compress: bool,
    heavy: bool,
    session: Session,
    registered: Vec<EventKind>,
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>, node: usize) -> Self {
        Self {
            shared,
            phase: Phase::New,
            compress: false,
            heavy: false,
            session: Session {
                node,
                ..Session::default()
            },
            registered: Vec::new(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// True once the client registered for any event.
    pub(super) fn wants_events(&self) -> bool {
        !self.registered.is_empty()
    }

    /// Largest frame body that is taken in this phase, bytes.
    pub(super) fn body_limit(&self) -> usize {
        match self.phase {
            Phase::Ready => MAX_FRAME_BODY_BYTES,
            Phase::New | Phase::Authenticating => MAX_HANDSHAKE_BODY_BYTES,
        }
    }

    /// Takes a frame and appends the answer, if there is one now, to `out`.
    pub(super) fn step(&mut self, frame: &Frame, out: &mut BytesMut) -> Step {
        let request = frame
            .plain_body(self.compress)
            .and_then(|body| request::decode(frame.opcode, body));
        let request = match request {
            Ok(request) => request,
            Err(error) => {
                self.put(frame.stream, &Response::Error(error), out);
                return Step::Answered;
            }
        };
        if self.phase == Phase::Ready && self.shared.faults.touch_requests() {
            let fault = self.fault(&request);
            if !fault.delay.is_zero() {
                let held = HeldRequest {
                    stream: frame.stream,
                    request,
                    then: fault.outcome,
                };
                return Step::Held(fault.delay, Box::new(held));
            }
            return self.finish(frame.stream, request, fault.outcome, out);
        }
        self.finish(frame.stream, request, Outcome::Execute, out)
    }

    /// Goes on with a request whose delay is over.
    pub(super) fn resume(&mut self, held: HeldRequest, out: &mut BytesMut) -> Step {
        self.finish(held.stream, held.request, held.then, out)
    }

    /// Answers a held request that there was no room to hold.
    pub(super) fn refuse(&self, held: &HeldRequest, out: &mut BytesMut) {
        let error = CqlError::new(
            crate::error::ErrorKind::Overloaded,
            "Too many requests are held back on this connection",
        );
        self.put(held.stream, &Response::Error(error), out);
    }

    /// Appends an event if the client registered for its kind.
    pub(super) fn put_event(&self, event: &Event, out: &mut BytesMut) {
        if self.registered.contains(&event.kind()) {
            response::put_event(out, event);
        }
    }

    /// Appends an error that belongs to no decoded request.
    pub(super) fn put_error(&self, stream: i16, error: CqlError, out: &mut BytesMut) {
        self.put(stream, &Response::Error(error), out);
    }

    fn finish(&mut self, stream: i16, request: Request, outcome: Outcome, out: &mut BytesMut) -> Step {
        let response = match outcome {
            Outcome::Execute => self.answer(request).unwrap_or_else(Response::Error),
            Outcome::Fail(error) => Response::Error(error),
            Outcome::ExecuteAndFail(error) => {
                // Whatever came of it, the client hears of the fault only.
                let _ = self.answer(request);
                Response::Error(error)
            }
            Outcome::NoAnswer => return Step::Silent,
            Outcome::Disconnect => return Step::Disconnect,
        };
        self.put(stream, &response, out);
        Step::Answered
    }

    fn put(&self, stream: i16, response: &Response, out: &mut BytesMut) {
        let compress = self.compress && self.phase == Phase::Ready;
        response::put(out, stream, compress, &[], response);
    }

    fn answer(&mut self, request: Request) -> Result<Response, CqlError> {
        match (self.phase, request) {
            (_, Request::Options) => Ok(Response::Supported(options::supported())),
            (Phase::New, Request::Startup(startup)) => self.startup(&startup),
            (Phase::Authenticating, Request::AuthResponse(token)) => self.authenticate(token),
            (Phase::Ready, request) => self.answer_ready(request),
            (Phase::New, _) => Err(CqlError::protocol(
                "Unexpected message, expecting STARTUP or OPTIONS",
            )),
            (Phase::Authenticating, _) => {
                Err(CqlError::protocol("Unexpected message, expecting SASL_RESPONSE"))
            }
        }
    }

    fn startup(&mut self, startup: &[(String, String)]) -> Result<Response, CqlError> {
        self.compress = options::compression(startup)?;
        if self.shared.roles.enforced() {
            self.phase = Phase::Authenticating;
            return Ok(Response::Authenticate(AUTHENTICATOR));
        }
        self.phase = Phase::Ready;
        Ok(Response::Ready)
    }

    fn authenticate(&mut self, token: Option<Bytes>) -> Result<Response, CqlError> {
        let user = self.shared.roles.log_in(token.as_deref().unwrap_or_default())?;
        self.session.user = Some(user);
        self.phase = Phase::Ready;
        Ok(Response::AuthSuccess)
    }

    fn answer_ready(&mut self, request: Request) -> Result<Response, CqlError> {
        match request {
            Request::Query { text, values, params } => {
                let before = self.shared.engine.catalog();
                let result =
                    self.run(|shared, session| shared.engine.query(session, &text, &values, &params))?;
                if let QueryResult::SchemaChange(change) = &result {
                    self.announce(change, &before);
                }
                Ok(executed(result, false))
            }
            Request::Execute(execute) => {
                let result = self.run(|shared, session| {
                    shared
                        .engine
                        .execute(session, &execute.id, &execute.values, &execute.params)
                })?;
                // Columns that depend on the outcome were not known when the statement was prepared.
                let prepared = self.shared.engine.prepared(&execute.id);
                let known = prepared.is_some_and(|prepared| prepared.result.is_some());
                Ok(executed(result, execute.skip_metadata && known))
            }
            Request::Batch(batch) => {
                let result = self.run(|shared, session| {
                    shared
                        .engine
                        .batch(session, batch.kind, &batch.statements, &batch.params)
                })?;
                Ok(executed(result, false))
            }
            Request::Prepare(text) => {
                let prepared = self.run(|shared, session| shared.engine.prepare(session, &text))?;
                Ok(Response::Prepared(describe(&prepared)))
            }
            Request::Register(kinds) => {
                for kind in kinds {
                    if !self.registered.contains(&kind) {
                        self.registered.push(kind);
                    }
                }
                Ok(Response::Ready)
            }
            Request::Startup(_) | Request::AuthResponse(_) | Request::Options => Err(CqlError::protocol(
                "Unexpected message: this connection has finished STARTUP",
            )),
        }
    }

    /// Runs the engine on this thread. It is synchronous; a connection that asks for much at a time gives its
    /// worker's other tasks away before it does.
    fn run<T>(&mut self, work: impl FnOnce(&Shared, &mut Session) -> T) -> T {
        let started = Instant::now();
        let (shared, session) = (&self.shared, &mut self.session);
        let result = match self.heavy {
            true => tokio::task::block_in_place(|| work(shared, session)),
            false => work(shared, session),
        };
        self.heavy = started.elapsed() >= HEAVY_REQUEST;
        result
    }

    /// Tells everyone who registered. DDL comes as QUERY: drivers do not prepare it.
    fn announce(&self, change: &SchemaChange, before: &Catalog) {
        let after = self.shared.engine.catalog();
        for change in schema_events::all_of(change, before, &after) {
            // An error only says that nobody listens.
            let _ = self.shared.events.send(Event::Schema(change));
        }
    }

    fn fault(&self, request: &Request) -> RequestFault {
        let (faults, engine) = (&self.shared.faults, &self.shared.engine);
        let node = self.session.node;
        let text_of = |id: &[u8]| engine.prepared(id).map(|prepared| prepared.text.clone());
        match request {
            Request::Query { text, .. } | Request::Prepare(text) => faults.on_request(node, &[text]),
            Request::Execute(execute) => match text_of(&execute.id) {
                Some(text) => faults.on_request(node, &[&text]),
                None => RequestFault::default(),
            },
            Request::Batch(batch) => {
                let texts: Vec<String> = batch
                    .statements
                    .iter()
                    .filter_map(|(statement, _)| match statement {
                        BatchStatement::Text(text) => Some(text.clone()),
                        BatchStatement::Prepared(id) => text_of(id),
                    })
                    .collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                faults.on_request(node, &texts)
            }
            Request::Options | Request::Startup(_) | Request::AuthResponse(_) | Request::Register(_) => {
                RequestFault::default()
            }
        }
    }
}

fn executed(result: QueryResult, skip_metadata: bool) -> Response {
    Response::Result {
        result,
        skip_metadata,
    }
}

fn describe(prepared: &Prepared) -> response::Prepared {
    response::Prepared {
        id: prepared.id.clone(),
        binds: prepared.binds.clone(),
        partition_key: prepared.partition_key_binds.clone(),
        result: prepared.result.clone().unwrap_or_default(),
    }
}
