//! What every container gets unless it asks for something else: podman's mounts, in the order they are made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCapabilities, Mount, User};

use super::{Choice, DeviceBind, Options, OwnFile, Shm};

/// The version of the runtime specification that is written: the oldest with everything we use, since a runtime
/// refuses versions above its own.
pub const OCI_VERSION: &str = "1.1.0";

/// Size of `/dev/shm`.
pub const SHM_SIZE_BYTES: u64 = 64 * 1024 * 1024;

/// Where the init program appears with `--init`.
pub const INIT_TARGET: &str = "/run/coracle-init";

/// Temporary file systems over a read-only root.
pub const READ_ONLY_TMPFS: [&str; 3] = ["/run", "/tmp", "/var/tmp"];

/// The annotation that names us.
pub const MANAGER_ANNOTATION: (&str, &str) = ("io.container.manager", "coracle");

/// Root, with the usual umask.
pub fn user() -> User {
    let mut user = User::default();
    user.set_uid(0).set_gid(0).set_umask(Some(0o022));
    user
}

/// Five empty sets. (The default of `oci-spec` has three capabilities in each.)
pub fn no_capabilities() -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(Default::default()))
        .set_effective(Some(Default::default()))
        .set_inheritable(None)
        .set_permitted(Some(Default::default()))
        .set_ambient(None);
    capabilities
}

/// Kernel parameters of a private network namespace: everyone may ping and listen on low ports.
///
/// `last_gid` is the highest group id that the container's user namespace maps; the kernel refuses others.
///
/// # Source
/// `Documentation/networking/ip-sysctl.rst`, `ping_group_range` and `ip_unprivileged_port_start`.
pub fn network_sysctls(last_gid: u32) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("net.ipv4.ping_group_range".to_owned(), format!("0 {last_gid}")),
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
    ])
}

/// A bind mount. `propagation` is a word of mount(8), `rprivate` when absent; `options` are further mount flags.
pub fn bind(
    source: &Path,
    target: &Path,
    read_only: bool,
    recursive: bool,
    propagation: Option<&str>,
    options: &[String],
) -> Mount {
    let access = if read_only { "ro" } else { "rw" };
    let kind = if recursive { "rbind" } else { "bind" };
    let mut all = vec![access.to_owned(), propagation.unwrap_or("rprivate").to_owned()];
    all.extend(options.iter().cloned());
    all.push(kind.to_owned());
    mount(target, "bind", source, all)
}

/// A temporary file system. `options` are its data and mount flags; what the image has at its target is copied into
/// it unless `copy_up` is false.
pub fn tmpfs(target: &Path, options: &[String], copy_up: bool) -> Mount {
    let mut all = options.to_vec();
    let has = |all: &[String], words: &[&str]| all.iter().any(|option| words.contains(&option.as_str()));
    for (words, default) in [
        (&["ro", "rw"][..], "rw"),
        (&["rprivate"][..], "rprivate"),
        (&["nosuid", "suid"][..], "nosuid"),
        (&["nodev", "dev"][..], "nodev"),
    ] {
        if !has(&all, words) {
            all.push(default.to_owned());
        }
    }
    if copy_up {
        all.push("tmpcopyup".to_owned());
    }
    mount(target, "tmpfs", Path::new("tmpfs"), all)
}

/// The mounts of every container, parents before children.
pub(super) fn mounts(options: &Options) -> Vec<Mount> {
    let read_only_dev = options.read_only && !options.read_only_tmpfs;
    let mut all = vec![proc(options), dev(read_only_dev)];
    let mut pts = words(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    if options.tty_group_mapped {
        pts.push("gid=5".to_owned());
    }
    all.push(mount(Path::new("/dev/pts"), "devpts", Path::new("devpts"), pts));
    all.extend(shm(&options.shm, read_only_dev));
    if options.namespaces.ipc == Choice::Private {
        let flags = words(&["nosuid", "noexec", "nodev"]);
        all.push(mount(Path::new("/dev/mqueue"), "mqueue", Path::new("mqueue"), flags));
    }
    all.push(sys(options));
    all.push(cgroup(options));
    if options.read_only && options.read_only_tmpfs {
        all.extend(READ_ONLY_TMPFS.iter().map(|target| tmpfs(Path::new(target), &[], true)));
    }
    all.extend(options.files.iter().map(|file| own_file(file, options.read_only)));
    if let Some(init) = &options.init {
        all.push(mount(Path::new(INIT_TARGET), "bind", init, words(&["bind", "ro", "private"])));
    }
    all.extend(options.devices.iter().map(device));
    all
}

/// `proc` belongs to a PID namespace; of one that is not ours the mounted one is all there is.
fn proc(options: &Options) -> Mount {
    let mut flags = words(&["nosuid", "noexec", "nodev"]);
    if options.namespaces.pid == Choice::Host {
        flags.extend(words(&["rw", "rprivate", "rbind"]));
        return mount(Path::new("/proc"), "bind", Path::new("/proc"), flags);
    }
    flags.extend(options.proc_options.iter().cloned());
    mount(Path::new("/proc"), "proc", Path::new("proc"), flags)
}

fn dev(read_only: bool) -> Mount {
    let mut flags = words(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
    if read_only {
        flags.push("ro".to_owned());
    }
    mount(Path::new("/dev"), "tmpfs", Path::new("tmpfs"), flags)
}

fn shm(shm: &Shm, read_only: bool) -> Option<Mount> {
    let mut flags = words(&["nosuid", "noexec", "nodev"]);
    if read_only {
        flags.push("ro".to_owned());
    }
    let target = Path::new("/dev/shm");
    match shm {
        Shm::Private(size_bytes) => {
            flags.extend(["mode=1777".to_owned(), format!("size={size_bytes}")]);
            Some(mount(target, "tmpfs", Path::new("shm"), flags))
        }
        Shm::Bind(source) => {
            flags.extend(words(&["rprivate", "bind"]));
            Some(mount(target, "bind", source, flags))
        }
        Shm::Absent => None,
    }
}

/// `sysfs` can be mounted only by the owner of the network namespace; otherwise the host's is shown.
fn sys(options: &Options) -> Mount {
    let access = if options.privileged { "rw" } else { "ro" };
    let mut flags = words(&["nosuid", "noexec", "nodev", access]);
    let private_network = options.namespaces.network == Choice::Private;
    if private_network {
        return mount(Path::new("/sys"), "sysfs", Path::new("sysfs"), flags);
    }
    flags.extend(words(&["rprivate", "rbind"]));
    mount(Path::new("/sys"), "bind", Path::new("/sys"), flags)
}

/// `cgroup2` can be mounted only by the owner of the cgroup namespace; otherwise the host's is shown.
fn cgroup(options: &Options) -> Mount {
    let access = if options.privileged || options.writable_cgroup { "rw" } else { "ro" };
    let mut flags = words(&["rprivate", "nosuid", "noexec", "nodev", "relatime", access]);
    let target = Path::new("/sys/fs/cgroup");
    if options.namespaces.cgroup == Choice::Private {
        return mount(target, "cgroup", Path::new("cgroup"), flags);
    }
    flags.push("rbind".to_owned());
    mount(target, "bind", target, flags)
}

/// Writable as the root file system is: programs rewrite `/etc/hosts` and `/etc/resolv.conf` of their container.
fn own_file(file: &OwnFile, read_only: bool) -> Mount {
    let mut flags = words(&["bind", "rprivate"]);
    if read_only {
        flags.extend(words(&["ro", "nosuid", "noexec", "nodev"]));
    }
    mount(&file.target, "bind", &file.source, flags)
}

fn device(device: &DeviceBind) -> Mount {
    let access = if device.read_only { "ro" } else { "rw" };
    mount(&device.target, "bind", &device.source, words(&["slave", "nosuid", "noexec", access, "rbind"]))
}

fn mount(target: &Path, kind: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.to_path_buf())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options));
    mount
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}
