//! The container's users and groups: its passwd and group files, and the ids they stand for.

use clap::Args;
use storage::state::request::{Accounts, IdRange, Request, UserNamespace};

use super::Caller;
use crate::cli::parse::{Parsed, namespaces};
use crate::cli::usage::{Checked, InvalidOption, each};

/// Options of users and ids.
#[derive(Args, Clone, Debug)]
pub(crate) struct AccountOptions {
    /// Add lines to /etc/passwd and /etc/group for users that the image does not know
    #[arg(long, default_value_t = true)]
    pub(crate) passwd: bool,
    /// The line to add to /etc/passwd, with $USERNAME, $UID, $GID, $NAME and $HOME
    #[arg(long, value_name = "LINE")]
    pub(crate) passwd_entry: Option<String>,
    /// The line to add to /etc/group, with $GROUPNAME, $GID and $USERLIST
    #[arg(long, value_name = "LINE")]
    pub(crate) group_entry: Option<String>,
    /// Add a user of the host to /etc/passwd, by name or id
    #[arg(long = "hostuser", value_name = "USER", value_delimiter = ',')]
    pub(crate) host_users: Vec<String>,
    /// Map user ids, CONTAINER:ID[:COUNT]; ID counts the ids of this user, of which 0 is their own
    #[arg(long = "uidmap", value_name = "MAP", value_delimiter = ',')]
    pub(crate) uid_maps: Vec<String>,
    /// Whose subordinate user ids the container has; only this user's can be
    #[arg(long = "subuidname", value_name = "NAME", hide = true)]
    pub(crate) subuid_name: Option<String>,
    /// Whose subordinate group ids the container has; only this user's can be
    #[arg(long = "subgidname", value_name = "NAME", hide = true)]
    pub(crate) subgid_name: Option<String>,
    /// Map group ids; the same as --uidmap if that is given alone
    #[arg(long = "gidmap", value_name = "MAP", value_delimiter = ',')]
    pub(crate) gid_maps: Vec<String>,
}

impl AccountOptions {
    /// Expects the namespaces of the request to be set.
    pub(crate) fn apply(&self, request: &mut Request, caller: &Caller<'_>) -> Checked<()> {
        for (flag, name) in [("--subuidname", &self.subuid_name), ("--subgidname", &self.subgid_name)] {
            let Some(name) = name else { continue };
            if !is_own_name(name, caller.uid) {
                let reason = "containers have the subordinate ids of the user who runs them, and no others".to_owned();
                return Err(InvalidOption { flag, value: name.clone(), reason });
            }
        }
        let line = |line: &String| line.trim_end_matches('\n').to_owned();
        for (flag, entry) in [("--passwd-entry", &self.passwd_entry), ("--group-entry", &self.group_entry)] {
            if let Some(text) = entry.as_ref().filter(|text| !is_line(text)) {
                let reason = "must be one line with colons between its fields".to_owned();
                return Err(InvalidOption { flag, value: text.clone(), reason });
            }
        }
        request.accounts = Accounts {
            untouched: !self.passwd,
            passwd_entry: self.passwd_entry.as_ref().map(line),
            group_entry: self.group_entry.as_ref().map(line),
            host_users: self.host_users.clone(),
        };
        let uids = each("--uidmap", &self.uid_maps, id_range)?;
        let gids = each("--gidmap", &self.gid_maps, id_range)?;
        let (uids, gids) = match (uids.is_empty(), gids.is_empty()) {
            (true, true) => return Ok(()),
            (false, true) => (uids.clone(), uids),
            (true, false) => (gids.clone(), gids),
            (false, false) => (uids, gids),
        };
        if request.userns != UserNamespace::Host {
            let (flag, maps) =
                if self.uid_maps.is_empty() { ("--gidmap", &self.gid_maps) } else { ("--uidmap", &self.uid_maps) };
            let reason = "--userns and --uidmap or --gidmap are mutually exclusive".to_owned();
            return Err(InvalidOption { flag, value: maps.first().cloned().unwrap_or_default(), reason });
        }
        request.userns = UserNamespace::Maps { uids, gids };
        Ok(())
    }
}

/// Whether that is the user who types.
fn is_own_name(name: &str, uid: u32) -> bool {
    name == uid.to_string() || runtime::userns::subid::Owner::of(uid).name() == name
}

/// Whether it can be a line of a file, whatever its end.
fn is_line(text: &str) -> bool {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.contains(':') && !text.chars().any(char::is_control)
}

/// `CONTAINER:ID[:COUNT]`.
fn id_range(value: &str) -> Parsed<IdRange> {
    let fields: Vec<&str> = value.split(':').collect();
    let (container, base, size) = match fields.as_slice() {
        [container, base] => (*container, *base, "1"),
        [container, base, size] => (*container, *base, *size),
        _ => return Err("must be CONTAINER:ID[:COUNT]".to_owned()),
    };
    if base.starts_with('@') {
        return Err("ids of the host (@) are not supported: count those of this user, 0 for their own".to_owned());
    }
    let range =
        IdRange { container: namespaces::id(container)?, base: namespaces::id(base)?, size: namespaces::id(size)? };
    let fits = |first: u32| first.checked_add(range.size).is_some();
    match range.size > 0 && fits(range.container) && fits(range.base) {
        true => Ok(range),
        false => Err("COUNT must be at least 1, and no id larger than 4294967294".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_ranges() {
        let range = |container, base, size| IdRange { container, base, size };
        assert_eq!(id_range("0:1:1000"), Ok(range(0, 1, 1000)));
        assert_eq!(id_range("1000:0"), Ok(range(1000, 0, 1)));
        for bad in ["", "0", "0:1:2:3", "a:0:1", "0:-1:1", "0:0:0", "0:@1000:1", "4294967295:0:2", "0:1:4294967295"] {
            assert!(id_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_are_lines() {
        assert!(is_line("a:x:1:1::/:/bin/sh") && is_line("a:x:1:1::/:/bin/sh\n"));
        for bad in ["", "a", "a:b\nc:d", "a:\u{1b}[2J"] {
            assert!(!is_line(bad), "{bad:?}");
        }
    }
}
