//! Little room, few descriptors, many layers, long paths.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::cases;
use super::stage::{Stage, errno, exists, names, read, run, sh, stat, write};

cases! {
    Both full_disk_leaves_no_trace_of_a_copy_up,
    Ours full_disk_leaves_no_trace_of_a_recursive_copy_up,
    Ours few_descriptors_are_enough,
    Ours five_hundred_layers,
    Both paths_beyond_the_longest,
    Ours server_ends_with_the_mount,
    Ours idle_server_sleeps,
    Ours wrong_command_lines_are_refused,
}

fn full_disk_leaves_no_trace_of_a_copy_up(stage: &mut Stage) {
    let layer = stage.files(&[("small", "lower")]);
    write(&layer.join("large"), vec![b'l'; 4 << 20]);
    stage.limit_upper("1M");
    stage.mount();
    let opened = OpenOptions::new().append(true).open(stage.path("large")).and_then(|mut file| file.write_all(b"x"));
    assert_eq!(errno(opened), libc::ENOSPC);
    assert_eq!(stat(stage.path("large")).len(), 4 << 20);
    assert!(!exists(stage.upper("large")));
    stage.assert_work_is_empty();
    // The rest goes on.
    write(&stage.path("small"), "upper");
    let mut file = File::create(stage.path("fill")).expect("there is room");
    let error = loop {
        match file.write_all(&[b'f'; 65_536]) {
            Ok(()) => {}
            Err(error) => break error.raw_os_error(),
        }
    };
    assert_eq!(error, Some(libc::ENOSPC));
    drop(file);
    fs::remove_file(stage.path("fill")).expect("a full disk can be emptied");
    fs::remove_file(stage.path("large")).expect("a whiteout needs little");
    stage.mount_again();
    assert_eq!((names(stage.path("")), read(stage.path("small"))), (vec!["small".to_owned()], "upper".to_owned()));
}

fn full_disk_leaves_no_trace_of_a_recursive_copy_up(stage: &mut Stage) {
    let layer = stage.layer();
    for number in 0..20 {
        write(&layer.join(format!("dir/sub/file{number}")), vec![b'l'; 200_000]);
    }
    stage.limit_upper("1M");
    stage.mount();
    let error = errno(fs::rename(stage.path("dir"), stage.path("moved")));
    assert!([libc::ENOSPC, libc::EXDEV].contains(&error), "{error}");
    assert_eq!(names(stage.path("")), ["dir"]);
    assert_eq!(names(stage.path("dir/sub")).len(), 20);
    stage.assert_work_is_empty();
    write(&stage.path("dir/sub/file0"), "there is room again");
}

fn few_descriptors_are_enough(stage: &mut Stage) {
    let layer = stage.layer();
    for number in 0..600 {
        write(&layer.join(format!("d{}/e{}/f{number}", number % 20, number % 30)), "lower");
    }
    stage.descriptors = Some(64);
    stage.mount();
    sh(&format!("find {} -type f -exec cat {{}} + > /dev/null", stage.path("").display()));
    // Hundreds of files open at once, some with no name any more.
    let files: Vec<_> = (0..600)
        .map(|number| {
            let path = stage.path(format!("d{}/e{}/f{number}", number % 20, number % 30));
            OpenOptions::new().append(true).open(path).unwrap_or_else(|error| panic!("open {number}: {error}"))
        })
        .collect();
    for (number, mut file) in files.iter().enumerate() {
        file.write_all(b"+").unwrap_or_else(|error| panic!("write {number}: {error}"));
    }
    drop(files);
    run(std::process::Command::new("cp").arg("-a").arg(stage.path("d1")).arg(stage.path("copy")));
    run(std::process::Command::new("rm").arg("-r").arg(stage.path("d2")));
    stage.mount_again();
    assert_eq!(read(stage.path("d1/e1/f1")), "lower+");
    assert_eq!(read(stage.path("copy/e1/f1")), "lower+");
}

// The kernel's overlay takes as many, but not through mount(8), whose options are one page.
fn five_hundred_layers(stage: &mut Stage) {
    for number in 0..500 {
        stage.files(&[(&format!("dir/own{number}"), ""), ("dir/shared", &number.to_string()), ("deep/a/b/c", "x")]);
    }
    stage.mount();
    assert_eq!(names(stage.path("dir")).len(), 501);
    assert_eq!(read(stage.path("dir/shared")), "499");
    write(&stage.path("dir/shared"), "upper");
    fs::remove_file(stage.path("dir/own0")).expect("it is there");
    fs::remove_file(stage.path("deep/a/b/c")).expect("it is there");
    stage.mount_again();
    assert_eq!(names(stage.path("dir")).len(), 500);
    assert!(!exists(stage.path("deep/a/b/c")));
}

fn paths_beyond_the_longest(stage: &mut Stage) {
    const DEPTH: usize = 40;
    let name = "d".repeat(200);
    let deepen = |top: &std::path::Path| {
        let mut at = File::open(top).expect("it is there").into();
        for _ in 0..DEPTH {
            match mkdirat(&at, name.as_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => panic!("mkdirat: {errno}"),
            }
            at = openat(&at, name.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).expect("it is there");
        }
        at
    };
    let create = |at: &std::os::fd::OwnedFd, name: &str, flags| {
        File::from(
            openat(at, name, OFlag::O_WRONLY | flags, Mode::from_bits_truncate(0o644)).expect("it can be opened"),
        )
    };
    let layer = stage.layer();
    // The archive format of layers ends at paths of 4096; a bare directory does not.
    if stage.driver != super::stage::Driver::OursWithIndex {
        create(&deepen(&layer), "file", OFlag::O_CREAT).write_all(b"lower").expect("the layer is ours");
    }
    stage.mount();
    let at = deepen(&stage.path(""));
    if stage.driver != super::stage::Driver::OursWithIndex {
        create(&at, "file", OFlag::O_APPEND).write_all(b" and upper").expect("it is ours");
    } else {
        create(&at, "file", OFlag::O_CREAT).write_all(b"lower and upper").expect("it is ours");
    }
    let renamed = nix::fcntl::renameat(&at, "file", &at, "renamed");
    renamed.expect("it is there");
    assert_eq!(nix::unistd::unlinkat(&at, "missing", nix::unistd::UnlinkatFlags::NoRemoveDir), Err(Errno::ENOENT));
    drop(at);
    stage.mount_again();
    let at = deepen(&stage.path(""));
    let mut text = String::new();
    let opened = openat(at.as_fd(), "renamed", OFlag::O_RDONLY, Mode::empty()).expect("it is there");
    std::io::Read::read_to_string(&mut File::from(opened), &mut text).expect("it is ours");
    assert_eq!(text, "lower and upper");
    drop(at);
    run(std::process::Command::new("rm").arg("-rf").arg(stage.path(&name)));
    assert!(names(stage.path("")).is_empty());
}

fn server_ends_with_the_mount(stage: &mut Stage) {
    stage.files(&[("a", "1")]);
    stage.mount();
    assert!(stage.server().is_some());
    stage.unmount();
    assert!(stage.server().is_none());
}

fn idle_server_sleeps(stage: &mut Stage) {
    stage.files(&[("a", "1")]);
    stage.mount();
    names(stage.path(""));
    let server = stage.server().expect("it is served");
    let switches = || -> u64 {
        let threads = fs::read_dir(format!("/proc/{server}/task")).expect("it lives").flatten();
        threads
            .filter_map(|thread| {
                let status = fs::read_to_string(thread.path().join("status")).ok()?;
                let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
                line.trim().parse::<u64>().ok()
            })
            .sum()
    };
    // It may still be at what came before, on a busy machine for long.
    let is_still = || {
        let before = switches();
        std::thread::sleep(std::time::Duration::from_secs(1));
        switches() == before
    };
    assert!((0..10).any(|_| is_still()));
}

fn wrong_command_lines_are_refused(stage: &mut Stage) {
    stage.files(&[("a", "1")]);
    let merged = stage.path("");
    for options in ["lowerdir=/missing", "upperdir=/tmp", "lowerdir=", ""] {
        let mut command = std::process::Command::new(crate::support::command::binary());
        command.args(["fuse-overlayfs", "-o", options]).arg(&merged);
        let output = command.output().expect("coracle");
        assert!(!output.status.success(), "{options}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.is_empty() && !text.contains("panicked"), "{options}: {text}");
    }
    assert!(names(&merged).is_empty());
}
