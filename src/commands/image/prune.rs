//! `image prune`: dangling images, or with `-a` all that no container uses.

use jiff::Timestamp;
use runtime::userns::Mapping;
use storage::image::dropped::Dropped;
use storage::image::store::{Image, ImageStore};
use storage::layer::dedup::Deduplicated;

use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::commands::filter::{self, label_fits};
use crate::commands::{Context, Outcome, builder, images, in_userns_with_output, plan, select, space};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle image prune -a -f
  coracle image prune --drop-blobs
  coracle image prune --dedup"#;

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
    /// Remove, instead of images, the blobs of unpacked layers that a push or a save can make again byte for byte
    #[arg(long, conflicts_with_all = ["all", "build_cache", "filters", "now"])]
    drop_blobs: bool,
    /// Remove, instead of images, the room that identical files of unpacked layers take twice, on btrfs and XFS
    #[arg(long, conflicts_with_all = ["all", "build_cache", "filters", "now", "drop_blobs"])]
    dedup: bool,
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
    if args.drop_blobs {
        return drop_blobs(context);
    }
    if args.dedup {
        return dedup(context);
    }
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

/// Nothing is lost by it, so nobody is asked.
fn drop_blobs(context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    // Files of layers have many owners.
    let text = in_userns_with_output(&Mapping::of_user(), || {
        let dropped = store.drop_blobs().map_err(CommandError::host)?;
        serde_json::to_string(&dropped).map_err(CommandError::host)
    })?;
    let all: Vec<Dropped> = serde_json::from_str(&text).map_err(CommandError::host)?;
    for Dropped { digest, kept, .. } in &all {
        match kept {
            None => output::print_line(format_args!("Dropped: {digest}"))?,
            Some(why) => eprintln!("Kept: {digest}: {}", Printable::line(why)),
        }
    }
    let freed = all.iter().map(|one| one.freed_bytes).sum();
    output::print(&format!("Total reclaimed space: {}\n", units::human_size(freed, 4)))?;
    Ok(0)
}

/// Every file stays what it is, so nobody is asked.
fn dedup(context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let text = in_userns_with_output(&Mapping::of_user(), || {
        let _pin = store.pin()?;
        let done = storage::layer::dedup::dedup(&context.layout).map_err(CommandError::host)?;
        serde_json::to_string(&done).map_err(CommandError::host)
    })?;
    let done: Deduplicated = serde_json::from_str(&text).map_err(CommandError::host)?;
    let size = units::human_size(done.bytes, 4);
    output::print_line(format_args!("{} files share their bytes with others: {size}", done.files))?;
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
