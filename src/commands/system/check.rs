//! `system check`: whether everything that is kept is what it should be, and repair.

use std::time::Duration;

use runtime::userns::Mapping;
use storage::check::{self, Finding, Options, Outcome as Done};
use storage::layer::IdPolicy;

use crate::cli::output;
use crate::cli::parse::duration::go_duration;
use crate::cli::printable::Printable;
use crate::commands::{Context, Outcome, in_userns_with_output, space};
use crate::error::CommandError;

const EXAMPLES: &str = "Examples:
  coracle system check
  coracle system check --quick
  coracle system check --repair";

/// Check storage for consistency, and make again what can be made again
///
/// Every blob is compared with its digest, every unpacked layer with its index and its blob, and what images, containers,
/// names, volumes, networks, secrets, pods and builds have on record is looked up. The exit status is 125 if there is damage
/// left.
///
/// --repair unpacks layers from their blobs, archives blobs from their layers where that gives the same bytes, writes lost
/// records again, and removes images that nothing can be made of; what containers need stays without --force.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Remove inconsistent images and containers
    #[arg(short, long)]
    force: bool,
    /// Maximum allowed age of what nothing refers to
    #[arg(short, long, value_name = "DURATION", default_value = "24h0m0s")]
    max: String,
    /// Skip time-consuming checks: of the contents of blobs and layers. The default is to include time-consuming checks
    #[arg(short, long)]
    quick: bool,
    /// Make again what can be made again, and remove inconsistent images
    #[arg(short, long)]
    repair: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let max_age = go_duration(&args.max).ok_or_else(|| {
        CommandError::user(format_args!(
            "invalid argument {:?} for \"-m, --max\" flag: not a span of time like 24h",
            args.max
        ))
    })?;
    let findings = look(context, args.quick, max_age)?;
    show(&findings)?;
    if findings.is_empty() {
        return Ok(0);
    }
    if !args.repair && !args.force {
        return Err(CommandError::host("damage detected in local storage")
            .hinted("coracle system check --repair makes again what can be made again"));
    }
    let mut rounds = findings;
    // What was lost with a layer or with index.json is seen when that is whole again.
    for _ in 0..3 {
        mend(context, &rounds, args.force)?;
        let left = look(context, args.quick, max_age)?;
        if left.is_empty() {
            return Ok(0);
        }
        if left == rounds {
            break;
        }
        rounds = left;
        show(&rounds)?;
    }
    Err(CommandError::host("damage still present in local storage"))
}

fn look(context: &Context, quick: bool, max_age: Duration) -> Result<Vec<Finding>, CommandError> {
    let mapping = Mapping::of_user();
    let ids = if mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() };
    let text = in_userns_with_output(&mapping, || {
        let findings = check::check(&context.layout, &ids, Options { quick, max_age }).map_err(CommandError::host)?;
        serde_json::to_string(&findings).map_err(CommandError::host)
    })?;
    serde_json::from_str(&text).map_err(CommandError::host)
}

fn mend(context: &Context, findings: &[Finding], force: bool) -> Result<(), CommandError> {
    let text = in_userns_with_output(&Mapping::of_user(), || {
        let done = check::repair(&context.layout, findings, force).map_err(CommandError::host)?;
        serde_json::to_string(&done).map_err(CommandError::host)
    })?;
    let done: Vec<Done> = serde_json::from_str(&text).map_err(CommandError::host)?;
    for (finding, done) in findings.iter().zip(done) {
        let (what, why) = match done {
            Done::Repaired(how) => ("Repaired", how),
            Done::Deleted(why) => ("Deleted", why),
            Done::Left(why) => ("Not repaired:", why),
        };
        let (name, why) = (Printable::line(&finding.name), Printable::line(&why));
        output::print_line(format_args!("{what} {} {name}: {why}", finding.object))?;
    }
    space::empty_trash(&context.layout);
    Ok(())
}

fn show(findings: &[Finding]) -> Result<(), CommandError> {
    for finding in findings {
        for problem in &finding.problems {
            let (name, problem) = (Printable::line(&finding.name), Printable::line(problem));
            output::print_line(format_args!("Damaged {} {name}: {problem}", finding.object))?;
        }
    }
    Ok(())
}
