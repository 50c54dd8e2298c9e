//! Finds the files: directories in podman's order, their subdirectories, drop-ins.
//!
//! A name that was found is not looked for in later directories. What cannot be read is left out and told; the others are
//! read all the same.
//!
//! # Source
//! `podman-systemd.unit(5)`; `systemd.unit(5)` on drop-ins.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::convert::{Kind, Source};
use super::unit::Unit;
use crate::error::reason;

/// No sane unit is larger.
const MAX_BYTES: u64 = 1 << 20;

/// Where the administrator has files for users.
const OF_ALL_USERS: &str = "/etc/containers/systemd/users";

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The files, in the order in which they need each other.
    pub(crate) sources: Vec<Source>,
    /// What could not be read.
    pub(crate) errors: Vec<String>,
    /// Every file that was read.
    pub(crate) read: Vec<PathBuf>,
}

/// The directories of this user, in order, with their subdirectories: those of `$QUADLET_UNIT_DIRS` alone, if it is set.
pub(crate) fn directories(uid: u32) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if let Some(list) = std::env::var_os("QUADLET_UNIT_DIRS").filter(|list| !list.is_empty()) {
        let given = std::env::split_paths(&list).filter(|path| path.is_absolute());
        given.for_each(|path| add(&mut all, &path, &|_| true));
        return all;
    }
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")));
    for directory in [of("XDG_RUNTIME_DIR"), config].into_iter().flatten() {
        add(&mut all, &directory.join("containers/systemd"), &|_| true);
    }
    let users = fs::canonicalize(OF_ALL_USERS).unwrap_or_else(|_| OF_ALL_USERS.into());
    // Numbers are users: others' are not ours.
    let is_for_all = |path: &Path| {
        let below = path.strip_prefix(&users).ok().and_then(|below| below.components().next());
        below.is_none_or(|name| !name.as_os_str().as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    add(&mut all, &users, &is_for_all);
    add(&mut all, &users.join(uid.to_string()), &|_| true);
    all
}

fn add(all: &mut Vec<PathBuf>, path: &Path, is_wanted: &dyn Fn(&Path) -> bool) {
    let Ok(path) = fs::canonicalize(path) else { return };
    let is_drop_in = path.extension().is_some_and(|extension| extension == "d");
    if all.contains(&path) || is_drop_in || !is_wanted(&path) || !path.is_dir() {
        return;
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort_unstable();
    all.push(path);
    entries.iter().for_each(|entry| add(all, entry, is_wanted));
}

/// Reads the files in these directories.
pub(crate) fn load(directories: &[PathBuf]) -> Found {
    let mut found = Found::default();
    let mut names = std::collections::BTreeSet::new();
    for directory in directories {
        for (name, path) in entries(directory, &mut found.errors) {
            let Some(kind) = Kind::of(&name).filter(|_| !names.contains(&name)) else { continue };
            match parse(&path) {
                Ok(unit) => {
                    names.insert(name.clone());
                    found.read.push(path.clone());
                    found.sources.push(Source { name, path, kind, unit });
                }
                Err(error) => found.errors.push(error),
            }
        }
    }
    for source in &mut found.sources {
        let mut drop_ins: BTreeMap<String, PathBuf> = BTreeMap::new();
        // What is closest to the name of the file counts before what is wider.
        for name in drop_in_directories(&source.name, source.kind) {
            for directory in directories {
                for (file, path) in entries(&directory.join(&name), &mut found.errors) {
                    if file.ends_with(".conf") {
                        drop_ins.entry(file).or_insert(path);
                    }
                }
            }
        }
        for path in drop_ins.into_values() {
            match parse(&path) {
                Ok(unit) => {
                    source.unit.merge(unit);
                    found.read.push(path);
                }
                Err(error) => found.errors.push(error),
            }
        }
    }
    found.sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    found
}

/// What is in a directory, by name.
fn entries(directory: &Path, errors: &mut Vec<String>) -> BTreeMap<String, PathBuf> {
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    match fs::read_dir(directory) {
        Ok(entries) => entries.flatten().filter_map(named).collect(),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                errors.push(format!("read {}: {}", directory.display(), reason(&error)));
            }
            BTreeMap::new()
        }
    }
}

fn parse(path: &Path) -> Result<Unit, String> {
    let fail = |what: &str| format!("error loading {:?}, {what}", path.display().to_string());
    // A pipe of that name shall not be waited for.
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| fail(&reason(&error)))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(fail("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fail(&reason(&error)))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail("larger than 1 MiB"));
    }
    Unit::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| fail(&error))
}

/// `a-b@c.container` has drop-ins in `a-b@c.container.d`, `a-b@.container.d`, `a-@.container.d`, `a-.container.d` and
/// `container.d`.
fn drop_in_directories(name: &str, kind: Kind) -> Vec<String> {
    let extension = kind.section().to_ascii_lowercase();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let (unit, instance) = stem.split_once('@').map_or((stem, None), |(unit, instance)| (unit, Some(instance)));
    let mut all = vec![format!("{name}.d")];
    if instance.is_some_and(|instance| !instance.is_empty()) {
        all.push(format!("{unit}@.{extension}.d"));
    }
    let ends: Vec<usize> = unit.match_indices('-').map(|(at, _)| at + 1).collect();
    for prefix in ends.into_iter().rev().filter_map(|end| unit.get(..end)) {
        if instance.is_some() {
            all.push(format!("{prefix}@.{extension}.d"));
        }
        all.push(format!("{prefix}.{extension}.d"));
    }
    all.push(format!("{extension}.d"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_ins_are_looked_for_from_close_to_wide() {
        assert_eq!(
            drop_in_directories("a-b@c.container", Kind::Container),
            ["a-b@c.container.d", "a-b@.container.d", "a-@.container.d", "a-.container.d", "container.d"]
        );
        assert_eq!(drop_in_directories("web.pod", Kind::Pod), ["web.pod.d", "pod.d"]);
        assert_eq!(drop_in_directories("a@.volume", Kind::Volume), ["a@.volume.d", "volume.d"]);
    }
}
