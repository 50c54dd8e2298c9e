//! The host's DNS servers as they are now: a laptop that comes to another network, or a VPN, has others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// How many of the host's servers are asked.
///
/// # Source
/// resolv.conf(5), `MAXNS`.
const MOST: usize = 3;

/// How often in a row a server may be silent before those behind it are asked first: one packet gets lost anywhere, and
/// the first server may be the only one that knows the names of a VPN.
const SILENCES: u8 = 3;

/// How long it comes last then.
const DISTRUST: Duration = Duration::from_secs(10);

/// A file that was written less long ago than this may be written again without a sign: clocks of file systems are coarse.
const COARSE: Duration = Duration::from_secs(1);

/// The host's servers, and which of them were silent of late.
#[derive(Debug)]
pub(super) struct Resolvers {
    path: PathBuf,
    port: u16,
    seen: Option<Stamp>,
    servers: Vec<SocketAddr>,
    /// How often in a row, and until when that matters.
    silent: HashMap<SocketAddr, (u8, Instant)>,
}

/// What is other when the file is, wherever a link leads meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    len: u64,
    written: (i64, i64),
}

impl Resolvers {
    /// Those of the file at `path`, which need not exist.
    pub(super) fn new(path: PathBuf, port: u16) -> Self {
        Self { path, port, seen: None, servers: Vec::new(), silent: HashMap::new() }
    }

    /// Who is to be asked, in this order; never nobody.
    pub(super) fn hosts(&mut self) -> Vec<SocketAddr> {
        let metadata = std::fs::metadata(&self.path).ok();
        let stamp = metadata.as_ref().map(|file| Stamp {
            file: (file.dev(), file.ino()),
            len: file.len(),
            written: (file.mtime(), file.mtime_nsec()),
        });
        if stamp.is_none() || stamp != self.seen {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            self.servers = parse(&text, self.port);
            let written = metadata.and_then(|file| file.modified().ok());
            let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
            self.seen = stamp.filter(|_| age.is_some_and(|age| age > COARSE));
        }
        self.in_order(self.servers.clone())
    }

    /// The same for servers that somebody chose.
    pub(super) fn chosen(&mut self, servers: &[IpAddr]) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for server in servers.iter().map(|ip| SocketAddr::new(*ip, self.port)) {
            if all.len() < MOST && !all.contains(&server) {
                all.push(server);
            }
        }
        self.in_order(all)
    }

    fn in_order(&mut self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let now = Instant::now();
        self.silent.retain(|_, (_, until)| *until > now);
        servers.sort_by_key(|server| self.silent.get(server).is_some_and(|(times, _)| *times >= SILENCES));
        servers
    }

    /// A server did not answer.
    pub(super) fn distrust(&mut self, server: SocketAddr) {
        let (times, until) = self.silent.entry(server).or_insert((0, Instant::now()));
        (*times, *until) = (times.saturating_add(1), Instant::now() + DISTRUST);
    }

    /// A server answered.
    pub(super) fn trust(&mut self, server: SocketAddr) {
        self.silent.remove(&server);
    }
}

/// The servers of a `resolv.conf`. We ask from the host's own namespace: loopback means what it means there, and so does
/// the link behind a `%`.
fn parse(text: &str, port: u16) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(server) = words.next().and_then(|word| server(word, port))
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers.truncate(MOST);
    if servers.is_empty() {
        // As every program of the host has it that finds none.
        servers.push((Ipv4Addr::LOCALHOST, port).into());
    }
    servers
}

fn server(word: &str, port: u16) -> Option<SocketAddr> {
    let (ip, link) = word.split_once('%').map_or((word, None), |(ip, link)| (ip, Some(link)));
    Some(match ip.parse().ok()? {
        IpAddr::V6(v6) => {
            let index = link.and_then(|link| link.parse().ok().or_else(|| nix::net::if_::if_nametoindex(link).ok()));
            SocketAddrV6::new(v6, port, 0, index.unwrap_or(0)).into()
        }
        v4 => SocketAddr::new(v4, port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(servers: &[SocketAddr]) -> Vec<String> {
        servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_are_read_with_their_links() {
        let text = "# none\nsearch a\nnameserver 127.0.0.53\nnameserver x\nnameserver fe80::1%lo # vpn\nnameserver 127.0.0.53\n\
                    nameserver 2001:db8::1%7\nnameserver 192.0.2.1\n";
        let servers = parse(text, 53);
        assert_eq!(shown(&servers), ["127.0.0.53:53", "[fe80::1%1]:53", "[2001:db8::1%7]:53"]);
        assert_eq!(shown(&parse("options ndots:1\n", 53)), ["127.0.0.1:53"], "no public server is ever made up");
    }

    #[test]
    fn the_file_is_followed_wherever_it_goes() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("resolv.conf");
        let mut resolvers = Resolvers::new(path.clone(), 53);
        assert_eq!(shown(&resolvers.hosts()), ["127.0.0.1:53"]);
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(shown(&resolvers.hosts()), ["192.0.2.1:53"]);
        // As long as before, and at once.
        std::fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(shown(&resolvers.hosts()), ["192.0.2.2:53"]);
        let other = place.path().join("other");
        std::fs::write(&other, "nameserver 192.0.2.3\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(shown(&resolvers.hosts()), ["192.0.2.3:53"]);
    }

    #[test]
    fn the_silent_come_last() {
        let mut resolvers = Resolvers::new(PathBuf::new(), 53);
        let ask = |resolvers: &mut Resolvers| {
            shown(&resolvers.chosen(&["192.0.2.1", "192.0.2.2", "192.0.2.1"].map(|ip| ip.parse().unwrap())))
        };
        assert_eq!(ask(&mut resolvers), ["192.0.2.1:53", "192.0.2.2:53"]);
        let first: SocketAddr = "192.0.2.1:53".parse().unwrap();
        (1..SILENCES).for_each(|_| resolvers.distrust(first));
        assert_eq!(ask(&mut resolvers), ["192.0.2.1:53", "192.0.2.2:53"]);
        resolvers.distrust(first);
        assert_eq!(ask(&mut resolvers), ["192.0.2.2:53", "192.0.2.1:53"]);
        resolvers.trust("192.0.2.1:53".parse().unwrap());
        assert_eq!(ask(&mut resolvers), ["192.0.2.1:53", "192.0.2.2:53"]);
    }
}
