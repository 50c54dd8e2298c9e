//! Mount flags that bind mounts, volumes and temporary file systems share, and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use storage::state::request::{Propagation, TmpfsMount};

use super::Parsed;

/// Flags collected from the options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// `ro` or `rw`.
    pub(crate) read_only: Option<bool>,
    /// `private` and its kin.
    pub(crate) propagation: Option<Propagation>,
    /// `nosuid`, `exec` and their kin, as given.
    pub(crate) options: Vec<String>,
}

impl Flags {
    /// Takes one option; false if it is none of the shared ones.
    pub(crate) fn take(&mut self, option: &str) -> Parsed<bool> {
        match option {
            "ro" | "rw" => {
                let read_only = option == "ro";
                if self.read_only.is_some_and(|before| before != read_only) {
                    return Err("cannot be both ro and rw".to_owned());
                }
                self.read_only = Some(read_only);
            }
            "suid" | "nosuid" | "dev" | "nodev" | "exec" | "noexec" | "atime" | "noatime" | "diratime"
            | "nodiratime" | "relatime" | "norelatime" | "strictatime" | "nostrictatime" | "sync" | "async" => {
                let opposite = option.strip_prefix("no").map_or_else(|| format!("no{option}"), str::to_owned);
                if self.options.contains(&opposite) {
                    return Err(format!("cannot be both {option} and {opposite}"));
                }
                if !self.options.iter().any(|known| known == option) {
                    self.options.push(option.to_owned());
                }
            }
            _ => match propagation(option) {
                Some(propagation) if self.propagation.is_none_or(|before| before == propagation) => {
                    self.propagation = Some(propagation);
                }
                Some(_) => return Err("can have one propagation only".to_owned()),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}

/// A word for how mounts made later travel.
pub(crate) fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "private" => Propagation::Private,
        "rprivate" => Propagation::Rprivate,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::Rslave,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::Rshared,
        "unbindable" => Propagation::Unbindable,
        "runbindable" => Propagation::Runbindable,
        _ => return None,
    })
}

/// A path in the container: absolute, not the root, made plain (`/a/./b/../c/` is `/a/c`).
pub(crate) fn target(path: &str) -> Parsed<PathBuf> {
    if path.contains('\0') {
        return Err("must not contain a NUL byte".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("invalid container path {path:?}, must be an absolute path"));
    }
    let clean = clean(Path::new(path));
    if clean == Path::new("/") { Err("destination cannot be '/'".to_owned()) } else { Ok(clean) }
}

/// The absolute path without `.`, `..` and doubled slashes, as text: links are not followed.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// `--tmpfs target[:option,…]`.
pub(crate) fn tmpfs(value: &str) -> Parsed<TmpfsMount> {
    let (path, options) = value.split_once(':').unwrap_or((value, ""));
    let mut mount = TmpfsMount { target: target(path)?, ..TmpfsMount::default() };
    let mut flags = Flags::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        tmpfs_option(&mut mount, &mut flags, option)?;
    }
    finish_tmpfs(&mut mount, flags)?;
    Ok(mount)
}

/// One option of a temporary file system.
pub(crate) fn tmpfs_option(mount: &mut TmpfsMount, flags: &mut Flags, option: &str) -> Parsed<()> {
    if flags.take(option)? {
        return Ok(());
    }
    match option.split_once('=') {
        Some(("size", size)) => mount.size = Some(tmpfs_size(size)?),
        Some(("mode", mode)) => mount.mode = Some(tmpfs_mode(mode)?),
        Some(("uid" | "gid" | "nr_inodes" | "nr_blocks" | "huge", data)) if is_plain(data) => {
            mount.options.push(option.to_owned());
        }
        None if option == "tmpcopyup" => mount.nocopy = false,
        None if option == "notmpcopyup" => mount.nocopy = true,
        None if option == "noswap" => mount.options.push(option.to_owned()),
        _ => return Err(format!("unknown mount option {option:?}: invalid mount option")),
    }
    Ok(())
}

/// Puts the shared flags into the mount.
pub(crate) fn finish_tmpfs(mount: &mut TmpfsMount, flags: Flags) -> Parsed<()> {
    mount.read_only = flags.read_only == Some(true);
    mount.options.extend(flags.options);
    if let Some(propagation) = flags.propagation {
        mount.options.push(propagation.as_str().to_owned());
    }
    Ok(())
}

/// A size as tmpfs takes it: bytes with an optional k, m or g, or a percentage of the memory.
pub(crate) fn tmpfs_size(size: &str) -> Parsed<String> {
    let lower = size.to_ascii_lowercase();
    let digits = lower.trim_end_matches(['k', 'm', 'g', 't', '%']);
    let suffixes = lower.len() - digits.len();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && suffixes <= 1 {
        return Ok(lower);
    }
    super::size::bytes(size).map(|bytes| bytes.to_string())
}

/// Permission bits in octal.
pub(crate) fn tmpfs_mode(mode: &str) -> Parsed<u32> {
    let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777 && !mode.starts_with('+'));
    bits.ok_or_else(|| format!("invalid mode {mode:?}: must be an octal number of at most 7777"))
}

fn is_plain(data: &str) -> bool {
    !data.is_empty() && data.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_options_are_sorted_into_their_places() {
        let plain = TmpfsMount { target: "/t".into(), ..TmpfsMount::default() };
        let options = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (text, expected) in [
            ("/t", plain.clone()),
            ("/t/", plain.clone()),
            ("/t:", plain.clone()),
            ("/t:rw", plain.clone()),
            ("/t:ro", TmpfsMount { read_only: true, ..plain.clone() }),
            ("/t:size=64m,mode=1777", TmpfsMount { size: Some("64m".to_owned()), mode: Some(0o1777), ..plain.clone() }),
            ("/t:size=50%", TmpfsMount { size: Some("50%".to_owned()), ..plain.clone() }),
            ("/t:size=1MiB", TmpfsMount { size: Some("1048576".to_owned()), ..plain.clone() }),
            ("/t:noexec,suid", TmpfsMount { options: options(&["noexec", "suid"]), ..plain.clone() }),
            ("/t:uid=7,gid=7", TmpfsMount { options: options(&["uid=7", "gid=7"]), ..plain.clone() }),
            ("/t:notmpcopyup", TmpfsMount { nocopy: true, ..plain.clone() }),
            ("/t:rslave", TmpfsMount { options: options(&["rslave"]), ..plain.clone() }),
        ] {
            assert_eq!(tmpfs(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "t",
            "/",
            "//..",
            "/t:foo",
            "/t:size=",
            "/t:size=x",
            "/t:mode=9",
            "/t:mode=77777",
            "/t:ro,rw",
            "/t:exec,noexec",
            "/t:uid=",
            "/t:uid=1:2",
            "/t:private,shared",
            "/t:size=1mm",
            "/t\0",
        ] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_made_plain_without_leaving_the_root() {
        for (path, plain) in [("/a/b/", "/a/b"), ("//a//./b/../c", "/a/c"), ("/../../a", "/a"), ("/", "/")] {
            assert_eq!(clean(Path::new(path)), Path::new(plain), "{path}");
        }
    }
}
