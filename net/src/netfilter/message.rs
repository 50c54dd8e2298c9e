//! nf_tables messages as bytes.
//!
//! ```text
//! nlmsghdr { len u32, type u16 = subsystem << 8 | message, flags u16, seq u32, pid u32 }
//! nfgenmsg { family u8, version u8, res_id be16 }   { len u16, type u16, value, pad }*      numbers are big-endian
//! ```

use std::net::IpAddr;
use std::time::Duration;

use super::expression::Body;
use super::{Chain, Family, Set, Table};
use crate::netlink::{Attributes as _, split};

// linux/netfilter/nfnetlink.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

// linux/netfilter/nf_tables.h
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_ID: u16 = 10;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;

/// nft(8)'s own numbers for types of keys, by which it shows them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;

/// The most addresses of one set.
const SET_SIZE: u32 = 65_536;

/// What is sent at once.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) first_sequence: u32,
    /// Of the last message.
    pub(super) last_sequence: u32,
    /// Of the last message that the kernel answers.
    pub(super) last_acknowledged: u32,
}

/// One change of a batch.
#[derive(Debug)]
pub(super) enum Change<'a> {
    /// The table is like this, whatever it was.
    Replace(&'a Table),
    /// The table is made; there must be none.
    Make(&'a Table),
    /// The table goes; there must be one.
    Delete(Family, &'a str),
    /// The set has this address from now on, for so long.
    Renew(Family, &'a str, &'a str, IpAddr, Option<Duration>),
}

/// The messages that make these changes, numbered from `sequence`.
pub(super) fn batch(changes: &[Change<'_>], sequence: u32) -> Batch {
    let mut messages = Messages { bytes: Vec::new(), sequence, last_acknowledged: sequence };
    messages.control(NFNL_MSG_BATCH_BEGIN);
    for change in changes {
        match change {
            Change::Replace(table) => {
                // To delete one that is not there would be an error, to make one that is there is none.
                messages.table(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, table.family, &table.name);
                messages.table(NFT_MSG_DELTABLE, 0, table.family, &table.name);
                messages.table(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, table.family, &table.name);
                messages.fill(table);
            }
            Change::Make(table) => {
                let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
                messages.table(NFT_MSG_NEWTABLE, flags, table.family, &table.name);
                messages.fill(table);
            }
            Change::Delete(family, name) => messages.table(NFT_MSG_DELTABLE, 0, *family, name),
            Change::Renew(family, table, set, ip, timeout) => {
                // One that is there keeps its time, and one that is not there cannot be removed.
                messages.element(NFT_MSG_NEWSETELEM, *family, table, set, *ip, *timeout);
                messages.element(NFT_MSG_DELSETELEM, *family, table, set, *ip, None);
                messages.element(NFT_MSG_NEWSETELEM, *family, table, set, *ip, *timeout);
            }
        }
    }
    messages.control(NFNL_MSG_BATCH_END);
    let last_sequence = messages.sequence.wrapping_sub(1);
    Batch {
        bytes: messages.bytes,
        first_sequence: sequence,
        last_sequence,
        last_acknowledged: messages.last_acknowledged,
    }
}

/// The answers in what one `recv` brought: the number of the message, and 0 or why it was refused.
pub(super) fn verdicts(bytes: &[u8]) -> Vec<(u32, i32)> {
    let errors = split(bytes).filter(|message| message.kind == libc::NLMSG_ERROR as u16);
    errors.map(|message| (message.sequence, message.error())).collect()
}

/// Messages under construction.
struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
    last_acknowledged: u32,
}

impl Messages {
    /// Begins or ends the batch.
    fn control(&mut self, kind: u16) {
        // The subsystem stands in res_id.
        self.append(kind, libc::NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    }

    fn table(&mut self, kind: u16, flags: libc::c_int, family: Family, name: &str) {
        self.add(kind, flags, family, |body| body.text(NFTA_TABLE_NAME, name));
    }

    /// What is in a table that is empty.
    fn fill(&mut self, table: &Table) {
        for (number, set) in (1..).zip(&table.sets) {
            self.set(table, set, number);
        }
        // A rule may lead to any chain.
        table.chains.iter().for_each(|chain| self.chain(table, chain));
        for chain in &table.chains {
            for rule in &chain.rules {
                let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
                self.add(NFT_MSG_NEWRULE, flags, table.family, |body| {
                    body.text(NFTA_RULE_TABLE, &table.name);
                    body.text(NFTA_RULE_CHAIN, chain.name);
                    body.nested(NFTA_RULE_EXPRESSIONS, |list| rule.iter().for_each(|step| list.step(step)));
                });
            }
        }
    }

    fn chain(&mut self, table: &Table, chain: &Chain) {
        self.add(NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, table.family, |body| {
            body.text(NFTA_CHAIN_TABLE, &table.name);
            body.text(NFTA_CHAIN_NAME, chain.name);
            if let Some(hook) = &chain.hook {
                body.nested(NFTA_CHAIN_HOOK, |at| {
                    at.number(NFTA_HOOK_HOOKNUM, hook.place as u32);
                    at.number(NFTA_HOOK_PRIORITY, hook.priority as u32);
                });
                body.text(NFTA_CHAIN_TYPE, hook.kind);
            }
        });
    }

    fn set(&mut self, table: &Table, set: &Set, number: u32) {
        let (kind, len) = if set.is_ipv4 { (TYPE_IPV4, 4) } else { (TYPE_IPV6, 16) };
        self.add(NFT_MSG_NEWSET, libc::NLM_F_CREATE, table.family, |body| {
            body.text(NFTA_SET_TABLE, &table.name);
            body.text(NFTA_SET_NAME, &set.name);
            body.number(NFTA_SET_FLAGS, NFT_SET_TIMEOUT);
            body.number(NFTA_SET_KEY_TYPE, kind);
            body.number(NFTA_SET_KEY_LEN, len);
            body.nested(NFTA_SET_DESC, |description| description.number(NFTA_SET_DESC_SIZE, SET_SIZE));
            body.number(NFTA_SET_ID, number);
        });
    }

    fn element(&mut self, kind: u16, family: Family, table: &str, set: &str, ip: IpAddr, timeout: Option<Duration>) {
        let flags = if kind == NFT_MSG_NEWSETELEM { libc::NLM_F_CREATE } else { 0 };
        self.add(kind, flags, family, |body| {
            body.text(NFTA_SET_ELEM_LIST_TABLE, table);
            body.text(NFTA_SET_ELEM_LIST_SET, set);
            body.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                list.nested(NFTA_LIST_ELEM, |element| {
                    element.nested(NFTA_SET_ELEM_KEY, |key| key.address(NFTA_DATA_VALUE, ip));
                    if let Some(timeout) = timeout {
                        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                        element.attribute(NFTA_SET_ELEM_TIMEOUT, &milliseconds.to_be_bytes());
                    }
                });
            });
        });
    }

    fn add(&mut self, kind: u16, flags: libc::c_int, family: Family, fill: impl FnOnce(&mut Body)) {
        let mut body = Body::default();
        fill(&mut body);
        self.last_acknowledged = self.sequence;
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        self.append(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, family as u8, 0, body.as_bytes());
    }

    fn append(&mut self, kind: u16, flags: libc::c_int, family: u8, res_id: u16, body: &[u8]) {
        self.bytes.extend_from_slice(&super::header(kind, flags, self.sequence, family, res_id, body.len()));
        self.bytes.extend_from_slice(body);
        self.sequence = self.sequence.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FORWARD, Step};
    use super::*;

    #[test]
    fn a_batch_is_made_of_whole_messages_in_order() {
        let rules = vec![vec![Step::In("podman0".into()), Step::Drop]];
        let table = Table {
            family: Family::Inet,
            name: "coracle".into(),
            sets: Vec::new(),
            chains: vec![Chain { name: "forward", hook: Some(FORWARD), rules }],
        };
        let batch = batch(&[Change::Replace(&table)], 5);
        let (mut rest, mut sequences) = (&batch.bytes[..], Vec::new());
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(len % 4, 0);
            sequences.push(u32::from_ne_bytes(rest[8..12].try_into().unwrap()));
            rest = &rest[len..];
        }
        assert_eq!(sequences, [5, 6, 7, 8, 9, 10, 11]);
        assert_eq!((batch.last_acknowledged, batch.last_sequence), (10, 11));
    }

    #[test]
    fn cut_answers_end_the_walk() {
        let mut answer = Vec::new();
        answer.extend_from_slice(&20_u32.to_ne_bytes());
        answer.extend_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        answer.extend_from_slice(&[0; 2]);
        answer.extend_from_slice(&9_u32.to_ne_bytes());
        answer.extend_from_slice(&[0; 4]);
        answer.extend_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(verdicts(&answer), [(9, libc::EPERM)]);
        for len in 0..answer.len() {
            assert_eq!(verdicts(&answer[..len]), []);
        }
        assert_eq!(verdicts(&[0xff; 40]), []);
    }
}
