//! The setuid helpers `newuidmap` and `newgidmap`.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{IdMap, UsernsError};

/// Finds a helper in `PATH`, as a shell would; where distributions put it if there is no `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    let known = || "/usr/bin:/usr/local/bin:/run/wrappers/bin".into();
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(known);
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// Both helpers, running at once: half the time of one after the other.
#[derive(Debug)]
pub struct Running {
    uids: Result<Child, UsernsError>,
    gids: Result<Child, UsernsError>,
}

impl Running {
    /// Starts both for process `pid`.
    pub fn start(newuidmap: &Path, newgidmap: &Path, pid: i32, uids: &IdMap, gids: &IdMap) -> Self {
        Self { uids: spawn("newuidmap", newuidmap, pid, uids), gids: spawn("newgidmap", newgidmap, pid, gids) }
    }

    /// Waits for both.
    ///
    /// # Errors
    /// What one of them said.
    pub fn finish(self) -> Result<(), UsernsError> {
        // Both are reaped before either failure is returned.
        let uids = self.uids.and_then(|child| finish("newuidmap", child));
        let gids = self.gids.and_then(|child| finish("newgidmap", child));
        uids.and(gids)
    }
}

/// Runs both helpers for process `pid`.
pub fn run_both(newuidmap: &Path, newgidmap: &Path, pid: i32, uids: &IdMap, gids: &IdMap) -> Result<(), UsernsError> {
    Running::start(newuidmap, newgidmap, pid, uids, gids).finish()
}

fn spawn(helper: &'static str, program: &Path, pid: i32, map: &IdMap) -> Result<Child, UsernsError> {
    Command::new(program)
        .arg(pid.to_string())
        .args(map.0.iter().flat_map(|e| [e.container, e.host, e.size].map(|number| number.to_string())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| UsernsError::Spawn { helper, source })
}

fn finish(helper: &'static str, mut child: Child) -> Result<(), UsernsError> {
    let status = child.wait().map_err(|source| UsernsError::Spawn { helper, source })?;
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What a helper says fits into the pipe; a failure to read it must not hide the failure itself.
        let _ = stderr.take(1024).read_to_end(&mut said);
    }
    let message = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    let message = message.strip_prefix(&format!("{helper}: ")).unwrap_or(&message).to_owned();
    Err(UsernsError::Helper { helper, message: if message.is_empty() { status.to_string() } else { message } })
}
