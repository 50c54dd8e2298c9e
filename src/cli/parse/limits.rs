//! `--ulimit`, `--device`, `--sysctl`.

use std::path::PathBuf;

use storage::state::request::{Device, Namespace, Ulimit};

use super::Parsed;
use super::mount_flags::target;

/// The resource limits there are, without `RLIMIT_`.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `name=soft[:hard]`; -1 is no limit.
pub(crate) fn ulimit(value: &str) -> Parsed<Ulimit> {
    let (name, limits) = value.split_once('=').ok_or("requires name=SOFT:HARD")?;
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("rlimit_").unwrap_or(&name).to_owned();
    if !ULIMITS.contains(&name.as_str()) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    if soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name, soft, hard })
}

fn limit(value: &str) -> Parsed<u64> {
    if value == "-1" || value.eq_ignore_ascii_case("unlimited") {
        return Ok(u64::MAX);
    }
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or_else(|| format!("invalid limit {value:?}"))
}

/// `source[:target][:rwm]`.
pub(crate) fn device(value: &str) -> Parsed<Device> {
    let parts: Vec<&str> = value.split(':').collect();
    let (source, path, permissions) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, path] if path.starts_with('/') => (*source, *path, "rwm"),
        [source, permissions] => (*source, *source, *permissions),
        [source, "", permissions] => (*source, *source, *permissions),
        [source, path, permissions] => (*source, *path, *permissions),
        _ => return Err("must be SOURCE[:TARGET[:PERMISSIONS]]".to_owned()),
    };
    if !source.starts_with('/') {
        return Err(if source.contains('=') {
            "no name of a device (VENDOR/CLASS=NAME) that can be given here".to_owned()
        } else {
            "a device is an absolute path of the host".to_owned()
        });
    }
    let known = permissions.bytes().all(|byte| b"rwm".contains(&byte));
    let once = permissions.bytes().all(|byte| permissions.bytes().filter(|other| *other == byte).count() == 1);
    if permissions.is_empty() || !known || !once {
        return Err(format!("invalid device mode: {permissions}"));
    }
    Ok(Device { source: PathBuf::from(source), target: target(path)?, permissions: permissions.to_owned() })
}

/// Kernel parameters of the IPC namespace besides `fs.mqueue.*`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// `name=value` of a parameter that a namespace of the container has, as docker lists them.
///
/// Dots and slashes both separate, as for `sysctl(8)`; the first of them decides, the result has dots and keeps the
/// other kind for names that contain a dot (`net/ipv4/conf/eth0.1/…`).
pub(crate) fn sysctl(value: &str) -> Parsed<(String, String)> {
    let (name, value) = value.split_once('=').ok_or("sysctl values must be in the form of KEY=VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    let name: String = match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '@');
    let safe =
        !name.is_empty() && name.chars().all(plain) && !name.split('.').any(|part| part.is_empty() || part == "/");
    if !safe || name.contains("//") || !(needs_network(&name) || needs_ipc(&name)) {
        return Err(format!("sysctl {name:?} is not allowed"));
    }
    Ok((name, value.to_owned()))
}

/// Refuses a parameter whose namespace is not the container's own.
pub(crate) fn sysctl_fits(name: &str, private_network: bool, ipc: &Namespace) -> Parsed<()> {
    if needs_network(name) && !private_network {
        return Err(format!("sysctl {name} can't be set: the container has no network namespace of its own"));
    }
    if needs_ipc(name) && *ipc != Namespace::Private {
        return Err(format!("sysctl {name} can't be set: the container has no IPC namespace of its own"));
    }
    Ok(())
}

fn needs_network(name: &str) -> bool {
    name.starts_with("net.")
}

fn needs_ipc(name: &str) -> bool {
    name.starts_with("fs.mqueue.") || IPC_SYSCTLS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_have_a_soft_and_a_hard_side() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        for (text, expected) in [
            ("nofile=1024", limit("nofile", 1024, 1024)),
            ("nofile=1024:2048", limit("nofile", 1024, 2048)),
            ("NOFILE=1:2", limit("nofile", 1, 2)),
            ("RLIMIT_CORE=0", limit("core", 0, 0)),
            ("memlock=-1", limit("memlock", u64::MAX, u64::MAX)),
            ("memlock=1:-1", limit("memlock", 1, u64::MAX)),
            ("stack=unlimited", limit("stack", u64::MAX, u64::MAX)),
        ] {
            assert_eq!(ulimit(text), Ok(expected), "{text}");
        }
        for text in
            ["", "nofile", "nofile=", "nofile=x", "foo=1", "nofile=5:2", "nofile=-1:2", "nofile=1:2:3", "nofile=-2"]
        {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_may_be_moved_and_restricted() {
        let device_of = |source: &str, target: &str, permissions: &str| Device {
            source: source.into(),
            target: target.into(),
            permissions: permissions.to_owned(),
        };
        for (text, expected) in [
            ("/dev/fuse", device_of("/dev/fuse", "/dev/fuse", "rwm")),
            ("/dev/fuse:/dev/f", device_of("/dev/fuse", "/dev/f", "rwm")),
            ("/dev/fuse:r", device_of("/dev/fuse", "/dev/fuse", "r")),
            ("/dev/fuse:/dev/f:rw", device_of("/dev/fuse", "/dev/f", "rw")),
            ("/dev/fuse::mr", device_of("/dev/fuse", "/dev/fuse", "mr")),
        ] {
            assert_eq!(device(text), Ok(expected), "{text}");
        }
        for text in ["", "fuse", "nvidia.com/gpu=all", "/dev/fuse:rwx", "/dev/fuse:", "/a:b:r", "/a:/b:rr", "/a:/b:r:w"]
        {
            assert!(device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sysctls_outside_the_namespaces_are_refused() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (text, expected) in [
            ("net.ipv4.ip_forward=1", pair("net.ipv4.ip_forward", "1")),
            ("net/ipv4/ip_forward=1", pair("net.ipv4.ip_forward", "1")),
            ("net/ipv4/conf/eth0.1/mtu=9", pair("net.ipv4.conf.eth0/1.mtu", "9")),
            ("kernel.sem=250 32000 100 128", pair("kernel.sem", "250 32000 100 128")),
            ("kernel.shmmax=1", pair("kernel.shmmax", "1")),
            ("fs.mqueue.msg_max=1", pair("fs.mqueue.msg_max", "1")),
        ] {
            assert_eq!(sysctl(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "net.ipv4.ip_forward",
            "=1",
            "foo.bar=1",
            "kernel.hostname=x",
            "kernel.shm=1",
            "vm.swappiness=1",
            "net./../../x=1",
            "net..x=1",
            "net/../kernel=1",
            "net.a//b=1",
            "kernel.core_pattern=|x",
            "net.a b=1",
        ] {
            assert!(sysctl(text).is_err(), "{text}");
        }
        assert!(sysctl_fits("net.a", true, &Namespace::Host).is_ok());
        assert!(sysctl_fits("net.a", false, &Namespace::Private).is_err());
        assert!(sysctl_fits("kernel.sem", true, &Namespace::Host).is_err());
    }
}
