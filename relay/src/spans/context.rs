//! Which events are traced, and what their spans are made of. Pure.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::model::Micros;
use crate::ports::Delivered;

/// That an event is traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Whoever wrote its row; None begins a trace.
    pub(super) parent: Option<SpanContext>,
    /// Where the message is, once the broker has said so.
    pub(crate) at: Option<Delivered>,
}

impl Trace {
    /// Of an event with this trace context and a number of its own. `percent` of those without a valid one are traced, the
    /// same ones each time; of the others those that are sampled.
    pub fn of(traceparent: Option<&str>, number: u64, percent: u32) -> Option<Box<Self>> {
        let parent = traceparent.and_then(parse);
        let is_traced = match &parent {
            Some(parent) => parent.is_sampled(),
            None => number % 100 < u64::from(percent),
        };
        is_traced.then(|| Box::new(Self { parent, at: None }))
    }
}

/// W3C Trace Context, level 1: `00-<trace id>-<span id>-<flags>`. Later versions may add parts behind.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sized = [(version, 2), (trace, 32), (span, 16), (flags, 2)];
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let well_formed = sized
        .iter()
        .all(|(text, length)| text.len() == *length && is_hex(text));
    if !well_formed || version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

/// A traced event that is done with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub trace: Box<Trace>,
    pub topic: Arc<str>,
    /// If it is text.
    pub key: Option<String>,
    pub event_id: String,
    pub aggregate_id: Option<String>,
    pub event_type: Option<Arc<str>>,
    pub body_bytes: usize,
    /// When its row was written.
    pub committed: Micros,
    /// Since it was handed over.
    pub took: Duration,
    /// Failed attempts.
    pub attempts: u32,
    /// Acknowledged by the broker; otherwise a durable dead letter.
    pub delivered: bool,
    /// A dead letter that was sent again.
    pub replayed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn an_event_is_traced_if_its_context_is_sampled_or_by_its_number_without_one() {
        let check = |traceparent: Option<&str>, number, percent, expected: Option<bool>| {
            let trace = Trace::of(traceparent, number, percent);
            let has_parent = trace.map(|trace| trace.parent.is_some());
            assert_eq!(has_parent, expected, "{traceparent:?}, {number} of {percent} %");
        };
        check(Some(SAMPLED), 0, 0, Some(true));
        check(Some(&SAMPLED.replace("-01", "-03")), 0, 0, Some(true));
        check(Some(&SAMPLED.replace("-01", "-00")), 0, 100, None);
        check(
            Some(&format!("{}-more", SAMPLED.replace("00-0a", "01-0a"))),
            0,
            0,
            Some(true),
        );
        check(None, 109, 10, Some(false));
        check(None, 110, 10, None);
        check(None, 0, 0, None);
        check(None, 99, 100, Some(false));
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        let parent = Trace::of(Some(SAMPLED), 0, 0).unwrap().parent.unwrap();
        assert_eq!(parent.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(parent.span_id().to_string(), "b7ad6b7169203331");
        assert!(parent.is_remote());
        for wrong in [
            "",
            "trace",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
