//! `image scp`, through a stand-in for ssh that runs the script in another home.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::command::Coracle;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] =
    &[test!(images_go_to_another_machine_and_come_back), test!(what_cannot_be_copied_is_one_line)];

/// A machine called `there`: a directory of programs with an ssh that knows it, and what is on it.
struct There {
    programs: PathBuf,
    data: PathBuf,
}

impl There {
    fn new(home: &Home) -> Self {
        let there = home.tmp().join("there");
        let (programs, bin) = (home.tmp().join("programs"), there.join("bin"));
        for dir in [&programs, &bin] {
            fs::create_dir_all(dir).unwrap();
        }
        let coracle = home.coracle("").to_command().get_program().to_owned();
        std::os::unix::fs::symlink(coracle, bin.join("coracle")).unwrap();
        let ssh = programs.join("ssh");
        // Only what a real one would pass on: the words after the machine, as one line for a shell there.
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do echo \"$1\" >> {0}/options; shift; done\n\
             [ \"$2\" = user@there ] || {{ echo \"ssh: Could not resolve hostname $2\" >&2; exit 255; }}\n\
             exec env XDG_DATA_HOME={0}/data PATH={0}/bin:/usr/bin:/bin sh -c \"$3\"\n",
            there.display()
        );
        fs::write(&ssh, script).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        Self { programs, data: there.join("data") }
    }

    fn coracle(&self, home: &Home, line: &str) -> Coracle {
        let path = std::env::var("PATH").unwrap_or_default();
        home.coracle(line).env("PATH", format!("{}:{path}", self.programs.display()))
    }

    fn images(&self, home: &Home) -> String {
        home.coracle("images --format {{.Repository}}:{{.Tag}}").env("XDG_DATA_HOME", &self.data).run().ok()
    }
}

fn images_go_to_another_machine_and_come_back(home: &Home) {
    let there = There::new(home);
    let said = there.coracle(home, "image scp busybox user@there::").run().ok();
    assert_eq!(said, "Loaded image: localhost/busybox:latest");
    assert_eq!(there.images(home), "localhost/busybox:latest");
    let id = home.ok("images -q --no-trunc");
    home.ok("rmi -f busybox");
    assert_eq!(there.coracle(home, "image scp -q ssh://user@there:2222::busybox").run().ok(), "");
    assert_eq!(home.ok("images -q --no-trunc"), id);
    assert!(fs::read_to_string(home.tmp().join("there/options")).unwrap().contains("-p\n2222\n"));
    home.ok("run --rm busybox true");
    // From there to there: nothing is kept here.
    home.ok("rmi -f busybox");
    there.coracle(home, "image scp -q user@there::busybox user@there::").run().ok();
    assert_eq!(home.ok("images -q"), "");
}

fn what_cannot_be_copied_is_one_line(home: &Home) {
    let there = There::new(home);
    let fails = |line: &str| there.coracle(home, line).run();
    let unknown = fails("image scp busybox user@nowhere::");
    assert!(
        unknown.code() == 125 && unknown.stderr().contains("Could not resolve hostname"),
        "{}",
        unknown.transcript()
    );
    for (line, says) in [
        ("image scp nosuch user@there::", "nosuch"),
        ("image scp busybox", "one of the two must be another machine"),
        ("image scp busybox user@there::other", "an image keeps its name"),
        ("image scp busybox -- -oProxyCommand=x::", "it is not the name of a machine"),
        ("image scp user@there::", "an image must be named"),
    ] {
        let finished = fails(line);
        assert!(finished.code() == 125 && finished.fails(125).contains(says), "{}", finished.transcript());
    }
    // Neither coracle nor another is there.
    fs::remove_file(home.tmp().join("there/bin/coracle")).unwrap();
    let none = fails("image scp user@there::nosuch");
    assert_ne!(none.code(), 0, "{}", none.transcript());
    assert_eq!(home.ok("images -q").lines().count(), 1);
}
