//! What `run` and `create` take where the command line says nothing: `[containers]` and parts of `[engine]` of
//! `containers.conf`, for `docker` those of `daemon.json` that are about containers.
//!
//! A key that is absent changes nothing. Lists of a later file replace those of an earlier one, unless they have
//! `{append=true}` among their members.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{CommandError, reason};

/// The values, by podman's names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub(crate) struct Defaults {
    pub(crate) annotations: Strings,
    pub(crate) base_hosts_file: Option<String>,
    pub(crate) cgroupns: Option<String>,
    pub(crate) default_capabilities: Option<Strings>,
    pub(crate) default_sysctls: Strings,
    pub(crate) default_ulimits: Strings,
    pub(crate) devices: Strings,
    pub(crate) dns_options: Strings,
    pub(crate) dns_searches: Strings,
    pub(crate) dns_servers: Strings,
    pub(crate) env: Strings,
    pub(crate) env_host: Option<bool>,
    pub(crate) http_proxy: Option<bool>,
    pub(crate) init: Option<bool>,
    pub(crate) init_path: Option<String>,
    pub(crate) ipcns: Option<String>,
    pub(crate) log_driver: Option<String>,
    /// docker's; podman has none but the size.
    #[serde(skip)]
    pub(crate) log_options: Vec<String>,
    pub(crate) log_size_max: Option<i64>,
    pub(crate) mounts: Strings,
    pub(crate) netns: Option<String>,
    pub(crate) no_hosts: Option<bool>,
    pub(crate) pids_limit: Option<i64>,
    pub(crate) pidns: Option<String>,
    pub(crate) read_only: Option<bool>,
    pub(crate) seccomp_profile: Option<String>,
    pub(crate) shm_size: Option<String>,
    pub(crate) tz: Option<String>,
    pub(crate) umask: Option<String>,
    pub(crate) userns: Option<String>,
    pub(crate) utsns: Option<String>,
    pub(crate) volumes: Strings,
}

/// A list that a later file may add to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<Member>")]
pub(crate) struct Strings {
    pub(crate) all: Vec<String>,
    is_there: bool,
    appends: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Member {
    Text(String),
    Attributes { append: bool },
}

impl From<Vec<Member>> for Strings {
    fn from(members: Vec<Member>) -> Self {
        let mut strings = Self { is_there: true, ..Self::default() };
        for member in members {
            match member {
                Member::Text(text) => strings.all.push(text),
                Member::Attributes { append } => strings.appends = append,
            }
        }
        strings
    }
}

impl Strings {
    fn overlay(&mut self, later: Self) {
        match (later.is_there, later.appends) {
            (false, _) => {}
            (true, true) => self.all.extend(later.all),
            (true, false) => *self = later,
        }
    }
}

impl Defaults {
    /// Takes over what a later file says.
    pub(super) fn overlay(&mut self, later: Self) {
        macro_rules! take {
            (lists $($list:ident)*; values $($value:ident)*) => {
                $(self.$list.overlay(later.$list);)*
                $(self.$value = later.$value.or(self.$value.take());)*
            };
        }
        take! {
            lists annotations default_sysctls default_ulimits devices dns_options dns_searches dns_servers env mounts volumes;
            values base_hosts_file cgroupns env_host http_proxy init init_path ipcns log_driver log_size_max netns no_hosts
                pids_limit pidns read_only seccomp_profile shm_size tz umask userns utsns
        }
        match (&mut self.default_capabilities, later.default_capabilities) {
            (Some(own), Some(later)) => own.overlay(later),
            (own, later) => *own = later.or(own.take()),
        }
    }

    /// What docker's `daemon.json` says of containers; the user's own file counts before the host's.
    ///
    /// # Errors
    /// A file that cannot be read, or is none.
    pub(crate) fn of_docker() -> Result<Self, CommandError> {
        let user = super::own_config().map(|config| config.join("docker/daemon.json"));
        for path in user.into_iter().chain([PathBuf::from("/etc/docker/daemon.json")]) {
            match std::fs::read(&path) {
                Ok(bytes) => return Self::of_daemon_json(&bytes).map_err(|why| wrong(&path, &why)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(wrong(&path, &reason(&error))),
            }
        }
        Ok(Self::default())
    }

    fn of_daemon_json(bytes: &[u8]) -> Result<Self, String> {
        let daemon: Daemon = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let strings = |all: Vec<String>| Strings { all, ..Strings::default() };
        let limit = |(name, limit): (String, Limit)| format!("{name}={}:{}", limit.soft, limit.hard);
        Ok(Self {
            default_ulimits: strings(daemon.default_ulimits.into_iter().map(limit).collect()),
            dns_options: strings(daemon.dns_opts),
            dns_searches: strings(daemon.dns_search),
            dns_servers: strings(daemon.dns),
            init: daemon.init,
            log_driver: daemon.log_driver,
            log_options: daemon.log_opts.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            shm_size: daemon.default_shm_size,
            ..Self::default()
        })
    }
}

fn wrong(path: &Path, why: &str) -> CommandError {
    CommandError::user(format!("{}: {why}", path.display()))
}

/// `daemon.json`, as far as it is about containers.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Daemon {
    default_shm_size: Option<String>,
    default_ulimits: BTreeMap<String, Limit>,
    dns: Vec<String>,
    dns_opts: Vec<String>,
    dns_search: Vec<String>,
    init: Option<bool>,
    log_driver: Option<String>,
    log_opts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Limit {
    hard: i64,
    soft: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_file_replaces_lists_or_adds_to_them() {
        let of = |text: &str| toml::from_str::<Defaults>(text).unwrap();
        let mut defaults =
            of("env = [\"A=1\"]\ntz = \"UTC\"\ndns_servers = [\"1.1.1.1\"]\ndefault_capabilities = [\"KILL\"]");
        defaults.overlay(of("env = [\"B=2\", {append = true}]\ndns_servers = [\"9.9.9.9\"]\ninit = true"));
        assert_eq!(
            (&defaults.env.all[..], &defaults.dns_servers.all[..]),
            (&["A=1".into(), "B=2".into()][..], &["9.9.9.9".into()][..])
        );
        assert_eq!((defaults.tz.as_deref(), defaults.init), (Some("UTC"), Some(true)));
        defaults.overlay(of("env = []\ndefault_capabilities = []"));
        assert_eq!((defaults.env.all.len(), defaults.default_capabilities.unwrap().all.len()), (0, 0));
    }

    #[test]
    fn dockers_file_is_read_by_dockers_names() {
        let json = br#"{"dns": ["10.0.0.1"], "log-driver": "json-file", "log-opts": {"max-size": "1m"}, "features": {},
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20, "Soft": 10}}, "default-shm-size": "32m"}"#;
        let defaults = Defaults::of_daemon_json(json).unwrap();
        assert_eq!(defaults.dns_servers.all, ["10.0.0.1"]);
        assert_eq!(defaults.default_ulimits.all, ["nofile=10:20"]);
        assert_eq!(defaults.log_options, ["max-size=1m"]);
        assert_eq!((defaults.log_driver.as_deref(), defaults.shm_size.as_deref()), (Some("json-file"), Some("32m")));
    }
}
