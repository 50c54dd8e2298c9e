//! `image prune`: dangling images, or with `-a` all that no container uses.

use std::collections::HashSet;

use jiff::Timestamp;
use storage::digest::DiffId;
use storage::image::store::{Image, ImageStore};

use crate::cli::{output, units};
use crate::commands::filter::{self, label_fits};
use crate::commands::{Context, Outcome, images, lifecycle, rmi, select};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle image prune -a -f"#;

/// Remove unused images
///
/// Removes dangling or unused images from local storage.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Remove all images not in use by containers, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Remove persistent build cache (there is none)
    #[arg(long, hide = true)]
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
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let warning = match args.all {
        true => "WARNING! This command removes all images without at least one container associated with them.\n",
        false => "WARNING! This command removes all dangling images.\n",
    };
    if !args.force && !output::confirm(warning)? {
        return Ok(0);
    }
    let (ids, freed) = prune(args.all, &args.filters, context)?;
    let list: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
    output::print(&list)?;
    if context.persona == Persona::Docker {
        output::print(&format!("Total reclaimed space: {}\n", units::human_size(freed, 4)))?;
    }
    lifecycle::empty_trash(&context.layout);
    Ok(0)
}

/// Removes unused images, then blobs and layers that nothing refers to; returns the ids and the bytes of the images.
pub(crate) fn prune(all: bool, filters: &[String], context: &Context) -> Result<(Vec<String>, u64), CommandError> {
    let filters = filters.iter().map(|filter| Check::parse(filter)).collect::<Result<Vec<_>, _>>()?;
    let store = ImageStore::open(&context.layout);
    let records = select::all(context)?;
    let (mut ids, mut freed) = (Vec::new(), 0);
    for image in store.list()? {
        let is_used = || {
            records.iter().any(|record| storage::prune::uses_image(record, &image.id))
                || super::mount::is_mounted(context, &image)
        };
        let unused = (all || image.names.is_empty()) && !is_used();
        if unused && filters.iter().all(|check| check.accept(&image)) {
            rmi::remove_from(&store, context, &image)?;
            ids.push(image.id.hex().to_owned());
            freed += image.size;
        }
    }
    // The layers of a container outlive the image it was made from.
    let keep: HashSet<DiffId> = records.iter().flat_map(storage::prune::layers_of).cloned().collect();
    freed += store.collect_garbage(&keep)?;
    freed += lifecycle::sweep_layers(&context.layout)?;
    Ok((ids, freed))
}

enum Check {
    Label { wanted: String, has: bool },
    Before(Timestamp),
}

impl Check {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let bad = || {
            CommandError::user(format_args!(
                "invalid image filter {text:?}: must be in the format \"filter=value or filter!=value\""
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

    fn accept(&self, image: &Image) -> bool {
        match self {
            Self::Label { wanted, has } => {
                image.config.labels_of_config().is_some_and(|labels| label_fits(labels.iter(), wanted)) == *has
            }
            Self::Before(moment) => images::created(image).unwrap_or_default() < *moment,
        }
    }
}
