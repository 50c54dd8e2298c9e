//! Maps of sparse files: where the stored pieces lie in the file.

use super::header::{Block, field, unsigned};
use super::{MAX_SPARSE_PIECES, TarError};

/// A stored piece of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len_bytes: u64,
}

/// A checked map: pieces ascend, do not touch each other's bytes, end within the file and hold what is stored.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) pieces: Vec<Piece>,
    pub(super) real_size: u64,
}

impl Map {
    pub(super) fn checked(
        pieces: Vec<Piece>,
        real_size: u64,
        stored_bytes: u64,
        offset: u64,
    ) -> Result<Self, TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        let (mut end, mut total) = (0_u64, 0_u64);
        for piece in &pieces {
            if piece.offset < end {
                return Err(malformed("the pieces of a sparse file overlap"));
            }
            end = piece.offset.checked_add(piece.len_bytes).ok_or(malformed("a sparse piece ends beyond any file"))?;
            total += piece.len_bytes;
        }
        if end > real_size || i64::try_from(real_size).is_err() {
            return Err(malformed("a sparse piece ends after the end of the file"));
        }
        if total != stored_bytes {
            return Err(malformed("the pieces of a sparse file are not what is stored"));
        }
        Ok(Self { pieces, real_size })
    }

    /// Pairs a flat list of numbers.
    pub(super) fn pieces(numbers: &[u64]) -> Vec<Piece> {
        numbers.chunks_exact(2).map(|pair| Piece { offset: pair[0], len_bytes: pair[1] }).collect()
    }
}

/// Adds the pieces of an old GNU header (`first`) or of one of its extension blocks; true if another block follows.
pub(super) fn extend_from_gnu(
    pieces: &mut Vec<Piece>,
    block: &Block,
    first: bool,
    offset: u64,
) -> Result<bool, TarError> {
    let (records, extended) =
        if first { (field::GNU_SPARSE, block[field::GNU_IS_EXTENDED]) } else { (0..504, block[504]) };
    for record in block[records].chunks_exact(24) {
        if record[0] == 0 {
            break;
        }
        let number = |part| unsigned(part).ok_or(TarError::Malformed { offset, what: "a sparse map is not numbers" });
        let (piece_offset, len_bytes) = record.split_at(12);
        pieces.push(Piece { offset: number(piece_offset)?, len_bytes: number(len_bytes)? });
        check_count(pieces.len() as u64, offset)?;
    }
    Ok(extended != 0)
}

pub(super) fn check_count(pieces: u64, offset: u64) -> Result<(), TarError> {
    if pieces > MAX_SPARSE_PIECES {
        return Err(TarError::Limit { offset, what: "the map of a sparse file", limit: MAX_SPARSE_PIECES });
    }
    Ok(())
}
