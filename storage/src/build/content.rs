//! What files are, as a digest: the same for the same files, wherever and whenever they were made.
//!
//! Counted are paths, kinds, permission bits, contents, links' targets and attributes; owners if they are kept; times are
//! not, so that a stage that is built again and comes to the same is the same.

use std::path::Path;

use nix::sys::stat::SFlag;

use super::BuildError;
use super::tree::{Filter, Tree, attributes};
use crate::digest::Hasher;

/// Adds what `path` of a tree, which leads through no link, is.
///
/// **Runs in:** a process that may read the files.
///
/// # Errors
/// [`BuildError`].
pub fn add(
    hasher: &mut Hasher,
    tree: &Tree,
    path: &Path,
    filter: &Filter<'_>,
    with_owners: bool,
) -> Result<(), BuildError> {
    let part = |hasher: &mut Hasher, bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    tree.walk(path, filter, &mut |path, dir, node| {
        let failed = |call: &'static str| move |source| BuildError::call(call, path, source);
        part(hasher, path);
        let owner = if with_owners { (node.uid, node.gid) } else { (0, 0) };
        for number in [node.kind.bits(), node.mode, owner.0, owner.1] {
            hasher.update(&number.to_le_bytes());
        }
        match node.kind {
            SFlag::S_IFREG => {
                let mut file = dir.open_file(node).map_err(failed("open"))?;
                for (name, value) in attributes(std::os::fd::AsFd::as_fd(&file)).map_err(failed("getxattr"))? {
                    part(hasher, &name);
                    part(hasher, &value);
                }
                let (digest, _) = Hasher::of_reader(crate::digest::Algorithm::Sha256, &mut file).map_err(|source| {
                    BuildError::Io { what: format!("read '{}'", crate::layer::Shown(path)), source }
                })?;
                part(hasher, digest.hex().as_bytes());
            }
            SFlag::S_IFLNK => part(hasher, &dir.read_link(node).map_err(failed("readlink"))?),
            _ => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::build::tree::everything;
    use crate::digest::Algorithm;

    #[test]
    fn content_counts_and_time_does_not() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, file) = (scratch.path().join("d"), scratch.path().join("d/f"));
        fs::create_dir(&root).unwrap();
        let digest = || {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let tree = Tree::of_directory(scratch.path());
            add(&mut hasher, &tree, Path::new("/d"), &everything, true).unwrap();
            hasher.finish()
        };
        let write = |text: &str| fs::write(&file, text).unwrap();
        write("one");
        let first = digest();
        fs::remove_file(&file).unwrap();
        write("one");
        let old = SystemTime::now() - Duration::from_secs(100_000);
        fs::File::options().append(true).open(&file).unwrap().set_modified(old).unwrap();
        assert_eq!(digest(), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let second = digest();
        write("two");
        let third = digest();
        fs::rename(&file, root.join("g")).unwrap();
        let all = [first, second, third, digest()];
        assert!((0..4).all(|at| !all[..at].contains(&all[at])), "{all:?}");
    }
}
