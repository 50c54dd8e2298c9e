//! What containers may reach: rules before devices, addresses before answers.
//!
//! ```text
//! attach  ─▶ rules, own addresses ─▶ pair of devices
//! answer  ─▶ dns: held ─▶ its addresses are open ─▶ dns: released
//! refused packet ─ kernel ─▶ notes ─┬▶ refusals ─▶ somebody is told
//! refused name   ─ dns ─────────────┘
//! ```

use std::os::fd::AsRawFd as _;

use super::member::{Member, device_prefix};
use super::message::Endpoint;
use super::refusals::What;
use super::serve::{Leader, ServeError};
use crate::dns::{HOST_NAMES, Number, Wishes};
use crate::egress::Rules;
use crate::netfilter::{Gate, open_for};
use crate::netlink::Address;

impl Member {
    fn egress(&self) -> Option<&Rules> {
        let endpoints = self.places.iter().map(|place| &place.endpoint);
        endpoints.into_iter().find_map(|Endpoint { wishes, .. }| wishes.egress.as_ref())
    }
}

/// What notes have room for.
fn note(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

impl Leader {
    /// Puts a container's rules in force, before it has a device with these addresses.
    pub(super) fn bar(&mut self, container: &str, wishes: &Wishes, addresses: &[Address]) -> Result<(), ServeError> {
        let Some(rules) = &wishes.egress else { return Ok(()) };
        let devices = device_prefix(container);
        let gate = Gate { devices: &devices, note: note(container), rules };
        self.filter.bar(gate)?;
        self.filter.own(gate, addresses)?;
        // The container's hosts file has these: nobody asks for them.
        let host = self.way_out.attachment().host;
        let about_host: Vec<usize> = HOST_NAMES.iter().flat_map(|name| rules.about(name)).collect();
        Ok(self.filter.open_to(gate, &about_host, host.as_slice(), None)?)
    }

    fn member(&self, number: Number) -> Option<&Member> {
        let client = self.clients.iter().find(|client| client.socket.as_raw_fd() == number)?;
        client.member.as_ref()
    }

    /// Opens the addresses of answers, and lets those go out.
    pub(super) fn open_names(&mut self) {
        while let Some(held) = self.dns.held() {
            let known = self
                .member(held.container)
                .and_then(|member| Some((member.container.clone(), member.egress()?.clone())));
            let is_open = known.is_some_and(|(container, rules)| {
                let devices = device_prefix(&container);
                let gate = Gate { devices: &devices, note: note(&container), rules: &rules };
                self.filter.open_to(gate, &held.rules, &held.ips, Some(open_for(held.ttl))).is_ok()
            });
            self.dns.release(held, is_open);
        }
    }

    /// Tells of what was refused since the last time.
    pub(super) fn note_refused(&mut self, has_notes: bool) {
        let mut all = Vec::new();
        for (number, name) in self.dns.take_refused() {
            all.extend(self.member(number).map(|member| (member.container.clone(), What::Name(name))));
        }
        let notes = if has_notes { self.notes.take() } else { Vec::new() };
        for (prefix, to) in notes {
            let mut members = self.clients.iter().filter_map(|client| client.member.as_ref());
            let member = members.find(|member| note(&member.container) == prefix);
            all.extend(member.map(|member| (member.container.clone(), What::Packet(to))));
        }
        all.into_iter().for_each(|(container, what)| self.refusals.add(&container, what));
    }
}
