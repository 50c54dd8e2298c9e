//! `manifest push`: the images of a list, then the list.

use runtime::userns::Mapping;
use storage::image::manifest::Descriptor;
use storage::image::{ImageStore, MANIFEST_LIMIT_BYTES};
use storage::reference::Reference;
use storage::transport::push::PushOptions;
use storage::transport::{Source, push};

use super::super::pull::{self, RegistryArgs};
use super::super::push::{UploadArgs, refused};
use super::{Context, Outcome, found};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::OfManifestPush;
use crate::cli::progress::{self, Style};
use crate::error::CommandError;

/// Push a manifest list and its images to a registry
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Where to push, a reference with or without docker:// [default: the name of the list]
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// Push the images of the list with it, the only way there is
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    all: Option<bool>,
    /// Remove the list when it has been pushed
    #[arg(long, visible_alias = "purge")]
    rm: bool,
    #[command(flatten)]
    upload: UploadArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    accepted: Accepted<OfManifestPush>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.accepted.warn();
    if args.all == Some(false) {
        return Err(CommandError::user("--all=false: a registry takes no list without its images"));
    }
    let store = ImageStore::open(&context.layout);
    let list = found(&store, &args.list)?;
    let to = match args.destination.as_deref().map(Source::parse).transpose().map_err(CommandError::user)? {
        None => list.name.clone(),
        Some(Source::Registry(to)) => to,
        Some(_) => return Err(CommandError::user("a manifest list goes to a registry: use docker://")),
    };
    let options = args.upload.to_options(&args.registry)?;
    let digest = upload(&list.index, &to, &options, args.upload.quiet, context)?;
    args.upload.note_digest(&digest)?;
    if args.rm {
        store.remove_list(&list)?;
    }
    Ok(0)
}

/// Uploads an index and its images in a child of its own. Gives the digest of the index.
pub(crate) fn upload(
    index: &Descriptor,
    to: &Reference,
    options: &PushOptions,
    quiet: bool,
    context: &Context,
) -> Result<String, CommandError> {
    let store = ImageStore::open(&context.layout);
    let mut options = options.clone();
    pull::ask_helper(&mut options.client, to)?;
    super::super::in_userns_with_output(&Mapping::of_user(), || {
        let progress = progress::for_push(quiet, Style::Podman);
        let named = store.blobs().read(&index.digest, MANIFEST_LIMIT_BYTES).map_err(CommandError::host)?;
        let named = String::from_utf8_lossy(&named.unwrap_or_default()).into_owned();
        for image in store.list()?.iter().filter(|image| named.contains(image.manifest.digest.hex())) {
            store.remake_blobs(&image.layers).map_err(CommandError::host)?;
        }
        let pushed = push::push_index(&store, index, to, &options, progress.as_ref()).map_err(refused)?;
        Ok(pushed.digest.to_string())
    })
}
