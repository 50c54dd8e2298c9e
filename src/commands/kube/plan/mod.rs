//! Objects → what is to be made. Pure: what it needs from outside is in [`World`].

mod container;
mod environment;
mod health;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use net::mode::Mode;
use storage::state::request::{
    AddHost, Healthcheck, InitContainer, Log, Network, PublishedPort, Request, RestartPolicy, UserNamespace,
};

use super::model::{ConfigMap, Container};
use super::read::NamedPod;
use crate::cli::parse::{limits, names, namespaces, ports};
use crate::error::CommandError;

pub(super) use volumes::{Files, HostPath, HostPathKind, binary};

/// Annotations by which podman is told what Kubernetes has no word for.
pub(super) const PODMAN: &str = "io.podman.annotations.";

/// What the command line says about all pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    /// The network that is not the default one, and whether there is a hosts file.
    pub(super) network: Network,
    /// Ports besides those of the file, which they replace.
    pub(super) published: Vec<PublishedPort>,
    /// Ports without one of the host get the same number there.
    pub(super) publish_all: bool,
    /// The user namespace.
    pub(super) userns: Option<UserNamespace>,
    /// Annotations of all pods.
    pub(super) annotations: BTreeMap<String, String>,
    /// Where output is kept.
    pub(super) log: Log,
    /// Where profiles of type Localhost are.
    pub(super) seccomp_root: PathBuf,
}

/// The keys of a secret and their values.
pub(super) type SecretKeys = BTreeMap<String, Vec<u8>>;

/// What pods refer to.
pub(super) struct World<'a> {
    /// ConfigMaps by name.
    pub(super) config_maps: &'a BTreeMap<String, ConfigMap>,
    /// The keys of a secret, if there is one of this name.
    pub(super) secret: &'a dyn Fn(&str) -> Result<Option<SecretKeys>, CommandError>,
    /// The id that the pod will have.
    pub(super) pod_id: &'a str,
    /// The host's name.
    pub(super) hostname: &'a str,
    /// The host's memory in bytes.
    pub(super) memory_bytes: u64,
    /// The host's processors.
    pub(super) cpus: u64,
}

/// A pod that is to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PodPlan {
    /// Its name.
    pub(super) name: String,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
    /// The namespaces its containers share.
    pub(super) share: Vec<String>,
    /// What holds them is called this.
    pub(super) infra_name: Option<String>,
    /// Network, ports and host name.
    pub(super) request: Request,
    /// What becomes of its containers when they end.
    pub(super) restart: RestartPolicy,
    /// The user namespace of its containers.
    pub(super) userns: UserNamespace,
    /// Files that are put into volumes first.
    pub(super) files: Vec<Files>,
    /// What has to be there, or is made, on the host.
    pub(super) host_paths: Vec<HostPath>,
    /// Its containers; those that come before the others first.
    pub(super) containers: Vec<ContainerPlan>,
    /// One line each about what has no effect here.
    pub(super) warnings: BTreeSet<String>,
}

/// A container that is to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ContainerPlan {
    /// `POD-CONTAINER`.
    pub(super) name: String,
    /// Everything that the image has no say in.
    pub(super) request: Request,
    /// Variables over those of the image.
    pub(super) env: Vec<(String, String)>,
    /// Instead of the image's entrypoint.
    pub(super) entrypoint: Option<Vec<String>>,
    /// Instead of the image's command.
    pub(super) command: Vec<String>,
    /// How its health is found out, if not as the image says.
    pub(super) health: Healthcheck,
}

/// Decides everything about a pod.
pub(super) fn pod(named: &NamedPod, wishes: &Wishes, world: &World<'_>) -> Result<PodPlan, CommandError> {
    let spec = &named.spec;
    let mut annotations = named.annotations.clone();
    annotations.extend(wishes.annotations.clone());
    let mut plan = PodPlan {
        name: named.name.clone(),
        labels: named.labels.clone(),
        share: ["ipc", "net", "uts"].map(str::to_owned).into(),
        infra_name: annotations.get(&format!("{PODMAN}infra.name")).cloned(),
        restart: restart_policy(&spec.restart_policy)?,
        ..PodPlan::default()
    };
    if named.replicas > 1 {
        plan.warn("Limiting replica count to 1, more than one replica is not supported");
    }
    if spec.share_process_namespace {
        plan.share.push("pid".to_owned());
    }
    pod_request(named, wishes, world, &mut plan.request)?;
    plan.userns = user_namespace(named, wishes, &annotations)?;
    let volumes = volumes::Volumes::of(named, world)?;
    let mut names = BTreeSet::new();
    let init = spec.init_containers.iter().map(|container| (container, true));
    for (container, is_init) in init.chain(spec.containers.iter().map(|container| (container, false))) {
        if !names.insert(&container.name) {
            return Err(CommandError::user(format_args!(
                "the pod {:?} is invalid; duplicate container name {:?} detected",
                named.name, container.name
            )));
        }
        let parts = container::Parts { named, annotations: &annotations, wishes, world, volumes: &volumes };
        let mut made = parts.container(container, is_init)?;
        if is_init {
            made.request.init_container = Some(init_kind(container, &annotations)?);
        } else {
            made.request.restart = plan.restart;
        }
        plan.containers.push(made);
        for (name, is_given) in [
            ("readinessProbe", container.readiness_probe.is_some() && !is_init),
            ("lifecycle", container.lifecycle.is_some() && !is_init),
        ] {
            if is_given {
                plan.warn(&format!("container {}: {name} has no effect", container.name));
            }
        }
    }
    (plan.files, plan.host_paths) = volumes.needed();
    Ok(plan)
}

impl PodPlan {
    fn warn(&mut self, line: &str) {
        self.warnings.insert(format!("Warning: pod {}: {line}", self.name));
    }
}

/// Network, ports, names: what the container that holds the namespaces has.
fn pod_request(
    named: &NamedPod,
    wishes: &Wishes,
    world: &World<'_>,
    request: &mut Request,
) -> Result<(), CommandError> {
    let spec = &named.spec;
    let bad = |what: &str, why: String| CommandError::user(format!("pod {:?}: {what}: {why}", named.name));
    request.network = wishes.network.clone();
    let hostname = match (spec.host_network, spec.hostname.as_str()) {
        (true, _) => world.hostname,
        (false, "") => &named.name,
        (false, name) => name,
    };
    request.hostname = Some(names::hostname(hostname).map_err(|why| bad("hostname", why))?);
    let network = &mut request.network;
    if spec.host_network {
        "host".clone_into(&mut network.mode);
    }
    if network.no_hosts && !spec.host_aliases.is_empty() {
        return Err(CommandError::user("HostAliases in yaml file will not work with --no-hosts"));
    }
    for alias in &spec.host_aliases {
        for name in &alias.hostnames {
            let host: AddHost =
                names::add_host(&format!("{name}:{}", alias.ip)).map_err(|why| bad("hostAliases", why))?;
            network.add_hosts.push(host);
        }
    }
    if let Some(dns) = &spec.dns_config {
        for server in &dns.nameservers {
            let server = names::dns(server).map_err(|why| bad("dnsConfig.nameservers", why))?;
            network.dns.extend(server);
        }
        for domain in &dns.searches {
            network.dns_search.push(names::dns_search(domain).map_err(|why| bad("dnsConfig.searches", why))?);
        }
        for option in &dns.options {
            let text = match &option.value {
                Some(value) => format!("{}:{value}", option.name),
                None => option.name.clone(),
            };
            network.dns_options.push(names::dns_option(&text).map_err(|why| bad("dnsConfig.options", why))?);
        }
    }
    network.published.clone_from(&wishes.published);
    for container in &spec.containers {
        publish(container, wishes.publish_all, &mut network.published)
            .map_err(|why| bad(&format!("container {}: ports", container.name), why))?;
    }
    let mode = Mode::parse(&network.mode).map_err(|error| bad("network", error.to_string()))?;
    if !mode.can_publish() {
        network.published.clear();
    }
    for sysctl in &spec.security_context.sysctls {
        let text = format!("{}={}", sysctl.name, sysctl.value);
        let (name, value) = limits::sysctl(&text).map_err(|why| bad("sysctls", why))?;
        limits::sysctl_fits(&name, mode.is_private(), &request.ipc).map_err(|why| bad("sysctls", why))?;
        request.sysctls.insert(name, value);
    }
    Ok(())
}

/// Ports that the container listens on and that are not published otherwise.
fn publish(container: &Container, all: bool, published: &mut Vec<PublishedPort>) -> Result<(), String> {
    for port in &container.ports {
        let inside = if port.container_port == 0 { port.host_port } else { port.container_port };
        let outside = if port.host_port == 0 && all { inside } else { port.host_port };
        if outside == 0 {
            continue;
        }
        let host = match port.host_ip.as_str() {
            "" => String::new(),
            ip if ip.contains(':') => format!("[{ip}]:"),
            ip => format!("{ip}:"),
        };
        let protocol = if port.protocol.is_empty() { "tcp".to_owned() } else { port.protocol.to_ascii_lowercase() };
        let port = ports::published(&format!("{host}{outside}:{inside}/{protocol}"))?;
        let is_same = |other: &PublishedPort| {
            other.protocol == port.protocol
                && (other.container_port..other.container_port.saturating_add(other.range.max(1)))
                    .contains(&port.container_port)
        };
        if !published.iter().any(is_same) {
            published.push(port);
        }
    }
    Ok(())
}

fn restart_policy(word: &str) -> Result<RestartPolicy, CommandError> {
    match word {
        "" | "Always" => Ok(RestartPolicy::Always),
        "OnFailure" => Ok(RestartPolicy::OnFailure { max_retries: None }),
        "Never" => Ok(RestartPolicy::No),
        other => Err(CommandError::user(format_args!("restartPolicy {other:?}: must be Always, OnFailure or Never"))),
    }
}

fn init_kind(container: &Container, annotations: &BTreeMap<String, String>) -> Result<InitContainer, CommandError> {
    if container.liveness_probe.is_some()
        || container.startup_probe.is_some()
        || container.readiness_probe.is_some()
        || container.lifecycle.is_some()
    {
        return Err(CommandError::user(
            "cannot create an init container that has either of lifecycle, livenessProbe, readinessProbe, or \
             startupProbe set",
        ));
    }
    match annotations.get(&format!("{PODMAN}init.container.type")).map(String::as_str) {
        None | Some("" | "once") => Ok(InitContainer::Once),
        Some("always") => Ok(InitContainer::Always),
        Some(other) => Err(CommandError::user(format_args!("init container type {other:?}: must be always or once"))),
    }
}

/// `--userns`, else what the pod asks for. Containers of a pod share namespaces that belong to the user's own.
fn user_namespace(
    named: &NamedPod,
    wishes: &Wishes,
    annotations: &BTreeMap<String, String>,
) -> Result<UserNamespace, CommandError> {
    let asked = match (&wishes.userns, annotations.get(&format!("{PODMAN}userns")), named.spec.host_users) {
        (Some(asked), _, _) => asked.clone(),
        (None, _, Some(false)) => UserNamespace::Auto { size: None, first: None },
        (None, Some(text), _) => namespaces::user(text)
            .map_err(|why| CommandError::user(format_args!("pod {:?}: {PODMAN}userns: {why}", named.name)))?,
        (None, None, _) => UserNamespace::Host,
    };
    match asked {
        UserNamespace::Host | UserNamespace::KeepId { .. } | UserNamespace::Single => Ok(asked),
        _ => Err(CommandError::user(format_args!(
            "pod {:?}: its containers share the user namespace of their pod, which can be host, keep-id or single",
            named.name
        ))
        .hinted("coracle kube play --userns host")),
    }
}

#[cfg(test)]
mod tests;
