//! What a container may reach beyond its networks, as tables of its own.
//!
//! ```text
//! bridge  tag      what comes in by its devices has its mark: nothing that the container does takes it off
//! inet    guard    nothing of its comes from an address that is another's
//!         out      flows that were allowed; rule by rule; the rest
//!         refused  noted, now and then; a reset, or "administratively prohibited"
//!         o…       its addresses      n…4, n…6   what the names of rule … lead to, for a time
//! ```
//! They are the user's namespace's, not the leader's: they stay when that is killed. A container's rules never change, so a
//! successor finds them as they should be.

use std::net::IpAddr;
use std::time::Duration;

use super::{Chain, FORWARD, Family, Hook, Netfilter, NetfilterError, Set, Step, Table};
use crate::egress::{Rule, Rules, Target, Verdict};
use crate::netfilter::message::Change;
use crate::netlink::Address;

/// The group that refused packets are noted in.
pub(super) const NOTE_GROUP: u16 = 7;

/// How often a container's refusals are noted.
const NOTES_EACH_SECOND: u64 = 5;
const NOTES_AT_ONCE: u32 = 50;

/// How much longer an address is open than its answer said: programs remember for a while themselves, Java's for half a
/// minute.
const GRACE: Duration = Duration::from_secs(30);

/// And how long at most.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

// linux/netfilter_bridge.h, linux/netfilter.h, linux/netfilter_ipv4.h (NF_IP_PRI_RAW)
const TAG: Hook = Hook { kind: "filter", place: 0, priority: -300 };
const GUARD: Hook = Hook { kind: "filter", place: 0, priority: -300 };
const OUT: Hook = Hook { priority: -10, ..FORWARD };

/// A container as the filter knows it: what the names of its devices have in common, which is its own.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// What the names of its devices begin with, and no other's.
    pub devices: &'a str,
    /// What its refusals are noted by.
    pub note: &'a str,
    /// What it may reach.
    pub rules: &'a Rules,
}

/// How long an address is open that was answered with this time to live.
#[must_use]
pub fn open_for(ttl: Duration) -> Duration {
    (ttl + GRACE).min(LONGEST)
}

impl Gate<'_> {
    fn table(&self) -> String {
        table_name(self.devices)
    }

    /// Its own, as good as certainly; with another's it would be under the rules of both.
    fn mark(&self) -> u32 {
        let bytes = self.devices.bytes();
        // FNV-1a.
        bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)).max(1)
    }

    fn tables(&self) -> [Table; 2] {
        let tag = vec![Step::InLike(self.devices.to_owned()), Step::Mark(self.mark()), Step::Accept];
        let bridge = Table {
            family: Family::Bridge,
            name: self.table(),
            sets: Vec::new(),
            chains: vec![Chain { name: "tag", hook: Some(TAG), rules: vec![tag] }],
        };
        let names = self.numbered().filter(|(_, rule)| matches!(rule.target, Target::Name(_) | Target::Below(_)));
        let of_names = names.flat_map(|(number, _)| [true, false].map(|is_ipv4| Set::new('n', number, is_ipv4)));
        let sets = [true, false].map(|is_ipv4| Set::new('o', 0, is_ipv4)).into_iter().chain(of_names).collect();
        let chains = vec![
            Chain { name: "guard", hook: Some(GUARD), rules: self.guard() },
            Chain { name: "refused", hook: None, rules: self.refused() },
            Chain { name: "out", hook: Some(OUT), rules: self.out() },
        ];
        [bridge, Table { family: Family::Inet, name: self.table(), sets, chains }]
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &Rule)> {
        (0..).zip(self.rules.iter())
    }

    fn guard(&self) -> Vec<Vec<Step>> {
        let own = |is_ipv4| Step::FromSet { set: Set::new('o', 0, is_ipv4).name, is_ipv4 };
        vec![
            vec![Step::NotMarked(self.mark()), Step::Accept],
            vec![own(true), Step::Accept],
            vec![own(false), Step::Accept],
            // Who looks for neighbours does so by a link-local address; no packet of it goes further.
            vec![Step::Protocol(libc::IPPROTO_ICMPV6 as u8), Step::Accept],
            vec![Step::Drop],
        ]
    }

    fn refused(&self) -> Vec<Vec<Step>> {
        vec![
            vec![
                Step::AtMost { each_second: NOTES_EACH_SECOND, burst: NOTES_AT_ONCE },
                Step::Note { group: NOTE_GROUP, prefix: self.note.to_owned() },
            ],
            vec![Step::Protocol(libc::IPPROTO_TCP as u8), Step::Reset],
            vec![Step::Prohibit],
        ]
    }

    fn out(&self) -> Vec<Vec<Step>> {
        let verdict = |verdict| match verdict {
            Verdict::Allow => Step::Accept,
            Verdict::Deny => Step::Goto("refused"),
        };
        let mut all = vec![vec![Step::NotMarked(self.mark()), Step::Accept], vec![Step::OfFlow, Step::Accept]];
        for (number, rule) in self.numbered() {
            let targets = match &rule.target {
                Target::Anything => vec![vec![]],
                Target::Addresses(range) => vec![vec![Step::ToRange(*range)]],
                Target::Name(_) | Target::Below(_) => [true, false]
                    .map(|is_ipv4| vec![Step::ToSet { set: Set::new('n', number, is_ipv4).name, is_ipv4 }])
                    .to_vec(),
            };
            for target in targets {
                let protocols = [libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8];
                let ports: Vec<Vec<Step>> = match rule.ports {
                    None => vec![vec![]],
                    Some((first, last)) => {
                        protocols.map(|one| vec![Step::Protocol(one), Step::ToPorts(first, last)]).to_vec()
                    }
                };
                all.extend(ports.into_iter().map(|ports| {
                    target.iter().cloned().chain(ports).chain([verdict(rule.verdict)]).collect::<Vec<Step>>()
                }));
            }
        }
        all.push(vec![verdict(self.rules.default_verdict())]);
        all
    }
}

fn table_name(devices: &str) -> String {
    format!("egress-{devices}")
}

impl Set {
    fn new(kind: char, number: usize, is_ipv4: bool) -> Self {
        Self { name: format!("{kind}{number}-{}", if is_ipv4 { 4 } else { 6 }), is_ipv4 }
    }
}

impl Netfilter {
    /// Puts a container's rules in force, unless they are.
    ///
    /// # Errors
    /// [`NetfilterError`]; none of its are in force.
    pub fn bar(&mut self, gate: Gate<'_>) -> Result<(), NetfilterError> {
        let [bridge, inet] = gate.tables();
        match self.run(&[Change::Make(&bridge), Change::Make(&inet)], "make egress rules") {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// A barred container has this address from now on.
    ///
    /// # Errors
    /// [`NetfilterError`].
    pub fn own(&mut self, gate: Gate<'_>, addresses: &[Address]) -> Result<(), NetfilterError> {
        let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
        self.renew(gate, 'o', &[0], &ips, None)
    }

    /// What names of these rules lead to is open to the container for so long; without a time, for its life.
    ///
    /// # Errors
    /// [`NetfilterError`]; nothing has changed.
    pub fn open_to(
        &mut self,
        gate: Gate<'_>,
        rules: &[usize],
        ips: &[IpAddr],
        time: Option<Duration>,
    ) -> Result<(), NetfilterError> {
        self.renew(gate, 'n', rules, ips, time)
    }

    fn renew(
        &mut self,
        gate: Gate<'_>,
        kind: char,
        numbers: &[usize],
        ips: &[IpAddr],
        time: Option<Duration>,
    ) -> Result<(), NetfilterError> {
        let table = gate.table();
        let each =
            numbers.iter().flat_map(|number| ips.iter().map(move |ip| (*ip, Set::new(kind, *number, ip.is_ipv4()))));
        let each: Vec<(IpAddr, Set)> = each.collect();
        let changes: Vec<Change<'_>> =
            each.iter().map(|(ip, set)| Change::Renew(Family::Inet, &table, &set.name, *ip, time)).collect();
        if changes.is_empty() { Ok(()) } else { self.run(&changes, "open addresses") }
    }

    /// A container's rules go, if there are any.
    ///
    /// # Errors
    /// [`NetfilterError`].
    pub fn unbar(&mut self, devices: &str) -> Result<(), NetfilterError> {
        let table = table_name(devices);
        for family in [Family::Bridge, Family::Inet] {
            match self.run(&[Change::Delete(family, &table)], "remove egress rules") {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_stand_in_their_order_and_ports_are_of_two_protocols() {
        let rules = Rules::parse(["deny=10.0.0.0/8", "allow=*.example.org", "allow=192.0.2.7:443"]).unwrap();
        let gate = Gate { devices: "v0123456789n", note: "0123456789ab", rules: &rules };
        let out: Vec<String> = gate.out().iter().skip(2).map(|rule| format!("{rule:?}")).collect();
        let is_about = ["10.0.0.0", "n1-4", "n1-6", "Protocol(6)", "Protocol(17)", "Goto(\"refused\")"];
        assert_eq!(out.len(), is_about.len());
        for (rule, part) in out.iter().zip(is_about) {
            assert!(rule.contains(part), "{rule}: {part}");
        }
        assert!(out[0].contains("Goto") && out[1].contains("Accept") && out[3].contains("ToPorts(443, 443)"));
        let [_, inet] = gate.tables();
        let names: Vec<&str> = inet.sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(names, ["o0-4", "o0-6", "n1-4", "n1-6"]);
    }

    #[test]
    fn addresses_are_open_for_longer_than_their_answers_live() {
        for (ttl, open) in [(0, 30), (60, 90), (u32::MAX, 604_800)] {
            assert_eq!(open_for(Duration::from_secs(ttl.into())), Duration::from_secs(open));
        }
    }
}
