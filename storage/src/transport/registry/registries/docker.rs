//! What docker's `daemon.json` says of registries; everything else in it is somebody else's.

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;

use super::file::{Mirror, PullFromMirror, Rule};
use crate::reference::DOCKER_HUB;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct Raw {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

/// What is in force because of one file.
pub(super) struct Daemon {
    /// Docker Hub's mirrors.
    pub(super) rule: Option<Rule>,
    pub(super) insecure: Insecure,
}

/// `insecure-registries`: names and networks.
#[derive(Clone, Debug, Default)]
pub(super) struct Insecure {
    names: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
}

impl Insecure {
    pub(super) fn extend(&mut self, other: Self) {
        self.names.extend(other.names);
        self.networks.extend(other.networks);
    }

    pub(super) fn list(&self) -> Vec<String> {
        let networks = self.networks.iter().map(|(address, bits)| format!("{address}/{bits}"));
        self.names.iter().cloned().chain(networks).collect()
    }

    /// Whether `registry`, a domain with its port, is among them.
    pub(super) fn has(&self, registry: &str) -> bool {
        if self.names.iter().any(|name| name == registry) {
            return true;
        }
        let host = match registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => registry,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok_and(|address| self.networks.iter().any(|network| contains(*network, address)))
    }
}

fn contains((network, bits): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(bits.min(32));
            u32::from(network).checked_shr(shift) == u32::from(address).checked_shr(shift)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(bits.min(128));
            u128::from(network).checked_shr(shift) == u128::from(address).checked_shr(shift)
        }
        _ => false,
    }
}

/// Reads a file's text; `path` is remembered for messages.
///
/// # Errors
/// Why it is malformed.
pub(super) fn parse(text: &str, path: &Path) -> Result<Daemon, String> {
    let raw: Raw = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mirrors = raw.registry_mirrors.iter().map(|url| mirror(url)).collect::<Result<Vec<_>, _>>()?;
    let rule = (!mirrors.is_empty()).then(|| Rule {
        prefix: DOCKER_HUB.to_owned(),
        location: String::new(),
        is_insecure: false,
        is_blocked: false,
        mirrors,
        file: path.to_owned(),
    });
    let mut insecure = Insecure::default();
    for entry in raw.insecure_registries {
        let network =
            entry.split_once('/').and_then(|(address, bits)| Some((address.parse().ok()?, bits.parse().ok()?)));
        match network {
            Some(network) => insecure.networks.push(network),
            None if entry.contains('/') => {
                return Err(format!("insecure-registries: {entry:?}: expected HOST[:PORT] or a network"));
            }
            None => insecure.names.push(entry),
        }
    }
    Ok(Daemon { rule, insecure })
}

/// A mirror as docker writes it: a URL.
fn mirror(url: &str) -> Result<Mirror, String> {
    let invalid = || format!("registry-mirrors: {url:?}: expected http:// or https:// and a host");
    let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
    let location = rest.trim_end_matches('/');
    if !matches!(scheme, "http" | "https") || location.is_empty() || location.contains(['?', '#', '@']) {
        return Err(invalid());
    }
    Ok(Mirror { location: location.to_owned(), is_insecure: scheme == "http", pull_from: PullFromMirror::All })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_names_may_be_insecure() {
        let text = r#"{"insecure-registries": ["r.io:5000", "10.1.0.0/16", "fd00::/8", "0.0.0.0/0"], "debug": true}"#;
        let all = parse(text, Path::new("x")).unwrap().insecure;
        for (registry, expected) in [
            ("r.io:5000", true),
            ("r.io", false),
            ("10.1.2.3:80", true),
            ("[fd00::1]:5000", true),
            ("[fe80::1]", false),
        ] {
            assert_eq!(all.has(registry), expected, "{registry}");
        }
        for bad in
            [r#"{"registry-mirrors": ["m.io"]}"#, r#"{"registry-mirrors": 5}"#, r#"{"insecure-registries": ["a/b"]}"#]
        {
            assert!(parse(bad, Path::new("x")).is_err(), "{bad}");
        }
    }
}
