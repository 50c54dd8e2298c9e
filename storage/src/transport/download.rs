//! A file from a web server: what `ADD URL` and a build context by URL need.
//!
//! Redirects are followed by hand, as for registries: an encrypted path stays one. Nothing secret is sent.
//!
//! **Runs in:** any process that may have threads: the HTTP client starts one.

use std::io::{Read, Write};
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{DATE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Serialize};

use super::registry::answer::innermost;
use super::registry::client::is_loopback;
use super::registry::tls::{self, CertDir};
use crate::digest::{Algorithm, Digest, Hasher};

/// How often a request may be sent elsewhere.
const REDIRECT_LIMIT: usize = 10;

/// How much, and how long.
#[derive(Clone, Debug)]
pub struct DownloadLimits {
    /// The longest body that is taken, in bytes.
    pub max_bytes: u64,
    /// How long a server may be silent.
    pub idle_timeout: Duration,
}

impl Default for DownloadLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 30, idle_timeout: Duration::from_secs(60) }
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// How many bytes.
    pub len_bytes: u64,
    /// Their digest.
    pub digest: Digest,
    /// `Last-Modified` in seconds since 1970.
    pub last_modified: Option<i64>,
    /// By what the server knows this state of the file again.
    pub validators: Validators,
}

/// How long before the answer a file must have changed for its date to tell this state from later ones: dates have
/// seconds.
const SETTLED_SECS: i64 = 2;

/// What a server says of a state of a file, to be asked whether that is still the one.
///
/// # Source
/// RFC 9110, section 8.8; a date that is too new is no strong validator (8.8.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// `Last-Modified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

impl Validators {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (changed, now) = (text(LAST_MODIFIED), text(DATE).as_deref().and_then(seconds));
        let is_settled = |date: &String| seconds(date).zip(now).is_some_and(|(date, now)| now - date >= SETTLED_SECS);
        Validators { etag: text(ETAG), last_modified: changed.filter(is_settled) }
    }

    /// Whether there is nothing to ask with.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// A download failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The URL is none, or of another protocol.
    #[error("{url}: expected a URL that begins with http:// or https://")]
    Url {
        /// What was given.
        url: String,
    },
    /// There is no HTTP client or no trust.
    #[error("{url}: {reason}")]
    Setup {
        /// What was asked for.
        url: String,
        /// What is missing.
        reason: String,
    },
    /// Nobody answered, or not to the end.
    #[error("download {url}: {reason}")]
    Connection {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server refuses.
    #[error("download {url}: the server answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Its answer.
        status: String,
    },
    /// The server sends us where we do not go.
    #[error("download {url}: redirect refused: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Why not.
        reason: &'static str,
    },
    /// More bytes than are allowed.
    #[error("download {url}: longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// What is allowed.
        limit: u64,
    },
    /// What came cannot be kept.
    #[error("download {url}: write: {}", crate::sys::reason(source))]
    Write {
        /// What was asked for.
        url: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Fetches `url` and writes its body to `out`; the digest is made on the way, by the algorithm of `expected` if there is
/// one. Comparing is for the caller.
///
/// # Errors
/// [`DownloadError`]; what was written until then stays written.
pub fn download(
    url: &str,
    algorithm: Algorithm,
    limits: &DownloadLimits,
    out: impl Write,
) -> Result<Downloaded, DownloadError> {
    let came = download_unless(url, &Validators::default(), algorithm, limits, out)?;
    came.ok_or_else(|| DownloadError::Status { url: shown(url), status: StatusCode::NOT_MODIFIED.to_string() })
}

/// As [`download`], unless the server says that the file is still in the state that is `known`: then `None`, and nothing
/// was written.
///
/// # Errors
/// As [`download`].
pub fn download_unless(
    url: &str,
    known: &Validators,
    algorithm: Algorithm,
    limits: &DownloadLimits,
    mut out: impl Write,
) -> Result<Option<Downloaded>, DownloadError> {
    let shown = shown(url);
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let parsed = parsed.ok_or_else(|| DownloadError::Url { url: shown.clone() })?;
    let mut response = follow(parsed, &shown, known, limits)?;
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    let too_long = || DownloadError::TooLong { url: shown.clone(), limit: limits.max_bytes };
    let announced = response.content_length();
    if announced.is_some_and(|length| length > limits.max_bytes) {
        return Err(too_long());
    }
    let last_modified = response.headers().get(LAST_MODIFIED).and_then(|value| value.to_str().ok()).and_then(seconds);
    let validators = Validators::of(response.headers());
    let mut hasher = Hasher::new(algorithm);
    let mut len_bytes = 0u64;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let length = match response.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(DownloadError::Connection { url: shown, reason: innermost(&error) }),
        };
        len_bytes += length as u64;
        if len_bytes > limits.max_bytes {
            return Err(too_long());
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        hasher.update(bytes);
        out.write_all(bytes).map_err(|source| DownloadError::Write { url: shown.clone(), source })?;
    }
    Ok(Some(Downloaded { len_bytes, digest: hasher.finish(), last_modified, validators }))
}

/// For messages: a query may be a secret of a kind.
fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().escape_debug().take(300).collect()
}

/// Asks, and goes where it is sent.
fn follow(mut url: Url, shown: &str, known: &Validators, limits: &DownloadLimits) -> Result<Response, DownloadError> {
    let refused = |reason| DownloadError::Redirect { url: shown.to_owned(), reason };
    for _ in 0..=REDIRECT_LIMIT {
        let client = client(&url, shown, limits)?;
        let conditions = [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)];
        let request =
            conditions.into_iter().fold(client.request(Method::GET, url.clone()), |request, (name, value)| {
                value.iter().fold(request, |request, value| request.header(&name, value))
            });
        let response = request
            .send()
            .map_err(|error| DownloadError::Connection { url: shown.to_owned(), reason: innermost(&error) })?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED && !known.is_empty() {
            return Ok(response);
        }
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Err(DownloadError::Status { url: shown.to_owned(), status: status.to_string() });
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let next = url.join(location).map_err(|_| refused("not a URL"))?;
        match (url.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => url = next,
            ("https", "http") => return Err(refused("it leaves the encrypted connection")),
            _ => return Err(refused("neither http nor https")),
        }
    }
    Err(refused("too many redirects"))
}

fn client(url: &Url, shown: &str, limits: &DownloadLimits) -> Result<Client, DownloadError> {
    let setup = |reason: String| DownloadError::Setup { url: shown.to_owned(), reason };
    let tls = match url.scheme() {
        "http" => tls::trust_nobody(),
        _ => tls::config(true, &CertDir::default(), false),
    };
    let client = Client::builder()
        .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(tls.map_err(|error| setup(error.to_string()))?)
        .timeout(limits.idle_timeout)
        .connect_timeout(limits.idle_timeout.min(Duration::from_secs(30)));
    // This machine is never behind a proxy.
    let client = if is_loopback(url.host_str().unwrap_or_default()) { client.no_proxy() } else { client };
    client.build().map_err(|error| setup(innermost(&error)))
}

/// A date of HTTP, `Sun, 06 Nov 1994 08:49:37 GMT`, in seconds since 1970.
///
/// # Source
/// RFC 9110, section 5.6.7; the two obsolete forms are not read.
fn seconds(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = date.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: i64 = parts.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year: i64 = parts.next()?.parse().ok().filter(|year| (1..=9999).contains(year))?;
    let mut clock =
        parts.next()?.split(':').map(|part| part.parse::<i64>().ok().filter(|part| (0..=60).contains(part)));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1970, counted in years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468;
    (parts.next()? == "GMT").then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// Answers each request with the answer of its path.
    fn serve(answers: &'static [(&'static str, &'static str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                while lines.next().and_then(Result::ok).is_some_and(|line| !line.is_empty()) {}
                let path = first.split(' ').nth(1).unwrap_or_default();
                let answer = answers.iter().find(|(known, _)| *known == path);
                let answer = answer.map_or("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", |(_, answer)| answer);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        format!("http://{address}")
    }

    fn get(url: &str, max_bytes: u64) -> (Result<Downloaded, DownloadError>, Vec<u8>) {
        let limits = DownloadLimits { max_bytes, ..DownloadLimits::default() };
        let mut out = Vec::new();
        (download(url, Algorithm::Sha256, &limits, &mut out), out)
    }

    #[test]
    fn body_comes_with_its_digest_and_date() {
        let base = serve(&[
            ("/a", "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 5\r\n\r\nhello"),
            ("/b", "HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n"),
            ("/loop", "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"),
            ("/away", "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
            ("/cut", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"),
            ("/endless", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello hello hello"),
        ]);
        let (found, body) = get(&format!("{base}/b"), 5);
        let validators = Validators::default();
        let wanted =
            Downloaded { len_bytes: 5, digest: Digest::of(b"hello"), last_modified: Some(784_111_777), validators };
        assert_eq!((found.expect("a body"), body.as_slice()), (wanted, b"hello".as_slice()));
        let cases = [
            ("/a", 4, "longer than 4 bytes"),
            ("/cut", 100, "download"),
            ("/endless", 6, "longer than 6 bytes"),
            ("/none", 9, "404 Not Found"),
            ("/loop", 9, "too many redirects"),
            ("/away", 9, "neither http nor https"),
        ];
        for (path, limit, wanted) in cases {
            let error = get(&format!("{base}{path}?secret=1"), limit).0.expect_err(path).to_string();
            let error_without = get(&format!("{base}{path}"), limit).0.expect_err(path).to_string();
            assert!(error_without.contains(wanted), "{path}: {error_without}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(matches!(get("ftp://localhost/a", 9).0, Err(DownloadError::Url { .. })));
    }

    #[test]
    fn what_is_known_is_not_fetched_again() {
        const FILE: &str = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Date: Sun, 06 Nov 1994 08:49:38 GMT\r\nContent-Length: 2\r\n\r\nhi";
        let base = serve(&[
            ("/new", FILE),
            (
                "/old",
                "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                Date: Sun, 06 Nov 1994 08:49:39 GMT\r\nContent-Length: 2\r\n\r\nhi",
            ),
            ("/same", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        ]);
        let unless = |path: &str, known: &Validators| {
            let (mut out, limits) = (Vec::new(), DownloadLimits::default());
            download_unless(&format!("{base}{path}"), known, Algorithm::Sha256, &limits, &mut out)
        };
        let of = |path| unless(path, &Validators::default()).expect(path).expect(path).validators;
        let known = Validators { etag: Some("\"1\"".to_owned()), last_modified: None };
        assert_eq!(of("/new"), known, "a second is too little to tell two states apart");
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
        assert_eq!(of("/old"), Validators { etag: None, last_modified: date });
        assert!(unless("/same", &known).expect("an answer").is_none());
        assert!(unless("/new", &known).expect("an answer").is_some(), "it has changed");
        let error = unless("/same", &Validators::default()).expect_err("nothing was known").to_string();
        assert!(error.contains("304"), "{error}");
    }

    #[test]
    fn dates_of_http() {
        let cases = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 23:59:60 GMT", Some(1_709_251_200)),
            ("Wed, 31 Dec 1969 23:59:59 GMT", Some(-1)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("yesterday", None),
        ];
        for (date, wanted) in cases {
            assert_eq!(seconds(date), wanted, "{date}");
        }
    }
}
