//! What a machine may lack, found out by trying. A test that needs it is skipped there, unless the run demands it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something that tests need and that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// User namespaces, subordinate ids with their setuid helpers, and a static busybox to make an image from.
    Containers,
    Fuse,
    Tun,
    Slirp4netns,
    Pasta,
    /// The distribution registry, `docker-registry`.
    Registry,
    Skopeo,
    Openssl,
    Htpasswd,
    /// GnuPG, to sign with and to verify by.
    Gnupg,
    Curl,
    RedisCli,
    Strace,
    /// umoci, which reads and writes OCI layouts.
    Umoci,
    /// mmdebstrap and a Debian mirror that answers.
    Debian,
    Setfacl,
    Setcap,
    /// crun, and a cgroup hierarchy that it accepts.
    Crun,
    /// An own cgroup of version 2 with the memory and pids controllers.
    CgroupDelegation,
    /// The POSIX suite: `$PJDFSTEST`, or where `contrib/setup.sh --with-tests` puts it.
    Pjdfstest,
    /// The podman to compare with: `$PODMAN`, or the one in PATH.
    Podman,
    /// What runs compose files by calling podman.
    PodmanCompose,
    /// podman's Quadlet generator: `$QUADLET`, or where podman has it.
    Quadlet,
    /// A user namespace with the same ids as here, and network namespaces in it: `unshare` of util-linux 2.38, `ip`.
    Lab,
}

/// What even a run with `CORACLE_TEST_REQUIRE=all` does without: it depends on how the machine was booted or on a program
/// that is compared with, not on what `contrib/setup.sh --with-tests` can install; or it is built from source that a
/// registry must give.
const NOT_IN_ALL: [Need; 5] = [Need::CgroupDelegation, Need::Crun, Need::Pjdfstest, Need::Podman, Need::Quadlet];

const EVERY_NEED: [Need; 24] = [
    Need::Containers,
    Need::Fuse,
    Need::Tun,
    Need::Slirp4netns,
    Need::Pasta,
    Need::Registry,
    Need::Skopeo,
    Need::Openssl,
    Need::Htpasswd,
    Need::Gnupg,
    Need::Curl,
    Need::RedisCli,
    Need::Strace,
    Need::Umoci,
    Need::Debian,
    Need::Setfacl,
    Need::Setcap,
    Need::Crun,
    Need::CgroupDelegation,
    Need::Pjdfstest,
    Need::Podman,
    Need::PodmanCompose,
    Need::Quadlet,
    Need::Lab,
];

impl Need {
    /// As it is written in `CORACLE_TEST_REQUIRE` and in the reason of a skip.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::Fuse => "fuse",
            Self::Tun => "tun",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
            Self::Registry => "registry",
            Self::Skopeo => "skopeo",
            Self::Openssl => "openssl",
            Self::Htpasswd => "htpasswd",
            Self::Gnupg => "gnupg",
            Self::Curl => "curl",
            Self::RedisCli => "redis-cli",
            Self::Strace => "strace",
            Self::Umoci => "umoci",
            Self::Debian => "debian",
            Self::Setfacl => "setfacl",
            Self::Setcap => "setcap",
            Self::Crun => "crun",
            Self::CgroupDelegation => "cgroup-delegation",
            Self::Pjdfstest => "pjdfstest",
            Self::Podman => "podman",
            Self::PodmanCompose => "podman-compose",
            Self::Quadlet => "quadlet",
            Self::Lab => "lab",
        }
    }

    /// Why this machine cannot do it, or nothing if it can.
    fn missing(self) -> Option<String> {
        let program = |name: &str| find_program(name).is_none().then(|| format!("the program {name}"));
        let device = |path: &str| {
            let opened = OpenOptions::new().read(true).write(true).open(path);
            opened.err().map(|error| format!("{path} ({error})"))
        };
        match self {
            Self::Containers => missing_for_containers(),
            Self::Fuse => device("/dev/fuse"),
            Self::Tun => device("/dev/net/tun"),
            Self::Slirp4netns => device("/dev/net/tun").or_else(|| program("slirp4netns")),
            Self::Pasta => device("/dev/net/tun").or_else(|| program("pasta")),
            Self::Registry => program("docker-registry"),
            Self::Skopeo => program("skopeo"),
            Self::Openssl => program("openssl"),
            Self::Htpasswd => program("htpasswd"),
            Self::Gnupg => program("gpg").or_else(|| program("gpgv")),
            Self::Curl => program("curl"),
            Self::RedisCli => program("redis-cli"),
            Self::Strace => program("strace"),
            Self::Umoci => program("umoci"),
            Self::Debian => program("mmdebstrap").or_else(missing_mirror),
            Self::Setfacl => program("setfacl"),
            Self::Setcap => program("setcap"),
            Self::Crun => program("crun").or_else(|| {
                let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
                (!unified).then(|| "cgroups of version 2 alone, crun refuses the hybrid form".to_owned())
            }),
            Self::CgroupDelegation => missing_delegation(),
            Self::Pjdfstest => pjdfstest().is_none().then(|| "the program pjdfstest".to_owned()),
            Self::Lab => program("ip").or_else(|| program("nsenter")).or_else(|| {
                let is_there = quiet(lab().args(["unshare", "--net", "true"]));
                (!is_there).then(|| "a user namespace with the same ids, and others in it".to_owned())
            }),
            Self::PodmanCompose => program("podman-compose"),
            Self::Quadlet => super::peer::quadlet().is_none().then(|| "podman's generator quadlet".to_owned()),
            Self::Podman => super::peer::podman().is_none().then(|| "a podman to compare with".to_owned()),
        }
    }
}

/// Puts a command into namespaces where it may configure networks and has the ids that it has here; the command's words are
/// to be added.
pub(crate) fn lab() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-current-user", "--keep-caps", "--net", "--mount"]);
    for (file, option) in [("/etc/subuid", "--map-users"), ("/etc/subgid", "--map-groups")] {
        for (first, count) in subordinate_ids(file) {
            command.arg(format!("{option}={first},{first},{count}"));
        }
    }
    command
}

/// This user's ranges in a file of them.
fn subordinate_ids(file: &str) -> Vec<(String, String)> {
    let name = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let id = nix::unistd::getuid().to_string();
    let ranges = fs::read_to_string(file).unwrap_or_default();
    let own = ranges.lines().filter_map(|line| {
        let mut words = line.split(':');
        let is_own = words.next().is_some_and(|owner| owner == id || name.as_deref() == Some(owner));
        is_own.then(|| Some((words.next()?.to_owned(), words.next()?.to_owned()))).flatten()
    });
    // unshare(1) takes one.
    own.take(1).collect()
}

/// The answers for one run: each need is tried once.
#[derive(Default)]
pub(crate) struct Machine {
    missing: BTreeMap<Need, Option<String>>,
}

impl Machine {
    /// What is missing for a test with these needs, first one first.
    pub(crate) fn lacks(&mut self, needs: impl Iterator<Item = Need>) -> Option<(Need, String)> {
        let mut needs = needs;
        needs.find_map(|need| {
            let missing = self.missing.entry(need).or_insert_with(|| need.missing());
            missing.clone().map(|reason| (need, reason))
        })
    }
}

/// What `CORACLE_TEST_REQUIRE` demands: `all`, or a list of names.
///
/// # Errors
/// The word that names no need.
pub(crate) fn required(words: &str) -> Result<Vec<Need>, String> {
    let mut required = Vec::new();
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if word == "all" {
            required.extend(EVERY_NEED.into_iter().filter(|need| !NOT_IN_ALL.contains(need)));
        } else {
            let need = EVERY_NEED.into_iter().find(|need| need.name() == word);
            required.push(need.ok_or_else(|| format!("CORACLE_TEST_REQUIRE: nothing is called {word}"))?);
        }
    }
    Ok(required)
}

/// Looks in `PATH` and in the system directories an ordinary user may not have in it.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The program pjdfstest, also where a user's own programs lie that are not in `PATH`.
pub(crate) fn pjdfstest() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PJDFSTEST").filter(|name| !name.is_empty()) {
        return Some(named.into());
    }
    let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/bin/pjdfstest"));
    find_program("pjdfstest").or_else(|| own.filter(|file| file.is_file()))
}

fn missing_for_containers() -> Option<String> {
    if nix::unistd::geteuid().is_root() {
        return Some("an ordinary user (this is root)".to_owned());
    }
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten()?.name;
    for (file, helper) in [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")] {
        if find_program(helper).is_none() {
            return Some(format!("the program {helper}"));
        }
        let ranges = fs::read_to_string(file).unwrap_or_default();
        let id = nix::unistd::getuid().to_string();
        if !ranges.lines().any(|line| line.split(':').next().is_some_and(|owner| owner == user || owner == id)) {
            return Some(format!("a range for {user} in {file}"));
        }
    }
    if !quiet(Command::new("unshare").args(["--user", "--map-root-user", "true"])) {
        return Some("user namespaces".to_owned());
    }
    super::image::busybox_archive().is_none().then(|| "a static busybox".to_owned())
}

fn missing_delegation() -> Option<String> {
    let reason = || "an own cgroup of version 2 with memory and pids".to_owned();
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return Some(reason()) };
    let dir = Path::new("/sys/fs/cgroup").join(path);
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|word| word == name);
    let writable = OpenOptions::new().write(true).open(dir.join("cgroup.procs")).is_ok();
    (!(has("memory") && has("pids") && writable)).then(reason)
}

fn missing_mirror() -> Option<String> {
    let reason = || "a Debian mirror that answers".to_owned();
    let Some(mirror) = super::image::debian_mirror() else { return Some(reason()) };
    let release = format!("{}/dists/stable/Release", mirror.trim_end_matches('/'));
    let answered = quiet(Command::new("curl").args(["--fail", "--silent", "--head", "--max-time", "10", &release]));
    (!answered).then(reason)
}

fn quiet(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
