//! Docker's profile format: `linux.seccomp` with rules that depend on capabilities, architecture and
//! kernel. Podman's `errno` names are read too.
//!
//! A field that we do not know is an error: a filter that silently leaves out what its author wrote
//! is worse than none.
//!
//! # Source
//! <https://docs.docker.com/engine/security/seccomp/>; moby/profiles `seccomp/seccomp.go`,
//! containers/common `pkg/seccomp/types.go`.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::compiler::policy;
use super::{Error, oci};
use crate::security::capabilities::{Capability, CapabilitySet};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<Architecture>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Syscall>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Syscall {
    #[serde(default)]
    names: Option<Vec<String>>,
    /// The field of old profiles.
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<Arg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Conditions>,
    excludes: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile and keeps the rules that apply to this machine and a container with these
/// capabilities.
pub(super) fn to_oci(json: &[u8], capabilities: CapabilitySet) -> Result<LinuxSeccomp, Error> {
    let profile: Profile = serde_json::from_slice(json)?;
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(errno(profile.default_errno_ret, profile.default_errno.as_deref())?)
        .set_architectures(architectures(profile.architectures, profile.arch_map)?)
        .set_flags(profile.flags.filter(|flags| !flags.is_empty()))
        .set_listener_path(profile.listener_path.filter(|path| !path.is_empty()).map(Into::into))
        .set_listener_metadata(profile.listener_metadata.filter(|text| !text.is_empty()));

    let mut syscalls = Vec::new();
    for syscall in profile.syscalls.into_iter().flatten() {
        let excluded = syscall.excludes.as_ref().map_or(Ok(false), |excludes| excludes.any(capabilities))?;
        let included = syscall.includes.as_ref().map_or(Ok(true), |includes| includes.all(capabilities))?;
        if included && !excluded {
            syscalls.push(syscall.into_oci()?);
        }
    }
    seccomp.set_syscalls(Some(syscalls));
    Ok(seccomp)
}

/// `architectures`, or the entry of `archMap` for this machine with its sub-architectures.
fn architectures(listed: Option<Vec<Arch>>, map: Option<Vec<Architecture>>) -> Result<Option<Vec<Arch>>, Error> {
    let listed = listed.filter(|listed| !listed.is_empty());
    let map = map.filter(|map| !map.is_empty());
    match (listed, map) {
        (Some(_), Some(_)) => Err(Error::Profile("both architectures and archMap are given".to_owned())),
        (listed, None) => Ok(listed),
        (None, Some(map)) => {
            let native = match std::env::consts::ARCH {
                "x86_64" => Arch::ScmpArchX86_64,
                "aarch64" => Arch::ScmpArchAarch64,
                _ => return Err(Error::UnsupportedMachine),
            };
            let entry = map.into_iter().find(|entry| entry.architecture == native);
            Ok(entry
                .map(|entry| std::iter::once(native).chain(entry.sub_architectures.into_iter().flatten()).collect()))
        }
    }
}

/// The number, else the name; both given must agree.
fn errno(number: Option<u32>, name: Option<&str>) -> Result<Option<u32>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(number) };
    let named = policy::errno(name).map(u32::from).or_else(|| name.parse().ok());
    match (number, named) {
        // Podman writes both; a name that we do not know changes nothing then.
        (Some(number), None) => Ok(Some(number)),
        (Some(number), Some(named)) if number != named => {
            Err(Error::Profile(format!("errno {name} and errnoRet {number} differ")))
        }
        (_, Some(named)) => Ok(Some(named)),
        (None, None) => Err(Error::Profile(format!("unknown errno {name:?}"))),
    }
}

impl Syscall {
    fn into_oci(self) -> Result<LinuxSyscall, Error> {
        let names = match (self.names.filter(|names| !names.is_empty()), self.name) {
            (Some(_), Some(_)) => return Err(Error::Profile("both name and names are given".to_owned())),
            (Some(names), None) => names,
            (None, Some(name)) => vec![name],
            (None, None) => return Err(Error::Profile("a rule names no system call".to_owned())),
        };
        let args = self.args.into_iter().flatten();
        let args =
            args.map(|arg| oci::arg(arg.index, arg.value, arg.value_two, arg.op)).collect::<Result<Vec<_>, _>>()?;
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(errno(self.errno_ret, self.errno.as_deref())?)
            .set_args((!args.is_empty()).then_some(args));
        Ok(syscall)
    }
}

impl Conditions {
    /// `includes`: every kind that is given must hold, and every capability.
    fn all(&self, capabilities: CapabilitySet) -> Result<bool, Error> {
        let caps = self.caps.as_deref().unwrap_or_default();
        for cap in caps {
            if !holds(cap, capabilities)? {
                return Ok(false);
            }
        }
        let arches = self.arches.as_deref().unwrap_or_default();
        Ok((arches.is_empty() || arches.iter().any(|arch| is_native(arch)))
            && self.is_kernel_at_least()?.unwrap_or(true))
    }

    /// `excludes`: one that holds is enough.
    fn any(&self, capabilities: CapabilitySet) -> Result<bool, Error> {
        for cap in self.caps.as_deref().unwrap_or_default() {
            if holds(cap, capabilities)? {
                return Ok(true);
            }
        }
        Ok(self.arches.as_deref().unwrap_or_default().iter().any(|arch| is_native(arch))
            || self.is_kernel_at_least()?.unwrap_or(false))
    }

    fn is_kernel_at_least(&self) -> Result<Option<bool>, Error> {
        let Some(wanted) = self.min_kernel.as_deref().filter(|version| !version.is_empty()) else { return Ok(None) };
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| {
            Error::Profile(format!("minKernel {wanted}: /proc/sys/kernel/osrelease: {}", crate::sys::reason(&error)))
        })?;
        let malformed = || Error::Profile(format!("minKernel {wanted:?}: expected \"MAJOR.MINOR\""));
        let (wanted_version, rest) = version(wanted).ok_or_else(malformed)?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        let (running, _) = version(&release).ok_or_else(|| Error::Profile(format!("kernel release {release:?}")))?;
        Ok(Some(running >= wanted_version))
    }
}

fn holds(name: &str, capabilities: CapabilitySet) -> Result<bool, Error> {
    let capability: Capability = name.parse().map_err(|error| Error::Profile(format!("{error}")))?;
    Ok(capabilities.contains(capability))
}

/// Docker names the machine, not the ABI, with Go's or libseccomp's word for it.
fn is_native(arch: &str) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => arch == "amd64",
        "aarch64" => arch == "arm64",
        _ => false,
    }
}

/// The first two numbers of a version, and what follows.
fn version(text: &str) -> Option<((u32, u32), &str)> {
    let (major, rest) = text.split_once('.')?;
    let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    let (minor, rest) = rest.split_at(end);
    Some(((major.parse().ok()?, minor.parse().ok()?), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &str, capabilities: CapabilitySet) -> Vec<String> {
        let seccomp = to_oci(json.as_bytes(), capabilities).unwrap();
        seccomp.syscalls().iter().flatten().flat_map(LinuxSyscall::names).cloned().collect()
    }

    fn error(json: &str) -> String {
        to_oci(json.as_bytes(), CapabilitySet::DEFAULT).unwrap_err().to_string()
    }

    #[test]
    fn rules_are_included_and_excluded_by_capability_machine_and_kernel() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_CHOWN"]}},
            {"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_CHOWN","CAP_SYS_ADMIN"]}},
            {"names":["c"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN","CAP_KILL"]}},
            {"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","arm64"]}},
            {"names":["e"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
            {"names":["f"],"action":"SCMP_ACT_ALLOW","excludes":{"arches":["s390x"]},"comment":"x"},
            {"names":["g"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["h"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"999.0"}},
            {"name":"i","action":"SCMP_ACT_ALLOW","args":null,"includes":{},"excludes":{}}]}"#;
        assert_eq!(names(json, CapabilitySet::DEFAULT), ["a", "d", "f", "g", "i"]);
        assert_eq!(names(json, CapabilitySet::ALL), ["a", "b", "d", "f", "g", "i"]);
        assert_eq!(names(json, CapabilitySet::EMPTY), ["c", "d", "f", "g", "i"]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (json, expected) in [
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","magic":1}"#, "unknown field `magic`"),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","prio":1}]}"#,
                "unknown field `prio`",
            ),
            (r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],
                    "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":null}]}"#,
                "both architectures and archMap",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
                "both name and names",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4"}}]}"#,
                "minKernel \"4\"",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_MAGIC"]}}]}"#,
                "unknown capability \"CAP_MAGIC\"",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"EWHAT"}"#, "unknown errno \"EWHAT\""),
            (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"defaultErrno":"ENOSYS"}"#, "differ"),
            ("[]", "invalid"),
            ("", "EOF"),
        ] {
            let error = error(json);
            assert!(error.contains(expected), "{json}: {error}");
            assert!(error.starts_with("seccomp profile: "), "{error}");
        }
    }

    #[test]
    fn podmans_errno_names_are_read() {
        let json = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"defaultErrno":"ENOSYS",
            "syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","errno":"EPERM"}]}"#;
        let seccomp = to_oci(json, CapabilitySet::DEFAULT).unwrap();
        assert_eq!(seccomp.default_errno_ret(), Some(38));
        assert_eq!(seccomp.syscalls().as_ref().unwrap()[0].errno_ret(), Some(1));
    }

    #[test]
    fn versions_ignore_what_distributions_append() {
        assert_eq!(version("6.18.44-fc"), Some(((6, 18), ".44-fc")));
        assert_eq!(version("5.10-rc3"), Some(((5, 10), "-rc3")));
        assert_eq!(version("6"), None);
        assert_eq!(version("x.1"), None);
    }
}
