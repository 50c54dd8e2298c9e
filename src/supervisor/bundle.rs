//! From what was asked for to the bundle: names become numbers and paths of this host.
//!
//! **Runs in:** the CLI, before the supervisor is forked. Creates named volumes and missing bind sources; nothing else is
//! written here.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Spec, User,
};
use runtime::bundle::{self, Choice, DeviceBind, Namespaces, Options, OwnFile, Shm, defaults};
use runtime::mount::target::Append;
use runtime::security::capabilities::{CapabilitySet, Selection, process_sets};
use runtime::security::masks::MaskedPaths;
use runtime::userns::{IdMap, IdMapEntry, Mapping};
use storage::state::container::Record;
use storage::state::layout::Layout;
use storage::state::request::{IdRange, Namespace, Request, UserNamespace};

use super::{accounts, mounts};
use crate::cli::user::ResolvedUser;
use crate::error::{CommandError, reason};

/// A bundle, and what belongs to it that the specification cannot say.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// What `config.json` holds.
    pub(crate) spec: Spec,
    /// Lines for its passwd and group files.
    pub(crate) accounts: Vec<Append>,
    /// What its mounts need.
    pub(crate) planned: mounts::Planned,
}

/// The namespaces of another container, resolved by whoever knows containers.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Pid of the init whose namespaces are shared, and the container's directory in the runtime directory.
    pub(crate) pid: Option<i32>,
    /// It does not run yet, and will when its namespaces are needed: the bundle is made again then.
    pub(crate) later: bool,
    /// Somebody outside listens to what it says to a service manager.
    pub(crate) notifies: bool,
}

/// The group that terminals belong to, by every distribution's convention.
const TTY_GID: u32 = 5;

/// The value of `--group-add` that keeps the caller's supplementary groups.
const KEEP_GROUPS: &str = "keep-groups";

/// The names under which ours files are seen in the container.
const OWN_FILES: [(&str, &str); 4] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
    (".containerenv", "/run/.containerenv"),
];

/// Makes the bundle of a container. `rootfs` looks up files of the image.
pub(crate) fn prepare(
    layout: &Layout,
    record: &Record,
    mapping: &Mapping,
    rootfs: &super::rootfs::View,
    shared: &Shared,
) -> Result<Bundle, CommandError> {
    let request = &record.request;
    let mut options = Options { root: super::rootfs::mount_point(layout, record), ..Options::default() };
    let (user, accounts) = accounts::resolve(request, rootfs.read("/etc/passwd")?, rootfs.read("/etc/group")?)?;

    options.read_only = request.read_only;
    options.read_only_tmpfs = request.read_only_tmpfs;
    options.args = request.args.clone();
    options.cwd = if request.workdir.as_os_str().is_empty() { PathBuf::from("/") } else { request.workdir.clone() };
    options.terminal = request.tty;
    options.env = environment(record, &user);
    options.user = oci_user(&user, request);
    options.oom_score_adj = request.oom_score_adj;
    options.rlimits = limits(request)?;
    options.resources = super::resources::of(&request.resources)?;
    options.hostname = Some(hostname(record));
    options.domainname = request.domainname.clone();
    options.init = request.init_path.clone().filter(|_| request.init);
    options.writable_cgroup = request.service.systemd || request.security.unmask.iter().any(|path| path == "ALL");
    options.privileged = request.privileged;
    options.annotations = request.annotations.clone();
    if request.group_add.iter().any(|group| group == KEEP_GROUPS) {
        options.annotations.insert("run.oci.keep_original_groups".to_owned(), "1".to_owned());
    }
    security(request, &user, &mut options)?;
    let (uids, gids) = nested_maps(&request.userns, mapping)?;
    let tty_is_mapped = |one: &IdMapEntry| (one.container..one.container.saturating_add(one.size)).contains(&TTY_GID);
    options.tty_group_mapped = match gids.0.as_slice() {
        [] => !is_single(&request.userns, mapping),
        ranges => ranges.iter().any(tty_is_mapped),
    };
    (options.uid_mappings, options.gid_mappings) = (id_mappings(&uids), id_mappings(&gids));
    options.namespaces = namespaces(request, shared)?;
    options.sysctls = request.sysctls.clone();
    if options.namespaces.network == Choice::Private {
        let all = if gids.is_empty() { mapping.gids.len() } else { gids.end() };
        let last_gid = all.saturating_sub(1).min(u64::from(u32::MAX)) as u32;
        for (name, value) in defaults::network_sysctls(last_gid) {
            options.sysctls.entry(name).or_insert(value);
        }
    }
    options.shm = match (&request.ipc, request.shm_size_bytes) {
        _ if request.no_shm => Shm::Absent,
        (Namespace::Host, _) => Shm::Bind(PathBuf::from("/dev/shm")),
        (Namespace::Container(_), _) => match shared.pid {
            Some(pid) => Shm::Bind(PathBuf::from(format!("/proc/{pid}/root/dev/shm"))),
            None => Shm::default(),
        },
        (_, Some(size)) => Shm::Private(size),
        (_, None) => Shm::default(),
    };
    let runtime_dir = layout.runtime_container(&record.id);
    let skipped = |name: &str| {
        let network = &request.network;
        name == "hosts" && network.no_hosts
            || name == "hostname" && network.no_hostname
            || name == "resolv.conf" && network.no_resolv_conf
    };
    options.files = OWN_FILES
        .into_iter()
        .filter(|(name, _)| !skipped(name))
        .flat_map(|(name, target)| {
            // Programs that change their root find them there as well.
            let places = request.chroot_dirs.iter().filter(|_| name != ".containerenv");
            let places = places.map(|dir| dir.join(target.trim_start_matches('/'))).chain([PathBuf::from(target)]);
            places.map(|target| OwnFile { source: runtime_dir.join(name), target }).collect::<Vec<_>>()
        })
        .collect();
    if shared.notifies {
        let source = runtime_dir.join(super::notify::SOCKET);
        options.files.push(OwnFile { source, target: PathBuf::from(super::notify::IN_CONTAINER) });
    }
    for device in &request.devices {
        check_device(&device.source)?;
        options.devices.push(DeviceBind {
            source: device.source.clone(),
            target: device.target.clone(),
            read_only: !device.permissions.is_empty() && !device.permissions.contains('w'),
        });
    }
    let mut injection = crate::cdi::resolve(request)?;
    if injection.has_hooks() && !(uids.is_empty() && gids.is_empty()) {
        // Who is root of that namespace may not be able to reach any file of the user's.
        let why = "devices with hooks need the user's own ids; see --userns host";
        return Err(CommandError::user(format!("{}: {why}", request.cdi_devices.join(", "))));
    }
    injection.add_to(&mut options);
    if let Some(zone) = &request.tz {
        options.files.push(OwnFile { source: time_zone(zone)?, target: PathBuf::from("/etc/localtime") });
    }
    if request.privileged {
        options.devices.extend(accessible_devices());
    }
    let mut planned = mounts::Planned::default();
    let plan = mounts::Plan {
        layout,
        record,
        user: (user.uid, user.gid),
        maps: (&uids, &gids),
        single_id: is_single(&request.userns, mapping),
        ownership: super::rootfs::ownership(mapping),
    };
    let finish = || {
        options.mounts = mounts::plan(&plan, &mut planned)?;
        options.mounts.extend(mounts::of_systemd(request));
        options.mounts.extend(injection.take_mounts());
        let mut spec = bundle::generate(&options);
        injection.add_hooks(&mut spec)?;
        bundle::validate(&spec).map_err(CommandError::user)?;
        Ok(spec)
    };
    match finish() {
        Ok(spec) => Ok(Bundle { spec, accounts, planned }),
        Err(error) => {
            forget_volumes(layout, &planned.anonymous_volumes);
            Err(error)
        }
    }
}

/// Removes the volumes that were made for a container that there will not be. What cannot be removed can be seen.
pub(crate) fn forget_volumes(layout: &Layout, names: &[String]) {
    for name in names {
        let _ = storage::volume::remove(layout, name, |_| Vec::new());
    }
}

/// The host's file of a time zone.
fn time_zone(name: &str) -> Result<PathBuf, CommandError> {
    if name == "local" {
        return Ok(PathBuf::from("/etc/localtime"));
    }
    let path = Path::new("/usr/share/zoneinfo").join(name);
    let stays_inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if stays_inside && path.is_file() {
        Ok(path)
    } else {
        Err(CommandError::user(format!("--tz {name}: unknown time zone")))
    }
}

/// Refuses what `--device` must not bind: a file is not a device, and has `-v`. A directory stands for its devices.
fn check_device(path: &Path) -> Result<(), CommandError> {
    use std::os::unix::fs::FileTypeExt;
    let refused = |why: &dyn std::fmt::Display| CommandError::user(format!("--device {}: {why}", path.display()));
    let kind = std::fs::metadata(path).map_err(|error| refused(&reason(&error)))?.file_type();
    match kind.is_char_device() || kind.is_block_device() || kind.is_dir() {
        true => Ok(()),
        false => Err(refused(&"not a device node")),
    }
}

/// `--privileged`: the devices of the host that this user can open anyway.
fn accessible_devices() -> Vec<DeviceBind> {
    let standard = runtime::mount::dev::DEFAULT;
    let mut all: Vec<DeviceBind> = device_nodes(Path::new("/dev"))
        .into_iter()
        .filter(|path| !standard.iter().any(|name| path.file_name() == Some(name.as_ref())))
        .filter(|path| !matches!(path.file_name().and_then(|name| name.to_str()), Some("console" | "ptmx")))
        .filter(|path| {
            let wanted = nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK;
            nix::unistd::access(path.as_path(), wanted).is_ok()
        })
        .map(|path| DeviceBind { source: path.clone(), target: path, read_only: false })
        .collect();
    all.sort_by(|one, other| one.target.cmp(&other.target));
    all
}

/// The device nodes below a directory, `/dev/dri/renderD128` among them; what the container has of its own is left out.
fn device_nodes(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    const OWN: [&str; 5] = ["pts", "shm", "mqueue", "hugepages", "fd"];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_char_device() || kind.is_block_device() {
            found.push(entry.path());
        } else if kind.is_dir() && !OWN.iter().any(|name| entry.file_name() == *name) {
            found.extend(device_nodes(&entry.path()));
        }
    }
    found
}

/// The host name: as asked for, the host's where its network or its names are used, else the short id as docker has it.
pub(crate) fn hostname(record: &Record) -> String {
    let request = &record.request;
    match (&request.hostname, &request.uts) {
        (Some(name), _) => name.clone(),
        (None, uts) if *uts == Namespace::Host || request.network.mode == "host" => {
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        (None, _) => record.id.short().to_owned(),
    }
}

fn environment(record: &Record, user: &ResolvedUser) -> Vec<String> {
    let mut env = record.request.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|pair| pair.split('=').next() == Some(name));
    if !has(&env, "HOSTNAME") {
        env.push(format!("HOSTNAME={}", hostname(record)));
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    if record.request.service.systemd && !has(&env, "container_uuid") {
        // What systemd makes its machine id of.
        env.push(format!("container_uuid={}", record.id.as_str().get(..32).unwrap_or_default()));
    }
    env
}

fn oci_user(user: &ResolvedUser, request: &Request) -> User {
    let mut out = defaults::user();
    out.set_uid(user.uid).set_gid(user.gid);
    out.set_additional_gids((!user.additional_gids.is_empty()).then(|| user.additional_gids.clone()));
    if let Some(umask) = request.umask {
        out.set_umask(Some(umask));
    }
    out
}

fn selections(list: &[String]) -> Result<Vec<Selection>, CommandError> {
    list.iter().map(|text| text.parse::<Selection>().map_err(CommandError::user)).collect()
}

fn security(request: &Request, user: &ResolvedUser, options: &mut Options) -> Result<(), CommandError> {
    let (add, drop) = (selections(&request.cap_add)?, selections(&request.cap_drop)?);
    let bounding = if request.privileged { CapabilitySet::ALL } else { CapabilitySet::DEFAULT.adjust(&add, &drop) };
    let last = runtime::security::capabilities::last_capability();
    options.capabilities = process_sets(bounding.up_to(last), &add, user.uid == 0).into();
    options.no_new_privileges = request.security.no_new_privileges;
    let masks = if request.privileged || request.security.unconfined_system_paths {
        MaskedPaths::unconfined()
    } else {
        MaskedPaths::default_for_host()
            .unmask(request.security.unmask.iter().map(String::as_str))
            .mask(request.security.mask.iter().map(String::as_str))
    };
    options.masked_paths = masks.masked;
    options.readonly_paths = masks.readonly;
    options.proc_options = request.security.proc_options.clone();
    Ok(())
}

/// The limits asked for. `--ulimit host` adds nothing: the caller's limits are inherited.
fn limits(request: &Request) -> Result<Vec<PosixRlimit>, CommandError> {
    let mut out = Vec::new();
    for limit in &request.ulimits {
        let name = format!("RLIMIT_{}", limit.name.to_uppercase());
        let kind: PosixRlimitType = serde_json::from_value(serde_json::Value::String(name))
            .map_err(|_| CommandError::user(format!("--ulimit {}: no such limit", limit.name)))?;
        let built = PosixRlimitBuilder::default().typ(kind).soft(limit.soft).hard(limit.hard).build();
        out.push(built.map_err(CommandError::user)?);
    }
    out.extend(open_files(request));
    Ok(out)
}

/// As many open files as this process may have, unless something else was asked for: the soft limit of a login is there
/// for `select(2)`, and too low for servers. Every start looks anew, a limit of another session may be above this one's.
pub(crate) fn open_files(request: &Request) -> Option<PosixRlimit> {
    /// What docker and podman give at most.
    const MOST: u64 = 1 << 20;
    if request.host_ulimits || request.ulimits.iter().any(|limit| limit.name == "nofile") {
        return None;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let limit = hard.min(MOST);
    PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile).soft(limit).hard(limit).build().ok()
}

fn id_mappings(map: &IdMap) -> Vec<LinuxIdMapping> {
    map.0
        .iter()
        .filter_map(|entry| {
            LinuxIdMappingBuilder::default()
                .container_id(entry.container)
                .host_id(entry.host)
                .size(entry.size)
                .build()
                .ok()
        })
        .collect()
}

/// Whether a container has one id, and others are emulated: as asked, or since its user has no others.
pub(crate) fn is_single(userns: &UserNamespace, mapping: &Mapping) -> bool {
    *userns == UserNamespace::Single || mapping.single.is_some()
}

/// Ids of a user namespace inside the base one, in its terms; empty where the base one is the container's.
pub(crate) fn nested_maps(userns: &UserNamespace, mapping: &Mapping) -> Result<(IdMap, IdMap), CommandError> {
    match userns {
        UserNamespace::Host => Ok((IdMap::default(), IdMap::default())),
        UserNamespace::Single if mapping.single.is_some() => Ok((IdMap::default(), IdMap::default())),
        // The base namespace, which the union's server is in, reads layers that other containers have with all their ids.
        UserNamespace::Single => Ok((IdMap::single(0), IdMap::single(0))),
        UserNamespace::KeepId { uid, gid, size } => {
            let uid = uid.unwrap_or_else(|| nix::unistd::geteuid().as_raw());
            let gid = gid.unwrap_or_else(|| nix::unistd::getegid().as_raw());
            if mapping.single.is_some() {
                // Init is root of the container first, and there is no id for that.
                return Err(CommandError::host("--userns keep-id: needs subordinate ids, and this user has none"));
            }
            for (kind, id, map) in [("uid", uid, &mapping.uids), ("gid", gid, &mapping.gids)] {
                if u64::from(id) >= map.len() {
                    return Err(CommandError::user(format!(
                        "--userns keep-id: {kind} {id} does not fit into the {} ids of this user",
                        map.len()
                    )));
                }
            }
            Ok((mapping.uids.keep_id(uid, *size), mapping.gids.keep_id(gid, *size)))
        }
        UserNamespace::Auto { size, first } => {
            // Id 0 of the base namespace is the user: the container gets none of their files, and its root is one of the
            // subordinate ids.
            if mapping.single.is_some() {
                return Err(CommandError::host("--userns auto: needs subordinate ids, and this user has none"));
            }
            let (Some(size), Some(first)) = (*size, *first) else {
                return Err(CommandError::new(crate::error::Kind::Internal, "--userns auto: no range was chosen"));
            };
            let range = IdMap(vec![IdMapEntry { container: 0, host: first, size }]);
            Ok((range.clone(), range))
        }
        UserNamespace::Maps { uids, gids } => {
            if mapping.single.is_some() {
                return Err(CommandError::host("--uidmap: needs subordinate ids, and this user has none"));
            }
            Ok((given_map("--uidmap", uids, &mapping.uids)?, given_map("--gidmap", gids, &mapping.gids)?))
        }
        other => Err(CommandError::user(format!(
            "--userns {}: not supported; use keep-id, auto, single or host",
            match other {
                UserNamespace::NoMap => "nomap".to_owned(),
                UserNamespace::Container(name) => format!("container:{name}"),
                UserNamespace::Path(path) => format!("ns:{}", path.display()),
                _ => String::new(),
            }
        ))),
    }
}

/// The map of `--uidmap` or `--gidmap`, if this user has the ids.
fn given_map(flag: &str, ranges: &[IdRange], all: &IdMap) -> Result<IdMap, CommandError> {
    let bad = |why: String| Err(CommandError::user(format!("{flag}: {why}")));
    // Init is root of the container first.
    if !ranges.iter().any(|range| range.container == 0) {
        return bad("id 0 of the container must be mapped".to_owned());
    }
    let end = |first: u32, size: u32| u64::from(first) + u64::from(size);
    for (index, range) in ranges.iter().enumerate() {
        if end(range.base, range.size) > all.len() {
            return bad(format!(
                "{}:{}:{} does not fit into the {} ids of this user",
                range.container,
                range.base,
                range.size,
                all.len()
            ));
        }
        let meets = |one: u32, other: u32, size: u32| {
            u64::from(one) < end(other, size) && u64::from(other) < end(one, range.size)
        };
        let overlaps = |other: &&IdRange| {
            meets(range.container, other.container, other.size) || meets(range.base, other.base, other.size)
        };
        if let Some(other) = ranges.iter().take(index).find(overlaps) {
            return bad(format!(
                "{}:{}:{} overlaps {}:{}:{}",
                range.container, range.base, range.size, other.container, other.base, other.size
            ));
        }
    }
    // The kernel takes no range that is not one range of the base namespace.
    let mut entries = Vec::new();
    for range in ranges {
        let mut rest = *range;
        while rest.size > 0 {
            let left = all.0.iter().find_map(|one| {
                let inside = rest.base.checked_sub(one.container).filter(|inside| *inside < one.size)?;
                Some(one.size - inside)
            });
            let size = rest.size.min(left.unwrap_or(rest.size));
            entries.push(IdMapEntry { container: rest.container, host: rest.base, size });
            rest = IdRange { container: rest.container + size, base: rest.base + size, size: rest.size - size };
        }
    }
    Ok(IdMap(entries))
}

fn namespaces(request: &Request, shared: &Shared) -> Result<Namespaces, CommandError> {
    let choice = |namespace: &Namespace, file: &str| match namespace {
        Namespace::Private => Ok(Choice::Private),
        Namespace::Host => Ok(Choice::Host),
        Namespace::Path(path) => Ok(Choice::Path(path.clone())),
        Namespace::Container(name) => {
            let pid = shared.pid.or(shared.later.then_some(0));
            pid.map(|pid| Choice::Path(PathBuf::from(format!("/proc/{pid}/ns/{file}")))).ok_or_else(|| {
                CommandError::user(format!("container {name} is not running: its namespace cannot be joined"))
            })
        }
    };
    let network = match request.network.mode.as_str() {
        "host" => Choice::Host,
        mode => match mode.strip_prefix("ns:") {
            Some(path) => Choice::Path(PathBuf::from(path)),
            None => match mode.strip_prefix("container:") {
                Some(name) => choice(&Namespace::Container(name.to_owned()), "net")?,
                None => Choice::Private,
            },
        },
    };
    Ok(Namespaces {
        pid: choice(&request.pid, "pid")?,
        network,
        ipc: choice(&request.ipc, "ipc")?,
        uts: choice(&request.uts, "uts")?,
        cgroup: choice(&request.cgroupns, "cgroup")?,
    })
}
