//! One registry: how to reach it, who we are to it, what its answers mean.
//!
//! A request here is one attempt; repeating it is decided by the pull. Redirects are followed by hand, because
//! credentials must not leave for another origin and an encrypted path must stay one.

use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Request, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode, Url};

use super::RegistryError;
use super::answer::{ANSWER_LIMIT_BYTES, Answer, connection_error, cut, innermost, login_hint, protocol, status_error};
use super::auth::{self, Challenge, Token};
use super::credentials::{self, Credentials};
use super::tls::{self, CertDir};
use crate::reference::DOCKER_HUB;

/// Docker Hub's API does not answer at the name that its references have.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

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
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Http,
    Https,
}

/// What a registry is known to want from us.
#[derive(Default)]
struct Authentication {
    /// Looked up once, when first challenged.
    credentials: Option<Option<Credentials>>,
    /// The header of a Basic registry.
    basic: Option<String>,
    /// Bearer tokens by scope.
    tokens: HashMap<String, Token>,
}

/// A client of one registry, for as long as a command runs. Threads share it and its connections.
pub struct RegistryClient {
    registry: String,
    options: ClientOptions,
    schemes: &'static [Scheme],
    /// The index into `schemes` of the one that answered.
    scheme: OnceLock<usize>,
    plain: OnceLock<Client>,
    cert_dir: OnceLock<CertDir>,
    own: OnceLock<Client>,
    foreign: OnceLock<Client>,
    authentication: Mutex<Authentication>,
}

/// A request for something in one repository.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    /// How errors name it.
    pub(super) what: &'a str,
    pub(super) repository: &'a str,
    pub(super) method: &'a Method,
    /// Below `/v2/`.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(HeaderName, &'a str)],
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
            schemes,
            scheme: OnceLock::new(),
            plain: OnceLock::new(),
            cert_dir: OnceLock::new(),
            own: OnceLock::new(),
            foreign: OnceLock::new(),
            authentication: Mutex::default(),
        }
    }

    /// Sends a request, answers a challenge once, and turns every status but success into an error.
    pub(super) fn send(&self, ask: Ask<'_>) -> Result<Response, RegistryError> {
        let scope = format!("repository:{}:pull", ask.repository);
        let header = self.known_authorization(&scope);
        let response = self.send_to_registry(ask, header.as_deref())?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
            return self.checked(ask, response);
        }
        let challenges = challenges_of(response.headers());
        let is_encrypted = response.url().scheme() == "https";
        let Some(answer) = self.authorize(ask, &scope, &challenges, is_encrypted, header.as_deref())? else {
            return self.checked(ask, response);
        };
        // Read to its end, the connection serves again.
        drop(Answer::read(response));
        let response = self.send_to_registry(ask, Some(&answer))?;
        self.checked(ask, response)
    }

    /// Tries the schemes that are allowed until one is known to work.
    fn send_to_registry(&self, ask: Ask<'_>, authorization: Option<&str>) -> Result<Response, RegistryError> {
        let mut refusal = None;
        for (position, scheme) in self.schemes.iter().enumerate() {
            if self.scheme.get().is_some_and(|known| *known != position) {
                continue;
            }
            let is_last = position + 1 == self.schemes.len() || self.scheme.get().is_some();
            let result = self.send_once(ask, *scheme, authorization);
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
            self.send_once(ask, self.schemes[self.scheme.get().copied().unwrap_or(0)], authorization)
        })
    }

    fn send_once(&self, ask: Ask<'_>, scheme: Scheme, authorization: Option<&str>) -> Result<Response, RegistryError> {
        let host = if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry };
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let url = format!("{scheme}://{host}/v2/{}", ask.path);
        let mut url = Url::parse(&url).map_err(|error| protocol(ask.what, format!("{url}: {error}")))?;
        let mut authorization = authorization;
        for _ in 0..=REDIRECT_LIMIT {
            let response = self.execute(ask, url.clone(), authorization)?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let refuse = |target: &str, reason| RegistryError::Redirect {
                what: ask.what.to_owned(),
                // Signed queries are secrets of a kind; the rest is enough to understand.
                target: target.split('?').next().unwrap_or_default().escape_debug().take(300).collect(),
                reason,
            };
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = url.join(location).map_err(|_| refuse(location, "not a URL"))?;
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                ("https", "http") => return Err(refuse(next.as_str(), "it leaves the encrypted connection")),
                _ => return Err(refuse(next.as_str(), "neither http nor https")),
            }
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
    fn client_for(&self, url: &Url) -> Result<&Client, RegistryError> {
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
        let host = if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry };
        let own = Url::parse(&format!("{}://{host}/", url.scheme()));
        own.is_ok_and(|own| own.origin() == url.origin())
    }

    fn lock(&self) -> MutexGuard<'_, Authentication> {
        self.authentication.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_authorization(&self, scope: &str) -> Option<String> {
        let known = self.lock();
        let token = known.tokens.get(scope).filter(|token| token.expires > Instant::now());
        token.map(|token| token.header.clone()).or_else(|| known.basic.clone())
    }

    /// Answers challenges; nothing if there is nothing to answer with. Threads wait for each other here, so that one
    /// token serves all of them.
    fn authorize(
        &self,
        ask: Ask<'_>,
        scope: &str,
        challenges: &[Challenge],
        is_encrypted: bool,
        refused: Option<&str>,
    ) -> Result<Option<String>, RegistryError> {
        let mut known = self.lock();
        // Another thread may have answered the same challenge while this one waited.
        if let Some(token) = known.tokens.get(scope).filter(|token| token.expires > Instant::now())
            && refused != Some(token.header.as_str())
        {
            return Ok(Some(token.header.clone()));
        }
        let credentials = match &known.credentials {
            Some(credentials) => credentials.clone(),
            None => {
                let found = match &self.options.credentials {
                    Some(given) => Some(given.clone()),
                    None => {
                        let authfile = self.options.authfile.as_deref();
                        credentials::find(&self.registry, ask.repository, authfile, &|name| std::env::var_os(name))?
                    }
                };
                known.credentials.insert(found).clone()
            }
        };
        if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            let token = self.fetch_token(ask, bearer, scope, credentials.as_ref(), is_encrypted)?;
            let header = token.header.clone();
            known.tokens.insert(scope.to_owned(), token);
            return Ok(Some(header));
        }
        // Some registries (gcr.io among them) refuse without naming a scheme; Basic is what they mean.
        if challenges.is_empty() || challenges.iter().any(|challenge| challenge.scheme == "basic") {
            known.basic = auth::basic_of(credentials.as_ref());
            return Ok(known.basic.clone());
        }
        Ok(None)
    }

    fn fetch_token(
        &self,
        ask: Ask<'_>,
        challenge: &Challenge,
        scope: &str,
        credentials: Option<&Credentials>,
        is_encrypted: bool,
    ) -> Result<Token, RegistryError> {
        let realm = challenge.parameter("realm").unwrap_or_default();
        let bad_realm =
            |reason: &str| protocol(ask.what, format!("authentication realm {}: {reason}", realm.escape_debug()));
        let mut url = Url::parse(realm).map_err(|_| bad_realm("not a URL"))?;
        match url.scheme() {
            "https" => {}
            "http" if !is_encrypted => {}
            _ => return Err(bad_realm("refusing to send credentials there without encryption")),
        }
        let what = format!("token for {} from {}", ask.what, url.host_str().unwrap_or_default());
        let service = challenge.parameter("service");
        let scope = challenge.parameter("scope").unwrap_or(scope);
        let mut request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = url::form(&[("grant_type", "refresh_token"), ("client_id", "coracle")]);
                form.extend_pairs([("refresh_token", token.as_str()), ("scope", scope)]);
                form.extend_pairs(service.map(|service| ("service", service)));
                let mut request = Request::new(Method::POST, url);
                *request.body_mut() = Some(form.finish().into());
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                request.headers_mut().insert(reqwest::header::CONTENT_TYPE, form_type);
                request
            }
            _ => {
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .extend_pairs(scope.split_ascii_whitespace().map(|scope| ("scope", scope)));
                Request::new(Method::GET, url)
            }
        };
        if let Some(header) = auth::basic_of(credentials) {
            let mut value = HeaderValue::from_str(&header).map_err(|_| protocol(&what, "odd password".to_owned()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let client = self.client_for(request.url())?;
        let response = client.execute(request).map_err(|error| connection_error(&what, &error))?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN || status == StatusCode::BAD_REQUEST {
            let detail = Answer::read(response).detail("");
            return Err(RegistryError::Unauthorized {
                what: ask.what.to_owned(),
                detail: login_hint(credentials.is_some(), &detail),
                had_credentials: credentials.is_some(),
            });
        }
        if !status.is_success() {
            return Err(status_error(&what, response));
        }
        let mut answer = Vec::new();
        response.take(4 * ANSWER_LIMIT_BYTES).read_to_end(&mut answer).map_err(|error| cut(&what, 0, &error))?;
        Token::parse(&answer, Instant::now()).map_err(|reason| protocol(&what, reason))
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

/// A form, from the `url` crate's serializer as reqwest exports it.
mod url {
    use reqwest::Url;

    /// Collects pairs in the query of a URL that is never requested.
    pub(super) struct Form(Url);

    pub(super) fn form(pairs: &[(&str, &str)]) -> Form {
        let mut form = Form(Url::parse("http://form/").expect("a constant URL is valid"));
        form.extend_pairs(pairs.iter().copied());
        form
    }

    impl Form {
        pub(super) fn extend_pairs<'a>(&mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
            self.0.query_pairs_mut().extend_pairs(pairs);
        }

        pub(super) fn finish(self) -> String {
            self.0.query().unwrap_or_default().to_owned()
        }
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
