//! `--network slirp4netns:OPTION,...` with podman's names and messages.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The largest MTU slirp4netns takes, in bytes.
const MAX_MTU: u16 = 65521;

/// Why an option was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// No such option, or one without a value.
    #[error("unknown option for slirp4netns: {0:?}")]
    Unknown(String),
    /// A value that is not of its kind.
    #[error("invalid value of {name} for slirp4netns: {value:?}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// An IPv6 source without IPv6.
    #[error("outbound_addr6 for slirp4netns needs enable_ipv6=true")]
    NeedsIpv6,
}

/// An IPv4 network; shows `10.0.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr {
    /// Its lowest address.
    pub network: Ipv4Addr,
    /// The length of its prefix in bits, at most 25: the guest is number 100.
    pub prefix: u8,
}

impl Cidr {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (network, prefix) = text.split_once('/')?;
        let (network, prefix): (Ipv4Addr, u8) = (network.parse().ok()?, prefix.parse().ok()?);
        let is_aligned = u32::from(network) & (u32::MAX >> prefix.min(31)) == 0;
        ((1..=25).contains(&prefix) && is_aligned).then_some(Self { network, prefix })
    }

    /// Its address number `number`.
    #[must_use]
    pub fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | u32::from(number))
    }
}

impl Default for Cidr {
    fn default() -> Self {
        Self { network: Ipv4Addr::new(10, 0, 2, 0), prefix: 24 }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// The options, with podman's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Whether the gateway's address reaches the host's loopback.
    pub allow_host_loopback: bool,
    /// The device's largest packet, in bytes.
    pub mtu: u16,
    /// The container's network.
    pub cidr: Cidr,
    /// Whether there is IPv6.
    pub enable_ipv6: bool,
    /// Source address, or device of the host, of outgoing IPv4 connections.
    pub outbound_addr: Option<String>,
    /// Source address, or device of the host, of outgoing IPv6 connections.
    pub outbound_addr6: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allow_host_loopback: false,
            mtu: 65520,
            cidr: Cidr::default(),
            enable_ipv6: true,
            outbound_addr: None,
            outbound_addr6: None,
        }
    }
}

impl Options {
    /// Parses `name=value,...`.
    ///
    /// `port_handler` is taken and has no effect: both handlers' published ports are served by our forwarder, which
    /// is as fast as the one and keeps the client's address like the other.
    ///
    /// # Errors
    /// [`OptionError`].
    ///
    /// # Source
    /// podman-run(1) `--network slirp4netns`.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| OptionError::Unknown(option.to_owned()))?;
            let bad = |name| OptionError::Value { name, value: value.to_owned() };
            match name {
                "allow_host_loopback" => {
                    options.allow_host_loopback = parse_bool(value).ok_or_else(|| bad("allow_host_loopback"))?;
                }
                "enable_ipv6" => options.enable_ipv6 = parse_bool(value).ok_or_else(|| bad("enable_ipv6"))?,
                "mtu" => {
                    let mtu = value.parse().ok().filter(|mtu| (68..=MAX_MTU).contains(mtu));
                    options.mtu = mtu.ok_or_else(|| bad("mtu"))?;
                }
                "cidr" => options.cidr = Cidr::parse(value).ok_or_else(|| bad("cidr"))?,
                "outbound_addr" => {
                    let ok = value.parse::<Ipv4Addr>().is_ok() || is_device_name(value);
                    options.outbound_addr = Some(ok.then(|| value.to_owned()).ok_or_else(|| bad("outbound_addr"))?);
                }
                "outbound_addr6" => {
                    let ok = value.parse::<Ipv6Addr>().is_ok() || is_device_name(value);
                    options.outbound_addr6 = Some(ok.then(|| value.to_owned()).ok_or_else(|| bad("outbound_addr6"))?);
                }
                "port_handler" if matches!(value, "rootlesskit" | "slirp4netns") => {}
                "port_handler" => return Err(bad("port_handler")),
                _ => return Err(OptionError::Unknown(option.to_owned())),
            }
        }
        if options.outbound_addr6.is_some() && !options.enable_ipv6 {
            return Err(OptionError::NeedsIpv6);
        }
        Ok(options)
    }
}

/// The spellings Go's `ParseBool` takes.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether the text could be a device: letters first, so that a mistyped address is not taken for one.
fn is_device_name(text: &str) -> bool {
    let fits = (1..=15).contains(&text.len());
    fits && text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.contains(['/', ':', ' ', '='])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podmans_names_are_read() {
        let text = "allow_host_loopback=true,mtu=1500,cidr=10.9.0.0/16,enable_ipv6=1,outbound_addr=eth0,\
                    outbound_addr6=2001:db8::1,port_handler=slirp4netns";
        let options = Options::parse(text).unwrap();
        assert!(options.allow_host_loopback && options.enable_ipv6);
        assert_eq!((options.mtu, options.cidr.to_string().as_str()), (1500, "10.9.0.0/16"));
        assert_eq!(options.outbound_addr.as_deref(), Some("eth0"));
        assert_eq!(Options::parse(""), Ok(Options::default()));
    }

    #[test]
    fn refusals_name_the_option() {
        for (text, message) in [
            ("loop=1", "unknown option for slirp4netns: \"loop=1\""),
            ("mtu", "unknown option for slirp4netns: \"mtu\""),
            ("mtu=many", "invalid value of mtu for slirp4netns: \"many\""),
            ("mtu=70000", "invalid value of mtu for slirp4netns: \"70000\""),
            ("cidr=10.0.2.5/24", "invalid value of cidr for slirp4netns: \"10.0.2.5/24\""),
            ("cidr=10.0.2.0/26", "invalid value of cidr for slirp4netns: \"10.0.2.0/26\""),
            ("allow_host_loopback=yes", "invalid value of allow_host_loopback for slirp4netns: \"yes\""),
            ("outbound_addr=1.2.3", "invalid value of outbound_addr for slirp4netns: \"1.2.3\""),
            ("port_handler=x", "invalid value of port_handler for slirp4netns: \"x\""),
            ("enable_ipv6=false,outbound_addr6=::1", "outbound_addr6 for slirp4netns needs enable_ipv6=true"),
        ] {
            assert_eq!(Options::parse(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }
}
