//! Hooks of devices: programs that finish a container's root before it is the container's.
//!
//! **Runs in:** C, before `pivot_root`: the container's namespaces, the host's files and the new root, mounted over the
//! container's directory. That hides its `config.json`, and shows what the image has in its place: the hooks get a bundle of
//! their own in the runtime directory, which goes with them.

use std::path::Path;

use nix::sys::stat::{Mode, umask};
use runtime::hooks;
use runtime::init::steps::InitError;
use runtime::process::SysError;

use super::Launch;

/// Runs the `createContainer` hooks of the bundle. `root` is where the new root is mounted.
///
/// # Source
/// OCI runtime specification, `config.md`, "CreateContainer Hooks".
pub(super) fn create_container(launch: &Launch, root: &Path) -> Result<(), InitError> {
    let Some(all) = launch.spec.hooks() else { return Ok(()) };
    let bundle = launch.layout.runtime_container(&launch.record.id).join("hooks");
    let failed = |call: &'static str| {
        let args = bundle.display().to_string();
        move |error: std::io::Error| {
            let errno = error.raw_os_error().map_or(nix::errno::Errno::EIO, nix::errno::Errno::from_raw);
            SysError { call, args, errno }
        }
    };
    let mut spec = launch.spec.clone();
    if let Some(place) = spec.root_mut() {
        place.set_path(root.to_owned());
    }
    // Files that hooks make are to be as they would be elsewhere.
    let wide = umask(Mode::from_bits_truncate(0o022));
    std::fs::create_dir_all(&bundle).map_err(failed("mkdir"))?;
    let text = serde_json::to_vec(&spec).unwrap_or_default();
    std::fs::write(bundle.join("config.json"), text).map_err(failed("write"))?;
    let state = serde_json::json!({
        "ociVersion": spec.version(),
        "id": launch.record.id.to_string(),
        "status": "creating",
        "pid": nix::unistd::getpid().as_raw(),
        "bundle": bundle,
        "annotations": spec.annotations(),
    });
    let ended = hooks::run_all("createContainer", all.create_container().as_deref(), state.to_string().as_bytes());
    let _ = std::fs::remove_dir_all(&bundle);
    umask(wide);
    Ok(ended?)
}
