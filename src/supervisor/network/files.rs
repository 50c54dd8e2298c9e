//! The texts that a container finds about its network: `hosts`, `hostname`, `resolv.conf`.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use net::driver::Attachment;
use net::hosts::{AddHost, Hosts};
use net::leader::Endpoint;
use net::mode::Mode;
use net::resolv_conf::{self, Choice, Reach};
use storage::state::container::{self, Record};
use storage::state::layout::Layout;
use storage::state::request;

use super::{Plan, Way};
use crate::error::CommandError;

impl Plan {
    /// Writes `hosts`, `hostname`, `resolv.conf` and `.containerenv` into the container's runtime directory.
    ///
    /// `found` is what the driver found out after its start, if it has; the container sees a new text at once, since the
    /// file stays the same one.
    pub(crate) fn write_files(
        &self,
        layout: &Layout,
        record: &Record,
        found: Option<&Attachment>,
    ) -> Result<(), CommandError> {
        let attachment = found.or(self.attachment());
        let directory = layout.runtime_container(&record.id);
        let asked = &record.request.network;
        let host_name = crate::supervisor::bundle::hostname(record);
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            write_in_place(&path, text).map_err(|error| {
                CommandError::host(format!("write {}: {}", path.display(), crate::error::reason(&error)))
            })
        };
        write("hostname", &format!("{host_name}\n"))?;
        write(".containerenv", "")?;
        let shared = match &self.mode {
            Mode::Container(name) => Some(container::find(layout, name).map_err(CommandError::user)?),
            _ => None,
        };
        let shared_text = |name: &str| {
            let directory = shared.as_ref().map(|other| layout.runtime_container(&other.id))?;
            fs::read_to_string(directory.join(name)).ok()
        };
        if let Some(text) =
            shared_text("hosts").filter(|_| !asked.no_hosts && asked.add_hosts.is_empty() && asked.links.is_empty())
        {
            // The names of whose network it is, and ours, which lead to the same place.
            write("hosts", &format!("{text}127.0.0.1\t{host_name} {}\n", record.name))?;
        } else if !asked.no_hosts {
            let mut add: Vec<AddHost> = asked.add_hosts.iter().map(add_host).collect::<Result<_, _>>()?;
            // Behind a helper of its own, what it publishes is all that can be reached of it. On a bridge its link is a name.
            let shares = matches!(self.mode, Mode::Host | Mode::Container(_));
            let linked = if matches!(self.way, Way::Bridge { .. }) { &[][..] } else { &asked.links };
            add.extend(linked.iter().map(|link| AddHost {
                names: vec![link.alias.clone()],
                address: shares.then_some(IpAddr::from([127, 0, 0, 1])),
            }));
            let base = asked.hosts_base.as_deref().unwrap_or(Path::new("/etc/hosts"));
            let base = fs::read_to_string(base).ok();
            let addresses: Vec<IpAddr> =
                attachment.iter().flat_map(|attachment| &attachment.addresses).map(|address| address.ip).collect();
            let names = [host_name.as_str(), record.name.as_str()];
            let names = if host_name == record.name { &names[..1] } else { &names[..] };
            let places = asked.places();
            let aliases = places.iter().flat_map(|place| &place.aliases).map(String::as_str);
            let mut names: Vec<&str> = names.iter().copied().chain(aliases).collect();
            if places.is_empty() {
                names.extend(asked.aliases.iter().map(String::as_str));
            }
            let host_network = self.mode == Mode::Host;
            let hosts = Hosts {
                add: &add,
                base: base.as_deref(),
                host_network,
                host_address: match attachment {
                    Some(attachment) => attachment.host.or_else(|| attachment.gateway(false)),
                    None if host_network => Some(IpAddr::from([127, 0, 0, 1])),
                    None => None,
                },
                addresses: &addresses,
                names: &names,
            };
            write("hosts", &hosts.render().map_err(CommandError::user)?)?;
        }
        let own_dns = !(asked.dns.is_empty() && asked.dns_search.is_empty() && asked.dns_options.is_empty());
        if let Some(text) = shared_text("resolv.conf").filter(|_| !asked.no_resolv_conf && !own_dns) {
            write("resolv.conf", &text)?;
        } else if !asked.no_resolv_conf {
            let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let upstream = fs::read_to_string(resolv_conf::RESOLVED_UPSTREAM).ok();
            let choice = Choice { servers: &asked.dns, search: &asked.dns_search, options: &asked.dns_options };
            let has_names = |endpoint: &Endpoint| endpoint.network.dns;
            let reach = match (&self.mode, attachment) {
                (_, Some(attachment)) if matches!(&self.way, Way::Bridge { endpoints, .. } if endpoints.iter().any(has_names)) => {
                    Reach::Names(&attachment.dns)
                }
                (_, Some(attachment)) => Reach::Driver(&attachment.dns),
                (Mode::None, _) => Reach::Nothing,
                _ => Reach::Host,
            };
            write("resolv.conf", &resolv_conf::render(&host, upstream.as_deref(), choice, reach))?;
        }
        Ok(())
    }
}

/// Writes a file that the container has mounted: it stays the same one, and is never seen empty.
fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_len(u64::try_from(text.len()).unwrap_or_default())?;
    // Every user of the container reads them, whatever the umask of whoever started it.
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn add_host(entry: &request::AddHost) -> Result<AddHost, CommandError> {
    let address = match entry.address.as_str() {
        "host-gateway" => None,
        text => Some(text.parse().map_err(|_| {
            CommandError::user(format!("--add-host {}:{text}: not an IP address", entry.names.join(";")))
        })?),
    };
    Ok(AddHost { names: entry.names.clone(), address })
}
