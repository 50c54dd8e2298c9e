//! Searching registries: Docker Hub's API of old, the catalog of others, the tags of a repository.
//!
//! ```text
//! GET /v1/search?q=TERM&n=25   {"results": [{"name", "description", "star_count", "is_official", "is_automated"}]}
//! GET /v2/_catalog             {"repositories": ["a", "b"]}, Link: </v2/_catalog?last=b&n=100>; rel="next"
//! GET /v2/NAME/tags/list       {"name": "a", "tags": ["1"]}, Link as above
//! ```

use std::io::Read;

use reqwest::header::LINK;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::{cut, protocol};
use super::client::{Ask, ClientOptions, Place, join};
use super::source::header;
use super::{Registries, RegistryClient, RegistryError};
use crate::reference::{DOCKER_HUB, Reference};

/// The longest page that is read.
const PAGE_LIMIT_BYTES: u64 = 16 << 20;

/// How many pages are read.
const PAGES_LIMIT: usize = 1000;

/// A repository that was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Without the registry.
    pub name: String,
    /// What its owner says about it.
    pub description: String,
    /// How many like it.
    pub stars: i64,
    /// Made by Docker Hub itself.
    pub is_official: bool,
    /// Built by Docker Hub.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct HubAnswer {
    results: Vec<HubResult>,
}

#[derive(Deserialize)]
struct HubResult {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: i64,
    #[serde(default)]
    is_official: bool,
    #[serde(default)]
    is_automated: bool,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Finds at most `limit` repositories whose name or description has to do with `term`; an empty one finds all that a
/// catalog has.
///
/// # Errors
/// The registry has neither way to be searched, or refuses.
pub fn search(registry: &str, term: &str, limit: usize, options: &ClientOptions) -> Result<Vec<Found>, RegistryError> {
    let options = Registries::load(&|name| std::env::var_os(name))?.client_options(registry, options);
    let client = RegistryClient::new(registry, &options).for_search();
    // The library is where names without a slash are.
    let term = if registry == DOCKER_HUB { term.strip_prefix("library/").unwrap_or(term) } else { term };
    if !term.is_empty() {
        match by_hub_api(&client, term, limit) {
            Ok(found) => return Ok(found),
            // Registries that are not like Docker Hub say no in many ways.
            Err(error) if registry == DOCKER_HUB || matches!(error, RegistryError::Certificate { .. }) => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    by_catalog(&client, term, limit)
}

fn by_hub_api(client: &RegistryClient, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
    let mut query = Url::parse("http://query/v1/search").expect("a constant URL is valid");
    query.query_pairs_mut().append_pair("q", term).append_pair("n", &limit.to_string());
    let path = format!("/v1/search?{}", query.query().unwrap_or_default());
    let response = client.send(Ask::new("search", &Method::GET, Place::Path(&path)))?;
    let answer: HubAnswer = parse("search", response)?;
    let found = answer.results.into_iter().take(limit).map(|result| Found {
        name: result.name,
        description: result.description.unwrap_or_default(),
        stars: result.star_count,
        is_official: result.is_official,
        is_automated: result.is_automated,
    });
    Ok(found.collect())
}

fn by_catalog(client: &RegistryClient, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
    let mut found: Vec<Found> = Vec::new();
    let ask = Ask::new("catalog", &Method::GET, Place::Path("_catalog"));
    pages(client, Ask { scope: "registry:catalog:*", ..ask }, |page: Catalog| {
        for name in page.repositories.unwrap_or_default() {
            // The whole name is what was meant.
            if name == term {
                found.insert(0, Found { name, ..Found::default() });
            } else if name.contains(term) {
                found.push(Found { name, ..Found::default() });
            }
        }
        found.len() < limit
    })?;
    found.truncate(limit);
    Ok(found)
}

/// The tags of a repository, as the registry orders them, at most `limit`.
///
/// # Errors
/// The registry does not know the repository, or refuses.
pub fn tags(repository: &Reference, limit: usize, options: &ClientOptions) -> Result<Vec<String>, RegistryError> {
    let endpoint = Registries::load(&|name| std::env::var_os(name))?.primary(repository)?;
    let client = RegistryClient::new(&endpoint.registry, &endpoint.client_options(options));
    let path = format!("{}/tags/list", endpoint.repository);
    let scope = format!("repository:{}:pull", endpoint.repository);
    let ask = Ask::new("tags", &Method::GET, Place::Path(&path));
    let mut found = Vec::new();
    pages(&client, Ask { repository: &endpoint.repository, scope: &scope, ..ask }, |page: Tags| {
        found.extend(page.tags.unwrap_or_default());
        found.len() < limit
    })?;
    found.truncate(limit);
    Ok(found)
}

/// Reads page after page while `take` wants more.
fn pages<T: DeserializeOwned>(
    client: &RegistryClient,
    ask: Ask<'_>,
    mut take: impl FnMut(T) -> bool,
) -> Result<(), RegistryError> {
    let mut next: Option<Url> = None;
    for _ in 0..PAGES_LIMIT {
        let place = next.as_ref().map_or(ask.place, Place::Url);
        let response = client.send(Ask { place, ..ask })?;
        let link = header(response.headers(), LINK.as_str()).and_then(next_page);
        let after = link.map(|link| join(ask.what, response.url(), link)).transpose()?;
        if !take(parse(ask.what, response)?) || after.is_none() || after == next {
            return Ok(());
        }
        next = after;
    }
    Ok(())
}

/// The target of `<target>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters.contains("next").then_some(target)
}

fn parse<T: DeserializeOwned>(what: &str, response: reqwest::blocking::Response) -> Result<T, RegistryError> {
    let mut bytes = Vec::new();
    response.take(PAGE_LIMIT_BYTES).read_to_end(&mut bytes).map_err(|error| cut(what, bytes.len() as u64, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| protocol(what, format!("invalid JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_next_page() {
        assert_eq!(next_page(r#"</v2/_catalog?last=b&n=1>; rel="next""#), Some("/v2/_catalog?last=b&n=1"));
        for other in ["", "x", r#"</v2>; rel="prev""#] {
            assert_eq!(next_page(other), None);
        }
    }
}
