//! `mount` and `unmount`: the root file system of a container that does not run, at a place of the host.
//!
//! The place is what the container's `config.json` calls its root, so that another OCI runtime can run the bundle.
//!
//! **Runs in:** the CLI, inside of `coracle unshare`: mounts of an ordinary user live in a namespace of their own.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Spec};
use runtime::mount::rootfs::{self, Rootfs};
use runtime::userns::Mapping;
use storage::layer::{IdMap, IdRange};
use storage::state::container::{self, Record};
use storage::state::layout::{Layout, create_dir};
use storage::state::status;

use super::{Context, Outcome};
use crate::cli::format::{Json, Value};
use crate::cli::output;
use crate::error::{CommandError, reason};
use crate::supervisor::bundle::is_single;
use crate::supervisor::rootfs::{drivers, mount_point, of};
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
    /// List what is mounted as json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
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
/// Works inside of `coracle unshare`.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct UnmountArgs {
    /// Unmount all containers
    #[arg(short, long)]
    all: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Force the unmount (it is never refused)
    #[arg(short, long)]
    force: bool,
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs `coracle mount`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.format.as_deref().is_some_and(|format| format != "json") {
        return Err(CommandError::user("mount: the only supported format is json"));
    }
    if !args.all && !args.latest && args.containers.is_empty() {
        return list(&args, context);
    }
    inside_of_unshare("mount")?;
    let records = match args.latest {
        true => vec![super::select::latest(context)?],
        false => chosen(context, args.all, &args.containers)?,
    };
    for record in &records {
        let place = mount(context, record)?;
        match records.len() {
            1 if !args.all => println!("{}", place.display()),
            _ => println!("{} {}", record.id.short(), place.display()),
        }
    }
    Ok(0)
}

/// What is mounted.
fn list(args: &Args, context: &Context) -> Outcome {
    let mut rows = Vec::new();
    for record in container::list(&context.layout)?.0 {
        let place = mount_point(&context.layout, &record);
        if !is_mount_point(&place) {
            continue;
        }
        let shown = if args.no_trunc { record.id.as_str() } else { record.id.short() };
        match args.format {
            None => println!("{shown} {}", place.display()),
            Some(_) => rows.push(Value::Struct(vec![
                ("id", record.id.as_str().into()),
                ("Names", Value::strings([record.name.as_str()])),
                ("mountpoint", place.display().to_string().into()),
            ])),
        }
    }
    if args.format.is_some() {
        let style = Json { indent: Some(1), escape_html: true, open_empty_maps: false };
        output::print_line(Value::List(rows).to_json(style))?;
    }
    Ok(0)
}

/// Runs `coracle unmount`.
pub(crate) fn run_unmount(args: UnmountArgs, context: &Context) -> Outcome {
    if !args.all && !args.latest && args.containers.is_empty() {
        return Err(CommandError::user("you must provide at least one name or id, or --all"));
    }
    inside_of_unshare("unmount")?;
    let records = match args.latest {
        true => vec![super::select::latest(context)?],
        false => chosen(context, args.all, &args.containers)?,
    };
    for record in records {
        let place = mount_point(&context.layout, &record);
        if is_mount_point(&place) {
            rootfs::unmount(&place).map_err(CommandError::host)?;
            let _ = std::fs::remove_dir(&place);
            println!("{}", record.id);
        }
    }
    Ok(0)
}

fn inside_of_unshare(command: &str) -> Result<(), CommandError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let error = CommandError::user(format!("coracle {command} works inside of `coracle unshare` only"));
    Err(error.hinted(format!("coracle unshare sh -c 'coracle {command} CONTAINER && ...'")))
}

fn chosen(context: &Context, all: bool, names: &[String]) -> Result<Vec<Record>, CommandError> {
    if all {
        return Ok(container::list(&context.layout)?.0);
    }
    Ok(names.iter().map(|name| container::find(&context.layout, name)).collect::<Result<_, _>>()?)
}

/// Mounts one container's root unless it is mounted already; returns where.
fn mount(context: &Context, record: &Record) -> Result<std::path::PathBuf, CommandError> {
    let layout = &context.layout;
    let place = mount_point(layout, record);
    if is_mount_point(&place) {
        return Ok(place);
    }
    if status::observe(layout, record)?.state.is_alive() {
        // Two overlays over one upper directory: the kernel promises nothing.
        return Err(CommandError::user(format!("container {} is running: use exec to work in it", record.name)));
    }
    let _lock = status::lock_at_rest(layout, record)?;
    write_own_files(context, record)?;
    create_dir(&place).map_err(CommandError::host)?;
    // It ends when it is unmounted.
    let cwd = std::env::current_dir();
    if let Some(server) = attach(context, record, &place, false)?.1 {
        server.detach();
    }
    if let Ok(cwd) = cwd {
        let _ = std::env::set_current_dir(cwd);
    }
    Ok(place)
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
    let single_id = is_single(&record.request.userns, &Mapping::of_user());
    let drivers = drivers(context.storage_driver()?, &record.driver, !layer_ids.is_identity(), single_id);
    let mut root = of(&context.layout, record, drivers);
    if let Rootfs::Stack(stack) = &mut root {
        // A work directory that was mounted so once cannot be mounted again.
        stack.volatile = false;
    }
    let mut server = None;
    let mut serve = |connection| {
        let Rootfs::Stack(stack) = &root else { return Ok(()) };
        let plan = union_server::Plan { stack, ids: &layer_ids, single_id, dies_with_parent };
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
    crate::supervisor::network::plan(record)?.write_files(&context.layout, record, None)
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| std::fs::symlink_metadata(path).ok().map(|metadata| metadata.dev());
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parent)) => own != parent,
        _ => false,
    }
}
