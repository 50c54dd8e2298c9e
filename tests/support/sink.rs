//! A registry in memory that takes uploads, and misbehaves on order.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use super::http::{Request, listen, respond};
use super::image::sha256;

/// What happens instead of the true answer.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// This status, with these headers and this body; the request is read and has no effect.
    Status(u16, Vec<(String, String)>, String),
    /// So many bytes of the request's body are kept, then the connection ends.
    Cut(usize),
}

/// What the server holds, by digest, tag and upload.
#[derive(Default)]
pub(crate) struct Held {
    /// `repository@digest` → bytes.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// `repository:tag or digest` → media type and bytes.
    pub(crate) manifests: BTreeMap<String, (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// How many uploads have begun: each has a name of its own.
    begun: usize,
    log: Vec<Request>,
}

/// A server on loopback.
pub(crate) struct Sink {
    port: u16,
    held: Arc<Mutex<Held>>,
}

impl Sink {
    pub(crate) fn start(rule: impl Fn(&Request) -> Option<Trouble> + Send + Sync + 'static) -> Self {
        let held = Arc::new(Mutex::new(Held::default()));
        let shared = Arc::clone(&held);
        let port = listen(move |stream| serve(stream, &rule, &shared));
        Self { port, held }
    }

    pub(crate) fn honest() -> Self {
        Self::start(|_| None)
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Looks at what there is.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Held) -> T) -> T {
        at(&self.held.lock().expect("nothing panics with the lock"))
    }

    /// The manifest of `repository:tag`, parsed.
    #[track_caller]
    pub(crate) fn manifest(&self, name: &str) -> serde_json::Value {
        let bytes = self.look(|held| held.manifests.get(name).cloned());
        serde_json::from_slice(&bytes.expect("the manifest has been pushed").1).expect("it is JSON")
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.look(|held| held.log.clone())
    }

    /// How often this was asked with a path that contains `part`.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.method == method && request.path.contains(part)).count()
    }
}

fn serve(stream: TcpStream, rule: &impl Fn(&Request) -> Option<Trouble>, held: &Mutex<Held>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = Request::read(&mut reader)? {
        let request = request.note(&mut held.lock().expect("nothing panics with the lock").log);
        let trouble = rule(&request);
        let limit = match trouble {
            Some(Trouble::Cut(bytes)) => bytes,
            _ => usize::MAX,
        };
        let body = read_body(&mut reader, &request, limit)?;
        let (status, headers, answer) = match trouble {
            Some(Trouble::Status(status, headers, body)) => (status, headers, body.into_bytes()),
            trouble => {
                let answer = truth(&request, body, &mut held.lock().expect("nothing panics with the lock"));
                if trouble.is_some() {
                    return stream.shutdown(std::net::Shutdown::Both);
                }
                answer
            }
        };
        respond(&mut stream, &request, status, &headers, &answer)?;
    }
    Ok(())
}

fn read_body(reader: &mut impl BufRead, request: &Request, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if request.headers.get("transfer-encoding").is_none_or(|coding| coding != "chunked") {
        let length: usize = request.headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        reader.take(length.min(limit) as u64).read_to_end(&mut body)?;
        return Ok(body);
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..length]);
        if length == 0 || body.len() >= limit {
            body.truncate(limit);
            return Ok(body);
        }
    }
}

type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// The answer of an honest registry.
fn truth(request: &Request, body: Vec<u8>, held: &mut Held) -> Answer {
    let missing = |code: &str| {
        (404, Vec::new(), format!(r#"{{"errors":[{{"code":"{code}","message":"not known"}}]}}"#).into_bytes())
    };
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let argument = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.map(|value| value.replace("%3A", ":").replace("%2F", "/"))
    };
    let Some(rest) = path.strip_prefix("/v2/") else { return missing("UNSUPPORTED") };
    if let Some((repository, upload)) = rest.split_once("/blobs/uploads/") {
        let location = |id: &str| {
            // Absolute or relative, with a query that must come back.
            let host = request.headers.get("host").cloned().unwrap_or_default();
            let root = if id.len().is_multiple_of(2) { format!("http://{host}") } else { String::new() };
            ("Location".to_owned(), format!("{root}/v2/{repository}/blobs/uploads/{id}?state=a%2Fb"))
        };
        if request.method == "POST" {
            if let (Some(digest), Some(from)) = (argument("mount"), argument("from"))
                && let Some(bytes) = held.blobs.get(&format!("{from}@{digest}")).cloned()
            {
                held.blobs.insert(format!("{repository}@{digest}"), bytes);
                return (201, vec![("Location".to_owned(), format!("/v2/{repository}/blobs/{digest}"))], Vec::new());
            }
            held.begun += 1;
            let id = format!("u{}", held.begun);
            held.uploads.insert(id.clone(), Vec::new());
            return (202, vec![location(&id)], Vec::new());
        }
        if argument("state").as_deref() != Some("a/b") || !held.uploads.contains_key(upload) {
            return missing("BLOB_UPLOAD_UNKNOWN");
        }
        let start = request.headers.get("content-range").and_then(|range| range.split('-').next()?.parse().ok());
        let bytes = held.uploads.entry(upload.to_owned()).or_default();
        if start.is_some_and(|start: usize| start != bytes.len()) {
            return (416, vec![location(upload)], Vec::new());
        }
        bytes.extend_from_slice(&body);
        let range = ("Range".to_owned(), format!("0-{}", bytes.len().saturating_sub(1)));
        return match request.method.as_str() {
            "PATCH" => (202, vec![location(upload), range], Vec::new()),
            "GET" => (204, vec![location(upload), range], Vec::new()),
            "DELETE" => {
                held.uploads.remove(upload);
                (204, Vec::new(), Vec::new())
            }
            _ => {
                let bytes = held.uploads.remove(upload).unwrap_or_default();
                let digest = argument("digest").unwrap_or_default();
                if sha256(&bytes) != digest {
                    return (400, Vec::new(), br#"{"errors":[{"code":"DIGEST_INVALID","message":"digest"}]}"#.to_vec());
                }
                held.blobs.insert(format!("{repository}@{digest}"), bytes);
                (201, vec![("Docker-Content-Digest".to_owned(), digest)], Vec::new())
            }
        };
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return match held.blobs.get(&format!("{repository}@{digest}")) {
            Some(bytes) => (200, Vec::new(), bytes.clone()),
            None => missing("BLOB_UNKNOWN"),
        };
    }
    if let Some((repository, name)) = rest.split_once("/manifests/") {
        if request.method == "PUT" {
            let kind = request.headers.get("content-type").cloned().unwrap_or_default();
            let digest = sha256(&body);
            held.manifests.insert(format!("{repository}:{name}"), (kind.clone(), body.clone()));
            held.manifests.insert(format!("{repository}:{digest}"), (kind, body));
            return (201, vec![("Docker-Content-Digest".to_owned(), digest)], Vec::new());
        }
        return match held.manifests.get(&format!("{repository}:{name}")) {
            Some((kind, bytes)) => {
                let headers = vec![
                    ("Content-Type".to_owned(), kind.clone()),
                    ("Docker-Content-Digest".to_owned(), sha256(bytes)),
                ];
                (200, headers, bytes.clone())
            }
            None => missing("MANIFEST_UNKNOWN"),
        };
    }
    if rest.is_empty() { (200, Vec::new(), b"{}".to_vec()) } else { missing("UNSUPPORTED") }
}
