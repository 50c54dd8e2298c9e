//! `manifest create`, `add` and `annotate`.

use storage::image::index::Platform;
use storage::image::list::{Detail, List};
use storage::image::manifest::{Descriptor, Document};
use storage::image::{Image, ImageStore, MANIFEST_LIMIT_BYTES};
use storage::reference::Reference;
use storage::state::request::PullPolicy;
use storage::transport::PullOptions;

use super::super::pull::{self, RegistryArgs};
use super::{Context, Outcome, found, list_name};
use crate::cli::output;
use crate::error::CommandError;

/// What is said of an image in a list.
#[derive(clap::Args, Debug, Clone, Default)]
struct DetailArgs {
    /// Annotation, NAME=VALUE (can be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Architecture instead of the image's own
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system instead of the image's own
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// Variant of the architecture instead of the image's own
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// Features of the processor, separated by commas
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    features: Vec<String>,
    /// Features of the operating system, separated by commas
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    os_features: Vec<String>,
}

impl DetailArgs {
    fn to_detail(&self) -> Result<Detail, CommandError> {
        let platform = [
            ("architecture", &self.arch),
            ("os", &self.os),
            ("variant", &self.variant),
            ("os.version", &self.os_version),
        ];
        let features = [("features", &self.features), ("os.features", &self.os_features)];
        Ok(Detail {
            platform: platform.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect(),
            features: features
                .into_iter()
                .filter(|(_, values)| !values.is_empty())
                .map(|(name, values)| (name, values.clone()))
                .collect(),
            annotations: annotations(&self.annotation)?,
        })
    }
}

fn annotations(texts: &[String]) -> Result<Vec<(String, String)>, CommandError> {
    let pair = |text: &String| {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| CommandError::user(format!("no value given for annotation {text:?}")))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// Create a manifest list
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct CreateArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Images to add to it
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Add all images of what is a list itself
    #[arg(long)]
    all: bool,
    /// Change the list of this name if there is one
    #[arg(short, long)]
    amend: bool,
    /// Replace the list of this name if there is one
    #[arg(long)]
    replace: bool,
    /// Annotation of the list, NAME=VALUE (can be repeated)
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Add images to a manifest list
///
/// Images that are not in local storage are pulled.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct AddArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Images to add
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Add all images of what is a list itself
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    detail: DetailArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Add or change what a manifest list says of an image
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct AnnotateArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Digest of the image's manifest, or the image
    #[arg(value_name = "IMAGE", required_unless_present = "index")]
    image: Option<String>,
    /// Annotate the list itself
    #[arg(long)]
    index: bool,
    #[command(flatten)]
    detail: DetailArgs,
}

/// Runs `manifest create`.
pub(crate) fn create(args: CreateArgs, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let name = list_name(&args.list)?;
    let known = store.find_list(&name.to_string())?;
    let mut list = match known {
        Some(known) if args.amend => known,
        Some(known) if !args.replace => {
            let text = format!(
                "image name \"{name}\" is already associated with image \"{}\": that name is already in use, or use \
                 --replace to replace it",
                known.id.hex()
            );
            return Err(CommandError::user(text));
        }
        _ => {
            if let Some(image) = store.resolve(&name.to_string())? {
                let id = image.id.hex();
                let text = format!("image name \"{name}\" is already associated with image \"{id}\"");
                return Err(CommandError::user(text));
            }
            store.new_list(&name)
        }
    };
    list.annotate_if(&annotations(&args.annotation)?);
    let options = PullOptions { client: args.registry.to_client_options()?, ..PullOptions::default() };
    for image in &args.images {
        add_image(&mut list, image, args.all, &Detail::default(), &options, context)?;
    }
    store.store_list(&mut list)?;
    output::print_line(list.id.hex()).map(|()| 0)
}

trait AnnotateIf {
    fn annotate_if(&mut self, annotations: &[(String, String)]);
}

impl AnnotateIf for List {
    /// Without annotations the list has no empty object of them.
    fn annotate_if(&mut self, annotations: &[(String, String)]) {
        if !annotations.is_empty() {
            self.annotate(annotations);
        }
    }
}

/// Runs `manifest add`.
pub(crate) fn add(args: AddArgs, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let mut list = found(&store, &args.list)?;
    let detail = args.detail.to_detail()?;
    let options = PullOptions { client: args.registry.to_client_options()?, ..PullOptions::default() };
    for image in &args.images {
        add_image(&mut list, image, args.all, &detail, &options, context)?;
    }
    store.store_list(&mut list)?;
    output::print_line(list.id.hex()).map(|()| 0)
}

/// Runs `manifest annotate`.
pub(crate) fn annotate(args: AnnotateArgs, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let mut list = found(&store, &args.list)?;
    let mut detail = args.detail.to_detail()?;
    if args.index {
        list.annotate_if(&std::mem::take(&mut detail.annotations));
    }
    if let Some(image) = &args.image {
        let digest = match storage::digest::Digest::parse(image) {
            Ok(digest) => digest,
            Err(_) => store.resolve(image)?.ok_or_else(|| super::images::not_known(image))?.manifest.digest,
        };
        if !list.change(&digest, &detail) {
            let text =
                format!("no instance matching digest {:?} found in manifest list {}", digest.to_string(), args.list);
            return Err(CommandError::user(text));
        }
    }
    store.store_list(&mut list)?;
    output::print_line(list.id.hex()).map(|()| 0)
}

/// Adds one image, pulled if it is not here; with `all`, every image of the index that it comes from.
fn add_image(
    list: &mut List,
    text: &str,
    all: bool,
    detail: &Detail,
    options: &PullOptions,
    context: &Context,
) -> Result<(), CommandError> {
    let store = ImageStore::open(&context.layout);
    let name = text.strip_prefix("containers-storage:").unwrap_or(text);
    let policy = if text.starts_with("docker://") { PullPolicy::Always } else { PullPolicy::Missing };
    let image = pull::ensure(context, name, policy, options, true)?;
    let Some(index) = image.index.clone().filter(|_| all) else {
        list.add(&image.manifest, Some(&image.platform), detail);
        return Ok(());
    };
    for entry in entries_of(&store, &index)? {
        let unknown = entry.platform.as_ref().is_none_or(Platform::is_unknown);
        // Attestations are no images.
        if entry.is_index() || unknown {
            continue;
        }
        if store.image_of(&entry)?.is_none() {
            let name = source_of(&image, name)?.with_digest(entry.digest.clone());
            let options = PullOptions { platform: entry.platform.clone(), ..options.clone() };
            pull::ensure(context, &name.to_string(), PullPolicy::Always, &options, true)?;
        }
        list.add(&entry, entry.platform.as_ref(), detail);
    }
    Ok(())
}

/// The repository that an image was pulled from.
fn source_of(image: &Image, text: &str) -> Result<Reference, CommandError> {
    let typed = Reference::parse(text.strip_prefix("docker://").unwrap_or(text)).ok();
    let typed = typed.filter(|typed| image.names.iter().any(|name| name.name() == typed.name()));
    typed
        .or_else(|| image.names.first().cloned())
        .ok_or_else(|| CommandError::user(format!("{text}: nothing says where the other images of its list are")))
}

fn entries_of(store: &ImageStore, index: &storage::digest::Digest) -> Result<Vec<Descriptor>, CommandError> {
    let what = format!("index {index}");
    let bytes = store.blobs().read(index, MANIFEST_LIMIT_BYTES).map_err(CommandError::host)?;
    let bytes = bytes.ok_or_else(|| CommandError::host(format!("{what}: missing from the store: pull it again")))?;
    match Document::parse(&what, None, &bytes).map_err(CommandError::host)? {
        Document::Index(index) => Ok(index.manifests),
        Document::Manifest(_) => Ok(Vec::new()),
    }
}
