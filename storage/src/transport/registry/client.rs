//! One registry: how to reach it, who we are to it, what its answers mean.
//!
//! A request here is one attempt; repeating it is decided by the pull. Redirects are followed by hand, because
//! credentials must not leave for another origin and an encrypted path must stay one.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::blocking::{Body, Client, Request, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};

use super::RegistryError;
use super::answer::{Answer, connection_error, innermost, login_hint, protocol, status_error};
use super::auth::{self, Challenge};
use super::authorize::Authentication;
use super::credentials::Credentials;
use super::tls::{self, CertDir};
use crate::reference::DOCKER_HUB;

/// Docker Hub's API does not answer at the name that its references have.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// Where Docker Hub is searched.
const DOCKER_HUB_INDEX: &str = "index.docker.io";

/// How often a request may be sent elsewhere.
const REDIRECT_LIMIT: usize = 10;

/// How to talk to registries.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `--tls-verify`. If not given: yes, but a registry on a loopback address may speak plain HTTP.
    pub tls_verify: Option<bool>,
    /// `--cert-dir`: certificates from here alone, not from `certs.d`.
    pub cert_dir: Option<PathBuf>,
    /// `--creds`.
    pub credentials: Option<Credentials>,
    /// `--authfile`.
    pub authfile: Option<PathBuf>,
    /// How long a server may be silent.
    pub idle_timeout: Duration,
    /// `--retry`: how often a request that failed for a passing reason is repeated.
    pub retries: u32,
    /// `--retry-delay`: how long to wait before that; longer each time if not given.
    pub retry_delay: Option<Duration>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            tls_verify: None,
            cert_dir: None,
            credentials: None,
            authfile: None,
            idle_timeout: Duration::from_secs(60),
            retries: 3,
            retry_delay: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Http,
    Https,
}

/// A client of one registry, for as long as a command runs. Threads share it and its connections.
pub struct RegistryClient {
    pub(super) registry: String,
    pub(super) options: ClientOptions,
    /// Which of Docker Hub's servers is asked.
    hub_host: &'static str,
    schemes: &'static [Scheme],
    /// The index into `schemes` of the one that answered.
    scheme: OnceLock<usize>,
    plain: OnceLock<Client>,
    cert_dir: OnceLock<CertDir>,
    own: OnceLock<Client>,
    foreign: OnceLock<Client>,
    pub(super) authentication: Mutex<Authentication>,
    /// Whether to ask for an identity token with each token.
    pub(super) wants_identity: bool,
}

/// Makes the body of a request; called once for each attempt to send it.
pub(super) type MakeBody<'a> = &'a dyn Fn() -> Result<Body, RegistryError>;

/// A request for something in one repository, or of the registry itself.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// How errors name it.
    pub(super) what: &'a str,
    /// For whose credentials we ask; empty for the registry's.
    pub(super) repository: &'a str,
    /// What a token must allow, `repository:x:pull`, separated by spaces; empty for the registry itself.
    pub(super) scope: &'a str,
    pub(super) method: &'a Method,
    pub(super) place: Place<'a>,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Option<MakeBody<'a>>,
    /// How long it may take in all to send the body and to be answered; without one the silence of the server counts.
    pub(super) time_limit: Option<Duration>,
}

/// Where a request goes.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Below the registry's `/v2/`; from its root with a slash before it.
    Path(&'a str),
    /// Where the registry said: an upload, the next page.
    Url(&'a Url),
}

impl<'a> Ask<'a> {
    /// A request without a body.
    pub(super) fn new(what: &'a str, method: &'a Method, place: Place<'a>) -> Self {
        Self { what, repository: "", scope: "", method, place, headers: &[], body: None, time_limit: None }
    }
}

impl RegistryClient {
    /// A client for `registry`, the domain of a reference. Makes no connection.
    pub fn new(registry: &str, options: &ClientOptions) -> Self {
        let schemes: &'static [Scheme] = match (options.tls_verify, is_loopback(registry)) {
            // Nobody can listen in on loopback, and most registries there are plain: asking them first is cheapest.
            (None | Some(false), true) => &[Scheme::Http, Scheme::Https],
            (Some(false), false) => &[Scheme::Https, Scheme::Http],
            (None | Some(true), _) => &[Scheme::Https],
        };
        Self {
            registry: registry.to_owned(),
            options: options.clone(),
            hub_host: DOCKER_HUB_API,
            schemes,
            scheme: OnceLock::new(),
            plain: OnceLock::new(),
            cert_dir: OnceLock::new(),
            own: OnceLock::new(),
            foreign: OnceLock::new(),
            authentication: Mutex::default(),
            wants_identity: false,
        }
    }

    /// Asks Docker Hub's search server instead of its registry.
    pub(super) fn for_search(mut self) -> Self {
        self.hub_host = DOCKER_HUB_INDEX;
        self
    }

    /// Sends a request, answers a challenge once, and turns every status but success into an error.
    pub(super) fn send(&self, ask: Ask<'_>) -> Result<Response, RegistryError> {
        let header = self.known_authorization(ask.scope);
        let response = self.send_to(ask, header.as_deref())?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
            return self.checked(ask, response);
        }
        let challenges = challenges_of(response.headers());
        let is_encrypted = response.url().scheme() == "https";
        let Some(answer) = self.authorize(ask, &challenges, is_encrypted, header.as_deref())? else {
            return self.checked(ask, response);
        };
        // Read to its end, the connection serves again.
        drop(Answer::read(response));
        let response = self.send_to(ask, Some(&answer))?;
        self.checked(ask, response)
    }

    fn send_to(&self, ask: Ask<'_>, authorization: Option<&str>) -> Result<Response, RegistryError> {
        match ask.place {
            Place::Path(path) => self.send_to_registry(ask, path, authorization),
            // Where an upload goes on may be somewhere else, to which we are nobody.
            Place::Url(url) => self.follow(ask, url.clone(), authorization.filter(|_| self.is_own(url))),
        }
    }

    /// Tries the schemes that are allowed until one is known to work.
    fn send_to_registry(
        &self,
        ask: Ask<'_>,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let mut refusal = None;
        for (position, scheme) in self.schemes.iter().enumerate() {
            if self.scheme.get().is_some_and(|known| *known != position) {
                continue;
            }
            let is_last = position + 1 == self.schemes.len() || self.scheme.get().is_some();
            let result = self.send_once(ask, path, *scheme, authorization);
            let is_wrong_scheme = match &result {
                // What TLS servers say to plain requests.
                Ok(response) => *scheme == Scheme::Http && response.status() == StatusCode::BAD_REQUEST,
                Err(RegistryError::Connection { .. } | RegistryError::Certificate { .. }) => true,
                Err(_) => false,
            };
            if !is_wrong_scheme {
                let _ = self.scheme.set(position);
                return result;
            }
            match (refusal.take(), &result) {
                (None, _) if is_last => return result,
                (None, _) => refusal = Some(result),
                // Both failed. A server that speaks TLS and is not trusted is worth more than what it said to HTTP.
                (Some(_), Err(RegistryError::Certificate { .. })) => return result,
                (Some(first), _) => return first,
            }
        }
        // Another thread found the scheme between two looks.
        refusal.unwrap_or_else(|| {
            self.send_once(ask, path, self.schemes[self.scheme.get().copied().unwrap_or(0)], authorization)
        })
    }

    fn send_once(
        &self,
        ask: Ask<'_>,
        path: &str,
        scheme: Scheme,
        authorization: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let host = self.host();
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let api = if path.starts_with('/') { "" } else { "/v2/" };
        let url = format!("{scheme}://{host}{api}{path}");
        let url = Url::parse(&url).map_err(|error| protocol(ask.what, format!("{url}: {error}")))?;
        self.follow(ask, url, authorization)
    }

    /// Sends a request to a URL and wherever that leads.
    fn follow(&self, ask: Ask<'_>, url: Url, authorization: Option<&str>) -> Result<Response, RegistryError> {
        let mut url = url;
        let mut authorization = authorization;
        for _ in 0..=REDIRECT_LIMIT {
            let response = self.execute(ask, url.clone(), authorization)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = join(ask.what, &url, location)?;
            if next.origin() != url.origin() {
                authorization = None;
            }
            url = next;
        }
        Err(RegistryError::Redirect {
            what: ask.what.to_owned(),
            target: url.host_str().unwrap_or_default().to_owned(),
            reason: "too many redirects",
        })
    }

    fn execute(&self, ask: Ask<'_>, url: Url, authorization: Option<&str>) -> Result<Response, RegistryError> {
        let client = self.client_for(&url)?;
        let mut request = Request::new(ask.method.clone(), url);
        if let Some(body) = ask.body {
            *request.body_mut() = Some(body()?);
        }
        if let Some(limit) = ask.time_limit {
            *request.timeout_mut() = Some(limit);
        }
        let invalid = |_| protocol(ask.what, "a header with characters that headers cannot have".to_owned());
        for (name, value) in ask.headers {
            request.headers_mut().append(name, HeaderValue::from_str(value).map_err(invalid)?);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(invalid)?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        client.execute(request).map_err(|error| connection_error(ask.what, &error))
    }

    /// The client for a URL: plain, with our certificate for the registry itself, without it for everybody else.
    pub(super) fn client_for(&self, url: &Url) -> Result<&Client, RegistryError> {
        if url.scheme() == "http" {
            return get_or_try(&self.plain, || self.build(tls::trust_nobody()?));
        }
        let dir = get_or_try(&self.cert_dir, || match &self.options.cert_dir {
            Some(dir) => CertDir::read(dir),
            None => {
                let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
                let config_home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
                match tls::find_cert_dir(&self.registry, config_home.as_deref()) {
                    Some(dir) => CertDir::read(&dir),
                    None => Ok(CertDir::default()),
                }
            }
        })?;
        let verify = self.options.tls_verify != Some(false);
        match self.is_own(url) || !dir.has_identity() {
            true => get_or_try(&self.own, || self.build(tls::config(verify, dir, true)?)),
            false => get_or_try(&self.foreign, || self.build(tls::config(verify, dir, false)?)),
        }
    }

    fn build(&self, tls: rustls::ClientConfig) -> Result<Client, RegistryError> {
        let client = Client::builder()
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls)
            // For reqwest's blocking client: each wait for bytes, not the whole transfer.
            .timeout(self.options.idle_timeout)
            .connect_timeout(self.options.idle_timeout.min(Duration::from_secs(30)));
        // Proxies of the environment are for the world; as for Go's clients, this machine is never behind one.
        let client = if is_loopback(&self.registry) { client.no_proxy() } else { client };
        client
            .build()
            .map_err(|error| RegistryError::Setup { what: "HTTP client".to_owned(), reason: innermost(&error) })
    }

    /// Whether a URL is the registry's own, as opposed to where it redirected us.
    fn is_own(&self, url: &Url) -> bool {
        let own = Url::parse(&format!("{}://{}/", url.scheme(), self.host()));
        own.is_ok_and(|own| own.origin() == url.origin())
    }

    /// Where the API is.
    fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { self.hub_host } else { &self.registry }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Authentication> {
        self.authentication.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checked(&self, ask: Ask<'_>, response: Response) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED && self.is_own(response.url()) {
            let had_credentials = matches!(self.lock().credentials, Some(Some(_)));
            // An expired or refused token must not be sent again.
            self.lock().tokens.clear();
            let detail = Answer::read(response).detail("authentication required");
            return Err(RegistryError::Unauthorized {
                what: ask.what.to_owned(),
                detail: login_hint(had_credentials, &detail),
                had_credentials,
            });
        }
        Err(status_error(ask.what, response))
    }
}

/// Where a redirect or an upload leads.
pub(super) fn join(what: &str, from: &Url, location: &str) -> Result<Url, RegistryError> {
    let refuse = |target: &str, reason| RegistryError::Redirect {
        what: what.to_owned(),
        // Signed queries are secrets of a kind; the rest is enough to understand.
        target: target.split('?').next().unwrap_or_default().escape_debug().take(300).collect(),
        reason,
    };
    let mut next = from.join(location).map_err(|_| refuse(location, "not a URL"))?;
    // Registries behind a proxy that ends TLS often do not know of it.
    if from.scheme() == "https" && next.scheme() == "http" && next.host() == from.host() && next.port().is_none() {
        let _ = next.set_scheme("https");
        let _ = next.set_port(from.port());
    }
    match (from.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(next),
        ("https", "http") => Err(refuse(next.as_str(), "it leaves the encrypted connection")),
        _ => Err(refuse(next.as_str(), "neither http nor https")),
    }
}

fn challenges_of(headers: &HeaderMap) -> Vec<Challenge> {
    auth::parse_challenges(headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()))
}

fn get_or_try<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, RegistryError>) -> Result<&T, RegistryError> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}

/// Whether a registry's domain is this machine: `localhost`, 127.0.0.0/8, `[::1]`.
pub(in crate::transport) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (registry, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("128.0.0.1", false),
            ("localhost.example.com", false),
            ("docker.io", false),
            ("[::2]:5000", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }
}
