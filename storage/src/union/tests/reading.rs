//! What a stack looks like.

use super::fixture::{FORMS, Form, Scratch};
use crate::union::{FileKind, InodeNo};
use nix::errno::Errno;
use std::ffi::OsStr;

const TOP: &[&str] = &[
    "d etc",
    "f etc/a top",
    "w etc/gone",
    "o var",
    "f var/new n",
    "f hidden file",
    "d over",
    "f over/x x",
    "x mod/away",
    ".w mod/tar",
];
const MIDDLE: &[&str] = &[
    "d etc",
    "f etc/b middle",
    "d var",
    "f var/old o",
    "d hidden",
    "f hidden/x x",
    "l etc/link ../var",
    "f over file",
];
const BOTTOM: &[&str] = &[
    "d etc",
    "f etc/a bottom",
    "f etc/gone g",
    "d etc/sub",
    "f etc/sub/deep d",
    "h etc/sub/same etc/sub/deep",
    "d var",
    "f var/older o",
    "d over",
    "f over/y y",
    "d mod",
    "f mod/away a",
    "f mod/tar t",
    "f mod/stays s",
    "p pipe",
];

#[test]
fn layers_merge_and_hide() {
    for form in FORMS {
        let scratch = Scratch::new(form, &[TOP, MIDDLE, BOTTOM]);
        let mounted = scratch.mount();
        assert_eq!(mounted.list(""), ["etc", "hidden", "mod", "over", "pipe", "var"], "{form:?}");
        assert_eq!(mounted.list("etc"), ["a", "b", "link", "sub"], "{form:?}");
        assert_eq!(mounted.list("var"), ["new"], "{form:?}");
        assert_eq!(mounted.list("mod"), ["stays"], "{form:?}");
        // A file between two directories hides the lower one.
        assert_eq!(mounted.list("over"), ["x"], "{form:?}");
        let cases = [
            ("etc/a", Ok("top")),
            ("etc/b", Ok("middle")),
            ("etc/gone", Err(Errno::ENOENT)),
            ("etc/sub/deep", Ok("d")),
            ("etc/link", Ok("../var")),
            ("var/old", Err(Errno::ENOENT)),
            ("var/older", Err(Errno::ENOENT)),
            ("hidden", Ok("file")),
            ("hidden/x", Err(Errno::ENOTDIR)),
            ("over/y", Err(Errno::ENOENT)),
            ("mod/away", Err(Errno::ENOENT)),
            ("mod/tar", Err(Errno::ENOENT)),
            ("mod/.wh.tar", Err(Errno::ENOENT)),
            ("mod/stays", Ok("s")),
        ];
        for (path, expected) in cases {
            assert_eq!(mounted.text(path), expected.map(str::to_owned), "{form:?} {path}");
        }
        assert_eq!(mounted.entry("pipe").unwrap().attributes.kind, FileKind::Fifo);
        assert_eq!(mounted.dump().len(), 15, "{form:?}");
    }
}

#[test]
fn upper_merges_with_lowers_of_both_forms() {
    for form in FORMS {
        let scratch = Scratch::new(form, &[MIDDLE, BOTTOM]).with_upper(TOP);
        let mounted = scratch.mount();
        assert_eq!(mounted.list(""), ["etc", "hidden", "mod", "over", "pipe", "var"], "{form:?}");
        assert_eq!(mounted.list("etc"), ["a", "b", "link", "sub"], "{form:?}");
        assert_eq!(mounted.text("etc/a").as_deref(), Ok("top"));
        assert_eq!(mounted.list("var"), ["new"], "{form:?}");
        mounted.dump();
    }
    for forms in [[Form::Plain, Form::Indexed], [Form::Indexed, Form::Plain]] {
        let scratch = Scratch::mixed(&[(forms[0], MIDDLE), (forms[1], BOTTOM)]).with_upper(&["f etc/a up"]);
        let mounted = scratch.mount();
        assert_eq!(mounted.list("etc"), ["a", "b", "gone", "link", "sub"], "{forms:?}");
        assert_eq!(mounted.text("etc/a").as_deref(), Ok("up"));
        mounted.dump();
    }
}

#[test]
fn numbers_are_the_same_in_the_next_mount_and_for_all_names_of_a_file() {
    for form in FORMS {
        let scratch = Scratch::new(form, &[TOP, MIDDLE, BOTTOM]);
        let (first, second) = (scratch.mount(), scratch.mount());
        for path in ["etc", "etc/a", "etc/sub/deep", "var", "pipe"] {
            assert_eq!(first.ino(path), second.ino(path), "{form:?} {path}");
        }
        assert_eq!(first.ino("etc/sub/deep"), first.ino("etc/sub/same"), "{form:?}");
        assert_eq!(first.entry("etc/sub/deep").unwrap().attributes.nlink, 2, "{form:?}");
        assert_eq!(first.ino(""), InodeNo::ROOT);
    }
}

#[test]
fn five_hundred_layers() {
    for form in FORMS {
        let words: Vec<Vec<String>> =
            (0..500).map(|at| vec![format!("f d/own{at} {at}"), format!("f d/all {at}")]).collect();
        let words: Vec<Vec<&str>> = words.iter().map(|layer| layer.iter().map(String::as_str).collect()).collect();
        let layers: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
        let scratch = Scratch::new(form, &layers).with_upper(&[]);
        let mounted = scratch.mount();
        assert_eq!(mounted.list("d").len(), 501, "{form:?}");
        assert_eq!(mounted.text("d/all").as_deref(), Ok("0"));
        assert_eq!(mounted.text("d/own499").as_deref(), Ok("499"));
        assert_eq!(mounted.text("d/own500"), Err(Errno::ENOENT));
    }
}

#[test]
fn nothing_is_remembered_of_what_was_forgotten() {
    for form in FORMS {
        let scratch = Scratch::new(form, &[TOP, MIDDLE, BOTTOM]).with_upper(&["f etc/sub/u u"]);
        let mounted = scratch.mount();
        mounted.dump();
        for path in ["etc/sub/deep", "etc/sub/same", "etc/sub/u"] {
            let mut at = InodeNo::ROOT;
            let mut seen = Vec::new();
            for name in path.split('/') {
                at = mounted.union.lookup(at, OsStr::new(name)).unwrap().attributes.ino;
                seen.push(at);
            }
            mounted.union.attributes(at).unwrap();
            // In the order in which the kernel may well do it.
            seen.into_iter().for_each(|ino| mounted.union.forget(ino, 1));
        }
        assert_eq!(mounted.union.tree.table.len(), 1, "{form:?}");
    }
}

#[test]
fn names_that_are_no_names_are_refused() {
    let mounted = Scratch::new(Form::Indexed, &[TOP]).mount();
    let long = "x".repeat(256);
    for (name, expected) in [
        ("", Errno::EINVAL),
        (".", Errno::EINVAL),
        ("..", Errno::EINVAL),
        ("a/b", Errno::EINVAL),
        (&long, Errno::ENAMETOOLONG),
    ] {
        let error = mounted.union.lookup(InodeNo::ROOT, OsStr::new(name)).unwrap_err();
        assert_eq!(error.errno, expected, "{name}");
    }
    assert_eq!(mounted.union.attributes(InodeNo(4711)).unwrap_err().errno, Errno::ESTALE);
}

#[test]
fn names_that_stay_are_listed_once_while_others_come_go_and_are_copied_up() {
    let names: Vec<String> = (0..300).map(|at| format!("f dir/l{at} x")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for form in FORMS {
        let scratch = Scratch::new(form, &[&names[..150], &names[100..]]).with_upper(&["f dir/upper u"]);
        let mounted = scratch.mount();
        let (union, dir) = (&mounted.union, mounted.ino("dir"));
        let mut seen: Vec<String> = Vec::new();
        let (mut cookie, mut round) = (0, 0);
        loop {
            let before = seen.len();
            let mut room = 10;
            union
                .read_directory(dir, cookie, &mut |entry| {
                    room -= 1;
                    if room >= 0 {
                        cookie = entry.cookie;
                        seen.push(String::from_utf8(entry.name.to_vec()).unwrap());
                    }
                    room >= 0
                })
                .unwrap();
            if seen.len() == before {
                break;
            }
            round += 1;
            // One goes that was seen, one that may not have been, one is copied up, one is new.
            let last = seen.iter().rev().find(|name| name.starts_with('l')).unwrap();
            let _ = union.unlink(dir, OsStr::new(last));
            let _ = union.unlink(dir, OsStr::new(&format!("l{}", 3 * round)));
            let copied = union.lookup(dir, OsStr::new(&format!("l{}", 299 - round)));
            if let Ok(copied) = copied {
                union.write(copied.attributes.ino, 0, b"y", false).unwrap();
            }
            let file = super::fixture::new_file(0o644);
            union.make_node(dir, OsStr::new(&format!("new{round}")), file, FileKind::File, 0).unwrap();
            if round == 7 {
                mounted.union.tree.drop_listing(&mounted.union.tree.table.get(dir).unwrap());
            }
        }
        let left = mounted.list("dir");
        for name in left.iter().filter(|name| name.starts_with('l') || *name == "upper") {
            assert_eq!(seen.iter().filter(|seen| *seen == name).count(), 1, "{form:?} {name}");
        }
        seen.sort();
        let all = seen.len();
        seen.dedup();
        assert_eq!(all, seen.len(), "{form:?}: something was listed twice");
    }
}
