//! What the container may do.

use clap::Args;
use net::mode::Mode;
use storage::state::request::{Request, Ulimit};

use super::Caller;
use crate::cdi;
use crate::cli::parse::{limits, namespaces, security, words};
use crate::cli::usage::{Checked, InvalidOption, each, maybe, one};

/// Options of privileges and namespaces.
#[derive(Args, Clone, Debug)]
pub(crate) struct SecurityOptions {
    /// Give every privilege the user has themselves
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Add a capability, or ALL
    #[arg(long = "cap-add", value_name = "CAPABILITY", value_delimiter = ',')]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long = "cap-drop", value_name = "CAPABILITY", value_delimiter = ',')]
    pub(crate) cap_drop: Vec<String>,
    /// Where the system call filter comes from: default; profiles in images are not supported
    #[arg(long, value_name = "POLICY", default_value = "default", hide = true)]
    pub(crate) seccomp_policy: String,
    /// Set a security option, such as seccomp=unconfined or no-new-privileges
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub(crate) security_options: Vec<String>,
    /// Set a kernel parameter of the container's namespaces, KEY=VALUE
    #[arg(long = "sysctl", value_name = "SYSCTL", value_delimiter = ',')]
    pub(crate) sysctls: Vec<String>,
    /// Set a resource limit, NAME=SOFT[:HARD], or host for the caller's own
    #[arg(long = "ulimit", value_name = "LIMIT", value_delimiter = ',')]
    pub(crate) ulimits: Vec<String>,
    /// Use GPUs of the host, all, the number or name of one, or device=NAME,...: --device nvidia.com/gpu=NAME
    #[arg(long = "gpus", value_name = "GPUS")]
    pub(crate) gpus: Vec<String>,
    /// User namespace: host, keep-id[:uid=,gid=,size=], auto[:size=], single, nomap or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<String>,
    /// PID namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) pid: Option<String>,
    /// IPC namespace: private, shareable, none, host or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) ipc: Option<String>,
    /// UTS namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) uts: Option<String>,
    /// Cgroup namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) cgroupns: Option<String>,
    /// Adjustment of the out-of-memory score, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<String>,
    /// As `sysctls`, where the container can have them.
    #[arg(skip)]
    pub(crate) sysctl_defaults: Vec<String>,
}

impl SecurityOptions {
    /// The namespaces, which other groups ask for.
    pub(crate) fn apply_namespaces(&self, request: &mut Request) -> Checked<()> {
        request.userns = maybe("--userns", self.userns.as_ref(), namespaces::user)?.unwrap_or_default();
        request.pid = maybe("--pid", self.pid.as_ref(), namespaces::namespace)?.unwrap_or_default();
        (request.ipc, request.no_shm) = maybe("--ipc", self.ipc.as_ref(), namespaces::ipc)?.unwrap_or_default();
        request.uts = maybe("--uts", self.uts.as_ref(), namespaces::namespace)?.unwrap_or_default();
        request.cgroupns = maybe("--cgroupns", self.cgroupns.as_ref(), namespaces::namespace)?.unwrap_or_default();
        Ok(())
    }

    /// Expects the network of the request to be set.
    pub(crate) fn apply(&self, request: &mut Request, caller: &Caller<'_>) -> Checked<()> {
        request.privileged = self.privileged;
        request.cdi_devices.extend(each("--gpus", &self.gpus, cdi::gpus)?.into_iter().flatten());
        let policy = one("--seccomp-policy", &self.seccomp_policy, |policy| match policy {
            "default" | "" => Ok(()),
            "image" => Err("profiles in images are not supported; see --security-opt seccomp=FILE".to_owned()),
            _ => Err("must be default or image".to_owned()),
        });
        policy?;
        request.cap_add = each("--cap-add", &self.cap_add, security::capability)?;
        request.cap_drop = each("--cap-drop", &self.cap_drop, security::capability)?;
        if let Some(both) = request.cap_add.iter().find(|name| *name != "ALL" && request.cap_drop.contains(name)) {
            return Err(InvalidOption {
                flag: "--cap-add",
                value: both.clone(),
                reason: "cannot be both dropped and added".to_owned(),
            });
        }
        for value in &self.security_options {
            security::security_option(&mut request.security, value, caller.cwd).map_err(|reason| InvalidOption {
                flag: "--security-opt",
                value: value.clone(),
                reason,
            })?;
        }
        let private_network = Mode::parse(&request.network.mode).is_ok_and(|mode| mode.is_private());
        for (name, value) in each("default_sysctls of containers.conf", &self.sysctl_defaults, limits::sysctl)? {
            if limits::sysctl_fits(&name, private_network, &request.ipc).is_ok() {
                request.sysctls.insert(name, value);
            }
        }
        for (name, value) in each("--sysctl", &self.sysctls, limits::sysctl)? {
            one("--sysctl", &name, |name| limits::sysctl_fits(name, private_network, &request.ipc))?;
            request.sysctls.insert(name, value);
        }
        for value in &self.ulimits {
            if value == "host" {
                request.host_ulimits = true;
            } else {
                replace(&mut request.ulimits, one("--ulimit", value, limits::ulimit)?);
            }
        }
        request.oom_score_adj = maybe("--oom-score-adj", self.oom_score_adj.as_ref(), words::oom_score)?;
        Ok(())
    }
}

/// The last limit of a name counts.
fn replace(all: &mut Vec<Ulimit>, limit: Ulimit) {
    all.retain(|other| other.name != limit.name);
    all.push(limit);
}
