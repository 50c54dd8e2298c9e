//! A registry that misbehaves on order: serves [`Blobs`] over HTTP/1.1 and asks a rule before each answer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::layout::Blobs;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// How often this method and path were asked for before.
    pub(crate) before: usize,
}

/// What happens instead of the true answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status, with these headers and this body.
    Status(u16, Vec<(String, String)>, String),
    /// The true answer is cut after so many bytes of its body, and the connection closed.
    Cut(usize),
    /// The true answer with this byte of the body changed.
    Flip(usize),
    /// Other bytes, with a true length.
    Replace(Vec<u8>),
    /// Headers, then nothing for ever.
    Stall,
    /// So many bytes of the true body, and the rest when the gate is open.
    Hold(usize, Gate),
    /// The same, with the last byte changed.
    HoldAndFlip(usize, Gate),
}

/// Opened once, for all who wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("nothing panics with the lock") = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().expect("nothing panics with the lock");
        drop(self.0.1.wait_while(open, |open| !*open).expect("nothing panics with the lock"));
    }
}

impl Fault {
    /// A status with an error body in the words of the distribution specification.
    pub(crate) fn status(status: u16, code: &str) -> Option<Self> {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"the test says {code}"}}]}}"#);
        Some(Self::Status(status, Vec::new(), body))
    }
}

/// A server on loopback, with everything that was asked of it.
pub(crate) struct Server {
    port: u16,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves the blobs as repository `test/image`; `rule` may put a fault in place of an answer.
    pub(crate) fn start(blobs: Blobs, rule: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&log);
        let port = listen(move |stream| serve(stream, &blobs, &rule, &noted));
        Self { port, log }
    }

    /// Serves without faults.
    pub(crate) fn honest(blobs: Blobs) -> Self {
        Self::start(blobs, |_| None)
    }

    /// `127.0.0.1:port`
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of a tag.
    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("{}/test/image:{tag}", self.host())
    }

    /// Everything asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().expect("nothing panics with the lock").clone()
    }

    /// How often blobs were downloaded.
    pub(crate) fn blob_downloads(&self) -> usize {
        let requests = self.requests();
        requests.iter().filter(|request| request.method == "GET" && request.path.contains("/blobs/")).count()
    }
}

fn serve(
    stream: TcpStream,
    blobs: &Blobs,
    rule: &impl Fn(&Request) -> Option<Fault>,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = Request::read(&mut reader)? {
        let request = request.note(&mut log.lock().expect("nothing panics with the lock"));
        answer(&mut stream, &request, blobs, rule(&request))?;
    }
    Ok(())
}

/// Serves every connection to a port on loopback in a thread of its own; returns the port.
pub(super) fn listen(serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            // A client that goes away is no concern of ours.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    port
}

impl Request {
    /// The head of the next request; nothing when the client has no more.
    pub(super) fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Ok(Some(Self { method, path, headers, before: 0 }))
    }

    /// Adds it to those of before, which are counted.
    pub(super) fn note(mut self, log: &mut Vec<Self>) -> Self {
        self.before = log.iter().filter(|old| old.method == self.method && old.path == self.path).count();
        log.push(self.clone());
        self
    }
}

fn answer(stream: &mut TcpStream, request: &Request, blobs: &Blobs, fault: Option<Fault>) -> std::io::Result<()> {
    if let Some(Fault::Status(status, headers, body)) = &fault {
        return respond(stream, request, *status, headers, body.as_bytes());
    }
    let (mut status, mut headers, mut body) = truth(request, blobs);
    if status == 200
        && let Some(start) = request.headers.get("range").and_then(|range| range_start(range))
    {
        headers
            .push(("Content-Range".into(), format!("bytes {start}-{}/{}", body.len().saturating_sub(1), body.len())));
        body.drain(..start.min(body.len()));
        status = 206;
    }
    match fault {
        Some(Fault::Cut(length)) => {
            head(stream, status, &headers, body.len())?;
            stream.write_all(&body[..length.min(body.len())])?;
            stream.shutdown(std::net::Shutdown::Both)
        }
        Some(Fault::Stall) => {
            head(stream, status, &headers, body.len())?;
            thread::sleep(Duration::from_secs(3600));
            Ok(())
        }
        Some(Fault::Hold(length, gate)) => hold(stream, (status, &headers, &body), length, &gate),
        Some(Fault::HoldAndFlip(length, gate)) => {
            if let Some(byte) = body.last_mut() {
                *byte ^= 1;
            }
            hold(stream, (status, &headers, &body), length, &gate)
        }
        Some(Fault::Flip(at)) => {
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1;
            }
            respond(stream, request, status, &headers, &body)
        }
        Some(Fault::Replace(other)) => respond(stream, request, status, &headers, &other),
        Some(Fault::Status(..)) | None => respond(stream, request, status, &headers, &body),
    }
}

fn hold(
    stream: &mut TcpStream,
    (status, headers, body): (u16, &[(String, String)], &[u8]),
    length: usize,
    gate: &Gate,
) -> std::io::Result<()> {
    head(stream, status, headers, body.len())?;
    let (now, later) = body.split_at(length.min(body.len()));
    stream.write_all(now)?;
    stream.flush()?;
    gate.wait();
    stream.write_all(later)
}

fn range_start(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

/// The answer of an honest registry.
fn truth(request: &Request, blobs: &Blobs) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let missing = || (404, Vec::new(), br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#.to_vec());
    if request.path.trim_end_matches('/') == "/v2" {
        return (200, Vec::new(), b"{}".to_vec());
    }
    let Some(rest) = request.path.strip_prefix("/v2/test/image/") else { return missing() };
    let (digest, media_type) = if let Some(name) = rest.strip_prefix("manifests/") {
        let descriptor = blobs.tags.get(name);
        let digest = descriptor.and_then(|found| found["digest"].as_str()).unwrap_or(name);
        let bytes = blobs.blobs.get(digest).cloned().unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        (digest, value["mediaType"].as_str().unwrap_or("application/json").to_owned())
    } else if let Some(digest) = rest.strip_prefix("blobs/") {
        (digest, "application/octet-stream".to_owned())
    } else {
        return missing();
    };
    let Some(bytes) = blobs.blobs.get(digest) else { return missing() };
    let headers = vec![
        ("Content-Type".to_owned(), media_type),
        ("Docker-Content-Digest".to_owned(), digest.to_owned()),
        ("Accept-Ranges".to_owned(), "bytes".to_owned()),
    ];
    (200, headers, bytes.clone())
}

pub(super) fn respond(
    stream: &mut TcpStream,
    request: &Request,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<()> {
    head(stream, status, headers, body.len())?;
    if request.method == "HEAD" { Ok(()) } else { stream.write_all(body) }
}

fn head(stream: &mut TcpStream, status: u16, headers: &[(String, String)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes())
}
