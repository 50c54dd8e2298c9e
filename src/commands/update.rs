//! `update`: change what a container was asked to be, while it runs or for its next start.

use std::path::Path;

use runtime::cgroup;
use runtime::monitor::attach::Question;
use storage::state::request::{OfDevice, Request, Resources, RestartPolicy};
use storage::state::{container, status};

use super::{Context, Outcome};
use crate::cli::options::health::{self, HealthOptions};
use crate::cli::options::resources::ResourceOptions;
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
    let mut merged = record.request.resources.clone();
    merge(&mut merged, limits.resources.clone());
    check_together(&merged)?;
    let observed = status::observe(&context.layout, &record)?;
    if !limits.resources.is_empty() && observed.state.init().is_some() {
        limit(observed.cgroup.as_deref(), &limits.resources, &merged, limits.cgroup.strict, &record.name)?;
    }
    container::update(&context.layout, &record.id, |request| {
        if let Some(policy) = restart {
            request.restart = policy;
        }
        if let Some(check) = check {
            request.healthcheck = check;
        }
        request.resources = merged;
        request.cgroup.strict |= limits.cgroup.strict;
    })?;
    // One that does not run reads it at its next start.
    super::pause::ask(context, &record, Question::Reload)?;
    context.note(&record, "update");
    output::print_line(&record.id)?;
    Ok(0)
}

/// What single options cannot know.
pub(crate) fn check_together(merged: &Resources) -> Result<(), CommandError> {
    match (merged.memory_swap_bytes, merged.memory_bytes) {
        (Some(swap), Some(memory)) if swap > 0 && u64::try_from(swap).unwrap_or(0) < memory => Err(CommandError::user(
            "memory limit should be smaller than the limit of memory and swap: update that, too",
        )
        .hinted("--memory-swap")),
        (Some(1..), None) => Err(CommandError::user("--memory-swap needs --memory")),
        _ => Ok(()),
    }
}

/// Sets limits of a container that runs.
fn limit(
    cgroup: Option<&Path>,
    asked: &Resources,
    merged: &Resources,
    is_strict: bool,
    name: &str,
) -> Result<(), CommandError> {
    let Some(cgroup) = cgroup else {
        let why = format!("container {name} has no cgroup of its own: limits hold from its next start on");
        return match is_strict {
            true => Err(CommandError::host(why)),
            false => {
                eprintln!("Warning: {why}");
                Ok(())
            }
        };
    };
    let of = |resources: &Resources| {
        let section = crate::supervisor::resources::of(resources)?;
        Ok::<_, CommandError>(section.as_ref().map(cgroup::resources::settings).transpose()?.unwrap_or_default())
    };
    // Files that are asked for, with what belongs together in them.
    let files: Vec<String> = of(asked)?.into_iter().map(|(file, _)| file).collect();
    let mut settings = of(merged)?;
    settings.retain(|(file, _)| files.contains(file));
    // What shrinks makes room first.
    if settings.iter().any(|(file, _)| file == "memory.max") {
        let grows = merged.memory_bytes.is_some_and(|bytes| {
            std::fs::read_to_string(cgroup.join("memory.max"))
                .is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|now| bytes > now))
        });
        if !grows {
            settings.sort_by_key(|(file, _)| file == "memory.max");
        }
    }
    Ok(cgroup::resources::apply(cgroup, &settings)?)
}

/// What is named stands over what there was.
pub(crate) fn merge(resources: &mut Resources, asked: Resources) {
    let below = std::mem::take(resources);
    let list = |asked: Vec<OfDevice>, below: Vec<OfDevice>| if asked.is_empty() { below } else { asked };
    // Both say the same thing in two ways: the later one counts.
    let is_quota = asked.cpu_quota_us.is_some() || asked.cpu_period_us.is_some();
    let cpus = asked.nano_cpus.is_some();
    *resources = Resources {
        memory_bytes: asked.memory_bytes.or(below.memory_bytes),
        memory_swap_bytes: asked.memory_swap_bytes.or(below.memory_swap_bytes),
        memory_reservation_bytes: asked.memory_reservation_bytes.or(below.memory_reservation_bytes),
        nano_cpus: asked.nano_cpus.or(below.nano_cpus.filter(|_| !is_quota)),
        cpu_shares: asked.cpu_shares.or(below.cpu_shares),
        cpu_period_us: asked.cpu_period_us.or(below.cpu_period_us.filter(|_| !cpus)),
        cpu_quota_us: asked.cpu_quota_us.or(below.cpu_quota_us.filter(|_| !cpus)),
        cpuset_cpus: asked.cpuset_cpus.or(below.cpuset_cpus),
        cpuset_mems: asked.cpuset_mems.or(below.cpuset_mems),
        pids_limit: asked.pids_limit.or(below.pids_limit),
        blkio_weight: asked.blkio_weight.or(below.blkio_weight),
        blkio_weight_devices: list(asked.blkio_weight_devices, below.blkio_weight_devices),
        device_read_bps: list(asked.device_read_bps, below.device_read_bps),
        device_write_bps: list(asked.device_write_bps, below.device_write_bps),
        device_read_iops: list(asked.device_read_iops, below.device_read_iops),
        device_write_iops: list(asked.device_write_iops, below.device_write_iops),
        cgroup_conf: below.cgroup_conf,
    };
}
