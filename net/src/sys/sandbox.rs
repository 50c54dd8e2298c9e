//! Giving up what is not needed any more.

use std::io;

use nix::errno::Errno;

// linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

// linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Gives up all capabilities, for good.
///
/// # Source
/// capset(2), version 3.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3 and this process; effective, permitted and inheritable, twice 32 bits.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none: [u32; 6] = [0; 6];
    // SAFETY: both pointers lead to arrays of the layout and length of version 3; the call only reads them.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    Errno::result(set).map(drop)?;
    Ok(())
}

/// Allows the calling thread these calls, and `by_argument` with one of these first arguments; others fail with `EPERM`.
///
/// The thread must have `no_new_privs`. Architectures whose calls we have not looked at have no filter.
///
/// # Source
/// seccomp(2).
pub(crate) fn allow_calls(calls: &[libc::c_long], by_argument: libc::c_long, arguments: &[u32]) -> io::Result<()> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut program = filter(calls, by_argument, arguments);
        let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the pointer leads to a program of the stated length, which the kernel copies.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        Errno::result(set).map(drop)?;
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (calls, by_argument, arguments);
    Ok(())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter(calls: &[libc::c_long], by_argument: libc::c_long, arguments: &[u32]) -> Vec<libc::sock_filter> {
    let op = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let equal = |k, jt, jf| libc::sock_filter { code: JUMP_IF_EQUAL, jt, jf, k };
    let (allow, refuse) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let mut program = vec![op(LOAD, ARCH), equal(ARCHITECTURE, 1, 0), op(RETURN, libc::SECCOMP_RET_KILL_PROCESS)];
    program.push(op(LOAD, NUMBER));
    for call in calls {
        program.push(equal(*call as u32, 0, 1));
        program.push(op(RETURN, allow));
    }
    program.push(equal(by_argument as u32, 1, 0));
    program.push(op(RETURN, refuse));
    program.push(op(LOAD, FIRST_ARGUMENT));
    for argument in arguments {
        program.push(equal(*argument, 0, 1));
        program.push(op(RETURN, allow));
    }
    program.push(op(RETURN, refuse));
    program
}
