//! `--network builtin:OPTION,...`, with the names and values that slirp4netns' options have.

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::driver_options::{Cidr, Given, OptionError};

/// The largest MTU: the largest packet less the longest header of the device.
const MAX_MTU: u16 = 65_520;

/// The smallest: IPv6 demands it.
const MIN_MTU: u16 = 1280;

/// The options.
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
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_host_loopback: false, mtu: MAX_MTU, cidr: Cidr::default(), enable_ipv6: true }
    }
}

impl Options {
    /// Parses `name=value,...`.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for given in Given::each(NAME, text) {
            let given = given?;
            match given.name {
                "allow_host_loopback" => options.allow_host_loopback = given.boolean()?,
                "enable_ipv6" => options.enable_ipv6 = given.boolean()?,
                "mtu" => options.mtu = given.mtu(MIN_MTU..=MAX_MTU)?,
                "cidr" => options.cidr = given.cidr()?,
                _ => return Err(given.unknown()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_refused_by_name() {
        let options = Options::parse("allow_host_loopback=true,mtu=1400,cidr=10.9.0.0/16,enable_ipv6=false").unwrap();
        assert!(options.allow_host_loopback && !options.enable_ipv6);
        assert_eq!((options.mtu, options.cidr.to_string()), (1400, "10.9.0.0/16".to_owned()));
        assert_eq!(Options::parse("").unwrap(), Options::default());
        for (text, message) in [
            ("mtu", "unknown option for builtin: \"mtu\""),
            ("outbound_addr=1.2.3.4", "unknown option for builtin: \"outbound_addr=1.2.3.4\""),
            ("mtu=576", "invalid value of mtu for builtin: \"576\""),
            ("mtu=65521", "invalid value of mtu for builtin: \"65521\""),
            ("cidr=10.0.2.0/26", "invalid value of cidr for builtin: \"10.0.2.0/26\""),
            ("allow_host_loopback=maybe", "invalid value of allow_host_loopback for builtin: \"maybe\""),
        ] {
            assert_eq!(Options::parse(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }
}
