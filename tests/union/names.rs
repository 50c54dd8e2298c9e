//! What the stack shows, and what making and removing names does to it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, mknod};

use super::cases;
use super::stage::{Driver, Stage, errno, exists, is_whiteout, make_whiteout, names, read, run, sh, stat, write};
use super::sys;

cases! {
    Both layers_merge_and_whiteouts_hide,
    Both whiteouts_in_the_form_of_an_xattr_hide,
    Both removed_names_become_whiteouts_on_disk,
    Both directory_made_over_a_whiteout_is_opaque,
    Both directory_with_nothing_but_whiteouts_is_empty,
    Both pipes_sockets_and_links_are_made,
    Both devices_and_forged_whiteouts_are_refused,
    Ours hard_link_of_a_lower_file_is_one_inode,
    Ours names_of_one_lower_file_stay_one_file,
    Ours numbers_outlive_copy_up_and_mounts,
    Both listing_stays_right_under_changes,
    Both large_directories_of_many_layers_list_each_name_once,
    Both long_names,
    Both union_without_upper_is_read_only,
    Both both_drivers_take_turns_on_one_upper,
    Both directories_count_their_subdirectories_or_say_one,
    Ours source_and_type_show_in_mountinfo,
}

fn layers_merge_and_whiteouts_hide(stage: &mut Stage) {
    stage.files(&[("a", "1"), ("dir/x", "1"), ("dir/y", "1"), ("opaque/x", "1"), ("gone/x", "1"), ("kind", "file")]);
    let middle = stage.files(&[("opaque/z", "2"), ("dir/y", "2"), ("kind/inside", "2")]);
    make_whiteout(&middle.join("a"));
    make_whiteout(&middle.join("dir/x"));
    sys::set_xattr(&middle.join("opaque"), "user.overlay.opaque", b"y", 0).expect("tmpfs has xattrs");
    let top = stage.files(&[("gone/new", "3"), ("dir/z", "3")]);
    sys::set_xattr(&top.join("gone"), "user.overlay.opaque", b"y", 0).expect("tmpfs has xattrs");
    stage.mount();
    assert_eq!(names(stage.path("")), ["dir", "gone", "kind", "opaque"]);
    assert_eq!(names(stage.path("dir")), ["y", "z"]);
    assert_eq!(names(stage.path("opaque")), ["z"]);
    assert_eq!(names(stage.path("gone")), ["new"]);
    assert_eq!(names(stage.path("kind")), ["inside"], "a directory hides a file");
    assert_eq!(read(stage.path("dir/y")), "2");
    assert!(!exists(stage.path("a")) && !exists(stage.path("dir/x")));
}

fn whiteouts_in_the_form_of_an_xattr_hide(stage: &mut Stage) {
    stage.files(&[("dir/a", "1"), ("dir/b", "1")]);
    let top = stage.files(&[("dir/a", "")]);
    sys::set_xattr(&top.join("dir/a"), "user.overlay.whiteout", b"y", 0).expect("tmpfs has xattrs");
    sys::set_xattr(&top.join("dir"), "user.overlay.opaque", b"x", 0).expect("tmpfs has xattrs");
    if stage.driver == Driver::OursWithIndex {
        // What is unpacked has whiteouts in the form of devices.
        return;
    }
    stage.mount();
    assert_eq!(names(stage.path("dir")), ["b"]);
    assert!(!exists(stage.path("dir/a")));
    write(&stage.path("dir/a"), "new");
    assert_eq!(names(stage.path("dir")), ["a", "b"]);
}

fn removed_names_become_whiteouts_on_disk(stage: &mut Stage) {
    stage.files(&[("file", "1"), ("dir/inside", "1"), ("other/file", "1")]);
    stage.mount();
    fs::remove_file(stage.path("file")).expect("it is there");
    assert_eq!(errno(fs::remove_dir(stage.path("dir"))), libc::ENOTEMPTY);
    fs::remove_dir_all(stage.path("dir")).expect("it is there");
    write(&stage.path("new"), "only above");
    fs::remove_file(stage.path("new")).expect("it is there");
    assert_eq!(names(stage.path("")), ["other"]);
    assert!(is_whiteout(&stage.upper("file")) && is_whiteout(&stage.upper("dir")));
    assert!(!exists(stage.upper("new")), "nothing is hidden, so nothing is needed");
    write(&stage.path("file"), "again");
    stage.mount_again();
    assert_eq!(read(stage.path("file")), "again");
    assert_eq!(names(stage.path("")), ["file", "other"]);
    fs::remove_file(stage.path("file")).expect("it is there");
    assert!(is_whiteout(&stage.upper("file")));
}

fn directory_made_over_a_whiteout_is_opaque(stage: &mut Stage) {
    stage.files(&[("dir/old", "1"), ("dir/sub/old", "1"), ("file", "1")]);
    stage.mount();
    fs::remove_dir_all(stage.path("dir")).expect("it is there");
    fs::remove_file(stage.path("file")).expect("it is there");
    fs::create_dir(stage.path("dir")).expect("the name is free");
    fs::create_dir(stage.path("file")).expect("the name is free");
    assert!(names(stage.path("dir")).is_empty());
    fs::create_dir(stage.path("dir/sub")).expect("the name is free");
    stage.mount_again();
    assert_eq!(names(stage.path("dir")), ["sub"]);
    assert!(names(stage.path("dir/sub")).is_empty());
    let opaque = sys::get_xattr(&stage.upper("dir"), "user.overlay.opaque");
    assert_eq!(opaque.as_deref(), Ok(b"y".as_slice()));
}

fn directory_with_nothing_but_whiteouts_is_empty(stage: &mut Stage) {
    stage.files(&[("dir/a", "1"), ("dir/b", "1")]);
    let top = stage.layer();
    fs::create_dir(top.join("dir")).expect("the layer is ours");
    make_whiteout(&top.join("dir/a"));
    stage.mount();
    fs::remove_file(stage.path("dir/b")).expect("it is there");
    assert!(names(stage.path("dir")).is_empty());
    fs::remove_dir(stage.path("dir")).expect("it is empty");
    assert!(!exists(stage.path("dir")));
    fs::create_dir(stage.path("dir")).expect("the name is free");
    assert!(names(stage.path("dir")).is_empty());
}

fn pipes_sockets_and_links_are_made(stage: &mut Stage) {
    let layer = stage.files(&[("below/file", "1")]);
    symlink("file", layer.join("below/link")).expect("the layer is ours");
    mknod(&layer.join("below/fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).expect("the layer is ours");
    stage.mount();
    assert_eq!(read(stage.path("below/link")), "1");
    assert!(stat(stage.path("below/fifo")).file_type().is_fifo());
    let long = "t".repeat(4095);
    symlink(&long, stage.path("long")).expect("targets may be this long");
    assert_eq!(fs::read_link(stage.path("long")).expect("it is a link").as_os_str(), long.as_str());
    mknod(&stage.path("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o640), 0).expect("pipes can be made");
    // Data through a pipe never meets the union.
    let passed = sh(&format!("cd {} && (echo through > fifo &) && cat fifo", stage.path("").display()));
    assert_eq!(passed, "through\n");
    std::env::set_current_dir(stage.path("")).expect("it is there");
    let socket = UnixListener::bind("socket").expect("sockets can be made");
    assert!(stat("socket").file_type().is_socket());
    std::os::unix::net::UnixStream::connect("socket").expect("somebody listens");
    drop(socket);
    std::env::set_current_dir("/").expect("it is there");
    stage.mount_again();
    assert!(stat(stage.path("fifo")).file_type().is_fifo() && stat(stage.path("socket")).file_type().is_socket());
}

fn devices_and_forged_whiteouts_are_refused(stage: &mut Stage) {
    stage.files(&[("file", "1")]);
    stage.mount();
    let make = |name: &str, device| mknod(&stage.path(name), SFlag::S_IFCHR, Mode::empty(), device);
    assert_eq!(make("null", nix::sys::stat::makedev(1, 3)), Err(Errno::EPERM));
    assert_eq!(make("whiteout", 0), Err(Errno::EPERM));
    assert_eq!(names(stage.path("")), ["file"]);
}

// Without `index=on` the kernel's overlay shows two numbers here while the first name is in use.
fn hard_link_of_a_lower_file_is_one_inode(stage: &mut Stage) {
    stage.files(&[("a", "one")]);
    stage.mount();
    let opened = File::open(stage.path("a")).expect("it is there");
    fs::hard_link(stage.path("a"), stage.path("b")).expect("links can be made");
    assert_eq!(stat(stage.path("a")).ino(), stat(stage.path("b")).ino());
    assert_eq!((stat(stage.path("a")).nlink(), stat(stage.path("b")).nlink()), (2, 2));
    write(&stage.path("b"), "two");
    assert_eq!(read(stage.path("a")), "two");
    fs::remove_file(stage.path("a")).expect("it is there");
    assert_eq!(stat(stage.path("b")).nlink(), 1);
    drop(opened);
    stage.mount_again();
    assert_eq!((read(stage.path("b")).as_str(), exists(stage.path("a"))), ("two", false));
}

// The kernel's overlay needs `index=on` for this, and then refuses the upper directory to every other set of layers.
fn names_of_one_lower_file_stay_one_file(stage: &mut Stage) {
    let layer = stage.files(&[("dir/a", "one"), ("lone", "1")]);
    fs::hard_link(layer.join("dir/a"), layer.join("b")).expect("the layer is ours");
    stage.mount();
    assert_eq!(stat(stage.path("dir/a")).nlink(), 2);
    let number = stat(stage.path("dir/a")).ino();
    assert_eq!(stat(stage.path("b")).ino(), number);
    write(&stage.path("b"), "two");
    assert_eq!(read(stage.path("dir/a")), "two");
    assert_eq!(stat(stage.path("dir/a")).ino(), stat(stage.path("b")).ino());
    fs::remove_file(stage.path("dir/a")).expect("it is there");
    assert_eq!(read(stage.path("b")), "two");
    assert_eq!(stat(stage.path("b")).nlink(), 1);
}

// The kernel's overlay has the numbers of the layers only where all lie on one file system, and loses them at copy-up
// where a user may not open files by handle.
fn numbers_outlive_copy_up_and_mounts(stage: &mut Stage) {
    stage.files(&[("a", "1"), ("dir/b", "1"), ("dir/c", "1"), ("moved", "1")]);
    stage.files(&[("dir/d", "2"), ("top", "2")]);
    stage.mount();
    let paths = ["a", "dir", "dir/b", "dir/c", "dir/d", "top", "moved"];
    let numbers: Vec<_> = paths.iter().map(|path| stat(stage.path(path)).ino()).collect();
    let distinct: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(distinct.len(), paths.len(), "{numbers:?}");
    write(&stage.path("a"), "longer than before");
    run(Command::new("chmod").arg("600").arg(stage.path("dir/c")));
    run(Command::new("touch").arg(stage.path("dir")));
    fs::rename(stage.path("moved"), stage.path("dir/moved")).expect("it is there");
    fs::rename(stage.path("dir/moved"), stage.path("moved")).expect("it is there");
    write(&stage.path("new"), "");
    let new = stat(stage.path("new")).ino();
    assert!(!numbers.contains(&new));
    for _ in 0..2 {
        let now: Vec<_> = paths.iter().map(|path| stat(stage.path(path)).ino()).collect();
        assert_eq!(now, numbers);
        assert_eq!(stat(stage.path("new")).ino(), new);
        for entry in fs::read_dir(stage.path("dir")).expect("it is there").flatten() {
            use std::os::unix::fs::DirEntryExt;
            assert_eq!(entry.ino(), stat(entry.path()).ino(), "{:?}", entry.file_name());
        }
        stage.mount_again();
    }
    // A copy of an upper file with all its xattrs is another file.
    run(Command::new("cp").arg("-a").arg(stage.upper("a")).arg(stage.upper("copy")));
    stage.mount_again();
    assert_ne!(stat(stage.path("copy")).ino(), stat(stage.path("a")).ino());
}

fn listing_stays_right_under_changes(stage: &mut Stage) {
    let layer = stage.layer();
    fs::create_dir(layer.join("dir")).expect("the layer is ours");
    for number in 0..500 {
        write(&layer.join(format!("dir/lower{number}")), "");
    }
    stage.mount();
    for number in 0..500 {
        write(&stage.path(format!("dir/upper{number}")), "");
    }
    // Each listed file is removed and another made, while the listing goes on: what is never touched comes once.
    let mut dir = Dir::open(&stage.path("dir"), OFlag::O_RDONLY, Mode::empty()).expect("it is there");
    let mut seen = Vec::new();
    for (number, entry) in dir.iter().enumerate() {
        let name = entry.expect("it can be listed").file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.starts_with("new") {
            continue;
        }
        if number % 3 == 0 {
            fs::remove_file(stage.path("dir").join(&name)).expect("it was listed");
        }
        write(&stage.path(format!("dir/new{number}")), "");
        seen.push(name);
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((distinct.len(), seen.len()), (1000, 1000));
    let left = names(stage.path("dir"));
    let expected = 1000 - (seen.len() - left.iter().filter(|name| !name.starts_with("new")).count());
    assert_eq!(left.iter().filter(|name| !name.starts_with("new")).count(), expected);
    run(Command::new("rm").arg("-r").arg(stage.path("dir")));
    assert!(!exists(stage.path("dir")));
}

fn large_directories_of_many_layers_list_each_name_once(stage: &mut Stage) {
    for layer in 0..4 {
        let root = stage.layer();
        fs::create_dir(root.join("dir")).expect("the layer is ours");
        for number in (layer * 700)..(layer * 700 + 2000) {
            write(&root.join(format!("dir/file{number}")), layer.to_string());
        }
    }
    stage.mount();
    for number in 0..500 {
        write(&stage.path(format!("dir/upper{number}")), "");
        fs::remove_file(stage.path(format!("dir/file{number}"))).expect("it is there");
    }
    let listed = names(stage.path("dir"));
    let distinct: BTreeSet<_> = listed.iter().collect();
    assert_eq!((listed.len(), distinct.len()), (4100, 4100));
    assert_eq!(read(stage.path("dir/file2100")), "3");
}

fn long_names(stage: &mut Stage) {
    let longest = "n".repeat(255);
    stage.files(&[(&longest, "1")]);
    stage.mount();
    assert_eq!(read(stage.path(&longest)), "1");
    let second = "m".repeat(255);
    write(&stage.path(&second), "2");
    fs::rename(stage.path(&second), stage.path("o".repeat(255))).expect("names may be this long");
    fs::remove_file(stage.path(&longest)).expect("it is there");
    assert!(is_whiteout(&stage.upper(&longest)));
    assert_eq!(errno(File::create(stage.path("n".repeat(256)))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::symlink_metadata(stage.path("n".repeat(256)))), libc::ENAMETOOLONG);
}

fn union_without_upper_is_read_only(stage: &mut Stage) {
    stage.files(&[("a", "1")]);
    stage.files(&[("b", "2")]);
    stage.has_upper = false;
    stage.mount();
    assert_eq!(names(stage.path("")), ["a", "b"]);
    assert_eq!(errno(File::create(stage.path("c"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(stage.path("a"))), libc::EROFS);
    assert_eq!(errno(fs::OpenOptions::new().append(true).open(stage.path("a"))), libc::EROFS);
}

fn both_drivers_take_turns_on_one_upper(stage: &mut Stage) {
    stage.files(&[("a", "1"), ("dir/x", "1"), ("dir/y", "1"), ("gone/z", "1"), ("moved", "1")]);
    stage.mount();
    let drivers = [Driver::Kernel, if stage.is_ours() { stage.driver } else { Driver::Ours }];
    for (round, driver) in drivers.iter().cycle().take(6).enumerate() {
        stage.unmount();
        stage.mount_with(*driver);
        if round > 0 {
            let last = round - 1;
            assert_eq!(read(stage.path("a")), format!("written in {last}"));
            assert_eq!(names(stage.path("dir")), [format!("x{last}"), "y".to_owned()]);
            assert_eq!(names(stage.path("gone")), [format!("in{last}")]);
            assert_eq!(sys::get_xattr(&stage.path("dir"), "user.round").as_deref(), Ok(last.to_string().as_bytes()));
        }
        write(&stage.path("a"), format!("written in {round}"));
        let from = if round == 0 { "dir/x".to_owned() } else { format!("dir/x{}", round - 1) };
        fs::rename(stage.path(from), stage.path(format!("dir/x{round}"))).expect("it is there");
        fs::remove_dir_all(stage.path("gone")).expect("it is there");
        write(&stage.path(format!("gone/in{round}")), "");
        sys::set_xattr(&stage.path("dir"), "user.round", round.to_string().as_bytes(), 0).expect("it has xattrs");
    }
}

fn directories_count_their_subdirectories_or_say_one(stage: &mut Stage) {
    stage.files(&[("dir/a/x", "1"), ("dir/b/x", "1"), ("dir/file", "1")]);
    stage.files(&[("dir/c/x", "1")]);
    stage.mount();
    fs::create_dir(stage.path("dir/d")).expect("the name is free");
    let count = stat(stage.path("dir")).nlink();
    // find(1) and others take 1 for "unknown", and everything else at its word.
    assert!(count == 1 || count == 6, "{count}");
    fs::remove_dir_all(stage.path("dir/a")).expect("it is there");
    let count = stat(stage.path("dir")).nlink();
    assert!(count == 1 || count == 5, "{count}");
    assert_eq!(sh(&format!("find {} -type d | wc -l", stage.path("dir").display())).trim(), "4");
}

fn source_and_type_show_in_mountinfo(stage: &mut Stage) {
    stage.files(&[("a", "1")]);
    stage.options = ",fsname=of-the-test".to_owned();
    stage.mount();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let path = stage.path("");
    let path = path.to_str().expect("plain").trim_end_matches('/');
    let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path)).expect("it is mounted");
    assert!(line.contains(" fuse") && line.contains("of-the-test"), "{line}");
    // A directory descriptor is a descriptor as any other.
    nix::unistd::fsync(File::open(stage.path("")).expect("it is there").as_fd()).expect("directories can be synced");
}
