//! What `pod create` and `pod clone` have in common: what a pod is, and what its containers get of it.

use std::path::PathBuf;

use storage::state::request::{Namespace, Request, UserNamespace};

use super::create::NewPod;
use crate::cli::options::Caller;
use crate::cli::options::accounts::AccountOptions;
use crate::cli::options::resources::ResourceOptions;
use crate::cli::parse::{devices, limits, namespaces, pairs, security, size, volume, words};
use crate::cli::usage::{each, maybe, one};
use crate::commands::create;
use crate::error::CommandError;

/// Options of pods, besides their network.
#[derive(clap::Args, Debug)]
pub(crate) struct PodOptions {
    /// Set metadata on the pod
    #[arg(short, long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Add the labels in this file
    #[arg(long = "label-file", value_name = "FILE")]
    label_files: Vec<String>,
    /// When to start its containers again: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// User namespace of its containers: host, keep-id[:uid=,gid=,size=] or single
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// Map user ids of its containers, CONTAINER:ID[:COUNT]; ID counts the ids of this user, of which 0 is their own
    #[arg(long = "uidmap", value_name = "MAP", value_delimiter = ',')]
    uid_maps: Vec<String>,
    /// Map group ids; the same as --uidmap if that is given alone
    #[arg(long = "gidmap", value_name = "MAP", value_delimiter = ',')]
    gid_maps: Vec<String>,
    /// Whose subordinate user ids its containers have; only this user's can be
    #[arg(long = "subuidname", value_name = "NAME", hide = true)]
    subuid_name: Option<String>,
    /// Whose subordinate group ids its containers have; only this user's can be
    #[arg(long = "subgidname", value_name = "NAME", hide = true)]
    subgid_name: Option<String>,
    /// PID namespace that is shared with --share pid: private or host
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// UTS namespace that is shared: private or host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Set a kernel parameter of the pod's namespaces, KEY=VALUE
    #[arg(long = "sysctl", value_name = "SYSCTL", value_delimiter = ',')]
    sysctls: Vec<String>,
    /// Security option of containers that have none of their own, such as seccomp=unconfined
    #[arg(long = "security-opt", value_name = "OPTION")]
    security_options: Vec<String>,
    /// Make a device of the host visible in all containers of the pod, SOURCE[:TARGET[:PERMISSIONS]]
    #[arg(long = "device", value_name = "DEVICE")]
    devices: Vec<String>,
    /// Use a graphics device of the host (none can be found: see --device)
    #[arg(long = "gpus", value_name = "DEVICE", hide = true)]
    gpus: Vec<String>,
    /// Mount a path of the host or a volume into all containers of the pod
    #[arg(short, long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Mount the volumes of another container into all containers of the pod, CONTAINER[:ro,z]
    #[arg(long = "volumes-from", value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Has no effect: what holds the namespaces runs no systemd
    #[arg(long, value_name = "SIZE", hide = true)]
    shm_size_systemd: Option<String>,
    /// CPUs that its containers run on, such as 0-3,5
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that its containers use, such as 0-1
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,
    /// Slice of the user's service manager, or path of a cgroup, that its containers' cgroups are made in
    #[arg(long, value_name = "PARENT")]
    cgroup_parent: Option<String>,
    /// Memory that its containers may use together
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit of their memory and swap together, or -1 for no limit on swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Number of CPUs that they may use together, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Relative weight of their CPU time
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Relative weight of their block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Relative weight of their block I/O of a device, PATH:WEIGHT
    #[arg(long, value_name = "DEVICE")]
    blkio_weight_device: Vec<String>,
    /// Bytes per second that they read from a device together, PATH:SIZE
    #[arg(long, value_name = "DEVICE")]
    device_read_bps: Vec<String>,
    /// Bytes per second that they write to a device together, PATH:SIZE
    #[arg(long, value_name = "DEVICE")]
    device_write_bps: Vec<String>,
    /// Has no effect: nothing is executed to hold namespaces
    #[arg(long, value_name = "COMMAND")]
    infra_command: Option<String>,
    /// Name of the container that holds the namespaces
    #[arg(long, value_name = "NAME")]
    infra_name: Option<String>,
    /// Write the process ID of the supervisor that holds the namespaces to the file, whenever the pod starts
    #[arg(long, value_name = "FILE")]
    infra_conmon_pidfile: Option<PathBuf>,
}

impl PodOptions {
    /// Puts what was asked for over what there is; the network of the pod is known.
    pub(super) fn apply(&self, new: &mut NewPod) -> Result<(), CommandError> {
        for (flag, is_given) in
            [("--infra-command", self.infra_command.is_some()), ("--shm-size-systemd", self.shm_size_systemd.is_some())]
        {
            if is_given {
                warn_of(flag);
            }
        }
        if let Some(text) = &self.restart {
            new.restart = one("--restart", text, words::restart_policy).map_err(CommandError::user)?;
        }
        new.infra_name = self.infra_name.clone().or_else(|| new.infra_name.take());
        create::with_caller(|caller| {
            new.request.supervisor_pidfile = self.infra_conmon_pidfile.as_ref().map(|path| caller.cwd.join(path));
            self.apply_labels(new, caller)?;
            self.apply_userns(new, caller)?;
            self.apply_namespaces(new)?;
            self.apply_limits(new)?;
            self.apply_files(new, caller)
        })
    }

    fn apply_labels(&self, new: &mut NewPod, caller: &Caller<'_>) -> Result<(), CommandError> {
        let of_file = |path: &str| pairs::label_file(&caller.file(path)?);
        let labels = each("--label-file", &self.label_files, of_file).map_err(CommandError::user)?.concat();
        new.labels.extend(labels);
        new.labels.extend(each("-l, --label", &self.labels, pairs::label).map_err(CommandError::user)?);
        Ok(())
    }

    fn apply_userns(&self, new: &mut NewPod, caller: &Caller<'_>) -> Result<(), CommandError> {
        let userns =
            maybe("--userns", self.userns.as_ref(), namespaces::user).map_err(CommandError::user)?.unwrap_or_default();
        let mut asked = Request { userns, ..Request::default() };
        let is_shareable =
            matches!(asked.userns, UserNamespace::Host | UserNamespace::KeepId { .. } | UserNamespace::Single);
        if !is_shareable {
            return Err(CommandError::user(format_args!(
                "--userns {}: containers of a pod share its namespaces: use host, keep-id or single",
                self.userns.as_deref().unwrap_or_default()
            )));
        }
        let accounts = AccountOptions {
            passwd: true,
            passwd_entry: None,
            group_entry: None,
            host_users: Vec::new(),
            uid_maps: self.uid_maps.clone(),
            subuid_name: self.subuid_name.clone(),
            subgid_name: self.subgid_name.clone(),
            gid_maps: self.gid_maps.clone(),
        };
        accounts.apply(&mut asked, caller).map_err(CommandError::user)?;
        if asked.userns != UserNamespace::Host && !new.shared().is_empty() {
            let flag = if self.userns.is_some() { "--userns" } else { "--uidmap" };
            return Err(CommandError::user(format_args!(
                "{flag}: containers with ids of their own cannot join namespaces that others share"
            ))
            .hinted("--share none"));
        }
        if self.userns.is_some() || asked.userns != UserNamespace::Host {
            new.userns = asked.userns;
        }
        Ok(())
    }

    fn apply_namespaces(&self, new: &mut NewPod) -> Result<(), CommandError> {
        let share = new.shared();
        let of_members = &mut new.members;
        for (flag, name, mode, is_host) in [
            ("--pid", "pid", &self.pid, &mut of_members.host_pid),
            ("--uts", "uts", &self.uts, &mut of_members.host_uts),
        ] {
            let Some(mode) = mode else { continue };
            *is_host = match one(flag, mode, namespaces::namespace).map_err(CommandError::user)? {
                Namespace::Host => true,
                Namespace::Private => false,
                _ => {
                    return Err(CommandError::user(format_args!("{flag} {mode}: a pod has private or host")));
                }
            };
            if !share.iter().any(|shared| shared == name) {
                eprintln!("Warning: {flag} has no effect: the namespace is not shared; see --share");
            }
        }
        if of_members.host_uts && new.request.hostname.is_some() {
            return Err(CommandError::user(
                "cannot set hostname when running in the host UTS namespace: invalid configuration",
            ));
        }
        let private = net::mode::Mode::parse(&new.request.network.mode).is_ok_and(|mode| mode.is_private());
        for (name, value) in each("--sysctl", &self.sysctls, limits::sysctl).map_err(CommandError::user)? {
            one("--sysctl", &name, |name| limits::sysctl_fits(name, private, &new.request.ipc))
                .map_err(CommandError::user)?;
            new.request.sysctls.insert(name, value);
        }
        Ok(())
    }

    fn apply_files(&self, new: &mut NewPod, caller: &Caller<'_>) -> Result<(), CommandError> {
        let volumes = each("-v, --volume", &self.volumes, |value| volume::volume(value, caller.cwd));
        for mount in volumes.map_err(CommandError::user)? {
            new.request.mounts.retain(|other| other.target() != mount.target());
            new.request.mounts.push(mount);
        }
        new.request.volumes_from =
            each("--volumes-from", &self.volumes_from, volume::volumes_from).map_err(CommandError::user)?;
        if let Some(size) = maybe("--shm-size", self.shm_size.as_ref(), size::bytes).map_err(CommandError::user)? {
            new.request.shm_size_bytes = Some(size);
        }
        if let Some(gpus) = self.gpus.iter().find(|gpus| !matches!(gpus.as_str(), "" | "none")) {
            return Err(CommandError::user(format!("--gpus {gpus}: each container gets its own: see --gpus of run")));
        }
        let of_members = &mut new.members;
        for device in each("--device", &self.devices, limits::device).map_err(CommandError::user)? {
            of_members.devices.push(device);
        }
        for value in &self.security_options {
            one("--security-opt", value, |value| {
                security::security_option(&mut of_members.security.clone(), value, caller.cwd)
            })
            .map_err(CommandError::user)?;
            security::security_option(&mut of_members.security, value, caller.cwd).map_err(CommandError::user)?;
        }
        let cpus = maybe("--cpuset-cpus", self.cpuset_cpus.as_ref(), words::cpuset).map_err(CommandError::user)?;
        let nodes = maybe("--cpuset-mems", self.cpuset_mems.as_ref(), words::cpuset).map_err(CommandError::user)?;
        let parent = self.cgroup_parent.as_ref().filter(|parent| !parent.is_empty());
        let parent = maybe("--cgroup-parent", parent, devices::cgroup_parent).map_err(CommandError::user)?;
        of_members.cpuset_cpus = cpus.or_else(|| of_members.cpuset_cpus.take());
        of_members.cpuset_mems = nodes.or_else(|| of_members.cpuset_mems.take());
        of_members.cgroup_parent = parent.or_else(|| of_members.cgroup_parent.take());
        Ok(())
    }

    /// Limits of the pod as a whole, which take the place of those of the one that it is cloned from.
    fn apply_limits(&self, new: &mut NewPod) -> Result<(), CommandError> {
        let options = ResourceOptions {
            memory: self.memory.clone(),
            memory_swap: self.memory_swap.clone(),
            cpus: self.cpus.clone(),
            cpu_shares: self.cpu_shares,
            blkio_weight: self.blkio_weight,
            blkio_weight_device: self.blkio_weight_device.clone(),
            device_read_bps: self.device_read_bps.clone(),
            device_write_bps: self.device_write_bps.clone(),
            ..ResourceOptions::default()
        };
        let mut asked = Request::default();
        options.apply(&mut asked).map_err(CommandError::user)?;
        if !asked.resources.is_empty() {
            // A device that is none is an error now, not when the first container starts.
            crate::supervisor::resources::of(&asked.resources)?;
            new.members.together = asked.resources;
        }
        Ok(())
    }
}

/// Tells that an option of podman's is for a process that is not executed here.
pub(super) fn warn_of(flag: &str) {
    eprintln!("Warning: {flag} has no effect: a pod's namespaces are held without an image and a command");
}
