//! What `RUN --mount` shows: each becomes a mount of the container, a secret, or a directory of the cache.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use runtime::mount::secrets::SecretFile;
use storage::build::Key;
use storage::build::content;
use storage::build::copy::{Place, Rules};
use storage::build::tree::{Tree, everything};
use storage::digest::{Algorithm, Hasher};
use storage::state::lock::FileLock;
use storage::state::request::{BindMount, Mount as RequestMount, Overlay, TmpfsMount};

use super::super::containerfile::{Mount, RunMount, Sharing};
use super::super::stage::{Stage, located};
use super::clean;
use super::copy::{From, known_content};
use crate::error::CommandError;

/// How many directories a private cache has at most at the same time.
const MAX_PRIVATE: usize = 64;

/// A mount whose variables are replaced, and where its files come from.
pub(super) struct Asked<'a> {
    mount: Mount,
    from: Option<From<'a>>,
}

/// What the mounts of a RUN come to.
#[derive(Default)]
pub(super) struct Made {
    pub(super) mounts: Vec<RequestMount>,
    pub(super) files: Vec<SecretFile>,
    pub(super) variables: Vec<String>,
    /// Variables that are no secret.
    pub(super) env: Vec<String>,
    /// Places that are seen in the container.
    pub(super) targets: Vec<PathBuf>,
    /// Caches that are ours alone until the step is done.
    _locks: Vec<FileLock>,
}

impl<'a> Stage<'a> {
    pub(super) fn asked(&self, mounts: &[RunMount]) -> Result<Vec<Asked<'a>>, CommandError> {
        let escape = self.build.file.directives.escape;
        let mut asked = Vec::new();
        for one in mounts {
            let mount = one.expand(escape, &|name| self.lookup(name)).map_err(located)?;
            let from = match (&mount, &one.from) {
                (Mount::Bind { .. } | Mount::Cache { .. }, Some(word)) => Some(self.from(word)?),
                (Mount::Bind { .. }, None) => Some(From::Context(&self.build.source)),
                _ => None,
            };
            asked.push(Asked { mount, from });
        }
        Ok(asked)
    }

    /// What a RUN depends on because of its mounts; secrets, agents and caches are not among it.
    pub(super) fn mount_inputs(&self, asked: &[Asked<'_>]) -> Result<String, CommandError> {
        let mut inputs = String::new();
        for one in asked {
            match (&one.mount, &one.from) {
                (Mount::Secret { .. } | Mount::Ssh { .. }, _) => continue,
                (mount, None) => inputs.push_str(&format!("{mount:?}\n")),
                (mount @ Mount::Bind { source, .. }, Some(From::Context(context))) => {
                    let mut hasher = Hasher::new(Algorithm::Sha256);
                    let start = self.place(&From::Context(context), source)?;
                    let mut failure = None;
                    let filter = |path: &[u8], _: bool| context.verdict(path);
                    let prefix = start.strip_prefix("/").unwrap_or(&start).to_owned();
                    let walked = context.tree.walk(&start, &filter, &mut |path, dir, node| {
                        let full = prefix.join(std::ffi::OsStr::from_bytes(path));
                        let full = full.as_os_str().as_bytes();
                        let full = full.strip_suffix(b"/").unwrap_or(full);
                        hasher.update(path);
                        hasher.update(&(node.kind.bits() | node.mode).to_le_bytes());
                        match node.kind {
                            nix::sys::stat::SFlag::S_IFREG => {
                                match context.digest(&self.build.cache, full, &node.stat, || dir.open_file(node)) {
                                    Ok(digest) => hasher.update(digest.as_bytes()),
                                    Err(error) => failure = failure.take().or(Some(error)),
                                }
                            }
                            nix::sys::stat::SFlag::S_IFLNK => hasher.update(&dir.read_link(node).unwrap_or_default()),
                            _ => {}
                        }
                        Ok(())
                    });
                    walked.map_err(CommandError::host)?;
                    if let Some(failure) = failure {
                        return Err(failure);
                    }
                    inputs.push_str(&format!("{mount:?} {}\n", hasher.finish()));
                }
                (mount, Some(From::Context(_))) => inputs.push_str(&format!("{mount:?}\n")),
                (mount @ Mount::Bind { source, .. }, Some(from @ From::Tree(tree, state))) => {
                    let name = Key::of([b"content".as_slice(), b"bind", state.key.hex().as_bytes(), source.as_bytes()]);
                    let digest = known_content(self.build, state, &name, &|hasher| {
                        let start = self.place(from, source)?;
                        content::add(hasher, tree, &start, &everything, true).map_err(CommandError::host)
                    })?;
                    inputs.push_str(&format!("{mount:?} {digest}\n"));
                }
                (mount, Some(From::Tree(_, state))) => inputs.push_str(&format!("{mount:?} {}\n", state.key.hex())),
            }
        }
        Ok(inputs)
    }

    fn target(&self, target: &str) -> PathBuf {
        clean(&PathBuf::from(self.state.config.workdir()).join(target))
    }

    /// Where a path of a mount is, without links.
    fn place(&self, from: &From<'_>, source: &str) -> Result<PathBuf, CommandError> {
        let path = clean(Path::new(source));
        let found = from.tree().view().canonicalize(&path).map_err(CommandError::host)?;
        found.ok_or_else(|| CommandError::user(format!("--mount source={source}: not found")))
    }

    /// Makes them. `scratch` is a directory of the step's own.
    pub(super) fn make_mounts(&self, asked: Vec<Asked<'_>>, scratch: &Path) -> Result<Made, CommandError> {
        let mut made = Made::default();
        for (number, one) in asked.into_iter().enumerate() {
            let scratch = scratch.join(format!("mount-{number}"));
            if let Some(From::Tree(_, state)) = &one.from {
                self.build.fetch_missing(state)?;
            }
            match one.mount {
                Mount::Bind { source, target, writable, .. } => {
                    let Some(from) = one.from else { continue };
                    let target = self.target(&target);
                    made.mounts.push(self.bind(&from, &source, target.clone(), writable, &scratch)?);
                    made.targets.push(target);
                }
                Mount::Cache { id, target, read_only, sharing, source, mode, uid, gid, .. } => {
                    let target = self.target(&target);
                    let id = id.unwrap_or_else(|| target.display().to_string());
                    let look = (mode.unwrap_or(0o755), uid.unwrap_or(0), gid.unwrap_or(0));
                    let path =
                        self.cache_mount(&id, sharing, look, one.from.as_ref().zip(Some(source.as_str())), &mut made)?;
                    let bind = BindMount { source: path, target: target.clone(), read_only, ..BindMount::default() };
                    made.mounts.push(RequestMount::Bind(bind));
                    made.targets.push(target);
                }
                Mount::Tmpfs { target, size } => {
                    let target = self.target(&target);
                    let size = size.map(|bytes| bytes.to_string());
                    let tmpfs = TmpfsMount { target: target.clone(), size, nocopy: true, ..TmpfsMount::default() };
                    made.mounts.push(RequestMount::Tmpfs(tmpfs));
                    made.targets.push(target);
                }
                Mount::Secret { id, target, env, required, mode, uid, gid } => {
                    let Some(secret) = self.build.options.secrets.get(&id) else {
                        if required {
                            return Err(CommandError::user(format!("secret {id}: not given and required"))
                                .hinted(format!("--secret id={id},src=FILE")));
                        }
                        continue;
                    };
                    if let Some(name) = &env {
                        let text = String::from_utf8(secret.0.clone()).ok().filter(|text| !text.contains('\0'));
                        let text = text.ok_or_else(|| {
                            CommandError::user(format!("secret {id}: not a text that a variable could hold"))
                        })?;
                        made.variables.push(format!("{name}={text}"));
                    }
                    if env.is_none() || target.is_some() {
                        let target = match target {
                            Some(target) => self.target(&target),
                            None => Path::new("/run/secrets").join(&id),
                        };
                        let owner = (uid.unwrap_or(0), gid.unwrap_or(0));
                        let (mode, data) = (mode.unwrap_or(0o400), secret.0.clone());
                        made.targets.push(target.clone());
                        made.files.push(SecretFile { target, owner, mode, data });
                    }
                }
                Mount::Ssh { id, target, required, .. } => {
                    let Some(socket) = self.build.options.agents.get(&id) else {
                        if required {
                            return Err(CommandError::user(format!("ssh agent {id}: not given and required"))
                                .hinted(format!("--ssh {id}")));
                        }
                        continue;
                    };
                    let target = match target {
                        Some(target) => self.target(&target),
                        None => PathBuf::from(format!("/run/buildkit/ssh_agent.{number}")),
                    };
                    made.env.push(format!("SSH_AUTH_SOCK={}", target.display()));
                    let bind = BindMount { source: socket.clone(), target: target.clone(), ..BindMount::default() };
                    made.mounts.push(RequestMount::Bind(bind));
                    made.targets.push(target);
                }
            }
        }
        Ok(made)
    }

    fn bind(
        &self,
        from: &From<'_>,
        source: &str,
        target: PathBuf,
        writable: bool,
        scratch: &Path,
    ) -> Result<RequestMount, CommandError> {
        let mut bind = BindMount { target, read_only: !writable, ..BindMount::default() };
        match from {
            // The caller's own directory, of which nothing is left out.
            From::Context(context) if context.ignore.is_empty() && !writable => {
                let place = self.place(from, source)?;
                bind.source = context.path.join(place.strip_prefix("/").unwrap_or(&place));
            }
            // What is written is thrown away with the copy.
            _ => bind.source = self.copy_out(from, source, scratch)?,
        }
        if writable {
            bind.overlay = None::<Overlay>;
        }
        Ok(RequestMount::Bind(bind))
    }

    /// Copies what a mount shows into a directory of the step's own.
    fn copy_out(&self, from: &From<'_>, source: &str, scratch: &Path) -> Result<PathBuf, CommandError> {
        std::fs::create_dir(scratch).map_err(|error| {
            CommandError::host(format!("create {}: {}", scratch.display(), crate::error::reason(&error)))
        })?;
        let build = self.build;
        let copied: PathBuf = build.space.inside(|| {
            let place = self.place(from, source)?;
            let is_directory = from.tree().view().metadata(&place, false).map_err(CommandError::host)?;
            let is_directory = is_directory.is_some_and(|found| found.is_directory());
            let target = PathBuf::from(if is_directory { "/" } else { "/file" });
            let ids = build.ids();
            let none = Tree::of_layers(Vec::new(), build.ownership());
            let mut copy = Place::open(scratch, none, &ids).map_err(CommandError::host)?;
            let owner = matches!(from, From::Context(_)).then_some((0, 0));
            let rules = Rules { owner, mode: None, keep_links: true };
            let copied = match from {
                From::Context(context) => {
                    copy.copy(from.tree(), &place, &target, &|path, _| context.verdict(path), &rules)
                }
                From::Tree(..) => copy.copy(from.tree(), &place, &target, &everything, &rules),
            };
            copied.and_then(|()| copy.finish()).map_err(CommandError::host)?;
            Ok(if is_directory { PathBuf::new() } else { PathBuf::from("file") })
        })?;
        Ok(if copied.as_os_str().is_empty() { scratch.to_owned() } else { scratch.join(copied) })
    }

    /// The directory of a cache, made and filled when it is new.
    fn cache_mount(
        &self,
        id: &str,
        sharing: Sharing,
        (mode, uid, gid): (u32, u32, u32),
        from: Option<(&From<'_>, &str)>,
        made: &mut Made,
    ) -> Result<PathBuf, CommandError> {
        let build = self.build;
        let ownership = format!("{:?}", build.ownership());
        let name = |number: usize| {
            let number = if number == 0 { String::new() } else { number.to_string() };
            Key::of([b"cache mount".as_slice(), ownership.as_bytes(), id.as_bytes(), number.as_bytes()])
        };
        let mut chosen = None;
        match sharing {
            Sharing::Shared => {}
            Sharing::Locked => {
                build.cache.mount(&name(0)).map_err(CommandError::host)?;
                made._locks.extend(build.cache.lock_mount(&name(0), true).map_err(CommandError::host)?);
            }
            Sharing::Private => {
                for number in 0..MAX_PRIVATE {
                    build.cache.mount(&name(number)).map_err(CommandError::host)?;
                    if let Some(lock) = build.cache.lock_mount(&name(number), false).map_err(CommandError::host)? {
                        made._locks.push(lock);
                        chosen = Some(number);
                        break;
                    }
                }
                if chosen.is_none() {
                    return Err(CommandError::host(format!("cache {id}: {MAX_PRIVATE} steps use it at the same time")));
                }
            }
        }
        let (data, _) = build.cache.mount(&name(chosen.unwrap_or(0))).map_err(CommandError::host)?;
        let is_empty = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty {
            return Ok(data);
        }
        build.space.inside(|| {
            let ids = build.ids();
            let none = Tree::of_layers(Vec::new(), build.ownership());
            let mut place = Place::open(&data, none, &ids).map_err(CommandError::host)?;
            if let Some((from, source)) = from {
                let start = self.place(from, source)?;
                let owner = matches!(from, From::Context(_)).then_some((0, 0));
                let rules = Rules { owner, mode: None, keep_links: true };
                place.copy(from.tree(), &start, Path::new("/"), &everything, &rules).map_err(CommandError::host)?;
            }
            place.look_like(mode, uid, gid).map_err(CommandError::host)?;
            place.finish().map_err(CommandError::host)
        })?;
        Ok(data)
    }
}
