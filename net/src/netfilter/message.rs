//! nf_tables messages as bytes.
//!
//! ```text
//! nlmsghdr { len u32, type u16 = subsystem << 8 | message, flags u16, seq u32, pid u32 }
//! nfgenmsg { family u8, version u8, res_id be16 }   { len u16, type u16, value, pad }*      numbers are big-endian
//! ```

use super::{Chain, Hook, Match, Verdict};

// linux/netfilter/nfnetlink.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

// linux/netfilter/nf_tables.h
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
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
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_CMP_EQ: u32 = 0;

// linux/netfilter.h
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_POST_ROUTING: u32 = 4;
const NFPROTO_INET: u8 = 1;

/// Priorities by nft(8): `filter` and `srcnat`.
const PRIORITY_FILTER: u32 = 0;
const PRIORITY_SRCNAT: u32 = 100;

/// What is sent at once.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Of the last message.
    pub(super) last_sequence: u32,
    /// Of the last message that the kernel answers.
    pub(super) last_acknowledged: u32,
}

/// The messages that replace a table by these chains, numbered from `sequence`.
pub(super) fn batch(table: &str, chains: &[Chain], sequence: u32) -> Batch {
    let mut messages = Messages { bytes: Vec::new(), sequence, last_acknowledged: sequence };
    messages.control(NFNL_MSG_BATCH_BEGIN);
    // To delete one that is not there would be an error, to make one that is there is none.
    messages.add(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, |body| body.text(NFTA_TABLE_NAME, table));
    messages.add(NFT_MSG_DELTABLE, 0, |body| body.text(NFTA_TABLE_NAME, table));
    messages.add(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, |body| body.text(NFTA_TABLE_NAME, table));
    for chain in chains {
        let (name, kind, hook, priority) = match chain.hook {
            Hook::Forward => ("forward", "filter", NF_INET_FORWARD, PRIORITY_FILTER),
            Hook::Postrouting => ("postrouting", "nat", NF_INET_POST_ROUTING, PRIORITY_SRCNAT),
        };
        messages.add(NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, |body| {
            body.text(NFTA_CHAIN_TABLE, table);
            body.text(NFTA_CHAIN_NAME, name);
            body.nested(NFTA_CHAIN_HOOK, |at| {
                at.number(NFTA_HOOK_HOOKNUM, hook);
                at.number(NFTA_HOOK_PRIORITY, priority);
            });
            body.text(NFTA_CHAIN_TYPE, kind);
        });
        for (matches, verdict) in &chain.rules {
            messages.add(NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, |body| {
                body.text(NFTA_RULE_TABLE, table);
                body.text(NFTA_RULE_CHAIN, name);
                body.nested(NFTA_RULE_EXPRESSIONS, |list| {
                    matches.iter().for_each(|one| list.condition(one));
                    list.verdict(*verdict);
                });
            });
        }
    }
    messages.control(NFNL_MSG_BATCH_END);
    let last_sequence = messages.sequence.wrapping_sub(1);
    Batch { bytes: messages.bytes, last_sequence, last_acknowledged: messages.last_acknowledged }
}

/// The answers in what one `recv` brought: the number of the message, and 0 or why it was refused.
pub(super) fn verdicts(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut all = Vec::new();
    while let Some(len) = word(bytes, 0).map(|len| len as usize).filter(|len| *len >= 16) {
        let Some(message) = bytes.get(..len) else { break };
        let is_error = message.get(4..6) == Some(&(libc::NLMSG_ERROR as u16).to_ne_bytes()[..]);
        if let (true, Some(sequence), Some(code)) = (is_error, word(message, 8), word(message, 16)) {
            all.push((sequence, (code as i32).wrapping_neg()));
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
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

    fn add(&mut self, kind: u16, flags: libc::c_int, fill: impl FnOnce(&mut Body)) {
        let mut body = Body(Vec::new());
        fill(&mut body);
        self.last_acknowledged = self.sequence;
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        self.append(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, NFPROTO_INET, 0, &body.0);
    }

    fn append(&mut self, kind: u16, flags: libc::c_int, family: u8, res_id: u16, body: &[u8]) {
        let len = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&res_id.to_be_bytes());
        self.bytes.extend_from_slice(body);
        self.sequence = self.sequence.wrapping_add(1);
    }
}

/// Attributes of one message.
struct Body(Vec<u8>);

impl Body {
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat());
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self(Vec::new());
        fill(&mut inner);
        self.attribute(kind | libc::NLA_F_NESTED as u16, &inner.0);
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, name);
            element.nested(NFTA_EXPR_DATA, fill);
        });
    }

    /// Loads the name of a device and compares it, with the NUL at its end: `podman1` is not `podman10`.
    fn condition(&mut self, one: &Match) {
        let (key, device) = match one {
            Match::In(device) => (NFT_META_IIFNAME, device),
            Match::Out(device) => (NFT_META_OIFNAME, device),
        };
        self.expression("meta", |data| {
            data.number(NFTA_META_KEY, key);
            data.number(NFTA_META_DREG, NFT_REG_1);
        });
        let mut name = [0_u8; libc::IFNAMSIZ];
        let len = device.len().min(name.len() - 1);
        name[..len].copy_from_slice(&device.as_bytes()[..len]);
        self.expression("cmp", |data| {
            data.number(NFTA_CMP_SREG, NFT_REG_1);
            data.number(NFTA_CMP_OP, NFT_CMP_EQ);
            data.nested(NFTA_CMP_DATA, |value| value.attribute(NFTA_DATA_VALUE, &name));
        });
    }

    fn verdict(&mut self, verdict: Verdict) {
        let code = match verdict {
            Verdict::Masquerade => return self.expression("masq", |_| {}),
            Verdict::Accept => NF_ACCEPT,
            Verdict::Drop => NF_DROP,
        };
        self.expression("immediate", |data| {
            data.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            data.nested(NFTA_IMMEDIATE_DATA, |value| {
                value.nested(NFTA_DATA_VERDICT, |verdict| verdict.number(NFTA_VERDICT_CODE, code));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_made_of_whole_messages_in_order() {
        let rule = (vec![Match::In("podman0".into())], Verdict::Drop);
        let batch = batch("coracle", &[Chain { hook: Hook::Forward, rules: vec![rule] }], 5);
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
