//! `rename`: the name's symlink moves, then the record says so.

use storage::state::container;

use super::{Context, Outcome};

const EXAMPLES: &str = r#"Examples:
  coracle rename web old-web"#;

/// Rename an existing container
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The new name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let record = container::find(&context.layout, &args.container)?;
    // docker shows names with a slash and takes them back.
    let name = args.name.strip_prefix('/').unwrap_or(&args.name);
    if record.name != name {
        context.note(&container::rename(&context.layout, &record.id, name)?, "rename");
    }
    Ok(0)
}
