//! The command line of `fuse-overlayfs`, which is that of its FUSE library: pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use runtime::mount::attr;
use runtime::mount::fuse::FuseMount;
use storage::layer::IdRange;

use crate::error::CommandError;

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// `mount -f`: nothing but the checks.
    Nothing,
    /// A mount.
    Mount(Box<Mount>),
}

/// One mount.
#[derive(Debug, PartialEq)]
pub(super) struct Mount {
    pub(super) target: PathBuf,
    /// Topmost first.
    pub(super) lowers: Vec<PathBuf>,
    pub(super) upper: Option<PathBuf>,
    pub(super) work: Option<PathBuf>,
    /// From owners that are shown to those on disk.
    pub(super) uids: Vec<IdRange>,
    /// From groups that are shown to those on disk.
    pub(super) gids: Vec<IdRange>,
    pub(super) squash_uid: Option<u32>,
    pub(super) squash_gid: Option<u32>,
    pub(super) static_nlink: bool,
    pub(super) posix_acl: bool,
    pub(super) xattrs: bool,
    /// Nothing is synced, copies neither.
    pub(super) volatile: bool,
    /// `fsync` does something.
    pub(super) fsync: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) threads: Option<usize>,
    pub(super) foreground: bool,
    pub(super) debug: bool,
    pub(super) fuse: FuseMount,
}

/// Reads a command line without the program's name, `is_mount_helper` in the dialect of `mount(8)`.
pub(super) fn parse(args: &[OsString], is_mount_helper: bool) -> Result<Request, CommandError> {
    let mut words = Vec::new();
    let mut options = Vec::new();
    let (mut foreground, mut debug, mut single, mut fake) = (false, false, false, false);
    let mut args = args.iter().map(OsString::as_os_str);
    let mut only_words = false;
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        match bytes {
            _ if only_words || !bytes.starts_with(b"-") || bytes == b"-" => words.push(arg),
            b"--" => only_words = true,
            b"-h" | b"--help" => return Ok(Request::Help),
            b"-V" | b"--version" => return Ok(Request::Version),
            b"--debug" => debug = true,
            b"-o" => {
                let value = args.next().ok_or_else(|| CommandError::user("-o needs a value"))?;
                options.extend(split(value.as_bytes(), b','));
            }
            b"-t" | b"-N" if is_mount_helper => {
                // The type is our name; a namespace of mount(8)'s own has been joined by it.
                args.next();
            }
            _ if bytes.starts_with(b"-o") => options.extend(split(&bytes[2..], b',')),
            _ if bytes.starts_with(b"--") => return Err(unknown(arg)),
            flags => {
                for flag in &flags[1..] {
                    match flag {
                        b'f' if is_mount_helper => fake = true,
                        // Not to write /etc/mtab, to say more, not to mind unknown options: nothing of ours.
                        b'n' | b'v' | b's' if is_mount_helper => {}
                        b'f' => foreground = true,
                        b's' => single = true,
                        b'd' => debug = true,
                        _ => return Err(unknown(arg)),
                    }
                }
            }
        }
    }
    let (source, target) = match words.as_slice() {
        [target] if !is_mount_helper => (None, *target),
        [source, target] => (Some(source.to_string_lossy().into_owned()), *target),
        [] => return Err(CommandError::user("a mount point is needed")),
        _ => return Err(CommandError::user("one mount point is needed, with at most a source before it")),
    };
    let mut mount = Mount::new(target);
    mount.foreground = foreground || debug;
    mount.debug = debug;
    if let Some(source) = source {
        mount.fuse.source = source;
    }
    for option in options {
        mount.set(&option)?;
    }
    if single {
        mount.threads = Some(1);
    }
    mount.check()?;
    Ok(if fake { Request::Nothing } else { Request::Mount(Box::new(mount)) })
}

fn unknown(option: impl AsRef<OsStr>) -> CommandError {
    CommandError::user(format_args!("unknown option {:?}", option.as_ref()))
}

/// Splits at a separator that no backslash stands before; what else a backslash stands before is left as it is.
fn split(bytes: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = bytes.iter().copied();
    while let Some(byte) = bytes.next() {
        let part = parts.last_mut().expect("there is always a part");
        match byte {
            b'\\' => match bytes.next() {
                Some(next) if next == separator => part.push(next),
                Some(next) => part.extend([b'\\', next]),
                None => part.push(b'\\'),
            },
            byte if byte == separator => parts.push(Vec::new()),
            byte => part.push(byte),
        }
    }
    parts
}

/// A path from an option: a backslash stands for the byte after it.
fn path(bytes: &[u8]) -> PathBuf {
    let mut out = Vec::new();
    let mut bytes = bytes.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'\\' { bytes.next().unwrap_or(b'\\') } else { byte });
    }
    PathBuf::from(OsString::from_vec(out))
}

impl Mount {
    fn new(target: &OsStr) -> Self {
        Mount {
            target: PathBuf::from(target),
            lowers: Vec::new(),
            upper: None,
            work: None,
            uids: Vec::new(),
            gids: Vec::new(),
            squash_uid: None,
            squash_gid: None,
            static_nlink: false,
            posix_acl: true,
            xattrs: true,
            volatile: false,
            fsync: true,
            timeout: None,
            threads: None,
            foreground: false,
            debug: false,
            fuse: FuseMount {
                source: "fuse-overlayfs".to_owned(),
                subtype: "fuse-overlayfs".to_owned(),
                ..FuseMount::default()
            },
        }
    }

    fn check(&mut self) -> Result<(), CommandError> {
        if self.lowers.is_empty() {
            return Err(CommandError::user("-o lowerdir=DIR[:DIR...] is needed"));
        }
        match (&self.upper, &self.work) {
            (Some(_), None) => return Err(CommandError::user("upperdir needs a workdir on the same file system")),
            (None, _) => {
                self.fuse.is_read_only = true;
                self.fuse.attributes |= attr::RDONLY;
            }
            (Some(_), Some(_)) => {}
        }
        Ok(())
    }

    fn set(&mut self, option: &[u8]) -> Result<(), CommandError> {
        let at = option.iter().position(|byte| *byte == b'=');
        let (key, value) = match at {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        let key = String::from_utf8_lossy(key).into_owned();
        let text = value.map(|value| String::from_utf8_lossy(value).into_owned());
        match (key.as_str(), value, text.as_deref()) {
            ("", None, _) => {}
            ("lowerdir", Some(value), _) => self.lowers = lowers(value)?,
            ("upperdir", Some(value), _) => self.upper = Some(path(value)),
            ("workdir", Some(value), _) => self.work = Some(path(value)),
            ("uidmapping", _, Some(text)) => self.uids = mapping(&key, text)?,
            ("gidmapping", _, Some(text)) => self.gids = mapping(&key, text)?,
            ("squash_to_root", None, _) => {
                self.squash_uid.get_or_insert(0);
                self.squash_gid.get_or_insert(0);
            }
            ("squash_to_uid", _, Some(text)) => self.squash_uid = Some(number(&key, text)?),
            ("squash_to_gid", _, Some(text)) => self.squash_gid = Some(number(&key, text)?),
            ("static_nlink", None, _) => self.static_nlink = true,
            ("noacl", None, _) => self.posix_acl = false,
            ("noxattrs", _, text) => self.xattrs = !is_on(&key, text)?,
            ("volatile", None, _) => self.volatile = true,
            ("fsync", _, text) => self.fsync = is_on(&key, text)?,
            ("timeout", _, Some(text)) => {
                let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                self.timeout = Some(
                    seconds.ok_or_else(|| CommandError::user(format_args!("timeout={text}: not a time in seconds")))?,
                );
            }
            ("threaded", _, text) => self.threads = if is_on(&key, text)? { self.threads } else { Some(1) },
            ("max_threads", _, Some(text)) => self.threads = Some(number::<usize>(&key, text)?.max(1)),
            ("debug", None, _) => (self.debug, self.foreground) = (true, true),
            // So it always is: each thread has its own end of the device, numbers of files are the disk's where they can be,
            // whiteouts and opaque directories are those that the kernel's overlay has for ordinary users.
            ("clone_fd" | "userxattr" | "default_permissions", None, _) => {}
            ("max_idle_threads", _, Some(text)) => drop(number::<i64>(&key, text)?),
            ("fast_ino", _, text) => drop(is_on(&key, text)?),
            ("redirect_dir" | "index" | "metacopy" | "nfs_export" | "xino", _, Some("off")) => {}
            ("redirect_dir", _, Some("nofollow")) => {}
            ("xattr_permissions", _, Some("0")) => {}
            ("redirect_dir" | "index" | "metacopy" | "nfs_export" | "xino" | "verity", _, _) => {
                return Err(unsupported(option, "the union keeps whole files, at their places"));
            }
            ("xattr_permissions", _, _) => {
                return Err(unsupported(
                    option,
                    "owners and modes are those on disk; see uidmapping and squash_to_uid",
                ));
            }
            ("plugins", _, _) => return Err(unsupported(option, "there are no plugins")),
            ("allow_root", None, _) => return Err(unsupported(option, "allow_other lets root in as well")),
            ("auto_unmount", None, _) => {
                return Err(unsupported(option, "a signal that ends the process unmounts, except SIGKILL"));
            }
            ("allow_other", None, _) => self.fuse.allow_other = true,
            ("fsname", _, Some(text)) => self.fuse.source = text.to_owned(),
            ("subtype", _, Some(text)) => self.fuse.subtype = text.to_owned(),
            ("context" | "fscontext" | "defcontext" | "rootcontext", Some(_), Some(text)) => {
                self.fuse.others.push((key, Some(text.trim_matches('"').to_owned())));
            }
            ("max_read", _, Some(text)) => {
                number::<u32>(&key, text)?;
                self.fuse.others.push((key, Some(text.to_owned())));
            }
            ("sync" | "dirsync" | "lazytime", None, _) => self.fuse.others.push((key, None)),
            ("ro", None, _) => {
                self.fuse.attributes |= attr::RDONLY;
                self.fuse.is_read_only = true;
            }
            ("rw", None, _) => {
                self.fuse.attributes &= !attr::RDONLY;
                self.fuse.is_read_only = false;
            }
            ("nosuid", None, _) => self.fuse.attributes |= attr::NOSUID,
            ("suid", None, _) => self.fuse.attributes &= !attr::NOSUID,
            ("nodev", None, _) => self.fuse.attributes |= attr::NODEV,
            ("dev", None, _) => self.fuse.attributes &= !attr::NODEV,
            ("noexec", None, _) => self.fuse.attributes |= attr::NOEXEC,
            ("exec", None, _) => self.fuse.attributes &= !attr::NOEXEC,
            ("nodiratime", None, _) => self.fuse.attributes |= attr::NODIRATIME,
            ("diratime", None, _) => self.fuse.attributes &= !attr::NODIRATIME,
            ("nosymfollow", None, _) => self.fuse.attributes |= attr::NOSYMFOLLOW,
            ("noatime", None, _) => self.set_atime(attr::NOATIME),
            ("strictatime", None, _) => self.set_atime(attr::STRICTATIME),
            ("relatime" | "atime" | "norelatime", None, _) => self.set_atime(0),
            // Of fstab: for mount(8), not for us.
            (
                "defaults" | "async" | "auto" | "noauto" | "nofail" | "user" | "users" | "nouser" | "owner" | "group"
                | "_netdev",
                None,
                _,
            ) => {}
            (key, ..) if key == "comment" || key.starts_with("x-") || key.starts_with("X-") => {}
            _ => return Err(unknown(OsStr::from_bytes(option))),
        }
        Ok(())
    }

    fn set_atime(&mut self, mode: u64) {
        self.fuse.attributes = self.fuse.attributes & !attr::ATIME_MASK | mode;
    }
}

fn unsupported(option: &[u8], why: &str) -> CommandError {
    CommandError::user(format_args!("option {} is not supported: {why}", option.escape_ascii()))
}

fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, CommandError> {
    text.parse().map_err(|_| CommandError::user(format_args!("{key}={text}: not a number that fits")))
}

fn is_on(key: &str, text: Option<&str>) -> Result<bool, CommandError> {
    match text {
        None | Some("1") => Ok(true),
        Some("0") => Ok(false),
        Some(text) => Err(CommandError::user(format_args!("{key}={text}: 0 or 1 is needed"))),
    }
}

/// `FIRST[:NEXT...]`, topmost first.
fn lowers(value: &[u8]) -> Result<Vec<PathBuf>, CommandError> {
    split(value, b':')
        .iter()
        .map(|part| match part.as_slice() {
            b"" => Err(unsupported(b"lowerdir", "an empty name, or one after \"::\" (a layer of data only)")),
            part if part.starts_with(b"//") => {
                Err(unsupported(b"lowerdir", "a name that begins with \"//\" (a plugin)"))
            }
            part => Ok(path(part)),
        })
        .collect()
}

/// `DISK:SHOWN:COUNT[:DISK:SHOWN:COUNT...]`, also with commas that a backslash stands before; podman writes a colon first.
fn mapping(key: &str, text: &str) -> Result<Vec<IdRange>, CommandError> {
    let numbers =
        text.trim_matches(':').split([':', ',']).map(|part| number::<u32>(key, part)).collect::<Result<Vec<_>, _>>()?;
    let (triples, rest) = numbers.as_chunks::<3>();
    if triples.is_empty() || !rest.is_empty() {
        return Err(CommandError::user(format_args!("{key}={text}: groups of three numbers are needed")));
    }
    Ok(triples.iter().map(|&[disk, shown, length]| IdRange { from: shown, to: disk, length }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(args: &[&str]) -> Result<Mount, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        match parse(&args, false) {
            Ok(Request::Mount(mount)) => Ok(*mount),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn with(options: &str) -> Result<Mount, String> {
        mount(&["-o", &format!("lowerdir=/a,upperdir=/u,workdir=/w,{options}"), "/mnt"])
    }

    #[test]
    fn podmans_command_line() {
        let mount = mount(&["-o", "lowerdir=l/A:l/B,upperdir=/c/diff,workdir=/c/work,volatile", "/c/merged"]).unwrap();
        assert_eq!(mount.lowers, [PathBuf::from("l/A"), PathBuf::from("l/B")]);
        assert_eq!((mount.upper, mount.target), (Some("/c/diff".into()), "/c/merged".into()));
        assert!(mount.volatile && !mount.foreground && !mount.fuse.is_read_only);
    }

    #[test]
    fn backslashes_keep_separators_in_names() {
        let mount = mount(&[r"-olowerdir=/a\:b:/c\,d:/e\\f", "/mnt"]).unwrap();
        assert_eq!(mount.lowers, ["/a:b", "/c,d", r"/e\f"].map(PathBuf::from));
        assert!(mount.fuse.is_read_only, "there is nothing to write to");
    }

    #[test]
    fn layers_that_are_no_directories_are_refused() {
        assert!(mount(&["-o", "lowerdir=/a::/data", "/mnt"]).unwrap_err().contains("data only"));
        assert!(mount(&["-o", "lowerdir=//plugin//x", "/mnt"]).unwrap_err().contains("plugin"));
        assert!(mount(&["-o", "upperdir=/u,workdir=/w", "/mnt"]).unwrap_err().contains("lowerdir"));
        assert!(mount(&["-o", "lowerdir=/a,upperdir=/u", "/mnt"]).unwrap_err().contains("workdir"));
    }

    #[test]
    fn mappings_run_from_disk_to_what_is_shown() {
        let range = |from, to, length| IdRange { from, to, length };
        let mount = with("uidmapping=:0:1:1000:1000:0:1,gidmapping=0:5:1").unwrap();
        assert_eq!(mount.uids, [range(1, 0, 1000), range(0, 1000, 1)]);
        assert_eq!(mount.gids, [range(5, 0, 1)]);
        for wrong in ["uidmapping=0:1", "gidmapping=0:a:1", "uidmapping="] {
            with(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_a_squash_names_wins_over_root() {
        let mount = with("squash_to_uid=5,squash_to_root").unwrap();
        assert_eq!((mount.squash_uid, mount.squash_gid), (Some(5), Some(0)));
    }

    #[test]
    fn no_option_is_passed_over() {
        for option in [
            "bogus",
            "xattr_permissions=2",
            "metacopy=on",
            "auto_unmount",
            "plugins=x",
            "timeout=x",
            "fsync=2",
            "volatile=1",
        ] {
            let error = with(option).unwrap_err();
            assert!(error.contains(option.split('=').next().unwrap()), "{option}: {error}");
        }
        for args in [&["-x", "/mnt"][..], &["--bogus", "/mnt"], &["-o"], &[], &["a", "b", "c"]] {
            mount(args).unwrap_err();
        }
    }

    #[test]
    fn later_flags_win() {
        let mount = with("nosuid,nodev,suid,ro,rw,noatime").unwrap();
        assert_eq!(mount.fuse.attributes, attr::NODEV | attr::NOATIME);
        assert!(!mount.fuse.is_read_only);
    }

    #[test]
    fn mounts_dialect() {
        let args = ["src", "/mnt", "-s", "-f", "-o", "rw,lowerdir=/a"].map(OsString::from);
        assert_eq!(parse(&args, true).unwrap(), Request::Nothing);
        let args = ["src", "/mnt", "-o", "x-systemd.automount,lowerdir=/a", "-t", "fuse.coracle"].map(OsString::from);
        let Request::Mount(mount) = parse(&args, true).unwrap() else { panic!() };
        assert_eq!((mount.fuse.source.as_str(), mount.foreground), ("src", false));
    }
}
