//! Each change once, in a place where it needs all of its steps.

use super::*;
use crate::union::attributes::RenameMode;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

pub(in crate::union::upper) struct Scenario {
    pub(in crate::union::upper) name: &'static str,
    pub(in crate::union::upper) prepare: fn(&Fixture),
    pub(in crate::union::upper) run: fn(&UpperLayer, &Fixture) -> nix::Result<()>,
    /// True if a killed process may leave a file under both its names.
    pub(in crate::union::upper) may_show_both: bool,
}

const OLD: SystemTime = SystemTime::UNIX_EPOCH;

fn write(path: PathBuf, bytes: &[u8]) {
    fs::write(&path, bytes).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(OLD + Duration::from_secs(1_000)).unwrap();
}

fn whiteout_at(fixture: &Fixture, path: &str) {
    let path = fixture.upper(path);
    whiteout::make(dir(path.parent().unwrap()), path.file_name().unwrap().as_bytes()).unwrap();
}

fn opaque_dir(fixture: &Fixture, path: &str) {
    fs::create_dir(fixture.upper(path)).unwrap();
    whiteout::make_opaque(fixture.upper_dir(path)).unwrap();
}

/// lower: file dir/{a,b,sub/c,link}; upper: nothing.
fn lower_tree(fixture: &Fixture) {
    write(fixture.lower("file"), b"lower");
    fs::create_dir_all(fixture.lower("dir/sub")).unwrap();
    write(fixture.lower("dir/a"), b"a in lower");
    write(fixture.lower("dir/b"), &[7; 300_000]);
    write(fixture.lower("dir/sub/c"), b"c");
    symlink("a", fixture.lower("dir/link")).unwrap();
    fs::set_permissions(fixture.lower("file"), fs::Permissions::from_mode(0o640)).unwrap();
}

/// The same, and dir in the upper: a deleted, b changed, new added.
fn merged_tree(fixture: &Fixture) {
    lower_tree(fixture);
    fs::create_dir(fixture.upper("dir")).unwrap();
    whiteout_at(fixture, "dir/a");
    write(fixture.upper("dir/b"), b"b in upper");
    write(fixture.upper("dir/new"), b"new");
}

/// Brings all that `dir` of [`merged_tree`] shows into the upper, and parts it from the lower.
fn gather(upper: &UpperLayer, fixture: &Fixture) -> nix::Result<()> {
    let copy = |path: &str| {
        let path = Path::new(path);
        let found = Found::new(&fixture.lower(path.to_str().unwrap()));
        let above = fixture.upper_dir(path.parent().unwrap().to_str().unwrap());
        upper.stage_copy(&found.source(), None)?.publish(above.as_fd(), Name::new(path.file_name().unwrap())?).map(drop)
    };
    copy("dir/link")?;
    copy("dir/sub")?;
    copy("dir/sub/c")?;
    whiteout::make_opaque(fixture.upper_dir("dir"))
}

fn rename(upper: &UpperLayer, from: (&str, bool), to: (&str, bool, bool), is_directory: bool) -> nix::Result<()> {
    let side =
        |at: &'static str, is_directory, lower| RenameSide { dir: upper.root(), name: name(at), is_directory, lower };
    let leak = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    upper.rename(side(leak(from.0), is_directory, from.1), side(leak(to.0), to.1, to.2), RenameMode::default())
}

const fn scenario(
    name: &'static str,
    prepare: fn(&Fixture),
    run: fn(&UpperLayer, &Fixture) -> nix::Result<()>,
) -> Scenario {
    Scenario { name, prepare, run, may_show_both: false }
}

pub(in crate::union::upper) const SCENARIOS: &[Scenario] = &[
    scenario(
        "create",
        |_| {},
        |upper, fixture| upper.create_file(parent(&fixture.upper_dir("")), name("new"), new_file(0o666)).map(drop),
    ),
    scenario(
        "create over whiteout",
        |fixture| {
            lower_tree(fixture);
            whiteout_at(fixture, "file");
        },
        |upper, fixture| upper.create_file(parent(&fixture.upper_dir("")), name("file"), new_file(0o4755)).map(drop),
    ),
    scenario(
        "mkdir over whiteout",
        |fixture| {
            lower_tree(fixture);
            whiteout_at(fixture, "dir");
        },
        |upper, fixture| upper.create_directory(parent(&fixture.upper_dir("")), name("dir"), new_file(0o755)).map(drop),
    ),
    scenario(
        "mkdir with setuid",
        |_| {},
        |upper, fixture| {
            upper.create_directory(parent(&fixture.upper_dir("")), name("dir"), new_file(0o4755)).map(drop)
        },
    ),
    scenario(
        "symlink over whiteout",
        |fixture| {
            lower_tree(fixture);
            whiteout_at(fixture, "file");
        },
        |upper, fixture| {
            let owner = new_file(0).owner;
            upper.create_symlink(parent(&fixture.upper_dir("")), name("file"), OsStr::new("target"), owner).map(drop)
        },
    ),
    scenario(
        "fifo over whiteout",
        |fixture| {
            lower_tree(fixture);
            whiteout_at(fixture, "file");
        },
        |upper, fixture| {
            let parent_dir = fixture.upper_dir("");
            upper.create_node(parent(&parent_dir), name("file"), new_file(0o600), FileKind::Fifo, 0).map(drop)
        },
    ),
    scenario(
        "link over whiteout",
        |fixture| {
            lower_tree(fixture);
            whiteout_at(fixture, "file");
            write(fixture.upper("other"), b"other");
        },
        |upper, _| upper.link(LinkFrom::Named(upper.root(), name("other")), upper.root(), name("file")),
    ),
    scenario("copy up", lower_tree, |upper, fixture| {
        let found = Found::new(&fixture.lower("file"));
        upper.stage_copy(&found.source(), None)?.publish(upper.root(), name("file")).map(drop)
    }),
    scenario(
        "copy up symlink",
        |fixture| {
            lower_tree(fixture);
            symlink("/target", fixture.lower("link")).unwrap();
        },
        |upper, fixture| {
            let found = Found::new(&fixture.lower("link"));
            upper.stage_copy(&found.source(), None)?.publish(upper.root(), name("link")).map(drop)
        },
    ),
    scenario("copy up directory", lower_tree, |upper, fixture| {
        let found = Found::new(&fixture.lower("dir"));
        upper.stage_copy(&found.source(), None)?.publish(upper.root(), name("dir")).map(drop)
    }),
    scenario("gather a merged directory and rename it", merged_tree, |upper, fixture| {
        gather(upper, fixture)?;
        rename(upper, ("dir", true), ("moved", false, false), true)
    }),
    scenario("remove lower file", lower_tree, |upper, _| {
        upper.remove_file(upper.root(), name("file"), Presence { upper: false, lower: true })
    }),
    scenario(
        "remove both",
        |fixture| {
            lower_tree(fixture);
            write(fixture.upper("file"), b"upper");
        },
        |upper, _| upper.remove_file(upper.root(), name("file"), Presence { upper: true, lower: true }),
    ),
    scenario(
        "remove merged directory",
        |fixture| {
            lower_tree(fixture);
            fs::create_dir(fixture.upper("dir")).unwrap();
            for gone in ["a", "b", "sub", "link"] {
                whiteout_at(fixture, &format!("dir/{gone}"));
            }
        },
        |upper, _| upper.remove_directory(upper.root(), name("dir"), Presence { upper: true, lower: true }),
    ),
    scenario(
        "remove opaque directory with whiteouts",
        |fixture| {
            opaque_dir(fixture, "dir");
            whiteout_at(fixture, "dir/x");
        },
        |upper, _| upper.remove_directory(upper.root(), name("dir"), Presence { upper: true, lower: false }),
    ),
    scenario(
        "rename file over lower",
        |fixture| {
            lower_tree(fixture);
            write(fixture.upper("new"), b"new");
        },
        |upper, _| rename(upper, ("new", false), ("file", false, true), false),
    ),
    scenario(
        "rename copied file away",
        |fixture| {
            lower_tree(fixture);
            write(fixture.upper("file"), b"copied");
        },
        |upper, _| rename(upper, ("file", true), ("moved", false, false), false),
    ),
    scenario(
        "rename copied file over upper",
        |fixture| {
            lower_tree(fixture);
            write(fixture.upper("file"), b"copied");
            write(fixture.upper("moved"), b"replaced");
        },
        |upper, _| rename(upper, ("file", true), ("moved", false, false), false),
    ),
    scenario(
        "rename new directory over whiteout",
        |fixture| {
            lower_tree(fixture);
            whiteout_at(fixture, "dir");
            fs::create_dir(fixture.upper("fresh")).unwrap();
            write(fixture.upper("fresh/x"), b"x");
        },
        |upper, _| rename(upper, ("fresh", false), ("dir", false, true), true),
    ),
    scenario(
        "rename opaque directory away",
        |fixture| {
            lower_tree(fixture);
            opaque_dir(fixture, "dir");
            write(fixture.upper("dir/x"), b"x");
        },
        |upper, _| rename(upper, ("dir", true), ("moved", false, false), true),
    ),
    scenario(
        "rename opaque directory over whiteout",
        |fixture| {
            lower_tree(fixture);
            opaque_dir(fixture, "dir");
            write(fixture.upper("dir/x"), b"x");
            whiteout_at(fixture, "file");
        },
        |upper, _| rename(upper, ("dir", true), ("file", false, true), true),
    ),
    scenario(
        "rename directory over emptied one",
        |fixture| {
            lower_tree(fixture);
            fs::create_dir(fixture.upper("dir")).unwrap();
            for gone in ["a", "b", "sub", "link"] {
                whiteout_at(fixture, &format!("dir/{gone}"));
            }
            fs::create_dir(fixture.upper("fresh")).unwrap();
            write(fixture.upper("fresh/x"), b"x");
        },
        |upper, _| rename(upper, ("fresh", false), ("dir", true, true), true),
    ),
    scenario(
        "exchange directory and file",
        |fixture| {
            lower_tree(fixture);
            opaque_dir(fixture, "dir");
            write(fixture.upper("dir/x"), b"x");
            write(fixture.upper("file"), b"copied");
        },
        |upper, _| {
            let side = |at, is_directory| RenameSide { dir: upper.root(), name: at, is_directory, lower: true };
            let mode = RenameMode { exchange: true, ..RenameMode::default() };
            upper.rename(side(name("dir"), true), side(name("file"), false), mode)
        },
    ),
    Scenario {
        may_show_both: true,
        ..scenario(
            "rename file in steps",
            |fixture| {
                lower_tree(fixture);
                write(fixture.upper("file"), b"copied");
            },
            |upper, _| {
                let side = |at, lower| RenameSide { dir: upper.root(), name: at, is_directory: false, lower };
                upper.rename_in_steps(&side(name("file"), true), &side(name("moved"), false))
            },
        )
    },
    scenario(
        "rename directory in steps",
        |fixture| {
            lower_tree(fixture);
            opaque_dir(fixture, "dir");
            write(fixture.upper("dir/x"), b"x");
        },
        |upper, _| {
            let side = |at, is_directory, lower| RenameSide { dir: upper.root(), name: at, is_directory, lower };
            upper.rename_in_steps(&side(name("dir"), true, true), &side(name("moved"), false, false))
        },
    ),
];
