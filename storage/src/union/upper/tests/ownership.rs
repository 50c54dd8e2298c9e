//! Owners on disk, which takes a user namespace with more than one id.

use super::*;
use crate::layer::ids::IdRange;
use crate::sys::xattr;
use crate::union::attributes::Changes;
use std::process::Command;

const ROOT: &str = "CORACLE_TEST_UPPER_OWNERS";

#[test]
fn owners_arrive_on_disk_by_the_map() {
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["-Ur", "--map-auto"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "union::upper::tests::ownership::child", "--nocapture"])
        .env(ROOT, scratch.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare:") || text.contains("newuidmap") {
        eprintln!("skipped: needs subordinate ids: {text}");
        return;
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

/// Runs as root of a user namespace; alone it does nothing.
#[test]
fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    // As for `--userns=keep-id` of user 1000.
    let ranges = vec![
        IdRange { from: 0, to: 1, length: 1000 },
        IdRange { from: 1000, to: 0, length: 1 },
        IdRange { from: 1001, to: 1001, length: 1000 },
    ];
    let keep_id = IdMap::new(ranges.clone(), ranges);
    for (place, map, root_on_disk, user_on_disk) in
        [("identity", IdMap::default(), 0, 1000), ("keep-id", keep_id, 1, 0)]
    {
        fs::create_dir(Path::new(&root).join(place)).unwrap();
        let fixture = Fixture::at(&Path::new(&root).join(place));
        for name in ["lower", "upper", "work"] {
            fs::create_dir(fixture.path(name)).unwrap();
        }
        let upper = fixture.open_as(Owners::Mapped(map)).unwrap();
        let parent_dir = fixture.upper_dir("");
        let owned = |uid, mode| NewFile { owner: Caller { uid, gid: uid }, mode, umask: 0 };
        let owner = |path: &Path| path.symlink_metadata().map(|metadata| (metadata.uid(), metadata.gid())).unwrap();
        for (uid, on_disk) in [(0, root_on_disk), (1000, user_on_disk)] {
            let at = |kind: &str| format!("{kind}{uid}");
            let in_root = parent(&parent_dir);
            upper.create_file(in_root, name(&at("file")), owned(uid, 0o4711)).unwrap();
            upper.create_directory(in_root, name(&at("dir")), owned(uid, 0o3770)).unwrap();
            upper.create_node(in_root, name(&at("fifo")), owned(uid, 0o640), FileKind::Fifo, 0).unwrap();
            upper.create_symlink(in_root, name(&at("link")), OsStr::new("to"), owned(uid, 0).owner).unwrap();
            for kind in ["file", "dir", "fifo", "link"] {
                assert_eq!(owner(&fixture.upper(&at(kind))), (on_disk, on_disk), "{place} {kind} {uid}");
            }
            assert!(describe(&fixture.upper(&at("file"))).starts_with("f 4711 "));
            assert!(describe(&fixture.upper(&at("dir"))).starts_with("d 3770 "));
            assert!(describe(&fixture.upper(&at("fifo"))).starts_with("p 640 "));
            // The group of a directory with setgid goes to what is made in it.
            let inner = fixture.upper_dir(&at("dir"));
            upper.create_file(parent(&inner), name("file"), owned(5, 0o644)).unwrap();
            assert_eq!(owner(&fixture.upper(&at("dir")).join("file")).1, on_disk, "{place}");
            let stat = fstat(&inner).unwrap();
            let shown = upper.owners().attributes(InodeNo(1), &stat, &Marks::default());
            assert_eq!((shown.uid, shown.gid), (uid, uid), "{place}");
        }
        let outside = upper.create_file(parent(&parent_dir), name("outside"), owned(5000, 0o644));
        assert_eq!(outside.is_err(), place == "keep-id");

        // Capabilities survive a copy and go with the owner.
        fs::write(fixture.lower("ping"), b"x").unwrap();
        let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
        capability.extend_from_slice(&[0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut found = Found::new(&fixture.lower("ping"));
        (found.attributes.uid, found.attributes.gid) = (0, 0);
        found.xattrs = vec![(b"security.capability".to_vec(), capability.clone())];
        let made = upper.stage_copy(&found.source(), None).unwrap().publish(upper.root(), name("ping")).unwrap();
        let file = made.file.unwrap();
        let target = Target { file: file.as_fd(), kind: FileKind::File, stat: None, marks: &made.marks, name: None };
        assert_eq!(upper.xattr(&target, b"security.capability"), Ok(capability), "{place}");
        assert_eq!(owner(&fixture.upper("ping")), (root_on_disk, root_on_disk));
        let to_user = Changes { uid: Some(1000), ..Changes::default() };
        upper.set_attributes(&target, &to_user).unwrap();
        assert_eq!(owner(&fixture.upper("ping")), (user_on_disk, root_on_disk));
        assert_eq!(xattr::find(file.as_fd(), c"security.capability"), Ok(None));
        assert!(fixture.leftovers().is_empty());
    }
}
