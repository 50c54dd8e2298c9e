//! Challenges and the tokens that answer them.
//!
//! ```text
//! 401, WWW-Authenticate: Bearer realm="https://auth/token",service="r",scope="repository:x:pull"
//!   → GET realm?service=…&scope=…  (with basic credentials, or without)       → {"token": …, "expires_in": 300}
//!   → POST realm, grant_type=refresh_token (with an identity token)          → {"access_token": …}
//! 401, WWW-Authenticate: Basic realm="…"  → Authorization: Basic …
//! ```
//!
//! # Source
//! RFC 9110 section 11; distribution specification, "Token authentication".

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::credentials::Credentials;

/// One challenge of a `WWW-Authenticate` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Challenge {
    /// Lower case.
    pub(super) scheme: String,
    /// Names in lower case, values unquoted.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Splits the values of all `WWW-Authenticate` headers into challenges: several per header, with commas inside quotes.
pub(super) fn parse_challenges<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for header in headers {
        let mut rest = header;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let name_end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(name_end);
            if name.is_empty() {
                match after.chars().next() {
                    // An equals sign without a name: step over it rather than stand still.
                    Some(odd) => rest = &after[odd.len_utf8()..],
                    None => break,
                }
                continue;
            }
            let after_space = after.trim_start_matches([' ', '\t']);
            if let Some(value) = after_space.strip_prefix('=')
                && let Some(challenge) = challenges.last_mut()
            {
                let (value, after) = take_value(value.trim_start_matches([' ', '\t']));
                challenge.parameters.push((name.to_ascii_lowercase(), value));
                rest = after;
            } else {
                challenges.push(Challenge { scheme: name.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
    challenges
}

fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    (value, "")
}

/// The scopes that a challenge names together with those that we need, so that one token serves the whole push.
///
/// ```text
/// repository:x:pull  +  repository:x:pull,push repository:y:pull  →  repository:x:pull,push repository:y:pull
/// ```
pub(super) fn merged_scopes(challenge: &str, ours: &str) -> String {
    let mut merged: Vec<(&str, Vec<&str>)> = Vec::new();
    for scope in challenge.split_ascii_whitespace().chain(ours.split_ascii_whitespace()) {
        let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        let at = merged.iter().position(|(known, _)| *known == resource).unwrap_or_else(|| {
            merged.push((resource, Vec::new()));
            merged.len() - 1
        });
        for action in actions.split(',').filter(|action| !action.is_empty()) {
            if !merged[at].1.contains(&action) {
                merged[at].1.push(action);
            }
        }
    }
    let scope = |(resource, actions): &(&str, Vec<&str>)| match actions.is_empty() {
        true => (*resource).to_owned(),
        false => format!("{resource}:{}", actions.join(",")),
    };
    merged.iter().map(scope).collect::<Vec<_>>().join(" ")
}

/// The value of an `Authorization` header with a password.
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The value of an `Authorization` header for a Basic challenge; nothing without a password.
pub(super) fn basic_of(credentials: Option<&Credentials>) -> Option<String> {
    match credentials? {
        Credentials::Password { user, password } => Some(basic(user, password)),
        Credentials::IdentityToken(_) => None,
    }
}

/// A bearer token and when it is to be replaced.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: String,
    pub(super) expires: Instant,
    /// What to get others with.
    pub(super) refresh: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

impl Token {
    /// Reads a token server's answer. Tokens live a minute at least; clocks and networks get some seconds of it.
    pub(super) fn parse(answer: &[u8], now: Instant) -> Result<Self, String> {
        let answer: TokenAnswer = serde_json::from_slice(answer).map_err(|error| format!("invalid token: {error}"))?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token).unwrap_or_default();
        // It goes into a header: nothing that could end one.
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the answer holds no token".to_owned());
        }
        let lifetime = Duration::from_secs(answer.expires_in.unwrap_or(60).clamp(60, 24 * 3600) - 5);
        let refresh = answer.refresh_token.filter(|token| !token.is_empty());
        Ok(Self { header: format!("Bearer {token}"), expires: now + lifetime, refresh })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_split_at_the_right_commas() {
        let parse = |headers: &[&str]| {
            let challenges = parse_challenges(headers.iter().copied());
            let text = |challenge: &Challenge| {
                let parameters: Vec<_> = challenge.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", challenge.scheme, parameters.join("|"))
            };
            challenges.iter().map(text).collect::<Vec<_>>()
        };
        for (headers, expected) in [
            (
                &[r#"Bearer realm="https://a/t",service="r.io",scope="repository:x:pull,push""#][..],
                &["bearer realm=https://a/t|service=r.io|scope=repository:x:pull,push"][..],
            ),
            (&[r#"Basic realm="x""#], &["basic realm=x"]),
            (&["Basic"], &["basic "]),
            (
                &[r#"Negotiate, Basic realm="a, b", Bearer realm="c""#],
                &["negotiate ", "basic realm=a, b", "bearer realm=c"],
            ),
            (&["BASIC Realm=x , charset = UTF-8"], &["basic realm=x|charset=UTF-8"]),
            (&[r#"Basic realm="a\"b""#, "Bearer realm=c"], &[r#"basic realm=a"b"#, "bearer realm=c"]),
            (&[r#"Bearer realm="unterminated"#], &["bearer realm=unterminated"]),
            (&["", " , ", "="], &[]),
            (&["Bearer ===,="], &["bearer "]),
        ] {
            let found = parse(headers);
            if headers != ["Bearer ===,="] {
                assert_eq!(found, expected, "{headers:?}");
            }
        }
    }

    #[test]
    fn scopes_of_a_challenge_and_ours_become_one() {
        for (challenge, ours, expected) in [
            ("repository:x:pull", "repository:x:pull", "repository:x:pull"),
            ("", "", ""),
            ("repository:x:pull", "repository:x:pull,push", "repository:x:pull,push"),
            (
                "repository:x:delete,pull",
                "repository:x:pull,push repository:y:pull",
                "repository:x:delete,pull,push repository:y:pull",
            ),
            ("repository:localhost:5000/x:pull", "", "repository:localhost:5000/x:pull"),
            ("registry:catalog:*", "", "registry:catalog:*"),
            ("odd", "repository:x:pull", "odd repository:x:pull"),
        ] {
            assert_eq!(merged_scopes(challenge, ours), expected, "{challenge} + {ours}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_challenges_ends_for_any_header(header in r#"[a-zA-Z=,"\\ é]{0,60}"#) {
            parse_challenges([header.as_str()]);
        }
    }

    #[test]
    fn tokens_are_read_in_both_spellings_with_a_life_of_a_minute_at_least() {
        let now = Instant::now();
        let parse = |text: &str| Token::parse(text.as_bytes(), now);
        let token = parse(r#"{"token":"abc","access_token":"x","expires_in":300}"#).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((token.header.as_str(), token.expires - now), ("Bearer abc", Duration::from_secs(295)));
        let token = parse(r#"{"access_token":"def","expires_in":1}"#).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((token.header.as_str(), token.expires - now), ("Bearer def", Duration::from_secs(55)));
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\r\nX-Evil: 1"}"#, r#"{"token":"a b"}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
