//! TUN devices.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;

/// Where devices come from.
const CLONE_DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h
const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;

/// Makes a TUN device in the calling process' network namespace. Reads do not block; every packet has a `virtio_net_hdr`;
/// TCP segments may be longer than the device's MTU, and have no checksum.
///
/// # Errors
/// The call that failed.
///
/// # Source
/// Documentation/networking/tuntap.rst, linux/if_tun.h.
pub(crate) fn open_tun(name: &str) -> Result<OwnedFd, (String, io::Error)> {
    let device = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(CLONE_DEVICE)
        .map_err(|error| (format!("open {CLONE_DEVICE}"), error))?;
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the pointer leads to an ifreq that outlives the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    Errno::result(made).map_err(|errno| (format!("make the device {name}"), errno.into()))?;
    let offload = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    // SAFETY: the argument is a number.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETOFFLOAD as _, offload) };
    Errno::result(set).map_err(|errno| ("set the device's offloads".to_owned(), errno.into()))?;
    Ok(device.into())
}
