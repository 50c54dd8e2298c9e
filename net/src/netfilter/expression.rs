//! Steps of rules as the kernel's expressions.
//!
//! A condition loads something into a register and compares it; a packet that does not meet it goes on to the next rule.

use std::net::IpAddr;

use super::Step;
use crate::netlink::Attributes;

// linux/netfilter/nf_tables.h
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_LIMIT_RATE: u16 = 1;
const NFTA_LIMIT_UNIT: u16 = 2;
const NFTA_LIMIT_BURST: u16 = 3;
const NFTA_LOG_GROUP: u16 = 1;
const NFTA_LOG_PREFIX: u16 = 2;
const NFTA_LOG_SNAPLEN: u16 = 3;
const NFTA_REJECT_TYPE: u16 = 1;
const NFTA_REJECT_ICMP_CODE: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_META_MARK: u32 = 3;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GTE: u32 = 5;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_REJECT_TCP_RST: u32 = 1;
const NFT_REJECT_ICMPX_UNREACH: u32 = 2;
const NFT_REJECT_ICMPX_ADMIN_PROHIBITED: u8 = 3;
const NFT_GOTO: u32 = -4_i32 as u32;

// linux/netfilter.h
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

// linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED.
const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;

/// Bytes of a packet that are noted: headers, with options.
const NOTED_BYTES: u32 = 128;

/// Attributes of one message.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Attributes for Body {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Body {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nested(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, name);
            element.nested(NFTA_EXPR_DATA, fill);
        });
    }

    /// Appends what a step is in the kernel.
    pub(super) fn step(&mut self, step: &Step) {
        match step {
            // With the NUL at its end: `podman1` is not `podman10`.
            Step::In(device) => self.device(NFT_META_IIFNAME, device, libc::IFNAMSIZ),
            Step::Out(device) => self.device(NFT_META_OIFNAME, device, libc::IFNAMSIZ),
            Step::InLike(prefix) => self.device(NFT_META_IIFNAME, prefix, prefix.len()),
            Step::NotMarked(mark) => {
                self.meta(NFT_META_MARK);
                self.compare(NFT_CMP_NEQ, &mark.to_ne_bytes());
            }
            Step::Mark(mark) => {
                self.expression("immediate", |data| {
                    data.number(NFTA_IMMEDIATE_DREG, NFT_REG_1);
                    data.nested(NFTA_IMMEDIATE_DATA, |value| value.attribute(NFTA_DATA_VALUE, &mark.to_ne_bytes()));
                });
                self.expression("meta", |data| {
                    data.number(NFTA_META_KEY, NFT_META_MARK);
                    data.number(NFTA_META_SREG, NFT_REG_1);
                });
            }
            Step::OfFlow => {
                self.expression("ct", |data| {
                    data.number(NFTA_CT_KEY, NFT_CT_STATE);
                    data.number(NFTA_CT_DREG, NFT_REG_1);
                });
                self.mask(&ESTABLISHED_OR_RELATED.to_ne_bytes());
                self.compare(NFT_CMP_NEQ, &[0; 4]);
            }
            Step::Protocol(protocol) => {
                self.meta(NFT_META_L4PROTO);
                self.compare(NFT_CMP_EQ, &[*protocol]);
            }
            Step::FromSet { set, is_ipv4 } => {
                self.address(*is_ipv4, 12, 8);
                self.look_up(set);
            }
            Step::ToSet { set, is_ipv4 } => {
                self.address(*is_ipv4, 16, 24);
                self.look_up(set);
            }
            Step::ToRange(range) => {
                self.address(range.first.is_ipv4(), 16, 24);
                let bits = u32::from(range.prefix);
                match range.first {
                    IpAddr::V4(v4) => {
                        self.mask(&u32::MAX.checked_shl(32 - bits).unwrap_or(0).to_be_bytes());
                        self.compare(NFT_CMP_EQ, &v4.octets());
                    }
                    IpAddr::V6(v6) => {
                        self.mask(&u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes());
                        self.compare(NFT_CMP_EQ, &v6.octets());
                    }
                }
            }
            Step::ToPorts(first, last) => {
                self.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
                if first == last {
                    self.compare(NFT_CMP_EQ, &first.to_be_bytes());
                } else {
                    self.compare(NFT_CMP_GTE, &first.to_be_bytes());
                    self.compare(NFT_CMP_LTE, &last.to_be_bytes());
                }
            }
            Step::AtMost { each_second, burst } => self.expression("limit", |data| {
                data.attribute(NFTA_LIMIT_RATE, &each_second.to_be_bytes());
                data.attribute(NFTA_LIMIT_UNIT, &1_u64.to_be_bytes());
                data.number(NFTA_LIMIT_BURST, *burst);
            }),
            Step::Note { group, prefix } => self.expression("log", |data| {
                data.attribute(NFTA_LOG_GROUP, &group.to_be_bytes());
                data.text(NFTA_LOG_PREFIX, prefix);
                data.number(NFTA_LOG_SNAPLEN, NOTED_BYTES);
            }),
            Step::Accept => self.verdict(NF_ACCEPT, None),
            Step::Drop => self.verdict(NF_DROP, None),
            Step::Goto(chain) => self.verdict(NFT_GOTO, Some(chain)),
            Step::Reset => self.reject(NFT_REJECT_TCP_RST, 0),
            Step::Prohibit => self.reject(NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED),
            Step::Masquerade => self.expression("masq", |_| {}),
        }
    }

    fn device(&mut self, key: u32, device: &str, len: usize) {
        self.meta(key);
        let mut name = [0_u8; libc::IFNAMSIZ];
        let known = device.len().min(name.len() - 1);
        name[..known].copy_from_slice(&device.as_bytes()[..known]);
        self.compare(NFT_CMP_EQ, &name[..len.min(libc::IFNAMSIZ)]);
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |data| {
            data.number(NFTA_META_KEY, key);
            data.number(NFTA_META_DREG, NFT_REG_1);
        });
    }

    fn compare(&mut self, how: u32, with: &[u8]) {
        self.expression("cmp", |data| {
            data.number(NFTA_CMP_SREG, NFT_REG_1);
            data.number(NFTA_CMP_OP, how);
            data.nested(NFTA_CMP_DATA, |value| value.attribute(NFTA_DATA_VALUE, with));
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.expression("bitwise", |data| {
            data.number(NFTA_BITWISE_SREG, NFT_REG_1);
            data.number(NFTA_BITWISE_DREG, NFT_REG_1);
            data.number(NFTA_BITWISE_LEN, u32::try_from(mask.len()).unwrap_or_default());
            data.nested(NFTA_BITWISE_MASK, |value| value.attribute(NFTA_DATA_VALUE, mask));
            data.nested(NFTA_BITWISE_XOR, |value| value.attribute(NFTA_DATA_VALUE, &[0; 16][..mask.len().min(16)]));
        });
    }

    fn payload(&mut self, base: u32, offset: u32, len: u32) {
        self.expression("payload", |data| {
            data.number(NFTA_PAYLOAD_DREG, NFT_REG_1);
            data.number(NFTA_PAYLOAD_BASE, base);
            data.number(NFTA_PAYLOAD_OFFSET, offset);
            data.number(NFTA_PAYLOAD_LEN, len);
        });
    }

    /// Loads an address of a packet of its family, which stands at one of these places.
    fn address(&mut self, is_ipv4: bool, offset4: u32, offset6: u32) {
        let (family, offset, len) = if is_ipv4 { (NFPROTO_IPV4, offset4, 4) } else { (NFPROTO_IPV6, offset6, 16) };
        self.meta(NFT_META_NFPROTO);
        self.compare(NFT_CMP_EQ, &[family]);
        self.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, len);
    }

    fn look_up(&mut self, set: &str) {
        self.expression("lookup", |data| {
            data.text(NFTA_LOOKUP_SET, set);
            data.number(NFTA_LOOKUP_SREG, NFT_REG_1);
        });
    }

    fn reject(&mut self, kind: u32, code: u8) {
        self.expression("reject", |data| {
            data.number(NFTA_REJECT_TYPE, kind);
            data.attribute(NFTA_REJECT_ICMP_CODE, &[code]);
        });
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.expression("immediate", |data| {
            data.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            data.nested(NFTA_IMMEDIATE_DATA, |value| {
                value.nested(NFTA_DATA_VERDICT, |verdict| {
                    verdict.number(NFTA_VERDICT_CODE, code);
                    chain.into_iter().for_each(|chain| verdict.text(NFTA_VERDICT_CHAIN, chain));
                });
            });
        });
    }
}
