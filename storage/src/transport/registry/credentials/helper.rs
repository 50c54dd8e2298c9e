//! Credential helpers: `docker-credential-NAME get|store|erase`, a document or a server's address on stdin.
//!
//! # Source
//! `github.com/docker/docker-credential-helpers`, `credentials/credentials.go`.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::super::RegistryError;
use super::Credentials;
use crate::reference::DOCKER_HUB;

/// Docker Hub, as docker's own tools call it.
pub(super) const HUB_SERVER: &str = "https://index.docker.io/v1/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The user of an identity token.
const TOKEN_USER: &str = "<token>";

/// Asks for the credentials of a registry.
pub(super) fn get(name: &str, registry: &str) -> Result<Option<Credentials>, RegistryError> {
    for server in servers(registry) {
        let (status, answer) = run(name, "get", server.as_bytes())?;
        if status.success() {
            let answer: Answer =
                serde_json::from_slice(&answer).map_err(|error| failed(name, format!("invalid answer: {error}")))?;
            return Ok(match answer.username.as_str() {
                "" if answer.secret.is_empty() => None,
                TOKEN_USER => Some(Credentials::IdentityToken(answer.secret)),
                _ => Some(Credentials::Password { user: answer.username, password: answer.secret }),
            });
        }
        if !is_not_found(&answer) {
            return Err(failed(name, told(status, &answer)));
        }
    }
    Ok(None)
}

/// Gives credentials to the helper to keep.
pub(super) fn store(name: &str, registry: &str, credentials: &Credentials) -> Result<(), RegistryError> {
    let (user, secret) = match credentials {
        Credentials::Password { user, password } => (user.as_str(), password),
        Credentials::IdentityToken(token) => (TOKEN_USER, token),
    };
    let server = servers(registry).swap_remove(0);
    let document = json!({"ServerURL": server, "Username": user, "Secret": secret}).to_string();
    match run(name, "store", document.as_bytes())? {
        (status, _) if status.success() => Ok(()),
        (status, answer) => Err(failed(name, told(status, &answer))),
    }
}

/// Has the helper forget a registry; says whether it knew it.
pub(super) fn erase(name: &str, registry: &str) -> Result<bool, RegistryError> {
    let mut had = false;
    for server in servers(registry) {
        let (known, _) = run(name, "get", server.as_bytes())?;
        if !known.success() {
            continue;
        }
        match run(name, "erase", server.as_bytes())? {
            (status, _) if status.success() => had = true,
            (_, answer) if is_not_found(&answer) => {}
            (status, answer) => return Err(failed(name, told(status, &answer))),
        }
    }
    Ok(had)
}

/// The servers that the helper has credentials for.
pub(super) fn list(name: &str) -> Result<Vec<String>, RegistryError> {
    let (status, answer) = run(name, "list", b"unused")?;
    if !status.success() {
        return Err(failed(name, told(status, &answer)));
    }
    let known: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&answer).map_err(|error| failed(name, format!("invalid answer: {error}")))?;
    Ok(known.into_keys().collect())
}

/// The names under which helpers know a registry.
fn servers(registry: &str) -> Vec<String> {
    match registry {
        DOCKER_HUB => vec![HUB_SERVER.to_owned(), DOCKER_HUB.to_owned()],
        _ => vec![registry.to_owned(), format!("https://{registry}")],
    }
}

fn failed(name: &str, reason: String) -> RegistryError {
    RegistryError::Setup { what: format!("docker-credential-{name}").escape_debug().to_string(), reason }
}

fn told(status: ExitStatus, answer: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(answer).trim().chars().take(200).collect();
    format!("{status}: {}", text.escape_debug())
}

fn is_not_found(answer: &[u8]) -> bool {
    String::from_utf8_lossy(answer).contains("not found")
}

fn run(name: &str, action: &str, input: &[u8]) -> Result<(ExitStatus, Vec<u8>), RegistryError> {
    if name.contains('/') {
        return Err(failed(name, "not the name of a credential helper".to_owned()));
    }
    let io = |error: std::io::Error| failed(name, crate::sys::reason(&error));
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io)?;
    // A helper that does not read is not our problem: its answer counts.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(1 << 20).read_to_end(&mut answer).map_err(io)?;
    }
    Ok((child.wait().map_err(io)?, answer))
}
