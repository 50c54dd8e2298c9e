//! What is unpacked: tar archives, known by their bytes, whatever they are called.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};

use storage::layer::unpacker::Unpacker;

/// The length of a header.
const BLOCK_BYTES: usize = 512;

/// The uncompressed stream of a file if that is an archive; what cannot be unpacked is none.
///
/// # Errors
/// The file cannot be read.
pub(super) fn of(mut file: File) -> Result<Option<Unpacker<File>>, String> {
    let failed = |error: std::io::Error| crate::error::reason(&error);
    let head = match begin(&file) {
        Ok(head) => head,
        // Compressed, but broken or something else.
        Err(error) if error.raw_os_error().is_none() => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !is_tar(&head) {
        return Ok(None);
    }
    file.rewind().map_err(failed)?;
    Unpacker::new(file).map(Some).map_err(failed)
}

/// The first bytes without compression.
fn begin(packed: impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(BLOCK_BYTES);
    match Unpacker::new(packed)?.take(BLOCK_BYTES as u64).read_to_end(&mut head) {
        Ok(_) => Ok(head),
        // Less than a header is none.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether these bytes are an archive, compressed or not.
pub(in crate::build) fn is_archive(bytes: &[u8]) -> bool {
    begin(bytes).is_ok_and(|head| is_tar(&head))
}

/// Whether this is the first header of an archive: its checksum is right.
fn is_tar(block: &[u8]) -> bool {
    let (Some(block), Some(field)) = (block.get(..512), block.get(148..156)) else { return false };
    let text: String = field.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    block.iter().any(|byte| *byte != 0) && u32::from_str_radix(&text, 8).is_ok_and(|stored| stored == sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_the_sum_of_their_header() {
        let mut block = [0_u8; 512];
        block[..4].copy_from_slice(b"name");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_tar(&block));
        block[0] = b'x';
        assert!(!is_tar(&block));
        assert!(!is_tar(&[0; 512]) && !is_tar(b"short"));
    }
}
