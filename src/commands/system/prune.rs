//! `system prune`: everything unused, and what dead processes left behind.

use storage::state::events::{self, Event, Kind};

use crate::cli::{output, units};
use crate::commands::{Context, Outcome, container, image, lifecycle, volume};
use crate::error::CommandError;

/// Remove unused data
///
/// Removes stopped containers and dangling images, with -a all unused images, with --volumes unused volumes too.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Remove all unused data
    #[arg(short, long)]
    all: bool,
    /// Remove build containers (there are none)
    #[arg(long, hide = true)]
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
    /// Prune volumes
    #[arg(long)]
    volumes: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if !args.force && !output::confirm(&warning(&args))? {
        return Ok(0);
    }
    let (_, errors) = storage::prune::sweep(&context.layout);
    for error in errors {
        CommandError::host(error).print();
    }
    let mut freed = lifecycle::trash_bytes(&context.layout)?;
    let (containers, bytes) = container::prune::prune(&args.filters, context)?;
    freed += bytes;
    let mut text = section("Deleted Containers", &containers);
    if args.volumes {
        let (volumes, bytes) = volume::prune_volumes(&args.filters, context)?;
        freed += bytes;
        text.push_str(&section("Deleted Volumes", &volumes));
    }
    let (images, bytes) = image::prune::prune(args.all, &args.filters, context)?;
    freed += bytes;
    text.push_str(&section("Deleted Images", &images));
    text.push_str(&format!("Total reclaimed space: {}\n", units::human_size(freed, 4)));
    lifecycle::empty_trash(&context.layout);
    events::note(&context.layout, &[Event::new(Kind::System, "prune", "", "")]);
    output::print(&text)?;
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
