//! What wraps a payload: nothing, CloudEvents, or the form of Debezium's outbox event router. Pure.
//!
//! Sources: CloudEvents 1.0.2 with its Kafka protocol binding and JSON event format; Debezium's EventRouter with Kafka
//! Connect's StringConverter and JsonConverter. `relay/tests/formats` compares with both of them.

use std::sync::Arc;

use bytes::Bytes;
use crds::Sink;
use crds::envelope::{DebeziumConverter, DebeziumEventType, Envelope as Kind};
use crds::sink::PayloadFormat;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{EncodeError, Message};
use crate::decode::{OutboxEvent, timestamp};

/// Wraps the messages of one sink.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    format: PayloadFormat,
    form: Form,
    names: Names,
}

/// Headers of CloudEvents in binary mode beside the content type, in the order in which they are written.
const ATTRIBUTES: [&str; 8] = [
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_partitionkey",
    "ce_traceparent",
];

/// Header names as they are put on messages, made once.
#[derive(Debug, Clone)]
struct Names {
    attributes: [Arc<str>; ATTRIBUTES.len()],
    content_type: Arc<str>,
    id: Arc<str>,
    event_type: Arc<str>,
}

#[derive(Debug, Clone)]
enum Form {
    Bare,
    CloudEvents {
        structured: bool,
        source: Bytes,
        content_type: Bytes,
    },
    Debezium {
        converter: DebeziumConverter,
        event_type: DebeziumEventType,
    },
}

/// A CloudEvent in the JSON event format. Of the two kinds of data, exactly one is there.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: &'a str,
    datacontenttype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitionkey: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Body<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// A payload within a JSON document.
#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

#[derive(Serialize)]
struct DebeziumEnvelope<'a> {
    payload: Body<'a>,
    #[serde(rename = "eventType")]
    event_type: &'a str,
}

#[derive(Serialize)]
struct WithSchema<'a> {
    schema: Schema,
    payload: Body<'a>,
}

#[derive(Serialize)]
struct Schema {
    r#type: &'static str,
    optional: bool,
}

impl Envelope {
    pub(super) fn new(sink: &Sink, outbox: &str) -> Self {
        let cloud_events = |structured| {
            let given = sink.cloud_events.clone().unwrap_or_default();
            let content_type = match sink.payload_format {
                PayloadFormat::Json => "application/json",
                PayloadFormat::Text => "text/plain",
                PayloadFormat::Raw => "application/octet-stream",
            };
            Form::CloudEvents {
                structured,
                source: given.source.unwrap_or_else(|| outbox.to_owned()).into(),
                content_type: given
                    .data_content_type
                    .unwrap_or_else(|| content_type.to_owned())
                    .into(),
            }
        };
        let form = match sink.envelope {
            Kind::None => Form::Bare,
            Kind::CloudEventsBinary => cloud_events(false),
            Kind::CloudEventsStructured => cloud_events(true),
            Kind::Debezium => {
                let given = sink.debezium.clone().unwrap_or_default();
                Form::Debezium {
                    converter: given.converter,
                    event_type: given.event_type,
                }
            }
        };
        Self {
            format: sink.payload_format,
            form,
            names: Names {
                attributes: ATTRIBUTES.map(Arc::from),
                content_type: "content-type".into(),
                id: "id".into(),
                event_type: "eventType".into(),
            },
        }
    }

    /// Wraps the body of a message that has its key and headers. A tombstone stays one; only Debezium's converter changes
    /// its key, which has to be that of the messages before.
    pub(super) fn wrap(&self, event: &OutboxEvent, mut message: Message) -> Result<Message, EncodeError> {
        match &self.form {
            Form::Bare => {}
            Form::CloudEvents {
                structured,
                source,
                content_type,
            } => {
                if let Some(payload) = message.payload.take() {
                    self.cloud_event(event, &mut message, payload, *structured, (source, content_type))?;
                }
            }
            Form::Debezium {
                converter,
                event_type,
            } => {
                self.debezium(event, &mut message, *converter, *event_type)?;
            }
        }
        Ok(message)
    }

    fn cloud_event(
        &self,
        event: &OutboxEvent,
        message: &mut Message,
        payload: Bytes,
        structured: bool,
        (source, content_type): (&Bytes, &Bytes),
    ) -> Result<(), EncodeError> {
        let kind = event.event_type.as_deref().filter(|kind| !kind.is_empty());
        let kind = kind.ok_or(EncodeError::NoEventType)?;
        let time = timestamp(message.timestamp);
        let key = message
            .key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok());
        if structured {
            let data = match self.format {
                PayloadFormat::Raw => None,
                _ => Some(self.body(&payload)?),
            };
            let document = CloudEvent {
                specversion: "1.0",
                id: &event.id,
                source: text(source),
                r#type: kind,
                subject: event.aggregate_id.as_deref(),
                time: &time,
                datacontenttype: text(content_type),
                partitionkey: key,
                traceparent: event.trace_context.as_deref(),
                data_base64: data.is_none().then(|| openssl::base64::encode_block(&payload)),
                data,
            };
            message.payload = Some(json(&document)?);
            put(
                message,
                &self.names.content_type,
                Bytes::from_static(b"application/cloudevents+json; charset=UTF-8"),
            );
            return Ok(());
        }
        let attributes = [
            Some(Bytes::from_static(b"1.0")),
            Some(event.id.clone().into()),
            Some(source.clone()),
            Some(Bytes::copy_from_slice(kind.as_bytes())),
            event.aggregate_id.clone().map(Bytes::from),
            Some(time.into()),
            key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            event.trace_context.clone().map(Bytes::from),
        ];
        for (name, value) in self.names.attributes.iter().zip(attributes) {
            if let Some(value) = value {
                put(message, name, value);
            }
        }
        put(message, &self.names.content_type, content_type.clone());
        message.payload = Some(payload);
        Ok(())
    }

    fn debezium(
        &self,
        event: &OutboxEvent,
        message: &mut Message,
        converter: DebeziumConverter,
        event_type: DebeziumEventType,
    ) -> Result<(), EncodeError> {
        put(message, &self.names.id, event.id.clone().into());
        if let (DebeziumEventType::Header, Some(kind)) = (event_type, &event.event_type) {
            put(
                message,
                &self.names.event_type,
                Bytes::copy_from_slice(kind.as_bytes()),
            );
        }
        if converter == DebeziumConverter::Plain {
            return Ok(());
        }
        let schemas = converter == DebeziumConverter::JsonWithSchemas;
        if let Some(key) = message.key.take() {
            let key = String::from_utf8_lossy(&key);
            message.key = Some(with_schema(schemas, "string", false, Body::Text(&key))?);
        }
        if let Some(payload) = message.payload.take() {
            let body = self.body(&payload)?;
            message.payload = Some(match event_type {
                DebeziumEventType::Envelope => {
                    let event_type = event.event_type.as_deref().ok_or(EncodeError::NoEventType)?;
                    json(&DebeziumEnvelope {
                        payload: body,
                        event_type,
                    })?
                }
                DebeziumEventType::Header => {
                    let kind = if self.format == PayloadFormat::Raw {
                        "bytes"
                    } else {
                        "string"
                    };
                    with_schema(schemas, kind, true, body)?
                }
            });
        }
        Ok(())
    }

    /// The payload as a part of a JSON document. What the format promises has been checked.
    fn body<'a>(&self, payload: &'a Bytes) -> Result<Body<'a>, EncodeError> {
        Ok(match self.format {
            PayloadFormat::Json => Body::Json(
                serde_json::from_slice(payload).map_err(|error| EncodeError::NotJson(error.to_string()))?,
            ),
            PayloadFormat::Text => Body::Text(
                std::str::from_utf8(payload).map_err(|error| EncodeError::NotText(error.valid_up_to()))?,
            ),
            PayloadFormat::Raw => Body::Base64(openssl::base64::encode_block(payload)),
        })
    }
}

fn with_schema(
    schemas: bool,
    kind: &'static str,
    optional: bool,
    payload: Body<'_>,
) -> Result<Bytes, EncodeError> {
    if !schemas {
        return json(&payload);
    }
    let schema = Schema {
        r#type: kind,
        optional,
    };
    json(&WithSchema { schema, payload })
}

fn json(document: &impl Serialize) -> Result<Bytes, EncodeError> {
    let written = serde_json::to_vec(document).map_err(|error| EncodeError::NotJson(error.to_string()))?;
    Ok(written.into())
}

/// Configured texts are kept as bytes, as headers want them.
fn text(configured: &Bytes) -> &str {
    std::str::from_utf8(configured).unwrap_or_default()
}

fn put(message: &mut Message, name: &Arc<str>, value: Bytes) {
    message.headers.push((Arc::clone(name), value));
}
