//! A container becomes part of a pod, and finds it awake when it starts.

use storage::state::container::{self, Record};
use storage::state::layout::ContainerId;
use storage::state::pod::{self, OfMembers, Pod};
use storage::state::request::{Namespace, OfPod, Request, RestartPolicy, Security, UserNamespace, VolumesFrom};
use storage::state::status::{self, State};

use super::create::{NewPod, make};
use crate::cli::options::life::LifeOptions;
use crate::commands::{Context, start};
use crate::error::{CommandError, reason};

/// `--pod` and `--pod-id-file`: the container shares what its pod shares. `new:NAME` makes a pod, with the container's
/// ports.
pub(crate) fn join(context: &Context, life: &LifeOptions, request: &mut Request) -> Result<(), CommandError> {
    let from_file = life.pod_id_file.as_ref().map(|path| {
        let read = std::fs::read_to_string(path);
        read.map_err(|error| CommandError::user(format!("--pod-id-file {}: {}", path.display(), reason(&error))))
    });
    let Some(text) = from_file.transpose()?.map(|text| text.trim().to_owned()).or_else(|| life.pod.clone()) else {
        return Ok(());
    };
    let pod = match text.strip_prefix("new:") {
        Some(name) => {
            let published = std::mem::take(&mut request.network.published);
            let hostname = request.hostname.take();
            let mut new = NewPod { name: Some(name.to_owned()), ..NewPod::default() };
            new.request.network.mode = std::mem::take(&mut request.network.mode);
            new.request.network.endpoints = request.network.endpoints.take();
            new.request.network.egress = std::mem::take(&mut request.network.egress);
            (new.request.network.published, new.request.hostname) = (published, hostname);
            make(context, new)?
        }
        None => pod::find(&context.layout, &text)?,
    };
    take_place(context, &pod, request)
}

/// Points the namespaces of a container at those of its pod.
pub(crate) fn take_place(context: &Context, pod: &Pod, request: &mut Request) -> Result<(), CommandError> {
    request.pod = Some(pod.id.to_string());
    request.pod_name.clone_from(&pod.name);
    if request.restart == RestartPolicy::No && !request.remove && request.init_container.is_none() {
        request.restart = pod.restart;
    }
    if request.userns == UserNamespace::Host {
        request.userns.clone_from(&pod.userns);
    }
    take_over(&pod.members, request);
    request.cgroup.pod = limits(&pod.id, &pod.members);
    let Some(infra) = &pod.infra else { return Ok(()) };
    let shares = |name: &str| pod.share.iter().any(|shared| shared == name);
    let target = || Namespace::Container(infra.to_string());
    if shares("net") && request.network.mode.is_empty() {
        if request.network.endpoints.is_some() {
            return Err(CommandError::user(
                "networks and static ip/mac address must be defined when the pod is created: network cannot be \
                 configured when it is shared with a pod",
            ));
        }
        if !request.network.published.is_empty() || request.network.publish_all {
            return Err(CommandError::user(
                "published or exposed ports must be defined when the pod is created: network cannot be configured when \
                 it is shared with a pod",
            ));
        }
        if !request.network.egress.is_empty() {
            return Err(CommandError::user(
                "--egress must be given when the pod is created: its containers share one network",
            ));
        }
        request.network.mode = format!("container:{infra}");
    }
    for (name, namespace) in [("ipc", &mut request.ipc), ("pid", &mut request.pid), ("uts", &mut request.uts)] {
        if !shares(name) || *namespace != Namespace::Private {
            continue;
        }
        if (name == "pid" && pod.members.host_pid) || (name == "uts" && pod.members.host_uts) {
            *namespace = Namespace::Host;
            continue;
        }
        *namespace = target();
        if name == "uts" {
            if request.hostname.is_some() {
                return Err(CommandError::user(
                    "cannot set hostname when joining the pod UTS namespace: invalid configuration",
                ));
            }
            request.hostname = Some(pod.hostname.clone());
        }
    }
    // Volumes of the pod are everybody's.
    if let Ok(Some(record)) = container::load(&context.layout, infra)
        && !record.request.mounts.is_empty()
    {
        request.volumes_from.insert(0, VolumesFrom { container: infra.to_string(), read_only: false });
    }
    Ok(())
}

/// The limits of a pod, for each of its containers.
pub(super) fn limits(id: &ContainerId, members: &OfMembers) -> Option<Box<OfPod>> {
    let resources = (!members.together.is_empty()).then(|| members.together.clone())?;
    Some(Box::new(OfPod { id: id.to_string(), resources }))
}

/// What the pod has for its containers, where they have nothing of their own.
fn take_over(members: &OfMembers, request: &mut Request) {
    for device in &members.devices {
        if !request.devices.iter().any(|own| own.target == device.target) {
            request.devices.push(device.clone());
        }
    }
    if request.security == Security::default() {
        request.security = members.security.clone();
    } else {
        request.security.no_new_privileges |= members.security.no_new_privileges;
    }
    for (own, of_pod) in [
        (&mut request.resources.cpuset_cpus, &members.cpuset_cpus),
        (&mut request.resources.cpuset_mems, &members.cpuset_mems),
        (&mut request.cgroup.parent, &members.cgroup_parent),
    ] {
        if own.is_none() {
            own.clone_from(of_pod);
        }
    }
}

/// Starts whoever holds the namespaces that a container shares with its pod.
pub(crate) fn wake(context: &Context, record: &Record) -> Result<(), CommandError> {
    if record.request.infra {
        return Ok(());
    }
    let gone = || CommandError::user(format!("container {}: its pod {} is gone", record.name, record.request.pod_name));
    let Some(pod) = super::of(context, record)? else { return Err(gone()) };
    match &pod.infra {
        Some(infra) => wake_infra(context, infra, gone),
        None => Ok(()),
    }
}

/// Starts the container that holds a pod's namespaces, unless it runs.
pub(super) fn wake_infra(
    context: &Context,
    infra: &ContainerId,
    gone: impl Fn() -> CommandError,
) -> Result<(), CommandError> {
    let record = container::load(&context.layout, infra)?.ok_or_else(gone)?;
    match status::observe(&context.layout, &record)?.state {
        State::Running { .. } | State::Paused { .. } => Ok(()),
        _ => start::start(context, record),
    }
}
