//! `coracle oci`: the command line of an OCI runtime, by the rules of the runtime specification (what its own validation
//! suite looks at) and under podman.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::command::{Coracle, Finished};
use crate::support::framework::Test;
use crate::support::home::Home;
use crate::support::image::busybox_archive;

mod config;
mod exec;
mod hooks;
mod lifecycle;
mod podman;

/// Every test of this area.
pub(crate) fn tests() -> Vec<Test> {
    [lifecycle::TESTS, hooks::TESTS, config::TESTS, exec::TESTS, podman::TESTS].concat()
}

/// A bundle of busybox whose container has the id of whoever runs the test. Its containers go with it.
struct Bundle<'h> {
    home: &'h Home,
    dir: PathBuf,
    config: Value,
}

impl<'h> Bundle<'h> {
    #[track_caller]
    fn new(home: &'h Home) -> Self {
        let dir = home.tmp().join("bundle");
        let rootfs = dir.join("rootfs");
        fs::create_dir_all(&rootfs).expect("tmp is ours");
        let archive = busybox_archive().expect("the runner made it");
        let unpacked =
            Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&rootfs).arg("--no-same-owner").status();
        assert!(unpacked.is_ok_and(|status| status.success()), "tar unpacks busybox");
        home.coracle("oci spec --rootless --bundle").arg(&dir).run().ok();
        let text = fs::read(dir.join("config.json")).expect("spec has written it");
        let mut config: Value = serde_json::from_slice(&text).expect("it is JSON");
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        let bundle = Self { home, dir, config };
        bundle.write();
        bundle
    }

    /// With a configuration that is changed.
    fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self.write();
        self
    }

    /// Whose process is a shell script.
    fn script(self, script: &str) -> Self {
        self.with(|config| config["process"]["args"] = json!(["sh", "-c", script]))
    }

    fn write(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).expect("tmp is ours");
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// A command, in the bundle's directory.
    fn oci(&self, line: &str) -> Coracle {
        self.home.coracle(&format!("oci {line}")).dir(&self.dir)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.oci(line).run().ok()
    }

    /// A command that must fail with one line, which is returned.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        self.oci(line).run().fails(1)
    }

    /// The same with what it wrote to standard output and error; a container may go on writing there.
    #[track_caller]
    fn detached(&self, line: &str) -> (Finished, PathBuf) {
        let file = self.dir.join("output");
        let redirect = format!("sh -c 'exec \"$@\" >{} 2>&1 </dev/null' sh", file.display());
        (self.oci(line).under(&redirect).run(), file)
    }

    #[track_caller]
    fn create(&self, id: &str) -> PathBuf {
        let (finished, output) = self.detached(&format!("create {id}"));
        assert_eq!(finished.code(), 0, "{}", fs::read_to_string(&output).unwrap_or_default());
        output
    }

    /// A `create` that must fail; returns what it said. Nothing of it may be left.
    #[track_caller]
    fn create_fails(&self, id: &str) -> String {
        let (finished, output) = self.detached(&format!("create {id}"));
        let said = fs::read_to_string(output).expect("it is there");
        assert_eq!(finished.code(), 1, "{said}");
        assert_eq!(said.lines().filter(|line| !line.starts_with("Hint: ")).count(), 1, "{said}");
        said.lines().next().unwrap_or_default().to_owned()
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("state {id}"))).expect("it is JSON")
    }

    fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn wait_for_status(&self, id: &str, status: &str) {
        crate::support::home::wait_until(&format!("{id} is {status}"), || self.status(id) == status);
    }

    /// What the script of a new bundle prints.
    #[track_caller]
    fn prints(&self) -> String {
        self.ok("run printing")
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        for id in self.oci("list --quiet").run().stdout().lines() {
            self.oci(&format!("delete --force {id}")).run();
        }
    }
}

/// Waits until a file has this text.
#[track_caller]
fn wait_for_text(path: &Path, text: &str) {
    let what = format!("{} has {text:?}", path.display());
    crate::support::home::wait_until(&what, || fs::read_to_string(path).is_ok_and(|has| has.contains(text)));
}
