//! Tables that we write are read back; tables of liars are refused in one line.

use std::io::{Cursor, Read};

use super::*;
use crate::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::layer::IdPolicy;
use crate::layer::compress::{Format, compress};
use crate::layer::compression::Decompressor;
use crate::layer::tar::{Entry, EntryKind, Timestamp};

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        link: Vec::new(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp { secs: 1_700_000_000, nanos: 5 },
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored_bytes: 0,
        sparse: false,
    }
}

/// Something that does not compress, and that the rolling checksum cuts.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn archive() -> Vec<u8> {
    let mut tar = crate::layer::tar::Writer::new(Vec::new());
    let file = |path: &str, bytes: &[u8]| Entry { size: bytes.len() as u64, ..entry(path, EntryKind::File) };
    let long = noise(600_000);
    tar.append_empty(&entry("dir/", EntryKind::Directory)).unwrap();
    tar.append(&file("dir/one", b"first\n"), &b"first\n"[..]).unwrap();
    tar.append(&file("dir/empty", b""), &b""[..]).unwrap();
    tar.append_empty(&Entry { link: b"dir/one".into(), ..entry("two", EntryKind::Hardlink) }).unwrap();
    tar.append_empty(&Entry { link: b"../x".into(), ..entry("dir/link", EntryKind::Symlink) }).unwrap();
    let xattrs = vec![(b"user.a".to_vec(), b"1\0\xff".to_vec())];
    tar.append(&Entry { xattrs, uid: 5, ..file("implicit/long", &long) }, long.as_slice()).unwrap();
    tar.append(&file("dir/.wh.gone", b""), &b""[..]).unwrap();
    tar.append(&file("dir/.wh..wh..opq", b""), &b""[..]).unwrap();
    tar.append(&file(&format!("{}/deep", "d".repeat(150)), &long[..70_000]), &long[..70_000]).unwrap();
    tar.finish().unwrap()
}

fn chunked(tar: &[u8], level: i32) -> (Vec<u8>, Descriptor) {
    let mut compressing = compress(Cursor::new(tar.to_vec()), Format::ZstdChunked, level).unwrap();
    let mut blob = Vec::new();
    compressing.read_to_end(&mut blob).unwrap();
    let mut layer = Descriptor::new("", Digest::of(&blob), blob.len() as u64);
    layer.annotations = Some(compressing.annotations().clone());
    (blob, layer)
}

fn read(blob: &[u8], layer: &Descriptor) -> Result<Toc, TocError> {
    let place = Place::of(layer)?.expect("it has a table");
    let Place::Chunked { offset, len, .. } = &place else { panic!("{place:?}") };
    place.read(&blob[*offset as usize..(offset + len) as usize], *offset, &IdPolicy::identity())
}

/// The tree that unpacking gives.
fn unpacked(tar: &[u8]) -> Writer {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = Writer::new();
    let fd = std::fs::File::open(dir.path()).unwrap();
    use std::os::fd::AsFd;
    // Owners need no user namespace where they are only written down.
    crate::layer::apply::apply(tar, fd.as_fd(), &IdPolicy::Single, &mut tree).unwrap();
    tree
}

#[test]
fn table_that_was_written_says_what_the_archive_says_and_its_pieces_are_the_files() {
    // Whiteouts are device nodes, which the kernel gives to a user's own namespace only.
    let tar = archive();
    for level in [1, 9] {
        let (blob, layer) = chunked(&tar, level);
        let mut back = Vec::new();
        Decompressor::new(blob.as_slice()).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == tar, "decoders that know nothing of it see the tar");
        let toc = read(&blob, &layer).unwrap();
        let long = toc.tree.child(ROOT, b"implicit").and_then(|dir| toc.tree.child(dir, b"long")).unwrap();
        let pieces = toc.pieces(long);
        assert!(pieces.len() > 1, "{}", pieces.len());
        let mut contents = Vec::new();
        for piece in pieces {
            let bytes = &blob[piece.blob_offset as usize..piece.blob_end as usize];
            let mut bytes_of = Vec::new();
            Decompressor::new(bytes).unwrap().read_to_end(&mut bytes_of).unwrap();
            assert_eq!(bytes_of.len() as u64, piece.len);
            assert_eq!(Digest::of(&bytes_of).hex(), piece.digest.map(|byte| format!("{byte:02x}")).concat());
            contents.extend(bytes_of);
        }
        assert!(contents == noise(600_000));
        let node = toc.tree.node(long);
        assert_eq!((node.uid, node.size, node.mtime().nanos, node.xattrs().len()), (5, 600_000, 5, 1));
        let dir = toc.tree.child(ROOT, b"dir").unwrap();
        assert!(toc.tree.node(dir).is_opaque);
        assert_eq!(toc.tree.node(toc.tree.child(dir, b"gone").unwrap()).kind, Kind::Whiteout);
        let two = toc.tree.child(ROOT, b"two").unwrap();
        assert_ne!(toc.tree.node(two).link_group, 0);
    }
}

#[test]
fn archive_that_says_otherwise_is_noticed() {
    let mut tar = crate::layer::tar::Writer::new(Vec::new());
    tar.append_empty(&entry("dir/", EntryKind::Directory)).unwrap();
    tar.append(&Entry { size: 2, ..entry("dir/one", EntryKind::File) }, &b"1\n"[..]).unwrap();
    let tar = tar.finish().unwrap();
    let (blob, layer) = chunked(&tar, 3);
    let toc = read(&blob, &layer).unwrap();
    assert_eq!(toc.disagrees(&unpacked(&tar)), None);
    let mut other = crate::layer::tar::Writer::new(Vec::new());
    other.append_empty(&entry("dir/", EntryKind::Directory)).unwrap();
    other.append(&Entry { size: 2, mode: 0o4755, ..entry("dir/one", EntryKind::File) }, &b"1\n"[..]).unwrap();
    assert_eq!(toc.disagrees(&unpacked(&other.finish().unwrap())).as_deref(), Some(&b"dir/one"[..]));
    let mut less = crate::layer::tar::Writer::new(Vec::new());
    less.append_empty(&entry("dir/", EntryKind::Directory)).unwrap();
    assert_eq!(toc.disagrees(&unpacked(&less.finish().unwrap())).as_deref(), Some(&b"dir/one"[..]));
    let mut more = crate::layer::tar::Writer::new(Vec::new());
    more.append_empty(&entry("dir/", EntryKind::Directory)).unwrap();
    more.append(&Entry { size: 2, ..entry("dir/one", EntryKind::File) }, &b"1\n"[..]).unwrap();
    more.append_empty(&entry("extra/", EntryKind::Directory)).unwrap();
    assert_eq!(toc.disagrees(&unpacked(&more.finish().unwrap())).as_deref(), Some(&b"extra"[..]));
}

/// Reads JSON as the table of a layer of 10,000 bytes whose contents end at 5,000.
fn told(json: &str) -> Result<Toc, TocError> {
    let packed = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
    let (raw_len, digest) = (json.len() as u64, Digest::of(&packed));
    let place = Place::Chunked { offset: 5_000, len: packed.len() as u64, raw_len, digest };
    place.read(&packed, 5_000, &IdPolicy::identity())
}

#[test]
fn lies_are_refused_in_one_line() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let file = |name: &str, size: u64, begin: u64, end: u64| {
        format!(
            r#"{{"type":"reg","name":"{name}","size":{size},"offset":{begin},"endOffset":{end},"digest":"{digest}"}}"#
        )
    };
    let table = |entries: &str| format!(r#"{{"version":1,"entries":[{entries}]}}"#);
    let chunk = |offset: u64, begin: u64| {
        format!(r#"{{"type":"chunk","name":"a","chunkOffset":{offset},"offset":{begin},"chunkDigest":"{digest}"}}"#)
    };
    assert!(told(&table(&file("a", 10, 100, 200))).is_ok());
    let cases = [
        (table(&file("../a", 1, 1, 2)), "leads out of the layer"),
        (table(&file("a/../../b", 1, 1, 2)), "leads out of the layer"),
        (table(&file("a\\u0000b", 1, 1, 2)), "zero byte"),
        (table(&file(&"x".repeat(300), 1, 1, 2)), "longer than 255"),
        (table(&file(&"x/".repeat(5000), 1, 1, 2)), "too deep"),
        (table(&file("a", u64::MAX, 1, 2)), "larger than any file"),
        (table(&file("a", 10, 4_990, 5_001)), "outside of the layer"),
        (table(&file("a", 10, u64::MAX, 5)), "outside of the layer"),
        (table(&file("a", 10, 200, 100)), "outside of the layer"),
        (table(&[file("a", 10, 100, 200), file("b", 10, 150, 250)].join(",")), "overlaps another"),
        (table(&[file("a", 10, 100, 200), chunk(0, 150)].join(",")), "not one after another"),
        (table(&[file("a", 10, 100, 200), chunk(11, 150)].join(",")), "not one after another"),
        (table(&[file("a", 10, 100, 200), chunk(u64::MAX, 150)].join(",")), "not one after another"),
        (table(&chunk(5, 150)), "not behind its file"),
        (table(&[file("b", 10, 100, 200), chunk(5, 150)].join(",")), "not behind its file"),
        (table(&file("a", 10, 100, 200).replace("sha256:", "md5:")), "without a valid digest"),
        (table(r#"{"type":"hardlink","name":"a","linkName":"a"}"#), "no file before it"),
        (
            table(r#"{"type":"hardlink","name":"a","linkName":"b"},{"type":"hardlink","name":"b","linkName":"a"}"#),
            "no file before",
        ),
        (table(r#"{"type":"hardlink","name":"a","linkName":"../../etc/passwd"}"#), "leads out"),
        (table(r#"{"type":"symlink","name":"a"}"#), "link to nothing"),
        (table(r#"{"type":"devil","name":"a"}"#), "unknown kind"),
        (table(r#"{"type":"reg","name":""}"#), "root"),
        (table(r#"{"type":"dir","name":".wh.a/b"}"#), "whiteout"),
        (table(&[file("a", 10, 100, 200), r#"{"type":"dir","name":"a/b"}"#.into()].join(",")), "beneath a file"),
        (table(r#"{"type":"dir","name":"a","modtime":"yesterday"}"#), "no valid time"),
        (table(r#"{"type":"dir","name":"a","xattrs":{"user.a":"%"}}"#), "not base64"),
        (r#"{"entries":[{"#.to_owned(), "invalid JSON"),
        (r#"{"entries":[],"entries":[]}"#.to_owned(), "entries twice"),
        (r#"{"entries":{"a":1}}"#.to_owned(), "invalid JSON"),
    ];
    for (json, part) in cases {
        let error = told(&json).map(drop).expect_err(part);
        let text = error.to_string();
        assert!(matches!(error, TocError::Hostile(_)), "{part}: {text}");
        assert!(text.contains(part) && !text.contains('\n') && text.len() < 600, "{part}: {text}");
    }
}

#[test]
fn honest_tables_that_are_odd_are_not_used_and_no_error() {
    for entries in [
        r#"{"type":"dir","name":"a"},{"type":"dir","name":"a"}"#,
        r#"{"type":"symlink","name":"a","linkName":"b"},{"type":"dir","name":"a/c"}"#,
        r#"{"type":"dir","name":"a"},{"type":"reg","name":".wh.a"}"#,
    ] {
        let error = told(&format!(r#"{{"entries":[{entries}]}}"#)).map(drop).expect_err(entries);
        assert!(matches!(error, TocError::Unusable(_)), "{error}");
    }
    assert!(matches!(told(r#"{"version":2,"entries":[]}"#), Err(TocError::Unusable(_))));
}

#[test]
fn tables_are_where_annotations_say_and_nowhere_else() {
    let (blob, layer) = chunked(&archive(), 3);
    let place = Place::of(&layer).unwrap().unwrap();
    assert!(
        matches!(place.read(b"other", 0, &IdPolicy::identity()), Err(TocError::Hostile(text)) if text.contains("digest"))
    );
    let at = |position: &str, size: u64| {
        let mut other = Descriptor::new("", Digest::of(&blob), size);
        let annotations = [(CHUNKED_CHECKSUM, Digest::of(b"").to_string()), (CHUNKED_POSITION, position.to_owned())];
        other.annotations = Some(annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        Place::of(&other)
    };
    assert!(at("10:20:30:1", 100).is_ok());
    for position in ["90:20:30:1", "18446744073709551615:20:30:1", "10:0:30:1", "10:20", "a:b:c:d", "-1:2:3:1"] {
        assert!(matches!(at(position, 100), Err(TocError::Hostile(_))), "{position}");
    }
    for position in ["10:20:30:2", "10:20:99999999999:1"] {
        assert!(matches!(at(position, 100), Err(TocError::Unusable(_))), "{position}");
    }
    assert_eq!(Place::of(&Descriptor::new("", Digest::of(b""), 5)).unwrap(), None);
}

/// A gzip member of its own.
fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn footer(offset: u64) -> Vec<u8> {
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0];
    footer.extend(format!("{offset:016x}STARGZ").into_bytes());
    footer.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

#[test]
fn estargz_tables_are_read_with_the_file_that_they_are_themselves() {
    let contents = noise(5_000);
    let (head, body) = (member(&[0; 512]), member(&contents));
    let tail = member(&[0; 100]);
    let offset = (head.len() + body.len() + tail.len()) as u64;
    let json = format!(
        r#"{{"version":1,"entries":[{{"name":"a","type":"reg","size":5000,"modtime":"2023-11-14T22:13:20Z","mode":33188,
        "offset":{},"chunkDigest":"{}","NumLink":0}}]}}"#,
        head.len(),
        Digest::of(&contents)
    );
    let mut tar = crate::layer::tar::Writer::new(Vec::new());
    let own = Entry { size: json.len() as u64, mode: 0o444, ..entry("stargz.index.json", EntryKind::File) };
    tar.append(&own, json.as_bytes()).unwrap();
    let table = member(&tar.finish().unwrap());
    let blob = [head, body, tail, table.clone(), footer(offset)].concat();
    assert_eq!(footer(0).len() as u64, Footer::BYTES);
    let begin = blob.len() - Footer::BYTES as usize;
    assert_eq!(Footer::parse(&blob[begin..], blob.len() as u64).unwrap(), offset);
    let place = Place::Estargz { digest: Digest::of(json.as_bytes()) };
    let toc = place.read(&table, offset, &IdPolicy::identity()).unwrap();
    let [piece] = toc.pieces(toc.tree.child(ROOT, b"a").unwrap()) else { panic!("one piece") };
    let mut got = Vec::new();
    let bytes = &blob[piece.blob_offset as usize..piece.blob_end as usize];
    Decompressor::new(bytes).unwrap().take(piece.len).read_to_end(&mut got).unwrap();
    assert!(got == contents);
    assert_eq!(toc.tree.node(toc.tree.child(ROOT, b"stargz.index.json").unwrap()).mode, 0o444);
    let wrong = Place::Estargz { digest: Digest::of(b"") };
    assert!(matches!(wrong.read(&table, offset, &IdPolicy::identity()), Err(TocError::Hostile(_))));
    for (bytes, size) in [(footer(1000), 500_u64), (footer(u64::MAX), 500)] {
        assert!(matches!(Footer::parse(&bytes, size), Err(TocError::Hostile(_))));
    }
    assert!(matches!(Footer::parse(&[0; 51], 100), Err(TocError::Unusable(_))));
}
