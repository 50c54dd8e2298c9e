//! The container's network.

use std::path::PathBuf;

use clap::Args;
use net::egress::{Rule, Rules};
use net::mode::Mode;
use storage::state::request::{Namespace, Network, Request};

use super::Caller;
use crate::cli::parse::networks::{self, Wanted};
use crate::cli::parse::{names, ports};
use crate::cli::usage::{Checked, InvalidOption, each, maybe, one};

/// Options of the network.
#[derive(Args, Clone, Debug)]
pub(crate) struct NetworkOptions {
    /// Connect to a network, NAME[:ip=,ip6=,mac=,alias=,interface_name=] (can be repeated), or none, host, builtin,
    /// slirp4netns, pasta, container:NAME
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
    /// Publish a port, [[IP:][HOST-PORT]:]CONTAINER-PORT[/PROTOCOL]
    #[arg(short, long = "publish", value_name = "PORT", value_delimiter = ',')]
    pub(crate) publish: Vec<String>,
    /// Publish every exposed port on a free one of the host
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose a port, PORT[-PORT][/PROTOCOL]
    #[arg(long = "expose", value_name = "PORT", value_delimiter = ',')]
    pub(crate) expose: Vec<String>,
    /// A further name of the container on its networks
    #[arg(long = "network-alias", visible_alias = "net-alias", value_name = "NAME", value_delimiter = ',')]
    pub(crate) aliases: Vec<String>,
    /// Know another container by a name of your own, CONTAINER[:ALIAS]
    #[arg(long = "link", value_name = "CONTAINER", value_delimiter = ',')]
    pub(crate) links: Vec<String>,
    /// Host name of the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Add a line to /etc/hosts, NAME[;NAME]:ADDRESS
    #[arg(long = "add-host", value_name = "HOST", value_delimiter = ',')]
    pub(crate) add_hosts: Vec<String>,
    /// A fixed IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<String>,
    /// A fixed IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip6: Option<String>,
    /// A fixed hardware address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mac_address: Option<String>,
    /// Domain name of the container, for programs that ask the kernel
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// Leave /etc/hostname as the image has it
    #[arg(long)]
    pub(crate) no_hostname: bool,
    /// The file that /etc/hosts begins with: a path, image for the image's own file, or none
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts_file: Option<String>,
    /// Leave /etc/hosts as the image has it
    #[arg(long)]
    pub(crate) no_hosts: bool,
    /// Ask a name server for all but containers, or none to leave /etc/resolv.conf as the image has it
    #[arg(long = "dns", value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) dns: Vec<String>,
    /// Use a search domain, or . for none
    #[arg(long = "dns-search", value_name = "DOMAIN", value_delimiter = ',')]
    pub(crate) dns_search: Vec<String>,
    /// Use an option of resolv.conf
    #[arg(long = "dns-option", visible_alias = "dns-opt", value_name = "OPTION", value_delimiter = ',')]
    pub(crate) dns_options: Vec<String>,
    /// Limit what the container reaches, allow=HOST[:PORT], allow=CIDR[:PORT], deny=CIDR[:PORT], deny=*
    ///
    /// The first rule that fits decides. What none fits is refused if anything is allowed (deny=* says so expressly), and
    /// passes if not. HOST is a name, or *.NAME for all names below it; PORT is a port or a range of TCP and UDP. Other
    /// containers on the same network, and published ports, are not concerned. What was refused is told by "events --filter
    /// event=refuse".
    ///
    /// A name is known by the answers that the networks' own name server gave to the container: an address behind it is
    /// open for as long as the answer lives and half a minute. Whatever else is served at that address (as on shared
    /// hosting or a content network) is open, too. Who uses an address without asking for its name, or asks a name server
    /// of its own, needs a rule by address. If only names are allowed, no others are looked up.
    #[arg(long = "egress", value_name = "RULE", value_delimiter = ',')]
    pub(crate) egress: Vec<String>,
}

impl NetworkOptions {
    /// Expects the namespaces of the request to be set.
    pub(crate) fn apply(&self, request: &mut Request, caller: &Caller<'_>) -> Checked<()> {
        let bad = |flag, value: &str, reason: &str| {
            Err(InvalidOption { flag, value: value.to_owned(), reason: reason.to_owned() })
        };
        request.hostname = maybe("-h, --hostname", self.hostname.as_ref(), names::hostname)?;
        if let Some(hostname) = &request.hostname
            && request.uts != Namespace::Private
        {
            return bad("-h, --hostname", hostname, "the container has no UTS namespace of its own");
        }
        request.domainname =
            maybe("--domainname", self.domainname.as_ref().filter(|name| !name.is_empty()), names::hostname)?;
        if let Some(name) = &request.domainname
            && request.uts != Namespace::Private
        {
            return bad("--domainname", name, "the container has no UTS namespace of its own");
        }
        let network = &mut request.network;
        match one("--network", &self.networks.join(" "), |_| networks::networks(&self.networks))? {
            Wanted::Mode(mode) if mode.is_empty() && !self.networks.is_empty() => {
                return bad("--network", "", "must name a network");
            }
            Wanted::Mode(mode) => network.mode = mode,
            Wanted::Networks(endpoints) => {
                "bridge".clone_into(&mut network.mode);
                network.endpoints = Some(endpoints);
            }
        }
        network.published = each("-p, --publish", &self.publish, ports::published)?;
        network.publish_all = self.publish_all;
        network.exposed = each("--expose", &self.expose, ports::exposed)?;
        network.add_hosts = each("--add-host", &self.add_hosts, names::add_host)?;
        network.aliases = each("--network-alias", &self.aliases, names::hostname)?;
        network.links = each("--link", &self.links, names::link)?;
        let mode = Mode::parse(&network.mode);
        if let Some(alias) = network.aliases.first().filter(|_| !mode.as_ref().is_ok_and(Mode::can_publish)) {
            let reason = "a host, container or none network has no names of its own";
            return bad("--network-alias", alias, reason);
        }
        if let Some(link) = self.links.first().filter(|_| mode == Ok(Mode::None)) {
            return bad("--link", link, "conflicts with --network none");
        }
        network.no_hosts = self.no_hosts || self.hosts_file.as_deref() == Some("image");
        network.no_hostname = self.no_hostname;
        network.hosts_base = match self.hosts_file.as_deref() {
            None | Some("" | "image") => None,
            Some("none") => Some(PathBuf::new()),
            Some(path) => {
                one("--hosts-file", path, |path| caller.file(path).map(drop))?;
                Some(caller.cwd.join(path))
            }
        };
        self.apply_endpoint(network)?;
        self.apply_egress(network)?;
        for (flag, values) in [("--add-host", &self.add_hosts), ("--link", &self.links)] {
            if let Some(value) = values.first().filter(|_| self.no_hosts) {
                return bad(flag, value, "conflicts with --no-hosts");
            }
        }
        let servers = each("--dns", &self.dns, names::dns)?;
        network.no_resolv_conf = servers.iter().any(Option::is_none);
        network.dns = servers.into_iter().flatten().collect();
        network.dns_search = each("--dns-search", &self.dns_search, names::dns_search)?;
        network.dns_options = each("--dns-option", &self.dns_options, names::dns_option)?;
        if network.no_resolv_conf && (self.dns.len() > 1 || !self.dns_search.is_empty() || !self.dns_options.is_empty())
        {
            return bad("--dns", "none", "conflicts with other --dns, --dns-search and --dns-option");
        }
        Ok(())
    }

    /// `--egress`: rules stand where bridges lead out, out of the container's reach.
    fn apply_egress(&self, network: &mut Network) -> Checked<()> {
        let Some(first) = self.egress.first() else { return Ok(()) };
        let wrong = |value: &str, reason: String| InvalidOption { flag: "--egress", value: value.to_owned(), reason };
        for rule in &self.egress {
            rule.parse::<Rule>().map_err(|error| wrong(rule, error.to_string()))?;
        }
        Rules::parse(self.egress.iter().map(String::as_str)).map_err(|error| wrong(first, error.to_string()))?;
        if !network.is_bridge() {
            let mode = network.mode.split(':').next().unwrap_or_default();
            return Err(wrong(first, format!("only bridge networks have rules, and this is --network {mode}")));
        }
        network.egress.clone_from(&self.egress);
        Ok(())
    }

    /// `--network-alias`, `--ip`, `--ip6`, `--mac-address`: what is asked for of a bridge.
    fn apply_endpoint(&self, network: &mut Network) -> Checked<()> {
        let ip4 = maybe("--ip", self.ip.as_ref(), networks::ip)?;
        let ip6 = maybe("--ip6", self.ip6.as_ref(), networks::ip)?;
        let mac = maybe("--mac-address", self.mac_address.as_ref(), networks::mac)?;
        let fixed = [
            ("--ip", self.ip.as_ref(), ip4.is_none_or(|ip| ip.is_ipv4())),
            ("--ip6", self.ip6.as_ref(), ip6.is_none_or(|ip| ip.is_ipv6())),
            ("--mac-address", self.mac_address.as_ref(), true),
        ];
        let mut endpoints = network.places();
        for (flag, value, is_good) in fixed {
            let Some(value) = value else { continue };
            let reason = match endpoints.len() {
                0 => "can only be set when the network mode is bridge",
                1 if is_good => continue,
                1 => "is an address of the other family",
                _ => "can only be set for a single network",
            };
            return Err(InvalidOption { flag, value: value.clone(), reason: reason.to_owned() });
        }
        if !network.is_bridge() || (network.aliases.is_empty() && ip4.is_none() && ip6.is_none() && mac.is_none()) {
            return Ok(());
        }
        let is_named = network.endpoints.is_some();
        for endpoint in &mut endpoints {
            for ip in ip4.into_iter().chain(ip6) {
                endpoint.ips.retain(|other| other.is_ipv4() != ip.is_ipv4());
                endpoint.ips.push(ip);
            }
            if let Some(mac) = mac {
                endpoint.mac = Some(mac.to_string());
            }
            if is_named {
                endpoint.aliases.extend(network.aliases.iter().cloned());
            }
        }
        network.aliases.clear();
        network.endpoints = Some(endpoints);
        Ok(())
    }
}
