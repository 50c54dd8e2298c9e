//! `auto-update`: newer images for containers that run in units of systemd.
//!
//! ```text
//! containers with the label ─▶ is there a newer image? ─▶ pull ─▶ restart the unit ─▶ ready?
//!                                                                                    └ no: the old image, and again
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime::cgroup::manager;
use storage::image::{Image, ImageStore};
use storage::reference::Reference;
use storage::state::container::Record;
use storage::state::status;
use storage::transport::registry::RegistrySource;
use storage::transport::{ImageSource as _, PullError, PullOptions};

use super::pull::{self, RegistryArgs};
use super::{Context, Outcome, select};
use crate::cli::container_options::SYSTEMD_UNIT;
use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = "Examples:
  coracle run -d --label io.containers.autoupdate=registry …    # or AutoUpdate=registry in a .container file
  coracle auto-update --dry-run                  # what would be updated
  systemctl --user enable --now coracle-auto-update.timer";

/// The label of a container that is to be updated.
const LABEL: &str = "io.containers.autoupdate";

/// The label that names a file with credentials for it.
const AUTHFILE_LABEL: &str = "io.containers.autoupdate.authfile";

/// Auto update containers according to their auto-update policy
///
/// Containers with the label io.containers.autoupdate=registry get the image that the registry has now, those with =local
/// the one that has their image's name here: the unit of systemd that they run in is restarted. If it does not become ready,
/// it gets the image that it had.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// File with credentials for registries
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Tell what would be updated, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Format output using a Go template, or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Go back to the image that there was if the unit does not become ready
    #[arg(long, default_value_t = true)]
    rollback: bool,
    /// Require HTTPS and verify certificates; false allows plain HTTP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
}

/// Where the newer image is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Registry,
    Local,
}

/// A container that may be updated.
struct Task {
    record: Record,
    policy: Policy,
    unit: String,
    /// The name of its image.
    name: String,
    /// What came of it.
    updated: &'static str,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let mut errors = Vec::new();
    let mut units: BTreeMap<String, Vec<Task>> = BTreeMap::new();
    for record in select::all(context)? {
        match task(context, record) {
            Ok(Some(task)) => units.entry(task.unit.clone()).or_default().push(task),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    let mut pulled = BTreeMap::new();
    let mut rows = Vec::new();
    for (unit, mut tasks) in units {
        let mut old = Vec::new();
        for task in &mut tasks {
            match is_outdated(&args, context, task, &mut pulled) {
                Ok(Some(image)) => {
                    task.updated = "pending";
                    old.extend(image.map(|image| (task.name.clone(), image)));
                }
                Ok(None) => {}
                Err(error) => {
                    task.updated = "failed";
                    errors.push(error.while_doing(format_args!("update container {}", task.record.name)));
                }
            }
        }
        if !args.dry_run && tasks.iter().any(|task| task.updated == "pending") {
            let outcome = restart(&args, context, &unit, &old, &mut errors);
            for task in tasks.iter_mut().filter(|task| task.updated == "pending") {
                task.updated = outcome;
            }
        }
        rows.extend(tasks.iter().map(Task::row));
    }
    show(&args, context, rows)?;
    select::finish(errors)
}

/// What is to be done about a container, if anything.
fn task(context: &Context, record: Record) -> Result<Option<Task>, CommandError> {
    let labels = &record.request.labels;
    let policy = match labels.get(LABEL).map(String::as_str) {
        None | Some("" | "disabled") => return Ok(None),
        Some("registry" | "image") => Policy::Registry,
        Some("local") => Policy::Local,
        Some(other) => {
            return Err(CommandError::user(format_args!(
                "container {}: auto-update policy {other:?}: must be registry, local or disabled",
                record.name
            )));
        }
    };
    if !status::observe(&context.layout, &record)?.state.is_alive() || record.request.infra {
        return Ok(None);
    }
    let unit = labels.get(SYSTEMD_UNIT).cloned().ok_or_else(|| {
        CommandError::user(format_args!("auto-updating container {}: no {SYSTEMD_UNIT} label found", record.name))
            .hinted("let a unit of systemd start it: coracle quadlet --help")
    })?;
    let image = record.image.as_ref().filter(|image| !image.full.is_empty());
    let name = image.map(|image| image.full.clone()).ok_or_else(|| {
        CommandError::user(format_args!(
            "container {}: its image has no name by which a newer one could be found",
            record.name
        ))
    })?;
    let typed = image.map(|image| image.typed.as_str()).unwrap_or_default();
    let host = typed.split_once('/').map(|(host, _)| host);
    let is_qualified = host.is_some_and(|host| host.contains(['.', ':']) || host == "localhost");
    if policy == Policy::Registry && !is_qualified {
        return Err(CommandError::user(format_args!(
            "container {}: image {typed:?} is a short name: auto updates need the full one, {name}",
            record.name
        )));
    }
    Ok(Some(Task { record, policy, unit, name, updated: "false" }))
}

/// Whether there is a newer image, which is here then unless this is a dry run; with the image to go back to.
fn is_outdated(
    args: &Args,
    context: &Context,
    task: &Task,
    pulled: &mut BTreeMap<String, Option<Image>>,
) -> Result<Option<Option<Image>>, CommandError> {
    let store = ImageStore::open(&context.layout);
    let Some(used) = &task.record.image else { return Ok(None) };
    let old = store.resolve(&used.id.to_string())?;
    if task.policy == Policy::Registry {
        if !pulled.contains_key(&task.name) {
            let before = store.resolve(&task.name)?;
            let authfile = task.record.request.labels.get(AUTHFILE_LABEL).map(PathBuf::from);
            let registry = RegistryArgs::of(args.tls_verify, authfile.or_else(|| args.authfile.clone()));
            let options = PullOptions { client: registry.to_client_options()?, ..PullOptions::default() };
            let is_new = is_new(&task.name, before.as_ref(), &options)?;
            if is_new && !args.dry_run {
                pull::ensure(context, &task.name, storage::state::request::PullPolicy::Always, &options, true)?;
            }
            pulled.insert(task.name.clone(), before.filter(|_| is_new));
        }
        if let Some(Some(before)) = pulled.get(&task.name) {
            return Ok(Some(Some(before.clone())));
        }
    }
    // What its name means here by now, however it came.
    let now = store.resolve(&task.name)?;
    Ok(now.filter(|now| now.id != used.id).map(|_| old))
}

/// Whether the registry has another image by this name than we do.
fn is_new(name: &str, local: Option<&Image>, options: &PullOptions) -> Result<bool, CommandError> {
    let Some(local) = local else { return Ok(true) };
    let reference = Reference::parse(name).map_err(CommandError::user)?;
    let mut options = options.clone();
    pull::ask_helper(&mut options.client, &reference)?;
    let found = super::in_userns_with_output(&runtime::userns::Mapping::of_user(), || {
        let source = RegistrySource::new(&reference, &options.client);
        let raw = source.manifest(None).map_err(|reason| {
            let from = source.describe();
            CommandError::host(PullError { from, reason })
        })?;
        Ok(storage::digest::Digest::of(&raw.bytes).to_string())
    })?;
    let known = [Some(local.manifest.digest.to_string()), local.index.as_ref().map(ToString::to_string)];
    Ok(!known.contains(&Some(found.trim().to_owned())))
}

/// Restarts a unit, and once more with the images it had if it does not become ready.
fn restart(
    args: &Args,
    context: &Context,
    unit: &str,
    old: &[(String, Image)],
    errors: &mut Vec<CommandError>,
) -> &'static str {
    let error = match manager::restart_unit(unit) {
        Ok(()) => return "true",
        Err(error) => error,
    };
    errors.push(CommandError::host(format_args!("restart {unit}: {error}")));
    if !args.rollback || old.is_empty() {
        return "failed";
    }
    let store = ImageStore::open(&context.layout);
    for (name, image) in old {
        let back = Reference::parse(name).map_err(CommandError::user).and_then(|name| Ok(store.tag(image, &name)?));
        if let Err(error) = back {
            errors.push(error.while_doing(format_args!("go back to the image that {name} was")));
            return "failed";
        }
    }
    match manager::restart_unit(unit) {
        Ok(()) => "rolled back",
        Err(error) => {
            errors.push(CommandError::host(format_args!("restart {unit} with the image that it had: {error}")));
            "failed"
        }
    }
}

impl Task {
    fn row(&self) -> Value {
        let id = self.record.id.as_str();
        let policy = match self.policy {
            Policy::Registry => "registry",
            Policy::Local => "local",
        };
        let text = |text: &str| Value::Str(text.to_owned());
        Value::Struct(vec![
            ("Unit", text(&self.unit)),
            ("Container", text(&format!("{} ({})", self.record.id.short(), self.record.name))),
            ("ContainerName", text(&self.record.name)),
            ("ContainerID", text(id)),
            ("Image", text(&self.name)),
            ("Policy", text(policy)),
            ("Updated", text(self.updated)),
        ])
    }
}

fn show(args: &Args, context: &Context, rows: Vec<Value>) -> Result<(), CommandError> {
    let format = match args.format.as_deref() {
        Some(format) if is_json(format) => {
            let style = Json { indent: Some(4), escape_html: true, open_empty_maps: true };
            return output::print_line(Value::List(rows).to_json(style));
        }
        None | Some("table") => r"table {{.Unit}}\t{{.Container}}\t{{.Image}}\t{{.Policy}}\t{{.Updated}}",
        Some(format) => format,
    };
    if rows.is_empty() && args.format.is_none() {
        return Ok(());
    }
    let listing = Listing {
        name: "auto-update",
        type_name: "cmd.autoUpdateOutput",
        format,
        headings: &[("ContainerName", "CONTAINER NAME"), ("ContainerID", "CONTAINER ID")],
        no_heading: false,
        docker: context.persona == crate::role::Persona::Docker,
    };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(()), Err)
}
