//! `user[:group]` against the container's passwd and group files.
//!
//! # Source
//! `passwd(5)`, `group(5)`; rules as in docker: a number need not be in the file, a name must.

/// Ids of a container's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolvedUser {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) additional_gids: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `-u` and `--group-add`; an empty `user` is root.
pub(crate) fn resolve(user: &str, group_add: &[String], passwd: &[u8], group: &[u8]) -> Result<ResolvedUser, String> {
    let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let users: Vec<Passwd<'_>> = passwd.lines().filter_map(parse_passwd).collect();
    let groups: Vec<Group<'_>> = group.lines().filter_map(parse_group).collect();
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name that looks like a number is looked for as a name first, as docker does.
    let by_name = users.iter().find(|entry| entry.name == user);
    let (uid, entry) = match (by_name, parse_id(user)) {
        (Some(entry), _) => (entry.uid, Some(entry)),
        (None, Some(uid)) => (uid, users.iter().find(|entry| entry.uid == uid)),
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    let find_group = |text: &str| {
        let named = groups.iter().find(|entry| entry.name == text).map(|entry| entry.gid);
        named
            .or_else(|| parse_id(text))
            .ok_or_else(|| format!("unable to find group {text}: no matching entries in group file"))
    };
    let gid = match wanted_group {
        Some(text) => find_group(text)?,
        None => entry.map_or(0, |entry| entry.gid),
    };
    let mut additional_gids: Vec<u32> = match (wanted_group, entry) {
        // With an explicit group the user's other groups do not count.
        (None, Some(entry)) => groups
            .iter()
            .filter(|group| group.members.split(',').any(|member| member == entry.name))
            .map(|group| group.gid)
            .collect(),
        _ => Vec::new(),
    };
    for text in group_add.iter().filter(|text| *text != "keep-groups") {
        additional_gids.push(find_group(text)?);
    }
    if !additional_gids.contains(&gid) {
        additional_gids.push(gid);
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    let home =
        entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or(if uid == 0 { "/root" } else { "/" });
    Ok(ResolvedUser { uid, gid, additional_gids, home: home.to_owned() })
}

fn parse_id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| *id < u32::MAX)
}

fn parse_passwd(line: &str) -> Option<Passwd<'_>> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
}

fn parse_group(line: &str) -> Option<Group<'_>> {
    let fields: Vec<&str> = line.trim().split(':').collect();
    let [name, _, gid, rest @ ..] = fields.as_slice() else { return None };
    Some(Group { name, gid: gid.parse().ok()?, members: rest.first().copied().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102::/var/lib/nginx:/bin/false\nbroken\n";
    const GROUP: &[u8] = b"root:x:0:\nnginx:x:102:\nadm:x:4:nginx,root\n";

    fn of(user: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        resolve(user, &[], PASSWD, GROUP).map(|user| (user.uid, user.gid, user.additional_gids, user.home))
    }

    #[test]
    fn users_are_found_by_name_and_by_number_and_need_not_be_listed_as_a_number() {
        let root = (0, 0, vec![0, 4], "/root".to_owned());
        assert_eq!(of(""), Ok(root.clone()));
        assert_eq!(of("root"), Ok(root));
        assert_eq!(of("nginx"), Ok((101, 102, vec![4, 102], "/var/lib/nginx".to_owned())));
        assert_eq!(of("101:0"), Ok((101, 0, vec![0], "/var/lib/nginx".to_owned())));
        assert_eq!(of("4242"), Ok((4242, 0, vec![0], "/".to_owned())));
        assert_eq!(of("4242:adm"), Ok((4242, 4, vec![4], "/".to_owned())));
    }

    #[test]
    fn names_that_are_not_listed_are_refused() {
        assert_eq!(of("eve").unwrap_err(), "unable to find user eve: no matching entries in passwd file");
        assert_eq!(of("root:eve").unwrap_err(), "unable to find group eve: no matching entries in group file");
    }
}
