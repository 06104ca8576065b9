//! What a message body is wrapped into, for consumers that expect a known form.

use serde::{Deserialize, Serialize};

/// What the payload is wrapped into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum Envelope {
    /// The message body is the payload.
    #[default]
    None,
    /// CloudEvents 1.0, binary content mode of its Kafka binding: the attributes are headers (`ce_id`, ...).
    CloudEventsBinary,
    /// CloudEvents 1.0, structured content mode: a JSON document with attributes and payload.
    CloudEventsStructured,
    /// As Debezium's outbox event router makes messages, so that its consumers can switch.
    Debezium,
}

impl Envelope {
    /// Whether messages are CloudEvents.
    pub fn is_cloud_events(self) -> bool {
        matches!(self, Self::CloudEventsBinary | Self::CloudEventsStructured)
    }

    /// Whether it writes a header of this name. A configured header must not use it.
    pub fn writes(self, header: &str) -> bool {
        match self {
            Self::None => false,
            Self::CloudEventsBinary | Self::CloudEventsStructured => {
                header.starts_with("ce_") || header == "content-type"
            }
            Self::Debezium => header == "id" || header == "eventType",
        }
    }
}

/// Attributes of CloudEvents that are the same on every message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CloudEvents {
    /// Attribute `source`, a URI reference; `/<keyspace>/<table>` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Attribute `datacontenttype`, a media type; unless given, that of sink.payloadFormat: `application/json` for Json,
    /// `text/plain` for Text, `application/octet-stream` for Raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_content_type: Option<String>,
}

/// How the Debezium connector to be replaced was configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Debezium {
    /// Its key and value converter. Plain: StringConverter or ByteArrayConverter, key and payload as they are. Json:
    /// JsonConverter with schemas.enable=false; a payload of format Json is expanded (table.expand.json.payload=true),
    /// one of format Text is a JSON string, one of format Raw base64. JsonWithSchemas: the same with schemas.enable=true,
    /// for the formats Text and Raw.
    pub converter: DebeziumConverter,
    /// Where the event's type goes (table.fields.additional.placement). Header: the header `eventType`. Envelope: the
    /// body becomes `{"payload": ..., "eventType": ...}`; needs converter Json.
    pub event_type: DebeziumEventType,
}

/// Kafka Connect's converter of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum DebeziumConverter {
    /// StringConverter, ByteArrayConverter.
    #[default]
    Plain,
    /// JsonConverter without schemas.
    Json,
    /// JsonConverter with schemas.
    JsonWithSchemas,
}

/// Where the event's type goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
pub enum DebeziumEventType {
    /// The header `eventType`.
    #[default]
    Header,
    /// A field beside the payload.
    Envelope,
}
