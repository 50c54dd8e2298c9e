//! Descriptors of the directories being filled.

use crate::layer::index::{NodeId, ROOT, Writer};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most descriptors kept open at once: a layer may nest deeper than `ulimit -n`.
const MAX_OPEN: usize = 8;

/// Keeps the chain of directories down to the last one used, so that the next entry, which is mostly a neighbour,
/// costs no lookup.
///
/// Every step opens one component with `O_NOFOLLOW`: whatever lies on disk, no step leaves the tree.
#[derive(Debug)]
pub(super) struct Dirs {
    root: OwnedFd,
    /// From below the root downward; descriptors far above the end may be closed again.
    chain: Vec<(NodeId, Option<OwnedFd>)>,
    path: Vec<NodeId>,
}

impl Dirs {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, chain: Vec::new(), path: Vec::new() }
    }

    /// A descriptor (`O_PATH`) of a directory of the tree.
    pub(super) fn fd(&mut self, tree: &Writer, id: NodeId) -> nix::Result<BorrowedFd<'_>> {
        if id == ROOT {
            return Ok(self.root.as_fd());
        }
        if !matches!(self.chain.last(), Some((last, Some(_))) if *last == id) {
            self.walk(tree, id)?;
        }
        match self.chain.last() {
            Some((_, Some(fd))) => Ok(fd.as_fd()),
            _ => Err(Errno::EBADF),
        }
    }

    /// Closes a directory and all below it before it is removed.
    pub(super) fn forget(&mut self, id: NodeId) {
        if let Some(at) = self.chain.iter().position(|(known, _)| *known == id) {
            self.cut(at);
        }
    }

    fn walk(&mut self, tree: &Writer, id: NodeId) -> nix::Result<()> {
        // The next one down, as when a long path is made: no need to look at all those above.
        if let Some((last, Some(fd))) = self.chain.last()
            && *last == tree.parent(id)
        {
            let fd = open_dir(fd.as_fd(), tree.name(id))?;
            self.push(id, fd);
            return Ok(());
        }
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        let mut at = id;
        while at != ROOT {
            path.push(at);
            at = tree.parent(at);
        }
        path.reverse();
        let common = self.chain.iter().zip(&path).take_while(|((known, _), wanted)| known == *wanted).count();
        self.cut(common);
        // Begin at the deepest directory that is still open.
        let begin = self.chain.iter().rposition(|(_, fd)| fd.is_some()).map_or(0, |at| at + 1);
        for (at, step) in path.iter().enumerate().skip(begin) {
            let above = match at.checked_sub(1) {
                None => &self.root,
                Some(above) => self.chain.get(above).and_then(|(_, fd)| fd.as_ref()).ok_or(Errno::EBADF)?,
            };
            let fd = open_dir(above.as_fd(), tree.name(*step))?;
            match self.chain.get_mut(at) {
                Some((_, slot)) => *slot = Some(fd),
                None => self.chain.push((*step, Some(fd))),
            }
            self.close_above(at);
        }
        self.path = path;
        Ok(())
    }

    fn push(&mut self, id: NodeId, fd: OwnedFd) {
        self.chain.push((id, Some(fd)));
        self.close_above(self.chain.len() - 1);
    }

    /// Keeps only the last few open.
    fn close_above(&mut self, at: usize) {
        if let Some((_, slot)) = at.checked_sub(MAX_OPEN).and_then(|far| self.chain.get_mut(far)) {
            *slot = None;
        }
    }

    fn cut(&mut self, len: usize) {
        self.chain.truncate(len);
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
