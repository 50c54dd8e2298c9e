//! `mount` and `unmount`: the root file system of a container that does not run, at a place of the host.
//!
//! The place is what the container's `config.json` calls its root, so that another OCI runtime can run the bundle. What is
//! mounted, and how often, stands in `/proc/self/mountinfo` alone: a second mount of the same is stacked upon the first,
//! and each unmount takes one away.
//!
//! **Runs in:** the CLI, inside of `coracle unshare`: mounts of an ordinary user live in a namespace of their own.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Spec};
use runtime::mount::rootfs::{self, Rootfs, Stack};
use runtime::mount::table;
use runtime::userns::Mapping;
use storage::layer::{IdMap, IdRange};
use storage::state::container::Record;
use storage::state::layout::{Layout, create_dir};
use storage::state::status;

use super::select::{self, Selected, Selection};
use super::{Context, Outcome};
use crate::cli::format::{Json, Value};
use crate::cli::{output, table as columns};
use crate::error::{CommandError, reason};
use crate::supervisor::bundle::is_single;
use crate::supervisor::rootfs::{drivers, mount_point, of, ownership};
use crate::supervisor::union_server::{self, UnionServer};

/// Mount a working container's root filesystem
///
/// Works inside of `coracle unshare`. Prints where each is mounted; without containers, all that are.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Mount all containers
    #[arg(short, long)]
    all: bool,
    /// Print the mounted containers in specified format (json)
    #[arg(long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    format: String,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Do not truncate output
    #[arg(long, alias = "notruncate")]
    no_trunc: bool,
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Unmount working container's root filesystem
///
/// Works inside of `coracle unshare`. What was mounted several times is unmounted as often, or with --force at once.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct UnmountArgs {
    /// Unmount all of the currently mounted containers
    #[arg(short, long)]
    all: bool,
    /// Force the complete unmount of the specified mounted containers
    #[arg(short, long)]
    force: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs `coracle mount`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    inside_of_unshare("mount", "CONTAINER")?;
    let is_json = is_json(&args.format)?;
    if !args.all && !args.latest && args.containers.is_empty() {
        let mounted = Mounted::read()?;
        let places = select::all(context)?.into_iter().map(|record| (mount_point(&context.layout, &record), record));
        let rows: Vec<Row> = places.filter(|(place, _)| mounted.times(place) > 0).map(Row::of_container).collect();
        return report(
            &rows,
            is_json,
            |row| if args.no_trunc { row.id.clone() } else { row.id.chars().take(12).collect() },
        );
    }
    let selected = chosen(context, args.all, args.latest, &args.containers)?;
    let mut rows = Vec::new();
    let outcome = select::each(&selected, Vec::new(), |one| {
        let place = mount(context, &one.record)?;
        context.note(&one.record, "mount");
        if is_json {
            rows.push(Row::of_container((place, one.record.clone())));
            return Ok(());
        }
        output::print_line(place.display())
    });
    if is_json {
        output::print_line(json(&rows))?;
    }
    outcome
}

/// Runs `coracle unmount`.
pub(crate) fn run_unmount(args: UnmountArgs, context: &Context) -> Outcome {
    if !args.all && !args.latest && args.containers.is_empty() {
        return Err(CommandError::user("you must provide at least one name or id"));
    }
    inside_of_unshare("unmount", "CONTAINER")?;
    let selected = chosen(context, args.all, args.latest, &args.containers)?;
    let mounted = Mounted::read()?;
    select::each(&selected, Vec::new(), |one| {
        let place = mount_point(&context.layout, &one.record);
        let was_mounted = mounted.unmount(&place, args.force)?;
        if was_mounted {
            context.note(&one.record, "unmount");
        }
        // Like podman: what is named may be unmounted already.
        if was_mounted || !args.all { output::print_line(&one.typed) } else { Ok(()) }
    })
}

/// An error unless mounts can be made here.
pub(crate) fn inside_of_unshare(command: &str, what: &str) -> Result<(), CommandError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let error = CommandError::user(format!("coracle {command} works inside of `coracle unshare` only"));
    Err(error.hinted(format!("coracle unshare sh -c 'coracle {command} {what} && ...'")))
}

/// Reads `--format`.
pub(crate) fn is_json(format: &str) -> Result<bool, CommandError> {
    match format {
        "" => Ok(false),
        "json" => Ok(true),
        other => Err(CommandError::user(format_args!("unknown --format argument: {other:?}"))),
    }
}

/// What is mounted in this process's mount namespace.
#[derive(Debug)]
pub(crate) struct Mounted(Vec<PathBuf>);

impl Mounted {
    /// As it is now.
    pub(crate) fn read() -> Result<Mounted, CommandError> {
        let places = table::mount_points();
        let failed = |error| CommandError::host(format_args!("read /proc/self/mountinfo: {}", reason(&error)));
        Ok(Mounted(places.map_err(failed)?))
    }

    /// How often something is mounted at a place.
    pub(crate) fn times(&self, place: &Path) -> usize {
        // The kernel names it without the links on the way.
        let parent = place.parent().and_then(|parent| parent.canonicalize().ok());
        let place = parent.zip(place.file_name()).map_or_else(|| place.to_owned(), |(parent, name)| parent.join(name));
        self.0.iter().filter(|one| **one == place).count()
    }

    /// Takes one mount away from a place, or all; says whether there was one. The directory stays: another namespace may
    /// have mounted something on it, which would go with it.
    pub(crate) fn unmount(&self, place: &Path, entirely: bool) -> Result<bool, CommandError> {
        let times = self.times(place);
        for _ in 0..times.min(if entirely { times } else { 1 }) {
            rootfs::unmount(place).map_err(CommandError::host)?;
        }
        Ok(times > 0)
    }
}

/// One thing that is mounted.
#[derive(Debug)]
pub(crate) struct Row {
    /// All of it.
    pub(crate) id: String,
    /// As podman's JSON has them: of a container its names, of an image its digests.
    pub(crate) names: Vec<String>,
    /// Names of an image.
    pub(crate) repositories: Option<Vec<String>>,
    /// Where.
    pub(crate) place: PathBuf,
}

impl Row {
    fn of_container((place, record): (PathBuf, Record)) -> Row {
        Row { id: record.id.to_string(), names: vec![record.name], repositories: None, place }
    }
}

/// Prints what is mounted.
pub(crate) fn report(rows: &[Row], is_json: bool, first_column: impl Fn(&Row) -> String) -> Outcome {
    if is_json {
        output::print_line(json(rows))?;
    } else {
        let lines = rows.iter().map(|row| format!("{}\t{}\n", first_column(row), row.place.display()));
        output::print(&columns::align(&lines.collect::<String>(), columns::PODMAN))?;
    }
    Ok(0)
}

/// The same in JSON.
pub(crate) fn json(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let mut fields = vec![("id", Value::str(&row.id)), ("Names", Value::strings(&row.names))];
        fields.extend(row.repositories.as_ref().map(|names| ("Repositories", Value::strings(names))));
        fields.push(("mountpoint", Value::str(row.place.display().to_string())));
        Value::Struct(fields)
    };
    Value::List(rows.iter().map(row).collect()).to_json(Json { indent: Some(1), ..Json::INSPECT })
}

fn chosen(context: &Context, all: bool, latest: bool, names: &[String]) -> Result<Vec<Selected>, CommandError> {
    if all && !names.is_empty() {
        return Err(CommandError::user("no arguments are needed with --all"));
    }
    let (selected, mut errors) = Selection { names, all, latest, ..Selection::default() }.resolve(context)?;
    match errors.is_empty() {
        true => Ok(selected),
        false => Err(errors.swap_remove(0)),
    }
}

/// Mounts one container's root, once more if it is mounted already; returns where.
fn mount(context: &Context, record: &Record) -> Result<PathBuf, CommandError> {
    let layout = &context.layout;
    let place = mount_point(layout, record);
    if Mounted::read()?.times(&place) > 0 {
        rootfs::stack_again(&place).map_err(CommandError::host)?;
        return Ok(place);
    }
    if status::observe(layout, record)?.state.is_alive() {
        // Its mount belongs to another user namespace, which this one has no power over; and of two overlays over one
        // upper directory the kernel promises nothing.
        let error = CommandError::user(format_args!("container {} is running: its root is mounted in it", record.name));
        return Err(error.hinted(format!("coracle exec -it {0} sh, or coracle cp {0}:PATH DEST", record.name)));
    }
    let _lock = status::lock_at_rest(layout, record)?;
    write_own_files(context, record)?;
    create_dir(&place).map_err(CommandError::host)?;
    staying(|| attach(context, record, &place, false))?;
    Ok(place)
}

/// Mounts something that stays when this process ends, and leaves the current directory as it was.
pub(crate) fn staying(
    mount: impl FnOnce() -> Result<(OwnedFd, Option<UnionServer>), CommandError>,
) -> Result<(), CommandError> {
    let cwd = std::env::current_dir();
    // Its server ends when it is unmounted.
    if let Some(server) = mount()?.1 {
        server.detach();
    }
    if let Ok(cwd) = cwd {
        let _ = std::env::set_current_dir(cwd);
    }
    Ok(())
}

/// Mounts the root of a container that is at rest at a directory; returns its root, and who serves it. The caller has
/// locked the container and works in its own mount namespace; its current directory changes.
pub(crate) fn attach(
    context: &Context,
    record: &Record,
    place: &Path,
    dies_with_parent: bool,
) -> Result<(OwnedFd, Option<UnionServer>), CommandError> {
    let layer_ids = layer_ids(&context.layout, record)?;
    // In the single-id mode there is one id here too.
    let mapping = Mapping::of_user();
    let single_id = is_single(&record.request.userns, &mapping);
    let drivers = drivers(context.storage_driver()?, &record.driver, !layer_ids.is_identity(), single_id);
    let mut root = of(&context.layout, record, ownership(&mapping), drivers);
    if let Rootfs::Stack(Stack { writable: Some(writable), .. }) = &mut root {
        // A work directory that was mounted so once cannot be mounted again.
        writable.volatile = false;
    }
    attach_root(&root, &layer_ids, single_id, place, dies_with_parent)
}

/// The same for any root file system: `ids` is how those of its layers are shifted.
pub(crate) fn attach_root(
    root: &Rootfs,
    ids: &IdMap,
    single_id: bool,
    place: &Path,
    dies_with_parent: bool,
) -> Result<(OwnedFd, Option<UnionServer>), CommandError> {
    let mut server = None;
    let mut serve = |connection| {
        let Rootfs::Stack(stack) = root else { return Ok(()) };
        let plan = union_server::Plan { stack, ids, arriving: None, single_id, dies_with_parent };
        server = Some(UnionServer::start(plan, connection)?);
        Ok(())
    };
    let mounted = root.mount(place, &mut serve);
    match (mounted, server) {
        (Ok((root, _)), server) => Ok((root, server)),
        (Err(error), mut server) => {
            let failure = server.as_mut().and_then(UnionServer::failure);
            Err(failure.map_or_else(|| CommandError::host(error), CommandError::host))
        }
    }
}

/// How the ids of the container's layers are shifted, from its bundle: the user namespace that it was asked for is that of
/// whoever created it, and here we are root of one.
fn layer_ids(layout: &Layout, record: &Record) -> Result<IdMap, CommandError> {
    let spec = spec(layout, record)?;
    let ranges = |mappings: &Option<Vec<LinuxIdMapping>>| {
        let range = |one: &LinuxIdMapping| IdRange { from: one.host_id(), to: one.container_id(), length: one.size() };
        mappings.iter().flatten().map(range).collect()
    };
    let linux = spec.linux().as_ref();
    Ok(linux.map(|linux| IdMap::new(ranges(linux.uid_mappings()), ranges(linux.gid_mappings()))).unwrap_or_default())
}

/// A container's bundle.
pub(crate) fn spec(layout: &Layout, record: &Record) -> Result<Spec, CommandError> {
    let path = layout.container(&record.id).join("config.json");
    let failed = |error: &dyn std::fmt::Display| CommandError::host(format!("read {}: {error}", path.display()));
    let text = std::fs::read(&path).map_err(|error| failed(&reason(&error)))?;
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

/// The files that `config.json` binds, for a container that was never started by us.
fn write_own_files(context: &Context, record: &Record) -> Result<(), CommandError> {
    let directory = context.layout.runtime_container(&record.id);
    if directory.join("hosts").exists() {
        return Ok(());
    }
    create_dir(&directory).map_err(CommandError::host)?;
    crate::supervisor::network::plan(&context.layout, record, &mut Default::default())?.write_files(
        &context.layout,
        record,
        None,
    )
}
