//! `manifest`: lists of images for several platforms under one name.

mod change;
pub(super) mod push;

use clap::Subcommand;
use storage::image::ImageStore;
use storage::image::list::List;
use storage::reference::Reference;
use storage::transport::registry::RegistrySource;
use storage::transport::{ImageSource, PullError};

use super::pull::RegistryArgs;
use super::{Context, Outcome, images, tag};
use crate::cli::output;
use crate::error::CommandError;

/// What to do with manifest lists.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add images to a manifest list
    Add(change::AddArgs),
    /// Add or change what a manifest list says of an image
    Annotate(change::AnnotateArgs),
    /// Create a manifest list
    Create(change::CreateArgs),
    /// Check if a manifest list exists in local storage
    Exists {
        /// Name of the list
        #[arg(value_name = "LIST")]
        list: String,
    },
    /// Display a manifest list, or the manifest of an image in a registry
    Inspect {
        /// Name of the list or image
        #[arg(value_name = "LIST")]
        list: String,
        #[command(flatten)]
        registry: Box<RegistryArgs>,
    },
    /// Push a manifest list and its images to a registry
    Push(Box<push::Args>),
    /// Remove an image from a manifest list
    Remove {
        /// Name of the list
        #[arg(value_name = "LIST")]
        list: String,
        /// Digest of the image's manifest
        #[arg(value_name = "DIGEST")]
        digest: String,
    },
    /// Remove manifest lists from local storage
    Rm {
        /// Names of the lists
        #[arg(value_name = "LIST", required = true)]
        lists: Vec<String>,
        /// Say nothing of lists that are not there
        #[arg(short, long)]
        ignore: bool,
    },
}

/// Exit status for a list that is not there.
const MISSING: u8 = 1;

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    match command {
        Command::Add(args) => change::add(args, context),
        Command::Annotate(args) => change::annotate(args, context),
        Command::Create(args) => change::create(args, context),
        Command::Push(args) => push::run(*args, context),
        Command::Exists { list } => Ok(if store.find_list(&list)?.is_some() { 0 } else { MISSING }),
        Command::Inspect { list, registry } => inspect(&store, &list, &registry),
        Command::Remove { list: name, digest } => {
            let mut list = found(&store, &name)?;
            let parsed = storage::digest::Digest::parse(&digest).map_err(CommandError::user)?;
            if !list.remove(&parsed) {
                let text = format!("removing from manifest list {name}: no instance matching digest {digest:?} found");
                return Err(CommandError::user(text));
            }
            store.store_list(&mut list)?;
            output::print_line(list.id.hex()).map(|()| 0)
        }
        Command::Rm { lists, ignore } => {
            let mut errors = Vec::new();
            for name in &lists {
                match store.find_list(name)? {
                    Some(list) => {
                        store.remove_list(&list)?;
                        output::print_line(format_args!("Untagged: {}\nDeleted: {}", list.name, list.id.hex()))?;
                    }
                    None if ignore => {}
                    None => errors.push(images::not_known(name).with_code(MISSING)),
                }
            }
            super::select::finish(errors)
        }
    }
}

fn found(store: &ImageStore, name: &str) -> Result<List, CommandError> {
    store.find_list(name)?.ok_or_else(|| images::not_known(name).hinted(format!("coracle manifest create {name}")))
}

/// Shows the list, the index that an image here was pulled through, or what a registry has.
fn inspect(store: &ImageStore, name: &str, registry: &RegistryArgs) -> Outcome {
    if let Some(list) = store.find_list(name)? {
        return print(&serde_json::Value::Object(list.document));
    }
    let name = name.strip_prefix("docker://").unwrap_or(name);
    let reference = Reference::parse(name).map_err(CommandError::user)?;
    let options = registry.to_client_options()?;
    let text = super::in_userns_with_output(&runtime::userns::Mapping::of_user(), || {
        let source = RegistrySource::new(&reference, &options);
        let raw = source.manifest(None).map_err(|reason| {
            let from = source.describe();
            CommandError::host(PullError { from, reason })
        })?;
        Ok(String::from_utf8_lossy(&raw.bytes).into_owned())
    })?;
    let document = serde_json::from_str(&text).map_err(|error| CommandError::host(format!("{name}: {error}")))?;
    print(&document)
}

fn print(document: &serde_json::Value) -> Outcome {
    let mut text = Vec::new();
    let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, style);
    serde::Serialize::serialize(document, &mut writer).map_err(CommandError::host)?;
    output::print_line(String::from_utf8_lossy(&text)).map(|()| 0)
}

/// The full name of a list.
fn list_name(text: &str) -> Result<Reference, CommandError> {
    tag::local_name(text)
}
