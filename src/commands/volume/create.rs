//! `volume create`.

use storage::volume::{self, Volume, VolumeError};

use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle volume create data
  coracle run --rm -v data:/data busybox ls /data"#;

/// Create a new volume
///
/// The volume is a directory in coracle's own; without a name it gets a random one.
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
    /// Set driver specific options (the local driver has none here)
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
    // Its options would mount devices and file systems, which takes the real root.
    if let Some(option) = args.options.iter().find(|option| !is_harmless(option)) {
        return Err(CommandError::user(format_args!("volume option {option:?} is not supported without root")));
    }
    let mut volume = match args.name.or(args.named) {
        Some(name) => Volume::named(name),
        // As podman has it: what is created by itself is not anonymous, whatever its name.
        None => Volume { anonymous: false, ..Volume::anonymous() },
    };
    volume.labels = args.labels.iter().map(|label| pair(label)).collect();
    volume.options = args.options.iter().map(|option| pair(option)).collect();
    match volume::create(&context.layout, &volume) {
        Ok(()) => {}
        Err(VolumeError::Exists(_)) if args.ignore => {}
        // docker answers with the name of what is there.
        Err(VolumeError::Exists(_)) if context.persona == crate::role::Persona::Docker => {}
        Err(error) => return Err(error.into()),
    }
    output::print_line(&volume.name)?;
    Ok(0)
}

fn is_harmless(option: &str) -> bool {
    matches!(option.split('=').next(), Some("copy" | "nocopy" | "noquota"))
}

fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}
