//! `system prune`: everything unused, and what dead processes left behind.

use storage::state::container::Record;
use storage::state::events::{self, Event, Kind};
use storage::state::undo::{UndoLock, list};

use crate::cli::{output, units};
use crate::commands::filter::ContainerFilters;
use crate::commands::image::prune::Check;
use crate::commands::network::{self, NetworkFilters};
use crate::commands::volume::VolumeFilters;
use crate::commands::{Context, Outcome, builder, container, image, plan, select, space, trash, volume};
use crate::error::CommandError;
use crate::role::Persona;

/// Remove unused data
///
/// Removes stopped containers, unused networks and dangling images, with -a all unused images, with --volumes unused volumes too.
/// For a day, or until less than 5 % of the file system or 2 GiB are free, `coracle undo` brings it all back; on a disk that
/// is that full the space comes back at once.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Remove all unused data
    #[arg(short, long)]
    all: bool,
    /// Remove what builds keep, too
    #[arg(long)]
    build: bool,
    /// Remove container data in storage not controlled by coracle (there is none)
    #[arg(long, hide = true)]
    external: bool,
    /// Provide filter values (e.g. 'label=<key>=<value>')
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Give the space back at once, beyond `coracle undo`, and that of everything in the trash
    #[arg(long)]
    now: bool,
    /// Prune volumes
    #[arg(long)]
    volumes: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let container_filters = ContainerFilters::parse(context, &args.filters)?;
    let image_filters = Check::parse_all(&args.filters)?;
    let volume_filters = VolumeFilters::parse(&args.filters)?;
    let records = select::all(context)?;
    let containers = plan::containers(context, &records, &container_filters)?;
    let goes = |record: &Record| containers.iter().any(|(other, _)| other.id == record.id);
    let staying: Vec<Record> = records.iter().filter(|record| !goes(record)).cloned().collect();
    let volumes = match args.volumes {
        true => plan::volumes(context, &staying, &volume_filters, context.persona == Persona::Docker)?,
        false => Vec::new(),
    };
    let networks = network::unused(context, &staying, &NetworkFilters::parse_known(&args.filters)?)?;
    let images = plan::images(context, &staying, args.all, &image_filters)?;
    if !args.force {
        let mut warning = warning(&args);
        let list = container::prune::list(&containers)
            + &volume::list_of_pruned(&volumes)
            + &network::list_of_pruned(&networks)
            + &image::prune::list(&images);
        if !list.is_empty() {
            warning.push_str(&format!("These are:\n{list}\n"));
        }
        if !output::confirm(&warning)? {
            return Ok(0);
        }
    }
    let removal = if args.now { None } else { context.removal() };
    let (_, errors) = storage::prune::sweep(&context.layout);
    for error in errors {
        CommandError::host(error).print();
    }
    let mut freed = space::trash_bytes(&context.layout)?;
    let (container_ids, bytes) = plan::remove_containers(context, containers, removal);
    freed += bytes;
    let mut text = section("Deleted Containers", &container_ids);
    let (volume_names, bytes) = plan::remove_volumes(context, volumes, removal)?;
    freed += bytes;
    text.push_str(&section("Deleted Volumes", &volume_names));
    let network_names = network::remove_unused(context, &networks)?;
    text.push_str(&section("Deleted Networks", &network_names));
    let (image_ids, bytes) = plan::remove_images(context, images, removal)?;
    freed += bytes;
    text.push_str(&section("Deleted Images", &image_ids));
    if args.all || args.build {
        // What a build that runs needs stays.
        freed += builder::remove(context, None, true)?.bytes;
    }
    if args.now {
        let lock = UndoLock::take(&context.layout)?;
        let entries = list(&context.layout);
        freed += trash::total(&entries, context)?;
        space::throw_away(context, &lock, &entries)?;
    }
    text.push_str(&format!("Total reclaimed space: {}\n", units::human_size(freed, 4)));
    space::sweep(context);
    events::note(&context.layout, &[Event::new(Kind::System, "prune", "", "")]);
    output::print(&text)?;
    plan::tell_of_trash(context, container_ids.len() + volume_names.len() + image_ids.len(), removal);
    Ok(0)
}

fn section(heading: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    format!("{heading}\n{}\n", names.join("\n"))
}

fn warning(args: &Args) -> String {
    let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
    if args.volumes {
        lines.push("all volumes not used by at least one container");
    }
    lines.extend(match args.all {
        true => ["all images without at least one container associated with them", "all build cache"],
        false => ["all dangling images", "all dangling build cache"],
    });
    let lines: String = lines.iter().map(|line| format!("\t- {line}\n")).collect();
    format!("WARNING! This command removes:\n{lines}\n")
}
