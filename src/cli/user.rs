//! `user[:group]` against the passwd and group files of a container's root, by docker's and podman's rules.
//!
//! Pure: the files are given as bytes, and whoever read them did so without leaving the root. A line that is not well
//! formed is passed over, as libc does.

/// The highest id that is taken.
const MAX_ID: u32 = i32::MAX as u32;

/// Who the first process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedUser {
    /// User id in the container.
    pub(crate) uid: u32,
    /// Group id in the container.
    pub(crate) gid: u32,
    /// Supplementary group ids, ascending. The primary one is among them: otherwise a program with the set-group-id bit
    /// could shed it, and with it what the group is denied (CVE-2022-2989 and its kin).
    pub(crate) additional_gids: Vec<u32>,
    /// Home directory; for a user that passwd does not know `/root` if it is root, else `/`.
    pub(crate) home: String,
}

/// A user or group that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum UnknownUser {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    #[error("uids and gids must be in range 0-{MAX_ID}")]
    Range,
    #[error("unable to find user {0}: must be USER[:GROUP]")]
    Form(String),
}

/// Resolves `user[:group]`, each a name or a number; empty means root.
///
/// A name wins over the same digits as a number. A group that is given is the only one; otherwise the user's groups of
/// the group file are added. `group_add` comes on top; its `keep-groups` is for whoever starts the process. A missing
/// file is empty.
///
/// # Errors
/// A name that is in neither file, or a number out of range.
pub(crate) fn resolve(
    spec: &str,
    group_add: &[String],
    passwd: &[u8],
    group: &[u8],
) -> Result<ResolvedUser, UnknownUser> {
    let (user, asked_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    if asked_group.is_some_and(|group| group.contains(':')) {
        return Err(UnknownUser::Form(spec.to_owned()));
    }
    let user = if user.is_empty() { "0" } else { user };
    let entry = find_user(user, passwd);
    let uid = match (&entry, number(user)?) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UnknownUser::User(user.to_owned())),
    };
    let gid = match asked_group {
        Some(name) => find_group(name, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut additional_gids = vec![gid];
    if let (None, Some(entry)) = (asked_group, &entry) {
        additional_gids.extend(groups(group).filter(|line| line.has_member(entry.name)).map(|line| line.gid));
    }
    for name in group_add.iter().filter(|name| *name != "keep-groups") {
        additional_gids.push(find_group(name, group)?);
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    let unknown_home = if uid == 0 { "/root" } else { "/" };
    let home =
        entry.as_ref().map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or(unknown_home).to_owned();
    Ok(ResolvedUser { uid, gid, additional_gids, home })
}

/// A number in range, or none if the text is not a number.
fn number(text: &str) -> Result<Option<u32>, UnknownUser> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    text.parse().ok().filter(|id| *id <= MAX_ID).map(Some).ok_or(UnknownUser::Range)
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn find_user<'a>(user: &str, passwd: &'a [u8]) -> Option<PasswdLine<'a>> {
    let id = user.parse::<u32>().ok();
    let mut by_id = None;
    for entry in lines(passwd).filter_map(passwd_line) {
        if entry.name == user {
            return Some(entry);
        }
        if by_id.is_none() && Some(entry.uid) == id {
            by_id = Some(entry);
        }
    }
    by_id
}

fn passwd_line(line: &str) -> Option<PasswdLine<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(PasswdLine { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl GroupLine<'_> {
    fn has_member(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member == user)
    }
}

fn groups(group: &[u8]) -> impl Iterator<Item = GroupLine<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(GroupLine { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn find_group(group: &str, file: &[u8]) -> Result<u32, UnknownUser> {
    match groups(file).find(|line| line.name == group) {
        Some(line) => Ok(line.gid),
        None => number(group)?.ok_or_else(|| UnknownUser::Group(group.to_owned())),
    }
}

/// Lines that are UTF-8; the others name nobody that can be asked for.
fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\
        broken:x\n\
        web:x:33:33:web:/var/www:/bin/false\n\
        \xff:x:5:5::/:/\n\
        1234:x:77:77::/digits:/bin/sh\n\
        homeless:x:44:45:::\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:33:\naudio:x:29:web,root\nvideo:x:28:web\nempty:x:99:\nbroken\n7:x:70:\n";

    fn user(uid: u32, gid: u32, additional: &[u32], home: &str) -> ResolvedUser {
        let mut additional_gids = [&[gid], additional].concat();
        additional_gids.sort_unstable();
        ResolvedUser { uid, gid, additional_gids, home: home.to_owned() }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        for (spec, expected) in [
            ("", user(0, 0, &[29], "/root")),
            ("root", user(0, 0, &[29], "/root")),
            ("0", user(0, 0, &[29], "/root")),
            ("web", user(33, 33, &[28, 29], "/var/www")),
            ("33", user(33, 33, &[28, 29], "/var/www")),
            ("web:audio", user(33, 29, &[], "/var/www")),
            ("web:1000", user(33, 1000, &[], "/var/www")),
            ("web:", user(33, 33, &[28, 29], "/var/www")),
            (":audio", user(0, 29, &[], "/root")),
            ("1000", user(1000, 0, &[], "/")),
            ("1000:1001", user(1000, 1001, &[], "/")),
            ("1000:7", user(1000, 70, &[], "/")),
            ("1234", user(77, 77, &[], "/digits")),
            ("homeless", user(44, 45, &[], "/")),
            ("2147483647", user(2_147_483_647, 0, &[], "/")),
        ] {
            assert_eq!(resolve(spec, &[], PASSWD, GROUP), Ok(expected), "{spec}");
        }
    }

    #[test]
    fn unknown_users_are_named_as_podman_names_them() {
        for (spec, message) in [
            ("nosuch", "unable to find user nosuch: no matching entries in passwd file"),
            ("nosuch:x", "unable to find user nosuch: no matching entries in passwd file"),
            ("broken", "unable to find user broken: no matching entries in passwd file"),
            ("root:nosuch", "unable to find group nosuch: no matching entries in group file"),
            ("2147483648", "uids and gids must be in range 0-2147483647"),
            ("-1", "uids and gids must be in range 0-2147483647"),
            ("0:99999999999", "uids and gids must be in range 0-2147483647"),
            ("a:b:c", "unable to find user a:b:c: must be USER[:GROUP]"),
        ] {
            assert_eq!(resolve(spec, &[], PASSWD, GROUP).unwrap_err().to_string(), message, "{spec}");
        }
    }

    #[test]
    fn missing_files_leave_numbers() {
        assert_eq!(resolve("", &[], b"", b""), Ok(user(0, 0, &[], "/root")));
        assert_eq!(resolve("5:6", &["7".to_owned()], b"", b""), Ok(user(5, 6, &[7], "/")));
        assert!(resolve("root", &[], b"", b"").is_err());
    }

    #[test]
    fn added_groups_come_on_top_once() {
        let add = ["video".to_owned(), "5".to_owned(), "audio".to_owned()];
        assert_eq!(resolve("web", &add, PASSWD, GROUP), Ok(user(33, 33, &[5, 28, 29], "/var/www")));
        assert!(resolve("web", &["nosuch".to_owned()], PASSWD, GROUP).is_err());
    }
}
