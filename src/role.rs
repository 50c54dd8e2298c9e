//! The processes we are, chosen by `argv[0]` before anything else happens.
//!
//! The supervisor, container init, the port forwarder and the union server are forks of the command line's process and
//! never come through here; only what is executed does.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// What this process is to be.
#[derive(Debug)]
pub(crate) enum Role {
    /// The command line.
    Cli(Program),
    /// Pid 1 of a container with `--init`.
    ContainerInit(Vec<CString>),
    /// The union file system as a program of its own.
    FuseOverlayfs {
        /// Without the program's name.
        args: Vec<OsString>,
        /// Executed by `mount(8)`.
        is_mount_helper: bool,
    },
    /// An OCI runtime as a program of its own.
    Oci {
        /// Without the program's name.
        args: Vec<OsString>,
    },
    /// Executes a container's program from a sealed copy of the binary, see [`runtime::init::sealed_exe`].
    SealedExec(Vec<CString>),
}

/// Whose command line we answer like. Decided once; used only where output is rendered and exit codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persona {
    /// podman's: as `coracle` or `podman`.
    Podman,
    /// docker's: through a link of that name.
    Docker,
}

/// The name that the command line was called by, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// `coracle`, `podman` or `docker`.
    pub(crate) name: &'static str,
    /// Whom we answer like.
    pub(crate) persona: Persona,
    /// Whether it is docker's plugin `docker-buildx`, whose commands are those of `docker buildx`.
    pub(crate) is_buildx: bool,
}

impl Program {
    /// Ourselves.
    pub(crate) const CORACLE: Self = Self { name: "coracle", persona: Persona::Podman, is_buildx: false };

    const PODMAN: Self = Self { name: "podman", persona: Persona::Podman, is_buildx: false };
    const DOCKER: Self = Self { name: "docker", persona: Persona::Docker, is_buildx: false };

    /// The version whose command line is offered. Tools decide by it what they may ask for.
    pub(crate) fn version(self) -> &'static str {
        match (self.persona, self.name) {
            (Persona::Docker, _) => "28.2.2",
            (_, "podman") => "5.4.2",
            _ => env!("CARGO_PKG_VERSION"),
        }
    }
}

impl Role {
    /// The role of this process.
    pub(crate) fn of_this_process() -> Role {
        let args: Vec<_> = std::env::args_os().collect();
        let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let of_container = [
            (runtime::init::sealed_exe::ROLE_NAME, Role::SealedExec as fn(Vec<CString>) -> Role),
            (runtime::init::pid1::ROLE_NAME, Role::ContainerInit),
        ];
        for (role_name, role) in of_container {
            if name.as_encoded_bytes() == role_name.to_bytes() {
                return role(args.into_iter().filter_map(|arg| CString::new(arg.into_vec()).ok()).collect());
            }
        }
        let bytes = name.as_encoded_bytes();
        let is_mount_helper = bytes.starts_with(b"mount.fuse");
        if is_mount_helper || bytes.ends_with(b"fuse-overlayfs") {
            return Role::FuseOverlayfs { args: args.into_iter().skip(1).collect(), is_mount_helper };
        }
        // Parsed by itself in any case. The parser of all commands takes a third of the time that a mount may take.
        if args.get(1).is_some_and(|command| command == "fuse-overlayfs") {
            return Role::FuseOverlayfs { args: args.into_iter().skip(2).collect(), is_mount_helper: false };
        }
        // Its `--root` and `--log-level` are others than those of everything.
        if args.get(1).is_some_and(|command| command == "oci") {
            return Role::Oci { args: args.into_iter().skip(2).collect() };
        }
        if bytes.ends_with(b"coracle-oci") || bytes == b"crun" || bytes == b"runc" {
            return Role::Oci { args: args.into_iter().skip(1).collect() };
        }
        Role::Cli(match name.to_str() {
            Some("docker") => Program::DOCKER,
            Some("docker-buildx") => Program { is_buildx: true, ..Program::DOCKER },
            Some("podman") => Program::PODMAN,
            _ => Program::CORACLE,
        })
    }
}
