//! Init of a bundle's container, from its birth to `runtime`'s steps.
//!
//! **Runs in:** `create`, single-threaded; where init is born in that; where something has to be joined or opened first, in
//! a joiner between the two.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use runtime::cgroup::Cgroup;
use runtime::hooks;
use runtime::init::credentials::LoadFilter;
use runtime::init::gate::Gate;
use runtime::init::handshake::Channel;
use runtime::init::namespaces::{clone_flags, has_private, pid_namespace};
use runtime::init::sealed_exe::SealedExe;
use runtime::init::steps::{self, InitError};
use runtime::mount::rootfs::Rootfs;
use runtime::mount::stage::{self, Staged};
use runtime::process::inherited::Inherited;
use runtime::process::spawn::{self, Birth, JoinError};
use runtime::process::{Forked, SysError, clone3, pidfd};
use runtime::security::seccomp::Filter;
use runtime::userns::newidmap;
use runtime::userns::{IdMap, IdMapEntry};
use storage::state::oci::{Container, Record};
use storage::volume::Owner;

use super::status;
use crate::error::{CommandError, reason};

/// Everything that is decided before there is a process.
pub(super) struct Plan {
    /// The bundle's configuration; there is a process in it.
    pub(super) spec: Spec,
    /// The root file system, absolute.
    pub(super) rootfs: std::path::PathBuf,
    /// What hooks are told.
    pub(super) record: Record,
    /// Where init waits.
    pub(super) listener: OwnedFd,
    /// Standard streams.
    pub(super) is_terminal: bool,
    /// The session keyring.
    pub(super) keyring: Option<CString>,
    /// The system call filter.
    pub(super) filter: Option<Filter>,
    /// Our binary, if it needs protection.
    pub(super) seal: Option<SealedExe>,
    /// How the ids of a new user namespace are written.
    pub(super) maps: Maps,
    /// `--preserve-fds`
    pub(super) preserved_fds: u32,
}

/// How the ids of a new user namespace are written.
#[derive(Debug)]
pub(super) enum Maps {
    /// There is none.
    None,
    /// By ourselves; where the caller maps no id but its own, groups cannot be set.
    Direct {
        /// Groups cannot be set.
        denies_setgroups: bool,
    },
    /// By the setuid helpers.
    Helpers { newuidmap: std::path::PathBuf, newgidmap: std::path::PathBuf },
}

impl Maps {
    /// What a bundle needs.
    pub(super) fn of(spec: &Spec) -> Result<Maps, CommandError> {
        if !has_private(spec, LinuxNamespaceType::User) {
            return Ok(Maps::None);
        }
        let (uids, gids) = mappings(spec);
        if uids.is_empty() || gids.is_empty() {
            let missing = if uids.is_empty() { "uidMappings" } else { "gidMappings" };
            return Err(CommandError::user(format_args!("linux.{missing}: missing: a new user namespace needs ids")));
        }
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        if uid == 0 {
            return Ok(Maps::Direct { denies_setgroups: false });
        }
        let is_own = |map: &[LinuxIdMapping], id| matches!(map, [only] if only.host_id() == id && only.size() == 1);
        if is_own(uids, uid) && is_own(gids, gid) {
            return Ok(Maps::Direct { denies_setgroups: true });
        }
        let find = |name| {
            newidmap::find(name).ok_or_else(|| {
                let what = "linux.uidMappings: ids that are not the caller's";
                CommandError::host(format_args!("{what} need {name}, which is not in PATH")).hinted("coracle doctor")
            })
        };
        Ok(Maps::Helpers { newuidmap: find("newuidmap")?, newgidmap: find("newgidmap")? })
    }

    /// Writes them for the process `pid`, which waits.
    pub(super) fn write(&self, spec: &Spec, pid: i32) -> Result<(), CommandError> {
        let (uids, gids) = mappings(spec);
        let of = |map: &[LinuxIdMapping]| {
            let entry = |one: &LinuxIdMapping| IdMapEntry {
                container: one.container_id(),
                host: one.host_id(),
                size: one.size(),
            };
            IdMap(map.iter().map(entry).collect())
        };
        let (uids, gids) = (of(uids), of(gids));
        let file = |name: &str, text: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::write(&path, text)
                .map_err(|error| CommandError::host(format_args!("write {text:?} to {path}: {}", reason(&error))))
        };
        match self {
            Maps::None => {}
            Maps::Helpers { newuidmap, newgidmap } => newidmap::run_both(newuidmap, newgidmap, pid, &uids, &gids)?,
            Maps::Direct { denies_setgroups } => {
                if *denies_setgroups {
                    file("setgroups", "deny")?;
                }
                file("uid_map", &uids.to_proc_text())?;
                file("gid_map", &gids.to_proc_text())?;
            }
        }
        Ok(())
    }

    /// Whether the container's groups stay those of the caller because the kernel lets nobody change them.
    fn denies_setgroups(&self) -> bool {
        let is_denied = || std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
        matches!(self, Maps::Direct { denies_setgroups: true }) || is_denied()
    }
}

fn mappings(spec: &Spec) -> (&[LinuxIdMapping], &[LinuxIdMapping]) {
    let linux = spec.linux().as_ref();
    let of = |map: &'_ Option<Vec<LinuxIdMapping>>| map.as_ref().is_some_and(|map| !map.is_empty());
    let uids = linux.filter(|linux| of(linux.uid_mappings())).and_then(|linux| linux.uid_mappings().as_deref());
    let gids = linux.filter(|linux| of(linux.gid_mappings())).and_then(|linux| linux.gid_mappings().as_deref());
    (uids.unwrap_or_default(), gids.unwrap_or_default())
}

/// Clones init. Returns its pid and its pidfd, in the caller only. Init closes what it inherited of `container`.
pub(super) fn clone(
    plan: &Plan,
    container: Container,
    cgroup: Option<&Cgroup>,
    channel: Channel,
) -> Result<(i32, OwnedFd, Container), CommandError> {
    let flags = clone_flags(&plan.spec);
    let cgroup = cgroup.map(|cgroup| cgroup.fd.as_fd());
    let born = |staged, container: Container| -> ! {
        // With it the lock, which would be held for as long as we wait.
        drop(container);
        std::process::exit(run(plan, staged, channel))
    };
    let user = path_of(&plan.spec, LinuxNamespaceType::User);
    let pids = pid_namespace(&plan.spec);
    let is_root = nix::unistd::geteuid().is_root();
    // Init with other ids than ours cannot open what is open to us alone.
    let is_staged = is_root && (user.is_some() || flags & libc::CLONE_NEWUSER as u64 != 0);
    if user.is_none() && pids.is_none() && !is_staged {
        let forked = clone3(flags, cgroup).map_err(|errno| refused(&plan.spec, flags, errno))?;
        return match forked {
            Forked::Child => born(Staged::default(), container),
            Forked::Parent { pid, pidfd } => Ok((pidfd::host_pid(pidfd.as_fd()).unwrap_or(pid), pidfd, container)),
        };
    }
    let prepare = || {
        let staged = if is_staged { stage(plan)? } else { Staged::default() };
        let join = |path: Option<&Path>, kind| match path {
            Some(path) => spawn::join(path, kind).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        join(user, libc::CLONE_NEWUSER)?;
        join(pids, libc::CLONE_NEWPID)?;
        Ok(staged)
    };
    match spawn::child_by_joiner(prepare, flags, cgroup).map_err(|error: JoinError| CommandError::host(error))? {
        Birth::Child(staged) => born(staged, container),
        Birth::Parent { pid, pidfd } => Ok((pid, pidfd, container)),
    }
}

fn refused(spec: &Spec, flags: u64, errno: Errno) -> CommandError {
    let error = CommandError::host(SysError { call: "clone3", args: format!("{flags:#x}"), errno });
    match errno {
        Errno::EPERM if !has_private(spec, LinuxNamespaceType::User) => {
            error.hinted("coracle oci spec --rootless: without root a bundle needs a user namespace")
        }
        _ => error,
    }
}

fn path_of(spec: &Spec, kind: LinuxNamespaceType) -> Option<&Path> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|one| one.typ() == kind)?.path().as_deref()
}

/// Opens what the bundle names, in a mount namespace of the joiner's own.
fn stage(plan: &Plan) -> Result<Staged, String> {
    let rootfs = Rootfs::Directory(plan.rootfs.clone());
    let request = stage::Request {
        rootfs: &rootfs,
        mounts: plan.spec.mounts().as_deref().unwrap_or_default(),
        mount_point: &plan.rootfs,
        fill: &[],
        owner: (0, 0),
    };
    let mut staged = Staged::for_nested(&request, &mut no_server).map_err(|error| error.to_string())?;
    staged.sealed = plan.seal.as_ref().map(SealedExe::open).transpose().map_err(|error| error.to_string())?;
    Ok(staged)
}

/// Directories need no FUSE mount.
fn no_server(_: runtime::mount::rootfs::Connection) -> Result<(), SysError> {
    Err(SysError { call: "mount", args: "fuse".into(), errno: Errno::ENOSYS })
}

/// Init. Returns the exit status of a failure.
fn run(plan: &Plan, staged: Staged, channel: Channel) -> i32 {
    let hooks = plan.spec.hooks().as_ref();
    let record = &plan.record;
    let run_hooks = |kind, list: Option<&[oci_spec::runtime::Hook]>, status| {
        let state = status::state(record, status, nix::unistd::getpid().as_raw());
        hooks::run_all(kind, list, state.to_string().as_bytes()).map_err(InitError::from)
    };
    let before_pivot =
        || run_hooks("createContainer", hooks.and_then(|all| all.create_container().as_deref()), "creating");
    let before_program =
        || run_hooks("startContainer", hooks.and_then(|all| all.start_container().as_deref()), "created");
    let load = plan.filter.as_ref().map(|filter| || filter.load().map_err(InitError::from));
    let rootfs = Rootfs::Directory(plan.rootfs.clone());
    let has_groups = |process: &oci_spec::runtime::Process| {
        process.user().additional_gids().as_ref().is_some_and(|groups| !groups.is_empty())
    };
    let wants_groups = plan.spec.process().as_ref().is_some_and(has_groups);
    let plan = steps::Plan {
        spec: &plan.spec,
        early_sysctls: &[],
        rootfs: &rootfs,
        staged,
        mount_point: &plan.rootfs,
        fill: &[],
        append: &[],
        copy_tree,
        own: &[],
        own_tree,
        single_id: false,
        secrets: &[],
        streams: if plan.is_terminal { steps::Streams::Terminal } else { steps::Streams::Inherited },
        init: false,
        pause: false,
        seal: plan.seal.as_ref(),
        keyring: plan.keyring.as_deref().map(CStr::as_ref),
        filter_hides_keyrings: false,
        filter: load.as_ref().map(|load| load as LoadFilter<'_>),
        before_pivot: None,
        gate: Some(Gate {
            listener: plan.listener.as_fd(),
            before_pivot: &before_pivot,
            before_program: &before_program,
        }),
        keep_groups: !wants_groups && plan.maps.denies_setgroups(),
        preserved_fds: plan.preserved_fds,
        inherited: &Inherited::default(),
    };
    steps::run(plan, channel)
}

fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::io::Result<()> {
    storage::volume::copy_up(from, to).map(drop).map_err(std::io::Error::other)
}

fn own_tree(tree: BorrowedFd<'_>, uid: u32, gid: u32) -> std::io::Result<()> {
    storage::volume::own_opened(".".as_ref(), tree, Owner::Real(uid, gid)).map_err(|error| error.source)
}
