//! From the bytes of a layer's blob to its tree: inflate ‖ hash ‖ untar.
//!
//! ```text
//! pipe of compressed bytes → inflate (thread) ─┬→ SHA-256 (thread) → diffID
//!                                              └→ untar (this thread) → layers/.tmp-…/
//! ```

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::TransportError;
use super::stream::{PipeReader, PipeWriter, Pool, pipe};
use crate::digest::{Algorithm, DiffId, Digest, Hasher};
use crate::image::ImageStore;
use crate::state::layout::{create_dir, random_hex};

/// A layer unpacked under a temporary name, its digest known.
pub(super) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
}

impl Staged {
    /// Gives the layer its name; if another process was faster, theirs is as good.
    pub(super) fn publish(self) -> Result<(), TransportError> {
        let _ = fs::rename(&self.temporary, &self.target);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// What a stream of compressed bytes turned out to be.
pub(super) struct Unpacked {
    pub(super) diff_id: DiffId,
    pub(super) size_bytes: u64,
    /// Nothing if it was only to be checked.
    pub(super) staged: Option<Staged>,
}

/// Whether a layer is there unpacked.
pub(super) fn is_unpacked(store: &ImageStore, diff_id: &DiffId) -> bool {
    store.layout().layers().join(diff_id.hex()).is_dir()
}

/// Reads a whole compressed stream; unpacks it for `target`, or only hashes it.
pub(super) fn unpack(
    store: &ImageStore,
    blob: &Digest,
    compressed: PipeReader,
    algorithm: Algorithm,
    target: Option<&DiffId>,
) -> Result<Unpacked, TransportError> {
    let failed = |error: &io::Error| TransportError::Unpack {
        blob: blob.clone(),
        reason: error.to_string(),
        is_full_disk: matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
    };
    thread::scope(|scope| {
        let (to_hash, hashing) = pipe();
        let (to_tar, mut tar) = pipe();
        let to_tar = target.map(|_| to_tar);
        let inflating = scope.spawn(move || inflate(compressed, to_hash, to_tar));
        let hashing = scope.spawn(move || hash(hashing, algorithm));
        let staged = match target {
            Some(target) => {
                let layers = store.layout().layers();
                create_dir(&layers).map_err(crate::image::StoreError::from)?;
                let temporary = layers.join(format!(".tmp-{}", random_hex(8)));
                fs::create_dir(&temporary).map_err(|error| failed(&error))?;
                let mut file = fs::File::create(temporary.join("diff.tar")).map_err(|error| failed(&error))?;
                let copied = io::copy(&mut tar, &mut file);
                let staged = Staged { temporary, target: layers.join(target.hex()) };
                Some((copied, staged))
            }
            None => None,
        };
        drop(tar);
        let inflated = inflating.join().expect("inflating does not panic");
        let hashed = hashing.join().expect("hashing does not panic");
        inflated.map_err(|error| failed(&error))?;
        let (digest, size_bytes) = hashed.map_err(|error| failed(&error))?;
        let staged =
            staged.map(|(copied, staged)| copied.map(|_| staged).map_err(|error| failed(&error))).transpose()?;
        Ok(Unpacked { diff_id: DiffId::new(digest), size_bytes, staged })
    })
}

fn inflate(compressed: PipeReader, to_hash: PipeWriter, to_tar: Option<PipeWriter>) -> io::Result<()> {
    let mut source = decoder(compressed)?;
    let pool = Pool::default();
    let mut to_tar = to_tar;
    loop {
        let (buffer, result) = pool.fill(&mut source);
        let is_end = buffer.is_empty();
        let buffer = Arc::new(buffer);
        if !is_end {
            // Who stopped listening has failed or seen the end of the archive; the hash goes on to the end of bytes.
            if to_tar.as_ref().is_some_and(|pipe| pipe.send(buffer.clone()).is_err()) {
                to_tar = None;
            }
            let _ = to_hash.send(buffer);
        }
        result?;
        if is_end {
            to_tar.map(PipeWriter::end);
            to_hash.end();
            return Ok(());
        }
    }
}

fn decoder(mut compressed: PipeReader) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 4];
    let mut len = 0;
    while len < 4 {
        match compressed.read(&mut magic[len..])? {
            0 => break,
            read => len += read,
        }
    }
    let all = io::Cursor::new(magic).take(len as u64).chain(compressed);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(all)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(all)?),
        _ => Box::new(all),
    })
}

fn hash(mut bytes: PipeReader, algorithm: Algorithm) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut size_bytes = 0;
    while let Some(buffer) = bytes.next()? {
        hasher.update(&buffer);
        size_bytes += buffer.len() as u64;
    }
    Ok((hasher.finish(), size_bytes))
}
