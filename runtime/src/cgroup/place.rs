//! Where a container's cgroup can be made.
//!
//! | this process is in | the container's cgroup |
//! |---|---|
//! | a unit or scope with `Delegate=` | below that unit's, without asking anybody |
//! | a login's scope, a terminal of the desktop | in a scope that the user's service manager makes |
//! | a service of that manager without `Delegate=` | the same; its starter stays in the service |
//! | a service of the system without `Delegate=` | none |
//! | a cgroup that is the user's without any systemd | beside that one |
//! | a host with cgroups of version 1 | none |
//!
//! systemd marks what it leaves to others with the extended attribute `user.delegate` of the directory (systemd 251), but the
//! user's manager does not: it has to be asked. In what is not left to them, nobody else may make or set anything: it would
//! be taken back at the next change.
//!
//! # Source
//! "Control Group APIs and Delegation", systemd.io; Linux `Documentation/admin-guide/cgroup-v2.rst`, "Delegation".

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{cgroup_of, mount};

/// Where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below this cgroup, which is ours.
    Delegated(PathBuf),
    /// In a scope of the user's service manager, whose own cgroup this is.
    Manager {
        /// The manager's cgroup: it has the controllers that a scope can have.
        cgroup: PathBuf,
        /// Its service that this process belongs to, and which the supervisor should not leave.
        service: Option<String>,
        /// The cgroup of its unit that this process belongs to: whether it is delegated knows only the manager.
        unit: Option<PathBuf>,
    },
    /// Nowhere.
    Nowhere(Lack),
}

/// Why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The host has cgroups of version 1 alone.
    Version1,
    /// This service of the system has no `Delegate=`.
    Service(String),
    /// The cgroup is somebody else's and there is no service manager to ask.
    NotOurs,
}

impl Place {
    /// Looks where this process is.
    pub fn find() -> Place {
        let Some(mount) = mount() else { return Place::Nowhere(Lack::Version1) };
        let Some(own) = cgroup_of("self") else { return Place::Nowhere(Lack::NotOurs) };
        let uid = nix::unistd::geteuid().as_raw();
        let manager = mount.join(format!("user.slice/user-{uid}.slice/user@{uid}.service"));
        find_in(mount, &own, manager.is_dir().then_some(manager), &Kernel)
    }

    /// The controllers that a container can have.
    pub fn controllers(&self) -> BTreeSet<String> {
        let from = match self {
            Place::Delegated(cgroup) | Place::Manager { cgroup, .. } => cgroup,
            Place::Nowhere(_) => return BTreeSet::new(),
        };
        controllers(from)
    }
}

/// The controllers of a cgroup.
pub fn controllers(cgroup: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// What is asked about a cgroup.
trait Facts {
    fn is_delegated(&self, cgroup: &Path) -> bool;
    fn is_writable(&self, cgroup: &Path) -> bool;
    /// systemd runs this machine.
    fn has_systemd(&self) -> bool;
}

struct Kernel;

impl Facts for Kernel {
    fn is_delegated(&self, cgroup: &Path) -> bool {
        let Ok(path) = std::ffi::CString::new(cgroup.as_os_str().as_encoded_bytes()) else { return false };
        let mut value = [std::mem::MaybeUninit::uninit(); 8];
        crate::sys::notify::xattr(&path, c"user.delegate", &mut value).is_ok_and(|value| value == b"1")
    }

    fn is_writable(&self, cgroup: &Path) -> bool {
        let may = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
        may(cgroup) && may(&cgroup.join("cgroup.procs"))
    }

    fn has_systemd(&self) -> bool {
        Path::new("/run/systemd/system").is_dir()
    }
}

fn find_in(mount: &Path, own: &Path, manager: Option<PathBuf>, facts: &impl Facts) -> Place {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_manager = |path: &Path| name(path).starts_with("user@") && name(path).ends_with(".service");
    let inside = || own.ancestors().take_while(|one| one.starts_with(mount));
    let around = inside().find(|one| is_manager(one));
    // What is below a manager and not marked is the manager's.
    let marked = inside().take_while(|one| !is_manager(one)).find(|one| facts.is_delegated(one));
    if let Some(ours) = marked.filter(|one| facts.is_writable(one)) {
        return Place::Delegated(ours.to_owned());
    }
    let unit = inside().map(name).find(|name| name.ends_with(".service") || name.ends_with(".scope"));
    let is_unit = |path: &&Path| name(path).ends_with(".service") || name(path).ends_with(".scope");
    let below = inside().take_while(|one| !is_manager(one)).find(is_unit);
    let below = below.filter(|one| around.is_some() && facts.is_writable(one)).map(Path::to_owned);
    let service = unit.filter(|unit| unit.ends_with(".service") && !unit.starts_with("user@"));
    match (around.map(Path::to_owned).or(manager), service) {
        (None, Some(service)) => Place::Nowhere(Lack::Service(service)),
        // A manager cannot take a process out of a service of the system's without its main process being lost.
        (Some(_), Some(service)) if around.is_none() => Place::Nowhere(Lack::Service(service)),
        (Some(cgroup), service) => Place::Manager { cgroup, service, unit: below },
        (None, None) if facts.has_systemd() => Place::Nowhere(Lack::NotOurs),
        // No manager to conflict with. Beside ours is better: a cgroup with processes hands no controllers on.
        (None, None) => match own.parent().filter(|parent| parent.starts_with(mount)) {
            Some(parent) if facts.is_writable(parent) => Place::Delegated(parent.to_owned()),
            _ if facts.is_writable(own) => Place::Delegated(own.to_owned()),
            _ => Place::Nowhere(Lack::NotOurs),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host<'a> {
        marked: &'a [&'a str],
        writable: &'static str,
        systemd: bool,
    }

    impl Facts for Host<'_> {
        fn is_delegated(&self, cgroup: &Path) -> bool {
            self.marked.iter().any(|one| Path::new("/cg").join(one) == cgroup)
        }

        fn is_writable(&self, cgroup: &Path) -> bool {
            cgroup.starts_with(Path::new("/cg").join(self.writable))
        }

        fn has_systemd(&self) -> bool {
            self.systemd
        }
    }

    const USER: &str = "user.slice/user-7.slice/user@7.service";

    fn found(own: &str, marked: &[&str], has_manager: bool) -> Place {
        let host = Host { marked, writable: USER, systemd: true };
        let mount = Path::new("/cg");
        find_in(mount, &mount.join(own), has_manager.then(|| mount.join(USER)), &host)
    }

    fn manager(service: Option<&str>, unit: Option<&str>) -> Place {
        let unit = unit.map(|unit| Path::new("/cg").join(USER).join(unit));
        Place::Manager { cgroup: Path::new("/cg").join(USER), service: service.map(str::to_owned), unit }
    }

    #[test]
    fn what_is_delegated_is_used_and_nothing_else_of_the_managers() {
        let app = format!("{USER}/app.slice");
        let delegated = "user.slice/user-7.slice/user@7.service/app.slice/web.service";
        let ours = Place::Delegated(Path::new("/cg").join(delegated));
        assert_eq!(found(delegated, &[USER, delegated], true), ours);
        assert_eq!(found(&format!("{delegated}/supervisor"), &[USER, delegated], true), ours);
        assert_eq!(
            found(&format!("{app}/web.service"), &[USER], true),
            manager(Some("web.service"), Some("app.slice/web.service"))
        );
        assert_eq!(
            found(&format!("{app}/vte-spawn-1.scope"), &[USER], true),
            manager(None, Some("app.slice/vte-spawn-1.scope"))
        );
    }

    #[test]
    fn a_login_asks_the_manager_and_a_service_of_the_system_has_none() {
        assert_eq!(found("user.slice/user-7.slice/session-2.scope", &[USER], true), manager(None, None));
        // su from root's login.
        assert_eq!(found("user.slice/user-0.slice/session-1.scope", &[USER], true), manager(None, None));
        for has_manager in [true, false] {
            let service = Place::Nowhere(Lack::Service("web.service".into()));
            assert_eq!(found("system.slice/web.service", &[USER], has_manager), service);
        }
        assert_eq!(found("user.slice/user-7.slice/session-2.scope", &[USER], false), Place::Nowhere(Lack::NotOurs));
    }

    #[test]
    fn without_systemd_the_cgroup_beside_ours_is_taken_where_it_is_writable() {
        let place = |writable| {
            let host = Host { marked: &[], writable, systemd: false };
            find_in(Path::new("/cg"), Path::new("/cg/a/b"), None, &host)
        };
        assert_eq!(place("a"), Place::Delegated("/cg/a".into()));
        assert_eq!(place("a/b"), Place::Delegated("/cg/a/b".into()));
        assert_eq!(place("c"), Place::Nowhere(Lack::NotOurs));
    }
}
