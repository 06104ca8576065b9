//! What SUPPORTED offers and what STARTUP may choose from it.

use crate::cluster::SHARDS_PER_NODE;
use crate::error::CqlError;
use crate::system::CQL_VERSION;

/// Token bits that sharding ignores (ScyllaDB `murmur3_partitioner_ignore_msb_bits`).
const SHARDING_IGNORE_MSB: u32 = 12;

/// The options of SUPPORTED. The shard keys make drivers treat the node as ScyllaDB; extensions that are not
/// implemented are not offered (no rate limit code, no metadata ids, no tablet routing).
pub(super) fn supported() -> Vec<(&'static str, Vec<String>)> {
    let one = |value: &str| vec![value.to_owned()];
    vec![
        ("CQL_VERSION", one(CQL_VERSION)),
        ("COMPRESSION", one("lz4")),
        ("PROTOCOL_VERSIONS", one("4/v4")),
        ("SCYLLA_SHARD", one("0")),
        ("SCYLLA_NR_SHARDS", vec![SHARDS_PER_NODE.to_string()]),
        (
            "SCYLLA_PARTITIONER",
            one("org.apache.cassandra.dht.Murmur3Partitioner"),
        ),
        ("SCYLLA_SHARDING_ALGORITHM", one("biased-token-round-robin")),
        (
            "SCYLLA_SHARDING_IGNORE_MSB",
            vec![SHARDING_IGNORE_MSB.to_string()],
        ),
    ]
}

/// Reads STARTUP's options: true if bodies will be compressed with LZ4. Unknown options are fine.
///
/// # Errors
/// A protocol error for a missing CQL_VERSION or a compression that was not offered.
pub(super) fn compression(startup: &[(String, String)]) -> Result<bool, CqlError> {
    let option = |key: &str| {
        let found = startup.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    };
    if option("CQL_VERSION").is_none() {
        return Err(CqlError::protocol("Missing value CQL_VERSION in STARTUP message"));
    }
    match option("COMPRESSION") {
        None | Some("") => Ok(false),
        Some(name) if name.eq_ignore_ascii_case("lz4") => Ok(true),
        Some(other) => Err(CqlError::protocol(format!(
            "Unknown compression algorithm '{other}', accepted: lz4"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_options() {
        let check = |options: &[(&str, &str)], expected: Result<bool, &str>| {
            let options: Vec<_> = options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            match (compression(&options), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{options:?}"),
                (Err(error), Err(text)) => assert!(error.message.contains(text), "{}", error.message),
                (found, _) => panic!("{options:?}: {found:?}"),
            }
        };
        check(&[("CQL_VERSION", "4.0.0"), ("DRIVER_NAME", "x")], Ok(false));
        check(&[("CQL_VERSION", "3.3.1"), ("COMPRESSION", "LZ4")], Ok(true));
        check(
            &[("CQL_VERSION", "3.3.1"), ("COMPRESSION", "snappy")],
            Err("'snappy', accepted: lz4"),
        );
        check(&[("COMPRESSION", "lz4")], Err("Missing value CQL_VERSION"));
    }
}
