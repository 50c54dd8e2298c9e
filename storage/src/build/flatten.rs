//! Several layers become one that says the same to what is below: their files, and marks for what they hide.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::copy::{Place, Rules};
use super::tree::{Tree, everything};
use super::{BuildError, Staging};
use crate::layer::IdPolicy;
use crate::layer::diff::TreeForm;
use crate::whiteout;

/// Fills the tree of `staging` with what `layers`, topmost first, are together, over `below`.
///
/// **Runs in:** a process in the user namespace of `ids`, with umask 0.
///
/// # Errors
/// [`BuildError`].
pub fn flatten(staging: &Staging, layers: &[PathBuf], below: &Tree, ids: &IdPolicy) -> Result<(), BuildError> {
    let ownership = ids.ownership();
    let merged = Tree::of_layers(layers.to_vec(), ownership);
    // The root directory looks as it does in all of them together.
    let whole = layers.iter().chain(&below.roots).cloned().collect();
    let mut place = Place::open(&staging.diff(), Tree::of_layers(whole, ownership), ids)?;
    place.forget_below(Tree::of_layers(Vec::new(), ownership));
    let rules = Rules { keep_links: true, ..Rules::default() };
    let root = Path::new("/");
    place.copy(&merged, root, root, &everything, &rules)?;
    if !below.roots.is_empty() {
        hide(&staging.diff(), layers, &merged, below)?;
    }
    place.finish()
}

/// Makes the marks in `top`: of what some layer takes away, and of directories that hide those below.
fn hide(top: &Path, layers: &[PathBuf], merged: &Tree, below: &Tree) -> Result<(), BuildError> {
    let root = open_directory(None, top)?;
    for layer in layers {
        let raw = Tree { roots: vec![layer.clone()], form: TreeForm::Plain, ownership: merged.ownership };
        raw.walk(Path::new("/"), &everything, &mut |path, dir, node| {
            if path.is_empty() {
                return Ok(());
            }
            let failed = |call: &'static str| move |source| BuildError::call(call, path, source);
            let relative = Path::new(OsStr::from_bytes(path));
            match merged.open(relative)? {
                None if below.open(relative)?.is_some() => {
                    let parent = relative.parent().unwrap_or(Path::new(""));
                    let is_directory = merged.open(parent)?.is_some_and(|(_, parent)| parent.is_directory());
                    // Else what hides the directory hides this, too.
                    if is_directory && merged_is_visible(&root, parent)? {
                        let parent = open_directory(Some(&root), parent)?;
                        let name = relative.file_name().unwrap_or_default().as_bytes();
                        match whiteout::make(&parent, name) {
                            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                            Err(errno) => return Err(failed("mknod")(errno)),
                        }
                    }
                    Ok(())
                }
                Some((_, now)) if now.is_directory() => {
                    let hides = match node.is_directory() {
                        false => true,
                        true => {
                            let opened = dir.open_file(node).map_err(failed("open"))?;
                            whiteout::is_opaque(&opened).map_err(failed("getxattr"))?
                        }
                    };
                    if hides {
                        let directory = open_directory(Some(&root), relative)?;
                        whiteout::make_opaque(&directory).map_err(failed("setxattr"))?;
                    }
                    Ok(())
                }
                _ => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// Whether nothing below shows through in `parent` anyway: then no mark is needed in it.
fn merged_is_visible(root: &OwnedFd, parent: &Path) -> Result<bool, BuildError> {
    let path = parent.as_os_str().as_bytes();
    if path.is_empty() {
        return Ok(true);
    }
    let directory = open_directory(Some(root), parent)?;
    whiteout::is_opaque(directory.as_fd()).map(|is| !is).map_err(|source| BuildError::call("getxattr", path, source))
}

/// Opens a directory below `root`, each component without following links.
fn open_directory(root: Option<&OwnedFd>, path: &Path) -> Result<OwnedFd, BuildError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let failed = |source| BuildError::call("open", path.as_os_str().as_bytes(), source);
    let Some(root) = root else {
        return nix::fcntl::open(path, flags, Mode::empty()).map_err(failed);
    };
    let mut directory = openat(root, ".", flags, Mode::empty()).map_err(failed)?;
    for name in path {
        directory = openat(&directory, name, flags, Mode::empty()).map_err(failed)?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::layer::{IdMap, IdRange};

    /// Makes a layer: `name`, `name/`, `-name` (a whiteout), `!name/` (opaque).
    fn layer(root: &Path, name: &str, files: &[&str]) -> PathBuf {
        let layer = root.join(name);
        fs::create_dir_all(&layer).unwrap();
        for file in files {
            let path = layer.join(file.trim_start_matches(['-', '!']));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match file.as_bytes()[0] {
                b'-' => {
                    let parent = fs::File::open(path.parent().unwrap()).unwrap();
                    whiteout::make(&parent, path.file_name().unwrap().as_bytes()).unwrap();
                }
                b'!' => {
                    fs::create_dir_all(&path).unwrap();
                    whiteout::make_opaque(fs::File::open(&path).unwrap()).unwrap();
                }
                _ if file.ends_with('/') => fs::create_dir_all(&path).unwrap(),
                _ => fs::write(&path, name).unwrap(),
            }
        }
        layer
    }

    fn shown(roots: Vec<PathBuf>) -> Vec<String> {
        let mut lines = Vec::new();
        let tree = Tree::of_layers(roots, IdPolicy::identity().ownership());
        tree.walk(Path::new("/"), &everything, &mut |path, dir, node| {
            let text = match node.is_directory() {
                true => String::new(),
                false => std::io::read_to_string(dir.open_file(node).unwrap()).unwrap(),
            };
            lines.push(format!("{} {text}", String::from_utf8_lossy(path)));
            Ok(())
        })
        .unwrap();
        lines
    }

    #[test]
    fn one_layer_says_what_several_said() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let base = layer(root, "base", &["a", "b/c", "b/d", "e/f", "g/h", "i", "j/k", "l/m/n", "o/p"]);
        if whiteout::make(fs::File::open(root).unwrap(), b"probe").is_err() {
            eprintln!("skipped: no whiteouts without a user namespace here");
            return;
        }
        let first = layer(root, "first", &["-a", "b/new", "-e", "g/x", "-i", "!j/", "j/y", "-l/m", "o", "q/r"]);
        let second = layer(root, "second", &["-b/c", "e/z", "-g", "i", "l/m/w", "-q", "j/k2"]);
        fs::create_dir(root.join("trees")).unwrap();
        let staging = Staging::new(&root.join("trees")).unwrap();
        let layers = [second.clone(), first.clone()];
        // Without a user namespace nothing can be given to root: whoever runs this stands for it.
        let own = |id: u32| [0, id].map(|from| IdRange { from, to: id, length: 1 }).to_vec();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let ids = IdPolicy::Mapped(IdMap::new(own(uid), own(gid)));
        let below = Tree::of_layers(vec![base.clone()], ids.ownership());
        flatten(&staging, &layers, &below, &ids).unwrap();
        assert_eq!(shown(vec![staging.diff(), base.clone()]), shown(vec![second, first, base]));
    }
}
