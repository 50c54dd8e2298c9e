//! `image prune`: dangling images, or with `-a` all that no container uses.

use jiff::Timestamp;
use storage::image::store::Image;

use crate::cli::{output, units};
use crate::commands::filter::{self, label_fits};
use crate::commands::{Context, Outcome, builder, images, plan, select, space};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle image prune -a -f"#;

/// Remove unused images
///
/// Removes dangling or unused images from local storage. They can be brought back with `coracle undo` for a day, or until
/// the disk runs short; what no image refers to goes at once.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Remove all images not in use by containers, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Remove what builds keep, too
    #[arg(long)]
    build_cache: bool,
    /// Remove images even when they are used by external containers (there are none)
    #[arg(long, hide = true)]
    external: bool,
    /// Provide filter values (e.g. 'label=<key>=<value>')
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Give the space back at once, beyond `coracle undo`
    #[arg(long)]
    now: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let filters = Check::parse_all(&args.filters)?;
    let plan = plan::images(context, &select::all(context)?, args.all, &filters)?;
    if !args.force {
        let warning = match args.all {
            true => "WARNING! This command removes all images without at least one container associated with them.\n",
            false => "WARNING! This command removes all dangling images.\n",
        };
        if !output::confirm(&format!("{warning}{}", list(&plan)))? {
            return Ok(0);
        }
    }
    let removal = if args.now { None } else { context.removal() };
    let (ids, mut freed) = plan::remove_images(context, plan, removal)?;
    if args.build_cache {
        freed += builder::remove(context, None, true)?.bytes;
    }
    let list: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
    output::print(&list)?;
    if context.persona == Persona::Docker {
        output::print(&format!("Total reclaimed space: {}\n", units::human_size(freed, 4)))?;
    }
    space::sweep(context);
    plan::tell_of_trash(context, ids.len(), removal);
    Ok(0)
}

/// What will go, a line each.
pub(crate) fn list(plan: &plan::Images) -> String {
    let line = |image: &Image| {
        let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        let name = if names.is_empty() { "<none>".to_owned() } else { names.join(", ") };
        format!("\t- image {name} ({}, {})\n", images::short_id(image), units::human_size(image.size, 4))
    };
    plan.unused.iter().map(line).collect()
}

/// Which images may go.
pub(crate) enum Check {
    Label { wanted: String, has: bool },
    Before(Timestamp),
}

impl Check {
    /// Parses the filters of a command line.
    pub(crate) fn parse_all(filters: &[String]) -> Result<Vec<Self>, CommandError> {
        filters.iter().map(|filter| Self::parse(filter)).collect()
    }

    fn parse(text: &str) -> Result<Self, CommandError> {
        let bad = || {
            CommandError::user(format_args!(
                "invalid image filter {:?}: must be in the format \"filter=value or filter!=value\"",
                text.split('=').next().unwrap_or_default()
            ))
        };
        let (key, value) = filter::pair(text).ok_or_else(bad)?;
        match key {
            "label" => Ok(Self::Label { wanted: value.to_owned(), has: true }),
            "label!" => Ok(Self::Label { wanted: value.to_owned(), has: false }),
            "until" => Ok(Self::Before(filter::moment(value)?)),
            _ => Err(bad()),
        }
    }

    /// Whether this one may.
    pub(crate) fn accept(&self, image: &Image) -> bool {
        match self {
            Self::Label { wanted, has } => {
                image.config.labels_of_config().is_some_and(|labels| label_fits(labels.iter(), wanted)) == *has
            }
            Self::Before(moment) => images::created(image).unwrap_or_default() < *moment,
        }
    }
}
