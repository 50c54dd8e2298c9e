//! `--network`: modes, and networks with what is asked for of each.
//!
//! # Source
//! podman-run(1) `--network`.

use std::net::IpAddr;

use net::driver::MacAddress;
use net::mode::Mode;
use storage::state::request::Endpoint;

use super::names;

/// What the values of `--network` say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A mode, as it was given.
    Mode(String),
    /// Bridges, in order.
    Networks(Vec<Endpoint>),
}

/// Parses an address.
pub(crate) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an ip address"))
}

/// Parses a hardware address of six bytes, which is a single device's.
pub(crate) fn mac(text: &str) -> Result<MacAddress, String> {
    let bad = || format!("address {text}: invalid MAC address");
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut bytes = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    if parts.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
        return Err(bad());
    }
    Ok(MacAddress(bytes))
}

/// Parses all values of `--network`.
pub(crate) fn networks(values: &[String]) -> Result<Wanted, String> {
    let (first, more) = match values {
        [] => return Ok(Wanted::Mode(String::new())),
        [first, more @ ..] => (first, more),
    };
    let mut endpoints = match one(first)? {
        Wanted::Mode(mode) if !more.is_empty() => {
            let mode = mode.split(':').next().unwrap_or_default();
            return Err(format!("cannot set multiple networks without bridge network mode, selected mode {mode}"));
        }
        Wanted::Mode(mode) => return Ok(Wanted::Mode(mode)),
        Wanted::Networks(endpoints) => endpoints,
    };
    for value in more {
        match one(value)? {
            Wanted::Mode(mode) => {
                let mode = mode.split(':').next().unwrap_or_default();
                return Err(format!("can only set extra network names, selected mode {mode} conflicts with bridge"));
            }
            Wanted::Networks(more) => endpoints.extend(more),
        }
    }
    // Twice is once, the last word counts.
    let mut unique: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints {
        match unique.iter_mut().find(|other| other.network == endpoint.network) {
            Some(other) => *other = endpoint,
            None => unique.push(endpoint),
        }
    }
    Ok(Wanted::Networks(unique))
}

fn one(value: &str) -> Result<Wanted, String> {
    let (name, options) = match value.split_once(':') {
        Some((name, options)) => (name, Some(options)),
        None => (value, None),
    };
    match name {
        "" if options.is_some() => return Err("network name cannot be empty".to_owned()),
        "default" | "private" if options.is_none() => return Ok(Wanted::Mode(value.to_owned())),
        "" | "none" | "host" | "container" | "ns" | "builtin" | "slirp4netns" | "pasta" | "private" | "macvlan"
        | "ipvlan" | "overlay" => {
            Mode::parse(value).map_err(|error| error.to_string())?;
            return Ok(Wanted::Mode(value.to_owned()));
        }
        _ => {}
    }
    let Some(options) = options else {
        let named = value.split(',').map(|name| match name {
            "" => Err("network name cannot be empty".to_owned()),
            name => Ok(Endpoint { network: canonical(name).to_owned(), ..Endpoint::default() }),
        });
        return named.collect::<Result<_, _>>().map(Wanted::Networks);
    };
    let endpoint = endpoint(name, options).map_err(|why| format!("invalid option for network {name}: {why}"))?;
    Ok(Wanted::Networks(vec![endpoint]))
}

/// The default network has three names.
fn canonical(name: &str) -> &str {
    if crate::networks::is_default(name) { storage::state::network::DEFAULT_NAME } else { name }
}

fn endpoint(name: &str, options: &str) -> Result<Endpoint, String> {
    let mut endpoint = Endpoint { network: canonical(name).to_owned(), ..Endpoint::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "ip" | "ip6" => {
                let ip: IpAddr = value.parse().map_err(|_| format!("invalid ip address {value:?}"))?;
                if endpoint.ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                    return Err(format!("a second address of one family: {value}"));
                }
                endpoint.ips.push(ip);
            }
            "mac" => endpoint.mac = Some(mac(value)?.to_string()),
            "alias" if value.is_empty() => return Err("alias cannot be empty".to_owned()),
            "alias" => endpoint.aliases.push(names::hostname(value)?),
            "interface_name" if value.is_empty() => return Err("interface_name cannot be empty".to_owned()),
            "interface_name" => endpoint.interface = Some(interface(value)?),
            other => return Err(format!("unknown option {other:?}: must be ip, ip6, mac, alias or interface_name")),
        }
    }
    Ok(endpoint)
}

/// A name that the kernel takes for a device.
///
/// # Source
/// Linux, `dev_valid_name`; `IFNAMSIZ` in linux/if.h.
fn interface(name: &str) -> Result<String, String> {
    let fits = name.len() <= 15
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
        && !matches!(name, "." | ".." | "lo");
    if fits { Ok(name.to_owned()) } else { Err(format!("interface name {name:?} is none of a device")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<String, String> {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        Ok(match networks(&values)? {
            Wanted::Mode(mode) => format!("mode {mode}"),
            Wanted::Networks(all) => {
                let one = |one: &Endpoint| {
                    let ips: Vec<String> = one.ips.iter().map(ToString::to_string).collect();
                    let rest = [one.mac.clone(), one.interface.clone()].into_iter().flatten();
                    let words = std::iter::once(one.network.clone()).chain(ips).chain(one.aliases.clone()).chain(rest);
                    words.collect::<Vec<_>>().join(" ")
                };
                all.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        })
    }

    #[test]
    fn networks_are_named_with_their_options() {
        for (values, expected) in [
            (&[][..], "mode "),
            (&["host"], "mode host"),
            (&["container:web"], "mode container:web"),
            (&["slirp4netns:mtu=1400"], "mode slirp4netns:mtu=1400"),
            (&["web"], "web"),
            (&["web,db"], "web, db"),
            (&["web", "db:alias=x,alias=y"], "web, db x y"),
            (
                &["web:ip=10.89.0.9,ip6=fd00::9,mac=02-00-00-00-00-0A,interface_name=net0"],
                "web 10.89.0.9 fd00::9 02:00:00:00:00:0a net0",
            ),
            (&["bridge:ip=10.88.0.9", "podman"], "podman"),
            (&["web", "web:alias=a"], "web a"),
            (&["bridge"], "podman"),
        ] {
            assert_eq!(parse(values).as_deref(), Ok(expected), "{values:?}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (values, message) in [
            (&["host", "web"][..], "cannot set multiple networks without bridge network mode, selected mode host"),
            (&["web", "host"], "can only set extra network names, selected mode host conflicts with bridge"),
            (&[":x"], "network name cannot be empty"),
            (&["web,,db"], "network name cannot be empty"),
            (&["web:ip=foo"], "invalid option for network web: invalid ip address \"foo\""),
            (
                &["web:ip=10.0.0.1,ip=10.0.0.2"],
                "invalid option for network web: a second address of one family: 10.0.0.2",
            ),
            (&["web:mac=foo"], "invalid option for network web: address foo: invalid MAC address"),
            (
                &["web:mac=01:00:00:00:00:01"],
                "invalid option for network web: address 01:00:00:00:00:01: invalid MAC address",
            ),
            (&["web:alias="], "invalid option for network web: alias cannot be empty"),
            (&["web:interface_name=a/b"], "invalid option for network web: interface name \"a/b\" is none of a device"),
            (
                &["web:x=y"],
                "invalid option for network web: unknown option \"x\": must be ip, ip6, mac, alias or interface_name",
            ),
            (&["macvlan"], "network driver macvlan is not available: it needs rights on the host's network devices"),
        ] {
            assert_eq!(parse(values).unwrap_err(), message, "{values:?}");
        }
    }
}
