//! `container prune`.

use storage::state::container::{self, ContainerError, Record};
use storage::state::status;

use crate::cli::output;
use crate::cli::units;
use crate::commands::filter::ContainerFilters;
use crate::commands::{Context, Outcome, lifecycle, ps, rm, select};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle container prune -f --filter until=24h"#;

/// Remove all non running containers
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Provide filter values (e.g. 'label=<key>=<value>')
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if !args.force && !output::confirm("WARNING! This will remove all non running containers.\n")? {
        return Ok(0);
    }
    let (ids, freed) = prune(&args.filters, context)?;
    let list: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
    match context.persona {
        Persona::Podman => output::print(&list)?,
        Persona::Docker => {
            let heading = if ids.is_empty() { String::new() } else { format!("Deleted Containers:\n{list}\n") };
            output::print(&format!("{heading}Total reclaimed space: {}\n", units::human_size(freed, 4)))?;
        }
    }
    lifecycle::empty_trash(&context.layout);
    Ok(0)
}

/// Removes every container that does not run; returns their ids and the bytes of their writable layers.
pub(crate) fn prune(filters: &[String], context: &Context) -> Result<(Vec<String>, u64), CommandError> {
    let filters = ContainerFilters::parse(context, filters)?;
    let (mut ids, mut freed) = (Vec::new(), 0);
    for record in select::all(context)? {
        let observed = status::observe(&context.layout, &record)?;
        if observed.state.is_alive() || !filters.accept_observed(&record, Some(&observed)) {
            continue;
        }
        let bytes = ps::tree_bytes(&context.layout.container(&record.id).join("upper"));
        match rm::remove(context, &record, false) {
            // About to be started: it is none of ours.
            Err(_) if is_busy(context, &record) => {}
            Ok(()) => {
                ids.push(record.id.to_string());
                freed += bytes;
            }
            Err(error) => error.print(),
        }
    }
    Ok((ids, freed))
}

fn is_busy(context: &Context, record: &Record) -> bool {
    matches!(container::lock(&context.layout, &record.id), Err(ContainerError::Busy(_)))
}
