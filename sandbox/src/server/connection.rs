//! The IO of one connection. Requests are answered in the order they came, inline; answers are written when no
//! whole request is left to answer or enough have gathered. So a connection's memory is bounded by one frame
//! in, one batch of answers out, and what faults hold back.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::conversation::{Conversation, HeldRequest, Step};
use super::transport::Transport;
use crate::wire::frame::{self, Frame};
use crate::wire::response::Event;

/// From accept to READY. Drivers need milliseconds.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// For the rest of a frame whose beginning is here.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// For a client that does not read its answers.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// After a protocol error: for the client to read it before the connection is reset.
const LINGER: Duration = Duration::from_millis(500);

/// Answers are written once this many bytes have gathered.
const FLUSH_BYTES: usize = 64 * 1024;

/// Room made for each read, bytes.
const READ_BYTES: usize = 32 * 1024;

/// Output buffers above this are given back after use, bytes: one page of rows, not the largest ever.
const KEPT_OUTPUT_BYTES: usize = 2 * 1024 * 1024;

/// Requests that faults may hold back on one connection, in number and in bytes of their frames.
const MAX_HELD_REQUESTS: usize = 4_096;
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("not authenticated within {HANDSHAKE_TIMEOUT:?}")]
    Handshake,
    #[error("a frame was not finished within {FRAME_TIMEOUT:?}")]
    HalfFrame,
    #[error("the client did not read its answers for {WRITE_TIMEOUT:?}")]
    Stalled,
    #[error("protocol error: {0}")]
    Unframed(String),
    #[error("the client fell behind the events")]
    Lagged,
    #[error("disconnected by a fault")]
    Fault,
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub(super) struct Connection {
    stream: Transport,
    conversation: Conversation,
    shared: Arc<Shared>,
    events: Option<broadcast::Receiver<Event>>,
    input: BytesMut,
    output: BytesMut,
    held: BinaryHeap<Held>,
    held_bytes: usize,
    opened: Instant,
    /// Since when the beginning of a frame waits for its rest.
    half_since: Option<Instant>,
}

/// A request that a fault delays, the next due first.
struct Held {
    due: Instant,
    /// Of those due at once the first one asked goes first.
    order: u64,
    bytes: usize,
    request: Box<HeldRequest>,
}

impl Connection {
    pub(super) fn new(stream: Transport, shared: Arc<Shared>, node: usize) -> Self {
        Self {
            stream,
            conversation: Conversation::new(shared.clone(), node),
            shared,
            events: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
            held: BinaryHeap::new(),
            held_bytes: 0,
            opened: Instant::now(),
            half_since: None,
        }
    }

    /// Serves until the client closes.
    ///
    /// # Errors
    /// Why the connection was closed from here.
    pub(super) async fn run(&mut self) -> Result<(), End> {
        loop {
            self.answer_requests().await?;
            self.answer_held().await?;
            self.flush().await?;
            if !self.wait().await? {
                return Ok(());
            }
        }
    }

    /// Answers every whole frame of the input.
    async fn answer_requests(&mut self) -> Result<(), End> {
        loop {
            match frame::take_frame(&mut self.input, self.conversation.body_limit()) {
                Ok(Some(frame)) => {
                    self.half_since = None;
                    self.answer(&frame)?;
                }
                Ok(None) => return Ok(()),
                Err(refusal) => {
                    let reason = refusal.error.message.clone();
                    self.conversation
                        .put_error(refusal.stream, refusal.error, &mut self.output);
                    self.flush().await?;
                    self.linger().await;
                    return Err(End::Unframed(reason));
                }
            }
            if self.output.len() >= FLUSH_BYTES {
                self.flush().await?;
            }
            // Lets others run after a while, however many requests are waiting here.
            tokio::task::coop::consume_budget().await;
        }
    }

    fn answer(&mut self, frame: &Frame) -> Result<(), End> {
        let step = self.conversation.step(frame, &mut self.output);
        if self.events.is_none() && self.conversation.wants_events() {
            self.events = Some(self.shared.events.subscribe());
        }
        match step {
            Step::Answered | Step::Silent => Ok(()),
            Step::Disconnect => Err(End::Fault),
            Step::Held(delay, request) => {
                self.hold(delay, request, frame.body.len());
                Ok(())
            }
        }
    }

    fn hold(&mut self, delay: Duration, request: Box<HeldRequest>, bytes: usize) {
        if self.held.len() >= MAX_HELD_REQUESTS || self.held_bytes + bytes > MAX_HELD_BYTES {
            self.conversation.refuse(&request, &mut self.output);
            return;
        }
        self.held_bytes += bytes;
        self.held.push(Held {
            due: Instant::now() + delay,
            order: self.shared.faults.next_order(),
            bytes,
            request,
        });
    }

    async fn answer_held(&mut self) -> Result<(), End> {
        while self.held.peek().is_some_and(|next| next.due <= Instant::now()) {
            let Some(next) = self.held.pop() else { break };
            self.held_bytes -= next.bytes;
            match self.conversation.resume(*next.request, &mut self.output) {
                Step::Disconnect => return Err(End::Fault),
                Step::Answered | Step::Silent | Step::Held(..) => {}
            }
            if self.output.len() >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Waits for whatever comes next; false if the client has closed.
    async fn wait(&mut self) -> Result<bool, End> {
        self.make_room();
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => return Ok(false),
            Ok(_) => {
                self.take_waiting_events()?;
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let (deadline, late) = self.deadline();
        let due = self.held.peek().map(|next| next.due);
        tokio::select! {
            read = self.stream.read_buf(&mut self.input) => Ok(read? > 0),
            () = wait_until(due) => Ok(true),
            () = wait_until(deadline) => Err(late),
            event = next_event(&mut self.events) => {
                self.conversation.put_event(&event?, &mut self.output);
                self.take_waiting_events()?;
                Ok(true)
            }
        }
    }

    /// Until when the client has to say something, and what it is to be blamed for otherwise.
    fn deadline(&mut self) -> (Option<Instant>, End) {
        if !self.conversation.is_ready() {
            return (Some(self.opened + HANDSHAKE_TIMEOUT), End::Handshake);
        }
        if self.input.is_empty() {
            return (None, End::HalfFrame);
        }
        let since = *self.half_since.get_or_insert_with(Instant::now);
        (Some(since + FRAME_TIMEOUT), End::HalfFrame)
    }

    fn take_waiting_events(&mut self) -> Result<(), End> {
        let Some(events) = &mut self.events else {
            return Ok(());
        };
        loop {
            match events.try_recv() {
                Ok(event) => self.conversation.put_event(&event, &mut self.output),
                Err(broadcast::error::TryRecvError::Lagged(_)) => return Err(End::Lagged),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Room for the next read; for a large frame more at once, but never on the word of its header alone.
    fn make_room(&mut self) {
        let missing =
            frame::expected_bytes(&self.input).map_or(0, |whole| whole.saturating_sub(self.input.len()));
        self.input
            .reserve(missing.clamp(READ_BYTES, READ_BYTES.max(self.input.len())));
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.stream.try_write(&self.output)?;
        if written < self.output.len() {
            let rest = self.stream.write_all(&self.output[written..]);
            timeout(WRITE_TIMEOUT, rest).await.map_err(|_| End::Stalled)??;
        }
        match self.output.capacity() > KEPT_OUTPUT_BYTES {
            true => self.output = BytesMut::new(),
            false => self.output.clear(),
        }
        Ok(())
    }

    /// Closing with unread input resets the connection, and the reset may overtake the answer.
    async fn linger(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut scratch = vec![0; READ_BYTES];
        let drain = async { while matches!(self.stream.read(&mut scratch).await, Ok(1..)) {} };
        // Either way the connection ends here.
        let _ = timeout(LINGER, drain).await;
    }
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn next_event(events: &mut Option<broadcast::Receiver<Event>>) -> Result<Event, End> {
    match events {
        Some(events) => events.recv().await.map_err(|error| match error {
            RecvError::Lagged(_) | RecvError::Closed => End::Lagged,
        }),
        None => std::future::pending().await,
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: a BinaryHeap gives its greatest.
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}
