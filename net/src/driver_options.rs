//! What the options of drivers have in common, `builtin:OPTION,...` and `slirp4netns:OPTION,...`.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Why an option was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// No such option, or one without a value.
    #[error("unknown option for {driver}: {option:?}")]
    Unknown {
        /// The driver.
        driver: &'static str,
        /// The option.
        option: String,
    },
    /// A value that is not of its kind.
    #[error("invalid value of {name} for {driver}: {value:?}")]
    Value {
        /// The driver.
        driver: &'static str,
        /// The option.
        name: String,
        /// Its value.
        value: String,
    },
    /// An IPv6 source without IPv6.
    #[error("outbound_addr6 for {driver} needs enable_ipv6=true")]
    NeedsIpv6 {
        /// The driver.
        driver: &'static str,
    },
}

/// One `name=value` of a driver's options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    driver: &'static str,
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
}

impl<'a> Given<'a> {
    /// Each of `name=value,...`.
    pub(crate) fn each(driver: &'static str, text: &'a str) -> impl Iterator<Item = Result<Self, OptionError>> {
        text.split(',').filter(|option| !option.is_empty()).map(move |option| {
            let pair = option.split_once('=');
            let (name, value) = pair.ok_or_else(|| OptionError::Unknown { driver, option: option.to_owned() })?;
            Ok(Self { driver, name, value })
        })
    }

    /// There is none of this name.
    pub(crate) fn unknown(self) -> OptionError {
        OptionError::Unknown { driver: self.driver, option: format!("{}={}", self.name, self.value) }
    }

    /// Its value is of another kind.
    pub(crate) fn bad(self) -> OptionError {
        OptionError::Value { driver: self.driver, name: self.name.to_owned(), value: self.value.to_owned() }
    }

    /// The spellings Go's `ParseBool` takes.
    pub(crate) fn boolean(self) -> Result<bool, OptionError> {
        match self.value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(self.bad()),
        }
    }

    pub(crate) fn mtu(self, range: RangeInclusive<u16>) -> Result<u16, OptionError> {
        self.value.parse().ok().filter(|mtu| range.contains(mtu)).ok_or_else(|| self.bad())
    }

    pub(crate) fn cidr(self) -> Result<Cidr, OptionError> {
        Cidr::parse(self.value).ok_or_else(|| self.bad())
    }
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
    fn parse(text: &str) -> Option<Self> {
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
