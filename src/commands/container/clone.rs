//! `container clone`: a container like another one.

use jiff::Timestamp;
use storage::state::container::{self, Record};
use storage::state::layout::{ContainerId, Layout};
use storage::state::name;
use storage::state::pod::Pod;
use storage::state::request::{Mount, Namespace, PullPolicy, Request};
use storage::transport::PullOptions;

use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::OfClone;
use crate::cli::options::resources::ResourceOptions;
use crate::cli::output;
use crate::commands::create::{self, Purpose};
use crate::commands::{Context, Outcome, dependents, lifecycle, pod, pull, rm, select, space, start, stop, update};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle container clone web                      # web-clone
  coracle container clone --memory 1g web web-big
  coracle container clone --destroy -f --run web web2 nginx:1.27"#;

/// Clone an existing container
///
/// The clone is created from the same image, or from another one, with the same options; limits that are named replace
/// those of the original. What the container has written is not copied, volumes with a name are shared.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the clone [default: CONTAINER-clone]
    #[arg(value_name = "NAME")]
    positional: Option<String>,
    /// Image of the clone [default: that of the container]
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    /// Assign a name to the container
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Remove the original container
    #[arg(long)]
    destroy: bool,
    /// With --destroy, stop the original if it runs
    #[arg(short, long, requires = "destroy")]
    force: bool,
    /// Run the new container
    #[arg(long)]
    run: bool,
    /// Make it one of an existing pod
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    #[command(flatten)]
    resources: ResourceOptions,
    #[command(flatten)]
    accepted: Accepted<OfClone>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let layout = &context.layout;
    args.accepted.warn();
    let mut limits = Request::default();
    args.resources.apply(&mut limits).map_err(CommandError::user)?;
    // With a name by option the second word is the image's.
    let (name, image) = match (args.name, args.positional, args.image) {
        (Some(_), Some(_), Some(image)) => {
            return Err(CommandError::user(format_args!("the clone has two names: --name, and one before {image}")));
        }
        (Some(name), image, None) | (Some(name), None, image) => (Some(name), image),
        (None, name, image) => (name, image),
    };
    let old = container::find(layout, &args.container).map_err(CommandError::user)?;
    if args.destroy {
        check_removable(context, &old, args.force)?;
    }
    let mut clone = duplicate(&old);
    update::merge(&mut clone.request.resources, limits.resources);
    update::check_together(&clone.request.resources)?;
    clone.request.cgroup.strict |= limits.cgroup.strict;
    if let Some(image) = image {
        let found = pull::ensure(context, &image, PullPolicy::Missing, &PullOptions::default(), false)?;
        clone.request.image = image;
        clone.request.rootfs = None;
        clone.image = Some(create::image_record(&clone.request, &found));
    }
    if let Some(pod) = &args.pod {
        let pod = storage::state::pod::find(layout, pod)?;
        if let Some(before) = pod::of(context, &old)?
            && let Some(infra) = &before.infra
        {
            pod::leave(&mut clone.request, infra);
        }
        make_room(&pod, &mut clone.request);
        pod::take_place(context, &pod, &mut clone.request)?;
    }
    let name = name.unwrap_or_else(|| free_name(layout, &old.name));
    let prepared = create::prepare_for(context, clone, Purpose::Create)?;
    let id = create::publish(context, prepared, Some(name))?;
    if args.destroy {
        lifecycle::begin_stop(context, &old, stop::timeout(None, &old))?.finish(context)?;
        rm::remove(context, &old, false)?;
        space::sweep(context);
    }
    if args.run
        && let Some(record) = container::load(layout, &id)?
    {
        start::start(context, record)?;
    }
    output::print_line(&id)?;
    Ok(0)
}

fn check_removable(context: &Context, old: &Record, force: bool) -> Result<(), CommandError> {
    if old.request.infra {
        return Err(CommandError::user(format_args!(
            "container {} holds the namespaces of a pod and goes with it",
            old.id
        ))
        .hinted(format_args!("{} pod clone --destroy {}", context.program, old.request.pod_name)));
    }
    dependents::refuse(&select::all(context)?, old)?;
    let state = storage::state::status::observe(&context.layout, old)?.state;
    if state.is_alive() && !force {
        return Err(CommandError::user(format_args!(
            "cannot remove container {} as it is {} - running or paused containers cannot be removed without force: \
             container state improper",
            old.id,
            state.as_str()
        )));
    }
    Ok(())
}

/// What a pod's namespaces have goes before what the container had of its own.
fn make_room(pod: &Pod, request: &mut Request) {
    let shares = |name: &str| pod.infra.is_some() && pod.share.iter().any(|shared| shared == name);
    if shares("net") {
        let network = &mut request.network;
        network.mode.clear();
        network.published.clear();
        (network.endpoints, network.publish_all) = (None, false);
    }
    for (name, namespace) in [("ipc", &mut request.ipc), ("pid", &mut request.pid), ("uts", &mut request.uts)] {
        if shares(name) {
            *namespace = Namespace::Private;
        }
    }
    if shares("uts") {
        request.hostname = None;
    }
}

/// A container that is to be like another one, and is none yet: what only the other one has is not in it.
pub(crate) fn duplicate(record: &Record) -> Record {
    let mut copied = record.clone();
    copied.id = ContainerId::random();
    copied.created = Timestamp::now();
    copied.started_at_once = false;
    copied.anonymous_volumes.clear();
    copied.addresses.clear();
    let request = &mut copied.request;
    request.create_command = std::env::args().collect();
    (request.cidfile, request.pidfile, request.supervisor_pidfile) = (None, None, None);
    for mount in &mut request.mounts {
        if let Mount::Volume(volume) = mount
            && volume.anonymous
        {
            volume.name = None;
        }
    }
    copied
}

/// `NAME-clone`, or with the first number that makes it nobody's name.
pub(crate) fn free_name(layout: &Layout, name: &str) -> String {
    let pods = storage::state::pod::list(layout).unwrap_or_default();
    free(name, |name| pods.iter().any(|pod| pod.name == name) || name::lookup(layout, name).is_some())
}

fn free(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let first = format!("{name}-clone");
    let more = (1u32..).map(|number| format!("{first}{number}"));
    std::iter::once(first.clone()).chain(more).find(|name| !is_taken(name)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_called_after_its_original() {
        assert_eq!(free("web", |_| false), "web-clone");
        assert_eq!(free("web", |name| ["web-clone", "web-clone1"].contains(&name)), "web-clone2");
    }
}
