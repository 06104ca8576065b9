//! Serialized collections, tuples and user-defined types, taken apart and put together (protocol v4: every
//! length and count is an i32).

use bytes::Bytes;

/// Key and value of a map.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// Why a serialized value cannot be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("Not enough bytes to read a {0}")]
    Short(&'static str),
    #[error("Unexpected extraneous bytes after {0} value")]
    Extraneous(&'static str),
    #[error("null is not supported inside collections")]
    NullElement,
}

/// The elements of a list or set.
///
/// # Errors
/// `value` is no collection.
pub fn split_list(value: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut reader = Reader {
        rest: value,
        kind: "list",
    };
    let count = reader.count()?;
    // Every element takes four bytes at least: a wrong count reserves no memory.
    let mut elements = Vec::with_capacity(count.min(value.len() / 4));
    for _ in 0..count {
        elements.push(reader.bytes()?.ok_or(Malformed::NullElement)?);
    }
    reader.end()?;
    Ok(elements)
}

/// The entries of a map.
///
/// # Errors
/// `value` is no map.
pub fn split_map(value: &[u8]) -> Result<Vec<Entry<'_>>, Malformed> {
    let mut reader = Reader {
        rest: value,
        kind: "map",
    };
    let count = reader.count()?;
    let mut entries = Vec::with_capacity(count.min(value.len() / 8));
    for _ in 0..count {
        let key = reader.bytes()?.ok_or(Malformed::NullElement)?;
        entries.push((key, reader.bytes()?.ok_or(Malformed::NullElement)?));
    }
    reader.end()?;
    Ok(entries)
}

/// The components of a tuple or the fields of a user-defined type: those that are there, at most `expected`.
///
/// # Errors
/// A cut component, or more components than expected.
pub fn split_tuple(value: &[u8], expected: usize) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut reader = Reader {
        rest: value,
        kind: "tuple",
    };
    let mut components = Vec::with_capacity(expected.min(value.len() / 4));
    while components.len() < expected && !reader.rest.is_empty() {
        components.push(reader.bytes()?);
    }
    reader.end()?;
    Ok(components)
}

/// A list or set of these elements, in this order.
pub fn join_list<T: AsRef<[u8]>>(elements: &[T]) -> Bytes {
    let mut out = Vec::with_capacity(
        4 + elements
            .iter()
            .map(|element| element.as_ref().len() + 4)
            .sum::<usize>(),
    );
    put_length(&mut out, elements.len());
    for element in elements {
        put_bytes(&mut out, Some(element.as_ref()));
    }
    out.into()
}

/// A map of these entries, in this order.
pub fn join_map<K: AsRef<[u8]>, V: AsRef<[u8]>>(entries: &[(K, V)]) -> Bytes {
    let mut out = Vec::new();
    put_length(&mut out, entries.len());
    for (key, value) in entries {
        put_bytes(&mut out, Some(key.as_ref()));
        put_bytes(&mut out, Some(value.as_ref()));
    }
    out.into()
}

/// A tuple or user-defined type of these components, None being null.
pub fn join_tuple<T: AsRef<[u8]>>(components: &[Option<T>]) -> Bytes {
    let mut out = Vec::new();
    for component in components {
        put_bytes(&mut out, component.as_ref().map(AsRef::as_ref));
    }
    out.into()
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // Values come out of frames of at most 256 MiB and out of statements that are shorter.
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            put_length(out, value.len());
            out.extend_from_slice(value);
        }
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    kind: &'static str,
}

impl<'a> Reader<'a> {
    fn int(&mut self) -> Result<i32, Malformed> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<4>()
            .ok_or(Malformed::Short(self.kind))?;
        self.rest = rest;
        Ok(i32::from_be_bytes(*head))
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.int()?).map_err(|_| Malformed::Short(self.kind))
    }

    fn bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let Ok(length) = usize::try_from(self.int()?) else {
            return Ok(None);
        };
        let (value, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Malformed::Short(self.kind))?;
        self.rest = rest;
        Ok(Some(value))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Extraneous(self.kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_splits_again() {
        let list = join_list(&["a", "", "bc"]);
        assert_eq!(split_list(&list).unwrap(), [b"a".as_slice(), b"", b"bc"]);
        let map = join_map(&[("k", "v"), ("", "w")]);
        assert_eq!(
            split_map(&map).unwrap(),
            [(b"k".as_slice(), b"v".as_slice()), (b"", b"w")]
        );
        let tuple = join_tuple(&[Some("x"), None]);
        assert_eq!(split_tuple(&tuple, 2).unwrap(), [Some(b"x".as_slice()), None]);
        assert_eq!(
            split_tuple(&tuple, 3).unwrap().len(),
            2,
            "fields added later may be missing"
        );
        assert_eq!(split_tuple(&tuple, usize::MAX).unwrap().len(), 2);
    }

    #[test]
    fn cut_long_and_lying_values_are_refused() {
        let list = join_list(&["a"]);
        for length in 0..list.len() {
            assert_eq!(split_list(&list[..length]), Err(Malformed::Short("list")));
        }
        assert_eq!(
            split_list(&[&list[..], b"x"].concat()),
            Err(Malformed::Extraneous("list"))
        );
        assert_eq!(split_list(&i32::MAX.to_be_bytes()), Err(Malformed::Short("list")));
        assert_eq!(
            split_list(&[0, 0, 0, 1, 255, 255, 255, 255]),
            Err(Malformed::NullElement)
        );
        assert_eq!(
            split_tuple(&join_tuple(&[Some("x"), None]), 1),
            Err(Malformed::Extraneous("tuple"))
        );
    }
}
