//! `inspect`: everything about containers, images, volumes and networks, in the shapes podman and docker give it.

mod container;
mod image;
mod referrers;
mod volume;

use storage::image::store::ImageStore;
use storage::state::container::ContainerError;
use storage::volume::VolumeError;

use super::{Context, Outcome};
use crate::cli::format::{Json, Template, Value, is_json};
use crate::cli::output;
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle inspect web
  coracle inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web
  coracle inspect -f '{{json .Config.Env}}' nginx"#;

const IMAGE_EXAMPLES: &str = "Examples:
  coracle image inspect -f '{{.Digest}}' nginx
  coracle image inspect --referrers nginx";

/// Display the configuration of object denoted by ID
///
/// Displays the low-level information on an object identified by name or ID.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Names or IDs of containers, images or volumes
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Format the output to a Go template or json
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    format: String,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Display total file size
    #[arg(short, long)]
    size: bool,
    /// Specify inspect-object type: all, container, image, network, pod, volume
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "all")]
    kind: String,
}

/// Arguments of the noun groups' `inspect`, which know what they look for.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct NounArgs {
    /// Names or IDs
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Format the output to a Go template or json
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    format: String,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Display total file size
    #[arg(short, long)]
    size: bool,
    /// Inspect all of them
    #[arg(short, long)]
    all: bool,
}

/// Arguments of `image inspect`.
#[derive(clap::Args, Debug)]
#[command(after_help = IMAGE_EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    noun: NounArgs,
    /// Show what the registry has that refers to the image instead: signatures, bills of materials, attestations
    #[arg(long)]
    referrers: bool,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    All,
    Container,
    Image,
    Volume,
}

/// Runs `inspect`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let kind = match args.kind.as_str() {
        "all" | "" => Kind::All,
        "container" => Kind::Container,
        "image" => Kind::Image,
        "volume" => Kind::Volume,
        "pod" => {
            return crate::commands::pod::inspect(args.names, args.latest, &args.format, context);
        }
        "network" => {
            let format = Some(args.format.as_str()).filter(|format| *format != "json");
            return crate::commands::network::inspect(&args.names, format, context);
        }
        other => {
            return Err(CommandError::user(format_args!(
                "the only recognized types are \"image\", \"container\", \"volume\" or \"all\", not {other:?}"
            )));
        }
    };
    inspect(kind, args.names, args.latest, false, &args.format, args.size, context)
}

/// Runs `container inspect`, `image inspect`, `volume inspect`.
pub(crate) fn run_noun(kind: Kind, args: NounArgs, context: &Context) -> Outcome {
    inspect(kind, args.names, args.latest, args.all, &args.format, args.size, context)
}

/// Runs `image inspect`.
pub(crate) fn run_image(args: ImageArgs, context: &Context) -> Outcome {
    match args.referrers {
        true => referrers::run(&args.noun.names, &args.noun.format, context),
        false => run_noun(Kind::Image, args.noun, context),
    }
}

fn inspect(
    kind: Kind,
    mut names: Vec<String>,
    latest: bool,
    all: bool,
    format: &str,
    size: bool,
    context: &Context,
) -> Outcome {
    if all && kind == Kind::Volume {
        names = storage::volume::list(&context.layout)?.0.into_iter().map(|volume| volume.name).collect();
    } else if latest && !names.is_empty() {
        return Err(CommandError::user("--latest and arguments cannot be used together"));
    } else if latest {
        let last = super::select::all(context)?.pop();
        names.extend(last.map(|record| record.id.to_string()));
    } else if names.is_empty() {
        return Err(CommandError::user("no names or ids specified"));
    }
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for name in &names {
        match object(kind, name, size, context) {
            Ok(object) => objects.push(object),
            Err(error) => errors.push(error),
        }
    }
    // What was found is shown, also when something else was not.
    show(Value::List(objects), format)?;
    super::select::finish(errors)
}

fn show(list: Value, format: &str) -> Result<(), CommandError> {
    if is_json(format) && format.trim() == "json" {
        output::print_line(list.to_json(Json::INSPECT))?;
    } else {
        let format = crate::cli::format::normalize(format);
        let template = Template::parse("inspect", &crate::cli::format::enforce_range(&format))?;
        let (text, error) = template.execute(&list, "interface {}");
        output::print(&text)?;
        if let Some(error) = error {
            return Err(error);
        }
    }
    Ok(())
}

fn object(kind: Kind, name: &str, size: bool, context: &Context) -> Result<Value, CommandError> {
    if matches!(kind, Kind::All | Kind::Container) {
        let wanted = if context.persona == Persona::Docker { name.strip_prefix('/').unwrap_or(name) } else { name };
        match storage::state::container::find(&context.layout, wanted) {
            Ok(record) => return container::describe(&record, size, context),
            Err(ContainerError::NotFound(_)) if kind == Kind::All => {}
            Err(ContainerError::NotFound(_)) => {
                return Err(CommandError::user(format_args!("no such container {name}")));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if matches!(kind, Kind::All | Kind::Image) {
        match ImageStore::open(&context.layout).resolve(name)? {
            Some(image) => return Ok(image::describe(&image, context)),
            None if kind == Kind::All => {}
            None => return Err(super::images::not_known(name)),
        }
    }
    if matches!(kind, Kind::All | Kind::Volume) {
        match storage::volume::find(&context.layout, name) {
            Ok(volume) => return Ok(volume::describe(&volume, context)),
            Err(VolumeError::NotFound(_)) if kind == Kind::All => {}
            Err(VolumeError::NotFound(_)) => return Err(CommandError::user(format_args!("no such volume {name}"))),
            Err(error) => return Err(error.into()),
        }
    }
    if kind == Kind::All
        && let Some(network) = super::network::find_to_show(name, context)?
    {
        return Ok(network);
    }
    Err(match context.persona {
        Persona::Podman => CommandError::user(format_args!("no such object: {name:?}")),
        Persona::Docker => CommandError::user(format_args!("No such object: {name}")),
    })
}

pub(crate) use volume::describe as describe_volume;
