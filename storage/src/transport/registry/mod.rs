//! The registry protocol (OCI distribution specification, docker registry v2).
//!
//! ```text
//! client   one registry: scheme, redirects, errors      ← authorize: tokens ← auth, credentials; tls
//! source   one image of it, as the pull sees every source
//! target   one repository of it, as the push sees it
//! login, search
//! registries   where the images of a name come from: registries.conf, daemon.json
//! ```
//! The only place with an async runtime (reqwest's own thread) and TLS; both start with the first request.

pub mod error;

pub(super) mod tls;

pub mod credentials;

mod auth;

mod authorize;

pub(super) mod answer;

pub mod client;

pub mod source;

mod plain;
pub mod target;

pub mod login;

pub mod search;

pub mod registries;

pub use client::{ClientOptions, RegistryClient};
pub use credentials::Credentials;
pub use error::RegistryError;
pub use plain::fetch;
pub use registries::Registries;
pub use source::RegistrySource;
pub use target::RegistryTarget;
