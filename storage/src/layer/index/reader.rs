//! Answers from an index file without reading it whole.

use super::{FLAG_IMPLICIT, FLAG_OPAQUE, HEADER_BYTES, IndexError, Kind, MAGIC, RECORD_BYTES, VERSION};
use crate::layer::tar::Timestamp;
use crate::sys::mmap::Mapping;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;

/// A mapped index.
///
/// Every number in the file is checked before it is followed: a damaged index gives wrong answers or none, never a
/// crash.
#[derive(Debug)]
pub struct Index {
    bytes: Mapping,
    count: u32,
    records: usize,
    strings: (usize, usize),
}

/// One entry of an index.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    index: &'a Index,
    number: u32,
    bytes: &'a [u8],
}

impl Index {
    /// Maps an index file.
    ///
    /// # Errors
    /// [`IndexError::Read`]; [`IndexError::Unusable`] if it is of another version or damaged.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::from_file(&File::open(path).map_err(IndexError::Read)?)
    }

    /// Maps an open index file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_file(file: &File) -> Result<Self, IndexError> {
        const DAMAGED: IndexError = IndexError::Unusable("it is damaged");
        let len = file.metadata().map_err(IndexError::Read)?.len();
        let len = usize::try_from(len).ok().filter(|len| *len >= HEADER_BYTES + RECORD_BYTES).ok_or(DAMAGED)?;
        let len = NonZeroUsize::new(len).ok_or(DAMAGED)?;
        let bytes = Mapping::new(file, len).map_err(|errno| IndexError::Read(errno.into()))?;
        if &bytes[..8] != MAGIC {
            return Err(DAMAGED);
        }
        if u32_at(&bytes, 8) != VERSION || u32_at(&bytes, 12) != RECORD_BYTES as u32 {
            return Err(IndexError::Unusable("another version wrote it"));
        }
        let count = u32_at(&bytes, 16);
        let offset = |at| usize::try_from(u64_at(&bytes, at)).map_err(|_| DAMAGED);
        let (records, strings, strings_len) = (offset(24)?, offset(32)?, offset(40)?);
        let ends_within = |begin: usize, len: usize| begin.checked_add(len).is_some_and(|end| end <= bytes.len());
        let records_len = (count as usize).checked_mul(RECORD_BYTES).ok_or(DAMAGED)?;
        if count == 0 || !ends_within(records, records_len) || !ends_within(strings, strings_len) {
            return Err(DAMAGED);
        }
        Ok(Self { count, records, strings: (strings, strings_len), bytes })
    }

    /// Count of entries, the root included.
    #[expect(clippy::len_without_is_empty, reason = "there is always a root")]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// The root directory.
    pub fn root(&self) -> Record<'_> {
        Record { index: self, number: 0, bytes: &self.bytes[self.records..self.records + RECORD_BYTES] }
    }

    /// The bytes of all regular files; one with several names counts once.
    pub fn file_bytes(&self) -> u64 {
        let mut groups = std::collections::HashSet::new();
        let records = (0..self.len()).filter_map(|number| self.record(number));
        let files = records.filter(|record| record.kind() == Some(Kind::File));
        files.filter(|file| file.link_group() == 0 || groups.insert(file.link_group())).map(|file| file.size()).sum()
    }

    /// An entry by its number.
    pub fn record(&self, number: u32) -> Option<Record<'_>> {
        if number >= self.count {
            return None;
        }
        let begin = self.records + number as usize * RECORD_BYTES;
        Some(Record { index: self, number, bytes: &self.bytes[begin..begin + RECORD_BYTES] })
    }

    /// The entry of a path from the root, whose components are taken as they are: links are not followed, whiteouts
    /// are entries.
    pub fn lookup(&self, path: &[u8]) -> Option<Record<'_>> {
        let components = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        components.into_iter().try_fold(self.root(), |at, name| at.child(name))
    }

    fn string(&self, offset: u32, len: usize) -> &[u8] {
        let (begin, total) = self.strings;
        let offset = offset as usize;
        match offset.checked_add(len) {
            Some(end) if end <= total => &self.bytes[begin + offset..begin + end],
            _ => b"",
        }
    }
}

impl<'a> Record<'a> {
    /// Its number, stable for this index.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The last component of its path; empty for the root.
    pub fn name(&self) -> &'a [u8] {
        self.index.string(u32_at(self.bytes, 4), usize::from(u16_at(self.bytes, 8)))
    }

    /// The directory it is in; the root is in itself.
    pub fn parent(&self) -> Option<Record<'a>> {
        self.index.record(u32_at(self.bytes, 0))
    }

    /// What it is; `None` in a damaged index.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_byte(self.bytes[10])
    }

    /// True for a directory that hides what lies below it.
    pub fn is_opaque(&self) -> bool {
        self.bytes[11] & FLAG_OPAQUE != 0
    }

    /// True for a directory that the layer's tar does not name: a lower layer's metadata of it are better.
    pub fn is_implicit(&self) -> bool {
        self.bytes[11] & FLAG_IMPLICIT != 0
    }

    /// Permission bits, at most `0o7777`.
    pub fn mode(&self) -> u32 {
        u32_at(self.bytes, 12)
    }

    /// Owner, as in the layer.
    pub fn uid(&self) -> u32 {
        u32_at(self.bytes, 16)
    }

    /// Group, as in the layer.
    pub fn gid(&self) -> u32 {
        u32_at(self.bytes, 20)
    }

    /// Length of a file or of a symlink's target.
    pub fn size(&self) -> u64 {
        u64_at(self.bytes, 24)
    }

    /// Time of last modification.
    pub fn mtime(&self) -> Timestamp {
        Timestamp { secs: u64_at(self.bytes, 32).cast_signed(), nanos: u32_at(self.bytes, 40) }
    }

    /// Number that all names of one file share; 0 if it has only this one.
    pub fn link_group(&self) -> u32 {
        u32_at(self.bytes, 44)
    }

    /// How many names the file has in this layer.
    pub fn names(&self) -> u32 {
        u32_at(self.bytes, 48)
    }

    /// Target of a symlink.
    pub fn target(&self) -> &'a [u8] {
        self.index.string(u32_at(self.bytes, 56), u32_at(self.bytes, 60) as usize)
    }

    /// Extended attributes in the order of their names.
    pub fn xattrs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.index.string(u32_at(self.bytes, 64), u32_at(self.bytes, 68) as usize);
        std::iter::from_fn(move || {
            let (lens, after) = rest.split_at_checked(6)?;
            let (name, after) = after.split_at_checked(usize::from(u16_at(lens, 0)))?;
            let (value, after) = after.split_at_checked(u32_at(lens, 2) as usize)?;
            rest = after;
            Some((name, value))
        })
    }

    /// Count of a directory's entries, whiteouts included.
    pub fn child_count(&self) -> u32 {
        u32_at(self.bytes, 76)
    }

    /// A directory's entries in the order of their names, whiteouts included.
    pub fn children(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let index = self.index;
        let first = u32_at(self.bytes, 72);
        let end = first.saturating_add(self.child_count());
        (first..end).map_while(move |number| index.record(number))
    }

    /// A directory's entry by its name.
    pub fn child(&self, name: &[u8]) -> Option<Record<'a>> {
        let first = u32_at(self.bytes, 72);
        let (mut low, mut high) = (first, first.checked_add(self.child_count())?);
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.index.record(middle)?;
            match record.name().cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(record),
            }
        }
        None
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::super::writer::Extra;
    use super::super::{Node, ROOT, Writer};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::io::Write as _;

    fn read_back(writer: &Writer) -> Index {
        let mut file = tempfile::tempfile().unwrap();
        writer.finish(&mut file).unwrap();
        Index::from_file(&file).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(Vec<u8>, u64),
        Remove(Vec<u8>),
    }

    fn path() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec("[a-c]{1,2}", 1..4).prop_map(|parts| parts.join("/").into_bytes())
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (path(), any::<u64>()).prop_map(|(path, size)| Op::Insert(path, size)),
            1 => path().prop_map(Op::Remove),
        ]
    }

    /// Creates `path` with all its parents as directories that also carry a size, so that one map is the model.
    fn insert(writer: &mut Writer, path: &[u8], size: u64) {
        let mut at = ROOT;
        for name in path.split(|byte| *byte == b'/') {
            at = match writer.child(at, name) {
                Some(id) => id,
                None => writer.insert(at, name, Node::new(Kind::Directory)).unwrap(),
            };
        }
        let node = writer.node_mut(at);
        node.size = size;
        node.extra = Some(Box::new(Extra { target: path.to_vec(), xattrs: vec![(b"user.p".to_vec(), path.to_vec())] }));
    }

    proptest! {
        #[test]
        fn index_equals_a_map_of_paths(ops in proptest::collection::vec(op(), 0..60)) {
            let mut writer = Writer::new();
            let mut model: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(path, size) => {
                        insert(&mut writer, &path, size);
                        for (at, byte) in path.iter().enumerate() {
                            if *byte == b'/' {
                                model.entry(path[..at].to_vec()).or_default();
                            }
                        }
                        model.insert(path, size);
                    }
                    Op::Remove(path) => {
                        let found = path.split(|byte| *byte == b'/').try_fold(ROOT, |at, name| writer.child(at, name));
                        prop_assert_eq!(found.is_some(), model.contains_key(&path));
                        if let Some(id) = found {
                            writer.remove(id);
                        }
                        let below = [path.as_slice(), b"/"].concat();
                        model.retain(|key, _| *key != path && !key.starts_with(&below));
                    }
                }
            }
            let index = read_back(&writer);
            prop_assert_eq!(index.len() as usize, model.len() + 1);
            for (path, size) in &model {
                let record = index.lookup(path).expect("every path of the model is in the index");
                prop_assert_eq!(record.size(), *size);
                if !record.target().is_empty() {
                    prop_assert_eq!(record.target(), path.as_slice());
                    prop_assert_eq!(record.xattrs().collect::<Vec<_>>(), vec![(&b"user.p"[..], path.as_slice())]);
                }
                let prefix = [path.as_slice(), b"/"].concat();
                let expected: Vec<&[u8]> = model
                    .keys()
                    .filter_map(|key| key.strip_prefix(prefix.as_slice()).filter(|rest| !rest.contains(&b'/')))
                    .collect();
                prop_assert_eq!(record.children().map(|child| child.name()).collect::<Vec<_>>(), expected);
            }
        }

        #[test]
        fn damaged_index_never_panics(position in 0_usize..600, byte in any::<u8>()) {
            let mut writer = Writer::new();
            for path in [&b"a/b/c"[..], b"a/d", b"e"] {
                insert(&mut writer, path, 1);
            }
            let mut bytes = Vec::new();
            writer.finish(&mut bytes).unwrap();
            let at = position % bytes.len();
            bytes[at] = byte;
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Ok(index) = Index::from_file(&file) {
                let _ = index.lookup(b"a/b/c").map(|record| record.target().len());
                for number in 0..index.len().min(20) {
                    let record = index.record(number).unwrap();
                    let _ = (record.children().take(20).count(), record.xattrs().count(), record.kind(), record.name());
                }
            }
        }
    }

    #[test]
    fn hardlinked_names_share_a_group_and_are_counted() {
        let mut writer = Writer::new();
        let first = writer.insert(ROOT, b"a", Node::new(Kind::File)).unwrap();
        let group = writer.link_group(first);
        for name in [b"b", b"c"] {
            let node = writer.node(first).clone();
            writer.insert(ROOT, name, node).unwrap();
        }
        let gone = writer.child(ROOT, b"c").unwrap();
        writer.remove(gone);
        let index = read_back(&writer);
        for name in [b"a", b"b"] {
            let record = index.lookup(name).unwrap();
            assert_eq!((record.link_group(), record.names()), (group, 2));
        }
    }

    #[test]
    fn foreign_and_short_files_are_not_usable() {
        for bytes in [&b""[..], &[0; 200], b"CRCLINDX"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            assert!(matches!(Index::from_file(&file), Err(IndexError::Unusable(_))));
        }
    }
}
