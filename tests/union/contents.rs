//! Reading and writing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::cases;
use super::stage::{Driver, Stage, chmod, errno, exists, names, read, run, sh, stat, write};
use super::sys;

cases! {
    Both lower_files_are_appended_truncated_overwritten,
    Both unlinked_files_live_while_they_are_open,
    Both files_without_a_name_get_one,
    Both shared_mappings_are_the_file,
    Both direct_io,
    Both everything_can_be_synced,
    Both holes_are_kept_and_made,
    Both ranges_are_copied,
    Both programs_run_and_cannot_be_written_meanwhile,
    Both read_only_descriptor_of_a_directory_is_refused_writes,
    Ours descriptor_from_before_the_copy_up_sees_the_new_content,
    Both many_threads_work_at_once,
    Both large_files_are_read_and_written_whole,
}

fn lower_files_are_appended_truncated_overwritten(stage: &mut Stage) {
    let layer = stage.files(&[("append", "lower"), ("truncate", "lower"), ("inside", "lower"), ("kept", "lower")]);
    chmod(layer.join("append"), 0o640);
    stage.mount();
    let mut file = OpenOptions::new().append(true).open(stage.path("append")).expect("it is there");
    file.write_all(b" and more").expect("it is ours");
    drop(file);
    drop(OpenOptions::new().write(true).truncate(true).open(stage.path("truncate")).expect("it is there"));
    let file = OpenOptions::new().write(true).open(stage.path("inside")).expect("it is there");
    file.write_all_at(b"XX", 1).expect("it is ours");
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(stage.path("kept"))), libc::EEXIST);
    stage_file_is_untouched(&layer);
    drop(file);
    stage.mount_again();
    assert_eq!(read(stage.path("append")), "lower and more");
    assert_eq!(stat(stage.path("append")).mode() & 0o7777, 0o640);
    assert_eq!((stat(stage.path("truncate")).len(), read(stage.path("inside")).as_str()), (0, "lXXer"));
    assert!(!exists(stage.upper("kept")), "what is only read stays where it is");
    // Two writers that append never write over each other.
    let open = || OpenOptions::new().append(true).open(stage.path("kept")).expect("it is there");
    let (mut first, mut second) = (open(), open());
    for _ in 0..50 {
        first.write_all(b"a").expect("it is ours");
        second.write_all(b"b").expect("it is ours");
    }
    assert_eq!(read(stage.path("kept")), format!("lower{}", "ab".repeat(50)));
}

fn stage_file_is_untouched(layer: &std::path::Path) {
    assert_eq!(read(layer.join("append")), "lower");
}

fn unlinked_files_live_while_they_are_open(stage: &mut Stage) {
    stage.files(&[("lower", "below"), ("read", "below")]);
    stage.mount();
    write(&stage.path("upper"), "above");
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(stage.path(name)).expect("it is there");
    for name in ["lower", "upper"] {
        let mut file = open(name);
        fs::remove_file(stage.path(name)).expect("it is there");
        write(&stage.path(name), "another");
        file.write_all(b"WRIT").expect("it is open");
        file.set_len(100).expect("it is open");
        let metadata = file.metadata().expect("it is open");
        assert_eq!((metadata.len(), metadata.nlink()), (100, 0), "{name}");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o611)).expect("it is open");
        assert_eq!(file.metadata().expect("it is open").mode() & 0o777, 0o611);
        let mut start = [0; 5];
        file.read_exact_at(&mut start, 0).expect("it is open");
        assert_eq!(&start[..4], b"WRIT");
        file.sync_all().expect("it is open");
        assert_eq!(read(stage.path(name)), "another");
    }
    // One that is only open for reading, and whose name goes before anything was read.
    let mut file = File::open(stage.path("read")).expect("it is there");
    fs::remove_file(stage.path("read")).expect("it is there");
    sh("echo 3 > /proc/sys/vm/drop_caches 2>/dev/null || true");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is open");
    assert_eq!(text, "below");
    // A directory that somebody is in.
    fs::create_dir(stage.path("dir")).expect("the name is free");
    let dir = File::open(stage.path("dir")).expect("it is there");
    fs::remove_dir(stage.path("dir")).expect("it is empty");
    assert_eq!(dir.metadata().expect("it is open").nlink(), 0);
    let path = format!("/proc/self/fd/{}/x", std::os::fd::AsRawFd::as_raw_fd(&dir));
    assert_eq!(errno(File::create(path)), libc::ENOENT);
}

fn files_without_a_name_get_one(stage: &mut Stage) {
    stage.files(&[("dir/x", "1")]);
    stage.mount();
    let open =
        || OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o640).open(stage.path("dir"));
    let mut file = open().expect("files without a name can be made");
    file.write_all(b"content").expect("it is ours");
    assert_eq!(names(stage.path("dir")), ["x"]);
    assert_eq!(file.metadata().expect("it is open").nlink(), 0);
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    nix::unistd::linkat(
        nix::fcntl::AT_FDCWD,
        own.as_str(),
        nix::fcntl::AT_FDCWD,
        &stage.path("dir/named"),
        nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
    )
    .expect("it gets a name");
    drop(file);
    drop(open().expect("files without a name can be made"));
    stage.mount_again();
    assert_eq!(
        (read(stage.path("dir/named")).as_str(), stat(stage.path("dir/named")).mode() & 0o777),
        ("content", 0o640)
    );
    assert_eq!(names(stage.path("dir")), ["named", "x"]);
}

fn shared_mappings_are_the_file(stage: &mut Stage) {
    stage.files(&[("file", &"l".repeat(10_000))]);
    stage.mount();
    let file = OpenOptions::new().read(true).write(true).open(stage.path("file")).expect("it is there");
    sys::write_mapped(file.as_fd(), 5_000, b"mapped").expect("it can be mapped");
    let mut seen = [0; 6];
    file.read_exact_at(&mut seen, 5_000).expect("it is ours");
    assert_eq!(&seen, b"mapped");
    file.write_all_at(b"written", 8_000).expect("it is ours");
    sys::write_mapped(file.as_fd(), 8_007, b"!").expect("it can be mapped");
    drop(file);
    stage.mount_again();
    let text = read(stage.path("file"));
    assert_eq!((&text[5_000..5_006], &text[8_000..8_008], text.len()), ("mapped", "written!", 10_000));
}

fn direct_io(stage: &mut Stage) {
    stage.files(&[("file", &"d".repeat(8192))]);
    stage.mount();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(stage.path("file"));
    let file = match opened {
        // Not every file system below can.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
        opened => opened.expect("it is there"),
    };
    // Vectors of this size lie on a page boundary with every allocator, or are moved there.
    let layout = vec![b'w'; 4096 * 3];
    let start = layout.as_ptr().align_offset(4096);
    file.write_all_at(&layout[start..start + 4096], 4096).expect("it is ours");
    let mut buffer = vec![0; 4096 * 3];
    let start = buffer.as_ptr().align_offset(4096);
    file.read_exact_at(&mut buffer[start..start + 4096], 4096).expect("it is ours");
    assert!(buffer[start..start + 4096].iter().all(|byte| *byte == b'w'));
    assert_eq!(read(stage.path("file")), "d".repeat(4096) + &"w".repeat(4096));
}

fn everything_can_be_synced(stage: &mut Stage) {
    stage.files(&[("file", "1"), ("dir/x", "1")]);
    stage.mount();
    write(&stage.path("dir/new"), "1");
    for name in ["file", "dir", "dir/new", ""] {
        let file = File::open(stage.path(name)).expect("it is there");
        file.sync_all().expect("fsync");
        file.sync_data().expect("fdatasync");
    }
    run(Command::new("sync").arg("-f").arg(stage.path("dir/new")));
    run(&mut Command::new("sync"));
}

fn holes_are_kept_and_made(stage: &mut Stage) {
    let layer = stage.layer();
    let sparse = File::create(layer.join("sparse")).expect("the layer is ours");
    sparse.set_len(64 << 20).expect("the layer is ours");
    sparse.write_all_at(b"data", 32 << 20).expect("the layer is ours");
    drop(sparse);
    stage.mount();
    if stage.driver != Driver::OursWithIndex {
        // Unpacking an archive writes holes as zeros; what lies in the layer is then what is shown.
        assert!(stat(stage.path("sparse")).blocks() < 1000);
    }
    let file = OpenOptions::new().read(true).write(true).open(stage.path("sparse")).expect("it is there");
    file.write_all_at(b"start", 0).expect("it is ours");
    if stage.driver == Driver::Ours {
        assert!(stat(stage.upper("sparse")).blocks() < 1000, "copy-up keeps holes");
        assert_eq!(lseek(&file, 1 << 20, Whence::SeekData), Ok(32 << 20));
    }
    let mut seen = [0; 4];
    file.read_exact_at(&mut seen, 32 << 20).expect("it is ours");
    assert_eq!(&seen, b"data");
    let new = File::create(stage.path("new")).expect("the name is free");
    fallocate(&new, FallocateFlags::empty(), 0, 1 << 20).expect("there is room");
    assert_eq!((stat(stage.path("new")).len(), stat(stage.path("new")).blocks() >= 2048), (1 << 20, true));
    fallocate(&new, FallocateFlags::FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20).expect("there is room");
    assert_eq!(stat(stage.path("new")).len(), 1 << 20);
    new.write_all_at(&[b'x'; 8192], 0).expect("it is ours");
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&new, punch, 0, 4096).expect("holes can be made");
    let mut seen = [1; 8192];
    File::open(stage.path("new")).and_then(|file| file.read_exact_at(&mut seen, 0)).expect("it is ours");
    assert!(seen[..4096].iter().all(|byte| *byte == 0) && seen[4096..].iter().all(|byte| *byte == b'x'));
    let file = OpenOptions::new().write(true).read(true).open(stage.path("new")).expect("it is there");
    assert_eq!(lseek(&file, 4 << 20, Whence::SeekData), Err(Errno::ENXIO));
}

fn ranges_are_copied(stage: &mut Stage) {
    stage.files(&[("from", &"0123456789".repeat(1000)), ("to", "old")]);
    stage.mount();
    let mut from = File::open(stage.path("from")).expect("it is there");
    let mut to = OpenOptions::new().read(true).write(true).open(stage.path("to")).expect("it is there");
    from.seek(SeekFrom::Start(5)).expect("it is a file");
    to.seek(SeekFrom::Start(3)).expect("it is a file");
    let mut copied = 0;
    while copied < 5000 {
        match sys::copy_range(from.as_fd(), to.as_fd(), 5000 - copied) {
            Ok(count) => copied += count,
            Err(errno) => panic!("copy_file_range: {errno}"),
        }
    }
    assert_eq!(read(stage.path("to")), format!("old{}", &"0123456789".repeat(1000)[5..5005]));
    run(Command::new("cp").args(["--reflink=auto", "--sparse=auto"]).arg(stage.path("from")).arg(stage.path("copy")));
    assert_eq!(stat(stage.path("copy")).len(), 10_000);
}

fn programs_run_and_cannot_be_written_meanwhile(stage: &mut Stage) {
    let layer = stage.layer();
    fs::copy("/bin/sleep", layer.join("sleep")).expect("there is one");
    stage.mount();
    fs::copy("/bin/sleep", stage.path("own")).expect("there is one");
    for name in ["sleep", "own"] {
        let mut running = Command::new(stage.path(name)).arg("100").spawn().expect("it is executable");
        let opened = OpenOptions::new().write(true).open(stage.path(name));
        running.kill().expect("it runs");
        running.wait().expect("it is ours");
        if name == "own" || stage.is_ours() {
            assert_eq!(errno(opened), libc::ETXTBSY, "{name}");
        }
        run(Command::new(stage.path(name)).arg("0"));
    }
}

fn read_only_descriptor_of_a_directory_is_refused_writes(stage: &mut Stage) {
    stage.files(&[("dir/x", "1"), ("file", "1")]);
    stage.mount();
    assert_eq!(errno(OpenOptions::new().write(true).open(stage.path("dir"))), libc::EISDIR);
    assert_eq!(errno(fs::read_dir(stage.path("file"))), libc::ENOTDIR);
    assert_eq!(errno(File::open(stage.path("file/x"))), libc::ENOTDIR);
    assert_eq!(errno(fs::read(stage.path("dir"))), libc::EISDIR);
    let file = File::open(stage.path("file")).expect("it is there");
    assert_eq!(errno(file.write_at(b"x", 0)), libc::EBADF);
}

// On the kernel's overlay such a descriptor goes on to read the lower file: its own documentation calls that a deviation.
fn descriptor_from_before_the_copy_up_sees_the_new_content(stage: &mut Stage) {
    stage.files(&[("file", "old")]);
    stage.mount();
    let reader = File::open(stage.path("file")).expect("it is there");
    let mut text = [0; 3];
    reader.read_exact_at(&mut text, 0).expect("it is open");
    write(&stage.path("file"), "new");
    reader.read_exact_at(&mut text, 0).expect("it is open");
    assert_eq!(&text, b"new");
}

fn many_threads_work_at_once(stage: &mut Stage) {
    let layer = stage.layer();
    for number in 0..400 {
        write(&layer.join(format!("dir{}/file{number}", number % 5)), format!("lower {number}"));
    }
    stage.mount();
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let stage = &*stage;
            scope.spawn(move || {
                for number in (0..400_usize).filter(|number| number % 8 == thread) {
                    let path = stage.path(format!("dir{}/file{number}", number % 5));
                    match number % 4 {
                        0 => fs::remove_file(&path).expect("it is there"),
                        1 => write(&path, format!("written {number}")),
                        2 => fs::rename(&path, stage.path(format!("dir{}/moved{number}", thread % 5)))
                            .expect("it is there"),
                        _ => assert!(read(&path).starts_with(&format!("lower {number}"))),
                    }
                    let own = stage.path(format!("dir{}/own{number}", (number + 1) % 5));
                    fs::create_dir(&own).expect("the name is free");
                    write(&own.join("x"), "x");
                    names(stage.path(format!("dir{}", (number + 2) % 5)));
                    // All of them want to copy up the same directory and the same file.
                    let shared = OpenOptions::new().append(true).open(stage.path("dir4/file399"));
                    shared.and_then(|mut file| file.write_all(b".")).expect("it is there");
                }
            });
        }
    });
    stage.mount_again();
    for number in 0..400_usize {
        let path = stage.path(format!("dir{}/file{number}", number % 5));
        match number % 4 {
            0 => assert!(!exists(&path)),
            1 => assert_eq!(read(&path), format!("written {number}")),
            2 => {
                assert!(!exists(&path));
                let moved = stage.path(format!("dir{}/moved{number}", number % 8 % 5));
                assert_eq!(read(moved), format!("lower {number}"));
            }
            _ if number == 399 => assert_eq!(read(&path), format!("lower 399{}", ".".repeat(400))),
            _ => assert_eq!(read(&path), format!("lower {number}")),
        }
        assert_eq!(names(stage.path(format!("dir{}/own{number}", (number + 1) % 5))), ["x"]);
    }
    stage.assert_work_is_empty();
}

fn large_files_are_read_and_written_whole(stage: &mut Stage) {
    let content: Vec<u8> = (0..9_000_001_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let layer = stage.layer();
    write(&layer.join("lower"), &content);
    stage.mount();
    assert!(fs::read(stage.path("lower")).expect("it is there") == content);
    write(&stage.path("upper"), &content);
    let mut file = OpenOptions::new().append(true).open(stage.path("lower")).expect("it is there");
    file.write_all(b"end").expect("it is ours");
    drop(file);
    stage.mount_again();
    assert!(fs::read(stage.path("upper")).expect("it is there") == content);
    let lower = fs::read(stage.path("lower")).expect("it is there");
    assert!(lower[..content.len()] == content && &lower[content.len()..] == b"end");
}
