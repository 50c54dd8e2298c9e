//! A wire between two namespaces that loses, doubles and swaps packets, for kernels without netem.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of a hundred packets, how many get lost, come twice, come after the next one.
const LOST: u64 = 2;
const DOUBLED: u64 = 1;
const SWAPPED: u64 = 1;

static CARRIED: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);

/// Makes `wire0` here and `wire1` in another namespace, and carries packets between the two.
pub(crate) fn lay(netns: &str) -> io::Result<()> {
    let here = device(c"wire0")?;
    let netns = File::open(netns)?;
    let there = std::thread::spawn(move || {
        net::netlink::join(netns.as_fd()).expect("it is of this user namespace");
        device(c"wire1")
    });
    let there = there.join().expect("it ends")?;
    for (from, to, seed) in [(here.try_clone()?, there.try_clone()?, 1), (there, here, 2)] {
        std::thread::spawn(move || carry(from, to, seed));
    }
    Ok(())
}

/// What the wire has done.
pub(crate) fn report() -> String {
    format!("{} of {} packets lost", DROPPED.load(Ordering::Relaxed), CARRIED.load(Ordering::Relaxed))
}

fn carry(mut from: File, mut to: File, mut random: u64) {
    let mut below_hundred = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % 100
    };
    let mut buffer = vec![0; 65_536];
    let mut held: Option<Vec<u8>> = None;
    while let Ok(len) = from.read(&mut buffer) {
        CARRIED.fetch_add(1, Ordering::Relaxed);
        let dice = below_hundred();
        if dice < LOST {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if dice < LOST + SWAPPED && held.is_none() {
            held = Some(buffer[..len].to_vec());
            continue;
        }
        let _ = to.write(&buffer[..len]);
        if dice < LOST + SWAPPED + DOUBLED {
            let _ = to.write(&buffer[..len]);
        }
        if let Some(packet) = held.take() {
            let _ = to.write(&packet);
        }
    }
}

/// A TUN device without any offload: every packet comes as it would on a real wire.
fn device(name: &std::ffi::CStr) -> io::Result<File> {
    const TUNSETIFF: u32 = 0x4004_54ca;
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0u8; 40];
    request[..name.count_bytes()].copy_from_slice(name.to_bytes());
    request[16..18].copy_from_slice(&((libc::IFF_TUN | libc::IFF_NO_PI) as u16).to_ne_bytes());
    // SAFETY: an ifreq has forty bytes: the name, then the flags; it outlives the call.
    #[allow(unsafe_code)]
    let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) };
    if made < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
}
