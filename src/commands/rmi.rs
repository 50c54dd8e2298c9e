//! `rmi`: takes names away, and with the last one the image.

use storage::image::store::{Image, ImageStore};
use storage::reference::Reference;
use storage::state::container::Record;
use storage::state::undo::Removal;

use super::image::mount;
use super::{Context, Outcome, images, lifecycle, rm, select, space, stop, tag};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle rmi nginx:1
  coracle rmi -f $(coracle images -q --filter dangling=true)"#;

/// Remove one or more images from local storage
///
/// Removes one or more previously pulled or locally created images. For a day `coracle undo` brings them back.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the image (can be repeated)
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove all images
    #[arg(short, long)]
    all: bool,
    /// Force removal of the image, with all its names and the containers that use it
    #[arg(short, long)]
    force: bool,
    /// Ignore errors if a specified image does not exist
    #[arg(short, long)]
    ignore: bool,
    /// Do not remove dangling images (none are left behind)
    #[arg(long)]
    no_prune: bool,
    /// Remove an image of this platform only, OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

/// Exit status when an image is not there.
const MISSING: u8 = 1;

/// Exit status when a container uses an image.
const IN_USE: u8 = 2;

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.images.is_empty() && !args.all {
        return Err(CommandError::user("image name or ID must be specified"));
    }
    if !args.images.is_empty() && args.all {
        return Err(CommandError::user("when using the --all switch, you may not pass any images names or IDs"));
    }
    let store = ImageStore::open(&context.layout);
    let mut errors = Vec::new();
    if args.all {
        for image in store.list()? {
            errors.extend(remove(&args, context, &store, &image).err());
        }
    } else {
        // What an earlier word of the same line removed is no error: `rmi $(images -q)` names an image twice.
        let mut gone = Vec::new();
        for typed in &args.images {
            errors.extend(one(&args, context, &store, typed, &mut gone).err());
        }
    }
    space::sweep(context);
    select::finish(errors)
}

fn one(
    args: &Args,
    context: &Context,
    store: &ImageStore,
    typed: &str,
    gone: &mut Vec<Image>,
) -> Result<(), CommandError> {
    let Some(image) = store.resolve(typed)? else {
        if let Some(list) = store.find_list(typed)? {
            store.remove_list(&list)?;
            return output::print_line(format_args!("Untagged: {}\nDeleted: {}", list.name, list.id.hex()));
        }
        let before = |image: &Image| {
            image.id.hex().starts_with(typed.trim_start_matches("sha256:"))
                || image.names.iter().any(|name| tag::answers(name, typed))
        };
        return match args.ignore || gone.iter().any(before) {
            true => Ok(()),
            // podman has nothing against forcing what is not there; a bad name is one all the same.
            false if args.force => Ok(()),
            false if Reference::parse(typed).is_err() => {
                Err(CommandError::user(format_args!("parsing reference {typed:?}: invalid reference format")))
            }
            false => Err(images::not_known(typed).with_code(MISSING)),
        };
    };
    images::must_be_of(&image, args.platform.as_deref(), typed)?;
    images::must_be_ours(&image)?;
    // The list of a build for several platforms goes with its name.
    if let Some(list) = store.find_list(typed)?
        && list.entries().iter().any(|entry| entry.digest == image.manifest.digest)
    {
        store.remove_list(&list)?;
    }
    let named = image.names.iter().find(|name| tag::answers(name, typed));
    match named {
        // By one of several names: only that name goes.
        Some(name) if image.names.len() > 1 => {
            store.untag_to(name, context.removal())?;
            context.note_image("untag", &image.id, name);
            output::print_line(format_args!("Untagged: {name}"))
        }
        None if image.names.len() > 1 && !args.force => Err(CommandError::user(format_args!(
            "unable to delete image \"{}\" by ID with more than one tag ({}): please force removal",
            image.id.hex(),
            images::repo_tags(&image).join(" ")
        ))
        .with_code(IN_USE)),
        _ => {
            remove(args, context, store, &image)?;
            gone.push(image);
            Ok(())
        }
    }
}

/// Removes an image with all its names.
fn remove(args: &Args, context: &Context, store: &ImageStore, image: &Image) -> Result<(), CommandError> {
    images::must_be_ours(image)?;
    mount::refuse_mounted(context, image)?;
    let users: Vec<Record> = users(context, image)?;
    if let Some(user) = users.first()
        && !args.force
    {
        return Err(CommandError::user(format_args!(
            "image used by {}: image is in use by a container: consider listing external containers and \
             force-removing image",
            user.id
        ))
        .with_code(IN_USE));
    }
    let stopping = users
        .iter()
        .map(|record| lifecycle::begin_stop(context, record, stop::timeout(None, record)))
        .collect::<Result<Vec<_>, _>>()?;
    for (record, begun) in users.iter().zip(stopping) {
        begun.finish(context)?;
        rm::remove(context, record, false)?;
    }
    remove_from(store, context, image, context.removal())?;
    for name in image.names.iter().rev() {
        output::print_line(format_args!("Untagged: {name}"))?;
    }
    output::print_line(format_args!("Deleted: {}", image.id.hex()))
}

/// Removes an image that a container was made of, unless another one is.
pub(crate) fn remove_unused(context: &Context, id: &storage::digest::Digest) -> Result<(), CommandError> {
    let store = ImageStore::open(&context.layout);
    let Some(image) = store.resolve(&id.to_string())? else { return Ok(()) };
    if image.read_only.is_none() && users(context, &image)?.is_empty() {
        // As the container was made to vanish, so was its image.
        remove_from(&store, context, &image, None)?;
        space::empty_trash(&context.layout);
    }
    Ok(())
}

/// Removes an image from the store; on a full disk the trash it leaves makes room for the rest.
pub(crate) fn remove_from(
    store: &ImageStore,
    context: &Context,
    image: &Image,
    removal: Option<&Removal>,
) -> Result<(), CommandError> {
    match store.remove_to(image, removal) {
        Err(error) if error.is_full_disk() => {
            space::empty_trash(&context.layout);
            store.remove(image)?;
        }
        other => other?,
    }
    for name in &image.names {
        context.note_image("untag", &image.id, name);
    }
    context.note_image("remove", &image.id, "");
    Ok(())
}

/// The containers that use an image.
pub(crate) fn users(context: &Context, image: &Image) -> Result<Vec<Record>, CommandError> {
    let records = select::all(context)?.into_iter();
    Ok(records.filter(|record| storage::prune::uses_image(record, &image.id)).collect())
}
