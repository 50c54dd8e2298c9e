//! One image in a registry, as a source of a pull.

use std::io::{self, Read};

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE};

use super::answer::{cut, protocol};
use super::client::{Ask, Place};
use super::{ClientOptions, RegistryClient, RegistryError};
use crate::digest::Digest;
use crate::image::MANIFEST_LIMIT_BYTES;
use crate::image::manifest::{Descriptor, media_type};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::transport::{BlobReader, ImageSource, RawManifest, TransportError};

/// One image in a registry.
pub struct RegistrySource {
    reference: Reference,
    client: RegistryClient,
    retries: u32,
}

impl RegistrySource {
    /// The image that `reference` names; `latest` if it says nothing, the digest if it says both.
    pub fn new(reference: &Reference, options: &ClientOptions) -> Self {
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone().with_default_tag(),
        };
        Self { client: RegistryClient::new(reference.registry(), options), reference, retries: options.retries }
    }

    fn version(&self) -> String {
        match self.reference.digest() {
            Some(digest) => digest.to_string(),
            None => self.reference.tag().unwrap_or(DEFAULT_TAG).to_owned(),
        }
    }

    fn scope(&self) -> String {
        format!("repository:{}:pull", self.reference.repository())
    }

    fn ask_manifest(&self, method: &Method, version: &str) -> Result<reqwest::blocking::Response, RegistryError> {
        let accept = media_type::MANIFESTS.map(|media_type| (ACCEPT, media_type));
        let path = format!("{}/manifests/{version}", self.reference.repository());
        let what = match version.contains(':') {
            true => format!("manifest {version}"),
            false => format!("tag {version}"),
        };
        let repository = self.reference.repository();
        let ask = Ask::new(&what, method, Place::Path(&path));
        self.client.send(Ask { repository, scope: &self.scope(), headers: &accept, ..ask })
    }
}

impl ImageSource for RegistrySource {
    fn describe(&self) -> String {
        self.reference.to_string()
    }

    fn names(&self) -> Vec<Reference> {
        vec![self.reference.clone()]
    }

    fn top_digest(&self) -> Result<Option<Digest>, TransportError> {
        if let Some(digest) = self.reference.digest() {
            return Ok(Some(digest.clone()));
        }
        let response = self.ask_manifest(&Method::HEAD, &self.version())?;
        Ok(header(response.headers(), "docker-content-digest").and_then(|digest| Digest::parse(digest).ok()))
    }

    fn manifest(&self, which: Option<&Descriptor>) -> Result<RawManifest, TransportError> {
        let version = which.map_or_else(|| self.version(), |descriptor| descriptor.digest.to_string());
        let what = format!("manifest {version}");
        let response = self.ask_manifest(&Method::GET, &version)?;
        let media_type = header(response.headers(), CONTENT_TYPE.as_str()).map(str::to_owned);
        let claimed = header(response.headers(), "docker-content-digest").and_then(|text| Digest::parse(text).ok());
        let mut bytes = Vec::new();
        response
            .take(MANIFEST_LIMIT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| cut(&what, bytes.len() as u64, &error))?;
        // A proxy that serves one body under another's header is caught before the content is believed.
        if let Some(expected) = claimed {
            let mut hasher = expected.hasher();
            hasher.update(&bytes);
            let got = hasher.finish();
            if got != expected {
                return Err(TransportError::ManifestDigest { expected, got });
            }
        }
        Ok(RawManifest { media_type, bytes })
    }

    fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobReader<'_>, TransportError> {
        let what = format!("blob {}", blob.digest);
        let path = format!("{}/blobs/{}", self.reference.repository(), blob.digest);
        let range = format!("bytes={offset}-");
        let headers = [(RANGE, range.as_str())];
        let headers = if offset > 0 { &headers[..] } else { &[] };
        let repository = self.reference.repository();
        let ask = Ask::new(&what, &Method::GET, Place::Path(&path));
        let response = self.client.send(Ask { repository, scope: &self.scope(), headers, ..ask })?;
        let offset = match response.status().as_u16() {
            206 if offset > 0 => {
                let start = header(response.headers(), CONTENT_RANGE.as_str()).and_then(parse_range_start);
                match start {
                    Some(start) if start == offset => offset,
                    _ => return Err(protocol(&what, "the server sent another range than was asked for".into()).into()),
                }
            }
            200 => 0,
            status => return Err(protocol(&what, format!("unexpected answer {status}")).into()),
        };
        // Better to know now than after a gigabyte.
        let announced = header(response.headers(), CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        if let Some(announced) = announced
            && announced != blob.size.saturating_sub(offset)
        {
            let reason = format!("the server has {} bytes, the manifest says {}", announced + offset, blob.size);
            return Err(protocol(&what, reason).into());
        }
        Ok(BlobReader { offset, reader: Box::new(Body { response, what, got_bytes: offset }) })
    }

    fn retries(&self) -> u32 {
        self.retries
    }
}

/// A body whose errors say how far it came; they are [`RegistryError::Cut`] inside.
struct Body {
    response: reqwest::blocking::Response,
    what: String,
    got_bytes: u64,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.response.read(buffer).map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, cut(&self.what, self.got_bytes, &error))
        })?;
        self.got_bytes += read as u64;
        Ok(read)
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The first position of `bytes 5-9/10`.
fn parse_range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}
