//! The registry protocol (OCI distribution specification, docker registry v2).

pub mod error;

pub use error::RegistryError;
