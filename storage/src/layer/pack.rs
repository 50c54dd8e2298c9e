//! From a tree to a blob: archived by one thread, compressed by all others.
//!
//! ```text
//! tree → tar ─┬→ SHA-256 → diffID
//!             └→ pipe → pieces → compress → writer
//! ```
//! The same tree gives the same bytes, so that a blob that was made here can be made again.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use super::compress::{Format, compress};
use super::diff::{DiffError, TreeForm, write_tree};
use super::ids::IdPolicy;
use crate::digest::{Algorithm, DiffId, Hasher};

/// Writes the tree beneath `root` as a layer's blob, plain or compressed at the format's own level.
///
/// # Errors
/// Those of archiving, and of writing to `out`.
pub fn write_blob(
    root: BorrowedFd<'_>,
    form: TreeForm,
    ids: &IdPolicy,
    format: Option<Format>,
    mut out: impl Write,
) -> Result<DiffId, DiffError> {
    let failed = |source| DiffError::Io { path: ".".to_owned(), source };
    let Some(format) = format else {
        let mut hashed = Hashed { inner: out, hasher: Hasher::new(Algorithm::Sha256) };
        write_tree(root, form, ids, &mut hashed)?;
        return Ok(DiffId::new(hashed.hasher.finish()));
    };
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut compressed = compress(reader, format, format.default_level()).map_err(failed)?;
    std::thread::scope(|scope| {
        let archiving = scope.spawn(move || {
            let inner = io::BufWriter::with_capacity(1 << 16, writer);
            let mut hashed = Hashed { inner, hasher: Hasher::new(Algorithm::Sha256) };
            write_tree(root, form, ids, &mut hashed)?;
            hashed.inner.flush().map_err(|source| DiffError::Io { path: ".".to_owned(), source })?;
            Ok(DiffId::new(hashed.hasher.finish()))
        });
        let copied = io::copy(&mut compressed, &mut out);
        // Whoever archives into a pipe that nobody reads any more ends.
        drop(compressed);
        let archived = archiving.join().unwrap_or_else(|_| Err(failed(io::Error::other("the archiving thread ended"))));
        copied.map_err(failed)?;
        archived
    })
}

/// Hashes what is written.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..len).unwrap_or(bytes));
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
