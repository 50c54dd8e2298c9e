//! Makes the mounts of a bundle below the container's root.
//!
//! **Runs in:** container init, single-threaded, in the container's mount namespace, the host's tree still reachable.
//! Every target is resolved beneath the root's descriptor and mounted on by descriptor, so that nothing the image holds
//! can lead a mount to another place (CVE-2021-30465).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use oci_spec::runtime::Mount;

use super::stage::{Staged, source_tree};
use super::target::{Kind, open_or_make};
use super::{MountError, dev, options};
use crate::sys::SysError;
use crate::sys::mount::{Attributes, FsContext, attach, attr, open_in_root, set_attributes};

/// What the mounts of one container depend on besides the bundle.
#[derive(Debug, Default)]
pub struct Made {
    /// The container's procfs, for writes to `/proc` that nothing of the image can redirect (CVE-2025-52881).
    pub proc: Option<OwnedFd>,
    /// A `/dev` that becomes read-only ([`make_read_only`]) when devices and the console have their places in it.
    pub read_only_at_last: Option<OwnedFd>,
}

/// Copies a tree from one directory into another, keeping owners, modes, times and attributes.
pub type CopyTree = fn(BorrowedFd<'_>, BorrowedFd<'_>) -> std::io::Result<()>;

/// Gives a tree to a user and a group of the container.
pub type OwnTree = fn(BorrowedFd<'_>, u32, u32) -> std::io::Result<()>;

/// What is asked for besides the bundle's mounts.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container has one id only.
    pub single_id: bool,
    /// Targets of binds that are filled with what the image has there: new volumes.
    pub fill: &'a [PathBuf],
    /// How trees are copied; writing files that stay is not this crate's business.
    pub copy_tree: CopyTree,
    /// Targets of those of them that, filled, are given to the container's user.
    pub own: &'a [PathBuf],
    /// How trees are given to an owner.
    pub own_tree: OwnTree,
    /// The container's user.
    pub user: (u32, u32),
    /// Sources of binds that are there already.
    pub staged: &'a Staged,
}

/// Makes `mounts` in order.
pub fn all(root: BorrowedFd<'_>, mounts: &[Mount], request: &Request<'_>) -> Result<Made, MountError> {
    let mut made = Made::default();
    for mount in mounts {
        one(root, mount, request, &mut made)?;
    }
    Ok(made)
}

fn one(root: BorrowedFd<'_>, mount: &Mount, request: &Request<'_>, made: &mut Made) -> Result<(), MountError> {
    let path = mount.destination().as_path();
    let target_text = path.display().to_string();
    let none = Vec::new();
    let options = options::parse(mount.options().as_ref().unwrap_or(&none), &target_text)?;
    let kind = mount.typ().as_deref().unwrap_or("");
    let source = mount.source().as_deref();
    let name = source.map_or(kind.to_owned(), |source| source.display().to_string());
    let fail = |source| MountError::Mount { source_name: name.clone(), target: target_text.clone(), source };
    // The kernel says EINVAL where one of the two is a directory.
    let refused = |source: SysError, kind, target: BorrowedFd<'_>| {
        let is_dir = |stat: nix::sys::stat::FileStat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let (given, found) = match (kind, nix::sys::stat::fstat(target).map(is_dir)) {
            (Kind::Directory, Ok(false)) => ("a directory", "not one"),
            (Kind::File, Ok(true)) => ("not a directory", "one"),
            _ => return fail(source),
        };
        MountError::Mismatch { source_name: name.clone(), target: target_text.clone(), given, found }
    };

    if options.bind || kind == "bind" {
        let source = source.ok_or_else(|| MountError::Option { target: target_text.clone(), option: "bind".into() })?;
        let tree = match request.staged.tree(path) {
            Some(tree) => duplicate(tree).map_err(fail)?,
            None => source_tree(source, &options).map_err(fail)?,
        };
        let stat = nix::sys::stat::fstat(&tree).map_err(SysError::of("fstat", source.display())).map_err(fail)?;
        let kind = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR { Kind::Directory } else { Kind::File };
        let target = open_or_make(root, path, kind).map_err(fail)?;
        if request.fill.iter().any(|target| target == path) {
            fill(root, path, tree.as_fd(), request.copy_tree).map_err(fail)?;
            if request.own.iter().any(|target| target == path) {
                let (uid, gid) = request.user;
                let to =
                    open_in_root(tree.as_fd(), Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(fail)?;
                (request.own_tree)(to.as_fd(), uid, gid).map_err(|error| {
                    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
                    fail(SysError { call: "chown", args: target_text.clone(), errno })
                })?;
            }
        }
        apply_attributes(tree.as_fd(), &options).map_err(fail)?;
        attach(tree.as_fd(), target.as_fd(), path.display()).map_err(|error| refused(error, kind, target.as_fd()))?;
        if source == Path::new("/proc") && target_text == "/proc" && made.proc.is_none() {
            // The host's own: a container without a pid namespace of its own may not mount another.
            made.proc = Some(tree);
        }
        return Ok(());
    }
    if kind == "overlay" {
        let not_staged = || fail(SysError { call: "mount", args: "overlay".into(), errno: Errno::ENOENT });
        let mounted = duplicate(request.staged.tree(path).ok_or_else(not_staged)?).map_err(fail)?;
        let target = open_or_make(root, path, Kind::Directory).map_err(fail)?;
        apply_attributes(mounted.as_fd(), &options).map_err(fail)?;
        let attached = attach(mounted.as_fd(), target.as_fd(), path.display());
        return attached.map_err(|error| refused(error, Kind::Directory, target.as_fd()));
    }
    if matches!(target_text.as_str(), "/proc" | "/sys" | "/dev") {
        require_directory(root, path)?;
    }
    // What the image does not have is not there to be copied, and a tmpfs has a mode of its own.
    let copy_up = options.copy_up && open_in_root(root, path, OFlag::O_PATH).is_ok();
    let target = open_or_make(root, path, Kind::Directory).map_err(fail)?;
    // A tmpfs that starts with something in it becomes read-only when it has it.
    let read_only = if kind == "tmpfs" { options.set & attr::RDONLY } else { 0 };
    let mounted = match filesystem(kind, &name, &options, read_only, request.single_id) {
        // A host without cgroup v2, or one that hides it: the container goes without.
        Err(_) if matches!(kind, "cgroup" | "cgroup2") => return Ok(()),
        other => other.map_err(fail)?,
    };
    if request.single_id && kind == "tmpfs" {
        record_owner(mounted.as_fd(), &options);
    }
    if copy_up {
        fill(root, path, mounted.as_fd(), request.copy_tree).map_err(fail)?;
        keep_mode(mounted.as_fd(), &options).map_err(fail)?;
    }
    if kind == "tmpfs" && target_text == "/dev" {
        dev::fill(mounted.as_fd()).map_err(fail)?;
    }
    if read_only != 0 && target_text != "/dev" {
        make_read_only(mounted.as_fd()).map_err(fail)?;
    }
    attach(mounted.as_fd(), target.as_fd(), path.display())
        .map_err(|error| refused(error, Kind::Directory, target.as_fd()))?;
    if kind == "tmpfs" && target_text == "/dev" {
        dev::bind_defaults(mounted.as_fd())?;
        if read_only != 0 {
            made.read_only_at_last = Some(mounted);
        }
        return Ok(());
    }
    if kind == "proc" && made.proc.is_none() {
        made.proc = Some(mounted);
    }
    Ok(())
}

fn duplicate(tree: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    tree.try_clone_to_owned().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE));
        SysError { call: "dup", args: "a staged tree".into(), errno }
    })
}

/// A detached mount of a new instance of a file system.
///
/// `name` is what the bundle calls its source. `later` are attributes that it does not get yet.
fn filesystem(
    kind: &str,
    name: &str,
    options: &options::Options,
    later: u64,
    single_id: bool,
) -> Result<OwnedFd, SysError> {
    let kind: &'static str = match kind {
        "proc" => "proc",
        "sysfs" => "sysfs",
        "tmpfs" => "tmpfs",
        "ramfs" => "ramfs",
        "devpts" => "devpts",
        "mqueue" => "mqueue",
        "cgroup" | "cgroup2" => "cgroup2",
        other => return Err(SysError { call: "fsopen", args: other.to_owned(), errno: Errno::ENODEV }),
    };
    let context = FsContext::open(kind)?;
    if matches!(kind, "tmpfs" | "ramfs" | "devpts") {
        for (key, value) in &options.data {
            match value {
                // No other id is mapped. A tmpfs gets its owner as every emulated one; the tty group goes without.
                Some(_) if single_id && matches!(key.as_str(), "uid" | "gid") => {}
                Some(value) => context.string(key, value)?,
                None => context.flag(key)?,
            }
        }
    }
    // The source name is what the container's mount table shows.
    let source = match kind {
        "cgroup2" => "cgroup",
        "tmpfs" if name == "shm" => "shm",
        kind => kind,
    };
    context.string("source", source)?;
    context.mount(options.set & !later & !(attr::ATIME_MASK & !attr::NOATIME & !attr::STRICTATIME))
}

/// Makes one mount read-only.
pub fn make_read_only(mount: BorrowedFd<'_>) -> Result<(), SysError> {
    set_attributes(mount, Attributes { set: attr::RDONLY, ..Attributes::default() }, false)
}

fn apply_attributes(mount: BorrowedFd<'_>, options: &options::Options) -> Result<(), SysError> {
    // Clearing is a request for what a bind mount of the host may not have anyway: flags of the host's mount are locked
    // in a user namespace, so only setting can succeed.
    if options.set != 0 {
        let mut attributes = Attributes { set: options.set, ..Attributes::default() };
        if options.set & attr::ATIME_MASK != 0 {
            attributes.clear = attr::ATIME_MASK;
        }
        // Read-only means all of it, as docker has it since 25: a writable mount inside would be a surprise.
        let recursive = options.set_recursive || options.set & attr::RDONLY != 0;
        match set_attributes(mount, attributes, recursive) {
            Err(error) if recursive && error.errno == Errno::EPERM => set_attributes(mount, attributes, false)?,
            other => other?,
        }
    }
    if options.propagation != 0 {
        let attributes = Attributes { propagation: options.propagation, ..Attributes::default() };
        set_attributes(mount, attributes, options.propagation_recursive)?;
    }
    Ok(())
}

/// `/proc`, `/sys` and `/dev` must be plain directories or missing: an image that has something else there wants its
/// own files to pass for the kernel's (CVE-2019-16884, CVE-2026-41579).
fn require_directory(root: BorrowedFd<'_>, path: &Path) -> Result<(), MountError> {
    let fd = match open_in_root(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
        Ok(fd) => fd,
        Err(error) if error.errno == Errno::ENOENT => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let stat = nix::sys::stat::fstat(&fd).map_err(SysError::of("fstat", path.display()))?;
    let found = match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => return Ok(()),
        libc::S_IFLNK => "a symbolic link",
        libc::S_IFREG => "a file",
        _ => "a special file",
    };
    Err(MountError::NotADirectory { path: path.display().to_string(), found })
}

/// Gives a filled tmpfs the mode that was asked for, instead of the image's directory's.
fn keep_mode(mount: BorrowedFd<'_>, options: &options::Options) -> Result<(), SysError> {
    let asked = options.data.iter().find(|(key, _)| key == "mode").and_then(|(_, mode)| mode.as_deref());
    let Some(mode) = asked.and_then(|mode| u32::from_str_radix(mode, 8).ok()) else { return Ok(()) };
    let root = open_in_root(mount, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    nix::sys::stat::fchmod(&root, nix::sys::stat::Mode::from_bits_truncate(mode)).map_err(SysError::of("fchmod", mode))
}

/// Records the owner that was asked for where there is one id. A kernel without such attributes on tmpfs (before 6.6)
/// leaves it to root.
fn record_owner(mount: BorrowedFd<'_>, options: &options::Options) {
    let number = |name: &str| {
        let value = options.data.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref());
        value.and_then(|value| value.parse::<u32>().ok()).unwrap_or(0)
    };
    let (user, group) = (number("uid"), number("gid"));
    if (user, group) != (0, 0)
        && let Ok(root) = open_in_root(mount, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    {
        let _ = crate::identity::record_owner(root.as_fd(), user, group);
    }
}

/// Copies what the image has at `path` into the mount that will hide it.
fn fill(root: BorrowedFd<'_>, path: &Path, mount: BorrowedFd<'_>, copy_tree: CopyTree) -> Result<(), SysError> {
    let from = match open_in_root(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(from) => from,
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        Err(error) => return Err(error),
    };
    let to = open_in_root(mount, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    copy_tree(from.as_fd(), to.as_fd()).map_err(|error| SysError {
        call: "copy",
        args: path.display().to_string(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
    })
}
