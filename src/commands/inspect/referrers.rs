//! `image inspect --referrers`: what a registry has that refers to an image.

use runtime::userns::Mapping;
use storage::digest::Digest;
use storage::image::store::ImageStore;
use storage::reference::Reference;
use storage::transport::ImageSource;
use storage::transport::registry::{ClientOptions, RegistrySource};

use crate::cli::format::Value;
use crate::commands::{Context, Outcome, in_userns_with_output};
use crate::error::CommandError;

/// Shows the descriptors of all that refers to each image: to its manifest, or to the index that it came through.
pub(super) fn run(names: &[String], format: &str, context: &Context) -> Outcome {
    if names.is_empty() {
        return Err(CommandError::user("no names or ids specified"));
    }
    let store = ImageStore::open(&context.layout);
    let mut found = Vec::new();
    for name in names {
        let image = store.resolve(name)?;
        let reference = match (&image, Reference::parse(name)) {
            // By an ID, or by a short name that means another registry here: the image knows where it is from.
            (Some(image), _) => image.names.first().cloned(),
            (None, Ok(reference)) => Some(reference),
            (None, Err(error)) => return Err(CommandError::user(error)),
        };
        let reference = reference.ok_or_else(|| {
            CommandError::user(format_args!("image {name} has no name: which registry to ask is not known"))
        })?;
        let known: Vec<Digest> =
            image.into_iter().flat_map(|image| [Some(image.manifest.digest), image.index]).flatten().collect();
        let text = in_userns_with_output(&Mapping::of_user(), || {
            let source = RegistrySource::new(&reference, &ClientOptions::default());
            let failed = |error: storage::transport::TransportError| {
                CommandError::host(error).while_doing(format!("cannot ask for what refers to {reference}"))
            };
            let mut subjects = known;
            if subjects.is_empty() {
                subjects.extend(source.top_digest().map_err(failed)?);
            }
            let mut all = Vec::new();
            for subject in subjects {
                all.extend(source.referrers(&subject).map_err(failed)?);
            }
            serde_json::to_string(&all).map_err(CommandError::host)
        })?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(CommandError::host)?;
        found.extend(all.iter().map(Value::from));
    }
    super::show(Value::List(found), format)?;
    Ok(0)
}
