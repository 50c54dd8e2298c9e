//! A container's network: decided by the command, set up by the supervisor.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use net::driver::{self, Attachment, Driver, Netns, Started};
use net::hosts::{AddHost, Hosts};
use net::mode::Mode;
use net::resolv_conf::{self, Choice, Reach};
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::request;
use storage::state::status;

use crate::error::CommandError;

/// What will be set up.
pub(crate) struct Plan {
    /// As asked for.
    pub(crate) mode: Mode,
    driver: Option<(Box<dyn Driver>, driver::Plan)>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Decides. Starts nothing, so that a missing program leaves no container behind.
pub(crate) fn plan(record: &Record) -> Result<Plan, CommandError> {
    let mode = Mode::parse(&record.request.network.mode).map_err(CommandError::user)?;
    if !record.request.network.published.is_empty() && !mode.can_publish() {
        return Err(CommandError::user(format!(
            "--publish: network \"{}\" has no ports of its own to publish",
            record.request.network.mode
        )));
    }
    let driver = match driver::driver_for(&mode).map_err(missing)? {
        Some(driver) => {
            let plan = driver.prepare().map_err(missing)?;
            Some((driver, plan))
        }
        None => None,
    };
    Ok(Plan { mode, driver })
}

fn missing(error: driver::DriverError) -> CommandError {
    let hint = matches!(error, driver::DriverError::NotInstalled(_) | driver::DriverError::NothingInstalled);
    let error = CommandError::host(error);
    if hint { error.hinted("sudo apt-get install slirp4netns, or use --network none or host") } else { error }
}

impl Plan {
    /// The driver's name as `inspect` shows it.
    fn name(&self, record: &Record) -> String {
        match (&self.mode, &self.driver) {
            (_, Some((driver, _))) => driver.name().to_owned(),
            _ => record.request.network.mode.clone(),
        }
    }

    fn attachment(&self) -> Option<&Attachment> {
        self.driver.as_ref().map(|(_, plan)| &plan.attachment)
    }

    /// Starts the driver for the namespace of process `pid`; `None` where there is nothing to start.
    pub(crate) fn start(
        &mut self,
        netns: BorrowedFd<'_>,
        pid: i32,
        scratch: &Path,
    ) -> Result<Option<Started>, CommandError> {
        let Some((driver, plan)) = &self.driver else { return Ok(None) };
        driver.start(plan.clone(), Netns { fd: netns, pid, scratch }).map(Some).map_err(CommandError::host)
    }

    /// Writes `hosts`, `hostname`, `resolv.conf` and `.containerenv` into the container's runtime directory.
    pub(crate) fn write_files(&self, layout: &Layout, record: &Record) -> Result<(), CommandError> {
        let directory = layout.runtime_container(&record.id);
        let asked = &record.request.network;
        let host_name = super::bundle::hostname(record);
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).map_err(|error| {
                CommandError::host(format!("write {}: {}", path.display(), super::bundle::reason(&error)))
            })
        };
        write("hostname", &format!("{host_name}\n"))?;
        write(".containerenv", "")?;
        if !asked.no_hosts {
            let add: Vec<AddHost> = asked.add_hosts.iter().map(add_host).collect::<Result<_, _>>()?;
            let base = fs::read_to_string("/etc/hosts").ok();
            let addresses: Vec<IpAddr> = self
                .attachment()
                .iter()
                .flat_map(|attachment| &attachment.addresses)
                .map(|address| address.ip)
                .collect();
            let names = [host_name.as_str(), record.name.as_str()];
            let names = if host_name == record.name { &names[..1] } else { &names[..] };
            let host_network = self.mode == Mode::Host;
            let hosts = Hosts {
                add: &add,
                base: base.as_deref(),
                host_network,
                host_address: match self.attachment() {
                    Some(attachment) => attachment.host.or_else(|| attachment.gateway(false)),
                    None if host_network => Some(IpAddr::from([127, 0, 0, 1])),
                    None => None,
                },
                addresses: &addresses,
                names,
            };
            write("hosts", &hosts.render().map_err(CommandError::user)?)?;
        }
        if !asked.no_resolv_conf {
            let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let upstream = fs::read_to_string(resolv_conf::RESOLVED_UPSTREAM).ok();
            let choice = Choice { servers: &asked.dns, search: &asked.dns_search, options: &asked.dns_options };
            let reach = match (&self.mode, self.attachment()) {
                (_, Some(attachment)) => Reach::Driver(&attachment.dns),
                (Mode::None, _) => Reach::Nothing,
                _ => Reach::Host,
            };
            write("resolv.conf", &resolv_conf::render(&host, upstream.as_deref(), choice, reach))?;
        }
        Ok(())
    }

    /// The network as `inspect` shows it.
    pub(crate) fn status(
        &self,
        record: &Record,
        attachment: Option<&Attachment>,
        ports: Vec<status::Port>,
    ) -> status::Network {
        let interfaces = attachment.or(self.attachment()).map(|attachment| status::Interface {
            network: self.name(record),
            name: attachment.interface.clone().unwrap_or_default(),
            mac: attachment.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            addresses: attachment
                .addresses
                .iter()
                .map(|address| status::Address {
                    ip: address.ip,
                    prefix: address.prefix,
                    gateway: attachment.gateway(address.ip.is_ipv6()),
                })
                .collect(),
            aliases: record.request.network.aliases.clone(),
        });
        status::Network { mode: self.name(record), interfaces: interfaces.into_iter().collect(), ports }
    }
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

/// Opens the network namespace of process `pid`.
pub(crate) fn namespace_of(pid: i32) -> Result<OwnedFd, CommandError> {
    let path = format!("/proc/{pid}/ns/net");
    nix::fcntl::open(
        path.as_str(),
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|errno| CommandError::host(format!("open({path}): {}", errno.desc().to_lowercase())))
}

/// Waits for a driver that was started, together with whatever else the caller does not wait for.
pub(crate) fn wait(started: &mut Started) -> Result<(), CommandError> {
    started.wait_ready().map_err(CommandError::host)
}

/// The descriptor on which the end of a driver's helper shows.
pub(crate) fn watch(started: &Started) -> BorrowedFd<'_> {
    started.pidfd()
}
