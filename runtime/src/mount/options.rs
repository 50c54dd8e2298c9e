//! Mount options of an OCI bundle, sorted into what the kernel takes.

use nix::mount::MsFlags;

use super::MountError;
use crate::sys::mount::attr;

/// The parsed options of one mount.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// Whether `set` applies to what is mounted below as well.
    pub set_recursive: bool,
    /// A bind mount.
    pub bind: bool,
    /// With what is mounted below it.
    pub recursive: bool,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or 0.
    pub propagation: u64,
    /// The propagation applies below as well.
    pub propagation_recursive: bool,
    /// Copy what the image has at the target into a tmpfs first.
    pub copy_up: bool,
    /// Options of the file system itself.
    pub data: Vec<(String, Option<String>)>,
}

/// Parses the options of a mount on `target`.
///
/// # Source
/// OCI runtime specification, `config.md`, "Linux mount options".
pub fn parse(options: &[String], target: &str) -> Result<Options, MountError> {
    let mut out = Options::default();
    for option in options {
        let set = |out: &mut Options, bit: u64| {
            out.set |= bit;
            out.clear &= !bit;
        };
        let clear = |out: &mut Options, bit: u64| {
            out.clear |= bit;
            out.set &= !bit;
        };
        let propagation = |out: &mut Options, flag: MsFlags, recursive| {
            out.propagation = flag.bits();
            out.propagation_recursive = recursive;
        };
        match option.as_str() {
            "defaults" | "async" | "atime" | "diratime" | "norelatime" | "nostrictatime" => {}
            "ro" => set(&mut out, attr::RDONLY),
            "rro" => {
                set(&mut out, attr::RDONLY);
                out.set_recursive = true;
            }
            "rw" => clear(&mut out, attr::RDONLY),
            "nosuid" => set(&mut out, attr::NOSUID),
            "suid" => clear(&mut out, attr::NOSUID),
            "nodev" => set(&mut out, attr::NODEV),
            "dev" => clear(&mut out, attr::NODEV),
            "noexec" => set(&mut out, attr::NOEXEC),
            "exec" => clear(&mut out, attr::NOEXEC),
            "nosymfollow" => set(&mut out, attr::NOSYMFOLLOW),
            "noatime" => set(&mut out, attr::NOATIME),
            "strictatime" => set(&mut out, attr::STRICTATIME),
            "nodiratime" => set(&mut out, attr::NODIRATIME),
            "relatime" => {}
            "bind" => out.bind = true,
            "rbind" => {
                out.bind = true;
                out.recursive = true;
            }
            "private" => propagation(&mut out, MsFlags::MS_PRIVATE, false),
            "rprivate" => propagation(&mut out, MsFlags::MS_PRIVATE, true),
            "slave" => propagation(&mut out, MsFlags::MS_SLAVE, false),
            "rslave" => propagation(&mut out, MsFlags::MS_SLAVE, true),
            "shared" => propagation(&mut out, MsFlags::MS_SHARED, false),
            "rshared" => propagation(&mut out, MsFlags::MS_SHARED, true),
            "unbindable" => propagation(&mut out, MsFlags::MS_UNBINDABLE, false),
            "runbindable" => propagation(&mut out, MsFlags::MS_UNBINDABLE, true),
            "tmpcopyup" => out.copy_up = true,
            "notmpcopyup" => out.copy_up = false,
            other => match other.split_once('=') {
                Some((key, value)) if !key.is_empty() => out.data.push((key.to_owned(), Some(value.to_owned()))),
                _ if matches!(other, "newinstance") => {}
                _ if other.is_empty() || other.contains('=') => {
                    return Err(MountError::Option { target: target.to_owned(), option: option.clone() });
                }
                _ => out.data.push((other.to_owned(), None)),
            },
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_into_attributes_propagation_and_data() {
        let text = ["nosuid", "rbind", "ro", "rw", "rprivate", "size=64k", "newinstance"].map(str::to_owned);
        let options = parse(&text, "/x").expect("all are known");
        assert_eq!(options.set, attr::NOSUID);
        assert_eq!(options.clear, attr::RDONLY);
        assert!(options.bind && options.recursive && options.propagation_recursive);
        assert_eq!(options.propagation, MsFlags::MS_PRIVATE.bits());
        assert_eq!(options.data, [("size".to_owned(), Some("64k".to_owned()))]);
    }
}
