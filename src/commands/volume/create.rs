//! `volume create`.

use runtime::userns::Mapping;
use storage::volume::{self, Backing, Owner, Volume, VolumeError};

use crate::cli::output;
use crate::commands::{Context, Outcome, in_userns_with_output};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle volume create data
  coracle run --rm -v data:/data busybox ls /data"#;

/// Create a new volume
///
/// The volume is a directory in coracle's own; without a name it gets a random one. Options of the local driver: type=none,
/// o=bind, device=PATH for a directory of the host; type=tmpfs, o=size=... for memory, of which each container has its
/// own; o=uid=...,gid=... for the owner.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the volume
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Specify volume driver name
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    driver: String,
    /// Don't fail if volume already exists
    #[arg(long)]
    ignore: bool,
    /// Set metadata for a volume
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Set driver specific options
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// The name, as docker had it once
    #[arg(long = "name", hide = true, value_name = "NAME", conflicts_with = "name")]
    named: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.driver != "local" {
        return Err(CommandError::user(format_args!(
            "volume driver {:?} is not supported, there is only local",
            args.driver
        )));
    }
    let mut volume = match args.name.or(args.named) {
        Some(name) => Volume::named(name),
        // As podman has it: what is created by itself is not anonymous, whatever its name.
        None => Volume { anonymous: false, ..Volume::anonymous() },
    };
    volume.labels = args.labels.iter().map(|label| pair(label)).collect();
    volume.options = args.options.iter().map(|option| pair(option)).collect();
    // docker answers with the name of what is there.
    make(context, &volume, args.ignore || context.persona == crate::role::Persona::Docker)?;
    output::print_line(&volume.name)?;
    Ok(0)
}

/// Makes a volume; with `ignore` one of its name will do.
pub(crate) fn make(context: &Context, volume: &Volume, ignore: bool) -> Result<(), CommandError> {
    let backing = volume.backing().map_err(CommandError::user)?;
    if let Backing::Bind { source, .. } = &backing
        && !source.is_dir()
    {
        return Err(CommandError::user(format_args!("volume option device={}: not a directory", source.display())));
    }
    match volume::create(&context.layout, volume) {
        Ok(()) => give(context, volume, &backing),
        Err(VolumeError::Exists(_)) if ignore => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// `o=uid=…,gid=…`
fn give(context: &Context, volume: &Volume, backing: &Backing) -> Result<(), CommandError> {
    let (Some((uid, gid)), Backing::Directory) = (volume.owner(), backing) else { return Ok(()) };
    let mapping = Mapping::of_user();
    let owner = if mapping.single.is_some() { Owner::Recorded(uid, gid) } else { Owner::Real(uid, gid) };
    let given = in_userns_with_output(&mapping, || {
        volume::own(&volume.mountpoint(&context.layout), owner).map_err(CommandError::host)?;
        Ok(String::new())
    });
    given.map(drop).inspect_err(|_| {
        let _ = volume::remove(&context.layout, &volume.name, |_| Vec::new());
    })
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}
