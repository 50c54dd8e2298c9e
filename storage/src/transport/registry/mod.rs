//! The registry protocol (OCI distribution specification, docker registry v2).
//!
//! ```text
//! client   one registry: scheme, redirects, tokens, errors      ← auth, credentials, tls
//! source   one image of it, as the pull sees every source
//! ```
//! The only place with an async runtime (reqwest's own thread) and TLS; both start with the first request.

pub mod error;

mod tls;

pub mod credentials;

mod auth;

mod answer;

pub mod client;

pub mod source;

mod plain;

pub use client::{ClientOptions, RegistryClient};
pub use credentials::Credentials;
pub use error::RegistryError;
pub use plain::fetch;
pub use source::RegistrySource;
