//! `volume mount`, `volume unmount`, `volume reload`: for volumes that are directories there is little to do.

use super::transfer::{content, find};
use crate::cli::output;
use crate::commands::{Context, Outcome};

/// Mount volume
///
/// Prints where the content of a volume is. Files of other users than root can be read inside of `coracle unshare`.
#[derive(clap::Args, Debug)]
pub(crate) struct MountArgs {
    /// Name of the volume
    #[arg(value_name = "NAME")]
    name: String,
}

/// Unmount volume
///
/// A volume is a directory, which needs no unmounting: prints its name.
#[derive(clap::Args, Debug)]
pub(crate) struct UnmountArgs {
    /// Name of the volume
    #[arg(value_name = "NAME")]
    name: String,
}

/// Reload all volumes from volume plugins
///
/// There are no plugins: nothing changes.
#[derive(clap::Args, Debug)]
pub(crate) struct ReloadArgs {}

/// Runs `volume mount`.
pub(crate) fn mount(args: MountArgs, context: &Context) -> Outcome {
    let volume = find(context, &args.name)?;
    output::print_line(content(context, &volume)?.display().to_string())?;
    Ok(0)
}

/// Runs `volume unmount`.
pub(crate) fn unmount(args: UnmountArgs, context: &Context) -> Outcome {
    output::print_line(find(context, &args.name)?.name)?;
    Ok(0)
}

/// Runs `volume reload`.
pub(crate) fn reload(_args: ReloadArgs, _context: &Context) -> Outcome {
    Ok(0)
}
