//! `pod clone`: a pod like another one, with containers like its containers.

use storage::state::container::Record;
use storage::state::layout::ContainerId;
use storage::state::name;
use storage::state::pod::{self, Pod};
use storage::state::request::{Mount, Namespace, Request};

use super::create::{NewPod, make};
use super::{act, join};
use crate::cli::output;
use crate::commands::create::{self, Purpose};
use crate::commands::{Context, Outcome};
use crate::error::CommandError;

/// Clone an existing pod
///
/// The containers of the clone are created from the same images with the same options; what they have written is not
/// copied, volumes with a name are shared.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Name of the clone [default: POD-clone]
    #[arg(value_name = "NAME")]
    positional: Option<String>,
    /// Name the new pod
    #[arg(short, long, value_name = "NAME", conflicts_with = "positional")]
    name: Option<String>,
    /// Remove the original pod
    #[arg(long)]
    destroy: bool,
    /// Start the new pod
    #[arg(long)]
    start: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let layout = &context.layout;
    let old = pod::find(layout, &args.pod)?;
    let members = pod::members(layout, &old)?;
    let taken: Vec<String> = pod::list(layout)?.into_iter().map(|pod| pod.name).collect();
    let is_taken = |name: &str| taken.iter().any(|other| other == name) || name::lookup(layout, name).is_some();
    let name = args.name.or(args.positional).unwrap_or_else(|| free(&old.name, is_taken));
    let (infra, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|record| record.request.infra);
    let new = NewPod {
        name: Some(name),
        labels: old.labels.clone(),
        share: Some(old.share.clone()),
        no_infra: old.infra.is_none(),
        infra_name: infra.first().map(|record| free(&record.name, is_taken)),
        exit_policy: old.exit_policy,
        restart: old.restart,
        userns: old.userns.clone(),
        request: infra.first().map_or_else(Request::default, |record| of_infra(&old, record)),
        ..NewPod::default()
    };
    let made = make(context, new)?;
    for record in &others {
        let copied = copy(context, &old, &made, record, free(&record.name, is_taken));
        copied.inspect_err(|_| {
            // Best effort: the error that led here is the one to tell.
            let _ = act::remove(context, &made, Some(0));
        })?;
    }
    if args.destroy {
        act::remove(context, &old, None)?;
    }
    if args.start {
        act::start_pod(context, &made)?;
    }
    output::print_line(&made.id)?;
    Ok(0)
}

/// `NAME-clone`, or with the first number that makes it a name of nobody's.
fn free(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let first = format!("{name}-clone");
    let more = (1u32..).map(|number| format!("{first}{number}"));
    std::iter::once(first.clone()).chain(more).find(|name| !is_taken(name)).unwrap_or(first)
}

fn of_infra(old: &Pod, record: &Record) -> Request {
    let mut request = record.request.clone();
    // The clone is called otherwise.
    request.hostname = request.hostname.filter(|name| *name != old.name);
    request.cap_drop.clear();
    request
}

fn copy(context: &Context, old: &Pod, new: &Pod, record: &Record, name: String) -> Result<(), CommandError> {
    let mut copied = record.clone();
    copied.id = ContainerId::random();
    copied.created = jiff::Timestamp::now();
    copied.started_at_once = false;
    copied.anonymous_volumes.clear();
    let request = &mut copied.request;
    (request.cidfile, request.pidfile, request.supervisor_pidfile) = (None, None, None);
    for mount in &mut request.mounts {
        if let Mount::Volume(volume) = mount
            && volume.anonymous
        {
            volume.name = None;
        }
    }
    if let Some(infra) = &old.infra {
        leave(request, infra);
    }
    join::take_place(context, new, request)?;
    let prepared = create::prepare_for(context, copied, Purpose::Create)?;
    create::publish(context, prepared, Some(name))?;
    Ok(())
}

/// Takes a container out of the namespaces that `infra` holds.
fn leave(request: &mut Request, infra: &ContainerId) {
    if request.network.mode == format!("container:{infra}") {
        request.network.mode.clear();
    }
    let held = Namespace::Container(infra.to_string());
    if request.uts == held {
        request.hostname = None;
    }
    for namespace in [&mut request.ipc, &mut request.pid, &mut request.uts] {
        if *namespace == held {
            *namespace = Namespace::Private;
        }
    }
    request.volumes_from.retain(|source| source.container != infra.as_str());
}
