//! Who we are to the registry: credentials, and the tokens that they are worth.

use std::collections::HashMap;
use std::io::Read;
use std::time::Instant;

use reqwest::blocking::Request;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode, Url};

use super::answer::{ANSWER_LIMIT_BYTES, Answer, connection_error, cut, login_hint, protocol, status_error};
use super::auth::{self, Challenge, Token};
use super::client::Ask;
use super::credentials::{self, Credentials};
use super::{RegistryClient, RegistryError};

/// What a registry is known to want from us.
#[derive(Default)]
pub(super) struct Authentication {
    /// Looked up once, when first challenged.
    pub(super) credentials: Option<Option<Credentials>>,
    /// The header of a Basic registry.
    pub(super) basic: Option<String>,
    /// Bearer tokens by scope.
    pub(super) tokens: HashMap<String, Token>,
    /// The identity token that came with a token, if one was asked for.
    pub(super) identity: Option<String>,
}

impl RegistryClient {
    pub(super) fn known_authorization(&self, scope: &str) -> Option<String> {
        let known = self.lock();
        let token = known.tokens.get(scope).filter(|token| token.expires > Instant::now());
        token.map(|token| token.header.clone()).or_else(|| known.basic.clone())
    }

    /// Answers challenges; nothing if there is nothing to answer with. Threads wait for each other here, so that one
    /// token serves all of them.
    pub(super) fn authorize(
        &self,
        ask: Ask<'_>,
        challenges: &[Challenge],
        is_encrypted: bool,
        refused: Option<&str>,
    ) -> Result<Option<String>, RegistryError> {
        let scope = ask.scope;
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
            let token = self.fetch_token(ask, bearer, credentials.as_ref(), is_encrypted)?;
            let header = token.header.clone();
            known.identity.clone_from(&token.refresh);
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
        let scope = auth::merged_scopes(challenge.parameter("scope").unwrap_or_default(), ask.scope);
        let mut request = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let mut form = url::form(&[("grant_type", "refresh_token"), ("client_id", "coracle")]);
                form.extend_pairs([("refresh_token", token.as_str()), ("scope", scope.as_str())]);
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
                if let (true, Some(Credentials::Password { user, .. })) = (self.wants_identity, credentials) {
                    let wishes = [("account", user.as_str()), ("client_id", "coracle"), ("offline_token", "true")];
                    url.query_pairs_mut().extend_pairs(wishes);
                }
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
