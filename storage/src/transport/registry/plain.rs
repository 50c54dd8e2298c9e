//! A file at an address, for commands that are given one: no login, no retries.

use std::io::Read;
use std::time::Duration;

use reqwest::blocking::Client;
use reqwest::redirect::Policy;

use super::RegistryError;
use super::answer::{connection_error, innermost};
use super::client::is_loopback;
use super::tls::{self, CertDir};

/// How long the server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// Reads the file at an `http` or `https` address, if it has no more than `limit` bytes. A redirect never leads from https
/// to http.
///
/// **Runs in:** a process of its own, as every transfer.
///
/// # Errors
/// [`RegistryError`].
pub fn fetch(address: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let what = address.to_owned();
    let setup = |reason: String| RegistryError::Setup { what: what.clone(), reason };
    let redirects = Policy::custom(|attempt| {
        let was_safe = attempt.previous().iter().any(|url| url.scheme() == "https");
        match (attempt.previous().len() > REDIRECTS, was_safe && attempt.url().scheme() != "https") {
            (true, _) => attempt.error("too many redirects"),
            (_, true) => attempt.error("a redirect from https to http"),
            _ => attempt.follow(),
        }
    });
    let client = Client::builder()
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .redirect(redirects)
        .tls_backend_preconfigured(tls::config(true, &CertDir::default(), false)?)
        .timeout(PATIENCE)
        .connect_timeout(PATIENCE);
    let host = reqwest::Url::parse(address).map_err(|error| setup(error.to_string()))?;
    let client = if host.host_str().is_some_and(is_loopback) { client.no_proxy() } else { client };
    let client = client.build().map_err(|error| setup(innermost(&error)))?;
    let answer = client.get(address).send().map_err(|error| connection_error(address, &error))?;
    if !answer.status().is_success() {
        return Err(RegistryError::Status { what, status: answer.status().to_string(), detail: String::new() });
    }
    let mut bytes = Vec::new();
    let got = answer.take(limit + 1).read_to_end(&mut bytes);
    got.map_err(|error| RegistryError::Cut {
        what: what.clone(),
        got_bytes: bytes.len() as u64,
        reason: innermost(&error),
    })?;
    match bytes.len() as u64 > limit {
        true => Err(RegistryError::Protocol { what, reason: format!("larger than {limit} bytes") }),
        false => Ok(bytes),
    }
}
