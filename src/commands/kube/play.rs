//! `kube play`: makes what a file describes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use net::driver::MacAddress;
use runtime::userns::Mapping;
use storage::secret;
use storage::state::container;
use storage::state::layout::ContainerId;
use storage::state::pod::{self, ExitPolicy, Pod};
use storage::state::request::{Endpoint, Log, Mount, Network, Notify};
use storage::volume::{self, Volume};

use super::model::{Claim, ConfigMap, Secret};
use super::plan::{self, ContainerPlan, Files, HostPath, HostPathKind, PodPlan, SecretKeys, Wishes, World};
use super::read::{self, NamedPod, Object};
use super::{down, source};
use crate::cli::container_options::{Asked, SYSTEMD_UNIT};
use crate::cli::options::process::{AskedProcess, set_defaults};
use crate::cli::output;
use crate::cli::parse::networks::{self, Wanted};
use crate::cli::parse::{namespaces, pairs, ports, words};
use crate::cli::usage::{InvalidOption, each, maybe, one};
use crate::commands::create::{self, Purpose};
use crate::commands::pod::{self as pods, NewPod};
use crate::commands::{Context, Outcome, in_userns_with_output, lifecycle, network, pull, rm, volume as volumes};
use crate::error::{CommandError, reason};
use crate::supervisor::notify::Notifications;

const EXAMPLES: &str = r#"Examples:
  coracle kube play nginx.yml
  cat nginx.yml | coracle kube play -
  coracle kube play --replace --configmap values.yml app.yml"#;

/// Annotations by which podman keeps what a claim has no word for.
const VOLUME: &str = "volume.podman.io/";

/// Play a pod or volume based on Kubernetes YAML
///
/// Makes pods, volumes and secrets of the objects in the file, and starts the pods. Supported kinds are Pod, Deployment,
/// DaemonSet, Job, PersistentVolumeClaim, Secret and ConfigMap; others are left to a cluster. A container is called
/// POD-CONTAINER. Secrets reach containers in memory only.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// The file: a path, - or an address
    #[arg(value_name = "KUBEFILE|-")]
    file: String,
    /// Add an annotation to pods, KEY=VALUE
    #[arg(long = "annotation", value_name = "ANNOTATION")]
    annotations: Vec<String>,
    /// Build the images first (not supported)
    #[arg(long)]
    build: bool,
    /// Use the ConfigMaps in this file, too
    #[arg(long = "configmap", value_name = "FILE", value_delimiter = ',')]
    config_maps: Vec<String>,
    /// Remove what the file describes, as kube down does
    #[arg(long, hide = true)]
    down: bool,
    /// With --down, remove volumes
    #[arg(long)]
    force: bool,
    /// A fixed IP address for the pods
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<String>,
    /// Where output is kept: k8s-file, json-file, journald, passthrough or none
    #[arg(long, value_name = "DRIVER", default_value = "k8s-file")]
    log_driver: String,
    /// Option of the log driver, NAME=VALUE
    #[arg(long = "log-opt", value_name = "OPTION")]
    log_options: Vec<String>,
    /// A fixed hardware address for the pods
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Vec<String>,
    /// Connect pods to a network, NAME[:ip=,mac=,alias=] (can be repeated), or none, host, builtin,
    /// slirp4netns, pasta, container:NAME; by default all of them to podman-default-kube-network, which is made
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    networks: Vec<String>,
    /// Leave /etc/hostname as the image has it
    #[arg(long)]
    no_hostname: bool,
    /// Leave /etc/hosts as the image has it
    #[arg(long)]
    no_hosts: bool,
    /// Publish a port instead of that of the file, [[IP:][HOST-PORT]:]CONTAINER-PORT[/PROTOCOL]
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    publish: Vec<String>,
    /// Publish containerPorts without a hostPort on the same port of the host
    #[arg(long)]
    publish_all: bool,
    /// Print no progress of pulls
    #[arg(short, long)]
    quiet: bool,
    /// Remove pods of the same names first
    #[arg(long)]
    replace: bool,
    /// Directory of the seccomp profiles that files name
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/seccomp")]
    seccomp_profile_root: PathBuf,
    /// Start the pods
    #[arg(long, default_value_t = true)]
    start: bool,
    /// User namespace of the containers: host, keep-id[:uid=,gid=,size=] or single
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// Stay until the containers have ended or a signal comes, then remove everything
    #[arg(short, long)]
    wait: bool,
    /// Be the process of a service of systemd: tell it when the containers run, stay, remove pods at the end
    #[arg(long, hide = true, conflicts_with = "wait")]
    service_container: bool,
    /// With --service-container, fail if any or all containers failed: none, any or all
    #[arg(long, value_name = "POLICY", default_value = "none", hide = true)]
    service_exit_code_propagation: String,
    #[command(flatten)]
    registry: pull::RegistryArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.build {
        return Err(CommandError::user("--build: there is no build yet: make or pull the images first"));
    }
    let propagation = one("--service-exit-code-propagation", &args.service_exit_code_propagation, Propagation::parse)
        .map_err(CommandError::user)?;
    if args.wait && !args.start {
        return Err(CommandError::user("--wait and --start=false cannot be used together"));
    }
    let objects = read::objects(&source::read(&args.file)?).map_err(CommandError::user)?;
    if args.down {
        down::tear_down(context, &objects, args.force)?;
        return Ok(0);
    }
    if args.force {
        return Err(CommandError::user("--force may be specified only with --down"));
    }
    let wishes = wishes(&args).map_err(CommandError::user)?;
    // Everything is decided before anything is made.
    let plans = plans(&args, context, &objects, &wishes)?;
    for line in plans.iter().flat_map(|(_, plan)| &plan.warnings) {
        eprintln!("{line}");
    }
    if args.replace {
        down::tear_down(context, &objects, false)?;
    }
    if args.networks.is_empty() && plans.iter().any(|(_, plan)| plan.request.network.is_bridge()) {
        network::ensure(context, NETWORK)?;
    }
    make_others(context, &objects)?;
    let mut made: Vec<(Pod, Vec<ContainerId>)> = Vec::new();
    for (id, plan) in plans {
        let pod = make_pod(&args, context, id, plan).inspect_err(|_| {
            for (pod, _) in &made {
                discard(context, pod);
            }
        })?;
        made.push(pod);
    }
    if args.start {
        for (pod, _) in &made {
            pods::start_pod(context, pod)?;
        }
    }
    report(&objects, &made, context)?;
    if args.service_container && args.start {
        Notifications::ready(std::env::var_os("NOTIFY_SOCKET"))?;
        let codes = wait(context, &made)?;
        down::tear_down(context, &objects, false)?;
        return Ok(propagation.code(&codes));
    }
    if args.wait {
        wait(context, &made)?;
        down::tear_down(context, &objects, true)?;
    }
    Ok(0)
}

/// Which ends of containers are failures of the service that they are.
#[derive(Clone, Copy, Debug)]
enum Propagation {
    None,
    Any,
    All,
}

impl Propagation {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "any" => Ok(Self::Any),
            "all" => Ok(Self::All),
            _ => Err("must be none, any or all".to_owned()),
        }
    }

    fn code(self, codes: &[i32]) -> u8 {
        let failed = |code: &i32| *code != 0;
        u8::from(match self {
            Self::None => false,
            Self::Any => codes.iter().any(failed),
            Self::All => !codes.is_empty() && codes.iter().all(failed),
        })
    }
}

/// The network of pods that ask for none: that of podman.
const NETWORK: &str = "podman-default-kube-network";

fn wishes(args: &Args) -> Result<Wishes, InvalidOption> {
    let mut network = Network { no_hosts: args.no_hosts, no_hostname: args.no_hostname, ..Network::default() };
    match one("--network", &args.networks.join(" "), |_| networks::networks(&args.networks))? {
        _ if args.networks.is_empty() => {
            "bridge".clone_into(&mut network.mode);
            network.endpoints = Some(vec![Endpoint { network: NETWORK.to_owned(), ..Endpoint::default() }]);
        }
        Wanted::Mode(mode) => network.mode = mode,
        Wanted::Networks(endpoints) => {
            "bridge".clone_into(&mut network.mode);
            network.endpoints = Some(endpoints);
        }
    }
    Ok(Wishes {
        network,
        published: each("--publish", &args.publish, ports::published)?,
        publish_all: args.publish_all,
        userns: maybe("--userns", args.userns.as_ref(), namespaces::user)?,
        annotations: each("--annotation", &args.annotations, pairs::annotation)?.into_iter().collect(),
        log: Log {
            driver: one("--log-driver", &args.log_driver, words::log_driver)?,
            options: each("--log-opt", &args.log_options, words::log_option)?.into_iter().collect(),
        },
        seccomp_root: args.seccomp_profile_root.clone(),
    })
}

/// The pods, with the ids they will have.
fn plans(
    args: &Args,
    context: &Context,
    objects: &[Object],
    wishes: &Wishes,
) -> Result<Vec<(ContainerId, PodPlan)>, CommandError> {
    let config_maps = config_maps(args, objects)?;
    let mut secrets = BTreeMap::new();
    for object in objects {
        if let Object::Secret(one) = object {
            secrets.insert(one.metadata.name.as_str(), keys(one)?);
        }
    }
    let of_store = |name: &str| match secret::find(&context.layout, name) {
        Ok(secret) => secret.keys().map(Some).ok_or_else(|| {
            CommandError::user(format_args!("secret {name}: only secrets created via kube play are supported"))
        }),
        Err(secret::SecretError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    };
    let secret = |name: &str| match secrets.get(name) {
        Some(keys) => Ok(Some(keys.clone())),
        None => of_store(name),
    };
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok());
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let ips = each("--ip", &args.ip, networks::ip).map_err(CommandError::user)?;
    let macs = each("--mac-address", &args.mac_address, networks::mac).map_err(CommandError::user)?;
    let mut plans = Vec::new();
    for (number, named) in objects.iter().filter_map(pod_of).enumerate() {
        let id = ContainerId::random();
        let world = World {
            config_maps: &config_maps,
            secret: &secret,
            pod_id: id.as_str(),
            hostname: &hostname,
            memory_bytes: kib.unwrap_or(0u64) << 10,
            cpus,
        };
        let mut plan = plan::pod(named, wishes, &world)?;
        // The first address is the first pod's, and so on.
        fix_address(&mut plan, ips.get(number).copied(), macs.get(number).copied())?;
        plans.push((id, plan));
    }
    Ok(plans)
}

fn fix_address(plan: &mut PodPlan, ip: Option<IpAddr>, mac: Option<MacAddress>) -> Result<(), CommandError> {
    if ip.is_none() && mac.is_none() {
        return Ok(());
    }
    let network = &mut plan.request.network;
    let mut endpoints = network.places();
    let [endpoint] = endpoints.as_mut_slice() else {
        return Err(CommandError::user(format_args!(
            "pod {}: --ip and --mac-address can only be set for a single bridge network",
            plan.name
        )));
    };
    if let Some(ip) = ip {
        endpoint.ips = vec![ip];
    }
    endpoint.mac = mac.map(|mac| mac.to_string()).or(endpoint.mac.take());
    network.endpoints = Some(endpoints);
    Ok(())
}

fn pod_of(object: &Object) -> Option<&NamedPod> {
    match object {
        Object::Pod(named) => Some(named),
        _ => None,
    }
}

fn config_maps(args: &Args, objects: &[Object]) -> Result<BTreeMap<String, ConfigMap>, CommandError> {
    let mut all = BTreeMap::new();
    for object in objects {
        if let Object::ConfigMap(map) = object {
            all.insert(map.metadata.name.clone(), map.clone());
        }
    }
    for path in &args.config_maps {
        for map in read::config_maps(&source::read(path)?).map_err(CommandError::user)? {
            let name = map.metadata.name.clone();
            if all.insert(name.clone(), map).is_some() {
                return Err(CommandError::user(format_args!(
                    "ambiguous configuration: the same config map {name} is present in YAML and in --configmaps {path} \
                     file"
                )));
            }
        }
    }
    Ok(all)
}

fn keys(one: &Secret) -> Result<SecretKeys, CommandError> {
    let mut keys = SecretKeys::new();
    for (key, text) in &one.data {
        let data = plan::binary(text).ok_or_else(|| {
            CommandError::user(format_args!("secret {}: data {key:?}: not base64", one.metadata.name))
        })?;
        keys.insert(key.clone(), data);
    }
    keys.extend(one.string_data.iter().map(|(key, text)| (key.clone(), text.clone().into_bytes())));
    Ok(keys)
}

/// Volumes and secrets.
fn make_others(context: &Context, objects: &[Object]) -> Result<(), CommandError> {
    for object in objects {
        match object {
            Object::Claim(claim) => make_volume(context, claim)?,
            Object::Secret(one) => {
                let data: BTreeMap<String, String> =
                    keys(one)?.into_iter().map(|(key, data)| (key, STANDARD.encode(data))).collect();
                let document = serde_json::json!({
                    "apiVersion": "v1",
                    "data": data,
                    "kind": "Secret",
                    "metadata": { "name": one.metadata.name },
                });
                let kept = secret::Secret::new(one.metadata.name.as_str(), document.to_string().into_bytes());
                secret::create(&context.layout, &kept, true)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn make_volume(context: &Context, claim: &Claim) -> Result<(), CommandError> {
    let metadata = &claim.metadata;
    if metadata.name.trim().is_empty() {
        return Err(CommandError::user("persistent volume claim name can not be empty"));
    }
    let annotation = |name: &str| metadata.annotations.get(&format!("{VOLUME}{name}")).cloned();
    if let Some(driver) = annotation("driver").filter(|driver| driver != "local") {
        return Err(CommandError::user(format_args!(
            "volume {}: driver {driver:?} is not supported, there is only local",
            metadata.name
        )));
    }
    if annotation("image").is_some() {
        return Err(CommandError::user(format_args!("volume {}: {VOLUME}image is not supported", metadata.name)));
    }
    let mut made = Volume::named(metadata.name.as_str());
    made.labels.clone_from(&metadata.labels);
    let owner = [("uid", annotation("uid")), ("gid", annotation("gid"))];
    let mut words: Vec<String> = annotation("mount-options").into_iter().collect();
    words.extend(owner.into_iter().filter_map(|(name, id)| Some(format!("{name}={}", id?))));
    made.options.extend(annotation("device").map(|device| ("device".to_owned(), device)));
    made.options.extend(annotation("type").map(|kind| ("type".to_owned(), kind)));
    made.options.extend((!words.is_empty()).then(|| ("o".to_owned(), words.join(","))));
    let is_new = volume::load(&context.layout, &made.name)?.is_none();
    volumes::make(context, &made, true)?;
    if let Some(path) = annotation("import-source").filter(|_| is_new) {
        let words = ["volume", "import", &made.name, &path].map(str::to_owned);
        crate::commands::run_as(&words, context)?;
    }
    Ok(())
}

/// Makes a pod with its containers; after a failure there is none of it.
fn make_pod(
    args: &Args,
    context: &Context,
    id: ContainerId,
    mut plan: PodPlan,
) -> Result<(Pod, Vec<ContainerId>), CommandError> {
    if args.service_container {
        // The service is this process, not one of the supervisors.
        let unit = std::env::var(SYSTEMD_UNIT).ok().filter(|unit| !unit.is_empty());
        let containers = plan.containers.iter_mut().map(|container| &mut container.request);
        for request in containers.chain([&mut plan.request]) {
            request.service.notify = Notify::Ignore;
            request.labels.extend(unit.clone().map(|unit| (SYSTEMD_UNIT.to_owned(), unit)));
        }
    }
    plan.host_paths.iter().try_for_each(find_host_path)?;
    for container in &plan.containers {
        container.request.mounts.iter().try_for_each(|mount| stays_beneath(mount, &plan.host_paths))?;
    }
    put_files(context, &plan.files)?;
    let new = NewPod {
        id: Some(id),
        name: Some(plan.name),
        labels: plan.labels,
        share: Some(plan.share),
        infra_name: plan.infra_name,
        exit_policy: ExitPolicy::Stop,
        restart: plan.restart,
        userns: plan.userns,
        request: plan.request,
        ..NewPod::default()
    };
    let pod = pods::make(context, new)?;
    let mut ids = Vec::new();
    for container in plan.containers {
        let is_init = container.request.init_container.is_some();
        let name = container.name.clone();
        let id = make_container(args, context, &pod, container)
            .map_err(|error| error.while_doing(format!("create container {name}")))
            .inspect_err(|_| discard(context, &pod))?;
        if !is_init {
            ids.push(id);
        }
    }
    Ok((pod, ids))
}

/// Takes away what is of no use: the error that led here is the one to tell.
fn discard(context: &Context, pod: &Pod) {
    for record in pod::members(&context.layout, pod).unwrap_or_default().iter().rev() {
        let _ = rm::remove_to(context, record, true, None);
    }
    let _ = pod::remove(&context.layout, &pod.id);
}

fn make_container(args: &Args, context: &Context, pod: &Pod, plan: ContainerPlan) -> Result<ContainerId, CommandError> {
    if args.replace
        && let Ok(other) = container::find(&context.layout, &plan.name)
        && other.name == plan.name
    {
        lifecycle::begin_stop(context, &other, Some(std::time::Duration::ZERO))?.finish(context)?;
        rm::remove(context, &other, true)?;
    }
    let mut env_below = Vec::new();
    set_defaults(&mut env_below, plan.request.tty);
    let process =
        AskedProcess { env_below, env_above: plan.env, entrypoint: plan.entrypoint, ..AskedProcess::default() };
    let asked = Asked::of(plan.request, process, plan.command, plan.health);
    for warning in asked.warnings() {
        eprintln!("{warning}");
    }
    let place = |request: &mut _| pods::take_place(context, pod, request);
    let mut record = create::complete(context, asked, &args.registry, args.quiet, false, place)?;
    // Each container of the pod may be the last one to have them.
    record.anonymous_volumes = record.request.mounts.iter().filter_map(empty_dir).collect();
    let prepared = create::prepare_for(context, record, Purpose::Create)?;
    create::publish(context, prepared, Some(plan.name))
}

/// The volume of an emptyDir.
fn empty_dir(mount: &Mount) -> Option<String> {
    match mount {
        Mount::Volume(volume) if volume.anonymous && !volume.from_image => volume.name.clone(),
        _ => None,
    }
}

/// Checks a path of the host, and makes what may be made.
fn find_host_path(wanted: &HostPath) -> Result<(), CommandError> {
    let path = &wanted.path;
    let bad = |why: &str| CommandError::user(format!("hostPath {}: {why}", path.display()));
    let failed = |error: std::io::Error| bad(&reason(&error));
    let made = match wanted.kind {
        HostPathKind::DirectoryOrCreate => {
            fs::create_dir_all(path).map_err(failed)?;
            true
        }
        HostPathKind::FileOrCreate if !path.exists() => {
            let file = fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
            file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
            true
        }
        _ => false,
    };
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    match wanted.kind {
        _ if made => Ok(()),
        HostPathKind::Directory if !kind.is_dir() => Err(bad("not a directory")),
        HostPathKind::File | HostPathKind::FileOrCreate if !kind.is_file() => Err(bad("not a file")),
        HostPathKind::Socket if !kind.is_socket() => Err(bad("not a socket")),
        HostPathKind::CharDevice if !kind.is_char_device() => Err(bad("not a character device")),
        HostPathKind::BlockDevice if !kind.is_block_device() => Err(bad("not a block device")),
        _ => Ok(()),
    }
}

/// A `subPath` of a path of the host must not lead out of it.
fn stays_beneath(mount: &Mount, paths: &[HostPath]) -> Result<(), CommandError> {
    let Mount::Bind(bind) = mount else { return Ok(()) };
    let Some(parent) = paths.iter().find(|one| bind.source.starts_with(&one.path) && bind.source != one.path) else {
        return Ok(());
    };
    let bad = |why: &str| CommandError::user(format!("subPath {}: {why}", bind.source.display()));
    let real = |path: &PathBuf| fs::canonicalize(path).map_err(|error| bad(&reason(&error)));
    match real(&bind.source)?.starts_with(real(&parent.path)?) {
        true => Ok(()),
        false => Err(bad("it leads out of its volume")),
    }
}

/// Fills volumes with what ConfigMaps hold.
fn put_files(context: &Context, all: &[Files]) -> Result<(), CommandError> {
    for files in all {
        let (kept, _) = volume::ensure(&context.layout, &files.volume)?;
        let root = kept.mountpoint(&context.layout);
        in_userns_with_output(&Mapping::of_user(), || {
            let directory = fs::File::open(&root)
                .map_err(|error| CommandError::host(format!("volume {}: {}", kept.name, reason(&error))))?;
            for (path, mode, data) in &files.items {
                volume::put_file(&kept.name, directory.as_fd(), path, *mode, data).map_err(CommandError::host)?;
            }
            Ok(String::new())
        })?;
    }
    Ok(())
}

fn report(objects: &[Object], made: &[(Pod, Vec<ContainerId>)], context: &Context) -> Result<(), CommandError> {
    let claims = objects.iter().filter_map(|object| match object {
        Object::Claim(claim) => Some(claim.metadata.name.clone()),
        _ => None,
    });
    let secrets = objects.iter().filter_map(|object| match object {
        Object::Secret(one) => Some(secret::find(&context.layout, &one.metadata.name).ok()?.id),
        _ => None,
    });
    for (heading, names) in [("Volumes:", claims.collect::<Vec<_>>()), ("Secrets:", secrets.collect())] {
        if !names.is_empty() {
            output::print_line(heading)?;
            names.iter().try_for_each(output::print_line)?;
        }
    }
    for (pod, containers) in made {
        output::print_line("Pod:")?;
        output::print_line(&pod.id)?;
        match containers.len() {
            0 => continue,
            1 => output::print_line("Container:")?,
            _ => output::print_line("Containers:")?,
        }
        containers.iter().try_for_each(output::print_line)?;
        output::print_line("")?;
    }
    Ok(())
}

/// Waits for the ends of all containers, or a signal; gives the statuses of those that have ended.
fn wait(context: &Context, made: &[(Pod, Vec<ContainerId>)]) -> Result<Vec<i32>, CommandError> {
    crate::commands::run::block_proxied_signals();
    let mut codes = Vec::new();
    for id in made.iter().flat_map(|(_, ids)| ids).collect::<BTreeSet<_>>() {
        let Some(record) = container::load(&context.layout, id)? else { continue };
        match lifecycle::wait(context, &record, lifecycle::Until::Stopped) {
            Ok(code) => codes.push(code),
            // A signal: that was the end of waiting.
            Err(error) if error.is_printed() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(codes)
}
