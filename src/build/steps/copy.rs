//! COPY, and what it has in common with ADD.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::SFlag;
use storage::build::content;
use storage::build::copy::{Chmod, Place, Rules};
use storage::build::tree::{Tree, Verdict};
use storage::build::{BuildError, Key};
use storage::digest::{Algorithm, Hasher};
use storage::layer::tar::Timestamp;
use storage::layer::unpacker::Unpacker;
use storage::layer::view::View;

use super::super::containerfile::{self, Copy, Step, Transfer};
use super::super::context::{Source, verdict};
use super::super::graph::Origin;
use super::super::ignore::Ignore;
use super::super::remote::fetch::Missing;
use super::super::stage::{Build, LayerRef, Stage, State, located};
use super::clean;
use crate::cli::user;
use crate::error::CommandError;

/// Nobody's passwd is larger.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Where files come from.
pub(super) enum From<'a> {
    /// A directory of the caller's: its files are hashed, and belong to root.
    Context(&'a Source),
    /// A stage or an image.
    Tree(Tree, Box<State>),
}

impl From<'_> {
    pub(super) fn tree(&self) -> &Tree {
        match self {
            From::Context(source) => &source.tree,
            From::Tree(tree, _) => tree,
        }
    }
}

/// One thing to be copied.
#[derive(Debug)]
pub(super) enum Item {
    /// A path or pattern.
    Pattern(String),
    /// A file with these contents.
    Text { name: String, contents: Vec<u8>, mode: u32, mtime: Option<Timestamp> },
    /// What was fetched: a file of this name, or the entries of the tree.
    Fetched { tree: Tree, name: String, digest: String, unpack: bool },
}

/// A COPY or ADD with all its variables replaced.
pub(super) struct Job<'a> {
    pub(super) from: From<'a>,
    pub(super) items: Vec<Item>,
    /// Absolute.
    pub(super) destination: PathBuf,
    /// It was written with a slash at its end.
    pub(super) is_directory: bool,
    pub(super) chown: Option<String>,
    pub(super) chmod: Option<String>,
    pub(super) excludes: Ignore,
    /// The excludes as written, for the key.
    pub(super) excluded: Vec<String>,
    pub(super) parents: bool,
    pub(super) link: bool,
    /// Archives are unpacked.
    pub(super) unpack: bool,
    /// What is fetched only if the step is done.
    pub(super) missing: Vec<Missing>,
}

/// A file that a pattern stands for.
#[derive(Debug)]
struct Selected {
    /// Without links.
    path: PathBuf,
    /// What it is called where it goes.
    name: OsString,
    /// Below which directories it goes with `--parents`.
    above: PathBuf,
    is_directory: bool,
}

impl<'a> Stage<'a> {
    /// COPY.
    pub(in super::super) fn copy(&mut self, copy: &Copy, step: &Step) -> Result<(), CommandError> {
        let from = match &copy.from {
            None => From::Context(&self.build.source),
            Some(word) => self.from(word)?,
        };
        let mut job = self.job(&copy.transfer, from)?;
        job.parents = copy.parents;
        self.transfer(job, step, "COPY")
    }

    /// What `--from` means.
    pub(super) fn from(&self, word: &containerfile::Word) -> Result<From<'a>, CommandError> {
        let build = self.build;
        let lookup = |name: &str| build.global.get(name).cloned().or_else(|| self.lookup(name));
        let origin = build.names(&lookup).origin(word, self.index).map_err(located)?;
        if let Origin::Context(name) = &origin
            && let Some(source) = build.named.get(name)
        {
            return Ok(From::Context(source));
        }
        let state = build.origin(&origin, self.done, None)?;
        Ok(From::Tree(build.tree(&state)?, Box::new(state)))
    }

    pub(super) fn job(&self, transfer: &Transfer, from: From<'a>) -> Result<Job<'a>, CommandError> {
        let mut items = Vec::new();
        for source in &transfer.sources {
            items.push(match source {
                containerfile::Source::Path(word) => Item::Pattern(self.expand(word)?),
                containerfile::Source::Heredoc(heredoc) => Item::Text {
                    name: heredoc.name.clone(),
                    contents: heredoc.content(&|name| self.lookup(name)).map_err(located)?.into_bytes(),
                    mode: 0o644,
                    mtime: None,
                },
            });
        }
        let destination = self.expand(&transfer.destination)?;
        let expand = |word: &Option<containerfile::Word>| word.as_ref().map(|word| self.expand(word)).transpose();
        let excluded = transfer.excludes.iter().map(|word| self.expand(word)).collect::<Result<Vec<_>, _>>()?;
        Ok(Job {
            from,
            items,
            is_directory: destination.ends_with('/') || destination.ends_with("/.") || destination == ".",
            destination: clean(&PathBuf::from(self.state.config.workdir()).join(&destination)),
            chown: expand(&transfer.chown)?,
            chmod: expand(&transfer.chmod)?,
            excludes: Ignore::from_patterns(excluded.iter().map(String::as_str)).map_err(CommandError::user)?,
            excluded,
            parents: false,
            link: transfer.link,
            unpack: false,
            missing: Vec::new(),
        })
    }

    /// Does it, or finds that it was done.
    pub(super) fn transfer(&mut self, job: Job<'_>, step: &Step, verb: &str) -> Result<(), CommandError> {
        let build = self.build;
        if let Some(mode) = &job.chmod
            && Chmod::parse(mode).is_none()
        {
            return Err(CommandError::user(format!("--chmod={mode}: neither an octal nor a symbolic mode")));
        }
        let inputs = match &job.from {
            From::Context(source) => job.digest(build, source)?,
            From::Tree(tree, state) => Inputs { kind: "dir", digest: job.content(build, tree, state)? },
        };
        let mut words: Vec<String> =
            vec![verb.to_owned(), inputs.digest.clone(), job.destination.display().to_string()];
        for item in &job.items {
            words.push(match item {
                Item::Pattern(pattern) => format!("path {pattern}"),
                Item::Text { name, contents, mode, .. } => {
                    format!("text {name} {mode:o} {}", storage::digest::Digest::of(contents))
                }
                Item::Fetched { name, digest, unpack, .. } => format!("fetched {name} {digest} {unpack}"),
            });
        }
        words.push(format!(
            "{} {:?} {:?} {:?} {} {}",
            job.is_directory, job.chown, job.chmod, job.excluded, job.parents, job.unpack
        ));
        let parent = self.state.key.clone();
        // Names of users are those of the image below.
        let is_alone =
            job.link && job.chown.as_deref().is_none_or(|chown| chown.bytes().all(|b| b.is_ascii_digit() || b == b':'));
        let above = if is_alone { "" } else { parent.hex() };
        let key = Key::of([above, "transfer"].into_iter().chain(words.iter().map(String::as_str)).map(str::as_bytes));
        let text = match (build.options.persona, &job.from) {
            (crate::role::Persona::Podman, _) => {
                format!("{verb} {}:{} in {} ", inputs.kind, inputs.digest, job.destination.display())
            }
            _ => step.original.clone(),
        };
        let state = self.state.clone();
        self.layer(key.clone(), &text, |staging| {
            job.missing.iter().try_for_each(|missing| missing.fetch(build))?;
            let below = match is_alone {
                true => Tree::of_layers(Vec::new(), build.ownership()),
                false => {
                    build.fetch_missing(&state)?;
                    build.tree(&state)?
                }
            };
            if let From::Tree(_, state) = &job.from {
                build.fetch_missing(state)?;
            }
            build.space.inside(|| job.run(build, &staging.diff(), below).map_err(CommandError::host))
        })?;
        if is_alone {
            self.state.key = Key::of([parent.hex().as_bytes(), key.hex().as_bytes()]);
        }
        Ok(())
    }
}

/// The digest that `add` comes to, in the user namespace; what is known by the name is not asked for again.
pub(super) fn known_content(
    build: &Build<'_>,
    state: &State,
    name: &Key,
    add: &dyn Fn(&mut Hasher) -> Result<(), CommandError>,
) -> Result<String, CommandError> {
    // An image's own files: the digests of its layers say it all.
    let stored = state.layers.iter().map(|layer| match layer {
        LayerRef::Stored { diff_id, .. } => Some(diff_id.as_digest().hex().as_bytes()),
        LayerRef::Step(_) => None,
    });
    if let Some(diff_ids) = stored.collect::<Option<Vec<_>>>() {
        return Ok(Key::of(diff_ids).hex().to_owned());
    }
    if let Some(known) = build.cache.files(name).and_then(|bytes| String::from_utf8(bytes).ok()) {
        return Ok(known);
    }
    build.fetch_missing(state)?;
    let digest = build.space.inside(|| {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        add(&mut hasher)?;
        Ok(hasher.finish().hex().to_owned())
    })?;
    // Without it, it is taken again.
    let _ = build.cache.keep_files(name, digest.as_bytes());
    Ok(digest)
}

/// What the inputs of a COPY are, for its key and its line in the history.
struct Inputs {
    kind: &'static str,
    digest: String,
}

/// Something that went wrong in the child.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    View(#[from] storage::layer::view::ViewError),
    #[error("\"/{0}\": not found")]
    NotFound(String),
    #[error("\"/{0}\": left out of the build context by its ignore file")]
    Ignored(String),
    #[error("--chown={spec}: {why}")]
    Owner { spec: String, why: user::UnknownUser },
    #[error("{name}: {why}")]
    Archive { name: String, why: String },
    #[error("{0}: is not a directory; with several sources the destination must be one")]
    NotADirectory(String),
}

impl Job<'_> {
    /// A digest of all that is copied from a context. On the host: the files are the caller's.
    fn digest(&self, build: &Build<'_>, source: &Source) -> Result<Inputs, CommandError> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let (mut files, mut dirs) = (0, 0);
        let part = |hasher: &mut Hasher, bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let mut failure = None;
        for item in &self.items {
            let Item::Pattern(pattern) = item else { continue };
            for selected in self.select(pattern).map_err(CommandError::user)? {
                if selected.is_directory {
                    dirs += 1
                } else {
                    files += 1
                }
                part(&mut hasher, selected.name.as_bytes());
                part(&mut hasher, selected.above.as_os_str().as_bytes());
                let filter = self.filter(&selected);
                let start = selected.path.as_os_str().as_bytes().trim_ascii_start();
                let start = start.strip_prefix(b"/").unwrap_or(start).to_vec();
                let walked = source.tree.walk(&selected.path, &filter, &mut |path, dir, node| {
                    part(&mut hasher, path);
                    part(&mut hasher, &(node.kind.bits() | node.mode).to_le_bytes());
                    let full = match (start.is_empty(), path.is_empty()) {
                        (true, _) => path.to_vec(),
                        (false, true) => start.clone(),
                        (false, false) => [&start, b"/".as_slice(), path].concat(),
                    };
                    match node.kind {
                        SFlag::S_IFREG => {
                            match source.digest(&build.cache, &full, &node.stat, || dir.open_file(node)) {
                                Ok(digest) => part(&mut hasher, digest.as_bytes()),
                                Err(error) => failure = failure.take().or(Some(error)),
                            }
                        }
                        SFlag::S_IFLNK => {
                            part(&mut hasher, &dir.read_link(node).unwrap_or_default());
                        }
                        _ => {}
                    }
                    Ok(())
                });
                walked.map_err(CommandError::host)?;
            }
        }
        match failure {
            Some(error) => Err(error),
            None => {
                let kind = match (files, dirs) {
                    (1, 0) => "file",
                    (0, 1) => "dir",
                    _ => "multi",
                };
                Ok(Inputs { kind, digest: hasher.finish().hex().to_owned() })
            }
        }
    }

    /// A digest of all that is copied from a stage or an image: one that was built again and came to the same is the
    /// same. What it is for this state is known from then on.
    fn content(&self, build: &Build<'_>, tree: &Tree, state: &State) -> Result<String, CommandError> {
        let mut words = vec!["content", state.key.hex(), if self.parents { "parents" } else { "" }];
        words.push(if self.chown.is_some() { "chown" } else { "" });
        words.extend(self.excluded.iter().map(String::as_str));
        words.push("");
        words.extend(self.items.iter().filter_map(|item| match item {
            Item::Pattern(pattern) => Some(pattern.as_str()),
            _ => None,
        }));
        known_content(build, state, &Key::of(words.into_iter().map(str::as_bytes)), &|hasher| {
            for item in &self.items {
                let Item::Pattern(pattern) = item else { continue };
                for selected in self.select(pattern).map_err(CommandError::user)? {
                    for part in [selected.name.as_bytes(), selected.above.as_os_str().as_bytes()] {
                        hasher.update(&(part.len() as u64).to_le_bytes());
                        hasher.update(part);
                    }
                    let (filter, with_owners) = (self.filter(&selected), self.chown.is_none());
                    let added = content::add(hasher, tree, &selected.path, &filter, with_owners);
                    added.map_err(CommandError::host)?;
                }
            }
            Ok(())
        })
    }

    /// What a walk takes of a selected file.
    fn filter<'s>(&'s self, selected: &'s Selected) -> impl Fn(&[u8], bool) -> Verdict + 's {
        let start = selected.path.as_os_str().as_bytes();
        let start = start.strip_prefix(b"/").unwrap_or(start);
        move |path: &[u8], _| {
            let ignored = match &self.from {
                From::Context(source) => source.verdict(path),
                From::Tree(..) => Verdict::Take,
            };
            if ignored == Verdict::Skip || self.excludes.is_empty() {
                return ignored;
            }
            // A pattern means a path from the root, or from what is copied.
            let below =
                path.strip_prefix(start).and_then(|rest| rest.strip_prefix(b"/")).filter(|_| selected.is_directory);
            let all = [Some(path), below].into_iter().flatten();
            let excluded = all.map(|path| verdict(&self.excludes, path));
            excluded.fold(ignored, |worst, one| match (worst, one) {
                (Verdict::Skip, _) | (_, Verdict::Skip) => Verdict::Skip,
                (Verdict::Descend, _) | (_, Verdict::Descend) => Verdict::Descend,
                _ => Verdict::Take,
            })
        }
    }

    /// The files that a pattern stands for.
    fn select(&self, pattern: &str) -> Result<Vec<Selected>, CopyError> {
        let tree = self.from.tree();
        let view = tree.view();
        let shown = pattern.trim_start_matches("./").trim_start_matches('/').to_owned();
        let pivot = pattern.find("/./").filter(|_| self.parents).map(|at| clean(Path::new(&pattern[..at])));
        let cleaned = clean(Path::new(pattern));
        let mut found = vec![PathBuf::from("/")];
        let mut is_pattern = false;
        for part in cleaned.components() {
            let Component::Normal(name) = part else { continue };
            let name = name.to_string_lossy();
            if !name.contains(['*', '?', '[', '\\']) {
                found.iter_mut().for_each(|path| path.push(&*name));
                continue;
            }
            is_pattern = true;
            let mut next = Vec::new();
            for path in &found {
                let real = view.canonicalize(path)?.unwrap_or_else(|| path.clone());
                for entry in view.list(&real)?.unwrap_or_default() {
                    if is_match(name.as_bytes(), &entry) {
                        next.push(path.join(OsStr::from_bytes(&entry)));
                    }
                }
            }
            found = next;
        }
        let mut selected = Vec::new();
        for path in found {
            let missing = || CopyError::NotFound(path.to_string_lossy().trim_start_matches('/').to_owned());
            let real = view.canonicalize(&path)?.ok_or_else(missing)?;
            let metadata = view.metadata(&real, false)?.ok_or_else(missing)?;
            let inside = real.as_os_str().as_bytes();
            if let From::Context(source) = &self.from
                && inside != b"/"
                && !metadata.is_directory()
                && source.verdict(inside.strip_prefix(b"/").unwrap_or(inside)) != Verdict::Take
            {
                if is_pattern {
                    continue;
                }
                return Err(CopyError::Ignored(shown));
            }
            let above = match (&pivot, self.parents) {
                (_, false) => PathBuf::new(),
                (Some(pivot), true) => {
                    path.strip_prefix(pivot).unwrap_or(&path).parent().unwrap_or(Path::new("")).into()
                }
                (None, true) => path.strip_prefix("/").unwrap_or(&path).parent().unwrap_or(Path::new("")).into(),
            };
            let name = path.file_name().unwrap_or_default().to_owned();
            selected.push(Selected { path: real, name, above, is_directory: metadata.is_directory() });
        }
        if selected.is_empty() {
            return Err(CopyError::NotFound(shown));
        }
        Ok(selected)
    }

    /// Copies.
    ///
    /// **Runs in:** a child in the user namespace.
    fn run(&self, build: &Build<'_>, diff: &Path, below: Tree) -> Result<(), CopyError> {
        let ids = build.ids();
        let owner = match &self.chown {
            Some(spec) => Some(owner(spec, &below.view())?),
            None => matches!(self.from, From::Context(_)).then_some((0, 0)),
        };
        let mut place = Place::open(diff, below, &ids)?;
        place.own_parents(owner.filter(|_| self.chown.is_some()).unwrap_or_default());
        let rules = Rules { owner, mode: self.chmod.as_deref().and_then(Chmod::parse), keep_links: true };
        let destination = if self.link { self.destination.clone() } else { place.resolve(&self.destination)? };
        let is_there =
            destination == Path::new("/") || place.metadata(&destination)?.is_some_and(|found| found.is_directory());
        let into = self.is_directory || is_there || self.parents;
        let mut all = Vec::new();
        for item in &self.items {
            match item {
                Item::Pattern(pattern) => all.extend(self.select(pattern)?.into_iter().map(Ok)),
                Item::Text { .. } | Item::Fetched { .. } => all.push(Err(item)),
            }
        }
        if all.len() > 1 && !into {
            return Err(CopyError::NotADirectory(destination.display().to_string()));
        }
        for one in all {
            match one {
                Ok(selected) => {
                    let from = (self.from.tree(), self.unpack);
                    self.one(&mut place, from, &selected, &destination, into, &rules)?;
                }
                Err(Item::Fetched { tree, name, unpack, .. }) => {
                    let path = Path::new("/").join(name);
                    let (is_directory, above) = (name.is_empty(), PathBuf::new());
                    let selected = Selected { path, name: name.into(), above, is_directory };
                    let rules = Rules { owner: rules.owner.or(Some((0, 0))), ..rules.clone() };
                    self.one(&mut place, (tree, *unpack), &selected, &destination, into, &rules)?;
                }
                Err(Item::Text { name, contents, mode, mtime }) => {
                    let target = if into { destination.join(name) } else { destination.clone() };
                    let mode = match &rules.mode {
                        Some(chmod) => chmod.apply(*mode, false),
                        None => *mode,
                    };
                    let look = (mode, owner.unwrap_or_default(), mtime.unwrap_or(EPOCH));
                    place.write(&target, contents.as_slice(), look)?;
                }
                Err(Item::Pattern(_)) => {}
            }
        }
        Ok(place.finish()?)
    }

    fn one(
        &self,
        place: &mut Place<'_>,
        (tree, unpack): (&Tree, bool),
        selected: &Selected,
        destination: &Path,
        into: bool,
        rules: &Rules,
    ) -> Result<(), CopyError> {
        let filter = self.filter(selected);
        let base = destination.join(&selected.above);
        if selected.is_directory {
            let target = if self.parents { base.join(&selected.name) } else { base };
            place.make_directory(&target)?;
            return Ok(place.copy(tree, &selected.path, &target, &filter, rules)?);
        }
        if unpack && let Some(archive) = self.archive(tree, selected)? {
            let rules = Rules { owner: self.chown.as_ref().and(rules.owner), ..rules.clone() };
            return Ok(place.unpack(archive, destination, &rules)?);
        }
        let target = if into { base.join(&selected.name) } else { base };
        Ok(place.copy(tree, &selected.path, &target, &filter, rules)?)
    }

    /// The uncompressed stream of a file that is an archive.
    fn archive(&self, tree: &Tree, selected: &Selected) -> Result<Option<Unpacker<File>>, CopyError> {
        let Some((dir, node)) = tree.open(&selected.path)? else { return Ok(None) };
        let name = || selected.name.to_string_lossy().into_owned();
        let broken = |error: &dyn std::fmt::Display| CopyError::Archive { name: name(), why: error.to_string() };
        let file = dir.open_file(&node).map_err(|errno| broken(&errno.desc().to_lowercase()))?;
        super::archive::of(file).map_err(|why| CopyError::Archive { name: name(), why })
    }
}

/// 1970: what is made of a Dockerfile's own text has no better time, and is the same tomorrow.
const EPOCH: Timestamp = Timestamp { secs: 0, nanos: 0 };

/// `USER[:GROUP]` by the accounts of the image below. Of a number without a group the group is the same.
fn owner(spec: &str, view: &View<'_>) -> Result<(u32, u32), CopyError> {
    let failed = |why| CopyError::Owner { spec: spec.to_owned(), why };
    let is_number = spec.bytes().all(|byte| byte.is_ascii_digit());
    let spec = if is_number { format!("{spec}:{spec}") } else { spec.to_owned() };
    let read = |path| match view.read(path, MAX_FILE_BYTES) {
        Err(storage::layer::view::ViewError::NotAFile { .. }) => Ok(Vec::new()),
        read => read.map(Option::unwrap_or_default),
    };
    let user = user::resolve(&spec, &[], &read("/etc/passwd")?, &read("/etc/group")?).map_err(failed)?;
    Ok((user.uid, user.gid))
}

/// Go's `filepath.Match` for one name.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], _) => name.is_empty(),
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| is_match(rest, &name[at..])),
        ([b'?', rest @ ..], [_, tail @ ..]) => is_match(rest, tail),
        ([b'[', rest @ ..], [first, tail @ ..]) => {
            let (negated, mut set) = match rest {
                [b'^', rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let (mut found, mut is_first) = (false, true);
            loop {
                match set {
                    [b']', rest @ ..] if !is_first => return found != negated && is_match(rest, tail),
                    [low, b'-', high, rest @ ..] if *high != b']' => {
                        found |= (low..=high).contains(&first);
                        set = rest;
                    }
                    [one, rest @ ..] => {
                        found |= one == first;
                        set = rest;
                    }
                    [] => return false,
                }
                is_first = false;
            }
        }
        ([b'\\', one, rest @ ..], [first, tail @ ..]) => one == first && is_match(rest, tail),
        ([one, rest @ ..], [first, tail @ ..]) => one == first && is_match(rest, tail),
        (_, []) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_go() {
        for (pattern, name, expected) in [
            ("*.c", "a.c", true),
            ("*.c", "a.h", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("[]a]", "]", true),
        ] {
            assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
