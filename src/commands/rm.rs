//! `rm`: one rename makes a container vanish, into the trash, from where another one brings it back.

use std::collections::HashSet;

use storage::prune;
use storage::state::container::{self, ContainerError, Record};
use storage::state::lock::FileLock;
use storage::state::status::{self, State};
use storage::state::undo::Removal;

use super::select::{self, Chosen, Selected, Selection};
use super::{Context, Outcome, dependents, lifecycle, mount, space, stop};
use crate::cli::output;
use crate::error::CommandError;
use crate::role::Persona;
use crate::supervisor::rootfs::mount_point;

const EXAMPLES: &str = r#"Examples:
  coracle rm web
  coracle rm -f -v web                   # also if it runs, with its anonymous volumes
  coracle rm --all"#;

/// Remove one or more containers
///
/// Removes one or more containers from the host. The container name or ID can be used. Running or unusable containers
/// will not be removed without the -f option. For a day `coracle undo` brings them back.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES, mut_arg("all", |all| all.help("Remove all containers")), mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Remove container and all containers that depend on the selected container
    #[arg(long)]
    depend: bool,
    /// Filter output based on conditions given
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Force removal of a running or unusable container
    #[arg(short, long)]
    force: bool,
    /// Ignore errors when a specified container is missing
    #[arg(short, long)]
    ignore: bool,
    /// Remove the specified link instead: CONTAINER/ALIAS
    #[arg(long, hide = true)]
    link: bool,
    /// Seconds to wait for stop before killing the container, -1 for ever [default: 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
}

/// Exit status when a named container is not there.
const MISSING: u8 = 1;

/// Exit status when a container runs.
const RUNNING: u8 = 2;

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.chosen.required(!args.filters.is_empty())?;
    if args.link {
        return unlink(&args, context);
    }
    // Forcing what is not there out of the way has succeeded.
    let ignore = args.ignore || args.force;
    let selection = Selection { filters: &args.filters, ignore, ..args.chosen.selection() };
    let (selected, mut errors) = selection.resolve(context).map_err(missing)?;
    errors = errors.into_iter().map(missing).collect();
    let all = select::all(context)?;
    // The same container by two names is removed once.
    let mut once: Vec<Selected> = Vec::new();
    for one in selected {
        let dependents = dependents::chain_of(&all, &one.record);
        for record in dependents.into_iter().filter(|_| args.depend) {
            once.push(Selected { typed: record.id.to_string(), record: record.clone() });
        }
        once.push(one);
    }
    let mut seen = HashSet::new();
    once.retain(|one| seen.insert(one.record.id.clone()));
    let once = dependents::sort(once, |one| &one.record);
    let mut stopping = Vec::new();
    for one in &once {
        let staying: Vec<Record> = all.iter().filter(|record| !seen.contains(&record.id)).cloned().collect();
        // docker knows no such thing.
        let free = if context.persona == Persona::Docker { Ok(()) } else { dependents::refuse(&staying, &one.record) };
        match free.and_then(|()| begin(&args, context, &one.record)) {
            Ok(begun) => stopping.push((one, begun)),
            Err(error) => errors.push(error),
        }
    }
    for (one, begun) in stopping {
        let removed = begun
            .map_or(Ok(()), |begun| begun.finish(context))
            .and_then(|()| remove_stopping(&args, context, &one.record));
        match removed {
            Ok(()) => output::print_line(&one.typed)?,
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        // They name nobody any more, and would stand in the way of the next --cidfile.
        args.chosen.cidfiles.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
    // What an earlier rm that was killed left of containers.
    prune::sweep_runtime(&context.layout)?;
    space::sweep(context);
    select::finish(errors)
}

/// docker's `rm --link CONTAINER/ALIAS`.
fn unlink(args: &Args, context: &Context) -> Outcome {
    let mut errors = Vec::new();
    for typed in &args.chosen.containers {
        let unlinked = (|| {
            let (name, alias) = typed.trim_start_matches('/').split_once('/').unwrap_or((typed, ""));
            let record = container::find(&context.layout, name)?;
            if !record.request.network.links.iter().any(|link| link.alias == alias) {
                let error = format!("no link {alias:?} of container {}: expected CONTAINER/ALIAS", record.name);
                return Err(CommandError::user(error));
            }
            container::update(&context.layout, &record.id, |request| {
                request.network.links.retain(|link| link.alias != alias);
            })?;
            output::print_line(typed)
        })();
        errors.extend(unlinked.map_err(missing).err());
    }
    select::finish(errors)
}

fn missing(error: CommandError) -> CommandError {
    let is_missing = error.to_string().ends_with("no such container");
    if is_missing { error.with_code(MISSING) } else { error }
}

/// Stops a container that may be stopped, refuses one that may not.
fn begin<'a>(
    args: &Args,
    context: &Context,
    record: &'a Record,
) -> Result<Option<lifecycle::Stopping<'a>>, CommandError> {
    let observed = match status::observe(&context.layout, record) {
        Ok(observed) => observed,
        // Files that cannot be understood do not keep a container for ever.
        Err(_) if args.force => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if record.request.infra && !args.force {
        let pod = record.request.pod.clone().unwrap_or_default();
        return Err(CommandError::user(format_args!(
            "container {} is the infra container of pod {pod} and cannot be removed without removing the pod",
            record.id
        )));
    }
    if !observed.state.is_alive() {
        return Ok(None);
    }
    // One that was only made ready has no program yet.
    if !args.force && !matches!(observed.state, State::Starting { .. }) {
        return Err(CommandError::user(format_args!(
            "cannot remove container {} as it is {} - running or paused containers cannot be removed without force: \
             container state improper",
            record.id,
            observed.state.as_str()
        ))
        .with_code(RUNNING));
    }
    lifecycle::begin_stop(context, record, stop::timeout(args.time, record)).map(Some)
}

/// Removes a container; one that has been started meanwhile is stopped again, or refused.
fn remove_stopping(args: &Args, context: &Context, record: &Record) -> Result<(), CommandError> {
    loop {
        match status::lock_at_rest(&context.layout, record) {
            Ok(lock) => return remove_locked(lock, context, record, args.volumes, context.removal()),
            Err(ContainerError::NotFound(_)) => return Ok(()),
            // It is being started: what is to be stopped does not run yet.
            Err(ContainerError::Busy(_)) if args.force => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
        if let Some(begun) = begin(args, context, record)? {
            begun.finish(context)?;
        }
    }
}

/// Removes a container that does not run. One that is gone is removed.
pub(crate) fn remove(context: &Context, record: &Record, volumes: bool) -> Result<(), CommandError> {
    remove_to(context, record, volumes, context.removal())
}

/// As [`remove`]; without a removal it is gone for good.
pub(crate) fn remove_to(
    context: &Context,
    record: &Record,
    volumes: bool,
    removal: Option<&Removal>,
) -> Result<(), CommandError> {
    match status::lock_at_rest(&context.layout, record) {
        Err(ContainerError::NotFound(_)) => Ok(()),
        lock => remove_locked(lock?, context, record, volumes, removal),
    }
}

fn remove_locked(
    _lock: FileLock,
    context: &Context,
    record: &Record,
    volumes: bool,
    removal: Option<&Removal>,
) -> Result<(), CommandError> {
    if nix::unistd::geteuid().is_root() {
        // `coracle mount`, in the namespace that we are in; what is mounted in others goes with the directory.
        mount::Mounted::read()?.unmount(&mount_point(&context.layout, record), true)?;
    }
    // What was made to vanish does not come back; nor does what holds a pod together, which goes for good.
    let removal = removal.filter(|_| !record.request.remove && !record.request.infra);
    container::remove_to(&context.layout, &record.id, removal)?;
    if record.request.infra
        && let Some(pod) = super::pod::of(context, record)?
    {
        storage::state::pod::remove(&context.layout, &pod.id)?;
    }
    context.note(record, "remove");
    if volumes || record.request.remove {
        prune::remove_anonymous_volumes_to(&context.layout, record, removal)?;
    }
    Ok(())
}
