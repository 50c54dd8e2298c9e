//! `pod create`.

use std::path::PathBuf;

use jiff::Timestamp;
use storage::state::container::{self, Record};
use storage::state::layout::ContainerId;
use storage::state::pod::{self, ExitPolicy, OfMembers, Pod};
use storage::state::request::{Mount, Request, RestartPolicy, UserNamespace};

use super::options::{PodOptions, warn_of};
use crate::cli::options::network::NetworkOptions;
use crate::cli::output;
use crate::commands::create::{self, Purpose};
use crate::commands::{Context, Outcome};
use crate::error::{CommandError, reason};

/// Create a new empty pod
///
/// The containers of a pod share its network, IPC and host name. Ports are published for the pod as a whole. Nothing is
/// pulled: what holds the namespaces needs no image.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Print help (-h is --hostname)
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Name of the pod
    #[arg(value_name = "NAME")]
    positional: Option<String>,
    /// Assign a name to the pod
    #[arg(short, long, value_name = "NAME", conflicts_with = "positional")]
    name: Option<String>,
    #[command(flatten)]
    network: NetworkOptions,
    #[command(flatten)]
    pod: PodOptions,
    /// A comma delimited list of kernel namespaces the pod will share
    #[arg(long, value_name = "LIST", default_value = "ipc,net,uts")]
    share: String,
    /// Hold namespaces that the pod's containers share; false for a pod in name only
    #[arg(long, default_value_t = true)]
    infra: bool,
    /// Has no effect: no image is needed to hold namespaces
    #[arg(long, value_name = "IMAGE")]
    infra_image: Option<String>,
    /// Has no effect: containers have cgroups of their own
    #[arg(long, default_value_t = true, hide = true)]
    share_parent: bool,
    /// Behaviour when the last container exits: continue or stop
    #[arg(long, value_name = "POLICY", default_value = "continue")]
    exit_policy: String,
    /// Write the pod ID to the file
    #[arg(long, value_name = "FILE")]
    pod_id_file: Option<PathBuf>,
    /// If a pod with the same name exists, replace it
    #[arg(long)]
    replace: bool,
}

/// A pod that is to be.
#[derive(Debug, Default)]
pub(crate) struct NewPod {
    /// Its id; a random one if absent.
    pub(crate) id: Option<ContainerId>,
    /// Its name; a random one if absent.
    pub(crate) name: Option<String>,
    /// Its labels.
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// What is shared; podman's default if absent.
    pub(crate) share: Option<Vec<String>>,
    /// Nothing is shared.
    pub(crate) no_infra: bool,
    /// The name of the container that holds the namespaces.
    pub(crate) infra_name: Option<String>,
    /// What happens when the last container ends.
    pub(crate) exit_policy: ExitPolicy,
    /// What happens to its containers when they end, unless they have a policy of their own.
    pub(crate) restart: RestartPolicy,
    /// The user namespace of its containers.
    pub(crate) userns: UserNamespace,
    /// What its containers get of it.
    pub(crate) members: OfMembers,
    /// Network, ports, host name, volumes of that container.
    pub(crate) request: Request,
}

impl NewPod {
    /// The namespaces that are to be shared.
    pub(super) fn shared(&self) -> Vec<String> {
        let default = || ["ipc", "net", "uts"].map(str::to_owned).into();
        if self.no_infra { Vec::new() } else { self.share.clone().unwrap_or_else(default) }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.infra_image.is_some() {
        warn_of("--infra-image");
    }
    let share: Vec<String> = match args.share.as_str() {
        "" | "none" => Vec::new(),
        list => list.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    if let Some(other) = share.iter().find(|name| !matches!(name.as_str(), "ipc" | "net" | "uts" | "pid" | "cgroup")) {
        return Err(CommandError::user(format_args!("--share {other}: must be some of ipc, net, pid, uts")));
    }
    if share.iter().any(|name| name == "cgroup") {
        eprintln!("Warning: --share cgroup has no effect: containers have cgroups of their own");
    }
    let exit_policy = match args.exit_policy.as_str() {
        "continue" => ExitPolicy::Continue,
        "stop" => ExitPolicy::Stop,
        other => return Err(CommandError::user(format_args!("invalid pod exit policy: {other:?}"))),
    };
    let mut request = Request::default();
    create::with_caller(|caller| args.network.apply(&mut request, caller).map_err(CommandError::user))?;
    let name = args.name.or(args.positional);
    let mut new = NewPod { name, share: Some(share), no_infra: !args.infra, exit_policy, request, ..NewPod::default() };
    args.pod.apply(&mut new)?;
    if args.replace
        && let Some(name) = &new.name
        && let Ok(old) = pod::find(&context.layout, name)
    {
        super::act::remove(context, &old, Some(0))?;
    }
    let pod = make(context, new)?;
    if let Some(path) = &args.pod_id_file {
        std::fs::write(path, pod.id.as_str())
            .map_err(|error| CommandError::user(format!("--pod-id-file {}: {}", path.display(), reason(&error))))?;
    }
    output::print_line(&pod.id)?;
    Ok(0)
}

/// Makes a pod and the container that holds its namespaces, which does not run yet.
pub(crate) fn make(context: &Context, new: NewPod) -> Result<Pod, CommandError> {
    let layout = &context.layout;
    let share = new.shared();
    let id = new.id.unwrap_or_else(ContainerId::random);
    let name = new.name.unwrap_or_else(|| format!("pod_{}", id.short()));
    storage::volume::check_name(&name).map_err(|_| {
        CommandError::user(format!("pod name {name:?}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument"))
    })?;
    let mut pod = Pod {
        version: pod::VERSION,
        id: id.clone(),
        name: name.clone(),
        created: Timestamp::now(),
        infra: None,
        hostname: new.request.hostname.clone().unwrap_or_else(|| name.clone()),
        share,
        labels: new.labels,
        create_command: std::env::args().collect(),
        exit_policy: new.exit_policy,
        restart: new.restart,
        userns: new.userns,
        members: new.members,
    };
    if new.no_infra {
        pod::create(layout, &pod)?;
        return Ok(pod);
    }
    let mut request = new.request;
    crate::networks::resolve(layout, &mut request.network)?;
    create::take_volumes_from(context, &mut request)?;
    request.volumes_from.clear();
    request.rootfs = Some(pod::root(layout)?);
    request.hostname = Some(pod.hostname.clone());
    request.args = vec!["/pause".to_owned()];
    request.workdir = "/".into();
    request.cap_drop = vec!["ALL".to_owned()];
    request.security.no_new_privileges = true;
    request.log.driver = storage::state::request::LogDriver::None;
    request.labels.clone_from(&pod.labels);
    (request.pod, request.pod_name, request.infra) = (Some(id.to_string()), name, true);
    // What has limits has a cgroup as long as the pod runs.
    request.cgroup.parent.clone_from(&pod.members.cgroup_parent.clone().filter(|_| !pod.members.together.is_empty()));
    request.cgroup.pod = super::join::limits(&id, &pod.members);
    let mounts = std::mem::take(&mut request.mounts);
    let record = Record {
        version: container::VERSION,
        id: ContainerId::random(),
        name: String::new(),
        created: Timestamp::now(),
        image: None,
        driver: String::new(),
        started_at_once: false,
        anonymous_volumes: Vec::new(),
        addresses: std::collections::BTreeMap::new(),
        request,
    };
    pod.infra = Some(record.id.clone());
    pod::create(layout, &pod)?;
    let infra_name = new.infra_name.unwrap_or_else(|| format!("{}-infra", id.short()));
    let made = create::prepare_for(context, record, Purpose::Create).and_then(|mut prepared| {
        // Nobody sees them in a container without a program; those who join take them over.
        prepared.record.request.mounts = mounts.into_iter().filter(Mount::is_kept).collect();
        create::publish(context, prepared, Some(infra_name))
    });
    made.inspect_err(|_| {
        let _ = pod::remove(layout, &id);
    })?;
    Ok(pod)
}
