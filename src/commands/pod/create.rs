//! `pod create`.

use std::path::PathBuf;

use jiff::Timestamp;
use net::mode::Mode;
use storage::state::container::{self, Record};
use storage::state::layout::ContainerId;
use storage::state::pod::{self, ExitPolicy, Pod};
use storage::state::request::{Mount, Request, RestartPolicy, UserNamespace};

use crate::cli::options::network::NetworkOptions;
use crate::cli::output;
use crate::cli::parse::{limits, namespaces, pairs, size, volume, words};
use crate::cli::usage::{each, maybe, one};
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
    /// A comma delimited list of kernel namespaces the pod will share
    #[arg(long, value_name = "LIST", default_value = "ipc,net,uts")]
    share: String,
    /// Hold namespaces that the pod's containers share; false for a pod in name only
    #[arg(long, default_value_t = true)]
    infra: bool,
    /// Has no effect: nothing is executed to hold namespaces
    #[arg(long, value_name = "COMMAND")]
    infra_command: Option<String>,
    /// Has no effect: no image is needed to hold namespaces
    #[arg(long, value_name = "IMAGE")]
    infra_image: Option<String>,
    /// Name of the container that holds the namespaces
    #[arg(long, value_name = "NAME")]
    infra_name: Option<String>,
    /// Write the process ID of the supervisor that holds the namespaces to the file, whenever the pod starts
    #[arg(long, value_name = "FILE")]
    infra_conmon_pidfile: Option<PathBuf>,
    /// Has no effect: containers have cgroups of their own
    #[arg(long, default_value_t = true, hide = true)]
    share_parent: bool,
    /// Set metadata on the pod
    #[arg(short, long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Behaviour when the last container exits: continue or stop
    #[arg(long, value_name = "POLICY", default_value = "continue")]
    exit_policy: String,
    /// When to start its containers again: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// User namespace of its containers: host, keep-id[:uid=,gid=,size=] or single
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// Add the labels in this file
    #[arg(long = "label-file", value_name = "FILE")]
    label_files: Vec<String>,
    /// Set a kernel parameter of the pod's namespaces, KEY=VALUE
    #[arg(long = "sysctl", value_name = "SYSCTL", value_delimiter = ',')]
    sysctls: Vec<String>,
    /// Write the pod ID to the file
    #[arg(long, value_name = "FILE")]
    pod_id_file: Option<PathBuf>,
    /// If a pod with the same name exists, replace it
    #[arg(long)]
    replace: bool,
    /// Mount a path of the host or a volume into all containers of the pod
    #[arg(short, long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
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
    /// Network, ports, host name, volumes of that container.
    pub(crate) request: Request,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let given = |flag: &'static str, is_given: bool| is_given.then_some(flag);
    let without_effect =
        [given("--infra-command", args.infra_command.is_some()), given("--infra-image", args.infra_image.is_some())];
    for flag in without_effect.into_iter().flatten() {
        eprintln!("Warning: {flag} has no effect: a pod's namespaces are held without an image and a command");
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
    let restart = match &args.restart {
        Some(text) => one("--restart", text, words::restart_policy).map_err(CommandError::user)?,
        None => RestartPolicy::default(),
    };
    let userns =
        maybe("--userns", args.userns.as_ref(), namespaces::user).map_err(CommandError::user)?.unwrap_or_default();
    if !matches!(userns, UserNamespace::Host | UserNamespace::KeepId { .. } | UserNamespace::Single) {
        return Err(CommandError::user(format_args!(
            "--userns {}: containers of a pod share its namespaces: use host, keep-id or single",
            args.userns.as_deref().unwrap_or_default()
        )));
    }
    let mut labels = Vec::new();
    let request = create::with_caller(|caller| {
        let mut request = Request::default();
        args.network.apply(&mut request, caller).map_err(CommandError::user)?;
        let of_file = |path: &str| pairs::label_file(&caller.file(path)?);
        labels = each("--label-file", &args.label_files, of_file).map_err(CommandError::user)?.concat();
        let private = Mode::parse(&request.network.mode).is_ok_and(|mode| mode.is_private());
        for (name, value) in each("--sysctl", &args.sysctls, limits::sysctl).map_err(CommandError::user)? {
            one("--sysctl", &name, |name| limits::sysctl_fits(name, private, &request.ipc))
                .map_err(CommandError::user)?;
            request.sysctls.insert(name, value);
        }
        let volumes = each("-v, --volume", &args.volumes, |value| volume::volume(value, caller.cwd));
        request.mounts = volumes.map_err(CommandError::user)?;
        request.shm_size_bytes =
            maybe("--shm-size", args.shm_size.as_ref(), size::bytes).map_err(CommandError::user)?;
        request.supervisor_pidfile = args.infra_conmon_pidfile.as_ref().map(|path| caller.cwd.join(path));
        Ok(request)
    })?;
    let name = args.name.or(args.positional);
    if args.replace
        && let Some(name) = &name
        && let Ok(old) = pod::find(&context.layout, name)
    {
        super::act::remove(context, &old, Some(0))?;
    }
    labels.extend(each("-l, --label", &args.labels, pairs::label).map_err(CommandError::user)?);
    let new = NewPod {
        name,
        labels: labels.into_iter().collect(),
        share: Some(share),
        no_infra: !args.infra,
        infra_name: args.infra_name,
        exit_policy,
        restart,
        userns,
        request,
        ..NewPod::default()
    };
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
    let id = new.id.unwrap_or_else(ContainerId::random);
    let name = new.name.unwrap_or_else(|| format!("pod_{}", id.short()));
    storage::volume::check_name(&name).map_err(|_| {
        CommandError::user(format!("pod name {name:?}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument"))
    })?;
    let default = || ["ipc", "net", "uts"].map(str::to_owned).into();
    let share = if new.no_infra { Vec::new() } else { new.share.unwrap_or_else(default) };
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
    };
    if new.no_infra {
        pod::create(layout, &pod)?;
        return Ok(pod);
    }
    let mut request = new.request;
    crate::networks::resolve(layout, &mut request.network)?;
    request.rootfs = Some(pod::root(layout)?);
    request.hostname = Some(pod.hostname.clone());
    request.args = vec!["/pause".to_owned()];
    request.workdir = "/".into();
    request.cap_drop = vec!["ALL".to_owned()];
    request.security.no_new_privileges = true;
    request.log.driver = storage::state::request::LogDriver::None;
    request.labels.clone_from(&pod.labels);
    (request.pod, request.pod_name, request.infra) = (Some(id.to_string()), name, true);
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
