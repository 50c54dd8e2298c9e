//! The container's `/etc/hosts` as text; the caller writes it.
//!
//! The rule is podman's: user entries first, then the base file, then what we know ourselves, and a name that was
//! given earlier is not given again. One difference: in a private namespace the base file's loopback lines are left
//! out. They name sockets of the host (Debian's `127.0.1.1 myhost`), and inside the container the same text would
//! say that the host is the container.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why `--add-host` was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostsError {
    /// Not `name:ip`.
    #[error("bad format for add-host: {0:?}")]
    Format(String),
    /// The address does not parse.
    #[error("invalid IP address in add-host: {0:?}")]
    Address(String),
    /// `host-gateway` where the container cannot reach the host.
    #[error("unable to replace host-gateway of host entry {0:?}: the container has no address for the host")]
    NoGateway(String),
}

/// One `--add-host` entry: names (`a;b` gives two) and where they lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddHost {
    /// The names, at least one.
    pub names: Vec<String>,
    /// `None` is `host-gateway`.
    pub address: Option<IpAddr>,
}

impl AddHost {
    /// Parses `name[;name...]:ip`, also `name=ip` and an IPv6 address in brackets.
    ///
    /// # Errors
    /// [`HostsError::Format`] and [`HostsError::Address`].
    ///
    /// # Source
    /// podman-run(1) and docker run reference `--add-host`.
    pub fn parse(text: &str) -> Result<Self, HostsError> {
        let at = text.find(['=', ':']).ok_or_else(|| HostsError::Format(text.to_owned()))?;
        let (names, address) = (&text[..at], &text[at + 1..]);
        let names: Vec<String> = names.split(';').map(str::to_owned).collect();
        if names.iter().any(|n| n.is_empty() || n.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#')) {
            return Err(HostsError::Format(text.to_owned()));
        }
        let address = match address {
            "" => return Err(HostsError::Format(text.to_owned())),
            "host-gateway" => None,
            address => Some(
                address
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'))
                    .unwrap_or(address)
                    .parse()
                    .map_err(|_| HostsError::Address(address.to_owned()))?,
            ),
        };
        Ok(Self { names, address })
    }
}

/// What goes into the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hosts<'a> {
    /// `--add-host`, in order.
    pub add: &'a [AddHost],
    /// Text of the base file: the host's `/etc/hosts`, a file of the image, or nothing.
    pub base: Option<&'a str>,
    /// Whether the container shares the host's namespace, where the base file's loopback lines hold.
    pub host_network: bool,
    /// Where the host answers: `host.containers.internal`, `host.docker.internal` and `host-gateway`.
    pub host_address: Option<IpAddr>,
    /// The container's own addresses. With none (`none`, `host`) its names lead to loopback.
    pub addresses: &'a [IpAddr],
    /// Host name, container name and aliases; the first is the one programs print.
    pub names: &'a [&'a str],
}

impl Hosts<'_> {
    /// The file's text.
    ///
    /// ```text
    /// 192.0.2.9   db                                              --add-host
    /// 198.51.100.4 build.example                                  base file
    /// 127.0.0.1   localhost
    /// ::1         localhost ip6-localhost ip6-loopback
    /// 10.0.2.2    host.containers.internal host.docker.internal
    /// 10.0.2.100  web-1 web
    /// ```
    ///
    /// # Errors
    /// [`HostsError::NoGateway`].
    pub fn render(&self) -> Result<String, HostsError> {
        let mut out = String::new();
        let mut given: HashSet<String> = HashSet::new();
        for add in self.add {
            let address = match add.address.or(self.host_address) {
                Some(address) => address,
                None => return Err(HostsError::NoGateway(add.names.join(";"))),
            };
            // Several addresses for one name are several lines, all wanted.
            push_line(&mut out, address, add.names.iter().map(String::as_str));
            given.extend(add.names.iter().cloned());
        }
        for (address, names) in self.base_entries() {
            let fresh: Vec<&str> = names.into_iter().filter(|name| !self.is_added(name)).collect();
            push_line(&mut out, address, fresh.iter().copied());
            given.extend(fresh.into_iter().map(str::to_owned));
        }

        let mut own: Vec<(IpAddr, Vec<&str>)> = vec![
            (Ipv4Addr::LOCALHOST.into(), vec!["localhost"]),
            (Ipv6Addr::LOCALHOST.into(), vec!["localhost", "ip6-localhost", "ip6-loopback"]),
        ];
        if let Some(address) = self.host_address {
            own.push((address, vec!["host.containers.internal", "host.docker.internal"]));
        }
        if self.addresses.is_empty() {
            own.push((Ipv4Addr::LOCALHOST.into(), self.names.to_vec()));
        }
        own.extend(self.addresses.iter().map(|address| (*address, self.names.to_vec())));
        for (address, names) in own {
            push_line(&mut out, address, names.into_iter().filter(|name| !given.contains(*name)));
        }
        Ok(out)
    }

    fn is_added(&self, name: &str) -> bool {
        self.add.iter().any(|add| add.names.iter().any(|n| n == name))
    }

    fn base_entries(&self) -> impl Iterator<Item = (IpAddr, Vec<&str>)> {
        self.base.unwrap_or_default().lines().filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            let names: Vec<&str> = words.collect();
            let wanted = !names.is_empty() && (self.host_network || !address.is_loopback());
            wanted.then_some((address, names))
        })
    }
}

fn push_line<'n>(out: &mut String, address: IpAddr, names: impl Iterator<Item = &'n str>) {
    let mut written: Vec<&str> = Vec::new();
    for name in names.filter(|name| !name.is_empty()) {
        if !written.contains(&name) {
            written.push(name);
        }
    }
    if !written.is_empty() {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{address}\t{}", written.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "# host\n127.0.0.1 localhost\n127.0.1.1 myhost\n::1 localhost\n198.51.100.4 build.example build # ci\nff02::1 ip6-allnodes\nbad line\n";

    #[test]
    fn private_namespace_drops_loopback_lines_of_the_host() {
        let add = [AddHost::parse("db:192.0.2.9").unwrap(), AddHost::parse("up;build:host-gateway").unwrap()];
        let text = Hosts {
            add: &add,
            base: Some(BASE),
            host_network: false,
            host_address: Some("10.0.2.2".parse().unwrap()),
            addresses: &["10.0.2.100".parse().unwrap(), "fd00::1".parse().unwrap()],
            names: &["web-1", "web", "web-1"],
        }
        .render()
        .unwrap();
        assert_eq!(
            text,
            "192.0.2.9\tdb\n10.0.2.2\tup build\n198.51.100.4\tbuild.example\nff02::1\tip6-allnodes\n\
             127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             10.0.2.2\thost.containers.internal host.docker.internal\n10.0.2.100\tweb-1 web\nfd00::1\tweb-1 web\n"
        );
    }

    #[test]
    fn host_network_keeps_the_hosts_file_whole() {
        let text = Hosts { base: Some(BASE), host_network: true, names: &["myhost"], ..Hosts::default() };
        let text = text.render().unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n127.0.1.1\tmyhost\n::1\tlocalhost\n"), "{text}");
        assert!(!text.contains("127.0.0.1\tmyhost"), "{text}");
    }

    #[test]
    fn no_network_leads_the_own_name_to_loopback() {
        let text = Hosts { names: &["abc"], ..Hosts::default() }.render().unwrap();
        assert_eq!(text, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tabc\n");
    }

    #[test]
    fn add_host_forms() {
        for (text, expected) in [
            ("a:1.2.3.4", Ok("1.2.3.4")),
            ("a=1.2.3.4", Ok("1.2.3.4")),
            ("a:fd00::1", Ok("fd00::1")),
            ("a:[fd00::1]", Ok("fd00::1")),
            ("a", Err("bad format for add-host: \"a\"")),
            (":1.2.3.4", Err("bad format for add-host: \":1.2.3.4\"")),
            ("a:", Err("bad format for add-host: \"a:\"")),
            ("a b:1.2.3.4", Err("bad format for add-host: \"a b:1.2.3.4\"")),
            ("a\nb:1.2.3.4", Err("bad format for add-host: \"a\\nb:1.2.3.4\"")),
            ("a:nowhere", Err("invalid IP address in add-host: \"nowhere\"")),
        ] {
            let got = AddHost::parse(text).map(|add| add.address.unwrap().to_string()).map_err(|e| e.to_string());
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
        let add = [AddHost::parse("h:host-gateway").unwrap()];
        assert!(matches!(Hosts { add: &add, ..Hosts::default() }.render(), Err(HostsError::NoGateway(_))));
    }
}
