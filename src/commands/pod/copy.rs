//! `pod clone`: a pod like another one, with containers like its containers.

use storage::state::container::Record;
use storage::state::layout::ContainerId;
use storage::state::pod::{self, Pod};
use storage::state::request::{Namespace, Request};

use super::create::{NewPod, make};
use super::options::PodOptions;
use super::{act, join};
use crate::cli::output;
use crate::cli::parse::names;
use crate::cli::usage::one;
use crate::commands::container::clone::{duplicate, free_name};
use crate::commands::create::{self, Purpose};
use crate::commands::{Context, Outcome};
use crate::error::CommandError;

/// Clone an existing pod
///
/// The containers of the clone are created from the same images with the same options; what they have written is not
/// copied, volumes with a name are shared.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Print help (-h is --hostname)
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
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
    /// Host name of the new pod
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    #[command(flatten)]
    options: PodOptions,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let layout = &context.layout;
    let old = pod::find(layout, &args.pod)?;
    let members = pod::members(layout, &old)?;
    let name = args.name.or(args.positional).unwrap_or_else(|| free_name(layout, &old.name));
    let (infra, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|record| record.request.infra);
    let mut new = NewPod {
        name: Some(name),
        labels: old.labels.clone(),
        share: Some(old.share.clone()),
        no_infra: old.infra.is_none(),
        infra_name: infra.first().map(|record| free_name(layout, &record.name)),
        exit_policy: old.exit_policy,
        restart: old.restart,
        userns: old.userns.clone(),
        members: old.members.clone(),
        request: infra.first().map_or_else(Request::default, |record| of_infra(&old, record)),
        ..NewPod::default()
    };
    if let Some(hostname) = &args.hostname {
        new.request.hostname = Some(one("-h, --hostname", hostname, names::hostname).map_err(CommandError::user)?);
    }
    args.options.apply(&mut new)?;
    let made = make(context, new)?;
    for record in &others {
        let copied = copy(context, &old, &made, record, free_name(layout, &record.name));
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

fn of_infra(old: &Pod, record: &Record) -> Request {
    let mut request = record.request.clone();
    // The clone is called otherwise.
    request.hostname = request.hostname.filter(|name| *name != old.name);
    request.cap_drop.clear();
    request
}

fn copy(context: &Context, old: &Pod, new: &Pod, record: &Record, name: String) -> Result<(), CommandError> {
    let mut copied = duplicate(record);
    let request = &mut copied.request;
    if let Some(infra) = &old.infra {
        leave(request, infra);
    }
    join::take_place(context, new, request)?;
    let prepared = create::prepare_for(context, copied, Purpose::Create)?;
    create::publish(context, prepared, Some(name))?;
    Ok(())
}

/// Takes a container out of the namespaces that `infra` holds.
pub(crate) fn leave(request: &mut Request, infra: &ContainerId) {
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
    request.cgroup.pod = None;
}
