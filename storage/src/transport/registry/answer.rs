//! What an answer that is none means.

use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::blocking::Response;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;

use super::RegistryError;

/// The longest error text and token that is read.
pub(super) const ANSWER_LIMIT_BYTES: u64 = 64 << 10;

/// The JSON body of an error, or none.
#[derive(Default, Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    errors: Vec<AnswerError>,
    #[serde(default, alias = "message")]
    details: Option<String>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Answer {
    pub(super) fn read(response: Response) -> Self {
        let mut bytes = Vec::new();
        let _ = response.take(ANSWER_LIMIT_BYTES).read_to_end(&mut bytes);
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// What the server said, with a colon before it, unless it is nothing or `known` already.
    pub(super) fn detail(&self, known: &str) -> String {
        let first = self.errors.first();
        let text = first.map(|error| if error.message.is_empty() { &error.code } else { &error.message });
        let text = text.or(self.details.as_ref()).map_or("", |text| text.trim().trim_end_matches('.'));
        match text.is_empty() || text.eq_ignore_ascii_case(known) {
            true => String::new(),
            false => format!(": {}", text.escape_debug().take(300).collect::<String>()),
        }
    }
}

pub(super) fn login_hint(had_credentials: bool, detail: &str) -> String {
    match had_credentials {
        true => format!("{detail}: the credentials were refused"),
        false => format!("{detail}: the repository does not exist or needs a login"),
    }
}

pub(super) fn protocol(what: &str, reason: String) -> RegistryError {
    RegistryError::Protocol { what: what.to_owned(), reason }
}

pub(super) fn status_error(what: &str, response: Response) -> RegistryError {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(parse_delay);
    let is_upload = response.url().path().contains("/blobs/uploads/");
    let is_blob = response.url().path().contains("/blobs/");
    let answer = Answer::read(response);
    let what = what.to_owned();
    let detail = |known: &str| answer.detail(known);
    match status.as_u16() {
        401 | 403 => RegistryError::Denied { what, detail: detail("access denied") },
        404 if is_upload => RegistryError::Status { what, status: status.to_string(), detail: detail("") },
        404 if is_blob => RegistryError::BlobUnknown { what },
        404 => RegistryError::ManifestUnknown { what, detail: detail("manifest unknown") },
        429 => RegistryError::RateLimited { what, detail: detail("too many requests"), retry_after },
        500..=599 => RegistryError::Server { what, status: status.to_string(), detail: detail("") },
        _ => RegistryError::Status { what, status: status.to_string(), detail: detail("") },
    }
}

/// `Retry-After`: seconds, or a date.
fn parse_delay(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    SystemTime::from(date.timestamp()).duration_since(SystemTime::now()).ok()
}

/// A body that ended before its end.
pub(super) fn cut(what: &str, got_bytes: u64, error: &std::io::Error) -> RegistryError {
    RegistryError::Cut { what: what.to_owned(), got_bytes, reason: innermost(error) }
}

pub(super) fn connection_error(what: &str, error: &reqwest::Error) -> RegistryError {
    let host = error.url().and_then(|url| Some(format!("{}://{}", url.scheme(), authority(url)?)));
    let what = match host {
        Some(host) => format!("{what}: {host}"),
        None => what.to_owned(),
    };
    let mut reason = innermost(error);
    if error.is_timeout() {
        reason = "the server did not answer in time".to_owned();
    }
    if has_cause::<rustls::Error>(error, |error| matches!(error, rustls::Error::InvalidCertificate(_))) {
        return RegistryError::Certificate { what, reason };
    }
    let is_transient = !has_cause::<rustls::Error>(error, |_| true)
        && !reason.contains("lookup address")
        && !reason.contains("connection refused");
    RegistryError::Connection { what, reason, is_transient }
}

fn authority(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Walks the causes; an `io::Error` hides the error inside it from `source`.
fn causes<'a>(error: &'a (dyn std::error::Error + 'static)) -> Vec<&'a (dyn std::error::Error + 'static)> {
    let mut causes = vec![error];
    while let Some(last) = causes.last().copied() {
        let inner = last.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| last.source()) {
            Some(next) if causes.len() < 16 => causes.push(next),
            _ => break,
        }
    }
    causes
}

fn has_cause<E: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static), is: fn(&E) -> bool) -> bool {
    causes(error).into_iter().any(|cause| cause.downcast_ref::<E>().is_some_and(is))
}

pub(in crate::transport) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let text = match causes(error).last() {
        Some(last) => last.downcast_ref().map_or_else(|| last.to_string(), crate::sys::reason),
        None => String::new(),
    };
    text.escape_debug().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_read_as_seconds_and_as_dates() {
        assert_eq!(parse_delay("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_delay("nonsense"), None);
        assert_eq!(parse_delay("Wed, 21 Oct 2015 07:28:00 GMT"), None, "in the past");
        assert!(parse_delay("Wed, 21 Oct 2099 07:28:00 GMT").is_some());
    }
}
