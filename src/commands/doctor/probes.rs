//! The probes of `coracle doctor`. Each tries the thing itself where that is possible, and reads a setting where not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use runtime::cgroup::place::{Lack, Place};
use runtime::mount::probe;
use runtime::userns::{Mapping, newidmap, subid};

use super::super::Context;
use super::{Finding, Probe};
use crate::error::reason;

/// Every probe, in the order in which a container needs it.
pub(super) fn all(context: &Context) -> Vec<Box<dyn Probe>> {
    let scratch = context.layout.data_dir().join(format!(".doctor-{}", std::process::id()));
    vec![
        Box::new(Kernel),
        Box::new(UserNamespaces),
        Box::new(AppArmor),
        Box::new(SubordinateIds { file: "/etc/subuid", flag: "--add-subuids" }),
        Box::new(SubordinateIds { file: "/etc/subgid", flag: "--add-subgids" }),
        Box::new(IdHelper("newuidmap")),
        Box::new(IdHelper("newgidmap")),
        Box::new(Overlay { scratch }),
        Box::new(Fuse),
        Box::new(Landlock),
        Box::new(Device { path: "/dev/net/tun", module: "tun", needed: true }),
        Box::new(NetworkHelper),
        Box::new(Cgroups),
        Box::new(RuntimeDirectory { used: context.layout.runtime_dir().to_owned() }),
        Box::new(Linger),
        Box::new(PingGroups),
        Box::new(LowPorts),
    ]
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn sysctl(name: &str, value: impl std::fmt::Display) -> String {
    format!("sudo sysctl -w '{name}={value}'")
}

fn user_name() -> String {
    subid::Owner::of(nix::unistd::geteuid().as_raw()).name().to_owned()
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_executable =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0);
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(is_executable)
}

struct Kernel;

impl Kernel {
    /// What later kernels have, and what we do before: the table of the crate documentation, for people.
    const FEATURES: [((u32, u32), &str); 5] = [
        ((5, 3), "clone3 and pidfds"),
        ((5, 6), "openat2, on which every path of an image is resolved"),
        ((5, 11), "overlay in user namespaces"),
        ((5, 14), "cgroup.kill"),
        ((6, 5), "overlay layers of any number and name"),
    ];
    const LEAST: (u32, u32) = (5, 11);
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Probe for Kernel {
    fn what(&self) -> &'static str {
        "kernel"
    }

    fn probe(&self) -> Finding {
        let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let Some(version) = parse_version(&release) else {
            return Finding::degraded(
                format!("the version {release:?} is unknown"),
                "none needed if the other checks pass",
            );
        };
        let lacking = |(_, what): &((u32, u32), &'static str)| *what;
        let lacks: Vec<_> = Self::FEATURES.iter().filter(|(first, _)| version < *first).map(lacking).collect();
        let why = format!("{release} lacks {}", lacks.join(", "));
        match version {
            _ if lacks.is_empty() => Finding::ok(release),
            version if version < Self::LEAST => Finding::missing(why, "boot Linux 5.11 or later"),
            _ => Finding::degraded(why, "boot a later kernel; there is a way round each of them"),
        }
    }
}

struct UserNamespaces;

impl Probe for UserNamespaces {
    fn what(&self) -> &'static str {
        "user namespaces"
    }

    fn probe(&self) -> Finding {
        let mapping = Mapping::of_user();
        let error = match probe::user_namespace(&mapping) {
            Ok(()) => return Finding::ok(format!("made one with {} ids", mapping.uids.len())),
            Err(error) => error,
        };
        let settings = [
            ("kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0", "1"),
            ("user/max_user_namespaces", "user.max_user_namespaces", "0", "15000"),
            ("kernel/apparmor_restrict_unprivileged_userns", "kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ];
        let is_set = |(file, _, refused, _): &&(&str, &str, &str, &str)| {
            read(Path::new("/proc/sys").join(file)).as_deref() == Some(*refused)
        };
        let mend = match settings.iter().find(is_set) {
            Some((_, name, _, wanted)) => sysctl(name, wanted),
            None => "run coracle outside of a container or chroot, or allow it user namespaces there".to_owned(),
        };
        Finding::missing(error.to_string(), mend)
    }
}

struct AppArmor;

impl Probe for AppArmor {
    fn what(&self) -> &'static str {
        "AppArmor"
    }

    fn probe(&self) -> Finding {
        match read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() {
            Some("1") => Finding::degraded(
                "restricts user namespaces of ordinary users",
                sysctl("kernel.apparmor_restrict_unprivileged_userns", 0),
            ),
            _ => Finding::ok("does not restrict user namespaces"),
        }
    }
}

struct SubordinateIds {
    file: &'static str,
    flag: &'static str,
}

impl Probe for SubordinateIds {
    fn what(&self) -> &'static str {
        self.file
    }

    fn probe(&self) -> Finding {
        let uid = nix::unistd::geteuid().as_raw();
        if uid == 0 {
            return Finding::ok("not needed by root");
        }
        let owner = subid::Owner::of(uid);
        let add = |first: u64| format!("sudo usermod {} {first}-{} {}", self.flag, first + 65_535, owner.name());
        let Some(ranges) = subid::ranges(self.file, &owner) else {
            let why = format!("no range for {}: single id: users of images are emulated", owner.name());
            return Finding::degraded(why, add(first_free(&read(self.file).unwrap_or_default())));
        };
        let count: u64 = ranges.iter().map(|range| u64::from(range.size)).sum();
        if count < 65_536 {
            let why = format!("{count} ids: images use up to 65536");
            return Finding::degraded(why, add(first_free(&read(self.file).unwrap_or_default())));
        }
        Finding::ok(format!("{count} ids for {}", owner.name()))
    }
}

/// The first id above every range of the file.
fn first_free(text: &str) -> u64 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1).map(|field| field.trim().parse::<u64>());
        Some(fields.next()?.ok()? + fields.next()?.ok()?)
    };
    text.lines().filter_map(end).fold(100_000, u64::max)
}

struct IdHelper(&'static str);

impl Probe for IdHelper {
    fn what(&self) -> &'static str {
        self.0
    }

    fn probe(&self) -> Finding {
        let Some(path) = newidmap::find(self.0) else {
            return Finding::degraded(
                "not in PATH: single id, users of images are emulated",
                "sudo apt-get install uidmap",
            );
        };
        let shown = path.display();
        let Ok(meta) = fs::metadata(&path) else {
            return Finding::degraded(format!("{shown} cannot be read"), format!("sudo chmod a+rx {shown}"));
        };
        let is_setuid = meta.permissions().mode() & 0o4000 != 0 && meta.uid() == 0;
        // Some distributions give it a file capability instead; its value cannot be read by everyone, its being there can.
        let has_capability = || {
            let listed = std::process::Command::new("getcap").arg(&path).output();
            listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("cap_set"))
        };
        if is_setuid || has_capability() {
            Finding::ok(shown.to_string())
        } else {
            Finding::degraded(format!("{shown} is not setuid root"), format!("sudo chmod u+s {shown}"))
        }
    }
}

struct Overlay {
    scratch: PathBuf,
}

impl Probe for Overlay {
    fn what(&self) -> &'static str {
        "overlay"
    }

    fn probe(&self) -> Finding {
        let place = self.scratch.parent().unwrap_or(Path::new("/")).display();
        if let Err(error) = self.scratch.parent().map_or(Ok(()), fs::create_dir_all) {
            return Finding::missing(
                format!("{place}: {}", reason(&error)),
                format!("make {place} writable for {}", user_name()),
            );
        }
        match probe::overlay(&Mapping::of_user(), &self.scratch) {
            Ok(()) => Finding::ok(format!("mounted one in a user namespace, on {place}")),
            Err(error) => {
                let mend = "boot Linux 5.11 or later; put XDG_DATA_HOME on ext4, xfs, btrfs or tmpfs";
                match probe::fuse(&Mapping::of_user()) {
                    Ok(()) => Finding::degraded(format!("{error}: FUSE is used instead"), mend),
                    Err(_) => Finding::missing(error.to_string(), mend),
                }
            }
        }
    }
}

struct Landlock;

impl Probe for Landlock {
    fn what(&self) -> &'static str {
        "Landlock"
    }

    fn probe(&self) -> Finding {
        if storage::union::can_confine() {
            return Finding::ok("what unpacks layers and what serves them is confined to their directories");
        }
        Finding::degraded(
            "what unpacks layers and what serves them has no second wall",
            "boot Linux 5.19 or later with landlock in the list of its parameter lsm=",
        )
    }
}

struct Fuse;

impl Probe for Fuse {
    fn what(&self) -> &'static str {
        "FUSE"
    }

    fn probe(&self) -> Finding {
        let error = match probe::fuse(&Mapping::of_user()) {
            Ok(()) => return Finding::ok("made a mount in a user namespace"),
            Err(error) => error,
        };
        let device = Device { path: "/dev/fuse", module: "fuse", needed: false }.probe();
        let mend = device.parts().2.unwrap_or("boot Linux 4.18 or later").to_owned();
        Finding::degraded(format!("{error}: --userns keep-id and auto need it"), mend)
    }
}

struct Device {
    path: &'static str,
    module: &'static str,
    /// By a container with the default options.
    needed: bool,
}

impl Probe for Device {
    fn what(&self) -> &'static str {
        self.path
    }

    fn probe(&self) -> Finding {
        let Err(error) = OpenOptions::new().read(true).write(true).open(self.path) else {
            return Finding::ok("can be opened");
        };
        let mend = if Path::new(self.path).exists() {
            format!("sudo chmod 666 {}", self.path)
        } else {
            format!("sudo modprobe {}", self.module)
        };
        if self.needed { Finding::missing(reason(&error), mend) } else { Finding::degraded(reason(&error), mend) }
    }
}

struct NetworkHelper;

impl Probe for NetworkHelper {
    fn what(&self) -> &'static str {
        "slirp4netns or pasta"
    }

    fn probe(&self) -> Finding {
        let found: Vec<_> = ["slirp4netns", "pasta"].into_iter().filter_map(find_program).collect();
        if found.is_empty() {
            return Finding::ok("neither is in PATH: the stack of our own serves".to_owned());
        }
        Finding::ok(found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))
    }
}

struct Cgroups;

impl Probe for Cgroups {
    fn what(&self) -> &'static str {
        "cgroup delegation"
    }

    fn probe(&self) -> Finding {
        let place = Place::find();
        if let Place::Nowhere(lack) = &place {
            let none = "no cgroup of our own: limits of memory, processors and processes have no effect";
            return match lack {
                Lack::Version1 => Finding::degraded(
                    format!("{none}: cgroups of version 1"),
                    "boot with systemd.unified_cgroup_hierarchy=1",
                ),
                Lack::Service(name) => {
                    Finding::degraded(none, format!("sudo systemctl edit {name}, with: [Service] Delegate=yes"))
                }
                Lack::NotOurs => Finding::degraded(
                    none,
                    "log in through systemd with cgroups of version 2, or: sudo loginctl enable-linger $USER",
                ),
            };
        }
        let controllers = place.controllers().into_iter().collect::<Vec<_>>().join(" ");
        let has = |name: &&str| controllers.split_whitespace().any(|word| word == *name);
        let lacks: Vec<_> = ["cpu", "memory", "pids"].into_iter().filter(|name| !has(name)).collect();
        if lacks.is_empty() {
            return Finding::ok(controllers);
        }
        Finding::degraded(
            format!("without the controllers {}", lacks.join(", ")),
            "sudo systemctl edit user@.service, with: [Service] Delegate=cpu cpuset io memory pids",
        )
    }
}

struct RuntimeDirectory {
    used: PathBuf,
}

impl Probe for RuntimeDirectory {
    fn what(&self) -> &'static str {
        "XDG_RUNTIME_DIR"
    }

    fn probe(&self) -> Finding {
        let mend = || {
            let uid = nix::unistd::geteuid();
            format!("sudo loginctl enable-linger {}; export XDG_RUNTIME_DIR=/run/user/{uid}", user_name())
        };
        let used = self.used.display();
        let variable = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let Some(dir) = variable else {
            if self.used.starts_with("/run/user") {
                return Finding::ok(format!("not set, {used} is used"));
            }
            return Finding::degraded(
                format!("not set, {used} is used and may not outlive a clean-up of /tmp"),
                mend(),
            );
        };
        let uid = nix::unistd::geteuid().as_raw();
        match fs::metadata(&dir) {
            Err(error) => Finding::degraded(format!("{}: {}", dir.display(), reason(&error)), mend()),
            Ok(meta) if meta.uid() != uid => {
                Finding::degraded(format!("{} belongs to another user", dir.display()), mend())
            }
            Ok(_) => Finding::ok(dir.display().to_string()),
        }
    }
}

struct Linger;

impl Probe for Linger {
    fn what(&self) -> &'static str {
        "lingering"
    }

    fn probe(&self) -> Finding {
        if !Path::new("/run/systemd/system").exists() {
            return Finding::ok("no systemd here that ends processes at logout");
        }
        let name = user_name();
        if Path::new("/var/lib/systemd/linger").join(&name).exists() {
            return Finding::ok(format!("on for {name}"));
        }
        Finding::degraded(
            "off: detached containers may end when you log out",
            format!("sudo loginctl enable-linger {name}"),
        )
    }
}

struct PingGroups;

impl Probe for PingGroups {
    fn what(&self) -> &'static str {
        "ping_group_range"
    }

    fn probe(&self) -> Finding {
        let text = read("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
        let mut ends = text.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        let gid = nix::unistd::getegid().as_raw();
        match (ends.next(), ends.next()) {
            (Some(first), Some(last)) if (first..=last).contains(&gid) => Finding::ok(format!("{first} to {last}")),
            _ => Finding::degraded(
                "containers cannot ping beyond this host, nor with --network host",
                sysctl("net.ipv4.ping_group_range", "0 2147483647"),
            ),
        }
    }
}

struct LowPorts;

impl Probe for LowPorts {
    fn what(&self) -> &'static str {
        "ip_unprivileged_port_start"
    }

    fn probe(&self) -> Finding {
        let first = read("/proc/sys/net/ipv4/ip_unprivileged_port_start").and_then(|text| text.parse::<u32>().ok());
        match first {
            Some(first) if first > 80 => Finding::degraded(
                format!("ports below {first} of the host cannot be published"),
                sysctl("net.ipv4.ip_unprivileged_port_start", 80),
            ),
            Some(first) => Finding::ok(first.to_string()),
            None => Finding::ok("not limited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_of_distributions_are_understood() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15.0-1.fc35.x86_64", Some((5, 15))),
            ("6.18.44-custom", Some((6, 18))),
            ("rolling", None),
        ] {
            assert_eq!(parse_version(release), version, "{release}");
        }
    }

    #[test]
    fn next_range_lies_above_every_other_one() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("a:100000:65536\nb:231072:65536\nbroken\nc:165536:65536\n"), 296_608);
    }
}
