//! Forms of names and addresses, as ScyllaDB, Kafka and Kubernetes accept them.

use crate::limits::NAME;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// From 1 to 65535.
    pub port: u16,
}

/// ScyllaDB's port for CQL.
pub const CQL_PORT: u16 = 9042;

impl HostPort {
    /// Reads `host:port`, and `host` too if there is a default port. An IPv6 address with a port stands in brackets.
    pub fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (
                    host,
                    if port.is_empty() {
                        None
                    } else {
                        Some(port.strip_prefix(':')?)
                    },
                )
            }
            None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().ok().filter(|&port| port > 0)?
            }
            Some(_) => return None,
            None => default_port?,
        };
        (host.contains(':') || is_host(host)).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A DNS name or an IPv4 address. Underscores are accepted, because Docker's service names have them.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    name.len() <= 253
        && name.split('.').all(label)
        && (!numeric || name.parse::<std::net::Ipv4Addr>().is_ok())
}

/// A keyspace, table or column as ScyllaDB stores it: letters, digits and underscores. Upper case letters mean a name
/// that was created in double quotes.
pub fn is_cql_name(text: &str) -> bool {
    (1..=NAME).contains(&(text.len() as u64)) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// [`is_cql_name`] in words.
pub const CQL_NAME: &str = "letters, digits and underscores, as ScyllaDB stores the name, without quotes";

/// A topic by Kafka's rules: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
pub fn is_topic(text: &str) -> bool {
    (1..=249).contains(&text.len()) && text.bytes().all(is_topic_byte) && !matches!(text, "." | "..")
}

/// [`is_topic`] in words.
pub const TOPIC: &str = "1 to 249 letters, digits, dots, underscores and dashes";

pub(crate) fn is_topic_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

/// The name of a Kubernetes object: a DNS subdomain.
pub(crate) fn is_object_name(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= 253
        && text.split('.').all(|label| {
            edge(label.bytes().next())
                && edge(label.bytes().last())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// A key of a Secret. It becomes a file name, so it must not lead out of its folder.
pub(crate) fn is_secret_key(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(is_topic_byte)
        && !text.starts_with("..")
        && text != "."
}

/// The key of a relay's state.
pub(crate) fn is_identity(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 253
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(is_topic_byte)
}

/// What names a request: visible characters of ASCII.
pub(crate) fn is_request_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port() {
        for (text, expected) in [
            ("scylla", Some("scylla:9042")),
            (
                "scylla-0.db.svc.cluster.local.:9043",
                Some("scylla-0.db.svc.cluster.local.:9043"),
            ),
            ("my_scylla:1", Some("my_scylla:1")),
            ("127.0.0.1:19042", Some("127.0.0.1:19042")),
            ("::1", Some("[::1]:9042")),
            ("[2001:db8::1]:65535", Some("[2001:db8::1]:65535")),
            ("[::1]", Some("[::1]:9042")),
            ("", None),
            (":9042", None),
            ("host:", None),
            ("host:0", None),
            ("host:65536", None),
            ("host:+1", None),
            ("ho st:1", None),
            ("-host:1", None),
            ("a..b:1", None),
            ("[::1]9042", None),
            ("[::g]:9042", None),
            ("127.0.0.256:1", None),
            ("http://host:1", None),
            ("host:1,host:2", None),
        ] {
            let parsed = HostPort::parse(text, Some(CQL_PORT)).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
        assert_eq!(HostPort::parse("host", None), None);
    }

    #[test]
    fn names() {
        type Check = fn(&str) -> bool;
        let long = "x".repeat(254);
        let tables: [(Check, &[&str], &[&str]); 5] = [
            (
                is_cql_name,
                &["orders_ks", "Orders", "1st", "_"],
                &["", "a-b", "\"a\"", "a.b", "é", &long],
            ),
            (
                is_topic,
                &["a", "a.b_c-D", "..."],
                &["", ".", "..", "a b", "a/b", "ü", &long],
            ),
            (
                is_object_name,
                &["a", "a-1.b"],
                &["", "-a", "A", "a.", "..", "a_b", &long],
            ),
            (
                is_secret_key,
                &["ca.crt", ".hidden", "A_b-1"],
                &["", ".", "..", "../x", "a/b", "..data", &long],
            ),
            (
                is_identity,
                &["default.orders", "A_1"],
                &["", ".", "a.", "-a", "a/b", &long],
            ),
        ];
        for (index, (check, good, bad)) in tables.into_iter().enumerate() {
            for text in good {
                assert!(check(text), "{index} {text}");
            }
            for text in bad {
                assert!(!check(text), "{index} {text}");
            }
        }
    }
}
