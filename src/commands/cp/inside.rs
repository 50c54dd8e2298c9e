//! The container's side of `cp`.
//!
//! **Runs in:** W, a child of the CLI, single-threaded: root of the container's user namespace in its mount namespace, or,
//! if it does not run, root of the user's namespace in a mount namespace of its own that has the container's root.

use std::io::{BufRead, BufReader, BufWriter, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxIdMapping, Spec};
use runtime::mount::options::parse;
use runtime::mount::stage::source_tree;
use runtime::mount::{Attributes, attach, attr, clone_tree, open_in_root, rootfs, set_attributes};
use runtime::process::pidfd;
use runtime::userns::{self, Mapping};
use storage::layer::diff::{self, TreeForm};
use storage::layer::unpack::{Links, Options, Owner, unpack};
use storage::layer::{IdMap, IdPolicy, IdRange};
use storage::state::container::Record;
use storage::state::layout::create_dir;
use storage::state::status::{self, Init, State};

use super::place::{self, Opened, Place, Source};
use super::{Context, os, unpacked};
use crate::commands::mount;
use crate::error::CommandError;
use crate::supervisor::bundle::is_single;
use crate::supervisor::rootfs::mount_point;

/// Whom the copies in a container belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerOf {
    /// Its root.
    Root,
    /// Whoever the user is in it.
    User,
    /// Whom the archive names.
    Archive,
}

/// What is to be unpacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unpack<'a> {
    /// `None`: an archive from stdin.
    pub(super) source: Option<&'a Source>,
    pub(super) owner: OwnerOf,
    pub(super) overwrite: bool,
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pidfd: OwnedFd,
    /// What it packs, on one line; then why it failed, if it did.
    said: BufReader<PipeReader>,
}

/// What a worker sees of a container that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// Its root, with volumes and directories of the host where the container has them.
    Mounts,
    /// Its root alone.
    Root,
}

/// The root that a worker works in.
struct Root<'a> {
    fd: BorrowedFd<'a>,
    ids: IdPolicy,
    /// The user's ids there.
    user: (u32, u32),
}

/// Whether a container has a first process whose namespaces can be joined.
pub(super) fn is_running(context: &Context, record: &Record) -> Result<bool, CommandError> {
    Ok(init_of(context, record)?.is_some())
}

fn init_of(context: &Context, record: &Record) -> Result<Option<Init>, CommandError> {
    match status::observe(&context.layout, record)?.state {
        State::Running { init, .. } | State::Paused { init, .. } => Ok(Some(init)),
        State::Starting { .. } => {
            Err(CommandError::user(format!("container {} is starting: try again when it runs", record.name)))
        }
        _ => Ok(None),
    }
}

impl Worker {
    /// Starts a worker that packs what is at `path`; below its own name if `is_stream`. `in_child` closes what the worker is
    /// not to have.
    pub(super) fn pack(
        context: &Context,
        record: &Record,
        path: &[u8],
        is_stream: bool,
        data: PipeWriter,
        in_child: impl FnMut(),
    ) -> Result<Worker, CommandError> {
        Self::start(context, record, in_child, |root, said| {
            let place = Place::Container { root: root.fd, name: &record.name };
            let opened = place::open_source(&place, &absolute(path))?;
            // A parent that is gone needs no answer.
            let _ = said.write_all(&line_of(&opened.source));
            pack(&opened, is_stream, &root.ids, data)
        })
    }

    /// Starts a worker that packs the whole root, without what is mounted over it.
    pub(crate) fn export(
        context: &Context,
        record: &Record,
        data: PipeWriter,
        in_child: impl FnMut(),
    ) -> Result<Worker, CommandError> {
        let running = is_running(context, record)?;
        Self::start_with(context, record, Sight::Root, in_child, |root, _| {
            // A clone of that one mount does not have what is mounted in it.
            let alone = if running { Some(clone_tree(nix::fcntl::AT_FDCWD, Path::new("/"), false)?) } else { None };
            let root_fd = alone.as_ref().map_or(root.fd, AsFd::as_fd);
            let out = BufWriter::with_capacity(1 << 18, data);
            diff::write_tree(root_fd, TreeForm::Plain, &root.ids, out).map_err(CommandError::host)?;
            Ok(())
        })
    }

    /// Starts a worker that unpacks to `path`.
    pub(super) fn unpack(
        context: &Context,
        record: &Record,
        path: &[u8],
        work: Unpack<'_>,
        data: PipeReader,
        in_child: impl FnMut(),
    ) -> Result<Worker, CommandError> {
        Self::start(context, record, in_child, |root, _| {
            let place = Place::Container { root: root.fd, name: &record.name };
            let path = absolute(path);
            let target = match work.source {
                Some(source) => place::target(&place, &path, source)?,
                None => place::target_of_archive(&place, &path)?,
            };
            let owner = match work.owner {
                OwnerOf::Root => Owner::Fixed(0, 0),
                OwnerOf::User => Owner::Fixed(root.user.0, root.user.1),
                OwnerOf::Archive => Owner::Archive,
            };
            let links = Links::InRoot(root.fd, PathBuf::from(os(&path)));
            let options = Options { owner, ids: &root.ids, links, overwrite: work.overwrite };
            unpacked(unpack(data, target.dir.as_fd(), target.name.as_deref(), &options), &place, work.source.is_none())
        })
    }

    fn start(
        context: &Context,
        record: &Record,
        in_child: impl FnMut(),
        work: impl FnOnce(&Root<'_>, &mut PipeWriter) -> Result<(), CommandError>,
    ) -> Result<Worker, CommandError> {
        Self::start_with(context, record, Sight::Mounts, in_child, work)
    }

    fn start_with(
        context: &Context,
        record: &Record,
        sight: Sight,
        mut in_child: impl FnMut(),
        work: impl FnOnce(&Root<'_>, &mut PipeWriter) -> Result<(), CommandError>,
    ) -> Result<Worker, CommandError> {
        let (said, mut writer) = super::pipe()?;
        let mut said = Some(said);
        let init = init_of(context, record)?;
        let single_id = is_single(&record.request.userns, &Mapping::of_user());
        let mut enter = || {
            drop(said.take());
            in_child();
            nix::sys::stat::umask(Mode::empty());
        };
        let pidfd = match init {
            Some(init) => {
                let gone = |_| CommandError::user(format!("container {} is not running", record.name));
                let process = pidfd::open_checked(init.pid, init.start_time).map_err(gone)?;
                let user = user_in(init.pid);
                userns::start_inside(process.as_fd(), || {
                    enter();
                    let ids = if single_id { IdPolicy::Single } else { IdPolicy::identity() };
                    let outcome = open_root().and_then(|root| work(&Root { fd: root.as_fd(), ids, user }, &mut writer));
                    report(outcome, &mut writer)
                })?
            }
            None => userns::start_in(&Mapping::of_user(), || {
                enter();
                let outcome = at_rest(context, record, single_id, sight, |root| work(root, &mut writer));
                report(outcome, &mut writer)
            })?,
        };
        drop(writer);
        let Some(said) = said else { return Err(CommandError::printed(crate::error::FAILED)) };
        Ok(Worker { pidfd, said: BufReader::new(said) })
    }

    /// What a packing worker has found; its error if it has found nothing.
    pub(super) fn source(&mut self) -> Result<Source, CommandError> {
        let mut line = Vec::new();
        self.said.read_until(b'\n', &mut line).map_err(CommandError::host)?;
        match line.split_first() {
            Some((kind @ (b'D' | b'F'), rest)) if line.ends_with(b"\n") => {
                let name = rest.strip_suffix(b"\n").unwrap_or(rest);
                let name = name.strip_prefix(b"/").map(unescaped);
                Ok(Source { name, is_directory: *kind == b'D' })
            }
            _ => {
                self.said = BufReader::new(empty_pipe()?);
                Err(failure(&line, userns::wait_for(&self.pidfd)?.code()))
            }
        }
    }

    /// Waits for a worker that packs. An error of whoever unpacks goes first: it is why the worker was not heard to its end.
    pub(crate) fn end(mut self, unpacked: Result<(), CommandError>) -> Result<(), CommandError> {
        let mut text = Vec::new();
        let _ = self.said.read_to_end(&mut text);
        let exit = userns::wait_for(&self.pidfd);
        // An archive that ends early ends for a reason.
        if let Err(error) = unpacked
            && (text.is_empty() || !is_consequence(&error.to_string()))
        {
            return Err(error);
        }
        match exit?.code() {
            0 => Ok(()),
            code => Err(failure(&text, code)),
        }
    }

    /// Waits for a worker that unpacks. Its error goes before that of whoever packs, who then could not write; unless that
    /// is why the archive ends early.
    pub(super) fn end_of_target(mut self, packed: Result<(), CommandError>) -> Result<(), CommandError> {
        let mut text = Vec::new();
        let _ = self.said.read_to_end(&mut text);
        let code = userns::wait_for(&self.pidfd)?.code();
        let is_consequence = is_consequence(&String::from_utf8_lossy(&text));
        match (code, packed) {
            (0, packed) => packed,
            (_, Err(error)) if is_consequence && !error.is_printed() => Err(error),
            (code, _) => Err(failure(&text, code)),
        }
    }
}

/// Whether an error says no more than that the other side has stopped.
fn is_consequence(text: &str) -> bool {
    text.starts_with("tar ") || text.starts_with(super::NO_ITEMS)
}

fn failure(text: &[u8], code: u8) -> CommandError {
    match text {
        b"" => CommandError::host(format!("the process in the container ended with status {code}")),
        text => CommandError::user(String::from_utf8_lossy(text)),
    }
}

fn report(outcome: Result<(), CommandError>, said: &mut PipeWriter) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            // A parent that is gone needs no answer.
            let _ = said.write_all(error.to_string().as_bytes());
            i32::from(error.code())
        }
    }
}

fn pack(opened: &Opened, is_stream: bool, ids: &IdPolicy, data: PipeWriter) -> Result<(), CommandError> {
    let prefix = match (&opened.source.name, is_stream) {
        (Some(name), true) => name.as_slice(),
        _ => b"",
    };
    opened.pack(prefix, ids, BufWriter::with_capacity(1 << 18, data))
}

/// A container's paths begin at its root.
fn absolute(path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() }
}

/// `D` or `F`, then `/` and the name if there is one, a newline in it spelled out.
fn line_of(source: &Source) -> Vec<u8> {
    let mut line = vec![if source.is_directory { b'D' } else { b'F' }];
    if let Some(name) = &source.name {
        line.push(b'/');
        for byte in name {
            match byte {
                b'\n' => line.extend_from_slice(b"//"),
                other => line.push(*other),
            }
        }
    }
    line.push(b'\n');
    line
}

/// The reverse: no name has a slash of its own.
fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut bytes = name.iter().copied().peekable();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'/' {
            bytes.next_if_eq(&b'/');
            out.push(b'\n');
        } else {
            out.push(byte);
        }
    }
    out
}

fn empty_pipe() -> Result<PipeReader, CommandError> {
    Ok(super::pipe()?.0)
}

fn open_root() -> Result<OwnedFd, CommandError> {
    nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| CommandError::host(format!("open the container's root: {}", errno.desc().to_lowercase())))
}

/// The calling user's ids in the user namespace of a process; root's if it has none.
fn user_in(pid: i32) -> (u32, u32) {
    let inner = |file: &str, id: u32| {
        let map = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let found = map.lines().find_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map_while(|word| word.parse::<u32>().ok());
            let (inner, outer, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            id.checked_sub(outer).filter(|at| *at < count).map(|at| inner + at)
        });
        found.unwrap_or(0)
    };
    (inner("uid_map", nix::unistd::geteuid().as_raw()), inner("gid_map", nix::unistd::getegid().as_raw()))
}

/// Mounts the root of a container that does not run, for as long as `work` takes.
fn at_rest(
    context: &Context,
    record: &Record,
    single_id: bool,
    sight: Sight,
    work: impl FnOnce(&Root<'_>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let layout = &context.layout;
    rootfs::own_namespace().map_err(CommandError::host)?;
    let _lock = status::lock_at_rest(layout, record)?;
    let spec = mount::spec(layout, record)?;
    let map = disk_ids(&spec);
    let user = (map.uid_in_layer(0).unwrap_or(0), map.gid_in_layer(0).unwrap_or(0));
    let ids = if single_id { IdPolicy::Single } else { IdPolicy::Mapped(map) };
    let place = mount_point(layout, record);
    create_dir(&place).map_err(CommandError::host)?;
    let mounted = mount::attach(context, record, &place, true);
    let outcome = mounted.and_then(|(root, server)| {
        let mounts = match sight {
            Sight::Mounts => bind_mounts(record, &spec, root.as_fd()),
            Sight::Root => Ok(()),
        };
        let outcome = mounts.and_then(|()| work(&Root { fd: root.as_fd(), ids, user }));
        drop(root);
        rootfs::unmount(&place).map_err(CommandError::host)?;
        if let Some(server) = server {
            server.stop();
        }
        outcome
    });
    // Elsewhere it may be in use.
    let _ = std::fs::remove_dir(&place);
    outcome
}

/// Ids of the container to those of the user's namespace, in which its root is mounted while it does not run.
fn disk_ids(spec: &Spec) -> IdMap {
    let ranges = |mappings: &Option<Vec<LinuxIdMapping>>| {
        let range = |one: &LinuxIdMapping| IdRange { from: one.container_id(), to: one.host_id(), length: one.size() };
        mappings.iter().flatten().map(range).collect()
    };
    let linux = spec.linux().as_ref();
    linux.map(|linux| IdMap::new(ranges(linux.uid_mappings()), ranges(linux.gid_mappings()))).unwrap_or_default()
}

/// Volumes and directories of the host, where the container has them.
fn bind_mounts(record: &Record, spec: &Spec, root: BorrowedFd<'_>) -> Result<(), CommandError> {
    let asked_for =
        |target: &Path| record.request.mounts.iter().any(|mount| mount.is_kept() && mount.target() == target);
    for one in spec.mounts().iter().flatten().filter(|one| asked_for(one.destination())) {
        let Some(source) = one.source().as_ref().filter(|source| source.is_absolute() && source.exists()) else {
            continue;
        };
        let options = one.options().as_deref().unwrap_or_default();
        let parsed = parse(options, &one.destination().display().to_string()).map_err(CommandError::host)?;
        let tree = source_tree(source, &parsed)?;
        let target = match open_in_root(root, one.destination(), OFlag::O_PATH) {
            Err(error) if error.errno == Errno::ENOENT && source.is_dir() => {
                make_directories(root, one.destination())?;
                open_in_root(root, one.destination(), OFlag::O_PATH)?
            }
            // A file's place is made when the container starts.
            Err(error) if error.errno == Errno::ENOENT => continue,
            other => other?,
        };
        attach(tree.as_fd(), target.as_fd(), one.destination().display())?;
        if one.options().iter().flatten().any(|option| option == "ro" || option == "rro") {
            set_attributes(tree.as_fd(), Attributes { set: attr::RDONLY, ..Attributes::default() }, false)?;
        }
    }
    Ok(())
}

/// As the container's start makes them.
fn make_directories(root: BorrowedFd<'_>, path: &Path) -> Result<(), CommandError> {
    let mut at = PathBuf::from("/");
    for part in path.components().filter(|part| matches!(part, std::path::Component::Normal(_))) {
        let above = open_in_root(root, &at, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        at.push(part);
        match nix::sys::stat::mkdirat(&above, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => {
                return Err(CommandError::host(format!("mkdir {}: {}", at.display(), errno.desc().to_lowercase())));
            }
        }
    }
    Ok(())
}
