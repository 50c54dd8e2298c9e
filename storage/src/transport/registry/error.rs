//! What registries answer when they do not give.

use std::time::Duration;

/// A request to a registry failed. `Display` is one complete line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The server needs a login, or refuses the one it was given (401).
    #[error("{what}: authentication required{detail}")]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// Empty, or `: ` and what the server said.
        detail: String,
        /// Whether credentials were sent.
        had_credentials: bool,
    },
    /// The server knows who asks, or that nobody does, and refuses (403).
    #[error("{what}: access denied{detail}")]
    Denied {
        /// What was asked for.
        what: String,
        /// Empty, or `: ` and what the server said.
        detail: String,
    },
    /// No such tag or digest in the repository, or no such repository (404 for a manifest).
    #[error("{what}: manifest unknown{detail}")]
    ManifestUnknown {
        /// The manifest.
        what: String,
        /// Empty, or `: ` and what the server said.
        detail: String,
    },
    /// The manifest names a blob that the registry does not have (404 for a blob).
    #[error("{what}: blob unknown to the registry")]
    BlobUnknown {
        /// The blob.
        what: String,
    },
    /// Too many requests (429), after as much waiting as is reasonable.
    #[error("{what}: too many requests{detail}")]
    RateLimited {
        /// What was asked for.
        what: String,
        /// Empty, or `: ` and what the server said.
        detail: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The server failed (5xx).
    #[error("{what}: the server failed with {status}{detail}")]
    Server {
        /// What was asked for.
        what: String,
        /// Code and its name.
        status: String,
        /// Empty, or `: ` and what the server said.
        detail: String,
    },
    /// Any other status that makes no sense as an answer.
    #[error("{what}: unexpected answer {status}{detail}")]
    Status {
        /// What was asked for.
        what: String,
        /// Code and its name.
        status: String,
        /// Empty, or `: ` and what the server said.
        detail: String,
    },
    /// No connection, or one that broke before the answer was there.
    #[error("{what}: {reason}")]
    Connection {
        /// What was asked for.
        what: String,
        /// The innermost cause.
        reason: String,
        /// Whether trying again may help: no for a name that does not exist.
        is_transient: bool,
    },
    /// The server's certificate is not to be trusted.
    #[error("{what}: {reason}")]
    Certificate {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A connection that was cut, or silent for too long, in the middle of a body.
    #[error("{what}: connection lost after {got_bytes} bytes: {reason}")]
    Cut {
        /// What was being read.
        what: String,
        /// How much had come.
        got_bytes: u64,
        /// The innermost cause.
        reason: String,
    },
    /// A redirect from https to http, to nowhere, or in circles.
    #[error("{what}: refusing the redirect to {target}: {reason}")]
    Redirect {
        /// What was asked for.
        what: String,
        /// Where to.
        target: String,
        /// Why not.
        reason: &'static str,
    },
    /// An answer that breaks the protocol.
    #[error("{what}: {reason}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// In which way.
        reason: String,
    },
    /// `registries.conf` forbids the registry.
    #[error("{what}: registry {registry} is blocked in {file}")]
    Blocked {
        /// The repository.
        what: String,
        /// The prefix that is blocked.
        registry: String,
        /// Which file says so.
        file: String,
    },
    /// Neither the mirrors nor the registry itself gave what was asked for.
    #[error("{primary} (before that: {mirrors})")]
    Mirrors {
        /// What the registry itself said.
        primary: Box<RegistryError>,
        /// What each of its mirrors said.
        mirrors: String,
    },
    /// A file with credentials or certificates, or a credential helper.
    #[error("{what}: {reason}")]
    Setup {
        /// The file or the program.
        what: String,
        /// What is wrong.
        reason: String,
    },
}

impl RegistryError {
    /// Whether there is no such tag or digest.
    pub fn is_unknown_manifest(&self) -> bool {
        match self {
            Self::ManifestUnknown { .. } => true,
            Self::Mirrors { primary, .. } => primary.is_unknown_manifest(),
            _ => false,
        }
    }

    /// Whether the server does not understand what it was asked.
    pub(super) fn is_odd_status(&self) -> bool {
        match self {
            Self::Status { .. } => true,
            Self::Mirrors { primary, .. } => primary.is_odd_status(),
            _ => false,
        }
    }

    /// Whether the same request may well succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Server { .. } | Self::Cut { .. } => true,
            Self::Connection { is_transient, .. } => *is_transient,
            Self::Mirrors { primary, .. } => primary.is_transient(),
            _ => false,
        }
    }
}
