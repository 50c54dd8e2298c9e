//! Socket calls of the port forwarder.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Moves up to `len` bytes from a socket into a pipe; 0 is the end of the stream.
///
/// # Source
/// splice(2).
pub(crate) fn splice_in(socket: BorrowedFd<'_>, pipe: BorrowedFd<'_>, len: usize) -> Result<usize, Errno> {
    splice(socket, pipe, len)
}

/// Moves up to `len` bytes from a pipe into a socket.
pub(crate) fn splice_out(pipe: BorrowedFd<'_>, socket: BorrowedFd<'_>, len: usize) -> Result<usize, Errno> {
    splice(pipe, socket, len)
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Result<usize, Errno> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (none_in, none_out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: both offsets are null, so the kernel touches no memory of ours; the descriptors are borrowed.
    let moved = unsafe { libc::splice(from.as_raw_fd(), none_in, to.as_raw_fd(), none_out, len, flags) };
    Errno::result(moved).map(|n| n.unsigned_abs())
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    let len = socklen::<libc::c_int>();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    Errno::result(set).map(drop)
}

/// Makes the close of a socket a reset of its connection.
pub(crate) fn set_linger_zero(socket: BorrowedFd<'_>) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = socklen::<libc::linger>();
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: the pointer and the length describe `linger`, which outlives the call.
    let _ = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const linger).cast(), len) };
}

/// Takes a connection from a listener; the new socket does not block.
///
/// # Source
/// accept4(2).
pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<(OwnedFd, SocketAddr), Errno> {
    let (mut name, mut len) = empty_name();
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the pointers lead to a live sockaddr_storage and its length.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut name).cast(), &raw mut len, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, read_addr(&name).ok_or(Errno::EAFNOSUPPORT)?))
}

/// The address a socket has on this side.
///
/// # Source
/// getsockname(2).
pub(crate) fn local_addr(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let (mut name, mut len) = empty_name();
    // SAFETY: the pointers lead to a live sockaddr_storage and its length.
    let got = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut name).cast(), &raw mut len) };
    Errno::result(got)?;
    read_addr(&name).ok_or(Errno::EAFNOSUPPORT)
}

fn empty_name() -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let name = unsafe { mem::zeroed() };
    (name, socklen::<libc::sockaddr_storage>())
}

/// Where a datagram came from and which of our addresses it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PacketSource {
    pub(crate) peer: SocketAddr,
    pub(crate) local: IpAddr,
}

#[repr(align(8))]
struct Control([u8; 128]);

/// Receives one datagram and the address it was sent to (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
///
/// # Source
/// recvmsg(2), ip(7), ipv6(7).
pub(crate) fn receive_from(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, PacketSource), Errno> {
    let (mut name, name_len) = empty_name();
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero bytes are a valid msghdr (musl's has private padding, so no literal).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = name_len;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `header` leads to a live local of the stated length.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let len = Errno::result(len)?.unsigned_abs();

    let peer = read_addr(&name).ok_or(Errno::EAFNOSUPPORT)?;
    let mut local = None;
    // SAFETY: the kernel filled `header`, whose control buffer is alive.
    let mut item = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !item.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return pointers to whole headers within the control buffer.
        let cmsg = unsafe { *item };
        // SAFETY: as above; the data follows its header.
        let data = unsafe { libc::CMSG_DATA(item) };
        match (cmsg.cmsg_level, cmsg.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the kernel writes a whole in_pktinfo for this type.
                let info: libc::in_pktinfo = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                local = Some(IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: the kernel writes a whole in6_pktinfo for this type.
                let info: libc::in6_pktinfo = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
            }
            _ => {}
        }
        // SAFETY: `item` is a header within the control buffer of `header`.
        item = unsafe { libc::CMSG_NXTHDR(&raw const header, item) };
    }
    Ok((len, PacketSource { peer, local: local.ok_or(Errno::EADDRNOTAVAIL)? }))
}

/// Sends one datagram to `to.peer` from our address `to.local`.
pub(crate) fn send_from(socket: BorrowedFd<'_>, bytes: &[u8], to: PacketSource) -> Result<(), Errno> {
    let (mut name, name_len) = write_addr(to.peer);
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero bytes are a valid msghdr (musl's has private padding, so no literal).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = name_len;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: the control buffer is 128 bytes, more than any header.
    let item = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    let space = match to.local {
        IpAddr::V4(v4) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            write_control(item, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(v6) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: v6.octets() }, ipi6_ifindex: 0 };
            write_control(item, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    };
    header.msg_controllen = space as _;
    // SAFETY: every pointer in `header` leads to a live local of the stated length.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(drop)
}

/// Writes one control message at `item`, the start of a [`Control`]; returns the space it takes.
fn write_control<T>(item: *mut libc::cmsghdr, level: libc::c_int, kind: libc::c_int, value: T) -> u32 {
    let size = u32::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: CMSG_LEN is arithmetic on its argument.
    let len = unsafe { libc::CMSG_LEN(size) };
    // SAFETY: all-zero bytes are a valid cmsghdr (musl's has private padding, so no literal).
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_len = len as _;
    header.cmsg_level = level;
    header.cmsg_type = kind;
    // SAFETY: `item` is the aligned start of a buffer of 128 bytes; header and value take less than 48.
    unsafe { item.write(header) };
    // SAFETY: as above.
    let data = unsafe { libc::CMSG_DATA(item) };
    // SAFETY: as above.
    unsafe { data.cast::<T>().write_unaligned(value) };
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    unsafe { libc::CMSG_SPACE(size) }
}

fn read_addr(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in, and a sockaddr_storage holds every kind.
            let v4 = unsafe { (&raw const *name).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6, and a sockaddr_storage holds every kind.
            let v6 = unsafe { (&raw const *name).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn write_addr(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    let (mut name, _) = empty_name();
    match addr {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage is large and aligned enough for every kind.
            unsafe { (&raw mut name).cast::<libc::sockaddr_in>().write(raw) };
            (name, socklen::<libc::sockaddr_in>())
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: a sockaddr_storage is large and aligned enough for every kind.
            unsafe { (&raw mut name).cast::<libc::sockaddr_in6>().write(raw) };
            (name, socklen::<libc::sockaddr_in6>())
        }
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
