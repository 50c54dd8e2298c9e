//! `diff`: what a container, or the top layer of an image, changed in what is below.

use std::path::PathBuf;

use storage::image::{Image, ImageStore};
use storage::layer::IdPolicy;
use storage::layer::changes::{self, Change, ChangeKind};
use storage::progress::Silent;
use storage::state::container::{self, ContainerError, Record};

use super::pull::local_options;
use super::{Context, Outcome, images};
use crate::cli::format::{Json, Value};
use crate::cli::output;
use crate::error::CommandError;
use crate::role::Persona;
use crate::supervisor::rootfs::layers;

const EXAMPLES: &str = r#"Examples:
  coracle diff web"#;

/// Display the changes to the object's file system
///
/// Displays changes on a container or image's filesystem. The container or image will be compared to its parent layer or the second argument when given.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Change the output format (json)
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Container or image, and what to compare it with
    #[arg(value_name = "CONTAINER|IMAGE", num_args = 0..)]
    names: Vec<String>,
}

/// What may be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    Container,
    Image,
}

/// Runs `diff`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    // docker compares containers only.
    run_of(if context.persona == Persona::Docker { Kind::Container } else { Kind::All }, args, context)
}

/// Runs `container diff`, `image diff`.
pub(crate) fn run_of(kind: Kind, args: Args, context: &Context) -> Outcome {
    let mut names = args.names;
    if args.latest {
        if !names.is_empty() {
            return Err(CommandError::user("--latest and containers cannot be used together"));
        }
        names.extend(super::select::all(context)?.pop().map(|record| record.id.to_string()));
    }
    let (first, second) = match names.as_slice() {
        [one] => (one, None),
        [one, other] => (one, Some(other)),
        [] => return Err(CommandError::user("\"coracle diff\" requires a name, id, or the \"--latest\" flag")),
        more => {
            return Err(CommandError::user(format_args!("accepts between 1 and 2 arg(s), received {}", more.len())));
        }
    };
    let is_json = match args.format.as_deref() {
        None | Some("") => false,
        Some("json") => true,
        Some(_) => return Err(CommandError::user("only supported value for '--format' is 'json'")),
    };
    let store = ImageStore::open(&context.layout);
    let first = Compared::find(kind, first, &store, context)?;
    let second = second.map(|name| Compared::find(kind, name, &store, context)).transpose()?;
    let (mapping, options) = local_options();
    let text = super::in_userns_with_output(&mapping, || {
        let new = first.stack(&store, &options.ids, context)?;
        let below = new.get(1..).unwrap_or_default();
        let changes = match second {
            None => top_of(&new, below)?,
            Some(second) => {
                let old = second.stack(&store, &options.ids, context)?;
                if old == below {
                    top_of(&new, below)?
                } else {
                    changes::between(&new, &old).map_err(CommandError::host)?
                }
            }
        };
        let changes: Vec<Change> = changes.into_iter().filter(|change| !is_ours(&change.path)).collect();
        Ok(if is_json { json(&changes) } else { lines(&changes) })
    })?;
    output::print(&text)?;
    Ok(0)
}

fn top_of(new: &[PathBuf], below: &[PathBuf]) -> Result<Vec<Change>, CommandError> {
    new.first().map_or(Ok(Vec::new()), |top| changes::of_layer(top, below)).map_err(CommandError::host)
}

/// One side of the comparison.
enum Compared {
    Container(Box<Record>),
    Image(Box<Image>),
}

impl Compared {
    fn find(kind: Kind, name: &str, store: &ImageStore, context: &Context) -> Result<Self, CommandError> {
        if kind != Kind::Image {
            let wanted = if context.persona == Persona::Docker { name.strip_prefix('/').unwrap_or(name) } else { name };
            match container::find(&context.layout, wanted) {
                Ok(record) if record.request.rootfs.is_some() => {
                    return Err(CommandError::user(format_args!(
                        "container {name} has a directory of the host as its root: there is nothing to compare it with"
                    )));
                }
                Ok(record) => return Ok(Self::Container(Box::new(record))),
                Err(ContainerError::NotFound(_)) if kind == Kind::All => {}
                Err(ContainerError::NotFound(_)) if context.persona == Persona::Docker => {
                    return Err(CommandError::user(format_args!("No such container: {name}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        match store.resolve(name)? {
            Some(image) => Ok(Self::Image(Box::new(image))),
            None if kind == Kind::All => {
                Err(CommandError::user(format_args!("no container or image with name or ID {name:?} found")))
            }
            None => Err(images::not_known(name)),
        }
    }

    /// Its trees, topmost first.
    fn stack(&self, store: &ImageStore, ids: &IdPolicy, context: &Context) -> Result<Vec<PathBuf>, CommandError> {
        match self {
            Self::Container(record) => {
                let layers = layers(&context.layout, record, ids.ownership());
                Ok([context.layout.container(&record.id).join("upper")].into_iter().chain(layers).collect())
            }
            Self::Image(image) => {
                let unpacked =
                    storage::layer::ensure_unpacked(store, image, ids, &Silent).map_err(CommandError::host)?;
                Ok(unpacked.into_iter().rev().map(|layer| layer.join("diff")).collect())
            }
        }
    }
}

/// Places for mounts that every container gets, not its doing.
fn is_ours(path: &[u8]) -> bool {
    const OURS: [&[u8]; 11] = [
        b"/dev",
        b"/etc/hostname",
        b"/etc/hosts",
        b"/etc/mtab",
        b"/etc/resolv.conf",
        b"/proc",
        b"/run",
        b"/run/.containerenv",
        b"/run/notify",
        b"/run/secrets",
        b"/sys",
    ];
    OURS.contains(&path)
}

fn lines(changes: &[Change]) -> String {
    let line = |change: &Change| {
        let letter = match change.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        format!("{letter} {}\n", String::from_utf8_lossy(&change.path))
    };
    changes.iter().map(line).collect()
}

fn json(changes: &[Change]) -> String {
    let kinds = [("changed", ChangeKind::Modified), ("added", ChangeKind::Added), ("deleted", ChangeKind::Deleted)];
    let list = |wanted| {
        let paths = changes.iter().filter(move |change| change.kind == wanted);
        paths.map(|change| String::from_utf8_lossy(&change.path).into_owned()).collect::<Vec<_>>()
    };
    let lists = kinds.map(|(name, kind)| (name, list(kind))).into_iter().filter(|(_, paths)| !paths.is_empty());
    let report = Value::Struct(lists.map(|(name, paths)| (name, Value::strings(paths))).collect());
    format!("{}\n", report.to_json(Json::INSPECT))
}
