//! `coracle create`, and how `run` and `start` turn a request into something that can be launched.

mod prepare;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use storage::image::Image;
use storage::state::atomic::Durability;
use storage::state::container::{self, Creation, ImageRecord, Record};
use storage::state::layout::ContainerId;
use storage::state::request::{InitContainer, Mount, PullPolicy, Request, RestartPolicy};
use storage::transport::PullOptions;

use super::lazy::Interest;
use super::{Context, Outcome, pull};
use crate::cli::container_options::{Asked, ContainerOptions};
use crate::cli::options::Caller;
use crate::cli::options::defaults::{self, Typed};
use crate::config::{self, Defaults};
use crate::error::{CommandError, Kind};
use crate::role::Persona;
use crate::supervisor::{self, bundle};
pub(crate) use prepare::{Prepared, Purpose, StepRoot, prepare, prepare_for, prepare_step};

const EXAMPLES: &str = r#"Examples:
  coracle create --name web -p 8080:80 nginx
  coracle start web"#;

/// Create a container but do not start it
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Run it to its end before the other containers of its pod start: always, or once
    #[arg(long, value_name = "WHEN")]
    init_ctr: Option<String>,
    #[command(flatten)]
    registry: pull::RegistryArgs,
    #[command(flatten)]
    container: ContainerOptions,
}

/// Runs `coracle create`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let life = &args.container.life;
    let init = match args.init_ctr.as_deref() {
        None => None,
        Some(_) if life.pod.is_none() && life.pod_id_file.is_none() => {
            return Err(CommandError::user("must specify pod value with init-ctr"));
        }
        Some("always") => Some(InitContainer::Always),
        Some("once") => Some(InitContainer::Once),
        Some(_) => return Err(CommandError::user("init-ctr value must be 'always' or 'once'")),
    };
    let mut record = new_record(context, &args.container, &args.registry, false)?;
    if init.is_some() {
        // What ends to make room for others does not come back.
        (record.request.init_container, record.request.restart) = (init, RestartPolicy::No);
    }
    let name = claim_place(context, &args.container)?;
    let prepared = prepare_for(context, record, Purpose::Create)?;
    let volumes = prepared.record.anonymous_volumes.clone();
    let cidfile = prepared.record.request.cidfile.clone();
    // What fails from here on leaves nothing: the container never was.
    let forget_volumes = |_: &CommandError| bundle::forget_volumes(&context.layout, &volumes);
    write_cidfile(&prepared.record).inspect_err(forget_volumes)?;
    let id = publish(context, prepared, name).inspect_err(|error| {
        if let Some(path) = &cidfile {
            let _ = fs::remove_file(path);
        }
        forget_volumes(error);
    })?;
    println!("{id}");
    Ok(0)
}

/// Gives the container its name and its place on disk.
pub(crate) fn publish(
    context: &Context,
    prepared: Prepared,
    name: Option<String>,
) -> Result<ContainerId, CommandError> {
    let mut creation = Creation::begin(&context.layout, prepared.record.id.clone()).map_err(CommandError::host)?;
    let mut record = prepared.record;
    record.name = match name {
        Some(name) => {
            creation.claim_name(&name).map_err(CommandError::host)?;
            name
        }
        None => creation.claim_random_name().map_err(CommandError::host)?,
    };
    supervisor::write_bundle(&context.layout, &record, &prepared.spec, prepared.seccomp.as_ref())?;
    creation.publish(&record, Durability::Full).map_err(CommandError::host)?;
    context.note(&record, "create");
    Ok(record.id)
}

/// Whoever typed the command.
pub(crate) fn with_caller<T>(work: impl FnOnce(&Caller<'_>) -> Result<T, CommandError>) -> Result<T, CommandError> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let cwd = std::env::current_dir()
        .map_err(|error| CommandError::user(format!("working directory: {}", crate::error::reason(&error))))?;
    work(&Caller {
        environment: &environment,
        cwd: &cwd,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        read: &|path| fs::read(path),
    })
}

/// Decides everything that the command line and the image say; pulls the image if it has to.
pub(crate) fn new_record(
    context: &Context,
    options: &ContainerOptions,
    registry: &pull::RegistryArgs,
    started_at_once: bool,
) -> Result<Record, CommandError> {
    let command: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let options = &filled(context, options, &command)?;
    let asked = with_caller(|caller| options.ask(caller, command).map_err(CommandError::user))?;
    for warning in asked.warnings() {
        eprintln!("{warning}");
    }
    options.accepted.warn();
    for required in &asked.request().requires {
        container::find(&context.layout, required).map_err(CommandError::user)?;
    }
    for link in &asked.request().network.links {
        container::find(&context.layout, &link.container).map_err(CommandError::user)?;
    }
    check_cidfile(asked.request())?;
    complete(context, asked, registry, options.life.quiet, started_at_once, |request| {
        super::pod::join(context, &options.life, request)
    })
}

/// The options, with what the configuration says where they do not say anything.
fn filled(context: &Context, options: &ContainerOptions, command: &[String]) -> Result<ContainerOptions, CommandError> {
    let mut options = options.clone();
    let typed = Typed::of(command, &options);
    if context.persona == Persona::Docker {
        defaults::fill(&mut options, Defaults::of_docker()?, &typed);
        return Ok(options);
    }
    let (values, pull_policy, stop_timeout) = config::containers()?;
    if let Some(policy) = pull_policy.filter(|_| !typed.has("--pull")) {
        options.life.pull = policy;
    }
    options.process.stop_timeout = options.process.stop_timeout.or(stop_timeout);
    // What scripts set for all their containers.
    if let Some(mode) = std::env::var("PODMAN_USERNS").ok().filter(|mode| !mode.is_empty())
        && options.life.pod.is_none()
        && options.accounts.uid_maps.is_empty()
        && options.accounts.gid_maps.is_empty()
    {
        options.security.userns.get_or_insert(mode);
    }
    defaults::fill(&mut options, values, &typed);
    Ok(options)
}

/// Finds the image, and merges what it says; `place` gives the container its place among others.
pub(crate) fn complete(
    context: &Context,
    asked: Asked,
    registry: &pull::RegistryArgs,
    quiet: bool,
    started_at_once: bool,
    place: impl FnOnce(&mut Request) -> Result<(), CommandError>,
) -> Result<Record, CommandError> {
    let image = match &asked.request().rootfs {
        Some(root) if !root.is_dir() => {
            return Err(CommandError::user(format_args!("--rootfs {}: no such directory", root.display())));
        }
        Some(_) => None,
        None => {
            let pull_options = PullOptions {
                platform: pull::parse_platform(asked.request().platform.as_deref())?,
                client: registry.to_client_options()?,
                ..PullOptions::default()
            };
            let request = asked.request();
            Some(if request.pull == PullPolicy::Lazy && started_at_once {
                let interest = if request.remove { Interest::Passing } else { Interest::Lasting };
                let (image, verdict) = pull::ensure_lazily(context, &request.image, &pull_options, quiet, interest)?;
                context.arrivals.borrow_mut().extend(verdict.map(|verdict| (image.id.clone(), verdict)));
                image
            } else {
                pull::ensure(context, &request.image, request.pull, &pull_options, quiet)?
            })
        }
    };
    let is_docker = context.persona == crate::role::Persona::Docker;
    let asked = asked.with_image_health(image.as_ref().map(|image| image.raw_config.as_slice()));
    let mut request = asked.finish(image.as_ref().map(|image| &image.config)).map_err(CommandError::user)?;
    // Tutorials for docker publish port 80 without a thought.
    request.network.remap_low_ports = is_docker;
    place(&mut request)?;
    crate::networks::resolve(&context.layout, &mut request.network)?;
    take_volumes_from(context, &mut request)?;
    resolve_image_mounts(context, &mut request, registry, quiet)?;
    let mut record = Record {
        version: container::VERSION,
        id: ContainerId::random(),
        name: String::new(),
        created: jiff::Timestamp::now(),
        image: image.as_ref().map(|image| image_record(&request, image)),
        driver: String::new(),
        started_at_once,
        anonymous_volumes: Vec::new(),
        addresses: std::collections::BTreeMap::new(),
        request,
    };
    name_anonymous_volumes(&mut record);
    Ok(record)
}

/// Anonymous volumes have their names from the beginning: each start finds the same ones.
fn name_anonymous_volumes(record: &mut Record) {
    // Records of old have the names beside the mounts, in their order.
    let mut known = record.anonymous_volumes.clone().into_iter();
    for mount in &mut record.request.mounts {
        if let Mount::Volume(volume) = mount
            && volume.name.is_none()
        {
            volume.name = Some(known.next().unwrap_or_else(|| storage::volume::Volume::anonymous().name));
            volume.anonymous = true;
        }
    }
}

/// `--mount type=image`: names become ids, and images that are missing are pulled.
fn resolve_image_mounts(
    context: &Context,
    request: &mut Request,
    registry: &pull::RegistryArgs,
    quiet: bool,
) -> Result<(), CommandError> {
    let policy = request.pull;
    for mount in &mut request.mounts {
        let Mount::Image(mount) = mount else { continue };
        let options = PullOptions { client: registry.to_client_options()?, ..PullOptions::default() };
        let image = pull::ensure(context, &mount.image, policy, &options, quiet)?;
        mount.id = image.id.hex().to_owned();
        mount.layers = image.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    }
    Ok(())
}

pub(crate) fn image_record(request: &Request, image: &Image) -> ImageRecord {
    let spellings = [request.image.clone(), format!("localhost/{}", request.image)];
    let full = spellings
        .iter()
        .filter_map(|text| Some(storage::reference::Reference::parse(text).ok()?.with_default_tag()))
        .find(|reference| image.names.contains(reference))
        .or_else(|| image.names.first().cloned());
    ImageRecord {
        typed: request.image.clone(),
        full: full.map(|name| name.to_string()).unwrap_or_default(),
        id: image.id.clone(),
        manifest: image.manifest.digest.clone(),
        platform: image.platform.to_string(),
        layers: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
    }
}

/// `--volumes-from`: mounts of other containers, at places where none was asked for. They replace volumes that the image
/// declares, and those of a container that was named before.
pub(crate) fn take_volumes_from(context: &Context, request: &mut Request) -> Result<(), CommandError> {
    let mut taken: Vec<Mount> = Vec::new();
    for source in &request.volumes_from {
        let mut other = container::find(&context.layout, &source.container).map_err(CommandError::user)?;
        name_anonymous_volumes(&mut other);
        for mut mount in other.request.mounts {
            match &mut mount {
                Mount::Volume(volume) => {
                    volume.read_only |= source.read_only;
                    // It goes with the other container, unless this one still uses it.
                    (volume.anonymous, volume.from_image) = (false, false);
                }
                Mount::Bind(bind) => bind.read_only |= source.read_only,
                _ => continue,
            }
            taken.retain(|earlier| earlier.target() != mount.target());
            taken.push(mount);
        }
    }
    for mount in taken {
        let is_here = |own: &Mount| own.target() == mount.target();
        request.mounts.retain(|own| !(own.is_from_image() && is_here(own)));
        if !request.mounts.iter().any(is_here) {
            request.mounts.push(mount);
        }
    }
    Ok(())
}

/// The name the container shall have; with `--replace` the one that has it goes.
pub(crate) fn claim_place(context: &Context, options: &ContainerOptions) -> Result<Option<String>, CommandError> {
    // An empty one is none: `--name "$NAME"`.
    let Some(name) = options.life.name.as_ref().filter(|name| !name.is_empty()) else { return Ok(None) };
    if options.life.replace
        && let Ok(other) = container::find(&context.layout, name)
        && other.name == *name
    {
        super::lifecycle::begin_stop(context, &other, Some(std::time::Duration::ZERO))?.finish(context)?;
        super::rm::remove(context, &other, true)?;
        super::space::empty_trash(&context.layout);
    }
    Ok(Some(name.clone()))
}

fn check_cidfile(request: &Request) -> Result<(), CommandError> {
    match &request.cidfile {
        Some(path) if path.exists() => {
            Err(CommandError::user(format!("--cidfile {}: the file exists already", path.display())))
        }
        _ => Ok(()),
    }
}

/// Writes `--cidfile`, which must not exist.
pub(crate) fn write_cidfile(record: &Record) -> Result<(), CommandError> {
    let Some(path) = &record.request.cidfile else { return Ok(()) };
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(record.id.to_string().as_bytes()));
    written
        .map_err(|error| CommandError::user(format!("--cidfile {}: {}", path.display(), crate::error::reason(&error))))
}

/// An internal error for what cannot happen.
pub(crate) fn internal(message: impl std::fmt::Display) -> CommandError {
    CommandError::new(Kind::Internal, message)
}
