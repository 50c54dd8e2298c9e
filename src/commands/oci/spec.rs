//! `spec`: a `config.json` to begin with.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{OCI_VERSION, Outcome};
use crate::error::{CommandError, reason};

/// Write a config.json to begin with
///
/// It runs a shell in the directory rootfs of the bundle.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// File to write instead of the bundle's config.json
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// For a caller that is not root of a user namespace: the container gets one
    #[arg(long)]
    rootless: bool,
}

/// Runs `spec`.
pub(super) fn run(args: Args) -> Outcome {
    let path = args.bundle.join(args.file.unwrap_or_else(|| "config.json".into()));
    let text = serde_json::to_string_pretty(&spec(args.rootless)).unwrap_or_default() + "\n";
    // What is there is somebody's work.
    let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CommandError::user(format_args!("{}: {}", path.display(), reason(&error))))?;
    Ok(0)
}

fn spec(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !rootless {
        pts.push("gid=5");
    }
    let sys = match rootless {
        false => mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        // A new sysfs needs a network namespace of its own.
        true => json!({ "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] }),
    };
    let mut namespaces: Vec<&str> = vec!["pid", "ipc", "uts", "mount", "cgroup"];
    namespaces.push(if rootless { "user" } else { "network" });
    let masks = runtime::security::masks::MaskedPaths::default_for_host();
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "coracle",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &pts),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            sys,
        ],
        "linux": {
            "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
            "maskedPaths": masks.masked,
            "readonlyPaths": masks.readonly,
        },
    });
    if rootless {
        let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        spec["linux"]["uidMappings"] = map(nix::unistd::geteuid().as_raw());
        spec["linux"]["gidMappings"] = map(nix::unistd::getegid().as_raw());
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_run() {
        for rootless in [false, true] {
            let spec = serde_json::from_value(spec(rootless)).unwrap();
            runtime::bundle::validate_bundle(&spec).unwrap();
        }
    }
}
