//! Owners, modes, times, xattrs, ACLs, capabilities, flags, locks.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::cases;
use super::stage::{Driver, Stage, chmod, errno, exists, names, read, run, sh, stat, user_can, write};
use super::sys;
use crate::support::needs::Need;

cases! {
    Both attributes_of_lower_files_change,
    Both changes_of_owner_and_writes_take_setuid_away,
    Both setgid_directories_and_umask,
    Both permissions_hold_for_users,
    Both times_are_kept_and_set,
    Both xattrs,
    Both overlays_own_xattrs_are_hidden_and_can_be_nested,
    Both acls_are_kept_and_hold.needs(&[Need::Fuse, Need::Setfacl]),
    Both default_acls_are_inherited.needs(&[Need::Fuse, Need::Setfacl]),
    Both file_capabilities.needs(&[Need::Fuse, Need::Setcap]),
    Both locks_between_open_files,
    Both flags_of_files,
    Both statistics_of_the_file_system,
}

fn attributes_of_lower_files_change(stage: &mut Stage) {
    let layer = stage.files(&[("file", "1234567890"), ("dir/x", "1"), ("other", "1")]);
    symlink("file", layer.join("link")).expect("the layer is ours");
    chown(layer.join("dir"), Some(33), Some(34)).expect("the layer is ours");
    stage.mount();
    assert_eq!((stat(stage.path("dir")).uid(), stat(stage.path("dir")).gid()), (33, 34));
    chown(stage.path("other"), Some(1000), Some(1001)).expect("we are root");
    lchown(stage.path("link"), Some(7), None).expect("we are root");
    chmod(stage.path("dir"), 0o1777);
    fs::OpenOptions::new().write(true).open(stage.path("file")).and_then(|file| file.set_len(4)).expect("it is ours");
    chmod(stage.path("file"), 0o4711);
    stage.mount_again();
    let file = stat(stage.path("file"));
    assert_eq!((file.mode() & 0o7777, file.len(), read(stage.path("file")).as_str()), (0o4711, 4, "1234"));
    assert_eq!((stat(stage.path("other")).uid(), stat(stage.path("other")).gid()), (1000, 1001));
    assert_eq!((stat(stage.path("link")).uid(), stat(stage.path("link")).gid()), (7, 0));
    assert_eq!((stat(stage.path("dir")).mode() & 0o7777, stat(stage.path("dir")).uid()), (0o1777, 33));
    assert_eq!(read(stage.path("dir/x")), "1");
}

fn changes_of_owner_and_writes_take_setuid_away(stage: &mut Stage) {
    let layer = stage.layer();
    for name in ["owned", "written", "truncated", "root's", "up/written"] {
        write(&layer.join(name), "12345");
        chmod(layer.join(name), 0o6777);
    }
    stage.mount();
    let mode = |name: &str| stat(stage.path(name)).mode() & 0o7777;
    chown(stage.path("owned"), Some(5), None).expect("we are root");
    assert_eq!(mode("owned"), 0o777);
    // Only root of the first namespace may write without that.
    write(&stage.path("root's"), "by root");
    assert_eq!(mode("root's"), 0o777);
    for name in ["written", "up/written"] {
        assert!(user_can(1000, &format!("echo more >> {}", stage.path(name).display())));
        assert_eq!(mode(name), 0o777, "{name}");
    }
    assert!(user_can(1000, &format!("truncate -s 2 {}", stage.path("truncated").display())));
    assert_eq!(mode("truncated"), 0o777);
    write(&stage.path("new"), "x");
    chmod(stage.path("new"), 0o6777);
    assert!(user_can(1000, &format!("echo more >> {}", stage.path("new").display())));
    assert_eq!(mode("new"), 0o777);
}

fn setgid_directories_and_umask(stage: &mut Stage) {
    let layer = stage.files(&[("dir/x", "1")]);
    chown(layer.join("dir"), None, Some(50)).expect("the layer is ours");
    chmod(layer.join("dir"), 0o2775);
    stage.mount();
    sh(&format!("cd {}; umask 027; mkdir dir/sub; : > dir/file; mkfifo dir/fifo", stage.path("").display()));
    let of = |name: &str| (stat(stage.path(name)).gid(), stat(stage.path(name)).mode() & 0o7777);
    assert_eq!(of("dir/sub"), (50, 0o2750));
    assert_eq!(of("dir/file"), (50, 0o640));
    assert_eq!(of("dir/fifo"), (50, 0o640));
}

fn permissions_hold_for_users(stage: &mut Stage) {
    let layer = stage.files(&[("secret", "1"), ("open", "1"), ("sticky/of-root", "1"), ("closed/x", "1")]);
    chmod(layer.join("secret"), 0o600);
    chmod(layer.join("sticky"), 0o1777);
    chmod(layer.join("closed"), 0o700);
    stage.mount();
    let at = |name: &str| stage.path(name).display().to_string();
    assert!(user_can(1000, &format!("cat {}", at("open"))));
    assert!(!user_can(1000, &format!("cat {}", at("secret"))));
    assert!(!user_can(1000, &format!("echo x >> {}", at("open"))));
    assert!(!user_can(1000, &format!("ls {}", at("closed"))));
    assert!(!user_can(1000, &format!("chmod 777 {}", at("open"))));
    assert!(!user_can(1000, &format!("rm -f {}", at("sticky/of-root"))));
    assert!(user_can(1000, &format!("echo mine > {0}/mine && rm {0}/mine", at("sticky"))));
    assert!(!user_can(1000, &format!("chown 1000 {}", at("open"))));
    assert!(exists(stage.path("sticky/of-root")));
}

fn times_are_kept_and_set(stage: &mut Stage) {
    let layer = stage.files(&[("file", "1"), ("dir/x", "1"), ("read", "1")]);
    let link = layer.join("link");
    symlink("file", &link).expect("the layer is ours");
    let at = layer.display();
    sh(&format!("touch -d @1000000.5 {at}/file {at}/read; touch -h -d @2000000 {at}/link; touch -d @3000000 {at}/dir"));
    stage.mount();
    chmod(stage.path("file"), 0o600);
    assert_eq!(stat(stage.path("file")).mtime(), 1_000_000, "copy-up keeps it");
    assert_eq!(stat(stage.path("link")).mtime(), 2_000_000);
    assert_eq!(stat(stage.path("dir")).mtime(), 3_000_000);
    chmod(stage.path("dir/x"), 0o600);
    assert_eq!(stat(stage.path("dir")).mtime(), 3_000_000, "a copy-up below is no change of it");
    write(&stage.path("dir/new"), "");
    assert!(stat(stage.path("dir")).mtime() > 1_000_000_000);
    sh(&format!("touch -h -d @-5 {}", stage.path("link").display()));
    assert_eq!(stat(stage.path("link")).mtime(), -5);
    sh(&format!("touch -d @4000000.25 {}", stage.path("dir").display()));
    stage.mount_again();
    let dir = stat(stage.path("dir"));
    assert_eq!((dir.mtime(), dir.mtime_nsec()), (4_000_000, 250_000_000));
    let before = stat(stage.path("file")).ctime_nsec() + stat(stage.path("file")).ctime() * 1_000_000_000;
    std::thread::sleep(std::time::Duration::from_millis(15));
    chmod(stage.path("file"), 0o640);
    let after = stat(stage.path("file")).ctime_nsec() + stat(stage.path("file")).ctime() * 1_000_000_000;
    assert!(after > before);
}

fn xattrs(stage: &mut Stage) {
    let layer = stage.files(&[("file", "1"), ("dir/x", "1")]);
    sys::set_xattr(&layer.join("file"), "user.lower", b"of the layer", 0).expect("tmpfs has xattrs");
    stage.mount();
    let file = stage.path("file");
    assert_eq!(sys::get_xattr(&file, "user.lower").as_deref(), Ok(b"of the layer".as_slice()));
    assert_eq!(sys::get_xattr(&file, "user.missing"), Err(Errno::ENODATA));
    assert_eq!(sys::remove_xattr(&file, "user.missing"), Err(Errno::ENODATA));
    assert_eq!(sys::set_xattr(&file, "user.lower", b"x", libc::XATTR_CREATE), Err(Errno::EEXIST));
    assert_eq!(sys::set_xattr(&file, "user.new", b"x", libc::XATTR_REPLACE), Err(Errno::ENODATA));
    assert_eq!(sys::set_xattr(&file, "trusted.x", b"x", 0), Err(Errno::EPERM));
    sys::set_xattr(&file, "user.new", b"", libc::XATTR_CREATE).expect("it is ours");
    let large = vec![b'l'; 3000];
    sys::set_xattr(&file, "user.large", &large, 0).expect("it is ours");
    sys::set_xattr(&stage.path("dir"), "user.dir", b"d", 0).expect("it is ours");
    stage.mount_again();
    let mut listed = sys::list_xattrs(&file).expect("it has some");
    listed.sort();
    assert_eq!(listed, ["user.large", "user.lower", "user.new"]);
    assert_eq!(sys::get_xattr(&file, "user.large").as_deref(), Ok(large.as_slice()));
    sys::remove_xattr(&file, "user.lower").expect("it is there");
    assert_eq!(sys::get_xattr(&file, "user.lower"), Err(Errno::ENODATA));
    assert_eq!(sys::list_xattrs(&stage.path("dir")).as_deref(), Ok(["user.dir".to_owned()].as_slice()));
}

fn overlays_own_xattrs_are_hidden_and_can_be_nested(stage: &mut Stage) {
    stage.files(&[("dir/x", "1"), ("file", "1")]);
    stage.mount();
    fs::remove_dir_all(stage.path("dir")).expect("it is there");
    fs::create_dir(stage.path("dir")).expect("the name is free");
    chmod(stage.path("file"), 0o600);
    assert_eq!(sys::list_xattrs(&stage.path("dir")), Ok(Vec::new()));
    assert_eq!(sys::list_xattrs(&stage.path("file")), Ok(Vec::new()));
    assert_eq!(sys::get_xattr(&stage.path("dir"), "user.overlay.opaque"), Err(Errno::ENODATA));
    // An overlay on top of this one marks its own directories; these are not our marks.
    write(&stage.path("inner/x"), "1");
    sys::set_xattr(&stage.path("inner"), "user.overlay.opaque", b"y", 0).expect("it is escaped");
    stage.mount_again();
    assert_eq!(sys::get_xattr(&stage.path("inner"), "user.overlay.opaque").as_deref(), Ok(b"y".as_slice()));
    assert_eq!(sys::list_xattrs(&stage.path("inner")), Ok(vec!["user.overlay.opaque".to_owned()]));
    assert_eq!(sys::get_xattr(&stage.upper("inner"), "user.overlay.overlay.opaque").as_deref(), Ok(b"y".as_slice()));
    assert_eq!(names(stage.path("inner")), ["x"]);
}

fn acls_are_kept_and_hold(stage: &mut Stage) {
    let layer = stage.files(&[("file", "1"), ("moved", "1"), ("upper", "1")]);
    sh(&format!("cd {}; chmod 600 file moved upper; setfacl -m u:1000:r file", layer.display()));
    stage.mount();
    // Layers that are unpacked from archives have no ACLs.
    if stage.driver == Driver::OursWithIndex {
        sh(&format!("setfacl -m u:1000:r {}", stage.path("file").display()));
    }
    let root = stage.path("");
    let at = |name: &str| root.join(name).display().to_string();
    let acl = |name: &str| sh(&format!("cd {}; getfacl -cn {name}", at("")));
    assert!(acl("file").contains("user:1000:r--"), "{}", acl("file"));
    assert!(user_can(1000, &format!("cat {}", at("file"))));
    assert!(!user_can(1001, &format!("cat {}", at("file"))));
    sh(&format!("setfacl -m u:1001:rw {}", at("upper")));
    assert!(user_can(1001, &format!("echo x >> {}", at("upper"))));
    assert_eq!(stat(stage.path("upper")).mode() & 0o777, 0o660, "the mask shows as the group");
    sh(&format!("echo more >> {}", at("file")));
    stage.mount_again();
    assert!(user_can(1000, &format!("cat {}", at("file"))), "copy-up keeps it");
    assert!(acl("upper").contains("user:1001:rw-"));
    chmod(stage.path("upper"), 0o600);
    assert!(!user_can(1001, &format!("cat {}", at("upper"))), "the mask is the group's mode");
    sh(&format!("setfacl -b {}", at("file")));
    assert!(!user_can(1000, &format!("cat {}", at("file"))));
}

fn default_acls_are_inherited(stage: &mut Stage) {
    let layer = stage.files(&[("dir/x", "1")]);
    sh(&format!("setfacl -d -m u:1000:rwx,o::- {}/dir", layer.display()));
    stage.mount();
    if stage.driver == Driver::OursWithIndex {
        sh(&format!("setfacl -d -m u:1000:rwx,o::- {}", stage.path("dir").display()));
    }
    sh(&format!("cd {}/dir; umask 077; : > file; mkdir sub", stage.path("").display()));
    let acl = |name: &str| sh(&format!("cd {}/dir; getfacl -cn {name}", stage.path("").display()));
    assert!(acl("file").contains("user:1000:rwx"), "{}", acl("file"));
    assert!(acl("sub").contains("default:user:1000:rwx"), "{}", acl("sub"));
    // With a default ACL the umask has no say.
    assert_eq!(stat(stage.path("dir/file")).mode() & 0o777, 0o660);
    assert_eq!(stat(stage.path("dir/sub")).mode() & 0o777, 0o770);
    sh(&format!("setfacl -k {}/dir", stage.path("").display()));
    sh(&format!("cd {}/dir; umask 077; : > plain", stage.path("").display()));
    assert_eq!(stat(stage.path("dir/plain")).mode() & 0o777, 0o600);
}

fn file_capabilities(stage: &mut Stage) {
    let path = |path: &Path| path.display().to_string();
    let layer = stage.files(&[("lower", "1"), ("plain", "1")]);
    let sh = |line: &str| super::stage::sh(&format!("PATH=$PATH:/sbin:/usr/sbin; {line}"));
    sh(&format!("setcap cap_net_raw+ep {}/lower", path(&layer)));
    stage.mount();
    let at = |name: &str| path(&stage.path(name));
    assert!(sh(&format!("getcap {}", at("lower"))).contains("cap_net_raw"));
    sh(&format!("setcap cap_net_admin+ep {}", at("plain")));
    sh(&format!("chmod 755 {}", at("lower")));
    assert!(sh(&format!("getcap {}", at("lower"))).contains("cap_net_raw"), "copy-up keeps them");
    write(&stage.path("plain"), "changed");
    assert_eq!(sh(&format!("getcap {}", at("plain"))), "", "a write takes them away");
    // What a file is known not to have it may get again.
    for name in ["plain", "new"] {
        write(&stage.path(name), "1");
        assert_eq!(sh(&format!("getcap {}", at(name))), "", "{name}");
        sh(&format!("setcap cap_net_raw+ep {}", at(name)));
        assert!(sh(&format!("getcap {}", at(name))).contains("cap_net_raw"), "{name}");
        write(&stage.path(name), "2");
        assert_eq!(sh(&format!("getcap {}", at(name))), "", "{name}");
    }
    chown(stage.path("lower"), Some(9), None).expect("we are root");
    assert_eq!(sh(&format!("getcap {}", at("lower"))), "", "so does a new owner");
}

fn locks_between_open_files(stage: &mut Stage) {
    stage.files(&[("file", "1")]);
    stage.mount();
    let open = || fs::OpenOptions::new().read(true).write(true).open(stage.path("file")).expect("it is there");
    let (first, second) = (open(), open());
    let flock = |file: &fs::File| {
        nix::fcntl::Flock::lock(file.try_clone().expect("a descriptor"), nix::fcntl::FlockArg::LockExclusiveNonblock)
    };
    let locked = flock(&first).expect("nobody has it");
    assert!(flock(&second).is_err());
    locked.unlock().expect("we have it");
    let _locked = flock(&second).expect("nobody has it");
    sys::lock(first.as_fd()).expect("another kind of lock");
    assert_eq!(sys::lock(second.as_fd()), Err(Errno::EAGAIN));
    drop(first);
    sys::lock(second.as_fd()).expect("closing gives it back");
}

fn flags_of_files(stage: &mut Stage) {
    stage.files(&[("file", "1"), ("dir/x", "1")]);
    stage.mount();
    let root = stage.path("");
    let open = |name: &str| File::open(root.join(name)).expect("it is there");
    const NODUMP: i64 = 0x40;
    let below = File::open(stage.outside("l0/file")).expect("it is there");
    if sys::get_flags(below.as_fd()).is_err() {
        eprintln!("skipped: needs a file system with flags");
        return;
    }
    for name in ["file", "dir"] {
        let flags = sys::get_flags(open(name).as_fd()).expect("the file system has flags");
        sys::set_flags(open(name).as_fd(), flags | NODUMP).expect("it is ours");
        assert_eq!(sys::get_flags(open(name).as_fd()), Ok(flags | NODUMP));
    }
    stage.mount_again();
    assert!(sys::get_flags(open("file").as_fd()).is_ok_and(|flags| flags & NODUMP != 0));
    // Immutable needs a capability over the file system's own namespace.
    assert_eq!(sys::set_flags(open("file").as_fd(), 0x10), Err(Errno::EPERM));
}

fn statistics_of_the_file_system(stage: &mut Stage) {
    stage.files(&[("file", "1")]);
    stage.mount();
    let (ours, below) = (statvfs(&stage.path("")).expect("it is mounted"), statvfs(&stage.upper("")).expect("tmpfs"));
    assert_eq!((ours.name_max(), ours.block_size(), ours.blocks()), (255, below.block_size(), below.blocks()));
    let before = ours.blocks_available();
    write(&stage.path("large"), vec![b'x'; 4 << 20]);
    let after = statvfs(&stage.path("")).expect("it is mounted").blocks_available();
    assert!(before - after >= (4 << 20) / ours.block_size());
    run(Command::new("df").arg(stage.path("")));
    let error = errno(fs::set_permissions(stage.path("missing"), fs::Permissions::from_mode(0o600)));
    assert_eq!(error, libc::ENOENT);
}
