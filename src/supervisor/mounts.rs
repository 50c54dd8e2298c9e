//! Mounts asked for become mounts of the bundle, and what has to be done to files before they are made.
//!
//! ```text
//! P  names → paths; makes volumes and missing sources      S  gives files away, makes scratch directories
//! ```

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount as OciMount;
use runtime::bundle::defaults;
use runtime::userns::IdMap;
use storage::state::container::Record;
use storage::state::layout::{Layout, Ownership, create_dir};
use storage::state::request::{ImageMount, Mount, Overlay, Propagation, Request, TmpfsMount, VolumeMount};
use storage::volume::{self, Backing, Owner, Volume};
use storage::whiteout;

use crate::error::{CommandError, reason};

/// What [`plan`] found, besides the mounts.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Targets of new volumes, to be filled from the image.
    pub(crate) fill: Vec<PathBuf>,
    /// Volumes without a name that were made for this container.
    pub(crate) anonymous_volumes: Vec<String>,
    /// Work for the supervisor.
    pub(crate) chores: Chores,
}

/// What the supervisor does to files before the container's init may mount them; mostly nothing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Chores {
    /// Trees, or what is below them, that are given to the container's user (`:U`).
    pub(crate) own: Vec<(PathBuf, Option<PathBuf>)>,
    /// Targets of those that init fills, and gives away then.
    pub(crate) own_filled: Vec<PathBuf>,
    /// That user, as the base user namespace counts.
    pub(crate) owner: Option<Owner>,
    /// Directories that containers write into instead of others: made anew at each start.
    pub(crate) scratch: Vec<Scratch>,
}

/// A pair of `upper` and `work`.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    directory: PathBuf,
    /// What the root of the upper directory shall look like.
    like: PathBuf,
}

/// Whose mounts these are.
pub(crate) struct Plan<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) record: &'a Record,
    /// Ids of the container's user.
    pub(crate) user: (u32, u32),
    /// Maps of a nested user namespace; empty where there is none.
    pub(crate) maps: (&'a IdMap, &'a IdMap),
    pub(crate) single_id: bool,
    /// How the layers of mounted images are unpacked.
    pub(crate) ownership: Ownership,
}

/// Where the scratch directories of a container are.
fn scratch_root(layout: &Layout, record: &Record) -> PathBuf {
    layout.container(&record.id).join("overlays")
}

/// Makes the mounts of the bundle. Creates volumes and missing bind sources.
pub(crate) fn plan(plan: &Plan<'_>, out: &mut Planned) -> Result<Vec<OciMount>, CommandError> {
    let mounts = plan.record.request.mounts.iter().map(|mount| one(plan, mount, out)).collect::<Result<Vec<_>, _>>()?;
    if !out.chores.own.is_empty() || !out.chores.scratch.is_empty() {
        let (uid, gid) = plan.user;
        let base = |map: &IdMap, id| if map.is_empty() { Some(id) } else { map.to_host(id) };
        out.chores.owner = match (plan.single_id, base(plan.maps.0, uid), base(plan.maps.1, gid)) {
            (true, ..) => Some(Owner::Recorded(uid, gid)),
            (false, Some(uid), Some(gid)) => Some(Owner::Real(uid, gid)),
            _ => None,
        };
    }
    Ok(mounts)
}

fn one(plan: &Plan<'_>, mount: &Mount, out: &mut Planned) -> Result<OciMount, CommandError> {
    match mount {
        Mount::Bind(bind) => {
            if !bind.source.exists() {
                if !bind.create_source {
                    return Err(CommandError::user(format!(
                        "bind source {}: no such file or directory",
                        bind.source.display()
                    )));
                }
                std::fs::create_dir_all(&bind.source).map_err(|error| {
                    CommandError::host(format!("create bind source {}: {}", bind.source.display(), reason(&error)))
                })?;
            }
            let seen = Seen {
                target: &bind.target,
                read_only: bind.read_only,
                recursive: !bind.non_recursive,
                propagation: bind.propagation,
                options: &bind.options,
                chown: bind.chown,
                overlay: bind.overlay.as_ref(),
                subpath: None,
            };
            seen.mount(plan, &bind.source, out)
        }
        Mount::Volume(mount) => {
            let volume = ensure_volume(plan.layout, mount, out)?;
            let mut options = mount.options.clone();
            let source = match volume.backing().map_err(CommandError::user)? {
                Backing::Directory => volume.mountpoint(plan.layout),
                Backing::Bind { source, options: more } => {
                    if !source.is_dir() {
                        return Err(CommandError::host(format!(
                            "volume {}: device {} is not a directory",
                            volume.name,
                            source.display()
                        )));
                    }
                    options.extend(more.into_iter().filter(|word| !matches!(word.as_str(), "bind" | "rbind")));
                    source
                }
                Backing::Tmpfs { options: more } => {
                    options.extend(more);
                    return Ok(defaults::tmpfs(&mount.target, &options, !mount.nocopy));
                }
            };
            // podman's: nobody needs set-id programs or devices of a volume, unless they say so.
            for (word, opposite) in [("nosuid", "suid"), ("nodev", "dev")] {
                if mount.overlay.is_none() && !options.iter().any(|option| option == word || option == opposite) {
                    options.push(word.to_owned());
                }
            }
            let is_empty = std::fs::read_dir(&source).is_ok_and(|mut entries| entries.next().is_none());
            if is_empty && !mount.nocopy && mount.subpath.is_none() && mount.overlay.is_none() {
                out.fill.push(mount.target.clone());
            }
            if let Some(subpath) = &mount.subpath {
                // Inside a volume only: what a container left there must not lead out. Looked up again by who mounts it.
                beneath(&source, subpath)?;
                options.push(format!("subpath={}", subpath.display()));
            }
            let seen = Seen {
                target: &mount.target,
                read_only: mount.read_only,
                recursive: true,
                propagation: mount.propagation,
                options: &options,
                chown: mount.chown,
                overlay: mount.overlay.as_ref(),
                subpath: mount.subpath.as_deref(),
            };
            seen.mount(plan, &source, out)
        }
        Mount::Tmpfs(mount) => Ok(tmpfs(plan, mount)),
        Mount::Devpts(mount) => {
            let mut options: Vec<String> =
                ["nosuid", "noexec", "newinstance", "ptmxmode=0666"].map(str::to_owned).into();
            options.extend(mount.options.iter().cloned());
            Ok(oci("devpts", &mount.target, "devpts".as_ref(), options))
        }
        Mount::Image(mount) => image(plan, mount, out),
    }
}

/// A directory or file as the container shall see it.
struct Seen<'a> {
    target: &'a Path,
    read_only: bool,
    recursive: bool,
    propagation: Option<Propagation>,
    options: &'a [String],
    chown: bool,
    overlay: Option<&'a Overlay>,
    /// Only what is there below it.
    subpath: Option<&'a Path>,
}

impl Seen<'_> {
    fn mount(&self, plan: &Plan<'_>, source: &Path, out: &mut Planned) -> Result<OciMount, CommandError> {
        let propagation = self.propagation.map(Propagation::as_str);
        let Some(overlay) = self.overlay else {
            if self.chown && out.fill.iter().any(|target| target == self.target) {
                out.chores.own_filled.push(self.target.to_owned());
            }
            if self.chown {
                out.chores.own.push((source.to_owned(), self.subpath.map(Path::to_owned)));
            }
            return Ok(defaults::bind(source, self.target, self.read_only, self.recursive, propagation, self.options));
        };
        if !source.is_dir() {
            return Err(CommandError::user(format!("overlay volume {}: not a directory", source.display())));
        }
        if self.subpath.is_some() {
            return Err(CommandError::user("overlay volume: a subpath cannot be an overlay: mount the whole volume"));
        }
        let (upper, work) = match (&overlay.upper, &overlay.work) {
            (Some(upper), Some(work)) => {
                for path in [upper, work] {
                    if !path.is_dir() {
                        return Err(CommandError::user(format!("overlay volume: {}: not a directory", path.display())));
                    }
                }
                (upper.clone(), work.clone())
            }
            _ => scratch(plan, source, out),
        };
        if self.chown {
            // The source is not the container's: what it writes into is.
            out.chores.own.push((upper.clone(), None));
        }
        let mut options = self.options.to_vec();
        options.extend(propagation.map(str::to_owned));
        Ok(overlay_mount(self.target, &[source.to_owned()], &upper, &work, self.read_only, options))
    }
}

/// The next pair of scratch directories of a container.
fn scratch(plan: &Plan<'_>, like: &Path, out: &mut Planned) -> (PathBuf, PathBuf) {
    let number = out.chores.scratch.len().to_string();
    let directory = scratch_root(plan.layout, plan.record).join(number);
    let pair = (directory.join("upper"), directory.join("work"));
    out.chores.scratch.push(Scratch { directory, like: like.to_owned() });
    pair
}

fn overlay_mount(
    target: &Path,
    lowers: &[PathBuf],
    upper: &Path,
    work: &Path,
    read_only: bool,
    mut options: Vec<String>,
) -> OciMount {
    // A colon stands between layers.
    let escaped = |path: &PathBuf| path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
    let lowers = lowers.iter().map(escaped).collect::<Vec<_>>().join(":");
    options.extend([
        if read_only { "ro" } else { "rw" }.to_owned(),
        "userxattr".to_owned(),
        format!("lowerdir={lowers}"),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ]);
    oci("overlay", target, "overlay".as_ref(), options)
}

fn oci(kind: &str, target: &Path, source: &Path, options: Vec<String>) -> OciMount {
    let mut mount = OciMount::default();
    mount
        .set_destination(target.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

fn tmpfs(plan: &Plan<'_>, mount: &TmpfsMount) -> OciMount {
    let mut options = mount.options.clone();
    options.extend(mount.size.as_ref().map(|size| format!("size={size}")));
    options.extend(mount.mode.map(|mode| format!("mode={mode:o}")));
    if mount.read_only {
        options.push("ro".to_owned());
    }
    if mount.chown {
        options.extend([format!("uid={}", plan.user.0), format!("gid={}", plan.user.1)]);
    }
    let mut made = defaults::tmpfs(&mount.target, &options, !mount.nocopy);
    if mount.ramfs {
        made.set_typ(Some("ramfs".to_owned())).set_source(Some("ramfs".into()));
    }
    made
}

/// The directories that systemd wants to find empty, or as the image has them, and to write in.
const SYSTEMD_TMPFS: [&str; 4] = ["/run", "/run/lock", "/tmp", "/var/log/journal"];

/// What systemd finds mounted, where nothing else was asked for.
pub(crate) fn of_systemd(request: &Request) -> Vec<OciMount> {
    let is_asked = |target: &Path| request.mounts.iter().any(|mount| mount.target() == target);
    let size: Vec<String> =
        request.service.systemd_tmpfs_bytes.map(|bytes| format!("size={bytes}")).into_iter().collect();
    let targets = SYSTEMD_TMPFS.iter().map(Path::new).filter(|target| request.service.systemd && !is_asked(target));
    targets.map(|target| defaults::tmpfs(target, &size, true)).collect()
}

fn ensure_volume(layout: &Layout, mount: &VolumeMount, out: &mut Planned) -> Result<Volume, CommandError> {
    let name = match &mount.name {
        Some(name) if !mount.anonymous => return Ok(volume::ensure(layout, name)?.0),
        Some(name) => {
            if let Some(volume) = volume::load(layout, name)? {
                return Ok(volume);
            }
            name.clone()
        }
        None => Volume::anonymous().name,
    };
    let volume = Volume { anonymous: true, ..Volume::named(name) };
    volume::create(layout, &volume)?;
    out.anonymous_volumes.push(volume.name.clone());
    Ok(volume)
}

/// Opens what is at `subpath` below a directory that a container may have written in.
fn beneath(directory: &Path, subpath: &Path) -> Result<std::os::fd::OwnedFd, CommandError> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
    let fail = |errno: nix::errno::Errno| {
        CommandError::user(format!("volume subpath {}: {}", subpath.display(), errno.desc().to_lowercase()))
    };
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(directory, flags, nix::sys::stat::Mode::empty()).map_err(fail)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match nix::fcntl::openat2(dir.as_fd(), subpath, how) {
        // A directory of another id: whoever mounts it may.
        Err(nix::errno::Errno::EACCES) => nix::fcntl::openat2(dir.as_fd(), subpath, how.flags(flags)).map_err(fail),
        other => other.map_err(fail),
    }
}

/// An image's layers under a scratch directory: the kernel wants one even for what is only read.
fn image(plan: &Plan<'_>, mount: &ImageMount, out: &mut Planned) -> Result<OciMount, CommandError> {
    let gone = || CommandError::host(format!("image {}: it has no layers that could be mounted", mount.image));
    let trees: Vec<_> =
        mount.layers.iter().rev().map(|id| plan.layout.layer(id, plan.ownership).join("diff")).collect();
    let lowers = match &mount.subpath {
        None => trees,
        Some(subpath) => below(&trees, subpath)
            .ok_or_else(|| CommandError::user(format!("image {}: no directory /{}", mount.image, subpath.display())))?,
    };
    let like = lowers.first().ok_or_else(gone)?.clone();
    let (upper, work) = scratch(plan, &like, out);
    Ok(overlay_mount(&mount.target, &lowers, &upper, &work, !mount.writable, vec!["nosuid".into(), "nodev".into()]))
}

/// The directory `subpath` of each of these trees, topmost first, down to the first that hides what is below it. No
/// symbolic link is followed.
fn below(trees: &[PathBuf], subpath: &Path) -> Option<Vec<PathBuf>> {
    let mut found = Vec::new();
    for tree in trees {
        let mut path = tree.clone();
        let (mut is_there, mut hides) = (true, false);
        for part in subpath.components().filter(|part| matches!(part, Component::Normal(_))) {
            path.push(part);
            let Ok(stat) = nix::sys::stat::lstat(&path) else {
                is_there = false;
                break;
            };
            if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
                // A whiteout, or something else in its place.
                (is_there, hides) = (false, true);
                break;
            }
            hides |= std::fs::File::open(&path).is_ok_and(|dir| whiteout::is_opaque(&dir).unwrap_or(false));
        }
        if is_there {
            found.push(path);
        }
        if hides {
            break;
        }
    }
    (!found.is_empty()).then_some(found)
}

impl Chores {
    /// Whether there is nothing to be done.
    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.scratch.is_empty()
    }

    /// Does it.
    ///
    /// **Runs in:** the supervisor, root of the base user namespace.
    pub(crate) fn run(&self, layout: &Layout, record: &Record) -> Result<(), CommandError> {
        let old = scratch_root(layout, record);
        if !self.scratch.is_empty() && old.exists() {
            storage::state::trash::put(layout, &old)?;
        }
        for scratch in &self.scratch {
            let fail = |error: std::io::Error| {
                CommandError::host(format!("create {}: {}", scratch.directory.display(), reason(&error)))
            };
            for name in ["upper", "work"] {
                create_dir(&scratch.directory.join(name))?;
            }
            let upper = scratch.directory.join("upper");
            let like = std::fs::metadata(&scratch.like).map_err(fail)?;
            std::fs::set_permissions(&upper, like.permissions()).map_err(fail)?;
            // An owner that has no id here is root for the container.
            let _ = std::os::unix::fs::chown(&upper, Some(like.uid()), Some(like.gid()));
        }
        let no_id = || CommandError::user("option U: the container's user has no id on this host");
        for (path, subpath) in &self.own {
            let owner = self.owner.ok_or_else(no_id)?;
            let owned = match subpath {
                None => volume::own(path, owner),
                Some(subpath) => volume::own_opened(&path.join(subpath), beneath(path, subpath)?.as_fd(), owner),
            };
            owned.map_err(CommandError::host)?;
        }
        Ok(())
    }
}
