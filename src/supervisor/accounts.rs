//! Who the first process is, and what its container's passwd and group files are told of it.
//!
//! Pure: the files are given as bytes. What is to be added is appended by init, before anything is mounted.

use std::path::{Path, PathBuf};

use runtime::mount::target::Append;
use storage::state::request::{Accounts, Mount, Request, UserNamespace};

use crate::cli::user::{self, ResolvedUser};
use crate::error::CommandError;

/// A user as a passwd file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    full_name: String,
    home: String,
}

/// Finds out who the first process is, by the files of its image, and what is to be added to these.
pub(crate) fn resolve(
    request: &Request,
    passwd: Vec<u8>,
    group: Vec<u8>,
) -> Result<(ResolvedUser, Vec<Append>), CommandError> {
    let names_of_host =
        !request.accounts.host_users.is_empty() || matches!(request.userns, UserNamespace::KeepId { .. });
    let read = |path| if names_of_host { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
    let (of_host, groups_of_host) = (read("/etc/passwd"), read("/etc/group"));
    let caller = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    Files { request, passwd, group, of_host: &of_host, groups_of_host: &groups_of_host, caller }.resolve()
}

struct Files<'a> {
    request: &'a Request,
    passwd: Vec<u8>,
    group: Vec<u8>,
    of_host: &'a [u8],
    groups_of_host: &'a [u8],
    caller: (u32, u32),
}

impl Files<'_> {
    fn resolve(mut self) -> Result<(ResolvedUser, Vec<Append>), CommandError> {
        let (passwd_bytes, group_bytes) = (self.passwd.len(), self.group.len());
        let accounts = &self.request.accounts;
        let mut home = None;
        if !accounts.untouched {
            for wanted in &accounts.host_users {
                let account = line_of(self.of_host, wanted).ok_or_else(|| {
                    CommandError::user(format!("--hostuser {wanted}: there is no such user on this host"))
                })?;
                let group = name_of_group(self.groups_of_host, account.gid);
                self.add_user(accounts, account.clone());
                self.add_group(accounts, group.unwrap_or(account.name.clone()), account.gid, &account.name);
            }
            home = self.add_caller(accounts);
        }
        let request = self.request;
        let mut user =
            user::resolve(&request.user, &request.group_add, &self.passwd, &self.group).map_err(CommandError::user)?;
        if !accounts.untouched {
            self.add_numbers(accounts, &user);
        }
        if let Some((_, home)) = home.filter(|(uid, _)| *uid == user.uid) {
            user.home = home;
        }
        let added = [("/etc/passwd", passwd_bytes, self.passwd), ("/etc/group", group_bytes, self.group)];
        let appends = added.into_iter().filter_map(|(path, before, bytes)| {
            let text = String::from_utf8_lossy(bytes.get(before..)?).into_owned();
            (!text.is_empty()).then(|| Append { path: PathBuf::from(path), text })
        });
        Ok((user, appends.collect()))
    }

    /// `--userns keep-id`: the user whose id is kept has a name, too. Returns their id and home.
    fn add_caller(&mut self, accounts: &Accounts) -> Option<(u32, String)> {
        let UserNamespace::KeepId { uid, gid, .. } = &self.request.userns else { return None };
        let mut account = line_of(self.of_host, &self.caller.0.to_string())?;
        let group = name_of_group(self.groups_of_host, account.gid).unwrap_or_else(|| account.name.clone());
        account.uid = uid.unwrap_or(self.caller.0);
        account.gid = gid.unwrap_or(self.caller.1);
        // Their home is where it is on the host only if it has been mounted.
        let is_mounted = |mount: &Mount| Path::new(&account.home).starts_with(mount.target());
        if !self.request.mounts.iter().any(is_mounted) {
            account.home = self.workdir();
        }
        let (uid, gid, name, home) = (account.uid, account.gid, account.name.clone(), account.home.clone());
        if uid == 0 {
            return None;
        }
        let is_new = self.add_user(accounts, account);
        self.add_group(accounts, group, gid, &name);
        is_new.then_some((uid, home))
    }

    /// A user or group in digits that the image knows no name of.
    fn add_numbers(&mut self, accounts: &Accounts, user: &ResolvedUser) {
        let (uid, gid) = (user.uid, user.gid);
        let in_digits = |text: Option<&str>, id: u32| text.is_some_and(|text| text.parse() == Ok(id));
        let mut parts = self.request.user.splitn(2, ':');
        let (asked_user, asked_group) = (parts.next(), parts.next());
        if in_digits(asked_user, uid) && line_of(&self.passwd, &uid.to_string()).is_none() {
            let home = self.workdir();
            let full_name = "container user".to_owned();
            self.add_user(accounts, Account { name: uid.to_string(), uid, gid, full_name, home });
        }
        if in_digits(asked_group, gid) {
            let member = line_of(&self.passwd, &uid.to_string()).map(|line| line.name).unwrap_or_default();
            self.add_group(accounts, gid.to_string(), gid, &member);
        }
    }

    fn workdir(&self) -> String {
        let workdir = self.request.workdir.to_string_lossy();
        if workdir.is_empty() { "/".to_owned() } else { workdir.into_owned() }
    }

    /// Whether there was none of the name or the id.
    fn add_user(&mut self, accounts: &Accounts, account: Account) -> bool {
        let Account { name, uid, gid, full_name, home } = account;
        if line_of(&self.passwd, &name).is_some() || line_of(&self.passwd, &uid.to_string()).is_some() {
            return false;
        }
        let line = match &accounts.passwd_entry {
            Some(entry) => fill_in(
                entry,
                &[
                    ("$USERNAME", &name),
                    ("$UID", &uid.to_string()),
                    ("$GID", &gid.to_string()),
                    ("$NAME", &full_name),
                    ("$HOME", &home),
                ],
            ),
            None => format!("{name}:*:{uid}:{gid}:{full_name}:{home}:/bin/sh"),
        };
        add_line(&mut self.passwd, &line);
        true
    }

    fn add_group(&mut self, accounts: &Accounts, name: String, gid: u32, member: &str) {
        if name_of_group(&self.group, gid).is_some() || id_of_group(&self.group, &name).is_some() {
            return;
        }
        let line = match &accounts.group_entry {
            Some(entry) => fill_in(entry, &[("$GROUPNAME", &name), ("$GID", &gid.to_string()), ("$USERLIST", member)]),
            None => format!("{name}:x:{gid}:{member}"),
        };
        add_line(&mut self.group, &line);
    }
}

fn add_line(file: &mut Vec<u8>, line: &str) {
    if file.last().is_some_and(|last| *last != b'\n') {
        file.push(b'\n');
    }
    file.extend_from_slice(line.trim_end_matches('\n').as_bytes());
    file.push(b'\n');
}

fn fill_in(entry: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(entry.to_owned(), |text, (name, value)| text.replace(name, value))
}

fn lines(file: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    let lines = file.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.map(|line| line.trim().split(':').collect())
}

/// The user of that name, or else of that id.
fn line_of(passwd: &[u8], wanted: &str) -> Option<Account> {
    let accounts = || {
        lines(passwd).filter_map(|fields| {
            let [name, _, uid, gid, full_name, home, ..] = fields.as_slice() else { return None };
            Some(Account {
                name: (*name).to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                full_name: (*full_name).to_owned(),
                home: (*home).to_owned(),
            })
        })
    };
    accounts()
        .find(|account| account.name == wanted)
        .or_else(|| accounts().find(|account| wanted.parse() == Ok(account.uid)))
}

fn name_of_group(group: &[u8], gid: u32) -> Option<String> {
    lines(group).find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(gid))).map(|fields| fields[0].to_owned())
}

fn id_of_group(group: &[u8], name: &str) -> Option<u32> {
    lines(group).find(|fields| fields.first() == Some(&name))?.get(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use storage::state::request::BindMount;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/false";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:33:\n";
    const HOST: &[u8] = b"ann:x:1000:1001:Ann A.:/home/ann:/bin/zsh\nbob:x:1002:1003::/home/bob:/bin/sh\n";
    const HOST_GROUPS: &[u8] = b"users:x:1001:\nbobs:x:1003:\n";

    fn added(request: &Request) -> (ResolvedUser, String) {
        let files = Files {
            request,
            passwd: PASSWD.to_vec(),
            group: GROUP.to_vec(),
            of_host: HOST,
            groups_of_host: HOST_GROUPS,
            caller: (1000, 1001),
        };
        let (user, appends) = files.resolve().unwrap();
        (user, appends.iter().map(|one| format!("{}: {}", one.path.display(), one.text)).collect())
    }

    #[test]
    fn known_users_add_nothing() {
        for user in ["", "root", "web", "33", "33:33", "web:0"] {
            let request = Request { user: user.to_owned(), ..Request::default() };
            assert_eq!(added(&request).1, "", "{user}");
        }
    }

    #[test]
    fn numbers_get_lines() {
        let request = Request { user: "77:88".to_owned(), workdir: "/w".into(), ..Request::default() };
        assert_eq!(added(&request).1, "/etc/passwd: \n77:*:77:88:container user:/w:/bin/sh\n/etc/group: 88:x:88:77\n");
        let accounts = Accounts {
            passwd_entry: Some("u$UID:x:$UID:$GID:$NAME:$HOME:/bin/ksh".to_owned()),
            group_entry: Some("g$GID:x:$GID:$USERLIST".to_owned()),
            ..Accounts::default()
        };
        assert_eq!(
            added(&Request { accounts, ..request.clone() }).1,
            "/etc/passwd: \nu77:x:77:88:container user:/w:/bin/ksh\n/etc/group: g88:x:88:u77\n"
        );
        let accounts = Accounts { untouched: true, ..Accounts::default() };
        assert_eq!(added(&Request { accounts, ..request }).1, "");
    }

    #[test]
    fn the_user_whose_id_is_kept_has_a_name() {
        let userns = UserNamespace::KeepId { uid: None, gid: None, size: None };
        let mut request = Request { user: "1000:1001".to_owned(), userns, ..Request::default() };
        let (user, text) = added(&request);
        assert_eq!(text, "/etc/passwd: \nann:*:1000:1001:Ann A.:/:/bin/sh\n/etc/group: users:x:1001:ann\n");
        assert_eq!(user.home, "/");
        let home = BindMount { source: "/home".into(), target: "/home".into(), ..BindMount::default() };
        request.mounts.push(Mount::Bind(home));
        let (user, text) = added(&request);
        assert!(text.contains("ann:*:1000:1001:Ann A.:/home/ann:/bin/sh"), "{text}");
        assert_eq!(user.home, "/home/ann");
    }

    #[test]
    fn users_of_the_host_can_be_named() {
        let accounts = Accounts { host_users: vec!["bob".to_owned()], ..Accounts::default() };
        let (user, text) = added(&Request { user: "bob".to_owned(), accounts, ..Request::default() });
        assert_eq!((user.uid, user.gid), (1002, 1003));
        assert_eq!(text, "/etc/passwd: \nbob:*:1002:1003::/home/bob:/bin/sh\n/etc/group: bobs:x:1003:bob\n");
    }
}
