//! What `run` and `create` were asked for: the `request` member of `container.json`.
//!
//! Everything here is decided: flags, image configuration and defaults are merged before a [`Request`] exists, so that a
//! reader (`start`, `inspect`, `commit`) needs neither the image nor the command line.
//!
//! Written once by `create`/`run`, changed by `update` under the container's lock, read by everything else without one.
//! Forward and backward compatible: a field that is absent has its default, a field that is unknown is ignored, and a
//! meaning never changes under an old name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod accounts;
mod health;
mod mounts;
mod network;
mod resources;
mod service;

pub use accounts::{Accounts, IdRange};
pub use health::{HealthAction, HealthLog, Healthcheck, StartupCheck};
pub use mounts::{
    BindMount, Device, DevptsMount, ImageMount, Mount, Overlay, Propagation, SecretKind, SecretUse, TmpfsMount,
    VolumeMount, VolumesFrom,
};
pub use network::{AddHost, Endpoint, ExposedPorts, Link, Network, Protocol, PublishedPort};
pub use resources::{Cgroup, CgroupMode, OfDevice, OfPod, Resources};
pub use service::{Notify, Service};

/// Everything asked for of one container, defaults resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The image as the user named it; empty with `rootfs`.
    pub image: String,
    /// A directory that serves as root file system instead of an image.
    pub rootfs: Option<PathBuf>,
    /// The platform asked for, `os/arch[/variant]`.
    pub platform: Option<String>,
    /// When the image is looked for in its registry.
    pub pull: PullPolicy,
    /// The command line of `coracle` that made this container.
    pub create_command: Vec<String>,

    /// The final argument vector: entrypoint, then command.
    pub args: Vec<String>,
    /// The entrypoint in effect.
    pub entrypoint: Vec<String>,
    /// The command in effect.
    pub cmd: Vec<String>,
    /// The final environment, `NAME=value`, without `HOSTNAME` and `HOME`, which depend on the container and its user.
    pub env: Vec<String>,
    /// Working directory inside the container.
    pub workdir: PathBuf,
    /// `user[:group]` as given or as the image has it; empty means root.
    pub user: String,
    /// Supplementary groups by name or number; `keep-groups` keeps the caller's.
    pub group_add: Vec<String>,
    /// What is added to its passwd and group files.
    pub accounts: Accounts,
    /// File mode creation mask of the first process.
    pub umask: Option<u32>,
    /// Time zone name, or `local` for the host's.
    pub tz: Option<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub stdin_open: bool,
    /// The streams a foreground run is attached to.
    pub attach: Vec<Stream>,
    /// Run an init as PID 1 that reaps and forwards signals.
    pub init: bool,
    /// The init program on the host instead of the built-in one.
    pub init_path: Option<PathBuf>,
    /// The signal `stop` sends, as `SIGTERM`; the default is SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds `stop` waits before it kills.
    pub stop_timeout: Option<u32>,
    /// Seconds after which the container is killed, counted from its start.
    pub timeout: Option<u32>,

    /// Labels of the image and of the command line.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the OCI specification.
    pub annotations: BTreeMap<String, String>,
    /// The id of the pod it belongs to.
    pub pod: Option<String>,
    /// That pod's name, which never changes.
    pub pod_name: String,
    /// It holds the namespaces of its pod, and executes nothing.
    pub infra: bool,
    /// It runs to its end before the others of its pod start.
    pub init_container: Option<InitContainer>,
    /// Delete the container when it exits.
    pub remove: bool,
    /// Where the container's id was asked to be written.
    pub cidfile: Option<PathBuf>,
    /// Where the pid of the first process is written.
    pub pidfile: Option<PathBuf>,
    /// Where the pid of the supervisor is written.
    pub supervisor_pidfile: Option<PathBuf>,
    /// What it has to do with systemd.
    pub service: Service,
    /// Containers that are started before this one.
    pub requires: Vec<String>,

    /// Mounts asked for and volumes the image declares, in order of appearance.
    pub mounts: Vec<Mount>,
    /// Secrets it gets.
    pub secrets: Vec<SecretUse>,
    /// Containers whose volumes are taken over.
    pub volumes_from: Vec<VolumesFrom>,
    /// The root file system is read-only.
    pub read_only: bool,
    /// With `read_only`: `/run`, `/tmp` and `/var/tmp` are writable temporary file systems.
    pub read_only_tmpfs: bool,
    /// Size of `/dev/shm` in bytes.
    pub shm_size_bytes: Option<u64>,
    /// There is no `/dev/shm` (`--ipc none`).
    pub no_shm: bool,
    /// Directories in the container that programs change their root to.
    pub chroot_dirs: Vec<PathBuf>,
    /// Host devices made visible.
    pub devices: Vec<Device>,
    /// Devices by name, `vendor.com/class=name`: specifications on the host say what they are.
    pub cdi_devices: Vec<String>,
    /// Where those are; the usual places when empty.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Rules for the device cgroup, as given.
    pub device_cgroup_rules: Vec<String>,

    /// NIS domain name; none when absent.
    pub domainname: Option<String>,
    /// Host name; the short container id when absent.
    pub hostname: Option<String>,
    /// The network and what is published on it.
    pub network: Network,

    /// Every capability, every device the user can open, nothing masked, no seccomp.
    pub privileged: bool,
    /// Capabilities to add: `CAP_NAME` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop: `CAP_NAME` or `ALL`.
    pub cap_drop: Vec<String>,
    /// What `--security-opt` said.
    pub security: Security,
    /// Kernel parameters of the container's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the first process.
    pub ulimits: Vec<Ulimit>,
    /// Take over the caller's resource limits where `ulimits` names none.
    pub host_ulimits: bool,
    /// Adjustment of the out-of-memory score.
    pub oom_score_adj: Option<i32>,
    /// What the container's cgroup shall hold it to.
    pub resources: Resources,
    /// Where that cgroup is.
    pub cgroup: Cgroup,

    /// The user namespace.
    pub userns: UserNamespace,
    /// The PID namespace.
    pub pid: Namespace,
    /// The IPC namespace.
    pub ipc: Namespace,
    /// The UTS namespace.
    pub uts: Namespace,
    /// The cgroup namespace.
    pub cgroupns: Namespace,

    /// Where output is kept.
    pub log: Log,
    /// What happens after the container exits.
    pub restart: RestartPolicy,
    /// How the container's health is found out; absent when it is not.
    pub healthcheck: Option<Healthcheck>,
}

/// When a container runs that comes before the others of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InitContainer {
    /// At each start of the pod.
    Always,
    /// At the first one; it is removed when it has ended.
    Once,
}

/// When the image is looked for in its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Only if there is none in the store.
    #[default]
    Missing,
    /// At every run; an unreachable registry is an error.
    Always,
    /// Never; a missing image is an error.
    Never,
    /// If the registry has another one; an unreachable registry is not an error when the image is in the store.
    Newer,
    /// Only if there is none in the store, and then the container starts before all of it has come.
    Lazy,
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 0.
    Stdin,
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// What `--security-opt` said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// The system call filter.
    pub seccomp: SeccompProfile,
    /// Nothing executed gains privileges.
    pub no_new_privileges: bool,
    /// Paths to mask besides the default ones.
    pub mask: Vec<String>,
    /// Paths, patterns or `ALL` that are neither masked nor made read-only.
    pub unmask: Vec<String>,
    /// `systempaths=unconfined`: nothing is masked or made read-only.
    pub unconfined_system_paths: bool,
    /// Options of the proc mount, such as `hidepid=2`.
    pub proc_options: Vec<String>,
    /// SELinux labels as given; without SELinux on the host only `disable` has a meaning.
    pub label: Vec<String>,
    /// AppArmor profile as given.
    pub apparmor: Option<String>,
}

/// The system call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompProfile {
    /// The built-in one.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in docker's JSON format at an absolute path; it is read when the bundle is made.
    File(PathBuf),
}

/// A resource limit of the first process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ulimit {
    /// The name without `RLIMIT_`, lower case: `nofile`.
    pub name: String,
    /// The soft limit; `u64::MAX` is no limit.
    pub soft: u64,
    /// The hard limit; `u64::MAX` is no limit.
    pub hard: u64,
}

/// A namespace of the container other than user, mount and network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by name or id.
    Container(String),
    /// The one at this path.
    Path(PathBuf),
}

/// The user namespace of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespace {
    /// The base mapping: the user is root, the subordinate ids follow.
    #[default]
    Host,
    /// The user keeps their id inside.
    KeepId {
        /// The uid the user has inside; their own when absent.
        #[serde(default)]
        uid: Option<u32>,
        /// The gid the user has inside; their own when absent.
        #[serde(default)]
        gid: Option<u32>,
        /// How many ids are mapped; all there are when absent.
        #[serde(default)]
        size: Option<u32>,
    },
    /// A range of the subordinate ids that no other container has.
    Auto {
        /// How many ids are mapped; guessed from the image when absent.
        #[serde(default)]
        size: Option<u32>,
        /// The first one, in the user's base user namespace; chosen when the container is created.
        #[serde(default)]
        first: Option<u32>,
    },
    /// Ranges as given.
    Maps {
        /// Of user ids.
        uids: Vec<IdRange>,
        /// Of group ids.
        gids: Vec<IdRange>,
    },
    /// The user is root, and there is no other id.
    Single,
    /// The user is not mapped inside.
    NoMap,
    /// Another container's, by name or id.
    Container(String),
    /// The one at this path.
    Path(PathBuf),
}

/// Where output is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// The format.
    pub driver: LogDriver,
    /// The driver's options: `max-size`, `path`, `tag` and so on.
    pub options: BTreeMap<String, String>,
}

/// The format output is kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// One line per line of output: time, stream, partial flag, text.
    #[default]
    K8sFile,
    /// One JSON object per line of output.
    JsonFile,
    /// systemd's journal.
    Journald,
    /// The container has the descriptors of the command that started it.
    Passthrough,
    /// Nothing is kept.
    None,
}

impl LogDriver {
    /// The word of `--log-driver`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::K8sFile => "k8s-file",
            Self::JsonFile => "json-file",
            Self::Journald => "journald",
            Self::Passthrough => "passthrough",
            Self::None => "none",
        }
    }

    /// Whether it keeps a file.
    pub fn has_file(self) -> bool {
        matches!(self, Self::K8sFile | Self::JsonFile)
    }
}

/// What happens after the container exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again, also after the user's services come up.
    Always,
    /// As `Always`, unless it was stopped by the user.
    UnlessStopped,
    /// It is started again after a status other than 0.
    OnFailure {
        /// How many times; without limit when absent.
        #[serde(default)]
        max_retries: Option<u32>,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn empty_object_is_the_default_request() {
        let request: Request = serde_json::from_str("{}").unwrap();
        assert_eq!(request, Request::default());
        assert_eq!(request.userns, UserNamespace::Host);
    }

    #[test]
    fn unknown_members_are_ignored() {
        let json = r#"{"image":"bb","of_tomorrow":[1],"network":{"mode":"none","colour":"red"}}"#;
        let request: Request = serde_json::from_str(json).unwrap();
        assert_eq!((request.image.as_str(), request.network.mode.as_str()), ("bb", "none"));
    }

    #[test]
    fn every_variant_survives_a_round_trip() {
        let request = Request {
            mounts: vec![
                Mount::Bind(BindMount { source: "/a".into(), target: "/b".into(), ..BindMount::default() }),
                Mount::Volume(VolumeMount { name: None, target: "/v".into(), ..VolumeMount::default() }),
                Mount::Tmpfs(TmpfsMount { target: "/t".into(), size: Some("1m".into()), ..TmpfsMount::default() }),
            ],
            security: Security { seccomp: SeccompProfile::File("/p.json".into()), ..Security::default() },
            userns: UserNamespace::KeepId { uid: Some(7), gid: None, size: None },
            pid: Namespace::Container("c".into()),
            restart: RestartPolicy::OnFailure { max_retries: Some(3) },
            log: Log { driver: LogDriver::JsonFile, options: BTreeMap::new() },
            healthcheck: Some(Healthcheck { interval: Some(Duration::from_secs(30)), ..Healthcheck::default() }),
            ..Request::default()
        };
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }

    #[test]
    fn published_port_defaults_to_one_tcp_port() {
        let port: PublishedPort = serde_json::from_str(r#"{"container_port":80}"#).unwrap();
        assert_eq!((port.range, port.protocol, port.host_port), (1, Protocol::Tcp, None));
    }
}
