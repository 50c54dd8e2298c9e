//! `commit`: an image from what a container changed in its own.

use std::path::PathBuf;

use oci_spec::image::Config;
use runtime::cgroup::{Cgroup, Frozen};
use runtime::userns::Mapping;
use serde_json::{Map, Value};
use storage::image::{Image, ImageStore};
use storage::layer::{IdMap, IdPolicy, IdRange};
use storage::state::container::{self, ContainerError, Record};
use storage::state::request::Mount;
use storage::state::status;
use storage::transport::commit::{CommitOptions, Format, commit};

use super::change::Changed;
use super::pull::local_options;
use super::{Context, Outcome};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::OfCommit;
use crate::cli::output;
use crate::error::{CommandError, reason};
use crate::role::Persona;
use crate::supervisor::bundle;

const EXAMPLES: &str = r#"Examples:
  coracle commit -m 'with tools' web localhost/web:tools
  coracle commit -c 'CMD ["/run.sh"]' -c 'ENV A=b' web localhost/web:2"#;

/// Create new image based on the changed container
///
/// Create an image from a container's changes. Optionally tag the image created, set the author with the --author flag, set the commit message with the --message flag, and make changes to the instructions with the --change flag.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Set the author for the image committed
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,
    /// Apply an instruction to the created image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Format of the image manifest and metadata, oci or docker
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// File to write the image ID to
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Include container volumes as image volumes
    #[arg(short, long)]
    include_volumes: bool,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Pause container during commit
    #[arg(short, long)]
    pause: bool,
    /// Suppress output
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    accepted: Accepted<OfCommit>,
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
}

/// Runs `commit`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.accepted.warn();
    let is_docker = context.persona == Persona::Docker;
    let format = match args.format.as_deref() {
        // docker has no other.
        None | Some("") if is_docker => Format::Docker,
        None | Some("" | "oci") => Format::Oci,
        Some("docker") => Format::Docker,
        Some(other) => return Err(CommandError::user(format_args!("unrecognized image format {other:?}"))),
    };
    if args.message.is_some() && format == Format::Oci {
        return Err(CommandError::user("messages are only compatible with the docker image format (-f docker)"));
    }
    let names = args.image.as_deref().map(super::tag::local_name).transpose()?.into_iter().collect();
    let wanted = if is_docker { args.container.strip_prefix('/').unwrap_or(&args.container) } else { &args.container };
    let record = container::find(&context.layout, wanted).map_err(|error| match error {
        ContainerError::NotFound(_) if is_docker => {
            CommandError::user(format_args!("No such container: {}", args.container))
        }
        error => error.into(),
    })?;
    let store = ImageStore::open(&context.layout);
    let base = image_of(&record, &store)?;
    let from = record.image.as_ref().map(|image| if image.full.is_empty() { &image.typed } else { &image.full });
    let wanted = CommitOptions {
        format,
        config: config(&args, &record, &base)?,
        author: args.author.clone(),
        message: args.message.clone(),
        created_by: "/bin/sh".to_owned(),
        comment: match (is_docker, &args.message) {
            (true, message) => message.clone().unwrap_or_default(),
            (false, _) => format!("FROM {}", from.map(String::as_str).unwrap_or_default()),
        },
        names,
    };
    let upper = context.layout.container(&record.id).join("upper");
    let upper_ids = ids_of(&record)?;
    let _frozen = args.pause.then(|| freeze(&record, context)).transpose()?.flatten();
    let (mapping, options) = local_options();
    let id = super::in_userns_with_output(&mapping, || {
        let progress = crate::cli::progress::for_terminal(args.quiet);
        let image = commit(&store, &base, (&upper, &upper_ids), &wanted, &options, progress.as_ref());
        let failed = |error| CommandError::host(error).while_doing("commit");
        Ok(image.map_err(failed)?.id.hex().to_owned())
    })?;
    if let Some(path) = &args.iidfile {
        let failed =
            |error| CommandError::user(format!("write the image ID to {}: {}", path.display(), reason(&error)));
        std::fs::write(path, &id).map_err(failed)?;
    }
    context.note(&record, "commit");
    output::print_line(if is_docker { format!("sha256:{id}") } else { id })?;
    Ok(0)
}

/// The image a container was made from, with its blobs.
fn image_of(record: &Record, store: &ImageStore) -> Result<Image, CommandError> {
    let Some(known) = record.image.as_ref().filter(|_| record.request.rootfs.is_none()) else {
        return Err(CommandError::user("cannot commit a container that uses an exploded rootfs"));
    };
    store.resolve(&known.id.to_string())?.ok_or_else(|| {
        let error =
            format_args!("commit {}: its image {} is not in the store any more", record.name, known.typed).to_string();
        CommandError::user(error).hinted(format!("coracle pull {}", known.typed))
    })
}

/// What the container is, as an image.
fn config(args: &Args, record: &Record, base: &Image) -> Result<Map<String, Value>, CommandError> {
    let request = &record.request;
    let mut config = base.config.config().clone().unwrap_or_default();
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    // Says who runs the container, and the next one may be somebody else.
    let env = request.env.iter().filter(|variable| *variable != "container=coracle").cloned().collect::<Vec<_>>();
    config.set_env(some(&env));
    config.set_entrypoint(some(&request.entrypoint));
    config.set_cmd(some(&request.cmd));
    config.set_user(Some(request.user.clone()).filter(|user| !user.is_empty()));
    config.set_working_dir(Some(request.workdir.display().to_string()).filter(|path| !path.is_empty()));
    let labels = request.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>();
    config.set_labels((!labels.is_empty()).then_some(labels));
    let mut ports = config.exposed_ports().clone().unwrap_or_default();
    let published = request.network.published.iter().map(|port| (port.container_port, port.range, port.protocol));
    let exposed = request.network.exposed.iter().map(|port| (port.port, port.range, port.protocol));
    for (first, range, protocol) in published.chain(exposed) {
        for port in (0..range).filter_map(|offset| first.checked_add(offset)) {
            let port = format!("{port}/{}", protocol.as_str());
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
    }
    config.set_exposed_ports((!ports.is_empty()).then_some(ports));
    let mut volumes = config.volumes().clone().unwrap_or_default();
    for mount in &request.mounts {
        let is_anonymous = matches!(
            mount,
            Mount::Volume(volume) if volume.name.as_ref().is_none_or(|name| record.anonymous_volumes.contains(name))
        );
        let is_volume = mount.is_kept();
        let target = mount.target().display().to_string();
        if (is_anonymous || (args.include_volumes && is_volume)) && !volumes.contains(&target) {
            volumes.push(target);
        }
    }
    config.set_volumes((!volumes.is_empty()).then_some(volumes));
    let mut changed = Changed::new(config);
    for change in &args.change {
        let applied = changed.apply(change);
        applied.map_err(|why| CommandError::user(format!("applying changes: processing change {change:?}: {why}")))?;
    }
    merge(base, &changed)
}

/// What OCI does not specify stays as the image has it, but for triggers: those were for the first image made from it.
fn merge(base: &Image, changed: &Changed) -> Result<Map<String, Value>, CommandError> {
    let internal = |error: serde_json::Error| CommandError::new(crate::error::Kind::Internal, error);
    let raw: Map<String, Value> = serde_json::from_slice(&base.raw_config).map_err(internal)?;
    let mut merged = raw.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in
        ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "OnBuild"]
    {
        merged.remove(name);
    }
    let config: &Config = &changed.config;
    if let Value::Object(config) = serde_json::to_value(config).map_err(internal)? {
        merged.extend(config.into_iter().filter(|(_, value)| !value.is_null()));
    }
    merged.extend(changed.beyond_oci());
    Ok(merged)
}

/// Whom the files of the container's upper directory belong to.
fn ids_of(record: &Record) -> Result<IdPolicy, CommandError> {
    let mapping = Mapping::of_user();
    let userns = &record.request.userns;
    if bundle::is_single(userns, &mapping) {
        return Ok(IdPolicy::Single);
    }
    let (uids, gids) = bundle::nested_maps(userns, &mapping)?;
    let ranges = |map: runtime::userns::IdMap| {
        map.0
            .iter()
            .map(|entry| IdRange { from: entry.container, to: entry.host, length: entry.size })
            .collect::<Vec<_>>()
    };
    Ok(IdPolicy::Mapped(IdMap::new(ranges(uids), ranges(gids))))
}

/// Stops the processes of a container that runs until the result is dropped.
fn freeze(record: &Record, context: &Context) -> Result<Option<Frozen>, CommandError> {
    let observed = status::observe(&context.layout, record)?;
    let Some(init) = observed.state.init().filter(|_| observed.state.is_alive()) else { return Ok(None) };
    let own = format!("coracle-{}", record.id);
    let cgroup = Cgroup::of_process(init.pid).filter(|path| path.iter().any(|name| name == own.as_str()));
    let cgroup = cgroup.ok_or_else(|| {
        CommandError::host(format!("--pause: container {} has no cgroup of its own that could be frozen", record.name))
    })?;
    let failed = |error| CommandError::host(format!("--pause: freeze {}: {}", cgroup.display(), reason(&error)));
    Frozen::new(&cgroup).map(Some).map_err(failed)
}
