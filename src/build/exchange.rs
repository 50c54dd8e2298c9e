//! `--cache-from` and `--cache-to`: what was built elsewhere, and what others shall find.
//!
//! | spelling | where |
//! | --- | --- |
//! | `REPOSITORY` | podman's: the tag `buildcache` of it, unless another is given |
//! | `type=registry,ref=REFERENCE` | docker's |
//! | `type=local,src=DIR`, `type=local,dest=DIR` | a directory, as an OCI layout |
//! | `type=inline` | the image that is built, which others name as one of a registry |

use std::collections::BTreeSet;
use std::path::PathBuf;

use runtime::userns::Mapping;
use storage::build::exchange::{self, Foreign, Steps, TAG};
use storage::build::{BuildError, Key};
use storage::image::ImageStore;
use storage::image::manifest::Descriptor;
use storage::layer::IdPolicy;
use storage::progress::Silent;
use storage::reference::Reference;
use storage::transport::registry::RegistryError;
use storage::transport::{PullOptions, PushOptions, Source, TransportError};

use super::inside::Space;
use super::options::Options;
use super::stage::Build;
use crate::commands::{Context, pull, push};
use crate::error::CommandError;

/// A cache that is not on this machine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cache {
    place: Source,
    /// Only what the image itself is made of: `mode=min`.
    pub(crate) is_small: bool,
    /// `ignore-error=true`.
    pub(crate) may_fail: bool,
}

/// What was built elsewhere, and where its layers are.
#[derive(Debug, Clone)]
pub(crate) struct Imported {
    place: Source,
    pub(crate) steps: Steps,
}

impl Cache {
    /// Reads a value of `--cache-from` or `--cache-to`; nothing where the image itself is meant.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Option<Cache>, String> {
        if !text.contains('=') {
            let reference = Reference::parse(text).map_err(|error| error.to_string())?;
            return Ok(Some(Cache { place: Source::Registry(tagged(reference)), is_small: false, may_fail: false }));
        }
        let (mut kind, mut reference, mut directory, mut tag) = (None, None, None, None);
        let (mut is_small, mut may_fail) = (true, false);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, not {part:?}"))?;
            match (key.trim().to_ascii_lowercase().as_str(), value) {
                ("type", value) => kind = Some(value),
                ("ref", value) => reference = Some(value),
                ("src" | "dest", value) => directory = Some(value),
                ("tag", value) => tag = Some(value),
                ("mode", "min") => is_small = true,
                ("mode", "max") => is_small = false,
                ("mode", other) => return Err(format!("mode {other:?}: expected min or max")),
                ("ignore-error", value) => may_fail = value == "true",
                // How the layers travel is the registry's and the push's affair.
                (
                    "image-manifest" | "oci-mediatypes" | "compression" | "compression-level" | "force-compression",
                    _,
                ) => {}
                (other, _) => return Err(format!("unknown key {other:?}: expected type, ref, src, dest or mode")),
            }
        }
        let place = match (kind, reference, directory) {
            (Some("registry"), Some(text), _) => {
                Source::Registry(tagged(Reference::parse(text).map_err(|error| error.to_string())?))
            }
            (Some("registry"), None, _) => return Err("expected ref=REFERENCE".to_owned()),
            (Some("local"), _, Some(path)) => {
                let reference = Some(tag.unwrap_or(TAG).to_owned());
                Source::OciLayout { path: PathBuf::from(path), reference }
            }
            (Some("local"), _, None) => return Err("expected src=DIRECTORY or dest=DIRECTORY".to_owned()),
            (Some("inline"), ..) => return Ok(None),
            (Some(other), ..) => return Err(format!("unknown type {other:?}: expected registry or local")),
            (None, ..) => return Err("expected type=TYPE".to_owned()),
        };
        Ok(Some(Cache { place, is_small, may_fail }))
    }

    fn name(&self) -> String {
        match &self.place {
            Source::OciLayout { path, .. } => path.display().to_string(),
            Source::Registry(reference) => reference.to_string(),
            other => format!("{other:?}"),
        }
    }
}

fn tagged(reference: Reference) -> Reference {
    match reference.tag().is_none() && reference.digest().is_none() {
        true => reference.with_tag(TAG).unwrap_or(reference),
        false => reference,
    }
}

fn pull_options(options: &Options, mapping: &Mapping, place: &Source) -> Result<PullOptions, CommandError> {
    let ids = if mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() };
    let mut options = PullOptions { client: options.client.clone(), ids, ..PullOptions::default() };
    if let Source::Registry(reference) = place {
        pull::ask_helper(&mut options.client, reference)?;
    }
    Ok(options)
}

/// Reads what other machines have built. A cache that is not there yet, or is none, is told of and left out.
pub(crate) fn import(
    caches: &[Cache],
    options: &Options,
    store: &ImageStore,
    space: &Space,
) -> Result<Vec<Imported>, CommandError> {
    let mut all = Vec::new();
    for cache in caches {
        let asked = pull_options(options, &space.mapping, &cache.place)?;
        let read: Result<Option<Steps>, String> = space.inside(|| {
            Ok(match exchange::read(store, &cache.place, &asked) {
                Ok(steps) => Ok(steps),
                Err(error) => Err(match &error {
                    TransportError::Registry(RegistryError::ManifestUnknown { .. }) => "there is none yet".to_owned(),
                    error => error.to_string(),
                }),
            })
        })?;
        match read {
            Ok(Some(steps)) => all.push(Imported { place: cache.place.clone(), steps }),
            Ok(None) => eprintln!("Warning: --cache-from {}: it is no cache of coracle's builds", cache.name()),
            Err(why) => eprintln!("Warning: --cache-from {}: {why}", cache.name()),
        }
    }
    Ok(all)
}

impl Imported {
    /// Brings these steps here.
    pub(crate) fn fetch(&self, build: &Build<'_>, wanted: &[(&Key, &Foreign)]) -> Result<(), CommandError> {
        let options = pull_options(&build.options, &build.space.mapping, &self.place)?;
        build.space.inside(|| {
            exchange::fetch(&build.store, &build.cache, &self.place, wanted, &options).map_err(CommandError::host)
        })
    }
}

/// Writes the steps of a build where others find them.
pub(crate) fn export(
    cache: &Cache,
    build: &Build<'_>,
    keys: &BTreeSet<String>,
    context: &Context,
) -> Result<(), CommandError> {
    let exported = build.space.inside(|| {
        let keys: Vec<Key> = keys.iter().filter_map(|key| Key::parse(key)).collect();
        exchange::export(&build.store, &build.cache, &keys, &build.ids()).map_err(CommandError::host)
    });
    let sent = exported.and_then(|image| send(cache, build, &image, context));
    match sent.map_err(|error| error.while_doing(format_args!("--cache-to {}", cache.name()))) {
        Err(error) if cache.may_fail => {
            eprintln!("Warning: {error}");
            Ok(())
        }
        result => result,
    }
}

fn send(cache: &Cache, build: &Build<'_>, image: &Descriptor, context: &Context) -> Result<(), CommandError> {
    let gone = || CommandError::host("the cache's own image is gone");
    let image = build.store.image_of(image)?.ok_or_else(gone)?;
    match &cache.place {
        Source::Registry(to) => {
            let options = PushOptions { client: build.options.client.clone(), ..PushOptions::default() };
            push::send(&image, to, &options, &|| Box::new(Silent), context).map(drop)
        }
        Source::OciLayout { path, .. } => {
            exchange::save(&build.store, &image, path).map_err(|error| CommandError::host(BuildError::from(error)))
        }
        _ => Err(CommandError::user("a cache goes to a registry or a directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_by_their_spelling() {
        let registry = |text: &str| Source::Registry(Reference::parse(text).unwrap());
        let layout = |tag: &str| Source::OciLayout { path: "d".into(), reference: Some(tag.to_owned()) };
        for (text, place, is_small) in [
            ("quay.io/team/cache", registry("quay.io/team/cache:buildcache"), false),
            ("localhost:5000/app:main", registry("localhost:5000/app:main"), false),
            ("type=registry,ref=quay.io/a/b:c", registry("quay.io/a/b:c"), true),
            ("type=registry,ref=quay.io/a/b,mode=max", registry("quay.io/a/b:buildcache"), false),
            ("type=local,dest=d", layout("buildcache"), true),
            ("type=local,src=d,tag=other", layout("other"), true),
        ] {
            let parsed = Cache::parse(text).expect(text).expect(text);
            assert_eq!((parsed.place, parsed.is_small), (place, is_small), "{text}");
        }
        assert_eq!(Cache::parse("type=inline"), Ok(None));
        for (text, wanted) in [
            ("type=registry", "expected ref="),
            ("type=gha", "unknown type"),
            ("type=local", "expected src="),
            ("type=registry,ref=a,mode=some", "expected min or max"),
            ("type=registry,what=a", "unknown key"),
            ("Not A Name", "invalid"),
        ] {
            let error = Cache::parse(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
