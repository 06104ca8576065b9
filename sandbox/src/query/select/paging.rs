//! Where a page ended, in bytes that any connection and node can go on from.
//!
//! Layout: version, rows left by LIMIT and by PER PARTITION LIMIT (u32 each, MAX for no limit), partition key
//! (u32 length, bytes), whether its rows go on (0 or 1), the last row's ordered clustering key.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::CqlError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PagingState {
    pub limit_left: Option<u32>,
    pub partition_left: Option<u32>,
    /// Serialized key of the last partition.
    pub partition: Bytes,
    /// The last row in it; None: the partition is done.
    pub row: Option<Bytes>,
}

const VERSION: u8 = 1;

impl PagingState {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u32(self.limit_left.unwrap_or(u32::MAX));
        out.put_u32(self.partition_left.unwrap_or(u32::MAX));
        // A key is at most a few times 64 KiB.
        out.put_u32(self.partition.len() as u32);
        out.put_slice(&self.partition);
        out.put_u8(u8::from(self.row.is_some()));
        out.put_slice(self.row.as_deref().unwrap_or_default());
        out.freeze()
    }

    /// # Errors
    /// Protocol: bytes that no node gave out.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, CqlError> {
        Self::read(bytes.clone()).ok_or_else(|| CqlError::protocol("Invalid value for the paging state"))
    }

    fn read(mut bytes: Bytes) -> Option<Self> {
        let limit = |count: u32| (count != u32::MAX).then_some(count);
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let limit_left = limit(bytes.try_get_u32().ok()?);
        let partition_left = limit(bytes.try_get_u32().ok()?);
        let length = bytes.try_get_u32().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        let partition = bytes.split_to(length);
        let row = match bytes.try_get_u8().ok()? {
            0 if bytes.is_empty() => None,
            1 => Some(bytes),
            _ => return None,
        };
        Some(Self {
            limit_left,
            partition_left,
            partition,
            row,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_and_damage_is_refused() {
        for row in [None, Some(Bytes::from_static(b"row")), Some(Bytes::new())] {
            let state = PagingState {
                limit_left: Some(7),
                partition_left: None,
                partition: Bytes::from_static(b"key"),
                row,
            };
            let bytes = state.encode();
            assert_eq!(PagingState::decode(&bytes), Ok(state));
            for cut in 0..12 {
                assert!(PagingState::decode(&bytes.slice(..cut)).is_err(), "{cut}");
            }
        }
    }
}
