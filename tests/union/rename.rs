//! Names that move.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use nix::errno::Errno;

use super::cases;
use super::stage::{Driver, Stage, errno, exists, is_whiteout, make_whiteout, names, read, stat, write};
use super::sys;

cases! {
    Both files_move_and_leave_whiteouts,
    Both file_replaces_file_and_directory_an_empty_directory,
    Both noreplace_and_exchange,
    Ours merged_directories_move,
    Ours large_merged_directory_is_for_mv,
    Both upper_directories_move_and_hide_what_lies_below,
    Ours rename_with_whiteout,
    Ours names_of_one_file_renamed_to_each_other_stay,
    Both moved_open_files_and_directories_go_on,
}

fn files_move_and_leave_whiteouts(stage: &mut Stage) {
    let layer = stage.files(&[("a", "1"), ("dir/b", "2"), ("target", "3")]);
    symlink("a", layer.join("link")).expect("the layer is ours");
    stage.mount();
    fs::rename(stage.path("a"), stage.path("dir/a")).expect("it is there");
    fs::rename(stage.path("dir/b"), stage.path("target")).expect("it is there");
    fs::rename(stage.path("link"), stage.path("dir/link")).expect("it is there");
    stage.mount_again();
    assert_eq!(names(stage.path("")), ["dir", "target"]);
    assert_eq!(names(stage.path("dir")), ["a", "link"]);
    assert_eq!((read(stage.path("target")).as_str(), read(stage.path("dir/link")).as_str()), ("2", "1"));
    assert!(is_whiteout(&stage.upper("a")) && is_whiteout(&stage.upper("dir/b")));
}

fn file_replaces_file_and_directory_an_empty_directory(stage: &mut Stage) {
    stage.files(&[("file", "1"), ("full/x", "1"), ("empty/x", "1")]);
    let top = stage.layer();
    fs::create_dir(top.join("empty")).expect("the layer is ours");
    make_whiteout(&top.join("empty/x"));
    stage.mount();
    write(&stage.path("new/inside"), "new");
    let rename = |from: &str, to: &str| fs::rename(stage.path(from), stage.path(to));
    assert_eq!(errno(rename("new", "full")), libc::ENOTEMPTY);
    assert_eq!(errno(rename("new", "file")), libc::ENOTDIR);
    assert_eq!(errno(rename("file", "new")), libc::EISDIR);
    assert_eq!(errno(rename("new", "new/inside/x")), libc::ENOTDIR);
    assert_eq!(errno(rename("full", "full/x/y")), libc::ENOTDIR);
    assert_eq!(errno(rename("missing", "x")), libc::ENOENT);
    rename("new", "empty").expect("nothing is in it");
    assert_eq!(names(stage.path("empty")), ["inside"]);
    stage.mount_again();
    assert_eq!(names(stage.path("empty")), ["inside"]);
    assert!(!exists(stage.path("new")));
}

fn noreplace_and_exchange(stage: &mut Stage) {
    stage.files(&[("a", "a"), ("b", "b"), ("dir/x", "x")]);
    stage.mount();
    let rename = |from: &str, to: &str, flags| sys::rename(&stage.path(from), &stage.path(to), flags);
    assert_eq!(rename("a", "b", libc::RENAME_NOREPLACE), Err(Errno::EEXIST));
    rename("a", "c", libc::RENAME_NOREPLACE).expect("the name is free");
    assert_eq!(rename("c", "missing", libc::RENAME_EXCHANGE), Err(Errno::ENOENT));
    rename("c", "b", libc::RENAME_EXCHANGE).expect("both are there");
    assert_eq!((read(stage.path("b")).as_str(), read(stage.path("c")).as_str()), ("a", "b"));
    write(&stage.path("own/inside"), "own");
    rename("own", "b", libc::RENAME_EXCHANGE).expect("a directory and a file");
    assert_eq!(names(stage.path("b")), ["inside"]);
    assert_eq!(read(stage.path("own")), "a");
    stage.mount_again();
    assert_eq!(names(stage.path("")), ["b", "c", "dir", "own"]);
    assert_eq!(names(stage.path("b")), ["inside"]);
    fs::remove_file(stage.path("own")).expect("it is there");
    fs::remove_file(stage.path("c")).expect("it is there");
    stage.mount_again();
    assert_eq!(names(stage.path("")), ["b", "dir"]);
}

// The kernel's overlay answers EXDEV: without `redirect_dir`, which a user may not have, it cannot say on disk where the
// directory's lower part is.
fn merged_directories_move(stage: &mut Stage) {
    let layer = stage.files(&[("dir/a", "1"), ("dir/sub/b", "1"), ("dir/sub/gone", "1")]);
    symlink("a", layer.join("dir/link")).expect("the layer is ours");
    fs::hard_link(layer.join("dir/a"), layer.join("dir/sub/a2")).expect("the layer is ours");
    sys::set_xattr(&layer.join("dir/sub"), "user.kept", b"yes", 0).expect("tmpfs has xattrs");
    stage.files(&[("dir/c", "2")]);
    stage.mount();
    write(&stage.path("dir/own"), "own");
    fs::remove_file(stage.path("dir/sub/gone")).expect("it is there");
    let number = stat(stage.path("dir/sub/b")).ino();
    fs::rename(stage.path("dir"), stage.path("moved")).expect("it is small enough to be copied");
    for _ in 0..2 {
        assert_eq!(names(stage.path("")), ["moved"]);
        assert_eq!(names(stage.path("moved")), ["a", "c", "link", "own", "sub"]);
        assert_eq!(names(stage.path("moved/sub")), ["a2", "b"]);
        assert_eq!(read(stage.path("moved/link")), "1");
        assert_eq!(stat(stage.path("moved/sub/b")).ino(), number);
        assert_eq!(sys::get_xattr(&stage.path("moved/sub"), "user.kept").as_deref(), Ok(b"yes".as_slice()));
        stage.mount_again();
    }
    fs::create_dir(stage.path("dir")).expect("the name is free");
    assert!(names(stage.path("dir")).is_empty(), "what was there has moved");
    let rename = sys::rename(&stage.path("dir"), &stage.path("moved"), libc::RENAME_EXCHANGE);
    rename.expect("both are there");
    assert_eq!(names(stage.path("dir/sub")), ["a2", "b"]);
    assert!(names(stage.path("moved")).is_empty());
}

fn large_merged_directory_is_for_mv(stage: &mut Stage) {
    let layer = stage.files(&[("dir/small", "1")]);
    if stage.driver == Driver::OursWithIndex {
        // Unpacking would write all of its zeros.
        return;
    }
    let large = fs::File::create(layer.join("dir/large")).expect("the layer is ours");
    // Beyond any cap, and nearly no bytes on disk: a cap counts what a copy would show or what it would write.
    large.set_len(300 << 30).expect("it is sparse");
    stage.mount();
    match fs::rename(stage.path("dir"), stage.path("moved")) {
        Ok(()) => assert_eq!(stat(stage.path("moved/large")).len(), 300 << 30),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
            assert_eq!(names(stage.path("dir")), ["large", "small"]);
            assert!(!exists(stage.path("moved")));
            stage.assert_work_is_empty();
        }
    }
}

fn upper_directories_move_and_hide_what_lies_below(stage: &mut Stage) {
    stage.files(&[("a/lower", "1"), ("b/lower", "1")]);
    stage.mount();
    fs::remove_dir_all(stage.path("a")).expect("it is there");
    write(&stage.path("own/x"), "own");
    fs::rename(stage.path("own"), stage.path("a")).expect("the name is free");
    assert_eq!(names(stage.path("a")), ["x"]);
    write(&stage.path("second/y"), "second");
    fs::remove_file(stage.path("b/lower")).expect("it is there");
    fs::rename(stage.path("second"), stage.path("b")).expect("nothing is in it");
    stage.mount_again();
    assert_eq!((names(stage.path("a")), names(stage.path("b"))), (vec!["x".to_owned()], vec!["y".to_owned()]));
}

// The kernel's overlay refuses to be the upper layer of another overlay; ours may be.
fn rename_with_whiteout(stage: &mut Stage) {
    stage.files(&[("a", "1"), ("keep", "1")]);
    stage.mount();
    match sys::rename(&stage.path("a"), &stage.path("b"), libc::RENAME_WHITEOUT) {
        Ok(()) => {
            assert!(exists(stage.path("b")));
            assert!(!exists(stage.path("a")) || is_whiteout(&stage.path("a")));
            stage.mount_again();
            assert_eq!(read(stage.path("b")), "1");
        }
        Err(errno) => assert!([Errno::EINVAL, Errno::EPERM].contains(&errno), "{errno}"),
    }
}

// Without `index=on` the kernel's overlay answers ESTALE.
fn names_of_one_file_renamed_to_each_other_stay(stage: &mut Stage) {
    stage.files(&[("a", "1")]);
    stage.mount();
    fs::hard_link(stage.path("a"), stage.path("b")).expect("links can be made");
    fs::rename(stage.path("a"), stage.path("b")).expect("it is one file: nothing happens");
    assert_eq!(names(stage.path("")), ["a", "b"]);
}

fn moved_open_files_and_directories_go_on(stage: &mut Stage) {
    use std::io::{Read, Seek, Write};
    stage.files(&[("file", "1"), ("dir/x", "1")]);
    stage.mount();
    let mut file = fs::OpenOptions::new().read(true).write(true).open(stage.path("file")).expect("it is there");
    fs::rename(stage.path("file"), stage.path("dir/moved")).expect("it is there");
    file.write_all(b"written").expect("it is open");
    fs::remove_file(stage.path("dir/moved")).expect("it is there");
    file.write_all(b" more").expect("it is open");
    file.rewind().expect("it is a file");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("it is open");
    assert_eq!((text.as_str(), file.metadata().expect("it is open").nlink()), ("written more", 0));
    write(&stage.path("own/inside"), "1");
    std::env::set_current_dir(stage.path("own")).expect("it is there");
    fs::rename(stage.path("own"), stage.path("dir/own")).expect("it is there");
    write(std::path::Path::new("second"), "2");
    std::env::set_current_dir("/").expect("it is there");
    assert_eq!(names(stage.path("dir/own")), ["inside", "second"]);
}
