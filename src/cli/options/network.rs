//! The container's network.

use clap::Args;
use net::mode::Mode;
use storage::state::request::{Namespace, Request};

use crate::cli::parse::{names, ports};
use crate::cli::usage::{Checked, InvalidOption, each, maybe, one};

/// Options of the network.
#[derive(Args, Clone, Debug)]
pub(crate) struct NetworkOptions {
    /// Connect to a network: none, host, slirp4netns, pasta or container:NAME
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
    /// Publish a port, [[IP:][HOST-PORT]:]CONTAINER-PORT[/PROTOCOL]
    #[arg(short, long = "publish", value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Publish every exposed port on a free one of the host
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose a port, PORT[-PORT][/PROTOCOL]
    #[arg(long = "expose", value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// Host name of the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Add a line to /etc/hosts, NAME[;NAME]:ADDRESS
    #[arg(long = "add-host", value_name = "HOST")]
    pub(crate) add_hosts: Vec<String>,
    /// Leave /etc/hosts as the image has it
    #[arg(long)]
    pub(crate) no_hosts: bool,
    /// Use a name server, or none to leave /etc/resolv.conf as the image has it
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub(crate) dns: Vec<String>,
    /// Use a search domain, or . for none
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Use an option of resolv.conf
    #[arg(long = "dns-option", visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_options: Vec<String>,
}

impl NetworkOptions {
    /// Expects the namespaces of the request to be set.
    pub(crate) fn apply(&self, request: &mut Request) -> Checked<()> {
        let bad = |flag, value: &str, reason: &str| {
            Err(InvalidOption { flag, value: value.to_owned(), reason: reason.to_owned() })
        };
        request.hostname = maybe("-h, --hostname", self.hostname.as_ref(), names::hostname)?;
        if let Some(hostname) = &request.hostname
            && request.uts != Namespace::Private
        {
            return bad("-h, --hostname", hostname, "the container has no UTS namespace of its own");
        }
        let network = &mut request.network;
        match self.networks.as_slice() {
            [] => {}
            [mode] if mode.is_empty() => return bad("--network", mode, "must name a network"),
            [mode] => {
                one("--network", mode, |mode| Mode::parse(mode).map_err(|error| error.to_string()))?;
                network.mode.clone_from(mode);
            }
            [_, more, ..] => return bad("--network", more, "more than one network is not supported"),
        }
        network.published = each("-p, --publish", &self.publish, ports::published)?;
        network.publish_all = self.publish_all;
        network.exposed = each("--expose", &self.expose, ports::exposed)?;
        network.add_hosts = each("--add-host", &self.add_hosts, names::add_host)?;
        network.no_hosts = self.no_hosts;
        if let Some(host) = self.add_hosts.first().filter(|_| self.no_hosts) {
            return bad("--add-host", host, "conflicts with --no-hosts");
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
}
