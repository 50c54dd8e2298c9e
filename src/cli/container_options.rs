//! What `run` and `create` share: every option, the image and its arguments, and how they become a [`Request`].
//!
//! ```text
//! ContainerOptions ─ask→ Asked (values checked, before any pull) ─finish(image)→ Request
//! ```
//!
//! Both steps are pure: what they need from outside is in [`Caller`] and in the image's configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use net::mode::Mode;
use oci_spec::image::{Config, ImageConfiguration};
use storage::state::request::{Healthcheck, LogDriver, Mount, Notify, Request, TmpfsMount, UserNamespace, VolumeMount};

use super::accepted::Accepted;
use super::options::Caller;
use super::options::accounts::AccountOptions;
use super::options::health::{self, HealthOptions};
use super::options::ignored::OfContainers;
use super::options::life::LifeOptions;
use super::options::mounts::{ImageVolumes, MountOptions};
use super::options::network::NetworkOptions;
use super::options::process::{AskedProcess, ProcessOptions, image_signal, workdir};
use super::options::resources::{CgroupOptions, ResourceOptions};
use super::options::security::SecurityOptions;
use super::options::service::{ServiceOptions, Systemd};
use super::parse::{mount_flags, pairs, ports, words};
use super::usage::{Checked, InvalidOption, one, valued_flag};

/// What makes systemd halt; it does not end at SIGTERM.
const SYSTEMD_STOP_SIGNAL: &str = "SIGRTMIN+3";

/// The options of `run` and `create`, then the image, then everything after it as it is.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true, args_override_self = true, mut_args = valued_flag)]
pub(crate) struct ContainerOptions {
    #[command(flatten)]
    pub(crate) life: LifeOptions,
    #[command(flatten)]
    pub(crate) health: HealthOptions,
    #[command(flatten)]
    pub(crate) process: ProcessOptions,
    #[command(flatten)]
    pub(crate) accounts: AccountOptions,
    #[command(flatten)]
    pub(crate) service: ServiceOptions,
    #[command(flatten)]
    pub(crate) mounts: MountOptions,
    #[command(flatten)]
    pub(crate) network: NetworkOptions,
    #[command(flatten)]
    pub(crate) security: SecurityOptions,
    #[command(flatten)]
    pub(crate) resources: ResourceOptions,
    #[command(flatten)]
    pub(crate) cgroup: CgroupOptions,
    #[command(flatten)]
    pub(crate) accepted: Accepted<OfContainers>,
    /// Print help (-h is --hostname)
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The image, then the command and its arguments
    // One list: options stop at its first value, whatever follows looks like.
    #[arg(value_name = "IMAGE [COMMAND [ARG...]]", required = true, trailing_var_arg = true, num_args = 1..)]
    pub(crate) image_and_command: Vec<String>,
}

/// A command line without mistakes, waiting for its image.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Complete but for what the image has a say in.
    request: Request,
    process: AskedProcess,
    health: Healthcheck,
    image_health: Option<Healthcheck>,
    image_volumes: ImageVolumes,
    systemd: Systemd,
    command: Vec<String>,
    /// Ports were to be published on a network that has none.
    ports_discarded: bool,
    /// The caller's ids, for `--userns keep-id`.
    ids: (u32, u32),
}

/// Why there is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub(crate) enum BadRequest {
    #[error(transparent)]
    Option(#[from] InvalidOption),
    #[error("no command or entrypoint provided, and no CMD or ENTRYPOINT from image")]
    NoCommand,
}

/// The variable, and the label, that name the unit of systemd which a container belongs to.
pub(crate) const SYSTEMD_UNIT: &str = "PODMAN_SYSTEMD_UNIT";

impl ContainerOptions {
    /// The image as named, or the directory with `--rootfs`.
    pub(crate) fn image(&self) -> &str {
        self.image_and_command.first().map_or("", String::as_str)
    }

    /// Checks every option. `create_command` is the command line, for inspect.
    pub(crate) fn ask(&self, caller: &Caller<'_>, create_command: Vec<String>) -> Checked<Asked> {
        let mut request = Request { create_command, ..Request::default() };
        if self.life.rootfs {
            request.rootfs = Some(caller.cwd.join(self.image()));
        } else {
            self.image().clone_into(&mut request.image);
        }
        self.security.apply_namespaces(&mut request)?;
        self.life.apply(&mut request, caller)?;
        // The unit that runs this command.
        let unit = caller.environment.iter().find(|(name, _)| name == SYSTEMD_UNIT);
        request.labels.extend(unit.cloned().filter(|(_, unit)| !unit.is_empty()));
        let process = self.process.apply(&mut request, caller)?;
        self.accounts.apply(&mut request, caller)?;
        let systemd = self.service.apply(&mut request)?;
        self.mounts.apply(&mut request, caller)?;
        self.network.apply(&mut request, caller)?;
        self.security.apply(&mut request, caller)?;
        self.resources.apply(&mut request)?;
        self.cgroup.apply(&mut request)?;
        if request.tty && request.log.driver == LogDriver::Passthrough {
            return Err(InvalidOption {
                flag: "--log-driver",
                value: "passthrough".to_owned(),
                reason: "a terminal of the container's own cannot be passed through: conflicts with --tty".to_owned(),
            });
        }
        let network = &mut request.network;
        let can_publish = Mode::parse(&network.mode).is_ok_and(|mode| mode.can_publish());
        let ports_discarded = !can_publish && (network.publish_all || !network.published.is_empty());
        if ports_discarded {
            network.publish_all = false;
            network.published.clear();
        }
        let image_volumes = self.mounts.image_volumes()?;
        let command = self.image_and_command.iter().skip(1).cloned().collect();
        let (health, ids) = (self.health.ask()?, (caller.uid, caller.gid));
        Ok(Asked {
            request,
            process,
            health,
            image_health: None,
            image_volumes,
            systemd,
            command,
            ports_discarded,
            ids,
        })
    }
}

impl Asked {
    /// What was asked for otherwise than by options. Images' volumes are anonymous ones.
    pub(crate) fn of(request: Request, process: AskedProcess, command: Vec<String>, health: Healthcheck) -> Self {
        Self {
            request,
            process,
            health,
            image_health: None,
            image_volumes: ImageVolumes::Anonymous,
            systemd: Systemd::ByCommand,
            command,
            ports_discarded: false,
            ids: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        }
    }

    /// What the image has no say in: name to resolve, pull policy, platform, mounts and so on.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// Lines for stderr about options that have no effect here.
    pub(crate) fn warnings(&self) -> Vec<String> {
        const DISCARDED: &str =
            "warning: published ports are discarded: a host, container or none network has no ports of its own";
        const ALIAS: &str = "Warning: --network-alias: other containers do not find it: each has a network of its own";
        const LINK: &str = "Warning: --link: only what the other container publishes on this host can be reached: each has \
                            a network of its own";
        let network = &self.request.network;
        let is_own = matches!(Mode::parse(&network.mode), Ok(Mode::Slirp4netns(_) | Mode::Pasta(_) | Mode::Builtin(_)));
        let alias = (!network.aliases.is_empty() && is_own).then_some(ALIAS);
        let link = (!network.links.is_empty() && is_own).then_some(LINK);
        let discarded = self.ports_discarded.then_some(DISCARDED);
        let own = discarded.into_iter().chain(alias).chain(link).map(str::to_owned);
        own.chain(words::idle_log_options(&self.request.log.options)).collect()
    }

    /// Has the health check of the image that [`Asked::finish`] will get, from the bytes of its configuration.
    pub(crate) fn with_image_health(mut self, raw_config: Option<&[u8]>) -> Self {
        self.image_health = raw_config.and_then(health::of_image);
        self
    }

    /// Merges the image's configuration; without one (`--rootfs`) only defaults are merged.
    ///
    /// # Errors
    /// [`BadRequest::NoCommand`], or an option whose name says that the image is at fault.
    pub(crate) fn finish(mut self, image: Option<&ImageConfiguration>) -> Result<Request, BadRequest> {
        let none = Config::default();
        let config = image.and_then(|image| image.config().as_ref()).unwrap_or(&none);
        self.merge_arguments(config)?;
        self.merge_environment(config);
        self.merge_places(config)?;
        self.merge_ports(config)?;
        self.request.healthcheck = health::merge(std::mem::take(&mut self.health), self.image_health.take())?;
        if self.request.service.notify == Notify::Healthy && self.request.healthcheck.is_none() {
            let reason = "needs a health check; see --health-cmd".to_owned();
            return Err(InvalidOption { flag: "--sdnotify", value: "healthy".to_owned(), reason }.into());
        }
        let mut labels: BTreeMap<String, String> = config.labels().iter().flatten().map(owned).collect();
        labels.append(&mut self.request.labels);
        self.request.labels = labels;
        if let Some(signal) = config.stop_signal().as_ref().filter(|signal| !signal.is_empty())
            && self.request.stop_signal.is_none()
        {
            self.request.stop_signal = Some(image_signal(signal)?);
        }
        self.request.service.systemd = self.systemd.applies_to(&self.request.args);
        if self.request.service.systemd && self.request.stop_signal.is_none() {
            self.request.stop_signal = Some(SYSTEMD_STOP_SIGNAL.to_owned());
        }
        Ok(self.request)
    }

    /// Docker's rule: an entrypoint of the user's takes the image's command away with the image's entrypoint.
    fn merge_arguments(&mut self, config: &Config) -> Result<(), BadRequest> {
        let asked = self.process.entrypoint.take();
        let image_command = if asked.is_none() { config.cmd().clone().unwrap_or_default() } else { Vec::new() };
        let request = &mut self.request;
        request.entrypoint = asked.or_else(|| config.entrypoint().clone()).unwrap_or_default();
        if matches!(request.entrypoint.as_slice(), [only] if only.is_empty()) {
            request.entrypoint.clear();
        }
        request.cmd = if self.command.is_empty() { image_command } else { std::mem::take(&mut self.command) };
        request.args = request.entrypoint.iter().chain(&request.cmd).cloned().collect();
        if request.args.is_empty() { Err(BadRequest::NoCommand) } else { Ok(()) }
    }

    fn merge_environment(&mut self, config: &Config) {
        let mut env = std::mem::take(&mut self.process.env_below);
        for variable in config.env().iter().flatten() {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            if !name.is_empty() && !variable.contains('\0') {
                pairs::set(&mut env, name, value);
            }
        }
        if self.process.unset_env_all {
            env.clear();
        }
        env.retain(|(name, _)| !self.process.unset_env.contains(name));
        let of_image = env.clone();
        for (name, value) in &self.process.env_merge {
            pairs::set(&mut env, name, &pairs::expand(value, &of_image));
        }
        for (name, value) in &self.process.env_above {
            pairs::set(&mut env, name, value);
        }
        self.request.env = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    }

    /// User, working directory, volumes.
    fn merge_places(&mut self, config: &Config) -> Checked<()> {
        let request = &mut self.request;
        if request.user.is_empty() {
            request.user = config.user().clone().unwrap_or_default();
        }
        if let (UserNamespace::KeepId { uid, gid, .. }, true) = (&request.userns, request.user.is_empty()) {
            request.user = format!("{}:{}", uid.unwrap_or(self.ids.0), gid.unwrap_or(self.ids.1));
        }
        if request.workdir.as_os_str().is_empty() {
            let asked = config.working_dir().as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
            // Some builders leave a relative one; docker reads it from the root.
            let absolute = format!("/{}", asked.trim_start_matches('/'));
            request.workdir = one("WORKDIR of the image", &absolute, workdir)?.into();
        }
        for path in config.volumes().iter().flatten() {
            let target = one("VOLUME of the image", path, volume_target)?;
            if request.mounts.iter().any(|mount| *mount.target() == target) {
                continue;
            }
            match self.image_volumes {
                ImageVolumes::Anonymous => {
                    let mount = VolumeMount { target, from_image: true, ..VolumeMount::default() };
                    request.mounts.push(Mount::Volume(mount));
                }
                ImageVolumes::Tmpfs => {
                    request.mounts.push(Mount::Tmpfs(TmpfsMount { target, ..TmpfsMount::default() }));
                }
                ImageVolumes::Ignore => {}
            }
        }
        Ok(())
    }

    fn merge_ports(&mut self, config: &Config) -> Checked<()> {
        let exposed = &mut self.request.network.exposed;
        for value in config.exposed_ports().iter().flatten() {
            let ports = one("EXPOSE of the image", value, ports::exposed)?;
            exposed.push(ports);
        }
        exposed.sort_unstable();
        exposed.dedup();
        Ok(())
    }
}

fn volume_target(path: &str) -> Result<PathBuf, String> {
    mount_flags::target(&format!("/{}", Path::new(path).to_string_lossy().trim_start_matches('/')))
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

#[cfg(test)]
mod tests;
