//! Overlays among a bundle's mounts: volumes that a container writes beside, trees of images.
//!
//! Directories are opened first and named by descriptor: an option's value has 255 bytes, and what the container's mount
//! table shows says nothing of the host.
//!
//! **Runs in:** container init, or for a nested user namespace the supervisor.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::options::Options;
use crate::sys::SysError;
use crate::sys::mount::FsContext;

/// A detached overlay mount of `lowerdir=`, `upperdir=` and `workdir=`, with a backslash before a colon in a name.
pub(super) fn detached(options: &Options) -> Result<OwnedFd, SysError> {
    let value = |name: &'static str| {
        let found = options.data.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref());
        found.ok_or(SysError { call: "fsconfig", args: format!("overlay, {name}"), errno: Errno::EINVAL })
    };
    let lowers = split(value("lowerdir")?).iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(value("upperdir")?)?, open(value("workdir")?)?);
    let context = FsContext::open("overlay")?;
    context.string("source", "overlay")?;
    context.flag("userxattr")?;
    match lowers.iter().try_for_each(|lower| context.string("lowerdir+", name(lower))) {
        // Before Linux 6.5.
        Err(error) if error.errno == Errno::EINVAL => {
            let all = lowers.iter().map(name).collect::<Vec<_>>().join(":");
            context.string("lowerdir", all)?;
        }
        other => other?,
    }
    context.string("upperdir", name(&upper))?;
    context.string("workdir", name(&work))?;
    context.mount(0)
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn open(path: impl AsRef<Path>) -> Result<OwnedFd, SysError> {
    let path = path.as_ref();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).map_err(SysError::of("open", path.display()))
}

fn split(lowers: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = lowers.chars();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            (':', _) => parts.push(String::new()),
            ('\\', Some(part)) => part.extend(chars.next()),
            (c, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_stand_between_colons() {
        assert_eq!(split(r"/a:/b\:c\\:/d"), ["/a", r"/b:c\", "/d"]);
    }
}
