//! FUSE mounts, for whoever serves one.
//!
//! Root of a user namespace mounts itself; an ordinary user is helped by `fusermount3`, which is set-user-ID root.
//!
//! **Runs in:** container init and whoever else mounts a root file system; the tool `coracle fuse-overlayfs`, single-threaded,
//! in its caller's namespaces.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{getegid, geteuid};

use super::{MountError, attach};
use crate::sys::SysError;
use crate::sys::mount::FsContext;

/// What a FUSE mount is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FuseMount {
    /// What `mount` shows as its source.
    pub source: String,
    /// What follows `fuse.` in its type.
    pub subtype: String,
    /// Attributes of the mount, `MOUNT_ATTR_*` of [`super::attr`].
    pub attributes: u64,
    /// Whether nothing can be written to the file system, by any mount of it.
    pub is_read_only: bool,
    /// Others than the mounting user may look into it.
    pub allow_other: bool,
    /// Options of the file system as they are: `sync`, `context=…`.
    pub others: Vec<(String, Option<String>)>,
}

impl FuseMount {
    /// Mounts on the directory `target`. Returns the descriptor that the file system is to be served on: as long as a
    /// process holds it and does not serve, whoever looks at the mount waits.
    ///
    /// The kernel checks permissions by what `stat` shows.
    ///
    /// # Errors
    /// [`MountError`] with the call that was refused, or what `fusermount3` has said.
    ///
    /// # Source
    /// `fuse(4)`; Linux 4.18 for mounts in user namespaces, before 5.2 by `mount(2)`.
    pub fn mount(&self, target: &Path) -> Result<OwnedFd, MountError> {
        if !geteuid().is_root() {
            return self.mount_with_help(target);
        }
        let device = open_device()?;
        match self.mount_at(target, &device) {
            Err(SysError { call: "fsopen", errno: Errno::ENOSYS, .. }) => self.mount_before_5_2(target, &device)?,
            other => other?,
        }
        Ok(device)
    }

    /// Makes a mount that is attached nowhere. Returns it and the descriptor to serve, as [`mount`](Self::mount) does.
    ///
    /// The connection belongs to the user namespace of the caller: only its processes and those of namespaces below may
    /// look into the mount, and ids in requests are those of that namespace.
    ///
    /// # Errors
    /// [`SysError`] with the call that was refused.
    pub fn detached(&self) -> Result<(OwnedFd, OwnedFd), SysError> {
        let device = open_device()?;
        let mount = self.create(&device)?;
        Ok((mount, device))
    }

    fn data(&self, device: &OwnedFd) -> Vec<(&str, Option<String>)> {
        let mut data = vec![
            ("fd", Some(device.as_raw_fd().to_string())),
            ("rootmode", Some("40000".to_owned())),
            ("user_id", Some(geteuid().to_string())),
            ("group_id", Some(getegid().to_string())),
            ("default_permissions", None),
        ];
        if self.allow_other {
            data.push(("allow_other", None));
        }
        data.extend(self.others.iter().map(|(key, value)| (key.as_str(), value.clone())));
        data
    }

    fn mount_at(&self, target: &Path, device: &OwnedFd) -> Result<(), SysError> {
        let mount = self.create(device)?;
        let place = open(target, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(SysError::of("open", target.display()))?;
        attach(mount.as_fd(), place.as_fd(), target.display())
    }

    fn create(&self, device: &OwnedFd) -> Result<OwnedFd, SysError> {
        let context = FsContext::open("fuse")?;
        context.string("source", &self.source)?;
        context.string("subtype", &self.subtype)?;
        if self.is_read_only {
            context.flag("ro")?;
        }
        for (key, value) in self.data(device) {
            match value {
                Some(value) => context.string(key, value)?,
                None => context.flag(key)?,
            }
        }
        context.mount(self.attributes)
    }

    fn mount_before_5_2(&self, target: &Path, device: &OwnedFd) -> Result<(), SysError> {
        let mut flags =
            MsFlags::from_bits_truncate(self.flags().into_iter().fold(0, |all, (_, bits)| all | bits.bits()));
        flags.set(MsFlags::MS_RDONLY, self.is_read_only);
        let words = self.data(device).into_iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.to_owned(),
        });
        let (kind, data) = (format!("fuse.{}", self.subtype), words.collect::<Vec<_>>().join(","));
        nix::mount::mount(Some(self.source.as_str()), target, Some(kind.as_str()), flags, Some(data.as_str()))
            .map_err(SysError::of("mount", format!("{}, {}, {kind}", self.source, target.display())))
    }

    /// The attributes that are set, by the names that `fusermount3` takes.
    fn flags(&self) -> Vec<(&'static str, MsFlags)> {
        use super::attr;
        let all = [
            (attr::RDONLY, "ro", MsFlags::MS_RDONLY),
            (attr::NOSUID, "nosuid", MsFlags::MS_NOSUID),
            (attr::NODEV, "nodev", MsFlags::MS_NODEV),
            (attr::NOEXEC, "noexec", MsFlags::MS_NOEXEC),
            (attr::NOATIME, "noatime", MsFlags::MS_NOATIME),
            (attr::NODIRATIME, "nodiratime", MsFlags::MS_NODIRATIME),
        ];
        all.into_iter().filter(|(bit, ..)| self.attributes & bit != 0).map(|(_, name, flag)| (name, flag)).collect()
    }

    fn mount_with_help(&self, target: &Path) -> Result<OwnedFd, MountError> {
        let mut words: Vec<String> = self.flags().into_iter().map(|(name, _)| name.to_owned()).collect();
        if self.is_read_only && !words.iter().any(|word| word == "ro") {
            words.push("ro".to_owned());
        }
        words.push(format!("fsname={}", escaped(&self.source)));
        words.push(format!("subtype={}", escaped(&self.subtype)));
        words.push("default_permissions".to_owned());
        if self.allow_other {
            words.push("allow_other".to_owned());
        }
        words.extend(self.others.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={}", escaped(value)),
            None => key.clone(),
        }));
        let words = words.join(",");
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(SysError::of("socketpair", ""))?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(SysError::of("fcntl", "F_SETFD"))?;
        let mut last = None;
        for program in HELPERS {
            let mut command = Command::new(program);
            command.arg("-o").arg(&words).arg("--").arg(target);
            command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
            match command.status() {
                Err(error) => last = Some(error),
                Ok(status) => {
                    drop(theirs);
                    if !status.success() {
                        return Err(MountError::Helper { program, status });
                    }
                    return Ok(receive(&ours).map_err(SysError::of("recvmsg", program))?);
                }
            }
        }
        let errno = last.and_then(|error| error.raw_os_error()).map_or(Errno::ENOENT, Errno::from_raw);
        Err(MountError::Sys(SysError { call: "execve", args: HELPERS[0].to_owned(), errno }))
    }
}

fn open_device() -> Result<OwnedFd, SysError> {
    open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(SysError::of("open", "/dev/fuse, O_RDWR"))
}

/// Takes a FUSE mount away, at once by name and as soon as nobody uses it any more.
///
/// # Errors
/// [`MountError`] if nothing is mounted there or it is another user's.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    if geteuid().is_root() {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        return Ok(umount2(target, flags).map_err(SysError::of("umount2", target.display()))?);
    }
    let program = HELPERS[0];
    match Command::new(program).args(["-u", "-z", "-q", "--"]).arg(target).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(MountError::Helper { program, status }),
        Err(error) => {
            let errno = error.raw_os_error().map_or(Errno::ENOENT, Errno::from_raw);
            Err(MountError::Sys(SysError { call: "execve", args: program.to_owned(), errno }))
        }
    }
}

const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// `fusermount3` takes a comma for the end of an option.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// Receives one descriptor.
fn receive(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut byte = [0];
    let mut control = nix::cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fd = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    fd.map(crate::sys::process::received_fd).ok_or(Errno::EPROTO)
}
