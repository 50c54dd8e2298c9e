//! `image mount` and `image unmount`: the files of an image, at a place of the host and read-only.
//!
//! **Runs in:** the CLI, inside of `coracle unshare`, as [`super::super::mount`] does.

use std::path::{Path, PathBuf};

use runtime::mount::rootfs::{self, Rootfs, Stack};
use storage::image::store::{Image, ImageStore};
use storage::layer::{IdMap, ensure_unpacked};
use storage::progress::Silent;
use storage::state::layout::create_dir;

use crate::cli::output;
use crate::commands::mount::{Mounted, Row, attach_root, inside_of_unshare, is_json, report, staying};
use crate::commands::pull::local_options;
use crate::commands::{Context, Outcome, images, select};
use crate::error::CommandError;
use crate::supervisor::rootfs::drivers;

/// Mount an image's root filesystem
///
/// Works inside of `coracle unshare`. Prints where each is mounted; without images, all that are.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Mount all images
    #[arg(short, long)]
    all: bool,
    /// Print the mounted images in specified format (json)
    #[arg(long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    format: String,
    /// Image name or ID (can be repeated)
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// Unmount an image's root filesystem
///
/// Works inside of `coracle unshare`. What was mounted several times is unmounted as often, or with --force at once.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct UnmountArgs {
    /// Unmount all of the currently mounted images
    #[arg(short, long)]
    all: bool,
    /// Force the complete unmount of the specified mounted images
    #[arg(short, long)]
    force: bool,
    /// Image name or ID (can be repeated)
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs `image mount`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    inside_of_unshare("image mount", "IMAGE")?;
    let is_json = is_json(&args.format)?;
    let store = ImageStore::open(&context.layout);
    let title = |row: &Row| row.repositories.iter().flatten().next().unwrap_or(&row.id).clone();
    if !args.all && args.images.is_empty() {
        let mounted = Mounted::read()?;
        let images = store.list()?.into_iter().filter(|image| mounted.times(&place(context, image)) > 0);
        let rows: Vec<Row> = images.map(|image| row(context, &image)).collect();
        return report(&rows, is_json, title);
    }
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for image in chosen(&store, args.all, &args.images)? {
        match mount(context, &store, &image) {
            Ok(()) => {
                context.note_image("mount", &image.id, "");
                rows.push(row(context, &image));
            }
            Err(error) => errors.push(error),
        }
    }
    match rows.as_slice() {
        [] if !errors.is_empty() => {}
        [one] if !args.all && args.images.len() == 1 && !is_json => output::print_line(one.place.display())?,
        rows => drop(report(rows, is_json, title)?),
    }
    select::finish(errors)
}

/// Runs `image unmount`.
pub(crate) fn run_unmount(args: UnmountArgs, context: &Context) -> Outcome {
    if !args.all && args.images.is_empty() {
        return Err(CommandError::user("image name or ID must be specified"));
    }
    inside_of_unshare("image unmount", "IMAGE")?;
    let images = chosen(&ImageStore::open(&context.layout), args.all, &args.images)?;
    let mounted = Mounted::read()?;
    let mut errors = Vec::new();
    for image in images {
        match mounted.unmount(&place(context, &image), args.force) {
            Ok(true) => {
                context.note_image("unmount", &image.id, "");
                output::print_line(image.id.hex())?;
            }
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    select::finish(errors)
}

/// Whether an image is mounted where we are.
pub(crate) fn is_mounted(context: &Context, image: &Image) -> bool {
    // Nobody else can have mounts.
    nix::unistd::geteuid().is_root() && Mounted::read().is_ok_and(|mounted| mounted.times(&place(context, image)) > 0)
}

/// An error if an image is mounted where we are: its layers must not be taken away.
pub(crate) fn refuse_mounted(context: &Context, image: &Image) -> Result<(), CommandError> {
    if !is_mounted(context, image) {
        return Ok(());
    }
    let (id, place) = (images::short_id(image), place(context, image));
    let error = CommandError::user(format_args!("remove image {id}: it is mounted at {}", place.display()));
    Err(error.hinted(format!("coracle image unmount --force {id}")))
}

fn chosen(store: &ImageStore, all: bool, names: &[String]) -> Result<Vec<Image>, CommandError> {
    if all && !names.is_empty() {
        return Err(CommandError::user("when using the --all switch, you may not pass any image names or IDs"));
    }
    if all {
        return Ok(store.list()?);
    }
    names.iter().map(|name| store.resolve(name)?.ok_or_else(|| images::not_known(name))).collect()
}

fn place(context: &Context, image: &Image) -> PathBuf {
    context.layout.image_mount(&image.id).join("merged")
}

fn row(context: &Context, image: &Image) -> Row {
    Row {
        id: image.id.hex().to_owned(),
        names: vec![image.manifest.digest.to_string()],
        repositories: Some(images::repo_tags(image)),
        place: place(context, image),
    }
}

/// Mounts an image, once more if it is mounted already.
fn mount(context: &Context, store: &ImageStore, image: &Image) -> Result<(), CommandError> {
    let place = place(context, image);
    if Mounted::read()?.times(&place) > 0 {
        return rootfs::stack_again(&place).map_err(CommandError::host);
    }
    let (mapping, options) = local_options();
    let single_id = mapping.single.is_some();
    let unpacked = ensure_unpacked(store, image, &options.ids, &Silent).map_err(CommandError::host)?;
    let base = context.layout.data_dir();
    let relative = |path: PathBuf| path.strip_prefix(base).map(Path::to_owned).unwrap_or(path);
    let mut lowers: Vec<PathBuf> = unpacked.into_iter().rev().map(|layer| relative(layer.join("diff"))).collect();
    create_dir(&place).map_err(CommandError::host)?;
    // The kernel's overlay has no less than two layers.
    for number in lowers.len()..2 {
        let empty = context.layout.image_mount(&image.id).join(number.to_string());
        create_dir(&empty).map_err(CommandError::host)?;
        lowers.push(relative(empty));
    }
    let drivers = drivers(context.storage_driver()?, "", false, single_id);
    let root = Rootfs::Stack(Stack { base: base.to_owned(), lowers, writable: None, drivers });
    staying(|| attach_root(&root, &IdMap::default(), single_id, &place, false))
}
