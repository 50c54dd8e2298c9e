//! Trying credentials, before they are kept.

use reqwest::Method;

use super::client::{Ask, ClientOptions, Place};
use super::{Registries, RegistryClient, RegistryError};

/// Asks the registry's API with the credentials of `options`.
///
/// With `wants_identity`, gives the identity token that some registries offer in place of the password.
///
/// # Errors
/// [`RegistryError::Unauthorized`] if they are refused.
pub fn check(registry: &str, options: &ClientOptions, wants_identity: bool) -> Result<Option<String>, RegistryError> {
    let options = Registries::load(&|name| std::env::var_os(name))?.client_options(registry, options);
    let mut client = RegistryClient::new(registry, &options);
    client.wants_identity = wants_identity;
    client.send(Ask::new("login", &Method::GET, Place::Path("")))?;
    let known = client.lock();
    Ok(known.identity.clone())
}
