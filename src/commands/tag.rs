//! `tag` and `untag`: names of images.

use storage::image::store::ImageStore;
use storage::reference::Reference;

use super::{Context, Outcome, images};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle tag nginx localhost:5000/nginx:mine"#;

/// Add an additional name to a local image
///
/// Adds one or more additional names to locally-stored image.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The new names
    #[arg(required = true, value_name = "TARGET_NAME")]
    names: Vec<String>,
}

/// Runs `tag`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let names = args.names.iter().map(|name| local_name(name)).collect::<Result<Vec<_>, _>>()?;
    let store = ImageStore::open(&context.layout);
    let image = store.resolve(&args.image)?.ok_or_else(|| images::not_known(&args.image))?;
    images::must_be_ours(&image)?;
    for name in &names {
        store.tag(&image, name)?;
        context.note_image("tag", &image.id, name);
    }
    Ok(0)
}

/// A name for a local image: one without a registry belongs to `localhost/`, as podman has it, unless it names Hub.
pub(crate) fn local_name(name: &str) -> Result<Reference, CommandError> {
    let bad = || CommandError::user(format_args!("parsing reference {name:?}: invalid reference format"));
    let reference = Reference::parse(name).map_err(|_| bad())?;
    if reference.digest().is_some() {
        return Err(CommandError::user(format_args!("{name:?}: a tag cannot have a digest")));
    }
    let is_qualified = reference.registry() != storage::reference::DOCKER_HUB || name.starts_with("docker.io/");
    let reference = match is_qualified {
        true => reference,
        false => Reference::parse(&format!("localhost/{name}")).map_err(|_| bad())?,
    };
    Ok(reference.with_default_tag())
}

/// Remove a name from a local image
///
/// Removes one or more names from a locally-stored image, all of them if none is given.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct UntagArgs {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The names to remove
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs `untag`.
pub(crate) fn run_untag(args: UntagArgs, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let image = store.resolve(&args.image)?.ok_or_else(|| images::not_known(&args.image))?;
    images::must_be_ours(&image)?;
    if args.names.is_empty() {
        for name in &image.names {
            store.untag(name)?;
            context.note_image("untag", &image.id, name);
        }
        return Ok(0);
    }
    for name in &args.names {
        let found = image.names.iter().find(|known| answers(known, name));
        let found = found.ok_or_else(|| CommandError::user(format_args!("{name}: tag not known")))?;
        store.untag(found)?;
        context.note_image("untag", &image.id, found);
    }
    Ok(0)
}

/// Whether a name in the store is what a user means by `text`.
pub(crate) fn answers(known: &Reference, text: &str) -> bool {
    let same = |reference: Result<Reference, CommandError>| reference.is_ok_and(|reference| reference == *known);
    same(local_name(text)) || same(Reference::parse(text).map(Reference::with_default_tag).map_err(CommandError::user))
}
