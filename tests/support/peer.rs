//! The podman to compare with, if there is one: `$PODMAN` (a program, or a script that brings one), else from PATH.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::command::words;
use super::home::Home;
use super::image::busybox_archive;
use super::needs::find_program;

/// Found once, and only if it works for this user.
pub(crate) fn podman() -> Option<PathBuf> {
    static PODMAN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PODMAN.get_or_init(|| {
        let program = std::env::var_os("PODMAN").map(PathBuf::from).or_else(|| find_program("podman"))?;
        let mut command = Command::new(&program);
        let works = command.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        works.is_ok_and(|status| status.success()).then_some(program)
    });
    found.clone()
}

/// podman's Quadlet generator: `$QUADLET`, or where distributions have it.
pub(crate) fn quadlet() -> Option<PathBuf> {
    let places = ["/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet"].map(PathBuf::from);
    std::env::var_os("QUADLET").map(PathBuf::from).into_iter().chain(places).find(|path| path.is_file())
}

/// podman with a store of its own below a test's home.
pub(crate) struct Podman<'h> {
    home: &'h Home,
    /// Options before the command.
    options: Vec<String>,
}

impl<'h> Podman<'h> {
    /// With the same busybox image.
    #[track_caller]
    pub(crate) fn new(home: &'h Home) -> Self {
        Self::with_options(home, "")
    }

    /// The same, with options before every command.
    #[track_caller]
    pub(crate) fn with_options(home: &'h Home, options: &str) -> Self {
        let podman = Self { home, options: words(options) };
        let archive = busybox_archive().expect("the runner made it");
        let line = format!("import --quiet --change 'CMD [\"/bin/sh\"]' {} localhost/busybox", archive.display());
        let (code, _, error) = podman.run(&line);
        assert_eq!(code, 0, "podman import: {error}");
        podman
    }

    /// Status, stdout, stderr.
    pub(crate) fn run(&self, line: &str) -> (i32, String, String) {
        let dir = self.home.tmp().join("podman");
        // Files that a line names are not those of the same line to coracle.
        let cwd = dir.join("cwd");
        fs::create_dir_all(&cwd).expect("tmp is ours");
        // It has been seen to wait for itself.
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60"]).arg(podman().expect("the test needs it"));
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run"));
        command.args(&self.options);
        command.env("XDG_RUNTIME_DIR", self.home.runtime_dir()).current_dir(cwd);
        let output = command.args(words(line)).stdin(Stdio::null()).output().expect("podman was there before");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(255), text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Podman<'_> {
    /// Removes the containers, and ends podman's pause process, which outlives them.
    fn drop(&mut self) {
        self.run("pod rm --all --force --time 0");
        self.run("rm --all --force --time 0");
        let file = self.home.runtime_dir().join("libpod/tmp/pause.pid");
        let pid = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }
}
