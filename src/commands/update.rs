//! `update`: change what a container was asked to be, while it runs or for its next start.

use runtime::monitor::attach::Question;
use storage::state::container;
use storage::state::request::{Request, Resources, RestartPolicy};

use super::{Context, Outcome};
use crate::cli::options::health::{self, HealthOptions};
use crate::cli::options::resources::{self, ResourceOptions};
use crate::cli::output;
use crate::cli::parse::words;
use crate::cli::usage::maybe;
use crate::error::CommandError;

/// Update an existing container
///
/// Updates the restart policy, the health check and resource limits of a container. What is not named stays as it is.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// When to start the container again: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    #[command(flatten)]
    health: HealthOptions,
    #[command(flatten)]
    resources: ResourceOptions,
}

/// Runs `coracle update`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let restart = maybe("--restart", args.restart.as_ref(), words::restart_policy).map_err(CommandError::user)?;
    let asked = args.health.ask().map_err(CommandError::user)?;
    let mut limits = Request::default();
    args.resources.apply(&mut limits).map_err(CommandError::user)?;
    let record = container::find(&context.layout, &args.container).map_err(CommandError::user)?;
    if let (Some(RestartPolicy::Always | RestartPolicy::UnlessStopped), true) = (restart, record.request.remove) {
        return Err(CommandError::user(format_args!(
            "container {} is to be removed at its end and cannot have a restart policy: conflicts with --rm",
            record.name
        )));
    }
    let check = match args.health.is_given() {
        true => Some(health::merge(asked, record.request.healthcheck.clone()).map_err(CommandError::user)?),
        false => None,
    };
    if let Some(warning) = resources::warning(&limits.resources, false) {
        eprintln!("{warning}");
    }
    container::update(&context.layout, &record.id, |request| {
        if let Some(policy) = restart {
            request.restart = policy;
        }
        if let Some(check) = check {
            request.healthcheck = check;
        }
        merge(&mut request.resources, limits.resources);
    })?;
    // One that does not run reads it at its next start.
    super::pause::ask(context, &record, Question::Reload)?;
    context.note(&record, "update");
    output::print_line(&record.id)?;
    Ok(0)
}

/// What is named stands over what there was.
fn merge(resources: &mut Resources, asked: Resources) {
    let below = std::mem::take(resources);
    *resources = Resources {
        memory_bytes: asked.memory_bytes.or(below.memory_bytes),
        memory_swap_bytes: asked.memory_swap_bytes.or(below.memory_swap_bytes),
        memory_reservation_bytes: asked.memory_reservation_bytes.or(below.memory_reservation_bytes),
        nano_cpus: asked.nano_cpus.or(below.nano_cpus),
        cpu_shares: asked.cpu_shares.or(below.cpu_shares),
        cpu_period_us: asked.cpu_period_us.or(below.cpu_period_us),
        cpu_quota_us: asked.cpu_quota_us.or(below.cpu_quota_us),
        cpuset_cpus: asked.cpuset_cpus.or(below.cpuset_cpus),
        cpuset_mems: asked.cpuset_mems.or(below.cpuset_mems),
        pids_limit: asked.pids_limit.or(below.pids_limit),
        blkio_weight: asked.blkio_weight.or(below.blkio_weight),
    };
}
