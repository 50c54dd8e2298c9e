//! One image in a registry, as a source of a pull: its mirrors are asked first, itself last.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::blocking::Response;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, RANGE};
use serde::Deserialize;

use super::answer::{cut, protocol};
use super::client::{Ask, Place};
use super::{ClientOptions, Registries, RegistryClient, RegistryError, registries};
use crate::digest::Digest;
use crate::image::MANIFEST_LIMIT_BYTES;
use crate::image::manifest::{Descriptor, media_type};
use crate::reference::{DEFAULT_TAG, Reference};
use crate::transport::policy::{Attached, Origin};
use crate::transport::{BlobReader, ImageSource, RawManifest, TransportError};

/// How many signatures of an image are looked at.
const SIGNATURES_LIMIT: usize = 64;

/// How many pages of referrers are read.
const REFERRERS_PAGES: usize = 64;

/// One image in a registry, or in the mirrors of one.
pub struct RegistrySource {
    reference: Reference,
    options: ClientOptions,
    endpoints: OnceLock<Vec<Endpoint>>,
    /// The index of the endpoint that had the manifest: the blobs are most likely there as well.
    chosen: OnceLock<usize>,
}

/// A manifest whose layers are signatures. What it says is believed only as far as a signature proves it.
#[derive(Deserialize)]
struct Signatures {
    layers: Vec<SignatureLayer>,
}

#[derive(Deserialize)]
struct SignatureLayer {
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Somebody who may have the image.
struct Endpoint {
    registry: String,
    repository: String,
    client: RegistryClient,
}

/// What is asked of an endpoint, below the name of the repository there.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    what: &'a str,
    method: &'a Method,
    path: &'a str,
    headers: &'a [(HeaderName, &'a str)],
}

impl Endpoint {
    fn new(endpoint: registries::Endpoint, options: &ClientOptions) -> Self {
        let client = RegistryClient::new(&endpoint.registry, &endpoint.client_options(options));
        Self { registry: endpoint.registry, repository: endpoint.repository, client }
    }

    fn ask(&self, wanted: Wanted<'_>) -> Result<Response, RegistryError> {
        let path = format!("{}/{}", self.repository, wanted.path);
        let scope = format!("repository:{}:pull", self.repository);
        let ask = Ask::new(wanted.what, wanted.method, Place::Path(&path));
        self.client.send(Ask { repository: &self.repository, scope: &scope, headers: wanted.headers, ..ask })
    }
}

impl RegistrySource {
    /// The image that `reference` names; `latest` if it says nothing, the digest if it says both.
    pub fn new(reference: &Reference, options: &ClientOptions) -> Self {
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(digest.clone()),
            None => reference.clone().with_default_tag(),
        };
        Self { reference, options: options.clone(), endpoints: OnceLock::new(), chosen: OnceLock::new() }
    }

    fn version(&self) -> String {
        match self.reference.digest() {
            Some(digest) => digest.to_string(),
            None => self.reference.tag().unwrap_or(DEFAULT_TAG).to_owned(),
        }
    }

    fn endpoints(&self) -> Result<&[Endpoint], RegistryError> {
        if let Some(known) = self.endpoints.get() {
            return Ok(known);
        }
        let registries = Registries::load(&|name| std::env::var_os(name))?;
        let found = registries.endpoints(&self.reference)?;
        let found = found.into_iter().map(|endpoint| Endpoint::new(endpoint, &self.options)).collect();
        Ok(self.endpoints.get_or_init(|| found))
    }

    /// Asks the endpoint that is known to have the image and those after it, or all in their order. What comes is
    /// verified by its digest, so that it does not matter who sent it.
    fn ask(&self, wanted: Wanted<'_>) -> Result<Response, RegistryError> {
        let endpoints = self.endpoints()?;
        let first = self.chosen.get().copied().unwrap_or(0);
        let mut failures = Vec::new();
        for (position, endpoint) in endpoints.iter().enumerate().skip(first) {
            match endpoint.ask(wanted) {
                Ok(response) => {
                    let _ = self.chosen.set(position);
                    return Ok(response);
                }
                Err(error) if position + 1 < endpoints.len() => {
                    failures.push(format!("{}: {error}", endpoint.registry))
                }
                Err(error) if failures.is_empty() => return Err(error),
                Err(error) => {
                    return Err(RegistryError::Mirrors { primary: Box::new(error), mirrors: failures.join("; ") });
                }
            }
        }
        Err(protocol(wanted.what, "there is nobody to ask".to_owned()))
    }

    /// The descriptors of what refers to a manifest, as the registry lists them; one that does not know that list is asked
    /// for the index by the tag that stands for it.
    ///
    /// # Errors
    /// Those of asking; an answer that is no index.
    ///
    /// # Source
    /// OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<serde_json::Value>, TransportError> {
        #[derive(Deserialize)]
        struct Listed {
            manifests: Vec<serde_json::Value>,
        }
        let what = format!("referrers of {subject}");
        let parse = |bytes: &[u8]| -> Result<Vec<serde_json::Value>, TransportError> {
            let listed: Listed =
                serde_json::from_slice(bytes).map_err(|error| protocol(&what, format!("invalid JSON: {error}")))?;
            Ok(listed.manifests)
        };
        let headers = [(ACCEPT, media_type::OCI_INDEX)];
        let mut path = format!("referrers/{subject}");
        let mut found = Vec::new();
        for _ in 0..REFERRERS_PAGES {
            let wanted = Wanted { what: &what, method: &Method::GET, path: &path, headers: &headers };
            let response = match self.ask(wanted) {
                Ok(response) => response,
                Err(error) if found.is_empty() && (error.is_unknown_manifest() || error.is_odd_status()) => {
                    let tag = format!("{}-{}", subject.algorithm().as_str(), subject.hex());
                    return match self.ask_manifest(&Method::GET, &tag) {
                        Ok(response) => parse(&read_document(response, &what)?),
                        Err(error) if error.is_unknown_manifest() => Ok(Vec::new()),
                        Err(error) => Err(error.into()),
                    };
                }
                Err(error) => return Err(error.into()),
            };
            let next = header(response.headers(), "link").and_then(|link| next_page(link, subject));
            found.extend(parse(&read_document(response, &what)?)?);
            match next {
                Some(next) => path = next,
                None => return Ok(found),
            }
        }
        Err(protocol(&what, format!("more than {REFERRERS_PAGES} pages")).into())
    }

    fn ask_manifest(&self, method: &Method, version: &str) -> Result<Response, RegistryError> {
        let headers = media_type::MANIFESTS.map(|media_type| (ACCEPT, media_type));
        let what = match version.contains(':') {
            true => format!("manifest {version}"),
            false => format!("tag {version}"),
        };
        self.ask(Wanted { what: &what, method, path: &format!("manifests/{version}"), headers: &headers })
    }
}

impl ImageSource for RegistrySource {
    fn describe(&self) -> String {
        self.reference.to_string()
    }

    fn names(&self) -> Vec<Reference> {
        vec![self.reference.clone()]
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin::Registry(self.reference.clone()))
    }

    fn attachments(&self, manifest: &Digest) -> Result<Vec<Attached>, TransportError> {
        let tag = format!("{}-{}.sig", manifest.algorithm().as_str(), manifest.hex());
        let bytes = match self.ask_manifest(&Method::GET, &tag) {
            Ok(response) => read_document(response, &tag)?,
            Err(error) if error.is_unknown_manifest() => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let what = format!("signatures {tag}");
        let manifest: Signatures =
            serde_json::from_slice(&bytes).map_err(|error| protocol(&what, format!("invalid JSON: {error}")))?;
        let mut found = Vec::new();
        for layer in manifest.layers.into_iter().take(SIGNATURES_LIMIT) {
            let annotation = layer.annotations.get("dev.cosignproject.cosign/signature");
            let Some(Ok(signature)) = annotation.map(|text| STANDARD.decode(text)) else { continue };
            let Ok(digest) = Digest::parse(&layer.digest) else { continue };
            if layer.size > MANIFEST_LIMIT_BYTES {
                continue;
            }
            let mut payload = Vec::new();
            let blob = self.blob(&Descriptor::new("", digest, layer.size), 0)?;
            let read = blob.reader.take(layer.size).read_to_end(&mut payload);
            read.map_err(|error| cut(&what, payload.len() as u64, &error))?;
            found.push(Attached { payload, signature });
        }
        Ok(found)
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
        let bytes = read_document(response, &what)?;
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
        let path = format!("blobs/{}", blob.digest);
        let range = format!("bytes={offset}-");
        let headers = [(RANGE, range.as_str())];
        let headers = if offset > 0 { &headers[..] } else { &[] };
        let response = self.ask(Wanted { what: &what, method: &Method::GET, path: &path, headers })?;
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

    fn range(
        &self,
        blob: &Descriptor,
        wanted: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, TransportError> {
        let what = format!("blob {}", blob.digest);
        let path = format!("blobs/{}", blob.digest);
        let Some(last) = wanted.end.checked_sub(1).filter(|last| *last >= wanted.start) else { return Ok(None) };
        let range = format!("bytes={}-{last}", wanted.start);
        let headers = [(RANGE, range.as_str())];
        let response = self.ask(Wanted { what: &what, method: &Method::GET, path: &path, headers: &headers })?;
        match response.status().as_u16() {
            206 => {}
            // All of it, which is what was not asked for.
            200 => return Ok(None),
            status => return Err(protocol(&what, format!("unexpected answer {status}")).into()),
        }
        let start = header(response.headers(), CONTENT_RANGE.as_str()).and_then(parse_range_start);
        if start != Some(wanted.start) {
            return Err(protocol(&what, "the server sent another range than was asked for".into()).into());
        }
        let body = Body { response, what, got_bytes: wanted.start };
        Ok(Some(Box::new(body.take(wanted.end - wanted.start))))
    }

    fn retries(&self) -> u32 {
        self.options.retries
    }
}

fn read_document(response: Response, what: &str) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let read = response.take(MANIFEST_LIMIT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| cut(what, bytes.len() as u64, &error))?;
    Ok(bytes)
}

/// A body whose errors say how far it came; they are [`RegistryError::Cut`] inside.
struct Body {
    response: Response,
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

/// The path of the next page below the repository: only ever of the same list.
fn next_page(link: &str, subject: &Digest) -> Option<String> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let place = format!("referrers/{subject}?");
    let (_, query) = target.split_once(&place)?;
    rest.contains("rel=\"next\"").then(|| place + query)
}

/// The first position of `bytes 5-9/10`.
fn parse_range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}
