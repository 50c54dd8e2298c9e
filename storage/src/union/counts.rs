//! How many names files have, where no disk says it.

use std::sync::Arc;

use nix::errno::Errno;

use super::attributes::{Attributes, FileKind, InodeNo};
use super::inode_table::{Node, Places};
use super::stack::Part;
use super::tree::Tree;
use crate::layer::index::{Kind, Record};

impl Tree {
    /// The count of a directory's names, where no disk has counted them.
    pub(super) fn count_names(&self, node: &Arc<Node>, attributes: &mut Attributes) -> nix::Result<()> {
        if attributes.kind != FileKind::Directory {
            attributes.nlink = self.count_links(node, attributes.nlink)?;
            return Ok(());
        }
        if self.static_nlink {
            attributes.nlink = 1;
            return Ok(());
        }
        let (places, known, has_name) = {
            let state = node.lock();
            let known = state.more.as_ref().and_then(|more| more.count);
            (state.places(), known, state.has_name() || node.ino == InodeNo::ROOT)
        };
        if !has_name {
            attributes.nlink = 0;
            return Ok(());
        }
        if !places.is_merged() {
            if let Some(record) = places.parts().next().and_then(|part| self.stack.record(part)) {
                let is_directory = |child: &Record<'_>| child.kind() == Some(Kind::Directory);
                attributes.nlink = 2_u32.saturating_add(record.children().filter(is_directory).count() as u32);
            }
            return Ok(());
        }
        let count = match known {
            Some(count) => count,
            None => match self.count_subdirectories(node, &places) {
                Ok(count) => {
                    node.lock().more().count = Some(count);
                    count
                }
                // An ordinary user has taken its own right to read the directory: nobody has counted.
                Err(Errno::EACCES) => {
                    attributes.nlink = 1;
                    return Ok(());
                }
                Err(errno) => return Err(errno),
            },
        };
        attributes.nlink = count.saturating_add(2);
        Ok(())
    }

    /// Count of the names of what is no directory; the layer counts those as well that something hides.
    fn count_links(&self, node: &Arc<Node>, in_layer: u32) -> nix::Result<u32> {
        let (part, known) = {
            let state = node.lock();
            if state.in_upper() {
                return Ok(in_layer);
            }
            if !state.has_name() {
                return Ok(0);
            }
            (state.part, state.more.as_ref().and_then(|more| more.count))
        };
        if in_layer < 2 || part.is_plain() || self.stack.is_alone() && self.upper.is_none() {
            return Ok(in_layer);
        }
        if let Some(count) = known {
            return Ok(count.max(1));
        }
        let mut count = 0_u32;
        for name in self.stack.names(part) {
            count += u32::from(self.is_visible(name)?);
        }
        node.lock().more().count = Some(count);
        Ok(count.max(1))
    }

    /// True if a record of a file is what its path leads to.
    fn is_visible(&self, part: Part) -> nix::Result<bool> {
        let mut names = self.stack.path(part)?;
        let Some(last) = names.pop() else { return Ok(false) };
        let mut at = self.node(InodeNo::ROOT)?;
        let mut met = Vec::new();
        let walk = || {
            for name in names {
                match self.find(&at, name, false)? {
                    Some(found) if found.kind == FileKind::Directory => {
                        let node = self.claim(&at, name, found)?;
                        met.push(node.ino);
                        at = node;
                    }
                    _ => return Ok(false),
                }
            }
            let found = self.find(&at, last, false)?;
            Ok(found.is_some_and(|found| found.upper.is_none() && found.part == part))
        };
        let result = walk();
        met.into_iter().for_each(|ino| self.forget(ino, 1));
        result
    }

    fn count_subdirectories(&self, node: &Arc<Node>, places: &Places) -> nix::Result<u32> {
        let mut count = 0_u32;
        self.for_each_name(node, places, 0, &mut |named| {
            count += u32::from(named.kind == FileKind::Directory);
            Ok(true)
        })?;
        Ok(count)
    }
}
