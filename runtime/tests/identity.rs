//! Processes of a user namespace with one id, and the notifier that answers them.
//!
//! Each test is a process of its own: root of a new user namespace, which starts another one under the filter and a
//! notifier for it. No test framework: what forks must be single-threaded.
#![allow(unsafe_code, reason = "calls with bad arguments, which no safe function makes")]
#![allow(clippy::disallowed_methods, reason = "the fences are for what we ship")]

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, getgid, getgroups, getuid};
use runtime::identity::{Emulation, Notifier, Settings, enter};
use runtime::init::handshake::{self, Report};
use runtime::process::{Forked, clone3, wait};
use runtime::userns::{Mapping, run_in};

/// A body runs under emulation, in an empty directory of its own, which is its working directory.
type Body = fn(&Path);

const TESTS: &[(&str, Body)] = &[
    ("ids_are_what_was_set", ids_are_what_was_set),
    ("root_is_given_up_for_good", root_is_given_up_for_good),
    ("ids_survive_execve", ids_survive_execve),
    ("every_one_of_thousands_of_forks_has_the_ids_of_its_parent", every_one_of_thousands_of_forks),
    ("owners_are_what_was_set_by_every_call_that_tells", owners_are_what_was_set),
    ("files_belong_to_who_makes_them", files_belong_to_who_makes_them),
    ("a_group_of_a_set_group_id_directory_is_inherited", set_group_id_directory),
    ("set_user_id_programs_have_the_ids_of_their_owner", set_user_id_programs),
    ("the_limit_that_carries_ids_cannot_be_set_or_seen", the_limit_is_out_of_reach),
    ("bad_arguments_are_errors_and_nothing_else", bad_arguments),
    ("a_caller_that_dies_in_the_middle_harms_nobody", callers_that_die),
    ("thousands_of_threads_are_answered", thousands_of_threads),
    ("a_process_with_another_root_stays_in_it", another_root),
    ("peers_of_sockets_have_emulated_ids", peers_of_sockets),
    ("an_owner_that_cannot_be_kept_is_no_error", owners_that_cannot_be_kept),
];

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut failed = 0;
    for (name, body) in TESTS.iter().filter(|(name, _)| filter.as_ref().is_none_or(|part| name.contains(part))) {
        let begin = Instant::now();
        let result = match run_in(&Mapping::single_of_user(), || under_notifier(*body)) {
            Err(error) => {
                eprintln!("skipped: needs user namespaces: {error}");
                return ExitCode::SUCCESS;
            }
            Ok(exit) => exit.code(),
        };
        println!("test {name} ... {} ({:?})", if result == 0 { "ok" } else { "FAILED" }, begin.elapsed());
        failed += i32::from(result != 0);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// In the namespace: forks the process under test, starts its notifier, waits.
fn under_notifier(body: Body) -> i32 {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).or_else(|_| tempfile::tempdir()).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (theirs, ours) = handshake::pair().unwrap();
    let pidfd = match clone3(0, None).unwrap() {
        Forked::Child => {
            drop(ours);
            let listener = enter(Emulation::Notify).unwrap();
            let Some(listener) = listener else {
                eprintln!("skipped: needs user notification");
                std::process::exit(0);
            };
            theirs.report(&Report::Listener(listener)).unwrap();
            std::env::set_current_dir(scratch.path()).unwrap();
            let result = std::panic::catch_unwind(|| body(scratch.path()));
            std::process::exit(i32::from(result.is_err()))
        }
        Forked::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let notifier = match ours.receive().unwrap() {
        Report::Listener(listener) => {
            let root: OwnedFd = File::open("/").unwrap().into();
            Some(Notifier::start(Settings { listener, root, socket: None }).unwrap())
        }
        _ => None,
    };
    let exit = wait(pidfd.as_fd(), true).unwrap().unwrap();
    if let Some(notifier) = notifier {
        notifier.stop();
    }
    exit.code().into()
}

/// Runs `work` in a fork and returns its exit status; a panic is 101.
fn forked(work: impl FnOnce()) -> i32 {
    let child = start(work);
    wait(child.as_fd(), true).unwrap().unwrap().code().into()
}

fn start(work: impl FnOnce()) -> OwnedFd {
    match clone3(0, None).unwrap() {
        Forked::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            std::process::exit(if result.is_ok() { 0 } else { 101 })
        }
        Forked::Parent { pidfd, .. } => pidfd,
    }
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).unwrap();
    nix::unistd::setgid(Gid::from_raw(gid)).unwrap();
    nix::unistd::setuid(Uid::from_raw(uid)).unwrap();
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

/// A call as it is, with its errno.
fn call(number: libc::c_long, arguments: [u64; 5]) -> Result<i64, Errno> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: pointers among the arguments are either null or unmapped, for which the kernel has EFAULT, or to memory that
    // the caller keeps.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) })
}

fn ids_are_what_was_set(_: &Path) {
    assert_eq!((getuid().as_raw(), geteuid().as_raw(), getgid().as_raw()), (0, 0, 0));
    become_user(33, 34, &[50, 40, 34]);
    assert_eq!((getuid().as_raw(), geteuid().as_raw()), (33, 33));
    assert_eq!((getgid().as_raw(), getegid().as_raw()), (34, 34));
    let groups: Vec<u32> = getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
    assert_eq!(groups, [34, 40, 50]);
    let three = nix::unistd::getresuid().unwrap();
    assert_eq!((three.real.as_raw(), three.effective.as_raw(), three.saved.as_raw()), (33, 33, 33));
}

fn root_is_given_up_for_good(_: &Path) {
    let code = forked(|| {
        become_user(33, 33, &[33]);
        for result in [
            nix::unistd::setuid(Uid::from_raw(0)),
            nix::unistd::seteuid(Uid::from_raw(0)),
            nix::unistd::setgid(Gid::from_raw(0)),
            nix::unistd::setgroups(&[]),
        ] {
            assert_eq!(result, Err(Errno::EPERM));
        }
    });
    assert_eq!(code, 0);
    nix::unistd::seteuid(Uid::from_raw(33)).unwrap();
    nix::unistd::seteuid(Uid::from_raw(0)).unwrap();
}

fn ids_survive_execve(_: &Path) {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "test $(id -u):$(id -g):$(id -G) = 33:44:44"]);
    // SAFETY: nothing but system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            std::panic::catch_unwind(|| become_user(33, 44, &[44])).map_err(|_| std::io::ErrorKind::Other.into())
        })
    };
    assert!(command.status().unwrap().success());
    assert_eq!(getuid().as_raw(), 0);
}

/// 40 users at once, each with generations of children that all look, while others come, change and go.
fn every_one_of_thousands_of_forks(_: &Path) {
    let families: Vec<OwnedFd> = (1..=40)
        .map(|user| {
            start(move || {
                become_user(user, 1000 + user, &[1000 + user, 2000 + user]);
                for _ in 0..25 {
                    let code = forked(|| {
                        for _ in 0..3 {
                            let code = forked(|| {
                                assert_eq!((getuid().as_raw(), getegid().as_raw()), (user, 1000 + user));
                                let groups: Vec<u32> = getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
                                assert_eq!(groups, [1000 + user, 2000 + user]);
                            });
                            assert_eq!(code, 0);
                        }
                        assert_eq!(geteuid().as_raw(), user);
                    });
                    assert_eq!(code, 0);
                }
            })
        })
        .collect();
    for family in families {
        assert_eq!(wait(family.as_fd(), true).unwrap().unwrap().code(), 0);
    }
}

fn owners_are_what_was_set(dir: &Path) {
    fs::write("file", "x").unwrap();
    fs::create_dir("dir").unwrap();
    symlink("file", "link").unwrap();
    assert_eq!(owner("file"), (0, 0));
    chown("file", Some(33), Some(44)).unwrap();
    chown("dir", Some(1), None).unwrap();
    assert_eq!((owner("file"), owner("dir")), ((33, 44), (1, 0)));
    let absolute = dir.join("dir/../link");
    let followed = fs::metadata(&absolute).unwrap();
    assert_eq!((followed.uid(), followed.gid(), followed.len()), (33, 44, 1));
    let file = File::open("file").unwrap();
    assert_eq!((file.metadata().unwrap().uid(), file.metadata().unwrap().gid()), (33, 44));
    let stat = nix::sys::stat::fstat(&file).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid, stat.st_size), (33, 44, 1));
    let opened = File::open("dir").unwrap();
    let stat = nix::sys::stat::fstatat(&opened, "../file", nix::fcntl::AtFlags::empty()).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (33, 44));
    std::os::unix::fs::fchown(&file, Some(5), Some(6)).unwrap();
    assert_eq!(owner("file"), (5, 6));
    chown("link", Some(7), Some(8)).unwrap();
    assert_eq!(owner("file"), (7, 8), "through the link");
    // Set-id bits do not survive a change of owner.
    fs::set_permissions("file", fs::Permissions::from_mode(0o6755)).unwrap();
    chown("file", Some(9), None).unwrap();
    assert_eq!(fs::metadata("file").unwrap().mode() & 0o7777, 0o755);
    // Only root gives files away.
    let code = forked(|| {
        become_user(9, 8, &[8, 20]);
        assert_eq!(chown("file", Some(10), None).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(chown("file", None, Some(21)).unwrap_err().raw_os_error(), Some(libc::EPERM));
        chown("file", None, Some(20)).unwrap();
        assert_eq!(chown("dir", None, Some(20)).unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
    assert_eq!((code, owner("file")), (0, (9, 20)));
    assert_eq!(fs::metadata("missing").unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

fn files_belong_to_who_makes_them(_: &Path) {
    fs::write("of-root", "").unwrap();
    let code = forked(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
        become_user(33, 44, &[44]);
        fs::write("file", "x").unwrap();
        fs::create_dir("dir").unwrap();
        let exclusive = File::options().create_new(true).write(true).mode(0o666).open("dir/exclusive");
        let exclusive = exclusive.unwrap();
        assert_eq!(nix::fcntl::fcntl(&exclusive, nix::fcntl::FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
        assert_eq!(exclusive.metadata().unwrap().uid(), 33);
        let again = File::options().create_new(true).write(true).open("dir/exclusive");
        assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EEXIST));
        // What exists stays whose it is.
        fs::write("of-root", "y").unwrap();
        let unnamed = File::options().write(true).custom_flags(libc::O_TMPFILE).open("dir").unwrap();
        assert_eq!(unnamed.metadata().unwrap().gid(), 44);
    });
    assert_eq!(code, 0);
    assert_eq!(
        [owner("file"), owner("dir"), owner("dir/exclusive"), owner("of-root")],
        [(33, 44), (33, 44), (33, 44), (0, 0)]
    );
    let modes = ["file", "dir", "dir/exclusive"].map(|path| fs::metadata(path).unwrap().mode() & 0o777);
    assert_eq!(modes, [0o640, 0o750, 0o640], "by the maker's umask");
}

fn set_group_id_directory(_: &Path) {
    fs::create_dir("dir").unwrap();
    chown("dir", Some(1), Some(50)).unwrap();
    fs::set_permissions("dir", fs::Permissions::from_mode(0o2777)).unwrap();
    let code = forked(|| {
        become_user(33, 44, &[44]);
        fs::write("dir/file", "x").unwrap();
        fs::create_dir("dir/sub").unwrap();
    });
    assert_eq!((code, owner("dir/file"), owner("dir/sub")), (0, (33, 50), (33, 50)));
}

fn set_user_id_programs(_: &Path) {
    fs::copy("/bin/sh", "shell").unwrap();
    chown("shell", Some(70), Some(71)).unwrap();
    fs::set_permissions("shell", fs::Permissions::from_mode(0o6755)).unwrap();
    let run = |no_new_privileges: bool| {
        let code = forked(|| {
            if no_new_privileges {
                nix::sys::prctl::set_no_new_privs().unwrap();
            }
            become_user(33, 44, &[44]);
            // -p: dash and bash drop such ids otherwise.
            let output = Command::new("./shell").args(["-pc", "id -u; id -ru; id -g"]).output().unwrap();
            fs::write("ids", output.stdout).unwrap();
        });
        assert_eq!(code, 0);
        fs::read_to_string("ids").unwrap().replace('\n', " ")
    };
    assert_eq!(run(false), "70 33 71 ");
    assert_eq!(run(true), "33 33 44 ");
}

fn the_limit_is_out_of_reach(_: &Path) {
    become_user(33, 33, &[33]);
    let mut limit = [0_u64, 0];
    let locks = 10;
    call(libc::SYS_setrlimit, [locks, [0_u64, 0].as_ptr() as u64, 0, 0, 0]).unwrap();
    call(libc::SYS_prlimit64, [0, locks, [0_u64, 0].as_ptr() as u64, 0, 0]).unwrap();
    call(libc::SYS_getrlimit, [locks, limit.as_mut_ptr() as u64, 0, 0, 0]).unwrap();
    assert_eq!((limit, getuid().as_raw()), ([u64::MAX, u64::MAX], 33));
    // Others are the kernel's.
    call(libc::SYS_getrlimit, [libc::RLIMIT_NOFILE.into(), limit.as_mut_ptr() as u64, 0, 0, 0]).unwrap();
    assert_ne!(limit[0], u64::MAX);
}

fn bad_arguments(dir: &Path) {
    let bad = 0x10_u64;
    let long = CString::new(vec![b'a'; 5000]).unwrap();
    let long = long.as_ptr() as u64;
    let cwd = libc::AT_FDCWD as u64;
    let mut buffer = [0_u64; 40];
    let out = buffer.as_mut_ptr() as u64;
    let here = c".".as_ptr() as u64;
    for (what, number, arguments, expected) in [
        ("stat of nowhere", libc::SYS_newfstatat, [cwd, bad, out, 0, 0], Errno::EFAULT),
        ("stat to nowhere", libc::SYS_newfstatat, [cwd, here, bad, 0, 0], Errno::EFAULT),
        ("stat of a long path", libc::SYS_newfstatat, [cwd, long, out, 0, 0], Errno::ENAMETOOLONG),
        ("stat with wrong flags", libc::SYS_newfstatat, [cwd, c"x".as_ptr() as u64, out, 1 << 30, 0], Errno::EINVAL),
        ("fstat of nothing", libc::SYS_fstat, [9999, out, 0, 0, 0], Errno::EBADF),
        ("fstat of -1", libc::SYS_fstat, [u64::MAX, out, 0, 0, 0], Errno::EBADF),
        ("statx to nowhere", libc::SYS_statx, [cwd, here, 0, 0x7ff, bad], Errno::EFAULT),
        ("chown of nowhere", libc::SYS_fchownat, [cwd, bad, 1, 1, 0], Errno::EFAULT),
        ("chown of a long path", libc::SYS_fchownat, [cwd, long, 1, 1, 0], Errno::ENAMETOOLONG),
        ("fchown of nothing", libc::SYS_fchown, [9999, 1, 1, 0, 0], Errno::EBADF),
        ("setgroups of too many", libc::SYS_setgroups, [70_000, out, 0, 0, 0], Errno::EINVAL),
        ("setgroups from nowhere", libc::SYS_setgroups, [10, bad, 0, 0, 0], Errno::EFAULT),
        ("getgroups to nowhere", libc::SYS_getgroups, [10, bad, 0, 0, 0], Errno::EFAULT),
        ("getresuid to nowhere", libc::SYS_getresuid, [bad, bad, bad, 0, 0], Errno::EFAULT),
        ("setuid(-1)", libc::SYS_setuid, [u64::MAX, 0, 0, 0, 0], Errno::EINVAL),
        ("execve of nowhere", libc::SYS_execve, [bad, 0, 0, 0, 0], Errno::EFAULT),
    ] {
        assert_eq!(call(number, arguments), Err(expected), "{what}");
    }
    // A path that ends with the last byte of a mapping: a file of one page, mapped as two.
    let mut page = [b'/'; 4096];
    page[4094..].copy_from_slice(b".\0");
    fs::write("page", page).unwrap();
    let file = File::open("page").unwrap();
    let length = std::num::NonZeroUsize::new(8192).unwrap();
    let (protection, flags) = (nix::sys::mman::ProtFlags::PROT_READ, nix::sys::mman::MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping that only the kernel reads.
    let area = unsafe { nix::sys::mman::mmap(None, length, protection, flags, &file, 0) }.unwrap().as_ptr() as u64;
    call(libc::SYS_newfstatat, [cwd, area + 4094, out, 0, 0]).unwrap();
    assert_eq!(call(libc::SYS_newfstatat, [cwd, area + 4096, out, 0, 0]), Err(Errno::EFAULT));
    assert_eq!(owner(dir), (0, 0));
}

fn callers_that_die(_: &Path) {
    fs::write("file", "").unwrap();
    for round in 0..300 {
        let child = start(|| {
            loop {
                let _ = fs::metadata("file");
                let _ = chown("file", Some(1), Some(2));
                let _ = getuid();
            }
        });
        std::thread::sleep(Duration::from_micros(round * 20));
        runtime::process::pidfd_send_signal(child.as_fd(), libc::SIGKILL).unwrap();
        wait(child.as_fd(), true).unwrap();
    }
    assert_eq!((getuid().as_raw(), fs::metadata("file").is_ok()), (0, true));
}

fn thousands_of_threads(_: &Path) {
    // More than 64 at once have to wait for each other, whatever the limit of processes lets us start.
    let code = forked(|| {
        become_user(33, 33, &[33]);
        let threads: Vec<_> = (0..2000)
            .filter_map(|_| {
                std::thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(|| {
                        for _ in 0..3 {
                            assert_eq!(getuid().as_raw(), 33);
                            assert!(fs::metadata("/").is_ok());
                        }
                    })
                    .ok()
            })
            .collect();
        assert!(threads.len() > 100, "{}", threads.len());
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert_eq!(code, 0);
}

fn another_root(dir: &Path) {
    fs::create_dir_all("root/sub").unwrap();
    fs::write("root/file", "inside").unwrap();
    fs::write("file", "outside!").unwrap();
    symlink("/file", "root/link").unwrap();
    symlink(dir.join("file"), "root/away").unwrap();
    let code = forked(|| {
        nix::unistd::chroot("root").unwrap();
        std::env::set_current_dir("/").unwrap();
        for path in ["/file", "/link", "/../../file", "sub/../../../file", "/sub/../link"] {
            assert_eq!(fs::metadata(path).unwrap().len(), 6, "{path}");
        }
        assert!(fs::metadata("/away").is_err());
        chown("/link", Some(3), Some(4)).unwrap();
        assert!(chown("/away", Some(5), Some(5)).is_err());
        become_user(33, 33, &[33]);
        fs::write("/made", "").unwrap();
    });
    assert_eq!(code, 0);
    assert_eq!([owner("root/file"), owner("file"), owner("root/made")], [(3, 4), (0, 0), (33, 33)]);
    // Links that depend on rights are not followed on anybody's behalf.
    let _ = chown(format!("/proc/{}/root/etc/passwd", std::process::id()), Some(5), Some(5));
    let _ = chown("/proc/self/cwd/file", Some(5), Some(5));
    assert_eq!(owner("file"), (0, 0));
}

fn peers_of_sockets(_: &Path) {
    use std::os::unix::net::{UnixListener, UnixStream};
    let listener = UnixListener::bind("socket").unwrap();
    let child = start(|| {
        become_user(33, 44, &[44]);
        let stream = UnixStream::connect("socket").unwrap();
        std::io::Read::read(&mut &stream, &mut [0]).unwrap();
    });
    let (stream, _) = listener.accept().unwrap();
    // The client's ids are those at the time of the question.
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).unwrap();
    assert_eq!((peer.uid(), peer.gid()), (33, 44));
    assert!(kill(Pid::from_raw(peer.pid()), None::<Signal>).is_ok());
    drop(stream);
    wait(child.as_fd(), true).unwrap();
}

fn owners_that_cannot_be_kept(_: &Path) {
    let (reader, _writer) = std::io::pipe().unwrap();
    std::os::unix::fs::fchown(&reader, Some(33), None).unwrap();
    chown(format!("/proc/self/fd/{}", reader.as_raw_fd()), Some(33), None).unwrap();
    chown("/proc/self/comm", Some(33), None).unwrap();
    symlink("x", "link").unwrap();
    std::os::unix::fs::lchown("link", Some(33), None).unwrap();
}
