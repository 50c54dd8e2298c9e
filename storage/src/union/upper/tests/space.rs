//! A full disk: what does not fit leaves nothing.

use super::*;
use std::process::Command;

const ROOT: &str = "CORACLE_TEST_UPPER_FULL";

#[test]
fn full_disk_leaves_no_trace() {
    let program = std::env::current_exe().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m,nr_inodes=40 tmpfs $1 && exec $2 --exact \
                  union::upper::tests::space::child --nocapture";
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", script, "sh"])
        .arg(scratch.path())
        .arg(program)
        .env(ROOT, scratch.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare:") || text.contains("mount:") {
        eprintln!("skipped: needs a user namespace: {text}");
        return;
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

/// Runs on a file system of one megabyte; alone it does nothing.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let fixture = Fixture::at(Path::new(&root));
    for name in ["lower", "upper", "work"] {
        fs::create_dir(fixture.path(name)).unwrap();
    }
    fs::write(fixture.lower("big"), vec![1; 600_000]).unwrap();
    fs::create_dir(fixture.lower("dir")).unwrap();
    fs::write(fixture.lower("dir/small"), b"small").unwrap();
    let upper = fixture.open();
    let before = fixture.view();
    // No room for data.
    let big = Found::new(&fixture.lower("big"));
    assert_eq!(upper.stage_copy(&big.source(), None).unwrap_err(), Errno::ENOSPC);
    assert!(fixture.leftovers().is_empty());
    assert_eq!(fixture.view(), before);
    // A truncated copy needs none.
    drop(upper.stage_copy(&big.source(), Some(0)).unwrap());
    // No room for inodes.
    let mut count = 0;
    while fs::write(fixture.path(&format!("fill{count}")), b"").is_ok() {
        count += 1;
    }
    let small = Found::new(&fixture.lower("dir/small"));
    assert_eq!(upper.stage_copy(&small.source(), None).unwrap_err(), Errno::ENOSPC);
    let gone = Presence { upper: false, lower: true };
    assert_eq!(upper.remove_file(upper.root(), name("big"), gone), Err(Errno::ENOSPC));
    let parent_dir = fixture.upper_dir("");
    for mode in [0o644, 0o4755] {
        assert_eq!(upper.create_directory(parent(&parent_dir), name("d"), new_file(mode)).unwrap_err(), Errno::ENOSPC);
    }
    assert!(fixture.leftovers().is_empty());
    assert_eq!(fixture.view(), before);
}
