//! `--add-host`, `--dns`, `--hostname`.

use std::net::IpAddr;

use storage::state::request::{AddHost, Link};

use super::Parsed;

/// What stands for the address of the host.
const HOST_GATEWAY: &str = "host-gateway";

/// `name[;name…]:address` or with `=`; the address may be `host-gateway`, an IPv6 address may stand in brackets.
pub(crate) fn add_host(value: &str) -> Parsed<AddHost> {
    let bad = || format!("bad format for add-host: {value:?}");
    let at = value.find(['=', ':']).ok_or_else(bad)?;
    let (names, address) = (&value[..at], &value[at + 1..]);
    let names: Vec<String> = names.split(';').map(str::to_owned).collect();
    if names.iter().any(|name| !is_name(name)) {
        return Err(bad());
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare != HOST_GATEWAY {
        bare.parse::<IpAddr>().map_err(|_| format!("invalid IP address in add-host: {address:?}"))?;
    }
    Ok(AddHost { names, address: bare.to_owned() })
}

/// `--link`: a container, and what it is called here; its own name without that.
pub(crate) fn link(value: &str) -> Parsed<Link> {
    let (container, alias) = value.split_once(':').unwrap_or((value, value));
    if !is_name(container) || !is_name(alias) {
        return Err(format!("bad format for links: {value}"));
    }
    Ok(Link { container: container.to_owned(), alias: alias.to_owned() })
}

/// An address of a name server; `none` (no value) leaves resolv.conf alone.
pub(crate) fn dns(value: &str) -> Parsed<Option<IpAddr>> {
    match value {
        "none" => Ok(None),
        _ => value.parse().map(Some).map_err(|_| format!("{value} is not an ip address")),
    }
}

/// A search domain, or `.` for none at all.
pub(crate) fn dns_search(value: &str) -> Parsed<String> {
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    let domain = value.strip_suffix('.').unwrap_or(value);
    if value == "." || (domain.split('.').all(plain) && value.len() <= 255) {
        Ok(value.to_owned())
    } else {
        Err(format!("{value:?} is not a valid domain"))
    }
}

/// One option of resolv.conf, such as `ndots:2`.
pub(crate) fn dns_option(value: &str) -> Parsed<String> {
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic()) {
        Ok(value.to_owned())
    } else {
        Err("must be one word".to_owned())
    }
}

/// A host name: what `sethostname(2)` takes, without what would break the hosts file.
pub(crate) fn hostname(value: &str) -> Parsed<String> {
    if value.len() > 64 {
        return Err("longer than 64 bytes".to_owned());
    }
    if is_name(value) { Ok(value.to_owned()) } else { Err("must be one word without control characters".to_owned()) }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '#' | '/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_and_an_address() {
        let line = |names: &[&str], address: &str| AddHost {
            names: names.iter().map(ToString::to_string).collect(),
            address: address.to_owned(),
        };
        for (text, expected) in [
            ("db:10.0.0.1", line(&["db"], "10.0.0.1")),
            ("db=10.0.0.1", line(&["db"], "10.0.0.1")),
            ("a;b:10.0.0.1", line(&["a", "b"], "10.0.0.1")),
            ("v6:::1", line(&["v6"], "::1")),
            ("v6=[fd00::1]", line(&["v6"], "fd00::1")),
            ("gw:host-gateway", line(&["gw"], "host-gateway")),
        ] {
            assert_eq!(add_host(text), Ok(expected), "{text}");
        }
        for text in
            ["", "db", "db:", ":1.2.3.4", "db:x", "a b:1.2.3.4", "a;;b:1.2.3.4", "a\n1:1.2.3.4", "db:1.2.3.4:80"]
        {
            assert!(add_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn name_servers_and_search_domains_are_checked() {
        assert_eq!(dns("1.1.1.1"), Ok("1.1.1.1".parse().ok()));
        assert_eq!(dns("fd00::1"), Ok("fd00::1".parse().ok()));
        assert_eq!(dns("none"), Ok(None));
        assert_eq!(dns("foo"), Err("foo is not an ip address".to_owned()));
        for domain in [".", "example.com", "example.com.", "a-b.c_d"] {
            assert!(dns_search(domain).is_ok(), "{domain}");
        }
        for domain in ["", "a b", "a..b", ".a", "a\n"] {
            assert!(dns_search(domain).is_err(), "{domain}");
        }
        assert!(dns_option("ndots:2").is_ok());
        assert!(dns_option("a b").is_err());
    }

    #[test]
    fn host_names_fit_the_kernel_and_the_hosts_file() {
        for name in ["web", "web-1.example.com", "a_b!"] {
            assert!(hostname(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a\n", "a/b", "#a", &"x".repeat(65)] {
            assert!(hostname(name).is_err(), "{name}");
        }
    }
}
