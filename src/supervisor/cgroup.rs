//! The container's cgroup: whether one is wanted, where it comes from, what is set in it, what is done about the rest.
//!
//! ```text
//! P  plan: place, limits that can be kept, one warning of the others ── fork ─▶ S
//! P  asks the user's manager for a scope with S in it (only if one is needed)
//! P  newuidmap ‖ newgidmap, meanwhile                                          S: directory, record
//! P ── path of the scope ────────────────────────────────────────────────────▶ S: cgroup in it, limits, clone3(INTO_CGROUP)
//! ```
//! A scope is needed for limits, and for what runs in the background: there it lives as long as the user's manager, which
//! is what linger decides about, and not as long as the login that started it. What a terminal waits for goes without.
//!
//! **Runs in:** the CLI until the fork, then each half in its process; single-threaded.

mod pod;

use std::collections::BTreeSet;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Spec};
use runtime::cgroup::manager::{self, Asked, ManagerError, Scope};
use runtime::cgroup::place::{self, Lack, Place};
use runtime::cgroup::resources::{self, Setting};
use runtime::cgroup::{ASIDE, Cgroup, hand_on};
use runtime::process::spawn::{Servant, servant};
use runtime::process::{pidfd, wait};
use storage::state::container::Record;
use storage::state::request::CgroupMode;

use self::pod::Together;
use crate::error::{CommandError, reason};

/// Where a user has the system's manager hand controllers on to the user's.
const DELEGATE: &str =
    "sudo systemctl edit user@.service, with: [Service] Delegate=cpu cpuset io memory pids; then log in anew";

/// What processes of ours are in the container's user namespace besides its own, and count there.
const OWN_PROCESSES: u64 = 16;

/// What is to be done about a container's cgroup.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    source: Source,
    /// Limits that were asked for and can be kept.
    settings: Vec<Setting>,
    /// Those that hold by default, where nothing has to be moved for them.
    defaults: Vec<Setting>,
    /// A limit that cannot be kept is an error.
    is_strict: bool,
    /// The CPUs to run on where no controller keeps it there.
    affinity: Option<String>,
    /// Those of its pod.
    together: Option<Together>,
    /// Where P says what has come of the scope.
    gate: Option<PipeReader>,
}

#[derive(Debug, Default)]
enum Source {
    /// The container stays in its starter's.
    #[default]
    None,
    /// Below this one, which may be somebody's else too.
    Below { parent: PathBuf, make: bool },
    /// In a scope that has to be asked for.
    Scope { slice: Option<String>, supervisor_stays: bool },
    /// In a scope of its own.
    Own(PathBuf),
}

impl Plan {
    /// Decides; prints the one warning. `spec` gets what is a container's own limits even without a cgroup.
    pub(crate) fn of(record: &Record, spec: &mut Spec, in_background: bool) -> Result<Plan, CommandError> {
        let asked = &record.request.cgroup;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let mut settings = resources.map(resources::settings).transpose()?.unwrap_or_default();
        if asked.mode == CgroupMode::Disabled {
            return Ok(Plan::default());
        }
        let place = Place::find();
        let is_limited = settings.iter().any(|setting| !resources::is_unlimited(setting));
        let mut together = Together::of(asked)?;
        let source = match source(&place, record, is_limited, in_background, together.as_ref()) {
            // The container is wanted all the same.
            Err(error) if !asked.strict && asked.parent.is_some() => {
                eprintln!("Warning: {error}: the container stays in the cgroup of its starter");
                Source::None
            }
            source => source?,
        };
        let controllers = match &source {
            Source::None if !is_limited && together.is_none() => return Ok(Plan::default()),
            Source::None => BTreeSet::new(),
            Source::Below { parent, .. } => place::controllers(nearest(parent)),
            Source::Scope { .. } | Source::Own(_) => place.controllers(),
        };
        let is_there = |setting: &Setting| resources::controller(setting).is_none_or(|name| controllers.contains(name));
        let has_cgroup = !matches!(source, Source::None);
        let lost: Vec<Setting> = settings.extract_if(.., |one| !(has_cgroup && is_there(one))).collect();
        let lost_by_pod = together.as_mut().map(|pod| pod.without(|one| has_cgroup && is_there(one)));
        let mut plan = Plan { source, settings, is_strict: asked.strict, together, ..Plan::default() };
        let is_said = plan.settings.iter().any(|(file, _)| file == "pids.max");
        if has_cgroup && record.request.resources.pids_limit.is_none() && !is_said && controllers.contains("pids") {
            let limit = crate::config::pids_limit()?;
            plan.defaults.extend((limit > 0).then(|| ("pids.max".to_owned(), limit.to_string())));
        }
        let lost = lost.into_iter().chain(lost_by_pod.into_iter().flatten());
        let lost: Vec<Setting> = lost.filter(|one| !resources::is_unlimited(one)).collect();
        if !lost.is_empty() {
            plan.do_without(&lost, &place, spec)?;
        }
        Ok(plan)
    }

    /// What stands in for limits that no controller keeps, and the line about them.
    fn do_without(&mut self, lost: &[Setting], place: &Place, spec: &mut Spec) -> Result<(), CommandError> {
        let names: BTreeSet<&str> = lost.iter().filter_map(resources::controller).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let (why, hint) = missing(&names, place);
        if self.is_strict {
            let error = CommandError::host(format_args!("--strict: limits of {names} cannot be kept: {why}"));
            return Err(match hint {
                Some(hint) => error.hinted(hint),
                None => error,
            });
        }
        let mut instead = Vec::new();
        for (file, value) in lost {
            match file.as_str() {
                "pids.max" if kernel_counts_by_namespace() => {
                    if let Some(limit) = value.parse::<u64>().ok().filter(|_| limit_processes(spec, value)) {
                        instead.push(format!("RLIMIT_NPROC keeps each of its users to about {limit} processes"));
                    }
                }
                "cpuset.cpus" => {
                    self.affinity = Some(value.clone());
                    instead.push("its processes begin on these CPUs, but may leave them".to_owned());
                }
                _ => {}
            }
        }
        let instead = instead.iter().map(|text| format!("; {text}")).collect::<String>();
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        eprintln!("Warning: limits of {names} are not kept: {why}{instead}{hint}");
        Ok(())
    }

    /// The CPUs that the container's first process is to be put on.
    pub(crate) fn affinity(&self) -> Option<&str> {
        self.affinity.as_deref()
    }

    /// P: turns on what is needed in a cgroup that is there. S could not move what is in the way: it does not see the pids of
    /// processes outside of its namespace.
    fn prepare(&mut self) -> Result<(), CommandError> {
        let Source::Below { parent, make } = &self.source else { return Ok(()) };
        let failed = |path: &Path, what: &str, error: &std::io::Error| {
            CommandError::host(format_args!("cgroup {}: {what}: {}", path.display(), reason(error)))
        };
        let of_pod = self.together.iter().flat_map(|pod| controllers_of(&pod.settings));
        let wanted: BTreeSet<&str> = controllers_of(&self.settings).into_iter().chain(of_pod).collect();
        let by_default = controllers_of(&self.defaults);
        let there = nearest(parent).to_owned();
        if *make {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, "make", &error))?;
        }
        // One that is new has the controllers only that those above it hand on.
        let below: Vec<&Path> = parent.ancestors().take_while(|one| one.starts_with(&there)).collect();
        for cgroup in below.into_iter().rev() {
            let handed_on = if cgroup == parent { wanted.clone() } else { &wanted | &by_default };
            hand_on(cgroup, &handed_on, true).map_err(|error| failed(cgroup, "turn on controllers", &error))?;
        }
        if let Some(pod) = &self.together {
            resources::write(parent, &pod.settings)?;
        }
        // Nobody is moved for what nobody has asked for.
        if !hand_on(parent, &by_default, false).is_ok_and(|missing| missing.is_empty()) {
            self.defaults.clear();
        }
        Ok(())
    }

    /// P, before the fork: what tells S of its scope, if one is to be asked for. S keeps the plan, P the rest.
    pub(crate) fn open_gate(&mut self, record: &Record) -> Result<Option<Gate>, CommandError> {
        self.prepare()?;
        let Source::Scope { slice, supervisor_stays } = &self.source else { return Ok(None) };
        let failed = |error: std::io::Error| CommandError::host(format!("pipe2(O_CLOEXEC): {}", reason(&error)));
        let of_pod: &[Setting] = self.together.as_ref().map_or(&[], |pod| &pod.settings);
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        self.gate = Some(reader);
        Ok(Some(Gate {
            writer,
            name: format!("coracle-{}.scope", record.id),
            description: format!("Container {}", if record.name.is_empty() { record.id.short() } else { &record.name }),
            slice: slice.clone(),
            supervisor_stays: *supervisor_stays,
            is_strict: self.is_strict,
            settings: self.settings.iter().chain(&self.defaults).chain(of_pod).cloned().collect(),
            loses: self.together.is_some() || self.settings.iter().any(|setting| !resources::is_unlimited(setting)),
            of_slice: of_pod.to_vec(),
            seed: None,
            asked: None,
        }))
    }

    /// S: makes the cgroup, waiting for its scope.
    pub(super) fn make(&mut self, record: &Record) -> Result<Option<Cgroup>, CommandError> {
        if let Some(gate) = self.gate.take() {
            self.source = wait_for(gate)?;
        }
        let parent = match &self.source {
            Source::None | Source::Scope { .. } => return Ok(None),
            Source::Own(parent) | Source::Below { parent, .. } => parent,
        };
        let made = self.make_in(parent, &format!("coracle-{}", record.id));
        match made {
            Err(error) if self.settings.is_empty() && !self.is_strict => {
                // Nothing was asked of it.
                drop(error);
                Ok(None)
            }
            made => made.map(Some),
        }
    }

    fn make_in(&self, parent: &Path, name: &str) -> Result<Cgroup, CommandError> {
        let cgroup = Cgroup::create_in(parent, name).map_err(|error| {
            CommandError::host(format_args!("make cgroup {}: {}", parent.join(name).display(), reason(&error)))
        })?;
        let set = || {
            resources::write(cgroup.path(), &self.settings)?;
            resources::write(cgroup.path(), &self.defaults)
        };
        match set() {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                let _ = cgroup.remove();
                Err(error.into())
            }
        }
    }
}

fn source(
    place: &Place,
    record: &Record,
    is_limited: bool,
    in_background: bool,
    pod: Option<&Together>,
) -> Result<Source, CommandError> {
    let asked = &record.request.cgroup;
    let supervisor_stays = |service: &Option<String>| {
        asked.mode == CgroupMode::NoConmon && service.is_some() || service.is_some() && !has_terminal()
    };
    let is_slice = |parent: &str| parent.ends_with(".slice") && !parent.contains('/');
    match (asked.parent.as_deref(), asked.mode) {
        (parent, _) if parent.map_or(pod.is_some(), is_slice) => {
            let slice = pod.map(|pod| pod.slice(parent)).or_else(|| parent.map(str::to_owned));
            return match place {
                Place::Manager { service, .. } => {
                    Ok(Source::Scope { slice, supervisor_stays: supervisor_stays(service) })
                }
                Place::Delegated(_) if manager::is_reachable() => {
                    Ok(Source::Scope { slice, supervisor_stays: !has_terminal() })
                }
                // Nobody makes slices: the pod's cgroup is made like its containers'.
                Place::Delegated(place) if parent.is_none() => {
                    let parent = pod.map_or_else(|| place.clone(), |pod| place.join(&pod.name));
                    Ok(Source::Below { parent, make: true })
                }
                Place::Nowhere(_) if parent.is_none() => Ok(Source::None),
                _ => Err(CommandError::host(format_args!(
                    "--cgroup-parent {}: {}",
                    asked.parent.as_deref().unwrap_or_default(),
                    ManagerError::Unreachable
                ))),
            };
        }
        (Some(path), _) => {
            let unsupported = || CommandError::host("--cgroup-parent: this host has cgroups of version 1");
            let mount = runtime::cgroup::mount().ok_or_else(unsupported)?;
            let parent = mount.join(path.trim_start_matches('/'));
            if nix::unistd::access(&nearest(&parent).join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).is_err() {
                return Err(CommandError::host(format_args!("--cgroup-parent {path}: it is not this user's")));
            }
            let parent = pod.map_or_else(|| parent.clone(), |pod| parent.join(&pod.name));
            return Ok(Source::Below { parent, make: true });
        }
        (None, CgroupMode::Split) => {
            // Whoever writes that into a unit delegates its cgroup: nobody is asked.
            let (Place::Delegated(parent) | Place::Manager { unit: Some(parent), .. }) = place else {
                let error =
                    CommandError::host("--cgroups=split: the cgroup of this process is not delegated to this user");
                return Err(error.hinted("run it in a unit with: [Service] Delegate=yes"));
            };
            return Ok(Source::Below { parent: parent.clone(), make: false });
        }
        (None, _) => {}
    }
    Ok(match place {
        Place::Delegated(parent) => Source::Below { parent: parent.clone(), make: false },
        Place::Manager { service, unit, .. } => {
            let stays = supervisor_stays(service);
            let wants = is_limited || asked.mode == CgroupMode::NoConmon || in_background && !stays;
            // Its own units the manager does not mark, so it is asked where a scope would be.
            let delegated = unit.as_ref().filter(|unit| wants && manager::delegates(unit));
            if let Some(parent) = delegated {
                return Ok(Source::Below { parent: parent.clone(), make: false });
            }
            if wants { Source::Scope { slice: None, supervisor_stays: stays } } else { Source::None }
        }
        Place::Nowhere(_) => Source::None,
    })
}

fn controllers_of(settings: &[Setting]) -> BTreeSet<&str> {
    settings.iter().filter_map(resources::controller).collect()
}

/// Somebody sits before it: a shell of a desktop's terminal may live in a service, too.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// The cgroup itself, or the one it will be made in.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|one| one.is_dir()).unwrap_or(path)
}

/// Why a controller is not there, and what to do about it.
fn missing(names: &str, place: &Place) -> (String, Option<String>) {
    let is_hybrid = runtime::cgroup::mount().is_some_and(|mount| mount.ends_with("unified"));
    match place {
        Place::Nowhere(Lack::Version1) => {
            ("this host has cgroups of version 1, which an ordinary user has no part in".to_owned(), None)
        }
        _ if is_hybrid => (
            "the controllers of this host belong to cgroups of version 1, which an ordinary user has no part in"
                .to_owned(),
            None,
        ),
        Place::Nowhere(Lack::Service(name)) => (
            format!("{name} does not delegate its cgroup"),
            Some(format!("sudo systemctl edit {name}, with: [Service] Delegate=yes")),
        ),
        Place::Nowhere(Lack::NotOurs) => (
            "no cgroup is delegated to this user, and no service manager of this user can be asked for one".to_owned(),
            Some("log in through systemd, or: sudo loginctl enable-linger $USER".to_owned()),
        ),
        Place::Delegated(cgroup) => {
            let is_of_manager = cgroup.components().any(|one| one.as_os_str().to_string_lossy().starts_with("user@"));
            let hint = if is_of_manager { DELEGATE } else { "add them to Delegate= of its unit" };
            (format!("the cgroup {} has no {names}", cgroup.display()), Some(hint.to_owned()))
        }
        Place::Manager { .. } => {
            (format!("the user's service manager is not given {names}"), Some(DELEGATE.to_owned()))
        }
    }
}

/// Whether `RLIMIT_NPROC` counts the processes of the container's user namespace, and not all of the user's.
///
/// # Source
/// Linux 5.14, commit 21d1c5e386bc ("Reimplement RLIMIT_NPROC on top of ucounts").
fn kernel_counts_by_namespace() -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}

/// Limits the processes of each user of the container, unless `--ulimit` says otherwise.
fn limit_processes(spec: &mut Spec, limit: &str) -> bool {
    let (Some(process), Ok(limit)) = (spec.process_mut(), limit.parse::<u64>()) else { return false };
    let mut limits = process.rlimits().clone().unwrap_or_default();
    if limits.iter().any(|one| one.typ() == PosixRlimitType::RlimitNproc) {
        return false;
    }
    let most = limit.saturating_add(OWN_PROCESSES);
    let one = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNproc).soft(most).hard(most).build();
    let Ok(one) = one else { return false };
    limits.push(one);
    process.set_rlimits(Some(limits));
    true
}

/// Removes the cgroup of a container that has ended, and its pod's with the last one where no manager does.
pub(super) fn remove(cgroup: &Cgroup) {
    let _ = cgroup.remove();
    let parent = cgroup.path().parent();
    if let Some(parent) =
        parent.filter(|path| path.file_name().is_some_and(|name| pod::is_pods(&name.to_string_lossy())))
    {
        let _ = std::fs::remove_dir(parent);
    }
}

/// The cgroup of the pod that a container's cgroup is in, below the mount.
pub(crate) fn of_pod(cgroup: &Path) -> Option<&Path> {
    let is_pods = |path: &&Path| path.file_name().is_some_and(|name| pod::is_pods(&name.to_string_lossy()));
    let found = cgroup.ancestors().find(is_pods)?;
    found.strip_prefix(runtime::cgroup::mount()?).ok()
}

/// P's half of a scope that is to come.
#[derive(Debug)]
pub(crate) struct Gate {
    writer: PipeWriter,
    name: String,
    description: String,
    slice: Option<String>,
    /// Limits that it is made with.
    of_slice: Vec<Setting>,
    supervisor_stays: bool,
    is_strict: bool,
    /// What will be set, there or in its slice, whose controllers show what has come of a container.
    settings: Vec<Setting>,
    /// There are limits that would not be kept without.
    loses: bool,
    seed: Option<Seed>,
    asked: Option<(Result<Asked, ManagerError>, i32)>,
}

impl Gate {
    /// Asks the manager, and does not wait for it.
    pub(crate) fn ask(&mut self, supervisor: i32) {
        let pid = match self.supervisor_stays {
            false => supervisor,
            true => {
                self.seed = Seed::plant();
                self.seed.as_ref().map_or(supervisor, |seed| seed.pid)
            }
        };
        let scope = Scope {
            name: &self.name,
            description: &self.description,
            slice: self.slice.as_deref(),
            of_slice: &self.of_slice,
            pid,
        };
        self.asked = Some((manager::ask(&scope), pid));
    }

    /// Waits for the scope and tells S; the result is to be held until the container runs.
    pub(crate) fn open(mut self) -> Option<Seed> {
        let scope = match self.asked.take() {
            Some((asked, pid)) => asked.and_then(Asked::wait).map(|()| Cgroup::of_process(pid)),
            None => Err(ManagerError::Unreachable),
        };
        let message = match scope {
            Ok(Some(path)) => match hand_on(&path, &controllers_of(&self.settings), true) {
                Ok(_) => [b"P".as_slice(), path.as_os_str().as_bytes()].concat(),
                Err(error) => {
                    let why = format!("Fcgroup {}: turn on controllers: {}", path.display(), reason(&error));
                    why.into_bytes()
                }
            },
            Ok(None) => b"N".to_vec(),
            Err(error) if self.is_strict || self.slice.is_some() && self.of_slice.is_empty() => {
                [b"F".as_slice(), error.to_string().as_bytes()].concat()
            }
            Err(error) => {
                if self.loses {
                    eprintln!("Warning: the container's limits are not kept: {error}");
                }
                b"N".to_vec()
            }
        };
        // One that is gone has said why by its own channel.
        let _ = self.writer.write_all(&message);
        self.seed.take()
    }
}

/// S: what has come of the scope.
fn wait_for(mut gate: PipeReader) -> Result<Source, CommandError> {
    let mut message = Vec::new();
    let gone = || CommandError::host("the command that started the container is gone");
    gate.read_to_end(&mut message).map_err(|_| gone())?;
    match message.split_first() {
        Some((b'P', path)) => Ok(Source::Own(PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())))),
        Some((b'N', _)) => Ok(Source::None),
        Some((b'F', text)) => Err(CommandError::host(String::from_utf8_lossy(text))),
        _ => Err(gone()),
    }
}

/// A process that keeps a scope alive until the container is in it.
#[derive(Debug)]
pub(crate) struct Seed {
    pid: i32,
    pidfd: OwnedFd,
    /// Its end of file is the process's end.
    hold: Option<PipeWriter>,
}

impl Seed {
    fn plant() -> Option<Seed> {
        let (reader, writer) = std::io::pipe().ok()?;
        let how = Servant { name: c"coracle: scope", keep: &[reader.as_fd()], dies_with_parent: true };
        let pidfd = servant(&how, || {
            let _ = (&reader).read(&mut [0]);
            0
        });
        let pidfd = pidfd.ok()?;
        Some(Seed { pid: pidfd::host_pid(pidfd.as_fd())?, pidfd, hold: Some(writer) })
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = wait(self.pidfd.as_fd(), true);
    }
}

/// Goes to where a process for this container can be cloned into its cgroup, if this process may not do that yet.
///
/// # Errors
/// The user's service manager, who would have to move it, does not.
pub(crate) fn come_near(cgroup: &Path) -> Result<(), ManagerError> {
    if Cgroup::may_enter(cgroup) {
        return Ok(());
    }
    let is_unit = |path: &&Path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        name.ends_with(b".scope") || name.ends_with(b".service")
    };
    let unit = cgroup.parent().and_then(|parent| parent.ancestors().find(is_unit)).ok_or(ManagerError::Unreachable)?;
    let name = unit.file_name().unwrap_or_default().to_string_lossy();
    let aside = unit.join(ASIDE);
    let _ = std::fs::create_dir(&aside);
    manager::attach(&name, &format!("/{ASIDE}"), std::process::id() as i32)
}

/// podman's word for who makes cgroups here.
pub(crate) fn manager_name() -> &'static str {
    match Place::find() {
        Place::Manager { .. } => "systemd",
        Place::Delegated(_) | Place::Nowhere(_) => "cgroupfs",
    }
}
