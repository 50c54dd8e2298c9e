//! What a container is called on its networks, and what it calls others.
//!
//! **Runs in:** the command, before the supervisor is forked, but for [`call`].

use std::collections::BTreeMap;

use net::dns::Wishes;
use net::egress::Rules;
use storage::state::container::{self, Record};
use storage::state::layout::Layout;
use storage::state::network::Network;
use storage::state::request::{self, Namespace};

/// The names that lead to a container: its own, which its addresses are called, its short id, its host name, and those that
/// were asked for.
pub(crate) fn of<'a>(record: &Record, aliases: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    // The host's own name is the host's.
    let hostname = record.request.hostname.clone().filter(|_| record.request.uts == Namespace::Private);
    let own = [record.name.clone(), record.id.short().to_owned()].into_iter().chain(hostname);
    for name in own.chain(aliases.into_iter().cloned()) {
        let name = name.to_lowercase();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Puts a container's own name before its others. A new container has none until its supervisor has found a free one.
///
/// **Runs in:** S.
pub(crate) fn call(names: &mut Vec<String>, name: &str) {
    let name = name.to_lowercase();
    names.retain(|other| *other != name);
    names.insert(0, name);
}

/// What a container may reach, if that is not everything: by its own rules, or those of the first of its networks that has
/// some. The rules were read when they were asked for; should they not be
/// understood any more, nothing is allowed.
fn egress(asked: &request::Network, networks: &[Network]) -> Option<Rules> {
    let own = Some(&asked.egress).into_iter();
    let rules = own.chain(networks.iter().map(|network| &network.egress)).find(|rules| !rules.is_empty())?;
    let nothing = || Rules::parse(["deny=*"]).ok();
    Rules::parse(rules.iter().map(String::as_str)).ok().or_else(nothing)
}

/// What it wants besides: servers for the names that are no container's, and names of its own for others.
pub(crate) fn wishes(layout: &Layout, record: &Record, networks: &[Network]) -> Wishes {
    let asked = &record.request.network;
    let mut links = BTreeMap::new();
    for link in &asked.links {
        // One that is gone is nowhere; others keep the link when they are given another name.
        if let Ok(other) = container::find(layout, &link.container) {
            let _ = links.insert(link.alias.to_lowercase(), other.id.short().to_owned());
        }
    }
    Wishes { servers: asked.dns.clone(), links, egress: egress(asked, networks) }
}
