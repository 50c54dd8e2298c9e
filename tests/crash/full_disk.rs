//! A disk without room: each command says so in one line, takes back what it began, and what frees room still works.
//!
//! The disk is a small tmpfs in a user and mount namespace of the test's, where coracle runs as root with the
//! subordinate ids of the user.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::command::Coracle;
use crate::support::http::Server;
use crate::support::image::{Image, Packing};
use crate::support::layout::{Blobs, Schema};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(full_disk_stops_what_needs_room_and_nothing_else).without_image().limit_secs(120),
    test!(trash_makes_room_when_the_disk_runs_short).without_image().limit_secs(120),
];

/// Room for busybox, packed and unpacked, and for little else.
const SIZE: &str = "6m";

struct SmallDisk<'a> {
    home: &'a Home,
    place: PathBuf,
    holder: Child,
}

impl<'a> SmallDisk<'a> {
    fn new(home: &'a Home) -> Self {
        let place = home.tmp().join("small");
        std::fs::create_dir(&place).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={SIZE},mode=700 tmpfs {0} && printf 'root:1:65535\\n' > {1} && \
             mount --bind {1} /etc/subuid && mount --bind {1} /etc/subgid && echo ready && exec sleep 1000",
            place.display(),
            home.tmp().join("ids").display(),
        );
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is a program of every Debian");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the disk could not be made");
        Self { home, place, holder }
    }

    fn under(&self) -> String {
        format!("nsenter --target {} --user --mount --setuid 0 --setgid 0 --", self.holder.id())
    }

    fn coracle(&self, line: &str) -> Coracle {
        self.home.coracle(line).under(&self.under()).env("XDG_DATA_HOME", self.place.join("data"))
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.coracle(line).run().ok()
    }

    /// Runs a shell command on the disk.
    fn shell(&self, script: &str) -> String {
        let mut words = crate::support::command::words(&self.under());
        let output = Command::new(words.remove(0)).args(words).args(["sh", "-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn fill(&self) {
        let file = self.place.join("fill").display().to_string();
        self.shell(&format!("cat /dev/zero >> {file} 2>/dev/null; for i in 1 2 3; do echo >> {file}; done"));
        assert_eq!(self.free_kib(), 0);
    }

    fn empty(&self) {
        self.shell(&format!("rm {}", self.place.join("fill").display()));
    }

    fn free_kib(&self) -> u64 {
        let text = self.shell(&format!("df -k --output=avail {} | tail -n 1", self.place.display()));
        text.trim().parse().unwrap()
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn full_disk_stops_what_needs_room_and_nothing_else(home: &Home) {
    let disk = SmallDisk::new(home);
    let archive = home.write("busybox.tar", Image::busybox().docker_archive("localhost/busybox:latest"));
    let load = format!("load -q -i {}", archive.display());
    let mut blobs = Blobs::default();
    blobs.add("1", &super::kill::image(), Packing::Gzip, Schema::Oci);
    let server = Server::honest(blobs);
    let pull = format!("pull -q --tls-verify=false {}", server.reference("1"));

    disk.ok(&load);
    let with_image = disk.free_kib();
    let line = disk.coracle(&pull).run().fails(125);
    assert!(line.contains("no space left on device"), "{line}");
    // What came of it is taken back.
    let left = || disk.shell(&format!("find {}/data -type f | xargs ls -l", disk.place.display()));
    assert!(disk.free_kib() + 100 >= with_image, "{} of {with_image} KiB after {line}: {}", disk.free_kib(), left());

    let run = disk.coracle("run --name a --network none busybox dd if=/dev/zero of=/big bs=64k").run();
    assert_eq!(run.code(), 1, "{}", run.transcript());
    assert!(run.stderr().contains("No space left on device"), "{}", run.transcript());
    disk.fill();
    for line in [&*load, &pull, "run --rm --network none busybox true", "create busybox true", "volume create v"] {
        let finished = disk.coracle(line).run();
        if finished.code() != 0 {
            let said = finished.fails(125);
            assert!(said.contains("no space left on device"), "{line}: {said}");
        }
        disk.coracle("volume rm v").run();
        disk.fill();
    }
    assert_eq!(disk.ok("ps -a --format {{.Names}}"), "a");
    assert_eq!(disk.ok("images -q").lines().count(), 1);
    assert_eq!(disk.ok("inspect --format {{.State.ExitCode}} a"), "1");
    disk.ok("system check");
    disk.ok("system prune -f --filter until=1h");
    disk.ok("rm a");
    disk.fill();
    disk.ok("rmi busybox");
    assert_eq!(disk.ok("images -q"), "");
    disk.ok("system prune -a -f");
    disk.ok("system check");

    disk.empty();
    disk.ok(&load);
    disk.ok("run --rm --network none busybox true");
    disk.ok("rmi busybox");
}

fn trash_makes_room_when_the_disk_runs_short(home: &Home) {
    let disk = SmallDisk::new(home);
    let archive = home.write("busybox.tar", Image::busybox().docker_archive("localhost/busybox:latest"));
    disk.ok(&format!("load -q -i {}", archive.display()));
    disk.ok("run --name large --network none busybox dd if=/dev/zero of=/big bs=1k count=600");
    disk.ok("run --name small --network none busybox true");
    disk.ok("create --name last busybox true");
    disk.ok("rm large");
    disk.ok("rm small");
    let names = || disk.ok("trash ls --format {{.Name}}");
    // There is room enough: nothing goes before its time.
    assert_eq!(names(), "small\nlarge");
    disk.fill();
    // The oldest goes, and that is enough.
    let pruned = disk.coracle("container prune -f").run();
    pruned.ok();
    assert!(disk.free_kib() >= 500, "{} KiB", disk.free_kib());
    assert_eq!(names(), "last\nsmall", "{}", pruned.transcript());
    assert_eq!(disk.ok("undo"), "last");
    // Asked for room, a full disk has it at once.
    disk.fill();
    disk.ok("system prune -a -f --now");
    assert_eq!(names(), "");
    assert!(disk.free_kib() > 2000, "{} KiB", disk.free_kib());
}
