//! Image references: docker's grammar, parsed once.
//!
//! ```text
//! reference  := name [":" tag] ["@" digest]
//! name       := [domain "/"] component {"/" component}
//! domain     := host [":" port]          host: dns name, IPv4, "[" IPv6 "]"
//! component  := [a-z0-9]+ ((one "." or "_", or "__", or any number of "-") [a-z0-9]+)*
//! tag        := [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
//! ```
//! A first component is a domain only if it has a dot, a colon or an upper-case letter in it, or is `localhost`;
//! otherwise the name belongs to Docker Hub, and a lone component to its `library/`.
//!
//! # Source
//! `github.com/distribution/reference` v0.6: `reference.go`, `regexp.go`, `normalize.go` (the grammar, not the code).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Docker Hub's name in references (its API answers elsewhere, see `transport::registry`).
pub const DOCKER_HUB: &str = "docker.io";

/// The tag that is meant when none is given.
pub const DEFAULT_TAG: &str = "latest";

/// Not a reference.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid reference format: {reason}: {input:?}")]
#[non_exhaustive]
pub struct ParseReferenceError {
    /// What was to be parsed, cut to a printable length.
    pub input: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

/// A fully qualified image name with what was said about its version.
///
/// `Display` is the full form (`docker.io/library/nginx:latest`), [`Reference::familiar`] docker's short one (`nginx`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises a reference; adds no tag (see [`Reference::with_default_tag`]).
    ///
    /// # Errors
    /// Whatever the grammar above refuses, with the rule that it breaks.
    pub fn parse(input: &str) -> Result<Self, ParseReferenceError> {
        Self::parse_parts(input)
            .map_err(|reason| ParseReferenceError { input: input.chars().take(300).collect(), reason })
    }

    fn parse_parts(input: &str) -> Result<Self, &'static str> {
        if input.is_empty() {
            return Err("empty reference");
        }
        let (rest, digest) = match input.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|_| "invalid digest")?)),
            None => (input, None),
        };
        // A colon after the last slash starts a tag; one before it is a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].find(':') {
            Some(colon) => (&rest[..name_end + colon], Some(&rest[name_end + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        if tag.is_none() && digest.is_none() && name.len() == 64 && name.bytes().all(is_lower_hex) {
            return Err("64 hexadecimal digits are an image ID, not a name");
        }
        let (registry, path) = split_domain(name);
        check_domain(registry)?;
        check_path(path)?;
        let repository = match registry == DOCKER_HUB && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if repository.len() > 255 {
            return Err("repository name must not be more than 255 characters");
        }
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }

    /// The registry's domain as references spell it, with its port: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository without a version: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Adds `latest` where neither tag nor digest was given.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same name with this tag and no digest.
    ///
    /// # Errors
    /// A tag that the grammar refuses.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        check_tag(tag).map_err(|reason| ParseReferenceError { input: tag.chars().take(300).collect(), reason })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name at this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Docker's short form: Hub's domain and `library/` left out.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_version(&mut text);
        text
    }

    /// Docker's short form of the name alone.
    pub fn familiar_name(&self) -> String {
        if self.registry != DOCKER_HUB {
            return self.name();
        }
        match self.repository.strip_prefix("library/") {
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => self.repository.clone(),
        }
    }

    fn push_version(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_version(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ParseReferenceError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, path))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DOCKER_HUB } else { first }, path)
        }
        _ => (DOCKER_HUB, name),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("invalid registry address")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "invalid registry address")?;
            ("", if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or("invalid registry port")?) })
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    if let Some(port) = port
        && (!port.bytes().all(|b| b.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err("invalid registry port");
    }
    if domain.starts_with('[') {
        return Ok(());
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match host.len() <= 253 && host.split('.').all(is_label) {
        true => Ok(()),
        false => Err("invalid registry name"),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository name must be lowercase");
    }
    match !path.is_empty() && path.split('/').all(is_component) {
        true => Ok(()),
        false => Err("invalid repository name"),
    }
}

fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_are_words = bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    ends_are_words
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.as_bytes() {
        [first, rest @ ..]
            if is_word(*first) && rest.len() < 128 && rest.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-')) =>
        {
            Ok(())
        }
        _ => Err("invalid tag"),
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        let tag_128 = "t".repeat(128);
        for (input, full, familiar) in [
            ("nginx", "docker.io/library/nginx", "nginx"),
            ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
            ("library/nginx", "docker.io/library/nginx", "nginx"),
            ("docker.io/nginx", "docker.io/library/nginx", "nginx"),
            ("index.docker.io/nginx:a", "docker.io/library/nginx:a", "nginx:a"),
            ("index.docker.io/u/x", "docker.io/u/x", "u/x"),
            ("centos/mysql-57-centos7", "docker.io/centos/mysql-57-centos7", "centos/mysql-57-centos7"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x"),
            ("localhost:5000/x:5000", "localhost:5000/x:5000", "localhost:5000/x:5000"),
            ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c"),
            ("[::1]:5000/x:t", "[::1]:5000/x:t", "[::1]:5000/x:t"),
            ("[2001:db8::1]/x", "[2001:db8::1]/x", "[2001:db8::1]/x"),
            ("ghcr.io/a__b/c-----d.e_f", "ghcr.io/a__b/c-----d.e_f", "ghcr.io/a__b/c-----d.e_f"),
            ("Uppercase/lowercase", "Uppercase/lowercase", "Uppercase/lowercase"),
            ("EXAMPLE.com/x:LATEST", "EXAMPLE.com/x:LATEST", "EXAMPLE.com/x:LATEST"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("xn--n3h.com/x", "xn--n3h.com/x", "xn--n3h.com/x"),
            (&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}"), &format!("nginx@{digest}")),
            (&format!("r.io/x:t@{digest}"), &format!("r.io/x:t@{digest}"), &format!("r.io/x:t@{digest}")),
            (&format!("x:{tag_128}"), &format!("docker.io/library/x:{tag_128}"), &format!("x:{tag_128}")),
            (&format!("{HEX}:tag"), &format!("docker.io/library/{HEX}:tag"), &format!("{HEX}:tag")),
        ] {
            let reference = Reference::parse(input).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(full).as_ref(), Ok(&reference), "full form of {input} parses to the same");
            assert_eq!(Reference::parse(familiar).as_ref(), Ok(&reference), "short form of {input} parses to the same");
        }
    }

    #[test]
    fn what_the_grammar_refuses_is_refused_with_its_rule() {
        let (long_tag, long_name) = (format!("x:{}", "t".repeat(129)), "a".repeat(256));
        for (input, reason) in [
            ("", "empty reference"),
            ("Nginx", "repository name must be lowercase"),
            ("r.io/Nginx", "repository name must be lowercase"),
            ("nginx:", "invalid tag"),
            ("nginx:-a", "invalid tag"),
            ("nginx:.a", "invalid tag"),
            ("nginx:a b", "invalid tag"),
            (&long_tag, "invalid tag"),
            ("a:b:c", "invalid tag"),
            (&long_name, "repository name must not be more than 255 characters"),
            (HEX, "64 hexadecimal digits are an image ID, not a name"),
            ("nginx@sha256:abc", "invalid digest"),
            ("nginx@latest", "invalid digest"),
            ("nginx@", "invalid digest"),
            ("/nginx", "invalid repository name"),
            ("nginx/", "invalid repository name"),
            ("a//b", "invalid repository name"),
            ("r.io/../etc/passwd", "invalid repository name"),
            ("../x", "invalid registry name"),
            ("./x", "invalid registry name"),
            ("a/..", "invalid repository name"),
            ("-nginx", "invalid repository name"),
            ("nginx-", "invalid repository name"),
            ("a___b", "invalid repository name"),
            ("a..b", "invalid repository name"),
            ("a_.b", "invalid repository name"),
            ("a-_b", "invalid repository name"),
            ("ngi nx", "invalid repository name"),
            ("nginx\n", "invalid repository name"),
            ("ngi\u{1b}[31mnx", "invalid repository name"),
            ("nginx\0", "invalid repository name"),
            ("ngïnx", "invalid repository name"),
            ("a.b:0/x", "invalid registry port"),
            ("a.b:70000/x", "invalid registry port"),
            ("a.b:/x", "invalid registry port"),
            ("a.b:+1/x", "invalid registry port"),
            ("-a.b/x", "invalid registry name"),
            ("a..b/x", "invalid registry name"),
            ("u:p@host/x", "invalid digest"),
            ("https://r.io/x", "invalid registry port"),
            ("[::1/x", "invalid registry address"),
            ("[::g]/x", "invalid registry address"),
            ("[::1]5000/x", "invalid registry port"),
        ] {
            let error = Reference::parse(input).expect_err(input);
            assert_eq!(error.reason, reason, "{input:?}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn default_tag_is_added_only_where_no_version_is_given() {
        let parse = |text: &str| Reference::parse(text).expect("valid").with_default_tag().to_string();
        assert_eq!(parse("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(parse("nginx:1"), "docker.io/library/nginx:1");
        assert_eq!(parse(&format!("nginx@sha256:{HEX}")), format!("docker.io/library/nginx@sha256:{HEX}"));
    }

    #[test]
    fn versions_can_be_exchanged() {
        let nginx = Reference::parse("nginx:1").expect("valid");
        assert_eq!(nginx.with_tag("2").expect("valid").familiar(), "nginx:2");
        assert!(nginx.with_tag("a/b").is_err());
        let digest = Digest::of(b"");
        assert_eq!(nginx.with_digest(digest.clone()).familiar(), format!("nginx@{digest}"));
        assert_eq!(nginx.name(), "docker.io/library/nginx");
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(input in "[a-zA-Z0-9./:@_\\[\\]\u{1b}é-]{0,40}") {
            if let Ok(reference) = Reference::parse(&input) {
                proptest::prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                proptest::prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference.clone()));
            }
        }
    }
}
