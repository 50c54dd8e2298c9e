//! `fuse-overlayfs`: the union file system as a program of its own, for podman's `mount_program`, `mount(8)` and suites
//! that test file systems.
//!
//! **Runs in:** the caller's namespaces; the process that serves is a fork of the one that mounts, in a session of its own.

mod options;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use storage::layer::index::Index;
use storage::layer::{IdMap, IdRange};
use storage::union::server::{Settings, serve};
use storage::union::{Lower, Options, Owners, Union, Upper};

use super::{Context, Outcome};
use crate::error::CommandError;
use options::{Mount, Request};

/// Largest tree that a rename of a lower directory copies.
const COPY_UP_CAP_BYTES: u64 = 256 << 20;

/// Mount a stack of layers for other programs, as fuse-overlayfs does
///
/// Takes the command line of fuse-overlayfs, and explains it with --help. The program is the same when it is executed by a name that ends with fuse-overlayfs, or begins with mount.fuse.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// The command line of fuse-overlayfs
    #[arg(value_name = "ARG", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// As a command of coracle.
pub(crate) fn run_command(args: Args, _: &Context) -> Outcome {
    run(&args.args, false)
}

/// As a program of its own.
pub(crate) fn run(args: &[OsString], is_mount_helper: bool) -> Outcome {
    let request = options::parse(args, is_mount_helper);
    match request.map_err(|error| error.hinted("fuse-overlayfs --help").with_code(1))? {
        Request::Help => print(HELP),
        Request::Version => print(concat!("fuse-overlayfs: coracle version ", env!("CARGO_PKG_VERSION"), "\n")),
        Request::Nothing => {}
        Request::Mount(mount) => return mount.run().map_err(|error| error.with_code(1)),
    }
    Ok(0)
}

fn print(text: &str) {
    // A closed stdout is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

impl Mount {
    fn run(self) -> Outcome {
        let max_open_files = raise_descriptor_limit();
        let union = self.union(max_open_files)?;
        // The daemon leaves the current directory.
        let target = self.target.canonicalize().map_err(|error| failed("open", &self.target, &error))?;
        let mut fuse = self.fuse.clone();
        // Root of a namespace mounts for all users in it.
        fuse.allow_other |= nix::unistd::geteuid().is_root();
        let device = fuse.mount(&target).map_err(CommandError::host)?;
        let settings = self.settings();
        if self.foreground {
            return serve_until_unmounted(union, device, settings, &target);
        }
        let served = target.clone();
        let started =
            runtime::process::daemon::start(move || match serve_until_unmounted(union, device, settings, &served) {
                Ok(status) => i32::from(status),
                Err(error) => i32::from(error.code()),
            });
        started.map_err(CommandError::host)?;
        // The mount answers, or the daemon is gone and with it the mount.
        std::fs::metadata(&target).map_err(|error| {
            // What went wrong first is what counts.
            let _ = runtime::mount::fuse::unmount(&target);
            failed("look into", &target, &error)
        })?;
        Ok(0)
    }

    fn union(&self, max_open_files: usize) -> Result<Union, CommandError> {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let ids = IdMap::new(with_place_for(uid, &self.uids), with_place_for(gid, &self.gids));
        let lowers = self.lowers.iter().map(|path| {
            // An index knows the owners in the layer, not those that a mapping is from.
            let index = if ids.is_identity() { index_beside(path) } else { None };
            Ok(Lower { dir: directory(path)?, index })
        });
        let upper = match (&self.upper, &self.work) {
            (Some(upper), Some(work)) => Some(Upper { upper: directory(upper)?, work: directory(work)? }),
            _ => None,
        };
        let options = Options {
            lowers: lowers.collect::<Result<_, CommandError>>()?,
            upper,
            owners: Owners::Mapped(ids.clone()),
            lower_ids: ids,
            volatile: self.volatile,
            static_nlink: self.static_nlink,
            max_open_files,
            copy_up_cap_bytes: COPY_UP_CAP_BYTES,
        };
        Union::open(options).map_err(CommandError::host)
    }

    fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            threads: self.threads.unwrap_or(default.threads),
            posix_acl: self.posix_acl,
            volatile: self.volatile || !self.fsync,
            xattrs: self.xattrs,
            timeout: self.timeout.unwrap_or(default.timeout),
            squash_uid: self.squash_uid,
            squash_gid: self.squash_gid,
            trace: self.debug,
            log: None,
        }
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> CommandError {
    let reason = error.to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
    CommandError::host(format_args!("{what} {}: {reason}", path.display()))
}

fn directory(path: &Path) -> Result<OwnedFd, CommandError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|errno| failed("open", path, &errno.into()))
}

/// A mapping in which whoever mounts has a place on disk: podman makes files in its containers before it gives them away,
/// as a user that the container does not have.
fn with_place_for(own: u32, ranges: &[IdRange]) -> Vec<IdRange> {
    const NOBODY: u32 = 65_534;
    let mut ranges = ranges.to_vec();
    let has_place = |range: &IdRange| (range.from..range.from.saturating_add(range.length)).contains(&own);
    if !ranges.is_empty() && !ranges.iter().any(has_place) {
        ranges.push(IdRange { from: own, to: NOBODY, length: 1 });
    }
    ranges
}

/// The index of a layer that coracle has unpacked: it lies beside `diff`.
fn index_beside(lower: &Path) -> Option<Index> {
    let lower = lower.canonicalize().ok()?;
    let beside = lower.file_name().is_some_and(|name| name == "diff").then(|| lower.with_file_name("index"))?;
    Index::open(&beside).ok()
}

/// Takes all descriptors that may be had; half of them are for the union.
fn raise_descriptor_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    usize::try_from(limit / 2).unwrap_or(512)
}

/// Serves until the mount is gone. What asks the process to end unmounts first, so that nobody is left waiting.
fn serve_until_unmounted(union: Union, device: OwnedFd, settings: Settings, target: &Path) -> Outcome {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block().map_err(CommandError::host)?;
    union.make_room();
    let target = target.to_owned();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                // Without a mount there is nothing to end but ourselves.
                let _ = runtime::mount::fuse::unmount(&target);
                std::process::exit(0);
            }
        })
        .map_err(CommandError::host)?;
    serve(union, device, settings).map_err(CommandError::host)?;
    Ok(0)
}

const HELP: &str = "\
Usage: fuse-overlayfs [-f] [-d] [-s] -o OPTION[,OPTION...] [SOURCE] MOUNTPOINT
       mount.fuse.coracle SOURCE MOUNTPOINT [-o OPTION[,OPTION...]]

Mounts a stack of directories, the upper one writable, without root: in a user
namespace, or for one user through fusermount3. Returns when the mount answers;
the process that serves it ends when it is unmounted (umount, fusermount3 -u).

  -f                      stay in the foreground
  -d, --debug, -o debug   print each request and its outcome; stay in the foreground
  -s                      one thread
  -h, --help              print this
  -V, --version           print the version

Layers
  lowerdir=DIR[:DIR...]   directories to merge, topmost first; a backslash keeps
                          a colon, comma or backslash in a name. The index
                          beside a layer that coracle unpacked is used
  upperdir=DIR            where changes go; without it nothing can be written
  workdir=DIR             for files on their way there, on the same file system

Owners
  uidmapping=DISK:SHOWN:COUNT[:DISK:SHOWN:COUNT...]
  gidmapping=DISK:SHOWN:COUNT[:DISK:SHOWN:COUNT...]
                          show other ids than those on disk
  squash_to_root          show all files as root's
  squash_to_uid=UID, squash_to_gid=GID
                          show all files with this owner, this group
  xattr_permissions=0     owners and modes are those on disk (nothing else can
                          be chosen)

Behaviour
  volatile                sync nothing: after a crash of the machine the upper
                          directory is worth nothing
  fsync=0                 fsync does nothing
  noacl                   no POSIX access control lists
  noxattrs[=1]            no extended attributes
  static_nlink            directories have one link
  timeout=SECONDS         ask again after that time whether a file is still the
                          same; for directories that change behind the mount
                          (for ever)
  threaded=0, max_threads=N
                          threads that serve (2)
  allow_other             let other users in; always so for root of a namespace
  fsname=NAME, subtype=NAME
                          what mount shows as source and type
  ro, rw, suid, nosuid, dev, nodev, exec, noexec, sync, dirsync, atime, noatime,
  relatime, strictatime, diratime, nodiratime, lazytime, nosymfollow, max_read=N,
  context=, fscontext=, defcontext=, rootcontext=
                          as for every mount

Always so, and accepted: clone_fd, userxattr, default_permissions, fast_ino=N,
max_idle_threads=N, redirect_dir=off, metacopy=off, index=off, xino=off,
nfs_export=off. For mount(8), and accepted: those of fstab (auto, nofail, user,
_netdev, comment=, x-*). Whatever else is asked for is refused.

Whiteouts and opaque directories are those of the kernel's overlay (0/0 devices,
user.overlay.*), so that the same directories can be mounted by either.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_mounts_has_a_place_in_every_mapping() {
        let range = |from, to, length| IdRange { from, to, length };
        assert_eq!(with_place_for(0, &[]), []);
        assert_eq!(with_place_for(0, &[range(0, 1000, 1)]), [range(0, 1000, 1)]);
        assert_eq!(with_place_for(0, &[range(1, 0, 2000)]), [range(1, 0, 2000), range(0, 65_534, 1)]);
    }
}
