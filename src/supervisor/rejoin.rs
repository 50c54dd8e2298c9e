//! Networks that come and go while a container runs, and its addresses, which it gets again.
//!
//! ```text
//! command ── record, reload ──▶ supervisor ── connect, disconnect ──▶ leader
//! ```
//! Nobody but the supervisor speaks to the leader for its container: the end of that connection is the container's.
//!
//! **Runs in:** S; single-threaded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use net::driver::Attachment;
use net::leader::{Answer, Ask, Connection, Joined};
use nix::errno::Errno;
use storage::state::container;
use storage::state::request::Endpoint;

use super::network::{self, Started};
use super::supervise::Supervisor;
use crate::error::CommandError;

/// Asks the leader, and waits for what it says.
fn told(leader: &Connection, ask: &Ask, netns: Option<std::os::fd::BorrowedFd<'_>>) -> Result<Answer, CommandError> {
    let failed = |errno: Errno| CommandError::host(format!("network leader: {}", errno.desc().to_lowercase()));
    leader.ask(ask, netns).map_err(failed)?;
    match leader.answer().map_err(failed)? {
        Some((Answer::Failed { message }, _)) => Err(CommandError::host(message)),
        Some((answer, _)) => Ok(answer),
        None => Err(CommandError::host("network leader: it was killed")),
    }
}

impl Supervisor {
    /// Sees to it that the container is on the networks that its record names, under the names it has there; `before` are
    /// those that it named until now.
    pub(super) fn rejoin(&mut self, before: Option<&[Endpoint]>) -> Result<(), CommandError> {
        let Some(Started::Bridge { leader, joined, .. }) = &mut self.run.helper else {
            return match self.record.request.network.endpoints.as_deref() == before {
                true => Ok(()),
                false => Err(CommandError::host("it is on no bridge in this run")),
            };
        };
        let endpoints = network::endpoints(&self.layout, &self.record)?;
        let is_same = joined.len() == endpoints.len()
            && joined.iter().zip(&endpoints).all(|(one, other)| one.network == other.network.name);
        let names = endpoints.iter().map(|one| (one.network.name.clone(), one.names.clone())).collect();
        if is_same {
            // Only the container's own name may be another.
            return told(leader, &Ask::Names { names }, None).map(drop);
        }
        let Some(netns) = &self.run.netns else { return Ok(()) };
        let is_wanted = |one: &Joined| endpoints.iter().any(|other| other.network.name == one.network);
        let mut used: Vec<String> = joined.iter().map(|one| one.interface.clone()).collect();
        // First what is new: if it cannot be had, nothing has changed.
        let mut new = Vec::new();
        for endpoint in &endpoints {
            if joined.iter().any(|one| one.network == endpoint.network.name) {
                continue;
            }
            let mut endpoint = endpoint.clone();
            if used.contains(&endpoint.interface) {
                endpoint.interface = network::free_interface(&used);
            }
            used.push(endpoint.interface.clone());
            match told(leader, &Ask::Connect { endpoint: Box::new(endpoint) }, Some(netns.as_fd())) {
                Ok(Answer::Connected { joined }) => new.push(joined),
                other => {
                    for one in &new {
                        let network = Joined::clone(one).network;
                        let _ = told(leader, &Ask::Disconnect { network }, None);
                    }
                    other?;
                    return Err(CommandError::host("network leader: it has not answered the question"));
                }
            }
        }
        for one in joined.iter().filter(|one| !is_wanted(one)) {
            told(leader, &Ask::Disconnect { network: one.network.clone() }, None)?;
        }
        joined.retain(is_wanted);
        joined.extend(new);
        let position = |one: &Joined| endpoints.iter().position(|other| other.network.name == one.network);
        joined.sort_by_key(position);
        let _ = told(leader, &Ask::Names { names }, None);
        // The servers of a network that it has left do not answer any more.
        let answers = |one: &&Joined| {
            let endpoint = endpoints.iter().find(|other| other.network.name == one.network);
            endpoint.is_some_and(|endpoint| endpoint.network.dns)
        };
        let dns: Vec<IpAddr> = joined.iter().filter(answers).flat_map(|one| &one.gateways).copied().collect();
        self.networks_changed(dns);
        Ok(())
    }

    /// Tells everybody who has been told of the networks before.
    fn networks_changed(&mut self, dns: Vec<IpAddr>) {
        let Some(Started::Bridge { joined, attachment, .. }) = &mut self.run.helper else { return };
        let (known, host) = (std::mem::take(&mut attachment.dns), attachment.host);
        let dns = if dns.is_empty() { known } else { dns };
        let before = std::mem::replace(attachment, joined.first().map(Attachment::from).unwrap_or_default());
        (attachment.dns, attachment.host) = (dns, host);
        let is_elsewhere = before.addresses != attachment.addresses;
        let attachment = attachment.clone();
        let _ = self.launch.network.write_files(&self.layout, &self.record, Some(&attachment));
        self.launch.network.remember(&self.layout, &self.record);
        self.state.network = self.launch.network.status(&self.record, self.run.helper.as_ref());
        let _ = self.state.write(&self.layout, &self.record.id);
        if is_elsewhere && let Some(netns) = &self.run.netns {
            if let Some(forwarder) = self.run.forwarder.take() {
                forwarder.stop();
            }
            self.run.forwarder = self.launch.network.forward(netns.as_fd(), Some(&attachment)).ok().flatten();
        }
        self.keep_addresses();
    }

    /// Notes the addresses for the next start. A container that is removed at its end has none.
    pub(super) fn keep_addresses(&mut self) {
        let Some(Started::Bridge { joined, .. }) = &self.run.helper else { return };
        let of = |one: &Joined| (one.network.clone(), one.addresses.iter().map(|address| address.ip).collect());
        let addresses: BTreeMap<String, Vec<IpAddr>> = joined.iter().map(of).collect();
        if self.record.addresses == addresses {
            return;
        }
        self.record.addresses.clone_from(&addresses);
        self.launch.record.addresses.clone_from(&addresses);
        self.launch.network.remember(&self.layout, &self.record);
        if !self.record.request.remove {
            // Where this cannot be written, it gets others.
            let _ = container::set_addresses(&self.layout, &self.record.id, addresses);
        }
    }
}
