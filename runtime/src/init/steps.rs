//! The steps of container init, in execution order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::credentials::{self, LoadFilter};
use super::gate::Gate;
use super::handshake::{Channel, Report};
use super::limits::set_limits;
use super::namespaces::{has_private, join_shared};
use super::program::Program;
use super::sealed_exe::SealedExe;
use crate::identity::Emulation;
use crate::mount::apply::{self, CopyTree, OwnTree};
use crate::mount::rootfs::{Driver, Rootfs};
use crate::mount::secrets::{self, SecretFile};
use crate::mount::stage::Staged;
use crate::mount::target::Append;
use crate::mount::{MountError, dev, masks, open_in_root, rootfs, target};
use crate::process::inherited::Inherited;
use crate::process::prctl;
use crate::process::pty::{Pty, install_console};
use crate::process::stdio::ContainerEnd;
use crate::sys::SysError;
use crate::sys::mount::{attach, clone_tree, pivot_here};
use crate::sys::process as sys;

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A kernel call failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// Capabilities could not be set.
    #[error(transparent)]
    Capabilities(#[from] crate::security::capabilities::Error),
    /// The system call filter could not be loaded.
    #[error(transparent)]
    Filter(#[from] crate::security::seccomp::Error),
    /// The container cannot have a session keyring of its own.
    #[error(transparent)]
    Keyring(#[from] crate::security::keyring::Error),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] crate::hooks::HookError),
    /// A sysctl could not be set.
    #[error("sysctl {name}={value}: {source}")]
    Sysctl {
        /// Its name.
        name: String,
        /// The value wanted.
        value: String,
        /// Why.
        source: SysError,
    },
    /// A resource limit could not be set.
    #[error("ulimit {name}={soft}:{hard}: {errno}", errno = errno.desc().to_lowercase())]
    Limit {
        /// Its name.
        name: String,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
        /// Why.
        errno: Errno,
    },
    /// The working directory cannot be used.
    #[error("working directory {path}: {errno}", errno = errno.desc().to_lowercase())]
    WorkingDirectory {
        /// As asked for.
        path: String,
        /// Why.
        errno: Errno,
    },
    /// The ids of the process are not mapped.
    #[error("user {uid}:{gid} has no id on this host: the container has too few subordinate ids")]
    NoSuchId {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// Neither the image nor the command line names a program.
    #[error("no command specified")]
    NoCommand,
    /// An argument or variable with a NUL byte.
    #[error("arguments and environment must not contain NUL bytes")]
    NulByte,
    /// The program is nowhere in PATH.
    #[error("executable file `{name}` not found in $PATH: no such file or directory")]
    NotFound {
        /// As given.
        name: String,
    },
    /// The program cannot be executed.
    #[error("exec {path}: {errno}", errno = errno.desc().to_lowercase())]
    Exec {
        /// Its path in the container.
        path: String,
        /// Why.
        errno: Errno,
    },
}

impl InitError {
    /// The exit status that the error means: 127 not found, 126 not executable, else 125.
    pub fn code(&self) -> i32 {
        match self {
            InitError::NotFound { .. }
            | InitError::Exec { errno: Errno::ENOENT | Errno::ENOTDIR, .. }
            | InitError::WorkingDirectory { errno: Errno::ENOENT, .. } => 127,
            InitError::Exec { .. } => 126,
            _ => 125,
        }
    }
}

/// Where the program's standard streams lead.
#[derive(Debug)]
pub enum Streams {
    /// A terminal of the container's own.
    Terminal,
    /// Pipes.
    Pipes(ContainerEnd),
    /// Where the starter's lead.
    Inherited,
}

/// Everything init needs to know.
pub struct Plan<'a> {
    /// The bundle.
    pub spec: &'a Spec,
    /// Sysctls the network's helper must find when it makes its device; written while the supervisor is busy.
    pub early_sysctls: &'a [(&'static str, &'static str)],
    /// Its root file system.
    pub rootfs: &'a Rootfs,
    /// What the supervisor made ready because init cannot.
    pub staged: Staged,
    /// A directory of the host over which the root may be mounted in the container's namespace.
    pub mount_point: &'a Path,
    /// New volumes to be filled.
    pub fill: &'a [PathBuf],
    /// Lines for files of the root.
    pub append: &'a [Append],
    /// How they are filled.
    pub copy_tree: CopyTree,
    /// Those of them that, filled, are given to the container's user.
    pub own: &'a [PathBuf],
    /// How that is done.
    pub own_tree: OwnTree,
    /// Only id 0 is mapped.
    pub single_id: bool,
    /// Files in memory that nothing on disk has.
    pub secrets: &'a [SecretFile],
    /// Standard streams.
    pub streams: Streams,
    /// An init of ours is pid 1.
    pub init: bool,
    /// There is no program: it waits.
    pub pause: bool,
    /// Our binary, if it needs protection.
    pub seal: Option<&'a SealedExe>,
    /// Descriptors that the program gets besides the standard ones.
    pub inherited: &'a Inherited,
    /// Name of the session keyring; without one it is the starter's.
    pub keyring: Option<&'a std::ffi::CStr>,
    /// The filter refuses every call that reaches a keyring.
    pub filter_hides_keyrings: bool,
    /// Loads the system call filter.
    pub filter: Option<LoadFilter<'a>>,
    /// Runs what is to run in the container's namespaces before it has its root.
    pub before_pivot: Option<&'a dyn Fn() -> Result<(), InitError>>,
    /// The starter does not stay: the container lives on without it.
    pub gate: Option<Gate<'a>>,
    /// The starter's supplementary groups stay, whatever the bundle says.
    pub keep_groups: bool,
    /// How many descriptors from 3 upward are the program's.
    pub preserved_fds: u32,
}

/// Runs init to `execve`; returns only the exit status of a failure, which has been reported.
pub fn run(plan: Plan<'_>, channel: Channel) -> i32 {
    let _ = prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
    if !plan.early_sysctls.is_empty() {
        // ENOENT where the kernel lacks what they are about. None of them is a promise to the user.
        let _ = host_proc()
            .map(|proc| plan.early_sysctls.iter().try_for_each(|(name, value)| set_sysctl(proc.as_fd(), name, value)));
    }
    if !channel.wait_go() {
        return 125;
    }
    match start(plan, &channel) {
        Ok(None) => 125,
        Ok(Some(never)) | Err(never) => {
            let code = never.code();
            // Nobody listening means that the supervisor is gone, and we go too.
            let _ = channel.report(&Report::Failed { code, message: never.to_string() });
            code
        }
    }
}

/// `Ok(None)`: the supervisor is gone.
fn start(mut plan: Plan<'_>, channel: &Channel) -> Result<Option<InitError>, InitError> {
    let spec = plan.spec;
    let process = spec.process().as_ref().ok_or(InitError::NoCommand)?;
    sys::hide_command_line(c"coracle-init");
    crate::userns::become_root()?;
    // Modes in the image and in /dev are meant as written.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::unistd::setsid().map_err(SysError::of("setsid", ""))?;

    join_shared(spec)?;
    let sealed = match plan.staged.sealed.take() {
        Some(sealed) => Some(sealed),
        None => plan.seal.map(SealedExe::open).transpose()?,
    };
    let binary = if plan.init { Some(super::sealed_exe::own_binary(sealed.as_ref())?) } else { None };
    let Root { root, read_only_at_last, driver } = make_root(&mut plan, channel)?;
    if has_private(spec, LinuxNamespaceType::Network) {
        sys::loopback_up().map_err(SysError::of("ioctl", "lo, SIOCSIFFLAGS, IFF_UP"))?;
    }
    // A host name is for the namespace that the bundle names, its own or not; ours has one only of its own.
    if has_private(spec, LinuxNamespaceType::Uts) || plan.gate.is_some() {
        if let Some(name) = spec.hostname() {
            nix::unistd::sethostname(name).map_err(SysError::of("sethostname", name))?;
        }
        if let Some(name) = spec.domainname() {
            sys::set_domain_name(name).map_err(SysError::of("setdomainname", name))?;
        }
    }
    if let Some(gate) = &plan.gate {
        // The network may be made by a hook of the creator's.
        channel.report(&Report::Ready)?;
        if !channel.wait_go() {
            return Ok(None);
        }
        (gate.before_pivot)()?;
        rootfs::propagate(root.as_fd(), spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()))?;
    }
    if let Some(work) = plan.before_pivot {
        work()?;
    }
    nix::unistd::fchdir(&root).map_err(SysError::of("fchdir", "root"))?;
    pivot_here()?;
    nix::unistd::chdir("/").map_err(SysError::of("chdir", "/"))?;

    let terminal = match &plan.streams {
        Streams::Terminal => Some(open_console(root.as_fd(), process, plan.single_id, channel)?),
        Streams::Pipes(_) | Streams::Inherited => None,
    };
    if let Some(dev) = read_only_at_last {
        apply::make_read_only(dev.as_fd())?;
    }
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        apply::make_read_only(root.as_fd())?;
    }
    // Held by the supervisor, the root outlives the container for a moment: to take an overlay apart that is not volatile
    // means to sync the file system below it, which nobody shall wait for.
    let kept = root.try_clone().map_err(|_| SysError { call: "dup", args: "root".into(), errno: Errno::EMFILE })?;
    channel.report(&Report::Root(kept, driver))?;
    channel.report(&Report::Ready)?;
    if !channel.wait_go() {
        return Ok(None);
    }
    if let Some(binary) = binary {
        super::pid1::split(binary.as_fd())?;
        nix::unistd::setsid().map_err(SysError::of("setsid", ""))?;
    }
    connect_streams(plan.streams, terminal, process)?;
    become_program(
        process,
        root,
        &BecomeOptions {
            keyring: plan.keyring,
            filter_hides_keyrings: plan.filter_hides_keyrings,
            keep_groups: plan.keep_groups || keeps_groups(spec),
            emulation: plan.single_id.then_some(Emulation::Notify),
            dies_with_parent: plan.gate.is_none(),
            filter: plan.filter,
            sealed: sealed.as_ref(),
            inherited: plan.inherited,
            pause: plan.pause,
            gate: plan.gate,
            preserved_fds: plan.preserved_fds,
        },
        channel,
    )
    .map(Some)
}

/// What [`become_program`] needs besides the process.
pub struct BecomeOptions<'a> {
    /// Name of the session keyring; without one it is the caller's.
    pub keyring: Option<&'a std::ffi::CStr>,
    /// The filter refuses every call that reaches a keyring.
    pub filter_hides_keyrings: bool,
    /// The caller's supplementary groups stay.
    pub keep_groups: bool,
    /// Only id 0 is mapped: how others are emulated.
    pub emulation: Option<Emulation>,
    /// The program dies with the process that started it: a container with its supervisor, but no `exec` with its client.
    pub dies_with_parent: bool,
    /// Loads the system call filter.
    pub filter: Option<LoadFilter<'a>>,
    /// The read-only mount of our binary.
    pub sealed: Option<&'a super::sealed_exe::SealedFd>,
    /// Descriptors that the program gets besides the standard ones.
    pub inherited: &'a Inherited,
    /// Nothing is executed: the process waits.
    pub pause: bool,
    /// Where to wait before the program is executed.
    pub gate: Option<Gate<'a>>,
    /// How many descriptors from 3 upward are the program's.
    pub preserved_fds: u32,
}

/// The part that init and `exec` share: limits, directory, credentials, program. The standard streams are in place and
/// `root` is the root directory. Returns only a failure.
pub fn become_program(
    process: &Process,
    root: OwnedFd,
    options: &BecomeOptions<'_>,
    channel: &Channel,
) -> Result<InitError, InitError> {
    set_limits(process)?;
    let entered = change_directory(root.as_fd(), process.cwd());
    drop(root);
    match options.keyring.map(crate::security::keyring::new_session).transpose() {
        // With the user's keyring, which nothing in the container can ask for: quotas are small, 200 keys.
        Err(_) if options.filter.is_some() && options.filter_hides_keyrings => {}
        joined => drop(joined?),
    }
    let umask = process.user().umask().unwrap_or(0o022);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
    crate::process::signal::reset_for_exec();
    if let Some(gate) = &options.gate {
        gate.prepare()?;
    }
    let BecomeOptions { keep_groups, emulation, dies_with_parent, filter, .. } = *options;
    credentials::apply(process, keep_groups, emulation, dies_with_parent, filter, channel)?;
    entered?;
    if options.pause {
        std::process::exit(super::pause::run());
    }
    // A bundle without a process can be created; it cannot be started.
    let program = match options.gate {
        Some(_) if process.args().is_none() => None,
        _ => Some(Program::find(process)?),
    };
    let first = 3 + i32::try_from(options.preserved_fds).unwrap_or(0);
    sys::close_from(first, true).map_err(SysError::of("close_range", "3, CLOSE_RANGE_CLOEXEC"))?;
    options.inherited.pass_on().map_err(SysError::of("fcntl", "F_SETFD"))?;
    let Some(gate) = &options.gate else {
        return Ok(program.map_or(InitError::NoCommand, |program| program.exec(options.sealed, channel)));
    };
    // What the creator had open stays with nobody: its lock, its caller's pipes.
    let mut keep = vec![channel.as_fd(), gate.listener];
    keep.extend(options.sealed.map(AsFd::as_fd));
    sys::close_others(first, &keep).map_err(SysError::of("close_range", first))?;
    let Some(starter) = gate.wait(channel)? else { std::process::exit(125) };
    let failure = match (gate.before_program)() {
        Ok(()) => program.map_or(InitError::NoCommand, |program| program.exec(options.sealed, &starter)),
        Err(error) => error,
    };
    // The creator has gone; this one is told.
    let _ = starter.report(&Report::Failed { code: failure.code(), message: failure.to_string() });
    Ok(failure)
}

/// crun's annotation for containers that keep the user's groups.
pub fn keeps_groups(spec: &Spec) -> bool {
    let key = "run.oci.keep_original_groups";
    spec.annotations().as_ref().is_some_and(|all| all.get(key).is_some_and(|value| value == "1"))
}

/// What [`make_root`] made.
struct Root {
    /// The root directory.
    root: OwnedFd,
    /// A `/dev` that is to become read-only.
    read_only_at_last: Option<OwnedFd>,
    /// What mounted the layers.
    driver: Option<Driver>,
}

/// Mounts root, the bundle's mounts and masks; sets sysctls.
fn make_root(plan: &mut Plan<'_>, channel: &Channel) -> Result<Root, InitError> {
    rootfs::stop_propagation()?;
    let mounts = plan.spec.mounts().as_deref().unwrap_or_default();
    let (root, driver) = match plan.staged.root.take() {
        Some(root) => {
            // The supervisor left us in the mount point: no name is looked up, which directories closed to us would refuse.
            rootfs::attach_root(&root, nix::fcntl::AT_FDCWD, plan.mount_point)?;
            (root, plan.staged.driver)
        }
        None => {
            plan.staged.add_overlays(mounts)?;
            let mut serve = |connection| channel.report(&Report::Fuse(connection));
            plan.rootfs.mount(plan.mount_point, &mut serve)?
        }
    };
    // Before anything is mounted over the files.
    plan.append.iter().try_for_each(|one| target::append(root.as_fd(), one))?;
    plan.staged.add_shared(mounts)?;
    let user = plan.spec.process().as_ref().map(|process| (process.user().uid(), process.user().gid()));
    let request = apply::Request {
        single_id: plan.single_id,
        fill: plan.fill,
        copy_tree: plan.copy_tree,
        own: plan.own,
        own_tree: plan.own_tree,
        user: user.unwrap_or_default(),
        staged: &plan.staged,
    };
    let made = apply::all(root.as_fd(), mounts, &request)?;
    secrets::mount(root.as_fd(), plan.secrets, plan.single_id)?;
    if plan.gate.is_some() && !mounts.iter().any(|mount| mount.destination() == Path::new("/dev")) {
        dev::add_defaults(root.as_fd())?;
    }
    if let Some(linux) = plan.spec.linux() {
        for device in linux.devices().iter().flatten() {
            // The bundle of a rootless container names devices of the host; their nodes are bound, not made.
            if !dev::DEFAULT.iter().any(|name| Path::new("/dev").join(name) == *device.path()) {
                match plan.gate {
                    Some(_) => dev::make(root.as_fd(), device)?,
                    None => dev::bind(root.as_fd(), device.path(), device.path())?,
                }
            }
        }
        if let Some(sysctls) = linux.sysctl().as_ref().filter(|all| !all.is_empty()) {
            let proc = match made.proc {
                Some(proc) => proc,
                // Without a procfs of the container's own (`--pid host`): the host's, which is still reachable, and which
                // shows each process its own namespaces' values.
                None => host_proc()?,
            };
            for (name, value) in sysctls {
                set_sysctl(proc.as_fd(), name, value)?;
            }
        }
    }
    // Mounts may hide the working directory that the image has: make it in what the program will see.
    if let Some(process) = plan.spec.process() {
        target::make_directories(root.as_fd(), process.cwd(), 0o755).map_err(|error| InitError::WorkingDirectory {
            path: process.cwd().display().to_string(),
            errno: error.errno,
        })?;
    }
    if let Some(linux) = plan.spec.linux() {
        masks::make_read_only(root.as_fd(), linux.readonly_paths().as_deref().unwrap_or_default())?;
        masks::mask(root.as_fd(), linux.masked_paths().as_deref().unwrap_or_default())?;
    }
    Ok(Root { root, read_only_at_last: made.read_only_at_last, driver })
}

fn host_proc() -> Result<OwnedFd, InitError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let proc =
        nix::fcntl::open("/proc", flags, nix::sys::stat::Mode::empty()).map_err(SysError::of("open", "/proc"))?;
    let kind = nix::sys::statfs::fstatfs(&proc).map_err(SysError::of("fstatfs", "/proc"))?.filesystem_type();
    if kind != nix::sys::statfs::PROC_SUPER_MAGIC {
        return Err(SysError { call: "fstatfs", args: "/proc".into(), errno: Errno::ENODEV }.into());
    }
    Ok(proc)
}

/// Writes a sysctl through a procfs of our own or the host's, never through the container's `/proc` (CVE-2025-52881).
fn set_sysctl(proc: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), InitError> {
    let path = PathBuf::from(format!("sys/{}", name.replace('.', "/")));
    let how = OpenHow::new()
        .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    nix::fcntl::openat2(proc, &path, how)
        .map_err(SysError::of("openat2", path.display()))
        .and_then(|file| nix::unistd::write(&file, value.as_bytes()).map_err(SysError::of("write", path.display())))
        .map(drop)
        .map_err(|source| InitError::Sysctl { name: name.to_owned(), value: value.to_owned(), source })
}

/// Makes the container's terminal, hands its master to the supervisor and returns the slave.
fn open_console(
    root: BorrowedFd<'_>,
    process: &Process,
    single_id: bool,
    channel: &Channel,
) -> Result<OwnedFd, InitError> {
    let devpts = open_in_root(root, Path::new("/dev/pts"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let pty = Pty::open(&devpts).map_err(SysError::of("open", "/dev/pts/ptmx"))?;
    give_terminal(&pty, process, single_id)?;
    let console = open_in_root(root, Path::new("/dev"), OFlag::O_PATH | OFlag::O_DIRECTORY).and_then(|dev| {
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        nix::fcntl::openat(&dev, "console", flags, nix::sys::stat::Mode::from_bits_truncate(0o600))
            .map_err(SysError::of("openat", "/dev/console"))?;
        let place = open_in_root(dev.as_fd(), Path::new("console"), OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        attach(clone_tree(pty.slave.as_fd(), Path::new(""), false)?.as_fd(), place.as_fd(), "/dev/console")
    });
    // A /dev that was mounted over has no place for it, and needs none.
    drop(console);
    channel.report(&Report::Console(pty.master))?;
    Ok(pty.slave)
}

/// Gives a terminal to the process's user, if there is such an id.
pub fn give_terminal(pty: &Pty, process: &Process, single_id: bool) -> Result<(), InitError> {
    match process.user().uid() {
        0 => Ok(()),
        _ if single_id => Ok(()),
        uid => match pty.give_to(nix::unistd::Uid::from_raw(uid)) {
            // A terminal of the host's devpts has a group that is nobody's here.
            Err(Errno::EPERM) => Ok(()),
            given => Ok(given.map_err(SysError::of("fchown", "terminal"))?),
        },
    }
}

/// Puts the streams at 0, 1 and 2. `terminal` becomes the controlling terminal of this session.
pub fn connect_streams(streams: Streams, terminal: Option<OwnedFd>, process: &Process) -> Result<(), InitError> {
    match (streams, terminal) {
        (_, Some(terminal)) => install_console(&terminal).map_err(SysError::of("ioctl", "TIOCSCTTY"))?,
        (Streams::Pipes(ends), None) => {
            let user = process.user();
            if user.uid() != 0 {
                // Ids that are not mapped fail later, with a better message.
                let _ = ends.give_to(nix::unistd::Uid::from_raw(user.uid()), nix::unistd::Gid::from_raw(user.gid()));
            }
            ends.install().map_err(SysError::of("dup2", "standard streams"))?;
        }
        (Streams::Inherited, None) => give_streams(process),
        (Streams::Terminal, None) => {}
    }
    Ok(())
}

/// Gives the inherited streams to the process's user, so that it can open them anew through `/dev/stdout`: pipes, sockets
/// and terminals only, files and `/dev/null` have owners of their own. What is refused stays as it is.
fn give_streams(process: &Process) {
    let uid = process.user().uid();
    let streams = [std::io::stdin().as_fd().try_clone_to_owned(), std::io::stdout().as_fd().try_clone_to_owned()];
    let streams = streams.into_iter().chain([std::io::stderr().as_fd().try_clone_to_owned()]).flatten();
    for stream in streams.filter(|_| uid != 0) {
        let kind = nix::sys::stat::fstat(&stream).map(|stat| stat.st_mode & libc::S_IFMT);
        let is_terminal = crate::process::pty::is_terminal(stream.as_fd());
        if is_terminal || matches!(kind, Ok(libc::S_IFIFO | libc::S_IFSOCK)) {
            let _ = nix::unistd::fchown(&stream, Some(nix::unistd::Uid::from_raw(uid)), None);
        }
    }
}

/// Enters the working directory, which must lie inside the root (CVE-2024-21626).
fn change_directory(root: BorrowedFd<'_>, path: &Path) -> Result<(), InitError> {
    let fail = |errno| InitError::WorkingDirectory { path: path.display().to_string(), errno };
    let directory = open_in_root(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|error| fail(error.errno))?;
    nix::unistd::fchdir(&directory).map_err(fail)?;
    let inside = nix::unistd::getcwd().map_err(fail)?;
    if inside.is_absolute() { Ok(()) } else { Err(fail(Errno::EXDEV)) }
}
