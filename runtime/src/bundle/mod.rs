//! Options to an OCI runtime specification, as pure functions.
//!
//! ```text
//! Options (everything resolved) → generate → Spec → validate → config.json → init
//! ```
//!
//! The specification is for a runtime that already runs in the base user namespace, as podman gives it to crun: it names
//! a user namespace only where the container has one of its own, and then maps its ids to ids of the base namespace.

pub mod defaults;

pub mod generate;

pub mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxCapabilities, LinuxIdMapping, LinuxResources, LinuxSeccomp, Mount, PosixRlimit, Spec, User,
};

pub use generate::generate;
pub use validate::{InvalidSpec, validate, validate_bundle, validate_process};

/// Everything that decides a specification. Names are resolved to numbers, paths of the host are absolute.
#[derive(Clone, Debug)]
pub struct Options {
    /// The root file system, mounted or to be mounted there.
    pub root: PathBuf,
    /// The root file system is read-only.
    pub read_only: bool,
    /// With `read_only`: `/run`, `/tmp` and `/var/tmp` are temporary file systems; without, `/dev` is read-only too.
    pub read_only_tmpfs: bool,

    /// The argument vector of the first process.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Its working directory, absolute in the container.
    pub cwd: PathBuf,
    /// It has a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal when it starts.
    pub console_size: Option<(u16, u16)>,
    /// Its ids inside the container, and its umask.
    pub user: User,
    /// Its capability sets.
    pub capabilities: LinuxCapabilities,
    /// Neither it nor a descendant gains privileges by executing something.
    pub no_new_privileges: bool,
    /// Its resource limits.
    pub rlimits: Vec<PosixRlimit>,
    /// Its adjustment of the out-of-memory score.
    pub oom_score_adj: Option<i32>,
    /// A program of the host that becomes PID 1, runs `args` and reaps.
    pub init: Option<PathBuf>,

    /// The host name; ignored when the UTS namespace is not private.
    pub hostname: Option<String>,
    /// Which namespaces are the container's own.
    pub namespaces: Namespaces,
    /// Uids of a user namespace of its own, in terms of the base namespace; empty for the base namespace itself.
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Gids of a user namespace of its own, in terms of the base namespace.
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Whether group 5 (`tty`) exists in the container's id map; terminals belong to it if so.
    pub tty_group_mapped: bool,

    /// `/sys` and `/sys/fs/cgroup` are writable.
    pub privileged: bool,
    /// Only `/sys/fs/cgroup` is writable.
    pub writable_cgroup: bool,
    /// The system call filter.
    pub seccomp: Option<LinuxSeccomp>,
    /// Paths that are covered.
    pub masked_paths: Vec<String>,
    /// Paths that are read-only.
    pub readonly_paths: Vec<String>,
    /// Domain name; needs a private UTS namespace.
    pub domainname: Option<String>,
    /// Kernel parameters of the private namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Data of the proc mount, such as `hidepid=2`.
    pub proc_options: Vec<String>,

    /// What `/dev/shm` is.
    pub shm: Shm,
    /// Files of ours that the container sees: hosts, hostname, resolv.conf, `.containerenv`, passwd, group.
    pub files: Vec<OwnFile>,
    /// Devices of the host besides the standard ones.
    pub devices: Vec<DeviceBind>,
    /// What the user asked for, from [`defaults::bind`] and [`defaults::tmpfs`]; a target that is also a default one
    /// replaces it.
    pub mounts: Vec<Mount>,

    /// Annotations besides our own.
    pub annotations: BTreeMap<String, String>,
    /// Limits of the cgroup.
    pub resources: Option<LinuxResources>,
    /// The cgroup below the runtime's own.
    pub cgroups_path: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: PathBuf::from("rootfs"),
            read_only: false,
            read_only_tmpfs: true,
            args: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            terminal: false,
            console_size: None,
            user: defaults::user(),
            capabilities: defaults::no_capabilities(),
            no_new_privileges: false,
            rlimits: Vec::new(),
            oom_score_adj: None,
            init: None,
            hostname: None,
            domainname: None,
            namespaces: Namespaces::default(),
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            tty_group_mapped: true,
            privileged: false,
            writable_cgroup: false,
            seccomp: None,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            sysctls: BTreeMap::new(),
            proc_options: Vec::new(),
            shm: Shm::default(),
            files: Vec::new(),
            devices: Vec::new(),
            mounts: Vec::new(),
            annotations: BTreeMap::new(),
            resources: None,
            cgroups_path: None,
        }
    }
}

/// Where a namespace of the container comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// It is made for the container.
    #[default]
    Private,
    /// It is the one of whoever starts the container.
    Host,
    /// It is the one at this path, such as `/proc/71/ns/net`.
    Path(PathBuf),
}

/// The namespaces that can be shared. Mount namespaces never are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Namespaces {
    pub pid: Choice,
    pub network: Choice,
    pub ipc: Choice,
    pub uts: Choice,
    pub cgroup: Choice,
}

/// What `/dev/shm` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shm {
    /// A temporary file system of this many bytes.
    Private(u64),
    /// A directory of the host, or of the container whose IPC namespace is shared.
    Bind(PathBuf),
    /// Nothing (`--ipc none`).
    Absent,
}

impl Default for Shm {
    fn default() -> Self {
        Self::Private(defaults::SHM_SIZE_BYTES)
    }
}

/// A file of ours that the container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
}

/// A device of the host that the container sees, by bind mount: a user namespace cannot make device nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceBind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// It cannot be written.
    pub read_only: bool,
}

/// The text of `config.json`, with every object and set in a fixed order: equal options give equal bytes.
///
/// # Errors
/// What `serde_json` says of a path that is not UTF-8.
pub fn to_json(spec: &Spec) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(spec)?;
    value.sort_all_objects();
    if let Some(serde_json::Value::Object(sets)) = value.pointer_mut("/process/capabilities") {
        for set in sets.values_mut() {
            if let Some(names) = set.as_array_mut() {
                names.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
            }
        }
    }
    serde_json::to_string(&value)
}
