//! Puts what `containers.conf` says in the place of options that the command line does not have.

use std::path::Path;

use runtime::security::capabilities::{Capability, CapabilitySet, Selection};

use crate::cli::container_options::ContainerOptions;
use crate::config::Defaults;

/// What was typed before the image.
pub(crate) struct Typed<'a>(&'a [String]);

impl<'a> Typed<'a> {
    /// Of a whole command line, the image and what is behind it left out.
    pub(crate) fn of(command_line: &'a [String], options: &ContainerOptions) -> Self {
        let before = command_line.len().saturating_sub(options.image_and_command.len());
        Self(command_line.get(..before).unwrap_or_default())
    }

    /// Whether a long option is among it.
    pub(crate) fn has(&self, option: &str) -> bool {
        let is_it =
            |word: &String| word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
        self.0.iter().any(is_it)
    }
}

/// Fills in what is not asked for. A container of a pod has the pod's namespaces.
pub(crate) fn fill(options: &mut ContainerOptions, defaults: Defaults, typed: &Typed<'_>) {
    let in_pod = options.life.pod.is_some() || options.life.pod_id_file.is_some();
    let ContainerOptions { life, process, mounts, network, security, .. } = options;

    process.env_defaults = defaults.env.all;
    for (option, asked, value) in [
        ("--env-host", &mut process.env_host, defaults.env_host),
        ("--http-proxy", &mut process.http_proxy, defaults.http_proxy),
        ("--init", &mut process.init, defaults.init),
        ("--no-hosts", &mut network.no_hosts, defaults.no_hosts),
        ("--read-only", &mut mounts.read_only, defaults.read_only),
    ] {
        if let Some(value) = value.filter(|_| !typed.has(option)) {
            *asked = value;
        }
    }
    if process.init && process.init_path.is_none() {
        process.init_path = defaults.init_path.filter(|path| Path::new(path).exists());
    }
    or(&mut process.tz, defaults.tz);
    or(&mut process.umask, defaults.umask);
    or(&mut mounts.shm_size, defaults.shm_size);
    or(&mut network.hosts_file, defaults.base_hosts_file.filter(|_| !network.no_hosts));
    or(&mut security.cgroupns, own(defaults.cgroupns));
    if !in_pod {
        or(&mut security.userns, defaults.userns);
        or(&mut security.pid, own(defaults.pidns));
        or(&mut security.ipc, defaults.ipcns);
        or(&mut security.uts, own(defaults.utsns));
        if network.networks.is_empty() {
            network.networks.extend(defaults.netns.filter(|mode| !matches!(mode.as_str(), "" | "private")));
        }
    }

    if !typed.has("--log-driver") {
        or_text(&mut life.log_driver, defaults.log_driver);
    }
    life.annotations.splice(0..0, defaults.annotations.all);
    life.log_options.splice(0..0, defaults.log_options);
    if let Some(size) = defaults.log_size_max.filter(|size| *size > 0)
        && !life.log_options.iter().any(|option| option.starts_with("max-size="))
    {
        life.log_options.push(format!("max-size={size}b"));
    }

    mounts.volume_defaults = defaults.volumes.all;
    mounts.mount_defaults = defaults.mounts.all;
    mounts.devices.splice(0..0, defaults.devices.all);
    // Those of the command line come later, and the last one of a name counts.
    security.ulimits.splice(0..0, defaults.default_ulimits.all);
    security.sysctl_defaults = defaults.default_sysctls.all;
    if let Some(path) = defaults.seccomp_profile.filter(|path| !path.is_empty())
        && !security.privileged
        && !security.security_options.iter().any(|option| option.starts_with("seccomp"))
    {
        security.security_options.push(format!("seccomp={path}"));
    }
    if let Some(names) = defaults.default_capabilities {
        let (add, drop) = capabilities(&names.all, &security.cap_add, &security.cap_drop);
        security.cap_add.extend(add);
        security.cap_drop.extend(drop);
    }

    if network.dns.is_empty() {
        network.dns = defaults.dns_servers.all;
    }
    let is_own = network.dns.iter().any(|server| server == "none");
    for (asked, values) in
        [(&mut network.dns_search, defaults.dns_searches), (&mut network.dns_options, defaults.dns_options)]
    {
        if asked.is_empty() && !is_own {
            *asked = values.all;
        }
    }
}

fn or(asked: &mut Option<String>, value: Option<String>) {
    if asked.is_none() {
        *asked = value.filter(|value| !value.is_empty());
    }
}

fn or_text(asked: &mut String, value: Option<String>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        *asked = value;
    }
}

/// A namespace that is not the container's own: that is what it is without a word.
fn own(mode: Option<String>) -> Option<String> {
    mode.filter(|mode| mode != "private")
}

/// How another set of capabilities than ours is had by adding to it and dropping from it, beside what is asked for.
fn capabilities(names: &[String], add: &[String], drop: &[String]) -> (Vec<String>, Vec<String>) {
    let of = |names: &[String]| {
        let mut found = Vec::new();
        for selection in names.iter().filter_map(|name| name.parse().ok()) {
            match selection {
                Selection::All => found.extend(CapabilitySet::ALL.iter()),
                Selection::One(capability) => found.push(capability),
            }
        }
        found
    };
    let (wanted, add, drop) = (of(names), of(add), of(drop));
    let ours: Vec<Capability> = CapabilitySet::DEFAULT.iter().collect();
    let text = |capability: &Capability| capability.to_string();
    let more = wanted.iter().filter(|one| !ours.contains(one) && !add.contains(one) && !drop.contains(one));
    let fewer = ours.iter().filter(|one| !wanted.contains(one) && !add.contains(one) && !drop.contains(one));
    (more.map(text).collect(), fewer.map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_set_of_capabilities_stands_below_what_is_asked_for() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let change = |names: &str, add: &str, drop: &str| {
            let (add, drop) = capabilities(&words(names), &words(add), &words(drop));
            (add.join(" "), drop.len())
        };
        let ours = CapabilitySet::DEFAULT.iter().count();
        assert_eq!(change("CAP_KILL NET_RAW", "", ""), ("CAP_NET_RAW".to_owned(), ours - 1));
        assert_eq!(change("KILL NET_RAW", "CHOWN", "NET_RAW"), (String::new(), ours - 2));
        assert_eq!(change("", "", "ALL"), (String::new(), 0));
    }
}
