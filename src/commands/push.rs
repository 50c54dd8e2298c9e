//! `coracle push`: images to registries, and to the other places that images come from.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::userns::Mapping;
use storage::image::index::Platform;
use storage::image::list::List;
use storage::image::{Image, ImageStore};
use storage::layer::compress;
use storage::progress::Progress;
use storage::reference::Reference;
use storage::transport::save::{self, Saved};
use storage::transport::{PushError, PushOptions, Source, TransportError};

use super::pull::RegistryArgs;
use super::{Context, Outcome, images, pull, tag};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::OfPush;
use crate::cli::progress::{self, Style};
use crate::error::{CommandError, reason};
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle push registry.example/team/app:1
  coracle push localhost/app registry.example/team/app:1
  coracle push --compression-format zstd app docker://localhost:5000/app
  coracle push app oci-archive:app.tar:latest"#;

/// Push an image to a registry, an archive or a layout
///
/// A pulled image is pushed byte for byte as it was pulled, so its digest stays. A registry on this machine may speak
/// plain HTTP.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where to push, a reference or TRANSPORT:WHERE (docker://, oci:, oci-archive:, docker-archive:, dir:)
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// Push all tags of the repository
    #[arg(short, long, conflicts_with = "destination")]
    all_tags: bool,
    /// Push the image only if it is for this platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    upload: UploadArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    accepted: Accepted<OfPush>,
}

/// How images are uploaded; shared by `push` and `manifest push`.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct UploadArgs {
    /// Kind of the manifest: oci or v2s2 [default: as the image has it]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Compression of layers, gzip, zstd or zstd:chunked (zstd with a table of contents, for lazy pulls) [default: as they are,
    /// gzip if they are not compressed]
    #[arg(long, value_name = "FORMAT")]
    compression_format: Option<String>,
    /// Level of the compression, 1 to 12 for gzip, 1 to 22 for zstd
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    /// Compress layers even if the registry has them compressed in another way [default: true with --compression-format]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_compression: Option<bool>,
    /// Write the digest of the manifest to a file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Signing is not supported
    #[arg(long, hide = true, value_name = "KEY")]
    sign_by: Option<String>,
    /// Signing is not supported
    #[arg(long, hide = true, value_name = "FILE")]
    sign_by_sigstore: Option<String>,
    /// Signing is not supported
    #[arg(long, hide = true, value_name = "FILE")]
    sign_by_sigstore_private_key: Option<String>,
    /// Signing is not supported
    #[arg(long, hide = true, value_name = "FILE")]
    sign_passphrase_file: Option<String>,
    /// Encryption is not supported
    #[arg(long, hide = true, value_name = "KEY")]
    encryption_key: Vec<String>,
    /// Encryption is not supported
    #[arg(long, hide = true, value_name = "LAYER", allow_hyphen_values = true)]
    encrypt_layer: Vec<String>,
}

impl UploadArgs {
    /// As the push takes them.
    pub(crate) fn to_options(&self, registry: &RegistryArgs) -> Result<PushOptions, CommandError> {
        let refused = [
            ("sign-by", self.sign_by.is_some(), "signing"),
            ("sign-by-sigstore", self.sign_by_sigstore.is_some(), "signing"),
            ("sign-by-sigstore-private-key", self.sign_by_sigstore_private_key.is_some(), "signing"),
            ("sign-passphrase-file", self.sign_passphrase_file.is_some(), "signing"),
            ("encryption-key", !self.encryption_key.is_empty(), "encryption"),
            ("encrypt-layer", !self.encrypt_layer.is_empty(), "encryption"),
        ];
        if let Some((flag, _, what)) = refused.into_iter().find(|(_, given, _)| *given) {
            return Err(CommandError::user(format!("--{flag}: {what} of images is not supported")));
        }
        let format = match self.format.as_deref() {
            None => None,
            Some("oci") => Some(storage::transport::push::Format::Oci),
            Some("v2s2" | "docker") => Some(storage::transport::push::Format::Docker),
            Some("v2s1") => return Err(CommandError::user("--format v2s1: registries do not take it any more")),
            Some(other) => {
                let text = format!("unknown format {other:?}: choose one of the supported formats: 'oci' or 'v2s2'");
                return Err(CommandError::user(text));
            }
        };
        let compression = match self.compression_format.as_deref() {
            None => None,
            Some("gzip") => Some(compress::Format::Gzip),
            Some("zstd") => Some(compress::Format::Zstd),
            Some("zstd:chunked") => Some(compress::Format::ZstdChunked),
            Some(other) => return Err(CommandError::user(format!("cannot find compressor for {other:?}"))),
        };
        if let Some(level) = self.compression_level {
            let levels = compression.unwrap_or(compress::Format::Gzip).levels();
            if !levels.contains(&level) {
                let text = format!("--compression-level {level}: must be {} to {}", levels.start(), levels.end());
                return Err(CommandError::user(text));
            }
        }
        let force = self.force_compression.unwrap_or(compression.is_some());
        Ok(PushOptions {
            client: registry.to_client_options()?,
            format,
            compression,
            level: self.compression_level,
            force,
            ..PushOptions::default()
        })
    }

    /// `--digestfile`.
    pub(crate) fn note_digest(&self, digest: &str) -> Result<(), CommandError> {
        let Some(path) = &self.digestfile else { return Ok(()) };
        let failed = |error| CommandError::host(format!("digest file {}: {}", path.display(), reason(&error)));
        fs::write(path, digest).map_err(failed)
    }
}

/// Runs `coracle push`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.accepted.warn();
    let options = args.upload.to_options(&args.registry)?;
    let platform = pull::parse_platform(args.platform.as_deref())?;
    let store = ImageStore::open(&context.layout);
    if args.all_tags {
        return all_tags(&args, &options, platform.as_ref(), &store, context);
    }
    let image = store.resolve(&args.image)?;
    let asked = args.destination.as_deref().map(Source::parse).transpose().map_err(CommandError::user)?;
    if let None | Some(Source::Registry(_)) = &asked
        && let Some(list) = whole_list(&args, &store, image.as_ref())?
    {
        let to = match asked {
            Some(Source::Registry(to)) => to,
            _ => list.name.clone(),
        };
        announce(&to, context, args.upload.quiet);
        let digest = super::manifest::push::upload(&list.index, &to, &options, args.upload.quiet, context)?;
        args.upload.note_digest(&digest)?;
        return Ok(0);
    }
    let image = image.ok_or_else(|| images::not_known(&args.image))?;
    check_platform(&args.image, &image, platform.as_ref())?;
    let destination = match asked {
        Some(asked) => asked,
        None => Source::Registry(own_name(&args.image, &image, context.persona)?),
    };
    let digest = match &destination {
        Source::Registry(to) => {
            announce(to, context, args.upload.quiet);
            upload(&image, to, &options, args.upload.quiet, context)?
        }
        local => {
            if options.compression.is_some() || options.format.is_some() {
                eprintln!("Warning: layers and manifest are written as the store has them");
            }
            images::remake_blobs(&store, [&image])?;
            write(&store, &image, local)?;
            image.manifest.digest.to_string()
        }
    };
    args.upload.note_digest(&digest)?;
    if args.upload.quiet && context.persona == Persona::Docker {
        println!("{}", args.image);
    }
    Ok(0)
}

/// The list that the name means, if no platform of it is asked for: one made here, or that of a build for several.
fn whole_list(args: &Args, store: &ImageStore, image: Option<&Image>) -> Result<Option<List>, CommandError> {
    if args.platform.is_some() {
        return Ok(None);
    }
    let has = |list: &List, image: &Image| list.entries().iter().any(|entry| entry.digest == image.manifest.digest);
    // Another image may have got the name since.
    Ok(store.find_list(&args.image)?.filter(|list| image.is_none_or(|image| has(list, image))))
}

/// `docker push -a NAME`: every tag that the store has of a repository.
fn all_tags(
    args: &Args,
    options: &PushOptions,
    platform: Option<&Platform>,
    store: &ImageStore,
    context: &Context,
) -> Outcome {
    let typed = Reference::parse(&args.image).map_err(CommandError::user)?;
    if typed.tag().is_some() || typed.digest().is_some() {
        return Err(CommandError::user("tag can't be used with --all-tags/-a"));
    }
    let local = Reference::parse(&format!("localhost/{}", args.image)).ok();
    let all = store.list()?;
    let is_of = |name: &&Reference, wanted: &Reference| name.name() == wanted.name() && name.tag().is_some();
    let of = |wanted: &Reference| -> Vec<(&Image, Reference)> {
        let names =
            |image: &'_ Image| image.names.iter().filter(|name| is_of(name, wanted)).cloned().collect::<Vec<_>>();
        all.iter().flat_map(|image| names(image).into_iter().map(move |name| (image, name))).collect()
    };
    let mut found = of(&typed);
    if found.is_empty()
        && let Some(local) = local
    {
        found = of(&local);
    }
    found.sort_by(|one, other| one.1.tag().cmp(&other.1.tag()));
    let Some((_, first)) = found.first() else {
        return Err(CommandError::user(format!("{}: no tag of this repository is known", args.image)));
    };
    announce(first, context, args.upload.quiet);
    for (image, name) in &found {
        check_platform(&args.image, image, platform)?;
        let digest = upload(image, name, options, args.upload.quiet, context)?;
        args.upload.note_digest(&digest)?;
    }
    Ok(0)
}

fn check_platform(name: &str, image: &Image, platform: Option<&Platform>) -> Result<(), CommandError> {
    match platform {
        Some(wanted) if image.platform.rank_for(wanted).is_none() => {
            let text = format!("{name}: the image is for {}, not for {wanted}", image.platform);
            Err(CommandError::user(text).hinted(format!("coracle pull --platform {wanted} {name}")))
        }
        _ => Ok(()),
    }
}

/// The name of the image that was typed, which is where it goes without a destination.
fn own_name(text: &str, image: &Image, persona: Persona) -> Result<Reference, CommandError> {
    let typed = Reference::parse(text).map(Reference::with_default_tag);
    let exact = typed.as_ref().ok().filter(|typed| image.names.contains(typed));
    let known = match persona {
        // docker's short names are Docker Hub's.
        Persona::Docker => exact.or_else(|| image.names.iter().find(|name| tag::answers(name, text))),
        Persona::Podman => image.names.iter().find(|name| tag::answers(name, text)),
    };
    known.cloned().ok_or_else(|| {
        CommandError::user(format!("{text}: an ID says nothing about where to push"))
            .hinted(format!("coracle push {text} REGISTRY/REPOSITORY:TAG"))
    })
}

fn announce(to: &Reference, context: &Context, quiet: bool) {
    if context.persona == Persona::Docker && !quiet {
        println!("The push refers to repository [{}]", to.name());
    }
}

/// Uploads in a child of its own, as pulls do. Gives the digest of the manifest.
pub(crate) fn upload(
    image: &Image,
    to: &Reference,
    options: &PushOptions,
    quiet: bool,
    context: &Context,
) -> Result<String, CommandError> {
    let progress = || progress::for_push(quiet, style(context, image));
    let (digest, size) = send(image, to, options, &progress, context)?;
    if context.persona == Persona::Docker && !quiet {
        println!("{}: digest: {digest} size: {size}", to.tag().unwrap_or(storage::reference::DEFAULT_TAG));
    }
    context.note_image("push", &image.id, to);
    Ok(digest)
}

/// Uploads in a child of its own. Gives digest and size of the manifest.
pub(crate) fn send(
    image: &Image,
    to: &Reference,
    options: &PushOptions,
    progress: &dyn Fn() -> Box<dyn Progress>,
    context: &Context,
) -> Result<(String, String), CommandError> {
    let store = ImageStore::open(&context.layout);
    let mut options = options.clone();
    pull::ask_helper(&mut options.client, to)?;
    let pushed = super::in_userns_with_output(&Mapping::of_user(), || {
        store.remake_blobs(&image.layers).map_err(CommandError::host)?;
        let pushed = storage::transport::push(&store, image, to, &options, progress().as_ref()).map_err(refused)?;
        Ok(format!("{} {}", pushed.digest, pushed.size))
    })?;
    let (digest, size) = pushed.split_once(' ').unwrap_or((&pushed, "0"));
    Ok((digest.to_owned(), size.to_owned()))
}

fn style(context: &Context, image: &Image) -> Style {
    match context.persona {
        Persona::Podman => Style::Podman,
        // docker knows a layer by what it is unpacked.
        Persona::Docker => {
            let short = |hex: &str| hex.get(..12).unwrap_or_default().to_owned();
            let layers = image.layers.iter();
            Style::Docker(layers.map(|layer| (layer.blob.digest.clone(), short(layer.diff_id.hex()))).collect())
        }
    }
}

/// A push that failed, with what to do about it.
pub(crate) fn refused(error: PushError) -> CommandError {
    let registry = error.to.split('/').next().unwrap_or_default().to_owned();
    pull::with_login_hint(&registry, pull::is_refused(&error.reason), error)
}

/// Writes to a transport that is no registry, as `save` does.
fn write(store: &ImageStore, image: &Image, to: &Source) -> Result<(), CommandError> {
    let failed = |error: TransportError| CommandError::host(error).while_doing("push");
    match to {
        Source::OciLayout { path, reference } => {
            save::oci_directory_as(store, image, reference.as_deref(), path).map_err(failed)
        }
        Source::OciArchive { path, reference } => super::save::to_file(path, |out| {
            save::oci_archive_as(store, image, reference.as_deref(), out).map_err(failed)
        }),
        Source::DockerArchive { path, reference } => {
            if fs::metadata(path).is_ok_and(|known| known.is_file() && known.len() > 0) {
                let text = format!("{}: docker-archive doesn't support modifying existing images", path.display());
                return Err(CommandError::user(text).while_doing("push"));
            }
            let name = reference.as_deref().map(Reference::parse).transpose().map_err(CommandError::user)?;
            let names = name.map(Reference::with_default_tag).into_iter().collect();
            let saved = [Saved { image, names }];
            super::save::to_file(path, |out| save::docker_archive(store, &saved, out).map_err(failed))
        }
        Source::Dir { path } => save::docker_directory(store, image, Path::new(path)).map_err(failed),
        Source::Registry(_) => Ok(()),
    }
}
