//! Where a container's root file system comes from.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::mount::rootfs::{Driver, Rootfs, Stack, Writable};
use runtime::userns::Mapping;
use storage::layer::view::ViewError;
use storage::state::container::Record;
use storage::state::layout::{Layout, Ownership};
use storage::union::lazy::{Places, Reader};

use super::arrival::Verdict;
use crate::error::CommandError;

/// Nobody's passwd is larger.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// A look into a root file system.
#[derive(Debug)]
pub(crate) enum View {
    /// Layers, topmost first, that are not mounted.
    Layers(Vec<PathBuf>),
    /// A directory.
    Directory(PathBuf),
    /// What a running container sees: the pid of its first process, as the host counts.
    Running(i32),
    /// Layers that arrive, and what becomes of them.
    Arriving(Box<RefCell<Reader>>, OwnedFd),
}

/// What mounts layers that are not all there: changes lie in the kernel's overlay, as with all that are.
pub(crate) const ARRIVING: &[Driver] = &[Driver::OverlayFuse];

/// Where the layers of a container arrive.
pub(crate) fn arriving(layout: &Layout, record: &Record) -> Places {
    let layers = record.image.iter().flat_map(|image| image.layers.iter().rev());
    let names = layers.filter_map(|diff_id| {
        let path = layout.layer(diff_id, Ownership::Mapped);
        Some(path.file_name()?.to_string_lossy().into_owned())
    });
    Places::new(layout, names.collect())
}

/// Waits for a file of layers that arrive.
fn await_file(
    reader: &RefCell<Reader>,
    verdict: BorrowedFd<'_>,
    path: &str,
) -> Result<Option<std::fs::File>, CommandError> {
    let failed = |error: std::io::Error| cannot_read(path, &crate::error::reason(&error));
    loop {
        let mut fds = [PollFd::new(verdict, PollFlags::POLLIN)];
        // First: what has come before the verdict can be found after it.
        let is_over = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        let mut reader = reader.try_borrow_mut().map_err(|_| cannot_read(path, "it is being read"))?;
        if let Some(file) = reader.open(path).map_err(failed)? {
            return Ok(file);
        }
        if is_over {
            let pipe = verdict.try_clone_to_owned().map_err(failed)?;
            let why = Verdict::new("of the container".to_owned(), pipe.into()).take();
            return Err(CommandError::host(
                why.err().unwrap_or_else(|| "the image has come, but not whole".to_owned()),
            ));
        }
        let mut fds = [PollFd::new(verdict, PollFlags::POLLIN), PollFd::new(reader.bell(), PollFlags::POLLIN)];
        // An interrupted wait is one that was short.
        let _ = poll(&mut fds, PollTimeout::NONE);
    }
}

impl View {
    /// A look into layers that arrive.
    pub(crate) fn arriving(places: Places, verdict: &Verdict) -> Result<View, CommandError> {
        let failed =
            |error: std::io::Error| CommandError::host(format!("watch layers: {}", crate::error::reason(&error)));
        let reader = Reader::new(places).map_err(failed)?;
        let verdict = verdict.as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(View::Arriving(Box::new(RefCell::new(reader)), verdict))
    }

    /// The contents of a regular file; empty if there is none of that kind.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, CommandError> {
        let file = match self {
            View::Layers(layers) => match storage::layer::view::open_file(layers, Path::new(path)) {
                Ok(file) => file,
                // A FIFO or a directory knows no users: ids in digits need none.
                Err(ViewError::NotAFile { .. }) => None,
                Err(error) => return Err(CommandError::host(error)),
            },
            View::Arriving(reader, verdict) => await_file(reader, verdict.as_fd(), path)?,
            View::Directory(root) => match open_in(root, path) {
                Err(Errno::EACCES) => None,
                opened => opened.map_err(|errno| cannot_read(path, errno.desc()))?,
            },
            View::Running(pid) => match open_in(&PathBuf::from(format!("/proc/{pid}/root")), path) {
                Err(Errno::EACCES) => return read_inside(*pid, path),
                opened => opened.map_err(|errno| cannot_read(path, errno.desc()))?,
            },
        };
        file.map_or(Ok(Vec::new()), |file| contents(file, path))
    }
}

fn cannot_read(path: &str, why: &str) -> CommandError {
    CommandError::host(format!("read the container's {path}: {}", why.to_lowercase()))
}

fn contents(file: impl Read, path: &str) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_read(path, &crate::error::reason(&error)))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(CommandError::host(format!("the image's {path} is larger than {} MiB", MAX_FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Reads a file of a container whose root only its own user namespace may look into: a FUSE mount.
fn read_inside(pid: i32, path: &str) -> Result<Vec<u8>, CommandError> {
    let process = runtime::process::pidfd_open(pid).map_err(|errno| cannot_read(path, errno.desc()))?;
    let pipe_failed = |error: std::io::Error| cannot_read(path, &crate::error::reason(&error));
    let (reader, mut writer) = std::io::pipe().map_err(pipe_failed)?;
    let child = runtime::userns::start_joined(process.as_fd(), || {
        let file = open_in(&PathBuf::from(format!("/proc/{pid}/root")), path).ok().flatten();
        // Too much is as good as more of it for the other side.
        let copied = file.map(|file| std::io::copy(&mut file.take(MAX_FILE_BYTES + 1), &mut writer));
        i32::from(copied.is_some_and(|copied| copied.is_err()))
    })?;
    drop(writer);
    let bytes = contents(reader, path);
    runtime::userns::wait_for(&child)?;
    bytes
}

/// Opens a regular file below a directory that a container may have written: links stay inside, nothing blocks.
fn open_in(root: &Path, path: &str) -> Result<Option<std::fs::File>, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(root, flags, nix::sys::stat::Mode::empty())?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match runtime::mount::open_in_root(dir.as_fd(), Path::new(path), flags) {
        Ok(fd) => {
            let file = std::fs::File::from(fd);
            let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
            Ok(is_file.then_some(file))
        }
        Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO | Errno::ELOOP) => Ok(None),
        Err(error) => Err(error.errno),
    }
}

/// Where a container's root is mounted when something of the host works in it; what `config.json` calls its root.
pub(crate) fn mount_point(layout: &Layout, record: &Record) -> PathBuf {
    layout.container(&record.id).join("merged")
}

/// What `--storage-driver` asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum DriverChoice {
    /// The first that works.
    #[default]
    Auto,
    /// The kernel's overlay; where ids of layers are to be shifted, over a FUSE mount of the layers.
    Overlay,
    /// The kernel's overlay over a FUSE mount of the layers.
    OverlayFuse,
    /// FUSE alone.
    Fuse,
}

impl DriverChoice {
    /// The values of `--storage-driver`.
    pub(crate) const VALUES: [&str; 4] = ["auto", "overlay", "overlay-fuse", "fuse"];

    /// Reads one of them; docker's name for the overlay too.
    pub(crate) fn parse(text: &str) -> Result<DriverChoice, CommandError> {
        match text {
            "" | "auto" => Ok(DriverChoice::Auto),
            "overlay" | "overlay2" => Ok(DriverChoice::Overlay),
            "overlay-fuse" => Ok(DriverChoice::OverlayFuse),
            "fuse" => Ok(DriverChoice::Fuse),
            other => {
                let error = CommandError::user(format!("storage driver {other:?}: there is no such driver"));
                Err(error.hinted(format!("one of {}", Self::VALUES.join(", "))))
            }
        }
    }
}

/// What may mount the root of a container, best first. `recorded` is what did last time.
///
/// Ids of layers that the container has other numbers for are shifted by whoever serves the layers. With one id alone the
/// union keeps the others, which the kernel's overlay cannot.
pub(crate) fn drivers(choice: DriverChoice, recorded: &str, shifted: bool, single_id: bool) -> &'static [Driver] {
    use Driver::{Fuse, Overlay, OverlayFuse};
    match (choice, recorded) {
        (DriverChoice::Overlay, _) => {
            if shifted {
                &[OverlayFuse]
            } else {
                &[Overlay]
            }
        }
        (DriverChoice::OverlayFuse, _) => &[OverlayFuse],
        (DriverChoice::Fuse, _) => &[Fuse],
        (DriverChoice::Auto, "fuse") if shifted => &[Fuse, OverlayFuse],
        (DriverChoice::Auto, _) if shifted => &[OverlayFuse, Fuse],
        (DriverChoice::Auto, "") if single_id => &[Fuse, Overlay],
        (DriverChoice::Auto, "fuse") => &[Fuse, Overlay],
        (DriverChoice::Auto, "overlay-fuse") => &[OverlayFuse, Overlay, Fuse],
        (DriverChoice::Auto, _) => &[Overlay, Fuse],
    }
}

/// The root file system of a container, to be mounted by one of `drivers`.
pub(crate) fn of(layout: &Layout, record: &Record, ownership: Ownership, drivers: &'static [Driver]) -> Rootfs {
    if let Some(directory) = &record.request.rootfs {
        return Rootfs::Directory(directory.clone());
    }
    let base = layout.data_dir();
    let relative = |path: PathBuf| path.strip_prefix(base).map(Path::to_owned).unwrap_or(path);
    let directory = layout.container(&record.id);
    Rootfs::Stack(Stack {
        base: base.to_owned(),
        lowers: layers(layout, record, ownership).map(relative).collect(),
        writable: Some(Writable {
            upper: relative(directory.join("upper")),
            work: relative(directory.join("work")),
            volatile: record.request.remove,
        }),
        drivers,
    })
}

/// The root file system of a step of a build: `lowers`, topmost first, below `upper`.
pub(crate) fn of_step(
    layout: &Layout,
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
    drivers: &'static [Driver],
) -> Rootfs {
    let base = layout.data_dir();
    let relative = |path: &Path| path.strip_prefix(base).unwrap_or(path).to_owned();
    Rootfs::Stack(Stack {
        base: base.to_owned(),
        lowers: lowers.iter().map(|path| relative(path)).collect(),
        writable: Some(Writable { upper: relative(upper), work: relative(work), volatile: true }),
        drivers,
    })
}

/// The same root file system, to be looked into.
pub(crate) fn view(layout: &Layout, record: &Record, ownership: Ownership) -> View {
    match &record.request.rootfs {
        Some(directory) => View::Directory(directory.clone()),
        None => View::Layers(layers(layout, record, ownership).collect()),
    }
}

/// How layers are unpacked for the containers of a user with these ids.
pub(crate) fn ownership(mapping: &Mapping) -> Ownership {
    if mapping.single.is_some() { Ownership::Single } else { Ownership::Mapped }
}

/// The trees of its layers, topmost first.
pub(crate) fn layers(layout: &Layout, record: &Record, ownership: Ownership) -> impl Iterator<Item = PathBuf> {
    let layers = record.image.iter().flat_map(|image| image.layers.iter().rev());
    layers.map(move |diff_id| layout.layer(diff_id, ownership).join("diff"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_tried_from_the_one_that_mounted_it_last() {
        use Driver::{Fuse, Overlay, OverlayFuse};
        let auto = |recorded, shifted, single| drivers(DriverChoice::Auto, recorded, shifted, single);
        assert_eq!(auto("", false, false), [Overlay, Fuse]);
        assert_eq!(auto("overlay", false, false), [Overlay, Fuse]);
        assert_eq!(auto("fuse", false, false), [Fuse, Overlay]);
        assert_eq!(auto("", true, false), [OverlayFuse, Fuse]);
        assert_eq!(auto("overlay", true, false), [OverlayFuse, Fuse]);
        assert_eq!(auto("", false, true), [Fuse, Overlay]);
        assert_eq!(drivers(DriverChoice::Overlay, "fuse", false, false), [Overlay]);
        assert_eq!(drivers(DriverChoice::Overlay, "fuse", true, false), [OverlayFuse]);
        assert!(DriverChoice::parse("vfs").is_err());
    }
}
