//! The `cdc` table option: parsing, defaults, and the form in which `system_schema` stores it
//! (ScyllaDB `cdc/cdc_options.hh`, `cdc/cdc_extension.hh`).

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::CqlError;
use crate::schema::{CdcOptions, DeltaMode, PreimageMode};

/// Reads the map of `CREATE TABLE ... WITH cdc = {...}`. Keys and values are compared without regard to case.
/// Omitted options take their defaults.
///
/// # Errors
/// Config (0x2300), naming the option and its value, for an unknown option or a value it does not take.
pub fn parse_create(map: &BTreeMap<String, String>) -> Result<CdcOptions, CqlError> {
    let mut options = CdcOptions::default();
    for (name, value) in map {
        let lower = value.to_lowercase();
        let refused = || CqlError::config(format!("Invalid value for CDC option \"{name}\": {value}"));
        match name.to_lowercase().as_str() {
            "enabled" => options.enabled = boolean(&lower).ok_or_else(refused)?,
            "preimage" => options.preimage = preimage(&lower).ok_or_else(refused)?,
            "postimage" => options.postimage = boolean(&lower).ok_or_else(refused)?,
            "delta" => options.delta = delta(&lower).ok_or_else(refused)?,
            "ttl" => options.ttl = ttl(value)?,
            _ => return Err(CqlError::config(format!("Invalid CDC option: {name}"))),
        }
    }
    Ok(options)
}

/// Reads the map of `ALTER TABLE ... WITH cdc = {...}`: the whole option is replaced, nothing is inherited
/// from the earlier one, and `enabled` must be given.
///
/// # Errors
/// As `parse_create`; Invalid (0x2200) without `enabled`.
pub fn parse_alter(map: &BTreeMap<String, String>) -> Result<CdcOptions, CqlError> {
    let options = parse_create(map)?;
    if !map.keys().any(|name| name.eq_ignore_ascii_case("enabled")) {
        return Err(CqlError::invalid(
            "Altering CDC options requires specifying \"enabled\" flag",
        ));
    }
    Ok(options)
}

/// The option as ScyllaDB prints and stores it, sorted by name.
pub fn to_map(options: &CdcOptions) -> BTreeMap<&'static str, String> {
    let preimage = match options.preimage {
        PreimageMode::Off => "false",
        PreimageMode::Touched => "true",
        PreimageMode::Full => "full",
    };
    let delta = match options.delta {
        DeltaMode::Full => "full",
        DeltaMode::Keys => "keys",
    };
    BTreeMap::from([
        ("enabled", options.enabled.to_string()),
        ("preimage", preimage.to_string()),
        ("postimage", options.postimage.to_string()),
        ("delta", delta.to_string()),
        ("ttl", options.ttl.to_string()),
    ])
}

/// The value of `system_schema.tables.extensions['cdc']`: a count, then each name and value with its length,
/// all lengths little-endian u32. Drivers of other languages decode it.
pub fn encode_extension(options: &CdcOptions) -> Bytes {
    let map = to_map(options);
    let mut blob = BytesMut::new();
    put_length(&mut blob, map.len());
    for (name, value) in &map {
        put_length(&mut blob, name.len());
        blob.put_slice(name.as_bytes());
        put_length(&mut blob, value.len());
        blob.put_slice(value.as_bytes());
    }
    blob.freeze()
}

fn put_length(blob: &mut BytesMut, length: usize) {
    // Option names and values are a few bytes long: no truncation.
    blob.put_u32_le(length as u32);
}

fn boolean(lower: &str) -> Option<bool> {
    match lower {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn preimage(lower: &str) -> Option<PreimageMode> {
    match lower {
        "full" => Some(PreimageMode::Full),
        _ => boolean(lower).map(|on| {
            if on {
                PreimageMode::Touched
            } else {
                PreimageMode::Off
            }
        }),
    }
}

fn delta(lower: &str) -> Option<DeltaMode> {
    match lower {
        "full" => Some(DeltaMode::Full),
        "keys" => Some(DeltaMode::Keys),
        _ => None,
    }
}

fn ttl(value: &str) -> Result<i32, CqlError> {
    let seconds: i128 = value
        .trim()
        .parse()
        .map_err(|_| CqlError::config(format!("Invalid value for CDC option \"ttl\": {value}")))?;
    if seconds < 0 {
        return Err(CqlError::config("Invalid CDC option: ttl must be >= 0"));
    }
    i32::try_from(seconds).map_err(|_| CqlError::config("Invalid CDC option: ttl too large"))
}

#[cfg(test)]
mod tests {
    use super::{encode_extension, parse_alter, parse_create};
    use crate::error::ErrorKind;
    use crate::schema::{CdcOptions, DeltaMode, PreimageMode};
    use std::collections::BTreeMap;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    }

    #[test]
    fn options_take_scylladb_spellings() {
        let enabled = CdcOptions {
            enabled: true,
            ..CdcOptions::default()
        };
        let cases: &[(&[(&str, &str)], CdcOptions)] = &[
            (&[], CdcOptions::default()),
            (&[("enabled", "true")], enabled.clone()),
            (&[("ENABLED", "TRUE")], enabled.clone()),
            (&[("enabled", "1")], enabled.clone()),
            (&[("enabled", "0")], CdcOptions::default()),
            (
                &[
                    ("enabled", "true"),
                    ("preimage", "Full"),
                    ("postimage", "1"),
                    ("delta", "KEYS"),
                    ("ttl", "0"),
                ],
                CdcOptions {
                    enabled: true,
                    preimage: PreimageMode::Full,
                    postimage: true,
                    delta: DeltaMode::Keys,
                    ttl: 0,
                },
            ),
            (
                &[("enabled", "true"), ("preimage", "true")],
                CdcOptions {
                    preimage: PreimageMode::Touched,
                    ..enabled.clone()
                },
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(&parse_create(&map(given)).unwrap(), expected, "{given:?}");
        }
    }

    #[test]
    fn bad_options_are_refused_by_name_and_value() {
        let cases: &[(&str, &str, &str)] = &[
            ("enabled", "yes", "Invalid value for CDC option \"enabled\": yes"),
            (
                "preimage",
                "half",
                "Invalid value for CDC option \"preimage\": half",
            ),
            (
                "postimage",
                "full",
                "Invalid value for CDC option \"postimage\": full",
            ),
            (
                "delta",
                "values",
                "Invalid value for CDC option \"delta\": values",
            ),
            ("ttl", "soon", "Invalid value for CDC option \"ttl\": soon"),
            ("ttl", "-1", "Invalid CDC option: ttl must be >= 0"),
            ("ttl", "2147483648", "Invalid CDC option: ttl too large"),
            ("retention", "1", "Invalid CDC option: retention"),
        ];
        for (name, value, message) in cases {
            let error = parse_create(&map(&[("enabled", "true"), (name, value)])).unwrap_err();
            assert_eq!(
                (error.kind, error.message.as_str()),
                (ErrorKind::Config, *message)
            );
        }
    }

    #[test]
    fn alter_requires_enabled_and_inherits_nothing() {
        let error = parse_alter(&map(&[("ttl", "10")])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let altered = parse_alter(&map(&[("enabled", "true")])).unwrap();
        assert_eq!(altered.ttl, 86_400);
    }

    #[test]
    fn the_extension_blob_is_sorted_and_little_endian() {
        let blob = encode_extension(&CdcOptions {
            enabled: true,
            ..CdcOptions::default()
        });
        let mut expected = vec![5, 0, 0, 0];
        for text in [
            "delta",
            "full",
            "enabled",
            "true",
            "postimage",
            "false",
            "preimage",
            "false",
            "ttl",
            "86400",
        ] {
            expected.extend([text.len() as u8, 0, 0, 0]);
            expected.extend(text.as_bytes());
        }
        assert_eq!(blob, expected);
    }
}
