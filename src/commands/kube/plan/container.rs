//! One container of a pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use storage::reference::Reference;
use storage::state::request::{Namespace, PullPolicy, Request, Resources, RestartPolicy, SeccompProfile};

use super::environment::Environment;
use super::volumes::Volumes;
use super::{ContainerPlan, PODMAN, Wishes, World, health, restart_policy};
use crate::cli::options::process::workdir;
use crate::cli::parse::{limits, pairs, security, volume, words};
use crate::commands::kube::model::{self, Container, Quantity};
use crate::commands::kube::read::NamedPod;
use crate::error::CommandError;

/// What a container is made from besides its own part of the file.
pub(super) struct Parts<'a> {
    pub(super) named: &'a NamedPod,
    /// Those of the pod with those of the command line.
    pub(super) annotations: &'a BTreeMap<String, String>,
    pub(super) wishes: &'a Wishes,
    pub(super) world: &'a World<'a>,
    pub(super) volumes: &'a Volumes,
}

impl Parts<'_> {
    pub(super) fn container(&self, container: &Container, is_init: bool) -> Result<ContainerPlan, CommandError> {
        let bad =
            |what: &str, why: String| CommandError::user(format!("container {:?}: {what}: {why}", container.name));
        if container.name.is_empty() || container.image.is_empty() {
            let lacks = if container.name.is_empty() { "name" } else { "image" };
            return Err(CommandError::user(format_args!(
                "pod {:?}: container {:?} does not have a {lacks}",
                self.named.name, container.name
            )));
        }
        let environment = Environment::of(self, container)?;
        let expanded = |words: &[String]| words.iter().map(|word| environment.expand(word)).collect::<Vec<_>>();
        let (command, args) = (expanded(&container.command), expanded(&container.args));
        let restart = if is_init { RestartPolicy::No } else { restart_policy(&self.named.spec.restart_policy)? };
        let health = health::check(container, restart).map_err(|why| bad("probe", why))?;
        let (env, secrets) = environment.split();
        let mut request = Request {
            image: container.image.clone(),
            pull: self.pull_policy(container).map_err(|why| bad("imagePullPolicy", why))?,
            tty: container.tty,
            stdin_open: container.stdin,
            labels: self.named.labels.clone(),
            log: self.wishes.log.clone(),
            read_only_tmpfs: true,
            stop_timeout: if is_init { None } else { self.named.spec.termination_grace_period_seconds },
            resources: resources(container).map_err(|why| bad("resources", why))?,
            secrets,
            ..Request::default()
        };
        for (name, value) in self.annotations {
            let (name, value) = pairs::annotation(&format!("{name}={value}")).map_err(|why| bad("annotations", why))?;
            request.annotations.insert(name, value);
        }
        if !container.working_dir.is_empty() {
            request.workdir = PathBuf::from(workdir(&container.working_dir).map_err(|why| bad("workingDir", why))?);
        }
        for (host, namespace) in
            [(self.named.spec.host_pid, &mut request.pid), (self.named.spec.host_ipc, &mut request.ipc)]
        {
            if host {
                *namespace = Namespace::Host;
            }
        }
        self.secure(container, &mut request).map_err(|why| bad("securityContext", why))?;
        self.volumes.mount(container, &mut request)?;
        self.take_annotations(container, &mut request).map_err(|why| bad("annotations", why))?;
        let name = format!("{}-{}", self.named.name, container.name);
        let entrypoint = (!command.is_empty()).then_some(command);
        Ok(ContainerPlan { name, request, env, entrypoint, command: args, health })
    }

    /// Images that are named in full and have the tag `latest` are looked for in their registry, as podman does.
    fn pull_policy(&self, container: &Container) -> Result<PullPolicy, String> {
        match container.image_pull_policy.as_str() {
            "" => {}
            // Kubernetes' word for podman's.
            "IfNotPresent" => return Ok(PullPolicy::Missing),
            word => return words::pull_policy(&word.to_lowercase()),
        }
        let Ok(reference) = Reference::parse(&container.image) else { return Ok(PullPolicy::Missing) };
        let is_in_full =
            container.image.starts_with(&format!("{}/", reference.registry())) && reference.registry() != "localhost";
        let is_latest = reference.digest().is_none() && matches!(reference.tag(), None | Some("latest"));
        Ok(if is_in_full && is_latest { PullPolicy::Newer } else { PullPolicy::Missing })
    }

    fn secure(&self, container: &Container, request: &mut Request) -> Result<(), String> {
        let (own, pod) = (&container.security_context, &self.named.spec.security_context);
        request.read_only = own.read_only_root_filesystem.unwrap_or_default();
        request.privileged = own.privileged.unwrap_or_default();
        request.security.no_new_privileges = own.allow_privilege_escalation == Some(false);
        if own.proc_mount == "Unmasked" {
            request.security.unmask.push("ALL".to_owned());
        }
        let capabilities =
            |names: &[String]| names.iter().map(|name| security::capability(name)).collect::<Result<Vec<_>, _>>();
        request.cap_add = capabilities(&own.capabilities.add)?;
        request.cap_drop = capabilities(&own.capabilities.drop)?;
        // Whoever names a capability in both lists loses it, as in a cluster.
        request.cap_add.retain(|name| name == "ALL" || !request.cap_drop.contains(name));
        request.user = match (own.run_as_user.or(pod.run_as_user), own.run_as_group.or(pod.run_as_group)) {
            (None, None) => String::new(),
            (Some(user), None) => user.to_string(),
            (user, Some(group)) => format!("{}:{group}", user.unwrap_or_default()),
        };
        request.group_add = pod.supplemental_groups.iter().map(ToString::to_string).collect();
        request.security.seccomp = self.seccomp(container, own, pod)?;
        Ok(())
    }

    /// What the container says, then what the pod says; in the words of today, then in those of old.
    fn seccomp(
        &self,
        container: &Container,
        own: &model::SecurityContext,
        pod: &model::SecurityContext,
    ) -> Result<SeccompProfile, String> {
        let file = |name: &str| {
            let path = Path::new(name);
            let stays = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            match stays && !name.is_empty() {
                true => Ok(SeccompProfile::File(self.wishes.seccomp_root.join(path))),
                false => Err(format!("seccomp profile {name:?}: must be a path below {:?}", self.wishes.seccomp_root)),
            }
        };
        if let Some(profile) = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()) {
            return match profile.kind.as_str() {
                "" | "RuntimeDefault" => Ok(SeccompProfile::Default),
                "Unconfined" => Ok(SeccompProfile::Unconfined),
                "Localhost" => file(&profile.localhost_profile),
                other => Err(format!("seccompProfile.type {other:?}: must be RuntimeDefault, Unconfined or Localhost")),
            };
        }
        let of_container = format!("container.seccomp.security.alpha.kubernetes.io/{}", container.name);
        let named = self.annotations.get(&of_container);
        match named.or_else(|| self.annotations.get("seccomp.security.alpha.kubernetes.io/pod")).map(String::as_str) {
            None | Some("runtime/default" | "docker/default") => Ok(SeccompProfile::Default),
            Some("unconfined") => Ok(SeccompProfile::Unconfined),
            Some(text) => match text.strip_prefix("localhost/") {
                Some(name) => file(name),
                None => Err(format!("invalid seccomp path: {text}")),
            },
        }
    }

    /// What podman's own annotations ask for.
    fn take_annotations(&self, container: &Container, request: &mut Request) -> Result<(), String> {
        let of_pod = |name: &str| self.annotations.get(&format!("{PODMAN}{name}"));
        let own = |name: &str| self.annotations.get(&format!("{PODMAN}{name}/{}", container.name));
        let is_true =
            |name: &str| own(name).is_some_and(|value| matches!(value.to_lowercase().as_str(), "true" | "1" | "t"));
        request.init = is_true("init");
        request.remove = is_true("autoremove");
        for text in of_pod("ulimit").iter().flat_map(|text| text.split(',')) {
            request.ulimits.push(limits::ulimit(text)?);
        }
        if let Some(limit) = own("pids-limit") {
            request.resources.pids_limit =
                Some(limit.parse().map_err(|_| format!("pids-limit {limit:?}: must be a number"))?);
        }
        for text in own("volumes-from").iter().flat_map(|text| text.split(';')).filter(|text| !text.is_empty()) {
            let mut source = volume::volumes_from(text)?;
            let spec = &self.named.spec;
            if spec.containers.iter().chain(&spec.init_containers).any(|other| other.name == source.container) {
                source.container = format!("{}-{}", self.named.name, source.container);
            }
            request.volumes_from.push(source);
        }
        Ok(())
    }
}

fn resources(container: &Container) -> Result<Resources, String> {
    let bad = |quantity: &Quantity| format!("{:?} is no quantity", quantity.0);
    let whole = |quantity: Option<&Quantity>| {
        let number = quantity.map(|quantity| quantity.whole().ok_or_else(|| bad(quantity))).transpose()?;
        Ok::<_, String>(number.filter(|number| *number > 0))
    };
    let (limits, requests) = (&container.resources.limits, &container.resources.requests);
    let nano_cpus = limits.get("cpu").map(|cpus| {
        let nano = cpus.milli().and_then(|milli| u64::try_from(milli.checked_mul(1_000_000)?).ok());
        nano.ok_or_else(|| bad(cpus))
    });
    Ok(Resources {
        memory_bytes: whole(limits.get("memory"))?,
        memory_reservation_bytes: whole(requests.get("memory"))?,
        nano_cpus: nano_cpus.transpose()?.filter(|nano| *nano > 0),
        ..Resources::default()
    })
}
