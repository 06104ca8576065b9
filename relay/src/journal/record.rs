//! Journal records on the wire. All numbers are big-endian:
//!
//! ```text
//! format u8 = 1 | kind u8 | body | CRC-32 of identity, 0xff and all before
//! head:    incarnation 16 bytes, identity in UTF-8
//! record:  incarnation 16 bytes, slot u8, epoch i64, sequence u64, then groups: second i64, count u32, ids u64 each
//! ```

use uuid::Uuid;

use super::{Incarnation, Sequence, numbering};
use crate::model::{RowId, SlotId};
use crate::ports::Epoch;

/// The layout that this version writes, and the newest that it reads.
pub const FORMAT: u8 = 1;

const HEAD: u8 = 0;
const RECORD: u8 = 1;

/// What a journal's value says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Head(Head),
    Record(Record),
}

/// The first record of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub identity: String,
    pub incarnation: Incarnation,
}

/// What one transaction resolved of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub incarnation: Incarnation,
    pub slot: SlotId,
    /// Under which the slot was held.
    pub epoch: Epoch,
    pub sequence: Sequence,
    /// By second of `cdc$time`.
    pub resolved: Vec<(i64, Vec<RowId>)>,
}

/// Why a value is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("has format {0}, this version reads format {FORMAT}; run the version that wrote it")]
    Newer(u8),
    #[error("is corrupt, or not one of this identity")]
    Corrupt,
    #[error("has no value; nothing ever deletes records of a journal")]
    Tombstone,
}

impl Head {
    /// Each incarnation has its own, so that compaction keeps the first of several.
    pub fn key(&self) -> String {
        format!("head/{}", self.incarnation.0)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, HEAD];
        bytes.extend_from_slice(self.incarnation.0.as_bytes());
        bytes.extend_from_slice(self.identity.as_bytes());
        sealed(&self.identity, bytes)
    }
}

impl Record {
    /// Slot and place.
    pub fn key(&self) -> String {
        format!("{}/{}", self.slot.index(), numbering::place(self.sequence))
    }

    pub fn encode(&self, identity: &str) -> Vec<u8> {
        let ids: usize = self.resolved.iter().map(|(_, ids)| 12 + 8 * ids.len()).sum();
        let mut bytes = Vec::with_capacity(ids + 40);
        bytes.extend_from_slice(&[FORMAT, RECORD]);
        bytes.extend_from_slice(self.incarnation.0.as_bytes());
        bytes.push(self.slot.index() as u8);
        bytes.extend_from_slice(&self.epoch.0.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        for (second, ids) in &self.resolved {
            bytes.extend_from_slice(&second.to_be_bytes());
            bytes.extend_from_slice(&(ids.len() as u32).to_be_bytes());
            ids.iter()
                .for_each(|id| bytes.extend_from_slice(&id.0.to_be_bytes()));
        }
        sealed(identity, bytes)
    }
}

/// Reads a value of the journal of `identity`. A head is read whosever it is.
///
/// # Errors
/// It is of a newer format, or not what [`Head::encode`] or [`Record::encode`] wrote.
pub fn decode(identity: &str, value: Option<&[u8]>) -> Result<Entry, Unreadable> {
    let value = value.ok_or(Unreadable::Tombstone)?;
    if let Some(format) = value.first().filter(|format| **format > FORMAT) {
        return Err(Unreadable::Newer(*format));
    }
    let (content, checksum) = value.split_last_chunk().ok_or(Unreadable::Corrupt)?;
    let (entry, identity) = match content {
        [FORMAT, HEAD, body @ ..] => {
            let head = head(body).ok_or(Unreadable::Corrupt)?;
            let identity = head.identity.clone();
            (Entry::Head(head), identity)
        }
        [FORMAT, RECORD, body @ ..] => {
            let record = record(body).ok_or(Unreadable::Corrupt)?;
            (Entry::Record(record), identity.to_owned())
        }
        _ => return Err(Unreadable::Corrupt),
    };
    if self::checksum(&identity, content).to_be_bytes() != *checksum {
        return Err(Unreadable::Corrupt);
    }
    Ok(entry)
}

fn head(mut body: &[u8]) -> Option<Head> {
    Some(Head {
        incarnation: incarnation(&mut body)?,
        identity: std::str::from_utf8(body).ok()?.to_owned(),
    })
}

fn record(mut body: &[u8]) -> Option<Record> {
    let mut record = Record {
        incarnation: incarnation(&mut body)?,
        slot: SlotId::new(u8::from_be_bytes(take(&mut body)?))?,
        epoch: Epoch(i64::from_be_bytes(take(&mut body)?)),
        sequence: u64::from_be_bytes(take(&mut body)?),
        resolved: Vec::new(),
    };
    while !body.is_empty() {
        let second = i64::from_be_bytes(take(&mut body)?);
        let count = u32::from_be_bytes(take(&mut body)?) as usize;
        let (ids, rest) = body.split_at_checked(count.checked_mul(8)?)?;
        body = rest;
        let (ids, _) = ids.as_chunks::<8>();
        let ids = ids.iter().map(|id| RowId(u64::from_be_bytes(*id))).collect();
        record.resolved.push((second, ids));
    }
    Some(record)
}

fn incarnation(body: &mut &[u8]) -> Option<Incarnation> {
    Some(Incarnation(Uuid::from_bytes(take(body)?)))
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*taken)
}

fn sealed(identity: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(identity, &bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

fn checksum(identity: &str, content: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(identity.as_bytes());
    hash.update(&[0xff]);
    hash.update(content);
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: &str = "shop.orders";

    fn records() -> impl Strategy<Value = Record> {
        let ids = vec(any::<u64>().prop_map(RowId), 0..20);
        let resolved = vec((any::<i64>(), ids), 0..5);
        (any::<u128>(), 0_u8..64, any::<i64>(), any::<u64>(), resolved).prop_map(
            |(incarnation, slot, epoch, sequence, resolved)| Record {
                incarnation: Incarnation(Uuid::from_u128(incarnation)),
                slot: SlotId::new(slot).unwrap(),
                epoch: Epoch(epoch),
                sequence,
                resolved,
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(record in records()) {
            let bytes = record.encode(IDENTITY);
            prop_assert_eq!(decode(IDENTITY, Some(&bytes)), Ok(Entry::Record(record)));
        }

        #[test]
        fn a_record_of_another_identity_is_refused(record in records()) {
            let bytes = record.encode("shop.other");
            prop_assert_eq!(decode(IDENTITY, Some(&bytes)), Err(Unreadable::Corrupt));
        }

        #[test]
        fn a_damaged_record_is_refused(record in records(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let bytes = record.encode(IDENTITY);
            let at = at.index(bytes.len());
            let mut damaged = bytes.clone();
            damaged[at] ^= 1_u8 << bit;
            prop_assert!(decode(IDENTITY, Some(&damaged)).is_err());
            prop_assert!(decode(IDENTITY, Some(&bytes[..at])).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode(IDENTITY, Some(&bytes));
            let _ = decode(IDENTITY, Some(&[&[FORMAT, RECORD], &bytes[..]].concat()));
        }
    }

    #[test]
    fn a_head_says_whose_it_is() {
        let head = Head {
            identity: "shop.other".to_owned(),
            incarnation: Incarnation(Uuid::from_u128(7)),
        };
        let bytes = head.encode();
        assert_eq!(decode(IDENTITY, Some(&bytes)), Ok(Entry::Head(head.clone())));
        assert_eq!(head.key(), "head/00000000-0000-0000-0000-000000000007");
        let mut damaged = bytes;
        damaged[20] ^= 1;
        assert_eq!(decode(IDENTITY, Some(&damaged)), Err(Unreadable::Corrupt));
    }

    #[test]
    fn what_a_later_version_wrote_is_said_to_be_that() {
        assert_eq!(decode(IDENTITY, Some(&[2, 9, 9])), Err(Unreadable::Newer(2)));
        assert_eq!(decode(IDENTITY, Some(&[])), Err(Unreadable::Corrupt));
        assert_eq!(decode(IDENTITY, None), Err(Unreadable::Tombstone));
    }
}
