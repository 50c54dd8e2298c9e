//! What the kernel's credentials would be: ids, groups, and the rules by which calls change them.
//!
//! Pure. A process counts as privileged for ids while its effective user id is 0, which is what `CAP_SETUID` and
//! `CAP_SETGID` come to for programs that do not handle capabilities themselves.
//!
//! # Source
//! `credentials(7)`; the rules are those of `setresuid(2)` and its kin in `kernel/sys.c`, Linux 6.12.

use std::sync::Arc;

use nix::errno::Errno;

/// `(uid_t)-1`: leave as it is.
pub(super) const KEEP: u32 = u32::MAX;

/// The four ids of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    /// That of file accesses.
    pub(super) filesystem: u32,
}

/// Everything that is kept for a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) users: Ids,
    pub(super) groups: Ids,
    /// Supplementary groups, ascending.
    pub(super) additional: Arc<[u32]>,
    /// It may have another root directory or mount namespace than the container's.
    pub(super) moved: bool,
}

impl Default for Credentials {
    /// Root of the container.
    fn default() -> Self {
        Self { users: Ids::default(), groups: Ids::default(), additional: Arc::from([0]), moved: false }
    }
}

/// Which of the two kinds of ids a call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Group,
}

/// A call that changes ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// `setuid`, `setgid`.
    One(u32),
    /// `setreuid`, `setregid`: real, effective.
    Two(u32, u32),
    /// `setresuid`, `setresgid`: real, effective, saved.
    Three(u32, u32, u32),
    /// `setfsuid`, `setfsgid`.
    Filesystem(u32),
}

impl Credentials {
    /// Whether ids and groups can be changed to any other.
    pub(super) fn is_privileged(&self) -> bool {
        self.users.effective == 0
    }

    /// Whether files that it makes belong to root.
    pub(super) fn makes_files_of_root(&self) -> bool {
        self.users.filesystem == 0 && self.groups.filesystem == 0
    }

    /// Whether the group is one of its own.
    pub(super) fn is_member(&self, group: u32) -> bool {
        self.groups.filesystem == group || self.additional.binary_search(&group).is_ok()
    }

    /// The ids of one kind.
    pub(super) fn ids(&self, kind: Kind) -> &Ids {
        match kind {
            Kind::User => &self.users,
            Kind::Group => &self.groups,
        }
    }

    /// The credentials after the call, and what the call returns.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL` as the call would have them.
    pub(super) fn changed(&self, kind: Kind, change: Change) -> Result<(Credentials, i64), Errno> {
        let privileged = self.is_privileged();
        let old = *self.ids(kind);
        let (ids, value) = match change {
            Change::One(id) => (old.with_one(id, privileged)?, 0),
            Change::Two(real, effective) => (old.with_two(real, effective, privileged)?, 0),
            Change::Three(real, effective, saved) => (old.with_three(real, effective, saved, privileged)?, 0),
            Change::Filesystem(id) => (old.with_filesystem(id, privileged), i64::from(old.filesystem)),
        };
        let mut new = self.clone();
        match kind {
            Kind::User => new.users = ids,
            Kind::Group => new.groups = ids,
        }
        Ok((new, value))
    }

    /// The credentials after `setgroups`.
    pub(super) fn with_additional(&self, mut groups: Vec<u32>) -> Result<Credentials, Errno> {
        if !self.is_privileged() {
            return Err(Errno::EPERM);
        }
        groups.sort_unstable();
        Ok(Credentials { additional: groups.into(), ..self.clone() })
    }

    /// The credentials after `execve` of a file with these set-id bits.
    pub(super) fn executed(&self, set_user: Option<u32>, set_group: Option<u32>) -> Credentials {
        let mut new = self.clone();
        for (ids, set) in [(&mut new.users, set_user), (&mut new.groups, set_group)] {
            ids.effective = set.unwrap_or(ids.effective);
            ids.saved = ids.effective;
            ids.filesystem = ids.effective;
        }
        new
    }
}

impl Ids {
    /// All four the same.
    #[cfg(test)]
    fn all(id: u32) -> Ids {
        Ids { real: id, effective: id, saved: id, filesystem: id }
    }

    fn with_one(self, id: u32, privileged: bool) -> Result<Ids, Errno> {
        if id == KEEP {
            return Err(Errno::EINVAL);
        }
        if privileged {
            return Ok(Ids { real: id, effective: id, saved: id, filesystem: id });
        }
        if id != self.real && id != self.saved {
            return Err(Errno::EPERM);
        }
        Ok(Ids { effective: id, filesystem: id, ..self })
    }

    fn with_two(self, real: u32, effective: u32, privileged: bool) -> Result<Ids, Errno> {
        let mut new = self;
        if real != KEEP {
            if !privileged && real != self.real && real != self.effective {
                return Err(Errno::EPERM);
            }
            new.real = real;
        }
        if effective != KEEP {
            if !privileged && ![self.real, self.effective, self.saved].contains(&effective) {
                return Err(Errno::EPERM);
            }
            new.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != self.real) {
            new.saved = new.effective;
        }
        new.filesystem = new.effective;
        Ok(new)
    }

    fn with_three(self, real: u32, effective: u32, saved: u32, privileged: bool) -> Result<Ids, Errno> {
        let own = [self.real, self.effective, self.saved];
        if !privileged && [real, effective, saved].iter().any(|id| *id != KEEP && !own.contains(id)) {
            return Err(Errno::EPERM);
        }
        let or = |id: u32, old: u32| if id == KEEP { old } else { id };
        let effective = or(effective, self.effective);
        Ok(Ids { real: or(real, self.real), effective, saved: or(saved, self.saved), filesystem: effective })
    }

    fn with_filesystem(self, id: u32, privileged: bool) -> Ids {
        let own = [self.real, self.effective, self.saved, self.filesystem];
        if id != KEEP && (privileged || own.contains(&id)) { Ids { filesystem: id, ..self } } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(real: u32, effective: u32, saved: u32) -> Credentials {
        let users = Ids { real, effective, saved, filesystem: effective };
        Credentials { users, ..Credentials::default() }
    }

    fn users(from: &Credentials, change: Change) -> Result<(u32, u32, u32, u32), Errno> {
        let (new, _) = from.changed(Kind::User, change)?;
        Ok((new.users.real, new.users.effective, new.users.saved, new.users.filesystem))
    }

    #[test]
    fn root_takes_any_id_and_cannot_come_back() {
        let root = user(0, 0, 0);
        assert_eq!(users(&root, Change::One(33)), Ok((33, 33, 33, 33)));
        let web = user(33, 33, 33);
        assert_eq!(users(&web, Change::One(0)), Err(Errno::EPERM));
        assert_eq!(users(&web, Change::Two(KEEP, 0)), Err(Errno::EPERM));
        assert_eq!(users(&web, Change::Three(KEEP, KEEP, 0)), Err(Errno::EPERM));
        assert_eq!(users(&web, Change::Filesystem(0)), Ok((33, 33, 33, 33)));
        assert!(web.with_additional(vec![1]).is_err());
        assert_eq!(users(&root, Change::One(KEEP)), Err(Errno::EINVAL));
    }

    #[test]
    fn a_saved_id_is_a_way_back() {
        let lowered = user(0, 33, 0);
        assert_eq!(users(&lowered, Change::One(0)), Ok((0, 0, 0, 0)));
        assert_eq!(users(&lowered, Change::Two(KEEP, 0)), Ok((0, 0, 0, 0)));
        assert_eq!(users(&lowered, Change::Two(33, 0)), Ok((33, 0, 0, 0)));
        assert_eq!(users(&user(0, 0, 0), Change::Two(KEEP, 33)), Ok((0, 33, 33, 33)));
        assert_eq!(users(&user(0, 0, 0), Change::Three(KEEP, 33, KEEP)), Ok((0, 33, 0, 33)));
    }

    #[test]
    fn the_same_call_by_each_thread_in_turn_ends_where_the_first_did() {
        // libc makes every thread repeat the call, and the state is the process's.
        for change in [
            Change::One(33),
            Change::Two(33, 33),
            Change::Two(33, 0),
            Change::Three(33, 34, 35),
            Change::Three(KEEP, 33, KEEP),
            Change::Filesystem(33),
        ] {
            let once = user(0, 0, 0).changed(Kind::User, change).unwrap().0;
            assert_eq!(once.changed(Kind::User, change).unwrap().0, once, "{change:?}");
        }
    }

    #[test]
    fn execution_saves_the_effective_ids() {
        let new = user(1000, 33, 0).executed(None, None);
        assert_eq!(new.users, Ids { real: 1000, effective: 33, saved: 33, filesystem: 33 });
        let new = user(1000, 1000, 1000).executed(Some(0), Some(42));
        assert_eq!(new.users, Ids { real: 1000, effective: 0, saved: 0, filesystem: 0 });
        assert_eq!(new.groups, Ids { real: 0, effective: 42, saved: 42, filesystem: 42 });
        assert_eq!(Ids::all(5).with_three(KEEP, KEEP, KEEP, false), Ok(Ids::all(5)));
    }
}
