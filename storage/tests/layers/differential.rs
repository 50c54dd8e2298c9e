//! Archives of other tools: GNU tar, Python's `tarfile` and the `tar` crate write, we read, and the other way round.
//!
//! A tool that is not installed skips its test with a line that says so.

use crate::support::{Archive, Scratch, entry};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use storage::layer::tar::{Entry, EntryKind, Reader, Timestamp};

/// Name → (kind, mode, size, mtime, link, SHA-like sum of the contents).
type Listing = BTreeMap<String, (String, u32, u64, i64, String, u64)>;

fn list_ours(tar: &[u8]) -> Listing {
    let mut reader = Reader::new(tar);
    let mut listing = Listing::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut sum = 0_u64;
        let mut end = 0;
        let mut add = |bytes: &[u8], offset: u64| {
            for (at, byte) in bytes.iter().enumerate() {
                sum = sum.wrapping_add((offset + at as u64 + 1).wrapping_mul(u64::from(*byte)));
            }
        };
        while let Some(chunk) = reader.next_chunk().unwrap() {
            assert!(chunk.offset >= end);
            end = chunk.offset + chunk.bytes.len() as u64;
            add(chunk.bytes, chunk.offset);
        }
        let name = String::from_utf8_lossy(&entry.path).trim_end_matches('/').to_owned();
        let kind = match entry.kind {
            EntryKind::File => "file",
            EntryKind::Hardlink => "link",
            EntryKind::Symlink => "symlink",
            EntryKind::Directory => "dir",
            EntryKind::Fifo => "fifo",
            EntryKind::CharDevice | EntryKind::BlockDevice => "dev",
        };
        let link = String::from_utf8_lossy(&entry.link).into_owned();
        listing.insert(name, (kind.to_owned(), entry.mode, entry.size, entry.mtime.secs, link, sum));
    }
    listing
}

const PYTHON: &str = r#"
import sys, tarfile, json
out = {}
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
    for m in tar:
        kind = "file" if m.isreg() else "link" if m.islnk() else "symlink" if m.issym() else "dir" if m.isdir() else "fifo" if m.isfifo() else "dev"
        total = 0
        if m.isreg():
            data = tar.extractfile(m).read()
            for at, byte in enumerate(data):
                if byte:
                    total = (total + (at + 1) * byte) % 2**64
        out[m.name.rstrip("/")] = [kind, m.mode & 0o7777, m.size, int(m.mtime // 1), m.linkname, total]
json.dump(out, sys.stdout)
"#;

fn list_python(tar: &[u8], scratch: &Path) -> Option<Listing> {
    let path = scratch.join("archive.tar");
    fs::write(&path, tar).unwrap();
    let output = Command::new("python3").args(["-c", PYTHON]).stdin(fs::File::open(&path).unwrap()).output();
    fs::remove_file(&path).unwrap();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: needs python3: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// A tree with everything that a tar can hold and an ordinary user can make.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("dir/inner")).unwrap();
    fs::write(root.join("dir/file"), b"contents").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("big"), vec![7_u8; 300_001]).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("link")).unwrap();
    symlink("../nowhere", root.join("dir/symlink")).unwrap();
    symlink("x".repeat(150), root.join("long-target")).unwrap();
    let deep = root.join("p".repeat(90)).join("q".repeat(90)).join("r".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("s".repeat(255)), b"deep").unwrap();
    fs::write(root.join("\u{e4}\u{1f600}"), b"utf-8").unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for piece in 0..40_u64 {
        nix::sys::uio::pwrite(&sparse, &[b'a' + piece as u8; 5000], (piece * 100_000) as i64).unwrap();
    }
    sparse.set_len(5_000_000).unwrap();
}

#[test]
fn gnu_tar_in_every_format_is_read_as_python_reads_it() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("tree");
    fs::create_dir(&root).unwrap();
    make_tree(&root);
    let formats: [&[&str]; 7] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=pax"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
        &["--format=oldgnu"],
    ];
    for format in formats {
        let output = Command::new("tar").args(["-c", "-C"]).arg(&root).args(format).arg(".").output();
        let Ok(output) = output else {
            eprintln!("skipped: needs GNU tar");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ours = list_ours(&output.stdout);
        assert_eq!(ours.len(), 16, "{format:?} {:?}", ours.keys());
        let big = ours.keys().filter(|name| name.len() > 400).count();
        assert_eq!(big, 1);
        let Some(python) = list_python(&output.stdout, scratch.path()) else { return };
        for (name, expected) in &python {
            assert_eq!(ours.get(name), Some(expected), "{format:?} {name}");
        }
        assert_eq!(ours.len(), python.len());
        let unpacked = Scratch::new();
        unpacked.apply(&output.stdout).unwrap();
        let sparse = fs::metadata(unpacked.diff().join("sparse")).unwrap();
        assert_eq!(sparse.len(), 5_000_000);
        if format.contains(&"--sparse") {
            assert!(sparse.blocks() * 512 < 1_000_000, "holes of {format:?} were filled: {} blocks", sparse.blocks());
        }
        assert_eq!(fs::read(unpacked.diff().join("sparse")).unwrap(), fs::read(root.join("sparse")).unwrap());
        assert_eq!(fs::metadata(unpacked.diff().join("link")).unwrap().nlink(), 2);
        fs::remove_dir_all(unpacked.diff()).unwrap();
    }
}

#[test]
fn our_archives_are_read_by_python_and_the_tar_crate() {
    let long = format!("{}/{}", "d".repeat(180), "f".repeat(120));
    let mtime = Timestamp { secs: 1_600_000_000, nanos: 123_456_789 };
    let tar = Archive::new()
        .dir("dir")
        .add(&Entry { mtime, ..entry("dir/file", EntryKind::File) }, b"hello")
        .add(&Entry { xattrs: vec![(b"user.x".to_vec(), b"\0\n=".to_vec())], ..entry(&long, EntryKind::File) }, b"y")
        .add(&Entry { uid: 3_000_000, gid: 4_000_000_000, ..entry("owner", EntryKind::File) }, b"")
        .symlink("symlink", &"t".repeat(300))
        .hardlink("link", "dir/file")
        .file("\u{e4}", b"umlaut")
        .bytes();
    let ours = list_ours(&tar);
    let scratch = tempfile::tempdir().unwrap();
    if let Some(python) = list_python(&tar, scratch.path()) {
        assert_eq!(ours, python);
    }
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut count = 0;
    for member in archive.entries().unwrap() {
        let mut member = member.unwrap();
        let name = String::from_utf8_lossy(&member.path_bytes()).trim_end_matches('/').to_owned();
        let (_, mode, size, _, link, _) = &ours[&name];
        assert_eq!((member.header().mode().unwrap(), member.size()), (*mode, *size), "{name}");
        assert_eq!(String::from_utf8_lossy(&member.link_name_bytes().unwrap_or_default()), link.as_str());
        let mut contents = Vec::new();
        member.read_to_end(&mut contents).unwrap();
        count += 1;
    }
    assert_eq!(count, ours.len());
}

#[test]
fn archives_of_the_tar_crate_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, contents) in [("short".to_owned(), "1"), ("n".repeat(300), "22")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        builder.append_data(&mut header, name, contents.as_bytes()).unwrap();
    }
    let ours = list_ours(&builder.into_inner().unwrap());
    assert_eq!(ours.keys().map(String::len).collect::<Vec<_>>(), [300, 5]);
}

#[test]
fn names_that_are_not_utf8_survive() {
    let name = b"caf\xe9\xff\x01".to_vec();
    let tar = Archive::new().add(&Entry { path: name.clone(), ..entry("x", EntryKind::File) }, b"x").bytes();
    let scratch = Scratch::new();
    let (_, index) = scratch.apply(&tar).unwrap();
    assert!(index.lookup(&name).is_some());
    use std::os::unix::ffi::OsStrExt;
    assert!(scratch.diff().join(std::ffi::OsStr::from_bytes(&name)).exists());
}
