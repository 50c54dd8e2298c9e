//! One repository of a registry, as a push sees it: is a blob there, mount it, upload it, put the manifest.
//!
//! ```text
//! HEAD  blobs/<digest>                          200: nothing to do
//! POST  blobs/uploads/?mount=<digest>&from=<r>  201: done, 202: Location of an upload
//! PATCH <Location>  bytes                       202: Location for what follows
//! PUT   <Location>&digest=<digest>              201
//! PUT   manifests/<tag or digest>               201
//! ```
//! A request here is one attempt, as in the client; going on after a failure is the push's.
//!
//! # Source
//! OCI distribution specification 1.1, "Pushing".

use std::time::Duration;

use reqwest::blocking::{Body, Response};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::answer::protocol;
use super::client::{Ask, ClientOptions, MakeBody, Place, join};
use super::source::header;
use super::{Registries, RegistryClient, RegistryError};
use crate::digest::Digest;
use crate::reference::{DEFAULT_TAG, Reference};

/// The slowest connection on which an upload is not given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;

/// One repository of a registry, and the name that a manifest shall have there.
pub struct RegistryTarget {
    reference: Reference,
    /// What `registries.conf` makes of the name.
    repository: String,
    client: RegistryClient,
    scope: String,
}

/// An upload that the registry waits for.
#[derive(Debug)]
pub(in crate::transport) enum Begun {
    /// Nothing to send: the blob was mounted from another repository.
    Mounted,
    /// Where to send it.
    At(Url),
}

impl RegistryTarget {
    /// The place that `reference` names; `latest` if it says nothing. Makes no connection.
    ///
    /// # Errors
    /// [`RegistryError::Blocked`]; a malformed `registries.conf`.
    pub fn new(reference: &Reference, options: &ClientOptions) -> Result<Self, RegistryError> {
        let reference = match reference.digest() {
            Some(_) => reference.clone(),
            None => reference.clone().with_default_tag(),
        };
        let endpoint = Registries::load(&|name| std::env::var_os(name))?.primary(&reference)?;
        let client = RegistryClient::new(&endpoint.registry, &endpoint.client_options(options));
        let repository = endpoint.repository;
        let scope = format!("repository:{repository}:pull,push");
        Ok(Self { reference, repository, client, scope })
    }

    fn send(&self, ask: Ask<'_>) -> Result<Response, RegistryError> {
        let scope = if ask.scope.is_empty() { &self.scope } else { ask.scope };
        self.client.send(Ask { repository: &self.repository, scope, ..ask })
    }

    /// Whether the repository has a blob.
    pub(in crate::transport) fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("blob {digest}");
        let path = format!("{}/blobs/{digest}", self.repository);
        match self.send(Ask::new(&what, &Method::HEAD, Place::Path(&path))) {
            Ok(_) => Ok(true),
            Err(RegistryError::BlobUnknown { .. }) => Ok(false),
            // Some servers do not answer HEAD.
            Err(RegistryError::Status { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the repository has a manifest.
    pub(in crate::transport) fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("manifest {digest}");
        let path = format!("{}/manifests/{digest}", self.repository);
        let accept = crate::image::manifest::media_type::MANIFESTS.map(|kind| (reqwest::header::ACCEPT, kind));
        match self.send(Ask { headers: &accept, ..Ask::new(&what, &Method::HEAD, Place::Path(&path)) }) {
            Ok(_) => Ok(true),
            Err(RegistryError::ManifestUnknown { .. } | RegistryError::Status { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for a place for a blob, or for the blob of another repository of this registry.
    pub(in crate::transport) fn begin(&self, digest: &Digest, from: Option<&str>) -> Result<Begun, RegistryError> {
        let what = format!("upload of blob {digest}");
        let repository = &self.repository;
        let (path, scope) = match from {
            Some(from) => (
                format!("{repository}/blobs/uploads/?mount={digest}&from={from}"),
                format!("{} repository:{from}:pull", self.scope),
            ),
            None => (format!("{repository}/blobs/uploads/"), self.scope.clone()),
        };
        let body = || Ok(Body::from(""));
        let ask = Ask::new(&what, &Method::POST, Place::Path(&path));
        let response = self.send(Ask { scope: &scope, body: Some(&body), ..ask })?;
        match response.status() {
            StatusCode::CREATED if from.is_some() => Ok(Begun::Mounted),
            _ => location(&what, &response)?
                .map(Begun::At)
                .ok_or_else(|| protocol(&what, "the server does not say where to upload to".to_owned())),
        }
    }

    /// Sends bytes of a blob, of which `offset` are there; gives the place for what follows.
    ///
    /// `len_bytes` are those of the body, if it is known, or about as many.
    pub(in crate::transport) fn patch(
        &self,
        digest: &Digest,
        upload: &Url,
        offset: u64,
        len_bytes: u64,
        body: MakeBody<'_>,
    ) -> Result<Url, RegistryError> {
        let what = format!("upload of blob {digest}");
        let range = format!("{offset}-{}", (offset + len_bytes).saturating_sub(1));
        let headers: [(HeaderName, &str); 2] =
            [(CONTENT_TYPE, "application/octet-stream"), (CONTENT_RANGE, range.as_str())];
        let headers = if offset > 0 { &headers[..] } else { &headers[..1] };
        let time_limit = Some(Duration::from_secs(120 + len_bytes / SLOWEST_BYTES_PER_SECOND));
        let ask = Ask::new(&what, &Method::PATCH, Place::Url(upload));
        let response = self.send(Ask { headers, body: Some(body), time_limit, ..ask })?;
        Ok(location(&what, &response)?.unwrap_or_else(|| upload.clone()))
    }

    /// Ends an upload; `bytes` are its last, which may be all of it.
    pub(in crate::transport) fn finish(
        &self,
        digest: &Digest,
        upload: &Url,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let what = format!("upload of blob {digest}");
        let mut upload = upload.clone();
        upload.query_pairs_mut().append_pair("digest", &digest.to_string());
        let headers = [(CONTENT_TYPE, "application/octet-stream")];
        let body = || Ok(Body::from(bytes.to_vec()));
        // The server reads the blob once more before it answers.
        let time_limit = Some(self.client.options.idle_timeout.max(Duration::from_secs(600)));
        let ask = Ask::new(&what, &Method::PUT, Place::Url(&upload));
        self.send(Ask { headers: &headers, body: Some(&body), time_limit, ..ask }).map(drop)
    }

    /// How many bytes of an upload have arrived, and where it goes on; nothing if it does not.
    pub(in crate::transport) fn status(
        &self,
        digest: &Digest,
        upload: &Url,
    ) -> Result<Option<(Url, u64)>, RegistryError> {
        let what = format!("upload of blob {digest}");
        let response = match self.send(Ask::new(&what, &Method::GET, Place::Url(upload))) {
            Ok(response) => response,
            Err(RegistryError::Status { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(last) = header(response.headers(), RANGE.as_str()).and_then(parse_range_end) else { return Ok(None) };
        Ok(Some((location(&what, &response)?.unwrap_or_else(|| upload.clone()), last)))
    }

    /// Tells the registry to forget an upload.
    pub(in crate::transport) fn abandon(&self, digest: &Digest, upload: &Url) {
        let what = format!("upload of blob {digest}");
        // It forgets by itself in a while.
        let _ = self.send(Ask::new(&what, &Method::DELETE, Place::Url(upload)));
    }

    /// Stores a manifest or an index under the reference's tag, or under `digest` alone.
    pub(in crate::transport) fn put_manifest(
        &self,
        tag: Option<&str>,
        digest: &Digest,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let version = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let what = match tag {
            Some(tag) => format!("tag {tag}"),
            None => format!("manifest {digest}"),
        };
        let path = format!("{}/manifests/{version}", self.repository);
        let body = || Ok(Body::from(bytes.to_vec()));
        let headers = [(CONTENT_TYPE, media_type)];
        let ask = Ask::new(&what, &Method::PUT, Place::Path(&path));
        let response = self.send(Ask { headers: &headers, body: Some(&body), ..ask })?;
        let stored = header(response.headers(), "docker-content-digest").and_then(|text| Digest::parse(text).ok());
        match stored {
            Some(stored) if stored != *digest && stored.algorithm() == digest.algorithm() => {
                Err(protocol(&what, format!("the server stored it as {stored}, it is {digest}")))
            }
            _ => Ok(()),
        }
    }

    /// The tag of the reference; nothing if it is a digest.
    pub(in crate::transport) fn tag(&self) -> Option<&str> {
        match self.reference.digest() {
            Some(_) => None,
            None => Some(self.reference.tag().unwrap_or(DEFAULT_TAG)),
        }
    }
}

fn location(what: &str, response: &Response) -> Result<Option<Url>, RegistryError> {
    header(response.headers(), LOCATION.as_str()).map(|text| join(what, response.url(), text)).transpose()
}

/// The number of bytes in `0-9` or `bytes=0-9`. Of an upload without bytes, `0-0` in the reference implementation; so
/// a single byte counts as none, and is sent again by whoever has it.
fn parse_range_end(text: &str) -> Option<u64> {
    let (first, last) = text.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok().filter(|_| first == "0")?;
    Some(if last == 0 { 0 } else { last + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uploads_are_counted_in_bytes() {
        for (text, expected) in
            [("0-0", Some(0)), ("0-9", Some(10)), ("bytes=0-9", Some(10)), ("5-9", None), ("x", None), ("0-", None)]
        {
            assert_eq!(parse_range_end(text), expected, "{text}");
        }
    }

    #[test]
    fn uploads_go_where_the_server_says_but_not_out_of_encryption() {
        let join = |from: &str, to: &str| join("x", &Url::parse(from).unwrap(), to).map(String::from).ok();
        for (from, to, expected) in [
            ("https://r.io/v2/x/blobs/uploads/", "/v2/x/u?s=a%2Fb", Some("https://r.io/v2/x/u?s=a%2Fb")),
            ("https://r.io/v2/x/blobs/uploads/", "u?s=1", Some("https://r.io/v2/x/blobs/uploads/u?s=1")),
            ("https://r.io/v2/", "https://s3.io/u", Some("https://s3.io/u")),
            ("https://r.io:5000/v2/", "http://r.io/u", Some("https://r.io:5000/u")),
            ("https://r.io/v2/", "http://s3.io/u", None),
            ("http://r.io/v2/", "http://s3.io/u", Some("http://s3.io/u")),
            ("http://r.io/v2/", "ftp://s3.io/u", None),
        ] {
            assert_eq!(join(from, to).as_deref(), expected, "{from} → {to}");
        }
    }
}
