//! Listings as the kernel asks for them, piece by piece.

use std::sync::Arc;

use nix::errno::Errno;

use super::attributes::{DirEntry, Entry, FileKind, InodeNo};
use super::inode_table::{Node, Places};
use super::names::{FIRST_COOKIE, Named};
use super::tree::Tree;

impl Tree {
    pub(super) fn read_directory(
        &self,
        ino: InodeNo,
        cookie: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> nix::Result<()> {
        let node = self.directory(ino)?;
        let _names = self.names();
        let places = node.lock().places();
        if !self.dots(&node, cookie, sink) || !self.is_linked(&node) {
            return Ok(());
        }
        self.for_each_name(&node, &places, cookie, &mut |named| {
            let (number, kind) = match named.number {
                Some(number) => (number, named.kind),
                None => match self.found(&node, &places, &named)? {
                    Some((found, entry)) => {
                        self.forget(found.ino, 1);
                        (found.ino, entry.attributes.kind)
                    }
                    None => return Ok(true),
                },
            };
            Ok(sink(DirEntry { name: named.name, ino: number, kind, cookie: named.cookie }))
        })
    }

    pub(super) fn read_directory_plus(
        &self,
        ino: InodeNo,
        cookie: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, Option<&Entry>) -> bool,
    ) -> nix::Result<()> {
        let node = self.directory(ino)?;
        let _names = self.names();
        let places = node.lock().places();
        if !self.dots(&node, cookie, &mut |entry| sink(entry, None)) || !self.is_linked(&node) {
            return Ok(());
        }
        let mut is_first = true;
        let result = self.for_each_name(&node, &places, cookie, &mut |named| {
            let (found, entry) = match self.found(&node, &places, &named) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(true),
                // What was answered already must not be lost; the error comes again with the next piece.
                Err(errno) if is_first => return Err(errno),
                Err(_) => return Ok(false),
            };
            is_first = false;
            let kind = entry.attributes.kind;
            let is_taken =
                sink(DirEntry { name: named.name, ino: found.ino, kind, cookie: named.cookie }, Some(&entry));
            if !is_taken {
                self.forget(found.ino, 1);
            }
            Ok(is_taken)
        });
        if is_first { result } else { Ok(()) }
    }

    fn found(&self, node: &Arc<Node>, places: &Places, named: &Named<'_>) -> nix::Result<Option<(Arc<Node>, Entry)>> {
        let found = match named.record {
            Some((at, part)) => self.found_record(places, at, part),
            None => self.find(node, named.name, false)?,
        };
        match found {
            Some(found) => match self.enter(node, named.name, found) {
                Err(Errno::ENOENT) => Ok(None),
                result => result.map(Some),
            },
            None => Ok(None),
        }
    }

    /// `.` and `..`; false if there was no room for them.
    fn dots(&self, node: &Node, cookie: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> bool {
        let state = node.lock();
        let parent = if state.has_name() { state.parent } else { node.ino };
        drop(state);
        let dots: [(&[u8], InodeNo); 2] = [(b".", node.ino), (b"..", parent)];
        (1..=FIRST_COOKIE).zip(dots).skip_while(|(its_cookie, _)| *its_cookie <= cookie).all(
            |(its_cookie, (name, ino))| sink(DirEntry { name, ino, kind: FileKind::Directory, cookie: its_cookie }),
        )
    }
}
