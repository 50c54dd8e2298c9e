//! Single files of an image that still arrives, for who starts a container: who its users are.
//!
//! **Runs in:** the command line's process.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::Places;
use super::tree::{LazyTree, Stop};
use crate::union::attributes::{FileKind, InodeNo};

/// Most links that are followed for one name, as in the kernel.
const MAX_LINKS: usize = 40;

/// A look into the layers.
#[derive(Debug)]
pub struct Reader(LazyTree);

impl Reader {
    /// Begins to look.
    ///
    /// # Errors
    /// What is to be watched cannot be.
    pub fn new(places: Places) -> io::Result<Self> {
        LazyTree::new(places).map(Self).map_err(io::Error::from)
    }

    /// Readable when something may have come.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.0.inotify().as_fd()
    }

    /// Opens a regular file as the container would see it, links followed inside; `None` if it is not there, empty, or no file. The
    /// outer one is missing while that is not known: ask again when the bell rings.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(&mut self, path: &str) -> io::Result<Option<Option<File>>> {
        self.0.drain();
        self.0.refresh();
        match self.walk(path.as_bytes()) {
            Ok(found) => Ok(Some(found)),
            Err(Stop::Wait) => Ok(None),
            Err(Stop::Errno(Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR | Errno::EINVAL | Errno::ELOOP)) => {
                Ok(Some(None))
            }
            Err(Stop::Errno(errno)) => Err(errno.into()),
        }
    }

    fn walk(&mut self, path: &[u8]) -> Result<Option<File>, Stop> {
        let split = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut rest: VecDeque<Vec<u8>> = split(path).into();
        let mut at = InodeNo::ROOT;
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = self.0.parent(at);
                    continue;
                }
                _ => {}
            }
            let Some(entry) = self.0.lookup(at, &name)? else { return Ok(None) };
            let attributes = entry.attributes;
            match attributes.kind {
                FileKind::Directory => at = attributes.ino,
                FileKind::Symlink if links < MAX_LINKS => {
                    links += 1;
                    let target = self.0.read_link(attributes.ino)?;
                    if target.starts_with(b"/") {
                        at = InodeNo::ROOT;
                    }
                    split(&target).into_iter().rev().for_each(|name| rest.push_front(name));
                }
                FileKind::File if rest.iter().all(Vec::is_empty) && !LazyTree::is_placeholder(attributes.ino) => {
                    if attributes.size == 0 {
                        return Ok(None);
                    }
                    let file = self.0.data(attributes.ino, 0, u64::MAX)?.as_fd().try_clone_to_owned();
                    return file.map(|file| Some(file.into())).map_err(|_| Stop::Errno(Errno::EMFILE));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}
