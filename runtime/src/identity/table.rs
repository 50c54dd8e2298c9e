//! Where the credentials of a process are kept: an index in an attribute of the process itself.
//!
//! The kernel copies it at `fork`, keeps it over `execve` and frees it with the process, so nothing here has to follow
//! processes, and no order of events can be missed. The attribute is the soft limit of `RLIMIT_LOCKS`, which no kernel
//! since 2.4 looks at: it is set from outside by `prlimit`, is 64 bits wide, belongs to the whole process as credentials
//! do, and the filter keeps the container from setting it itself.
//!
//! ```text
//! soft limit of RLIMIT_LOCKS: 0x636f_7261 | index into the table      anything else: root
//! ```
//!
//! Rejected: a map from pid to credentials (a fork is not notified, so a child would have to be attributed to a parent
//! that may be gone), `RLIMIT_RTTIME` (real-time tasks are killed by it), timer slack and I/O priority (per thread, and
//! they do something), a keyring (only the process itself can set it).
//!
//! # Source
//! `getrlimit(2)`, `RLIMIT_LOCKS`: "only in Linux 2.4.0 through 2.4.24".

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::credentials::Credentials;
use crate::security::seccomp::compiler::identity::STATE_LIMIT;
use crate::sys::notify;

/// The upper half of a limit that is ours.
const MARK: u64 = 0x636f_7261_0000_0000;

/// Memory for entries; then there are no new combinations of ids, and who asks for one gets `EAGAIN`.
const MAX_BYTES: usize = 16 << 20;

/// What an entry takes besides its groups.
const ENTRY_BYTES: usize = 256;

/// Every combination of ids that any process of the container had.
#[derive(Debug)]
pub(super) struct Table(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    all: Vec<Arc<Credentials>>,
    indices: HashMap<Arc<Credentials>, u32>,
    bytes: usize,
}

impl Table {
    /// A table with root in it.
    pub(super) fn new() -> Table {
        Table(Mutex::new(Entries { all: Vec::new(), indices: HashMap::new(), bytes: 0 }))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credentials of a process, by any of its threads.
    pub(super) fn of(&self, thread: u32) -> Result<Arc<Credentials>, Errno> {
        let (soft, _) = notify::limit_of(thread, STATE_LIMIT, None)?;
        let index = (soft & !0xffff_ffff == MARK).then_some((soft & 0xffff_ffff) as usize);
        let found = index.and_then(|index| self.entries().all.get(index).cloned());
        Ok(found.unwrap_or_default())
    }

    /// Gives a process new credentials.
    ///
    /// # Errors
    /// `EAGAIN` when the table is full, `ESRCH` when the process is gone, `EPERM` when its hard limit is too low.
    pub(super) fn set(&self, thread: u32, credentials: Credentials) -> Result<(), Errno> {
        let (_, hard) = notify::limit_of(thread, STATE_LIMIT, None)?;
        let soft = MARK | u64::from(self.intern(credentials)?);
        notify::limit_of(thread, STATE_LIMIT, Some((soft, hard))).map(drop).map_err(|errno| match errno {
            Errno::EINVAL => Errno::EPERM,
            other => other,
        })
    }

    fn intern(&self, credentials: Credentials) -> Result<u32, Errno> {
        let mut entries = self.entries();
        if let Some(index) = entries.indices.get(&credentials) {
            return Ok(*index);
        }
        let bytes = entries.bytes + ENTRY_BYTES + credentials.additional.len() * size_of::<u32>();
        if bytes > MAX_BYTES {
            return Err(Errno::EAGAIN);
        }
        let index = u32::try_from(entries.all.len()).map_err(|_| Errno::EAGAIN)?;
        let credentials = Arc::new(credentials);
        entries.all.push(Arc::clone(&credentials));
        entries.indices.insert(credentials, index);
        entries.bytes = bytes;
        Ok(index)
    }
}

/// Whether this process can carry an index: its hard limit, which nobody can raise again, must leave room.
pub(crate) fn is_possible() -> bool {
    matches!(notify::limit_of(0, STATE_LIMIT, None), Ok((_, u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_refuses_new_entries_and_knows_the_old_ones() {
        let table = Table::new();
        let many: Vec<u32> = (0..65_536).collect();
        let with = |group: u32| {
            let mut groups = many.clone();
            groups.push(group);
            Credentials::default().with_additional(groups).unwrap()
        };
        let mut refused = None;
        for group in 100_000..101_000 {
            if table.intern(with(group)).is_err() {
                refused = Some(group);
                break;
            }
        }
        assert!(refused.is_some_and(|group| group > 100_050), "{refused:?}");
        assert_eq!(table.intern(with(100_000)), Ok(0));
    }
}
