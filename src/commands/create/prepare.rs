//! How `create`, `run`, `start` and the steps of a build turn a record into something that can be launched: the bundle, the
//! layers, the namespaces of others, what is mounted besides.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use runtime::init::sealed_exe::SealedExe;
use runtime::process::inherited::Inherited;
use runtime::process::pidfd;
use runtime::userns::Mapping;
use runtime::userns::making::Making;
use storage::image::ImageStore;
use storage::layer::{IdMap, IdPolicy, IdRange};
use storage::state::container::{self, Record};
use storage::state::lock::FileLock;
use storage::state::request::{Mount, Namespace, Request, SeccompProfile, UserNamespace};
use storage::state::status;
use storage::union::lazy::Places;

use super::name_anonymous_volumes;
use crate::commands::descriptors::Handed;
use crate::commands::{Context, in_userns_with_output};
use crate::error::CommandError;
use crate::supervisor::arrival::Verdict;
use crate::supervisor::bundle::{self, Shared};
use crate::supervisor::launch::{Seccomp, seccomp_of};
use crate::supervisor::notify::Notifications;
use crate::supervisor::{self, Birth, FirstClient, Launch};

/// A record with everything that a start needs.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) record: Record,
    pub(crate) spec: Spec,
    pub(crate) seccomp: Option<supervisor::launch::Seccomp>,
    rootfs: runtime::mount::rootfs::Rootfs,
    /// The layers, where not all were here.
    arriving: Option<Places>,
    /// What becomes of them.
    pub(crate) verdict: Option<Verdict>,
    layer_ids: IdMap,
    fill: Vec<std::path::PathBuf>,
    accounts: Vec<runtime::mount::target::Append>,
    chores: supervisor::mounts::Chores,
    secrets: supervisor::secrets::Secrets,
    mapping: Mapping,
    notifications: Option<Notifications>,
    /// Descriptors that the container gets besides the standard ones.
    pub(crate) inherited: Inherited,
    beside: Option<OwnedFd>,
    base: Option<OwnedFd>,
    /// Its base user namespace, if it needs one of its own.
    making: Option<Making>,
    /// Held until the record says which ids the container has.
    ids: Option<FileLock>,
    /// It is a step of a build.
    is_step: bool,
    /// It is only made ready.
    pub(crate) held: bool,
}

/// The root file system of a step of a build, which is no image's.
#[derive(Debug)]
pub(crate) struct StepRoot {
    /// The trees below, topmost first.
    pub(crate) lowers: Vec<PathBuf>,
    /// What the step changes.
    pub(crate) upper: PathBuf,
    /// On the same file system, empty.
    pub(crate) work: PathBuf,
    /// The step's secrets.
    pub(crate) secrets: supervisor::secrets::Secrets,
    /// The user namespace that it is to be in.
    pub(crate) base: OwnedFd,
}

/// What a container is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be there.
    Create,
    /// To run.
    Start,
}

/// Makes the bundle and finds the layers of a container that is about to run.
pub(crate) fn prepare(context: &Context, record: Record) -> Result<Prepared, CommandError> {
    prepare_for(context, record, Purpose::Start)
}

/// Makes the bundle of a step of a build.
pub(crate) fn prepare_step(context: &Context, record: Record, root: StepRoot) -> Result<Prepared, CommandError> {
    prepare_over(context, record, Purpose::Start, Some(root))
}

/// Makes the bundle and finds the layers.
pub(crate) fn prepare_for(context: &Context, record: Record, purpose: Purpose) -> Result<Prepared, CommandError> {
    prepare_over(context, record, purpose, None)
}

fn prepare_over(
    context: &Context,
    mut record: Record,
    purpose: Purpose,
    step: Option<StepRoot>,
) -> Result<Prepared, CommandError> {
    if record.request.pod.is_some() && purpose == Purpose::Start {
        crate::commands::pod::wake(context, &record)?;
    }
    let mapping = Mapping::of_user();
    name_anonymous_volumes(&mut record);
    if !context.cdi_spec_dirs.is_empty() {
        record.request.cdi_spec_dirs.clone_from(&context.cdi_spec_dirs);
    } else if !record.request.cdi_devices.is_empty()
        && let Some(directories) = crate::config::cdi_spec_dirs()?
    {
        record.request.cdi_spec_dirs = directories;
    }
    if mapping.single.is_some() && record.request.userns == UserNamespace::Host {
        // It stays so when the user gets more ids.
        record.request.userns = UserNamespace::Single;
    }
    let is_single = bundle::is_single(&record.request.userns, &mapping);
    let mut secrets = supervisor::secrets::Secrets::find(&context.layout, &record.request.secrets)?;
    let ownership = supervisor::rootfs::ownership(&mapping);
    let (shared, beside) = shared_namespaces(context, &record.request, purpose)?;
    let verdict = if step.is_none() { take_arrival(context, &record) } else { None };
    let mut arriving = verdict.is_some().then(|| supervisor::rootfs::arriving(&context.layout, &record));
    let own_view = match (&arriving, &verdict) {
        (Some(places), Some(verdict)) => supervisor::rootfs::View::arriving(places.clone(), verdict)?,
        _ => supervisor::rootfs::view(&context.layout, &record, ownership),
    };
    let making = match (purpose, &beside, &step) {
        (Purpose::Start, None, None) => supervisor::launch::begin_namespace(&context.layout, &mapping, &record)?,
        _ => None,
    };
    let ids = match mapping.single {
        // Refused below.
        Some(_) => None,
        None => {
            let available = mapping.uids.len().min(mapping.gids.len());
            supervisor::auto_ids::choose(&context.layout, &mut record, available, &own_view)?
        }
    };
    let layer_ids = layer_ids(&record.request.userns, &mapping)?;
    if let Some(places) = &mut arriving {
        places.shift(layer_ids.clone());
    }
    ensure_layers(context, &record, &mapping, arriving.is_some())?;
    let mut drivers =
        supervisor::rootfs::drivers(context.storage_driver()?, &record.driver, !layer_ids.is_identity(), is_single);
    if record.driver.is_empty() && record.request.rootfs.is_none() {
        record.driver = drivers.first().map(|driver| driver.as_str().to_owned()).unwrap_or_default();
    }
    if arriving.is_some() {
        // This time; the next start finds all layers.
        drivers = supervisor::rootfs::ARRIVING;
    }
    let is_step = step.is_some();
    let (rootfs, view, base) = match step {
        None => (supervisor::rootfs::of(&context.layout, &record, ownership, drivers), own_view, None),
        Some(step) => {
            secrets = step.secrets;
            let rootfs = supervisor::rootfs::of_step(&context.layout, &step.lowers, &step.upper, &step.work, drivers);
            (rootfs, supervisor::rootfs::View::Layers(step.lowers), Some(step.base))
        }
    };
    let notifications = match purpose {
        Purpose::Start if !is_step => Notifications::wanted(&record.request, std::env::var_os("NOTIFY_SOCKET"))?,
        Purpose::Start | Purpose::Create => None,
    };
    let shared = Shared { notifies: notifications.as_ref().is_some_and(Notifications::is_served), ..shared };
    let bundle = bundle::prepare(&context.layout, &record, &mapping, &view, &shared)?;
    let seccomp = seccomp_of(&record.request, &bundle.spec)
        .inspect_err(|_| bundle::forget_volumes(&context.layout, &bundle.planned.anonymous_volumes))?;
    if let Some(seccomp) = &seccomp {
        warn_of_unknown_calls(&record.request, seccomp);
    }
    let bundle::Bundle { spec, planned, accounts } = bundle;
    let new = planned.anonymous_volumes.into_iter().filter(|name| !record.anonymous_volumes.contains(name));
    let new: Vec<_> = new.collect();
    record.anonymous_volumes.extend(new);
    let (fill, chores) = (planned.fill, planned.chores);
    if let Some(places) = &mut arriving {
        cover(context, places, &spec, &fill);
    }
    let inherited = Inherited::default();
    Ok(Prepared {
        record,
        spec,
        seccomp,
        rootfs,
        arriving,
        verdict,
        layer_ids,
        fill,
        accounts,
        chores,
        secrets,
        mapping,
        notifications,
        inherited,
        beside,
        base,
        making,
        ids,
        is_step,
        held: false,
    })
}

/// Names of the image that nobody waits for, because something is mounted over them; but volumes are filled from what is there.
fn cover(context: &Context, places: &mut Places, spec: &Spec, fill: &[PathBuf]) {
    for mount in spec.mounts().iter().flatten().filter(|mount| !fill.contains(mount.destination())) {
        let is_bind = mount.options().iter().flatten().any(|option| matches!(option.as_str(), "bind" | "rbind"));
        let is_directory = match mount.source().as_ref().filter(|_| is_bind) {
            // Written by the supervisor: hosts, hostname, resolv.conf, .containerenv.
            Some(source) if source.starts_with(context.layout.runtime_dir()) => Ok(source.is_dir()),
            Some(source) => fs::metadata(source).map(|source| source.is_dir()),
            None => Ok(true),
        };
        if let Ok(is_directory) = is_directory {
            places.mounted_over(mount.destination(), is_directory);
        }
    }
}

/// A misspelt name in a list of refusals refuses nothing: whoever wrote it should know.
fn warn_of_unknown_calls(request: &Request, seccomp: &Seccomp) {
    const SHOWN: usize = 8;
    let names = seccomp.filter.unknown_names();
    let (SeccompProfile::File(path), false) = (&request.security.seccomp, names.is_empty()) else { return };
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let path = path.display().to_string();
    eprintln!(
        "Warning: {}: no such system calls on this machine, their rules do nothing: {}{more}",
        path.escape_debug(),
        shown.join(", ")
    );
}

impl Prepared {
    /// Forks the supervisor.
    pub(crate) fn launch(
        mut self,
        context: &Context,
        birth: Birth,
        attach: Option<FirstClient>,
    ) -> Result<supervisor::Running, CommandError> {
        let mut handed = Handed::new(self.inherited).with_sockets()?;
        let mut held = handed.sockets()?;
        let sockets = held.len();
        let network = supervisor::network::plan(&context.layout, &self.record, &mut held)?;
        handed.keep(sockets, held.len())?;
        let in_background = attach.is_none() && !self.is_step;
        let cgroup = supervisor::cgroup::Plan::of(&self.record, &mut self.spec, in_background)?;
        supervisor::start(Launch {
            layout: context.layout.clone(),
            spec: self.spec,
            seccomp: self.seccomp,
            rootfs: self.rootfs,
            arriving: self.arriving,
            verdict: self.verdict,
            layer_ids: self.layer_ids,
            fill: self.fill,
            accounts: self.accounts,
            chores: self.chores,
            secrets: self.secrets,
            cgroup,
            network,
            birth,
            attach,
            beside: self.beside,
            base: self.base,
            making: self.making,
            ids: self.ids,
            mapping: self.mapping,
            dies_with_starter: self.is_step,
            held: self.held,
            seal: SealedExe::of_self()?,
            handed,
            notifications: self.notifications,
            handed_over: None,
            record: self.record,
        })
    }
}

/// How the ids of layers are shifted for a container in this user namespace: from the numbers of the base namespace, which
/// the mount is in, to those that the layers have, which are the container's.
fn layer_ids(userns: &UserNamespace, mapping: &Mapping) -> Result<IdMap, CommandError> {
    if bundle::is_single(userns, mapping) {
        // Other ids have no number in the container's namespace, and keep theirs.
        return Ok(IdMap::default());
    }
    let (uids, gids) = bundle::nested_maps(userns, mapping)?;
    let ranges = |map: &runtime::userns::IdMap| {
        map.0.iter().map(|one| IdRange { from: one.host, to: one.container, length: one.size }).collect()
    };
    Ok(IdMap::new(ranges(&uids), ranges(&gids)))
}

/// What becomes of the container's image, if it was not here when this command began.
fn take_arrival(context: &Context, record: &Record) -> Option<Verdict> {
    let image = record.image.as_ref()?;
    let mut arrivals = context.arrivals.borrow_mut();
    let at = arrivals.iter().position(|(id, _)| *id == image.id)?;
    Some(arrivals.swap_remove(at).1)
}

/// Unpacks what is missing, in a child: layers are a cache. With `is_arriving` those of the image itself come by themselves.
fn ensure_layers(context: &Context, record: &Record, mapping: &Mapping, is_arriving: bool) -> Result<(), CommandError> {
    let mounted = record.request.mounts.iter().filter_map(|mount| match mount {
        Mount::Image(mount) => Some((mount.id.clone(), mount.layers.as_slice())),
        _ => None,
    });
    let own = record.image.iter().filter(|_| !is_arriving).map(|image| (image.id.to_string(), image.layers.as_slice()));
    let ownership = supervisor::rootfs::ownership(mapping);
    for (id, layers) in own.chain(mounted) {
        let is_there = |id| context.layout.layer(id, ownership).join("diff").is_dir();
        if layers.iter().all(is_there) {
            continue;
        }
        let store = ImageStore::open(&context.layout);
        let policy = if mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() };
        in_userns_with_output(mapping, || {
            let found = store.resolve(&id).map_err(CommandError::host)?;
            let found = found.ok_or_else(|| CommandError::host(format!("image {id} is gone")))?;
            let progress = storage::progress::Silent;
            storage::layer::ensure_unpacked(&store, &found, &policy, &progress).map_err(CommandError::host)?;
            Ok(String::new())
        })?;
    }
    Ok(())
}

/// The container whose namespaces are shared, if any: its init, and a hold on it.
fn shared_namespaces(
    context: &Context,
    request: &Request,
    purpose: Purpose,
) -> Result<(Shared, Option<OwnedFd>), CommandError> {
    let named = [&request.pid, &request.ipc, &request.uts, &request.cgroupns].into_iter().filter_map(|one| match one {
        Namespace::Container(name) => Some(name.as_str()),
        _ => None,
    });
    let names: HashSet<&str> = named.chain(request.network.mode.strip_prefix("container:")).collect();
    let mut found: Option<Record> = None;
    for name in names {
        let record = container::find(&context.layout, name).map_err(CommandError::user)?;
        match &found {
            Some(other) if other.id != record.id => {
                return Err(CommandError::user("namespaces can be shared with one container only, not with several"));
            }
            _ => found = Some(record),
        }
    }
    let Some(record) = found else { return Ok((Shared::default(), None)) };
    let observed = status::observe(&context.layout, &record).map_err(CommandError::host)?;
    if observed.state.init().is_none() && record.request.infra && purpose == Purpose::Create {
        return Ok((Shared { later: true, ..Shared::default() }, None));
    }
    let not_running =
        || CommandError::user(format!("container {} is not running: its namespaces cannot be joined", record.name));
    let init = observed.state.init().ok_or_else(not_running)?;
    let fd = pidfd::open_checked(init.pid, init.start_time).map_err(|_| not_running())?;
    Ok((Shared { pid: Some(init.pid), ..Shared::default() }, Some(fd)))
}
