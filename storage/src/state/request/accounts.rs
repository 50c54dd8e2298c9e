//! The users and groups of a [`Request`](super::Request).

use serde::{Deserialize, Serialize};

/// What is added to the container's `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounts {
    /// Nothing is added.
    pub untouched: bool,
    /// The line of a user that is added, with `$USERNAME`, `$UID`, `$GID`, `$NAME` and `$HOME` to be filled in.
    pub passwd_entry: Option<String>,
    /// The line of a group that is added, with `$GROUPNAME`, `$GID` and `$USERLIST` to be filled in.
    pub group_entry: Option<String>,
    /// Users of the host to add, by name or id.
    pub host_users: Vec<String>,
}

/// One range of a user namespace: ids of the container, and the ids in the user's base namespace that they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id in the container.
    pub container: u32,
    /// The first id in the base namespace, where 0 is the user.
    pub base: u32,
    /// How many.
    pub size: u32,
}
