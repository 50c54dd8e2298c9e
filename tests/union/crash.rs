//! `kill -9` of the server at any moment: what it had begun is done or not begun.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::cases;
use super::stage::{Driver, Stage, names, read, write};

cases! {
    Ours killed_server_leaves_nothing_half_done.limit_secs(120),
}

const FILES: usize = 300;

fn content(number: usize) -> String {
    format!("{number}\n").repeat(2_000 + number)
}

/// One of the things that take more than one system call.
fn change(stage: &Stage, number: usize) -> std::io::Result<()> {
    let path = stage.path(format!("dir{}/file{number}", number % 7));
    match number % 6 {
        0 => OpenOptions::new().append(true).open(path)?.write_all(b"appended"),
        1 => fs::remove_file(path),
        2 => fs::rename(path, stage.path(format!("moved{number}"))),
        3 => {
            fs::remove_file(&path)?;
            fs::create_dir(path)
        }
        4 => fs::hard_link(path, stage.path(format!("link{number}"))),
        _ => fs::rename(stage.path(format!("tree{number}")), stage.path(format!("gone{number}"))),
    }
}

fn killed_server_leaves_nothing_half_done(stage: &mut Stage) {
    let layer = stage.layer();
    for number in 0..FILES {
        write(&layer.join(format!("dir{}/file{number}", number % 7)), content(number));
        if number % 6 == 5 {
            write(&layer.join(format!("tree{number}/a/x")), "1");
            write(&layer.join(format!("tree{number}/y")), "2");
        }
    }
    stage.mount();
    for round in 0..25_u64 {
        let is_over = AtomicBool::new(false);
        let server = stage.server().expect("it is served");
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (stage, is_over) = (&*stage, &is_over);
                scope.spawn(move || {
                    for number in (thread..FILES).step_by(2) {
                        // What was changed in an earlier round cannot be again; what the blow hits fails.
                        let _ = change(stage, number);
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_micros(300 + round * round * 60));
            let pid = nix::unistd::Pid::from_raw(server.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
            is_over.store(true, Ordering::Relaxed);
        });
        stage.take_dead_mount_away();
        // Now ours, now the kernel's: both must be able to go on.
        stage.mount_with(if round % 2 == 0 { stage.driver } else { Driver::Kernel });
        check(stage);
        if round % 2 != 0 {
            stage.unmount();
            stage.mount_with(stage.driver);
            check(stage);
        }
    }
    stage.assert_work_is_empty();
}

/// Every file has all of its old content or all of its new.
fn check(stage: &Stage) {
    let mut kinds = BTreeMap::new();
    for number in 0..FILES {
        let path = stage.path(format!("dir{}/file{number}", number % 7));
        let old = content(number);
        let metadata = fs::symlink_metadata(&path);
        let state = match &metadata {
            Err(_) => "gone",
            Ok(metadata) if metadata.is_dir() => "directory",
            Ok(_) => "file",
        };
        *kinds.entry((number % 6, state)).or_insert(0) += 1;
        let text = || read(&path);
        match (number % 6, state) {
            (0, "file") => {
                let text = text();
                let rest = text.strip_prefix(&old).unwrap_or_else(|| panic!("{number}: not its old content"));
                assert!(rest.replace("appended", "").is_empty(), "{number}: {rest}");
            }
            (1, "gone") => {}
            (2, "gone") => assert_eq!(read(stage.path(format!("moved{number}"))), old, "{number}"),
            (3, "directory") => assert!(names(&path).is_empty(), "{number}"),
            (3, "gone") => {}
            (4, "file") => {
                assert_eq!(text(), old, "{number}");
                if let Ok(linked) = fs::read_to_string(stage.path(format!("link{number}"))) {
                    assert_eq!(linked, old, "{number}");
                }
            }
            (5, "file") => {
                assert_eq!(text(), old);
                let places: Vec<_> = ["tree", "gone"]
                    .into_iter()
                    .filter(|name| stage.path(format!("{name}{number}")).exists())
                    .collect();
                assert_eq!(places.len(), 1, "{number} is in {places:?}");
                let place = stage.path(format!("{}{number}", places[0]));
                assert_eq!(
                    (names(&place), read(place.join("a/x")), read(place.join("y"))),
                    (vec!["a".to_owned(), "y".to_owned()], "1".to_owned(), "2".to_owned())
                );
            }
            (_, "file") => assert_eq!(text(), old, "{number}"),
            (kind, state) => panic!("{number}, kind {kind}, is {state}"),
        }
    }
    // Names that nobody asked for would be halves of something.
    for name in names(stage.path("")) {
        let is_known = ["dir", "file", "moved", "link", "tree", "gone"].iter().any(|known| name.starts_with(known));
        assert!(is_known, "{name}");
    }
}
