//! `cp`

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::support::home::{entries, set_mode};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(cp_files_into_a_container),
    test!(cp_directories_into_a_container),
    test!(cp_out_of_a_container),
    test!(cp_refuses_what_cannot_be),
    test!(cp_links_stay_in_the_container),
    test!(cp_never_leaves_the_target_on_the_host),
    test!(cp_owners),
    test!(cp_streams),
    test!(cp_between_containers),
    test!(cp_with_a_container_that_does_not_run),
    test!(cp_into_volumes_and_mount_points),
    test!(cp_overwrites_when_asked_to),
    test!(cp_on_every_driver).needs(&[Need::Fuse]),
    test!(cp_with_shifted_ids).needs(&[Need::Fuse]),
    test!(cp_with_one_id).needs(&[Need::Fuse]),
];

fn cp_files_into_a_container(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    let file = home.write("f", "contents");
    set_mode(&file, 0o640);
    home.ok("exec c mkdir -p /d /e");
    assert_eq!(home.ok("cp f c:/d"), "");
    home.ok("cp f c:/d/");
    home.ok("cp f c:/d/other");
    home.ok("container cp ./f c:relative");
    home.ok("cp f c:/d/other");
    let seen = home.ok("exec c sh -c 'cat /d/f /d/other /relative; stat -c %a.%u.%g /d/f'");
    assert_eq!(seen, "contentscontentscontents640.0.0");
    let time = fs::metadata(&file).unwrap().mtime();
    assert_eq!(home.ok("exec c stat -c %Y /d/f"), time.to_string());
    symlink("f", home.tmp().join("link")).unwrap();
    home.ok("cp link c:/e");
    home.ok("cp -L link c:/e/two");
    assert_eq!(home.ok("exec c sh -c 'cat /e/link; test -L /e/link || cat /e/two'"), "contentscontents");
}

fn cp_directories_into_a_container(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    home.write("d/sub/g", "g");
    symlink("/etc/passwd", home.tmp().join("d/link")).unwrap();
    set_mode(&home.tmp().join("d"), 0o750);
    home.ok("exec c mkdir /t");
    home.ok("cp d c:/t");
    home.ok("cp d c:/t/new");
    home.ok("cp d c:/t/new");
    home.ok("cp d/. c:/t/contents");
    home.ok("cp d/. c:/t/contents");
    let found = home.ok("exec c sh -c 'cd /t; find . -type f | sort'");
    assert_eq!(found, "./contents/sub/g\n./d/sub/g\n./new/d/sub/g\n./new/sub/g");
    assert_eq!(home.ok("exec c sh -c 'readlink /t/d/link; stat -c %a /t/d /t/new'"), "/etc/passwd\n750\n750");
}

fn cp_out_of_a_container(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    let script = "mkdir -p /t/d/sub; echo hello >/t/d/sub/f; chown -R 5:6 /t; chmod 4750 /t/d/sub/f; ln -s sub/f /t/d/l; \
                  ln /t/d/sub/f /t/d/hard; mkfifo /t/d/fifo; ln -s d /t/dirlink";
    home.ok(&format!("exec c sh -c '{script}'"));
    home.ok("cp c:/t/d/sub/f .");
    home.ok("cp c:/t/d/l followed");
    home.ok("cp c:/t/d new");
    home.ok("cp c:/t/d new");
    home.ok("cp c:/t/dirlink/. contents");
    let at = |path: &str| home.tmp().join(path);
    for path in ["f", "followed", "new/sub/f", "new/d/sub/f", "new/l", "contents/sub/f"] {
        assert_eq!(fs::read_to_string(at(path)).unwrap(), "hello\n", "{path}");
    }
    let metadata = fs::metadata(at("f")).unwrap();
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o7777), (nix::unistd::geteuid().as_raw(), 0o750));
    let (one, two) = (fs::metadata(at("new/hard")).unwrap(), fs::metadata(at("new/sub/f")).unwrap());
    assert_eq!(one.ino(), two.ino());
    assert_eq!(fs::read_link(at("new/l")).unwrap().to_str(), Some("sub/f"));
    home.ok("cp c:/proc/version version");
    assert!(fs::read_to_string(at("version")).unwrap().starts_with("Linux"));
    assert_eq!(home.run("cp c:/t/d/sub/f /dev/stdout").out, home.run("cp c:/t/d/sub/f -").out);
}

fn cp_refuses_what_cannot_be(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    home.write("f", "x");
    home.write("d/g", "x");
    home.ok("cp f c:/file");
    for (line, expected) in [
        ("cp f c:/no/such", "\"/no/such\" could not be found on container c: no such file or directory"),
        ("cp f c:/new/", "\"/new/\" could not be found on container c: no such file or directory"),
        ("cp d c:/new/", "\"/new/\" could not be found on container c: no such file or directory"),
        ("cp nosuch c:/tmp", "\"nosuch\" could not be found on the host: no such file or directory"),
        ("cp c:/nosuch .", "\"/nosuch\" could not be found on container c: no such file or directory"),
        ("cp c:/file no/such", "\"no/such\" could not be found on the host: no such file or directory"),
        ("cp c:/file new/", "\"new/\" could not be found on the host: no such file or directory"),
        ("cp d c:/file", "destination must be a directory when copying a directory"),
        ("cp c:/etc f", "destination must be a directory when copying a directory"),
        ("cp f c:/file/", "\"/file/\" could not be found on container c: not a directory"),
        ("cp c: x", "you must specify paths"),
        ("cp f d", "at least one container"),
        ("cp f", "accepts 2 arg(s), received 1"),
        ("cp nosuch:/x .", "nosuch"),
        ("cp c:/dev/null x", "copied no items"),
    ] {
        let message = home.fails(125, line);
        assert!(message.contains(expected), "{line}: {message}");
    }
    home.ok("run -d --name r --read-only --network none busybox sleep 1000");
    assert!(home.fails(125, "cp f r:/x").contains("read-only file system"));
    assert!(home.fails(125, "cp d r:/x").contains("read-only file system"));
    home.ok("cp f r:/tmp/x");
    home.write("secret", "x");
    set_mode(&home.tmp().join("secret"), 0);
    assert!(home.fails(125, "cp secret c:/x").contains("permission denied"));
    assert_eq!(fs::metadata(home.tmp().join("secret")).unwrap().permissions().mode() & 0o777, 0);
}

/// The container's links point to what is the host's; nothing of the host is read or written.
fn cp_links_stay_in_the_container(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    let (host, secret) = (home.write("host/victim", "untouched"), home.write("secret", "of the host"));
    let up = "../".repeat(30);
    for (name, target) in [
        ("abs", host.display().to_string()),
        ("dir", host.parent().unwrap().display().to_string()),
        ("up", format!("{up}{}", host.display())),
        ("secret", secret.display().to_string()),
        ("root", "/proc/1/root".to_owned()),
        ("cwd", "/proc/self/cwd".to_owned()),
        ("fd", "/proc/self/fd/3".to_owned()),
        ("exe", "/proc/self/exe".to_owned()),
    ] {
        home.ok(&format!("exec c ln -s {target} /{name}"));
    }
    home.write("f", "from cp");
    home.write("d/victim", "from cp");
    for line in ["cp f c:/abs", "cp f c:/up", "cp f c:/dir/victim", "cp d/. c:/dir", "cp d/victim c:/dir"] {
        assert!(home.fails(125, line).contains("could not be found on container c"), "{line}");
    }
    for link in ["secret", "abs", "up", "fd", "exe", "cwd", "root/etc/passwd"] {
        home.run(&format!("cp c:/{link} out")).exits(125);
        assert!(!home.tmp().join("out").exists(), "{link}");
    }
    // Links beneath what is copied are copied as links, and what is unpacked over them replaces them.
    home.ok("exec c sh -c 'mkdir /t; ln -s /dir /t/dir; ln -s /abs /t/victim'");
    home.ok("cp d/victim c:/t/new");
    home.ok("cp d/. c:/dangling");
    assert_eq!(fs::read_to_string(&host).unwrap(), "untouched");
    assert_eq!(entries(host.parent().unwrap()).len(), 1);
    // Inside of the container a link is as good as what it leads to.
    home.ok("exec c sh -c 'mkdir /real; ln -s /real /alias; ln -s /real/made /later; mkdir /x; ln -s ../real /x/d'");
    home.ok("cp f c:/alias");
    home.ok("cp f c:/later");
    home.ok("cp d c:/x");
    assert_eq!(home.ok("exec c sh -c 'cd /real; grep -l cp *; test -L /x/d'"), "f\nmade\nvictim");
}

/// Archives as a container would make them that lies to `cp`: the same code unpacks on both sides.
fn cp_never_leaves_the_target_on_the_host(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    let victim = home.write("victim", "untouched");
    home.ok("exec c mkdir /t");
    for (name, script) in [
        ("climbs", "printf x >/evil; tar cf - ../evil"),
        ("through a link", "mkdir -p a; ln -s /etc l; tar cf /1.tar l; rm l; mkdir l; echo x >l/evil; tar cf - l/evil"),
    ] {
        let archive = home.coracle("exec c sh -c").arg(format!("cd /t && {script}")).run();
        home.coracle("cp - c:/t").stdin(&archive.out).run();
        assert!(home.run("exec c test -e /etc/evil").code() != 0, "{name}");
    }
    // A link where the copy is to go is the user's own and followed; one inside of it is not.
    home.ok("exec c sh -c 'rm -rf /t; mkdir -p /t/sub; echo evil >/t/sub/victim'");
    fs::create_dir(home.tmp().join("out")).unwrap();
    symlink(home.tmp(), home.tmp().join("out/sub")).unwrap();
    assert!(home.fails(125, "cp c:/t/. out").contains("exists and is not a directory"));
    symlink(&victim, home.tmp().join("out/victim")).unwrap();
    home.ok("cp c:/t/sub/. out");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(home.tmp().join("out/victim")).unwrap(), "evil\n");
}

fn cp_owners(home: &Home) {
    home.ok("run -d --name c -u 33 --network none busybox sleep 1000");
    home.write("d/f", "x");
    home.ok("cp d c:/tmp/d");
    home.ok("cp -a d c:/tmp/a");
    home.ok("exec -u 0 c sh -c 'echo >/tmp/owned; chown 5:6 /tmp/owned'");
    home.ok("cp c:/tmp/owned c:/tmp/plain");
    home.ok("cp -a c:/tmp/owned c:/tmp/kept");
    let seen = home.ok("exec c stat -c %u:%g /tmp/d /tmp/d/f /tmp/a/f /tmp/plain /tmp/kept");
    assert_eq!(seen, "0:0\n0:0\n0:0\n0:0\n5:6");
}

fn cp_streams(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    home.ok("exec c sh -c 'mkdir -p /t/sub /u; echo x >/t/sub/f; chown 5:6 /t/sub/f'");
    let names = |path: &str| {
        let archive = home.run(&format!("cp {path} -")).out;
        let names = home.coracle("exec -i c tar t").stdin(&archive).run().ok();
        (archive, names)
    };
    let (archive, listed) = names("c:/t");
    assert_eq!(listed, "t/\nt/sub/\nt/sub/f");
    assert_eq!(names("c:/t/.").1, "./\nsub/\nsub/f");
    assert_eq!(names("c:/t/sub/f").1, "f");
    home.coracle("cp - c:/u").stdin(&archive).run().ok();
    assert_eq!(home.ok("exec c sh -c 'cat /u/t/sub/f; stat -c %u:%g /u/t/sub/f'"), "x\n5:6");
    let refused = |target: &str, stdin: &[u8]| home.coracle(&format!("cp - {target}")).stdin(stdin).run().fails(125);
    assert!(refused("c:/nosuch", &archive).contains("destination must be a directory when copying from stdin"));
    assert!(refused("c:/u/t/sub/f", &archive).contains("destination must be a directory"));
    assert!(refused("c:/u", b"no archive").contains("source must be a (compressed) tar archive"));
    assert!(refused("c:/u", b"").contains("source must be a (compressed) tar archive"));
    assert!(refused("c:/u", &archive[..archive.len() / 2 - 300]).contains("truncated"));
}

fn cp_between_containers(home: &Home) {
    home.ok("run -d --name a --network none busybox sleep 1000");
    home.ok("create --name b --network none busybox sleep 1000");
    home.ok("exec a sh -c 'mkdir -p /t/sub; echo x >/t/sub/f'");
    home.ok("cp a:/t b:/new");
    home.ok("cp b:/new/sub a:/t/back");
    assert_eq!(home.ok("exec a cat /t/back/f"), "x");
    assert!(home.fails(125, "cp a:/nosuch b:/x").contains("could not be found on container a"));
    assert!(home.fails(125, "cp a:/t b:/no/such").contains("could not be found on container b"));
    assert!(home.fails(125, "cp b:/new b:/other").contains("is not running"));
}

fn cp_with_a_container_that_does_not_run(home: &Home) {
    home.ok("create --name c --network none busybox sh -c 'cat /in/f; echo out >/out'");
    home.write("in/f", "in\n");
    home.ok("cp in c:/in");
    assert_eq!(home.ok("start -a c"), "in");
    home.ok("cp c:/out out");
    assert_eq!(fs::read_to_string(home.tmp().join("out")).unwrap(), "out\n");
    assert!(home.fails(125, "cp c:/nosuch x").contains("could not be found on container c"));
    assert_eq!(home.ok("start -a c"), "in", "it starts again");
}

fn cp_into_volumes_and_mount_points(home: &Home) {
    let dir = home.tmp().join("bound");
    fs::create_dir(&dir).unwrap();
    let mounts = format!("-v v:/vol -v {}:/bound -v {}:/ro:ro", dir.display(), dir.display());
    home.ok(&format!("run -d --name c {mounts} --network none busybox sleep 1000"));
    home.write("f", "f");
    home.ok("cp f c:/vol");
    home.ok("cp f c:/bound");
    home.ok("cp f c:/etc/hostname");
    assert_eq!(home.ok("exec c cat /vol/f /bound/f /etc/hostname"), "fff");
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "f");
    assert!(home.fails(125, "cp f c:/ro").contains("read-only file system"));
    assert_eq!(home.ok("run --rm --network none -v v:/vol busybox cat /vol/f"), "f");
    home.ok("stop -t 0 c");
    home.ok("cp f c:/vol/late");
    home.ok("cp f c:/bound/late");
    home.ok("cp c:/vol/f out");
    assert!(home.fails(125, "cp f c:/ro/x").contains("read-only file system"));
    assert_eq!(fs::read_to_string(dir.join("late")).unwrap(), "f");
    home.ok("start c");
    assert_eq!(home.ok("exec c cat /vol/late"), "f");
    home.ok(&format!("create --name new {mounts} --network none busybox cat /vol/new"));
    home.ok("cp f new:/vol/new");
    assert_eq!(home.ok("start -a new"), "f");
    home.ok("rm new");
    home.ok("rm -f -t 0 c");
    home.ok("volume rm v");
}

fn cp_overwrites_when_asked_to(home: &Home) {
    home.ok("run -d --name c --network none busybox sleep 1000");
    home.write("d/name", "file");
    home.write("e/name/f", "x");
    home.ok("exec c sh -c 'mkdir -p /t/name/full'");
    assert!(home.fails(125, "cp d/. c:/t").contains("exists and is a directory"));
    home.ok("cp --overwrite d/. c:/t");
    assert_eq!(home.ok("exec c cat /t/name"), "file");
    assert!(home.fails(125, "cp e/. c:/t").contains("exists and is not a directory"));
    home.ok("cp --overwrite e/. c:/t");
    assert_eq!(home.ok("exec c cat /t/name/f"), "x");
}

/// Both ways with a container that runs and with one that does not.
fn both_ways(home: &Home, options: &str) {
    home.write("d/sub/f", "there and back");
    home.ok(&format!("run -d --name c {options} --network none busybox sleep 1000"));
    home.ok("cp d c:/d");
    home.ok("exec -u 0 c sh -c 'cat /d/sub/f >/d/copy; chown 5:6 /d/copy; chmod 640 /d/copy'");
    home.ok("cp c:/d running");
    home.ok("cp -a c:/d/copy c:/again");
    assert_eq!(home.ok("exec -u 0 c stat -c %u:%g:%a /d/sub /again"), "0:0:755\n5:6:640", "{options}");
    home.ok("stop -t 0 c");
    home.ok("cp c:/d stopped");
    home.ok("cp d c:/late");
    let archive = home.run("cp c:/again -").out;
    home.coracle("cp - c:/late").stdin(archive).run().ok();
    home.ok("start c");
    let seen = home.ok("exec -u 0 c stat -c %u:%g:%a /late /late/sub/f /late/again");
    assert_eq!(seen, "0:0:755\n0:0:644\n5:6:640", "{options}");
    for path in ["running/copy", "stopped/copy", "stopped/sub/f"] {
        assert_eq!(fs::read_to_string(home.tmp().join(path)).unwrap(), "there and back", "{options} {path}");
    }
    home.ok("rm -f -t 0 c");
    for path in ["running", "stopped"] {
        fs::remove_dir_all(home.tmp().join(path)).unwrap();
    }
}

fn cp_on_every_driver(home: &Home) {
    for driver in ["overlay", "overlay-fuse", "fuse"] {
        let home_driver = format!("--storage-driver {driver}");
        home.ok(&format!("{home_driver} run -d --name d --network none busybox sleep 1000"));
        home.write("f", "x");
        home.ok("cp f d:/f");
        assert_eq!(home.ok("exec d cat /f"), "x");
        home.ok("stop -t 0 d");
        home.ok(&format!("{home_driver} cp f d:/g"));
        home.ok(&format!("{home_driver} cp d:/f out"));
        home.ok(&format!("{home_driver} start d"));
        assert_eq!(home.ok("exec d cat /f /g"), "xx", "{driver}");
        home.ok("rm -f -t 0 d");
    }
}

fn cp_with_shifted_ids(home: &Home) {
    both_ways(home, "");
    both_ways(home, "--userns keep-id");
}

fn cp_with_one_id(home: &Home) {
    both_ways(home, "--userns single");
}
