//! `--network slirp4netns:OPTION,...` with podman's names and messages.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::PROGRAM;
use crate::driver_options::{Cidr, Given, OptionError};

/// The largest MTU slirp4netns takes, in bytes.
const MAX_MTU: u16 = 65521;

/// The smallest: IPv4 demands it.
const MIN_MTU: u16 = 68;

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
        for given in Given::each(PROGRAM, text) {
            let given = given?;
            let source = |is_address: bool| {
                let is_good = is_address || is_device_name(given.value);
                if is_good { Ok(Some(given.value.to_owned())) } else { Err(given.bad()) }
            };
            match given.name {
                "allow_host_loopback" => options.allow_host_loopback = given.boolean()?,
                "enable_ipv6" => options.enable_ipv6 = given.boolean()?,
                "mtu" => options.mtu = given.mtu(MIN_MTU..=MAX_MTU)?,
                "cidr" => options.cidr = given.cidr()?,
                "outbound_addr" => options.outbound_addr = source(given.value.parse::<Ipv4Addr>().is_ok())?,
                "outbound_addr6" => options.outbound_addr6 = source(given.value.parse::<Ipv6Addr>().is_ok())?,
                "port_handler" if matches!(given.value, "rootlesskit" | "slirp4netns") => {}
                "port_handler" => return Err(given.bad()),
                _ => return Err(given.unknown()),
            }
        }
        if options.outbound_addr6.is_some() && !options.enable_ipv6 {
            return Err(OptionError::NeedsIpv6 { driver: PROGRAM });
        }
        Ok(options)
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
