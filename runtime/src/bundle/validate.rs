//! What must hold of a specification before anything is made from it.
//!
//! Ours or read back from disk: the checks are those that let init trust the numbers and paths it acts on, and that
//! crun and runc make too.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Linux, LinuxIdMapping, LinuxNamespaceType, Mount, PosixRlimitType, Process, Spec,
};

/// The longest host name the kernel takes.
///
/// # Source
/// `sethostname(2)`: `__NEW_UTS_LEN`.
const HOSTNAME_MAX_BYTES: usize = 64;

/// A specification that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum InvalidSpec {
    #[error("ociVersion: {0:?}: only version 1 is known")]
    Version(String),
    #[error("{0}: missing")]
    Missing(&'static str),
    #[error("process.args: no command to run")]
    NoCommand,
    #[error("{object}: {value:?}: must not contain a NUL byte")]
    Nul { object: &'static str, value: String },
    #[error("process.env: {0:?}: not of the form NAME=value")]
    Environment(String),
    #[error("{object}: {}: must be an absolute path", path.display())]
    Relative { object: &'static str, path: PathBuf },
    #[error("{object}: {}: must not contain \"..\"", path.display())]
    Upward { object: &'static str, path: PathBuf },
    #[error("mounts: {}: more than one mount", .0.display())]
    DuplicateMount(PathBuf),
    #[error("mounts: {}: the root itself cannot be a mount", .0.display())]
    RootMount(PathBuf),
    #[error("mounts: {}: no source to bind", .0.display())]
    NoSource(PathBuf),
    #[error("mounts: {}: comes before its parent {}", child.display(), parent.display())]
    Order { child: PathBuf, parent: PathBuf },
    #[error("hostname: {0:?}: longer than {HOSTNAME_MAX_BYTES} bytes")]
    Hostname(String),
    #[error("{object}: needs a private {namespace} namespace")]
    NeedsNamespace { object: String, namespace: LinuxNamespaceType },
    #[error("linux.namespaces: {0}: given more than once")]
    DuplicateNamespace(LinuxNamespaceType),
    #[error("linux.namespaces: a private mount namespace is missing")]
    NoMountNamespace,
    #[error("linux.{object}: ids {first} to {last} are mapped more than once")]
    OverlappingIds { object: &'static str, first: u32, last: u64 },
    #[error("linux.{object}: a mapping is empty or leaves the range of ids")]
    MappingRange { object: &'static str },
    #[error("process.user: {object} {id} is not mapped into the container")]
    UnmappedId { object: &'static str, id: u32 },
    #[error("process.capabilities: {set} holds {capability}, which {within} lacks")]
    Capability { set: &'static str, capability: String, within: &'static str },
    #[error("process.rlimits: {0}: given more than once")]
    DuplicateRlimit(PosixRlimitType),
    #[error("process.rlimits: {typ}: the soft limit {soft} is above the hard limit {hard}")]
    Rlimit { typ: PosixRlimitType, soft: u64, hard: u64 },
    #[error("process.oomScoreAdj: {0}: not between -1000 and 1000")]
    OomScore(i32),
    #[error("linux.rootfsPropagation: {0:?}: unknown")]
    Propagation(String),
}

use InvalidSpec as E;

/// Checks a specification of ours.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate(spec: &Spec) -> Result<(), InvalidSpec> {
    let process = spec.process().as_ref().ok_or(E::Missing("process"))?;
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(E::NoCommand);
    }
    let is_wrong = |entry: &&String| entry.find('=').is_none_or(|at| at == 0);
    if let Some(entry) = process.env().iter().flatten().find(is_wrong) {
        return Err(E::Environment(entry.clone()));
    }
    validate_bundle(spec)?;
    order(spec.mounts().as_deref().unwrap_or_default())
}

/// Checks a specification of somebody else's: only what the runtime specification demands, and what init relies on.
/// There may be no process, and mounts may cover each other.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate_bundle(spec: &Spec) -> Result<(), InvalidSpec> {
    if !spec.version().starts_with("1.") {
        return Err(E::Version(spec.version().clone()));
    }
    let root = spec.root().as_ref().ok_or(E::Missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(E::Missing("root.path"));
    }
    let linux = spec.linux().as_ref().ok_or(E::Missing("linux"))?;
    namespaces(linux)?;
    if let Some(process) = spec.process() {
        self::process(process, linux)?;
    }
    mounts(spec.mounts().as_deref().unwrap_or_default())?;
    if let Some(name) = spec.hostname() {
        no_nul("hostname", name)?;
        if name.len() > HOSTNAME_MAX_BYTES {
            return Err(E::Hostname(name.clone()));
        }
        needs(linux, "hostname", LinuxNamespaceType::Uts)?;
    }
    for (object, paths) in
        [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        for path in paths.iter().flatten() {
            inside(object, Path::new(path))?;
        }
    }
    for name in linux.sysctl().iter().flat_map(|sysctls| sysctls.keys()) {
        needs(linux, &format!("linux.sysctl.{name}"), sysctl_namespace(name))?;
    }
    match linux.rootfs_propagation().as_deref() {
        None | Some("private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable") => Ok(()),
        Some(other) => Err(E::Propagation(other.to_owned())),
    }
}

/// The namespace that a kernel parameter belongs to.
///
/// Only parameters of a namespace may be set; whether a parameter is one of them is for whoever takes it from a user to
/// decide, here a name that is none is said to need the namespace of the host name.
fn sysctl_namespace(name: &str) -> LinuxNamespaceType {
    if name.starts_with("net.") {
        LinuxNamespaceType::Network
    } else if name.starts_with("fs.mqueue.") || (name.starts_with("kernel.") && !name.ends_with("name")) {
        LinuxNamespaceType::Ipc
    } else {
        LinuxNamespaceType::Uts
    }
}

fn namespaces(linux: &Linux) -> Result<(), InvalidSpec> {
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !seen.insert(namespace.typ() as u32) {
            return Err(E::DuplicateNamespace(namespace.typ()));
        }
        if let Some(path) = namespace.path() {
            absolute("linux.namespaces", path)?;
        }
    }
    if !seen.contains(&(LinuxNamespaceType::Mount as u32)) {
        return Err(E::NoMountNamespace);
    }
    for (object, mappings) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
        let mappings = mappings.as_deref().unwrap_or_default();
        if !mappings.is_empty() {
            needs(linux, &format!("linux.{object}"), LinuxNamespaceType::User)?;
        }
        id_mappings(object, mappings, LinuxIdMapping::container_id)?;
        id_mappings(object, mappings, LinuxIdMapping::host_id)?;
    }
    Ok(())
}

/// No id on the side that `first_of` shows is mapped twice.
fn id_mappings(
    object: &'static str,
    mappings: &[LinuxIdMapping],
    first_of: impl Fn(&LinuxIdMapping) -> u32,
) -> Result<(), InvalidSpec> {
    let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(mappings.len());
    for mapping in mappings {
        let first = u64::from(first_of(mapping));
        let end = first + u64::from(mapping.size());
        if mapping.size() == 0 || end > u64::from(u32::MAX) {
            return Err(E::MappingRange { object });
        }
        ranges.push((first, end));
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(_, end), (first, last)] = pair
            && first < end
        {
            let first = u32::try_from(*first).unwrap_or(u32::MAX);
            return Err(E::OverlappingIds { object, first, last: last.min(end) - 1 });
        }
    }
    Ok(())
}

fn process(process: &Process, linux: &Linux) -> Result<(), InvalidSpec> {
    validate_process(process)?;
    let user = process.user();
    is_mapped("uid", user.uid(), linux.uid_mappings().as_deref())?;
    let gids = user.additional_gids().iter().flatten().copied();
    for gid in std::iter::once(user.gid()).chain(gids) {
        is_mapped("gid", gid, linux.gid_mappings().as_deref())?;
    }
    Ok(())
}

/// Checks a process that is to run in a container, without the ids that the container has.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate_process(process: &Process) -> Result<(), InvalidSpec> {
    let args = process.args().as_deref();
    if args.is_some_and(|args| args.first().is_none_or(String::is_empty)) {
        return Err(E::NoCommand);
    }
    args.unwrap_or_default().iter().try_for_each(|arg| no_nul("process.args", arg))?;
    process.env().iter().flatten().try_for_each(|entry| no_nul("process.env", entry))?;
    inside("process.cwd", process.cwd())?;
    capabilities(process)?;
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        if seen.contains(&limit.typ()) {
            return Err(E::DuplicateRlimit(limit.typ()));
        }
        seen.push(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(E::Rlimit { typ: limit.typ(), soft: limit.soft(), hard: limit.hard() });
        }
    }
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => Err(E::OomScore(score)),
        _ => Ok(()),
    }
}

/// effective ⊆ permitted ⊆ bounding, ambient ⊆ permitted and inheritable: the kernel refuses anything else.
fn capabilities(process: &Process) -> Result<(), InvalidSpec> {
    let Some(sets) = process.capabilities() else { return Ok(()) };
    for (set, holds, within, outer) in [
        ("permitted", sets.permitted(), "bounding", sets.bounding()),
        ("effective", sets.effective(), "permitted", sets.permitted()),
        ("inheritable", sets.inheritable(), "bounding", sets.bounding()),
        ("ambient", sets.ambient(), "permitted", sets.permitted()),
        ("ambient", sets.ambient(), "inheritable", sets.inheritable()),
    ] {
        let none = Capabilities::new();
        let outer = outer.as_ref().unwrap_or(&none);
        let mut missing = holds.iter().flatten().filter(|capability| !outer.contains(capability));
        if let Some(capability) = missing.next() {
            return Err(E::Capability { set, capability: format!("CAP_{capability}"), within });
        }
    }
    Ok(())
}

fn mounts(mounts: &[Mount]) -> Result<(), InvalidSpec> {
    for mount in mounts {
        let target = mount.destination();
        inside("mounts", target)?;
        if target == Path::new("/") {
            return Err(E::RootMount(target.clone()));
        }
        let options = mount.options().as_deref().unwrap_or_default();
        options.iter().try_for_each(|option| no_nul("mounts", option))?;
        let is_bind = mount.typ().as_deref() == Some("bind") || options.iter().any(|o| o == "bind" || o == "rbind");
        match mount.source() {
            Some(source) if is_bind => absolute("mounts", source)?,
            None if is_bind => return Err(E::NoSource(target.clone())),
            _ => {}
        }
    }
    Ok(())
}

/// No mount is covered by another.
fn order(mounts: &[Mount]) -> Result<(), InvalidSpec> {
    let mut seen: Vec<&PathBuf> = Vec::with_capacity(mounts.len());
    for target in mounts.iter().map(Mount::destination) {
        if seen.contains(&target) {
            return Err(E::DuplicateMount(target.clone()));
        }
        if let Some(child) = seen.iter().find(|child| child.starts_with(target)) {
            return Err(E::Order { child: (*child).clone(), parent: target.clone() });
        }
        seen.push(target);
    }
    Ok(())
}

fn needs(linux: &Linux, object: &str, kind: LinuxNamespaceType) -> Result<(), InvalidSpec> {
    let own = linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind);
    if own { Ok(()) } else { Err(E::NeedsNamespace { object: object.to_owned(), namespace: kind }) }
}

/// Every id is mapped where the container has no user namespace of its own: the base namespace is not known here.
fn is_mapped(object: &'static str, id: u32, mappings: Option<&[LinuxIdMapping]>) -> Result<(), InvalidSpec> {
    let Some(mappings) = mappings.filter(|mappings| !mappings.is_empty()) else { return Ok(()) };
    let holds = |mapping: &LinuxIdMapping| {
        let first = u64::from(mapping.container_id());
        (first..first + u64::from(mapping.size())).contains(&u64::from(id))
    };
    // With one id alone, others are emulated.
    let is_single = matches!(mappings, [only] if only.size() == 1);
    if is_single || mappings.iter().any(holds) { Ok(()) } else { Err(E::UnmappedId { object, id }) }
}

fn inside(object: &'static str, path: &Path) -> Result<(), InvalidSpec> {
    absolute(object, path)?;
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(E::Upward { object, path: path.to_path_buf() });
    }
    Ok(())
}

fn absolute(object: &'static str, path: &Path) -> Result<(), InvalidSpec> {
    no_nul(object, &path.to_string_lossy())?;
    if path.is_absolute() { Ok(()) } else { Err(E::Relative { object, path: path.to_path_buf() }) }
}

fn no_nul(object: &'static str, value: &str) -> Result<(), InvalidSpec> {
    if value.contains('\0') { Err(E::Nul { object, value: value.to_owned() }) } else { Ok(()) }
}
