//! Where a container's root file system comes from.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use runtime::mount::rootfs::Rootfs;
use storage::digest::DiffId;
use storage::layer::view::ViewError;
use storage::state::container::Record;
use storage::state::layout::Layout;

use crate::error::{CommandError, reason};

/// Nobody's passwd is larger.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// A look into a root file system that is not mounted.
#[derive(Debug)]
pub(crate) enum View {
    /// Layers, topmost first.
    Layers(Vec<PathBuf>),
    /// A directory.
    Directory(PathBuf),
}

impl View {
    /// The contents of a regular file; empty if there is none of that kind.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, CommandError> {
        let file = match self {
            View::Layers(layers) => match storage::layer::view::open_file(layers, Path::new(path)) {
                Ok(file) => file,
                // A FIFO or a directory knows no users: ids in digits need none.
                Err(ViewError::NotAFile { .. }) => None,
                Err(error) => return Err(CommandError::host(error)),
            },
            View::Directory(root) => open_in(root, path)?,
        };
        let Some(file) = file else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| CommandError::host(format!("read the image's {path}: {}", reason(&error))))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(CommandError::host(format!("the image's {path} is larger than {} MiB", MAX_FILE_BYTES >> 20)));
        }
        Ok(bytes)
    }
}

/// Opens a regular file below a directory that a container may have written: links stay inside, nothing blocks.
fn open_in(root: &Path, path: &str) -> Result<Option<std::fs::File>, CommandError> {
    let fail = |errno: Errno| {
        CommandError::host(format!("open {path} in {}: {}", root.display(), errno.desc().to_lowercase()))
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(root, flags, nix::sys::stat::Mode::empty()).map_err(fail)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match runtime::mount::open_in_root(dir.as_fd(), Path::new(path), flags) {
        Ok(fd) => {
            let file = std::fs::File::from(fd);
            let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
            Ok(is_file.then_some(file))
        }
        Err(error)
            if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO | Errno::EACCES | Errno::ELOOP) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where a container's root is mounted when something of the host works in it; what `config.json` calls its root.
pub(crate) fn mount_point(layout: &Layout, record: &Record) -> PathBuf {
    layout.container(&record.id).join("merged")
}

/// The root file system of a container, to be mounted and to be looked into.
pub(crate) fn of(layout: &Layout, record: &Record) -> Result<(Rootfs, View), CommandError> {
    if let Some(directory) = &record.request.rootfs {
        return Ok((Rootfs::Directory(directory.clone()), View::Directory(directory.clone())));
    }
    let base = layout.data_dir();
    let relative = |path: PathBuf| path.strip_prefix(base).map(Path::to_owned).unwrap_or(path);
    let layers: Vec<PathBuf> = record
        .image
        .iter()
        .flat_map(|image| image.layers.iter().rev())
        .map(|diff_id| layer_directory(layout, record, diff_id).join("diff"))
        .collect();
    let directory = layout.container(&record.id);
    let rootfs = Rootfs::Overlay {
        base: base.to_owned(),
        lowers: layers.iter().cloned().map(relative).collect(),
        upper: relative(directory.join("upper")),
        work: relative(directory.join("work")),
        volatile: record.request.remove,
    };
    Ok((rootfs, View::Layers(layers)))
}

/// Where a layer lies unpacked for the id mapping of this container.
pub(crate) fn layer_directory(layout: &Layout, record: &Record, diff_id: &DiffId) -> PathBuf {
    let base = layout.layer(diff_id);
    match record.mapping.as_str() {
        "" => base,
        tag => {
            let mut name = base.file_name().unwrap_or_default().to_owned();
            name.push(format!("-{tag}"));
            base.with_file_name(name)
        }
    }
}
