//! The container's `/etc/resolv.conf` as text; the caller reads the host's and writes ours.
//!
//! No rule here ever adds a public server: with nothing to ask, the file has no `nameserver` line.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::dns::DOMAIN;

/// The file systemd-resolved keeps the real servers in.
///
/// # Source
/// systemd-resolved.service(8), "/etc/resolv.conf".
pub const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// How many servers a resolver reads.
///
/// # Source
/// resolv.conf(5), `MAXNS`.
const MOST_SERVERS: usize = 3;

/// A parsed `resolv.conf`.
///
/// # Source
/// resolv.conf(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Servers in order, without a `%scope`: the scope is a link of the host.
    pub nameservers: Vec<IpAddr>,
    /// The search list; the last `search` or `domain` line wins.
    pub search: Vec<String>,
    /// All `options` words.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads what it understands and skips the rest.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().map(|w| w.split('%').next().unwrap_or(w));
                    conf.nameservers.extend(address.and_then(|a| a.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }

    /// Whether every server is a loopback stub, so that the real servers stand in [`RESOLVED_UPSTREAM`].
    #[must_use]
    pub fn is_stub(&self) -> bool {
        !self.nameservers.is_empty() && self.nameservers.iter().all(IpAddr::is_loopback)
    }
}

/// `--dns`, `--dns-search`, `--dns-option`, with `none` already read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// `--dns`; replaces every server, the driver's too.
    pub servers: &'a [IpAddr],
    /// `--dns-search`; `.` alone clears the list.
    pub search: &'a [String],
    /// `--dns-option`; replaces the host's.
    pub options: &'a [String],
}

/// What the network the container is in means for its servers.
#[derive(Debug, Clone, Copy)]
pub enum Reach<'a> {
    /// The host's own namespace: everything the host asks can be asked.
    Host,
    /// On bridges, whose addresses these are: they answer names of containers, and pass on the rest to the host's servers, or
    /// to those of the choice.
    Names(&'a [IpAddr]),
    /// Behind a driver that answers at these addresses; the host's real servers follow.
    Driver(&'a [IpAddr]),
    /// No way out.
    Nothing,
}

/// The file's text.
///
/// `host` is the host's `/etc/resolv.conf`, `upstream` the text of [`RESOLVED_UPSTREAM`] if there is one; it replaces
/// a host file that names nothing but the stub, because the stub's loopback address means the container itself in a
/// namespace of its own. Servers on loopback are left out there, and link-local IPv6 ones, which need a scope.
#[must_use]
pub fn render(host: &str, upstream: Option<&str>, choice: Choice<'_>, reach: Reach<'_>) -> String {
    let stub = ResolvConf::parse(host);
    let conf = match (reach, upstream) {
        (Reach::Driver(_), Some(upstream)) if stub.is_stub() => ResolvConf {
            nameservers: ResolvConf::parse(upstream).nameservers,
            // The stub file's `edns0 trust-ad` describes the stub, not the servers behind it.
            options: ResolvConf::parse(upstream).options,
            search: stub.search,
        },
        _ => stub,
    };

    let mut servers: Vec<IpAddr> = Vec::new();
    let mut add = |server: IpAddr| {
        if !servers.contains(&server) {
            servers.push(server);
        }
    };
    if let Reach::Names(gateways) = reach {
        gateways.iter().copied().take(MOST_SERVERS).for_each(&mut add);
    } else if !choice.servers.is_empty() {
        choice.servers.iter().copied().for_each(&mut add);
    } else {
        match reach {
            Reach::Host => conf.nameservers.iter().copied().for_each(&mut add),
            Reach::Driver(driver) => {
                driver.iter().copied().for_each(&mut add);
                conf.nameservers.iter().copied().filter(is_reachable).for_each(&mut add);
            }
            Reach::Names(_) | Reach::Nothing => {}
        }
    }
    let own_domain = [DOMAIN.to_owned()];
    let hosts = match (reach, &conf.search[..]) {
        // Before the host's own: none of those is asked for what a container is called.
        (Reach::Names(_), hosts) if hosts == ["."] => own_domain.to_vec(),
        (Reach::Names(_), hosts) => [&own_domain, hosts].concat(),
        (_, hosts) => hosts.to_vec(),
    };
    let search = if choice.search.is_empty() { &hosts[..] } else { choice.search };
    let options = if choice.options.is_empty() { &conf.options[..] } else { choice.options };

    let mut out = String::new();
    // Writing to a String does not fail.
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(out, "search {}", search.join(" "));
    }
    for server in servers {
        let _ = writeln!(out, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(out, "options {}", options.join(" "));
    }
    out
}

fn is_reachable(server: &IpAddr) -> bool {
    match server {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n";
    const REAL: &str = "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53%2\nsearch .\n";
    const SLIRP: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 3))];

    #[test]
    fn files_by_network() {
        let no = Choice::default();
        for (host, upstream, reach, text) in [
            ("nameserver 192.0.2.1\n", None, Reach::Host, "nameserver 192.0.2.1\n"),
            (STUB, Some(REAL), Reach::Host, "search corp.example\nnameserver 127.0.0.53\noptions edns0 trust-ad\n"),
            (
                STUB,
                Some(REAL),
                Reach::Driver(&SLIRP),
                "search corp.example\nnameserver 10.0.2.3\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n",
            ),
            (STUB, None, Reach::Driver(&SLIRP), "search corp.example\nnameserver 10.0.2.3\noptions edns0 trust-ad\n"),
            (STUB, Some(REAL), Reach::Nothing, "search corp.example\noptions edns0 trust-ad\n"),
            (
                STUB,
                Some(REAL),
                Reach::Names(&SLIRP),
                "search dns.podman corp.example\nnameserver 10.0.2.3\noptions edns0 trust-ad\n",
            ),
            (REAL, None, Reach::Names(&[]), "search dns.podman\n"),
            ("nameserver ::1\nnameserver 192.0.2.1 # x\n", None, Reach::Driver(&[]), "nameserver 192.0.2.1\n"),
            ("", None, Reach::Driver(&[]), ""),
            ("domain a.example\nnameserver not-an-address\n", None, Reach::Host, "search a.example\n"),
        ] {
            assert_eq!(render(host, upstream, no, reach), text, "{host:?} {upstream:?} {reach:?}");
        }
    }

    #[test]
    fn the_users_choice_replaces_servers_search_and_options() {
        let servers = ["198.51.100.1".parse().unwrap(), "198.51.100.1".parse().unwrap()];
        let (search, options) = (vec!["x.example".to_owned()], vec!["ndots:2".to_owned()]);
        let choice = Choice { servers: &servers, search: &search, options: &options };
        assert_eq!(
            render(STUB, Some(REAL), choice, Reach::Driver(&SLIRP)),
            "search x.example\nnameserver 198.51.100.1\noptions ndots:2\n"
        );
        assert_eq!(
            render(STUB, Some(REAL), choice, Reach::Names(&SLIRP)),
            "search x.example\nnameserver 10.0.2.3\noptions ndots:2\n"
        );
        let dot = [".".to_owned()];
        let choice = Choice { search: &dot, ..Choice::default() };
        assert_eq!(render(STUB, None, choice, Reach::Driver(&SLIRP)), "nameserver 10.0.2.3\noptions edns0 trust-ad\n");
    }
}
