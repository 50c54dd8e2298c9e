//! `kube generate`: containers, pods and volumes as Kubernetes' objects.

mod container;
mod pod;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};
use storage::image::ImageStore;
use storage::state::container::{self as containers, ContainerError, Record};
use storage::state::pod::{self as pods, Pod, PodError};
use storage::volume::{self, Volume, VolumeError};

use self::pod::Group;
use super::emit;
use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::{CommandError, reason};

const EXAMPLES: &str = r#"Examples:
  coracle kube generate web
  coracle kube generate -s -f app.yml pod1
  coracle kube generate web data | kubectl apply -f -"#;

/// Generate Kubernetes YAML from containers, pods or volumes
///
/// Containers become one pod, a pod becomes a pod, a volume a PersistentVolumeClaim. What Kubernetes has no word for is
/// left out, with a line on stderr.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of a container, pod or volume (can be repeated)
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Write to this file, which must not exist
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Add annotations that only podman and coracle understand
    #[arg(long)]
    podman_only: bool,
    /// How many replicas a Deployment has
    #[arg(short, long, value_name = "NUMBER")]
    replicas: Option<u32>,
    /// Generate a Service of the published ports, too
    #[arg(short, long)]
    service: bool,
    /// Kind of the object: pod, deployment, daemonset or job
    #[arg(short = 't', long = "type", value_name = "KIND", default_value = "pod")]
    kind: String,
}

/// What a pod is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod,
    Deployment { replicas: Option<u32> },
    DaemonSet,
    Job,
}

impl Kind {
    fn parse(args: &Args) -> Result<Self, CommandError> {
        let kind = match args.kind.as_str() {
            "pod" => Self::Pod,
            "deployment" => Self::Deployment { replicas: args.replicas },
            "daemonset" => Self::DaemonSet,
            "job" => Self::Job,
            other => {
                return Err(CommandError::user(format_args!(
                    "invalid generation type - only pods, deployments, jobs, and daemonsets are currently supported: \
                     {other}"
                )));
            }
        };
        match kind {
            Self::Deployment { .. } => Ok(kind),
            _ if args.replicas.is_some() => {
                Err(CommandError::user("--replicas can only be set when --type is set to deployment"))
            }
            _ => Ok(kind),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let kind = Kind::parse(&args)?;
    let (mut lone, mut groups, mut volumes) = (Vec::new(), Vec::new(), Vec::new());
    for name in &args.names {
        match find(context, name)? {
            Found::Container(record) => lone.push(*record),
            Found::Pod(pod) => groups.push(Group::of_pod(&pod, pods::members(&context.layout, &pod)?)),
            Found::Volume(volume) => volumes.push(volume),
        }
    }
    if !lone.is_empty() {
        groups.insert(0, Group::of_containers(lone));
    }
    let now = Timestamp::now();
    let created = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut documents: Vec<Value> = volumes.iter().map(|volume| claim(volume, &created)).collect();
    let mut warnings = Vec::new();
    for group in &groups {
        let world = pod::World {
            image: &|record| image_of(context, record),
            is_directory: &|path: &Path| path.metadata().ok().map(|metadata| metadata.is_dir()),
            created: &created,
            podman_only: args.podman_only,
        };
        let made = pod::describe(group, &world, &mut warnings);
        if args.service {
            documents.push(pod::service(&made, &mut NodePorts::new(now)));
        }
        documents.push(workload(kind, made)?);
    }
    for line in &warnings {
        eprintln!("Warning: {line}");
    }
    let texts: Vec<String> = documents.iter().map(emit::yaml).collect();
    let version = format!("{}-{}", context.program, env!("CARGO_PKG_VERSION"));
    let text = format!(
        "# Save the output of this file and use kubectl create -f to import\n# it into Kubernetes.\n#\n# Created with \
         {version}\n{}",
        texts.join("---\n")
    );
    match &args.filename {
        None => output::print_line(text)?,
        Some(path) => write(path, &text)?,
    }
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CommandError::user(format_args!("cannot write to {:?}; file exists", path.display().to_string()))
        }
        _ => CommandError::user(format_args!("{}: {}", path.display(), reason(&error))),
    })
}

enum Found {
    Container(Box<Record>),
    Pod(Box<Pod>),
    Volume(Volume),
}

fn find(context: &Context, name: &str) -> Result<Found, CommandError> {
    let layout = &context.layout;
    match containers::find(layout, name) {
        Ok(record) => {
            return match &record.request.pod {
                Some(pod) => Err(CommandError::user(format_args!(
                    "container {} is associated with pod {pod}: use generate on the pod itself",
                    record.id
                ))),
                None => Ok(Found::Container(Box::new(record))),
            };
        }
        Err(ContainerError::NotFound(_)) => {}
        Err(error) => return Err(CommandError::user(error)),
    }
    match pods::find(layout, name) {
        Ok(pod) => return Ok(Found::Pod(Box::new(pod))),
        Err(PodError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match volume::find(layout, name) {
        Ok(volume) => Ok(Found::Volume(volume)),
        Err(VolumeError::NotFound(_)) => Err(CommandError::user(format_args!("name or ID {name:?} not found"))),
        Err(error) => Err(error.into()),
    }
}

/// What the container's image says; nothing if it is gone.
fn image_of(context: &Context, record: &Record) -> Option<ImageConfiguration> {
    let id = record.image.as_ref()?.id.to_string();
    Some(ImageStore::open(&context.layout).resolve(&id).ok()??.config)
}

/// A volume as a claim on one.
fn claim(volume: &Volume, created: &str) -> Value {
    let mut annotations = serde_json::Map::new();
    annotations.insert("volume.podman.io/driver".to_owned(), json!("local"));
    let mut words = Vec::new();
    for (name, value) in &volume.options {
        let key = match name.as_str() {
            "type" | "device" => name.as_str(),
            "o" => {
                words.extend(value.split(',').filter(|word| !word.starts_with("uid=") && !word.starts_with("gid=")));
                for id in value.split(',') {
                    if let Some((key @ ("uid" | "gid"), id)) = id.split_once('=') {
                        annotations.insert(format!("volume.podman.io/{key}"), json!(id));
                    }
                }
                continue;
            }
            _ => continue,
        };
        annotations.insert(format!("volume.podman.io/{key}"), json!(value));
    }
    if !words.is_empty() {
        annotations.insert("volume.podman.io/mount-options".to_owned(), json!(words.join(",")));
    }
    let mut metadata = json!({ "annotations": annotations, "creationTimestamp": created, "name": volume.name });
    if !volume.labels.is_empty() {
        metadata["labels"] = json!(volume.labels);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
        "status": {},
    })
}

/// A pod, or what makes it.
fn workload(kind: Kind, made: Value) -> Result<Value, CommandError> {
    let restart = made["spec"]["restartPolicy"].as_str().unwrap_or("Always");
    let refused = match kind {
        Kind::Pod => return Ok(made),
        Kind::Deployment { .. } if restart != "Always" => Some("Deployments can only have restartPolicy set to Always"),
        Kind::DaemonSet if restart != "Always" => Some("DaemonSets can only have restartPolicy set to Always"),
        Kind::Job if restart == "Always" => {
            Some("Jobs can not have restartPolicy set to Always; only Never and OnFailure policies allowed")
        }
        _ => None,
    };
    if let Some(why) = refused {
        return Err(CommandError::user(format_args!("k8s {why}")));
    }
    let (name, version, suffix) = match kind {
        Kind::Job => ("Job", "batch/v1", "job"),
        Kind::DaemonSet => ("DaemonSet", "apps/v1", "daemonset"),
        _ => ("Deployment", "apps/v1", "deployment"),
    };
    let metadata = &made["metadata"];
    let pod_name = metadata["name"].as_str().unwrap_or_default();
    let mut spec = json!({ "template": { "metadata": metadata, "spec": made["spec"] } });
    if kind != Kind::Job {
        spec["selector"] = json!({ "matchLabels": metadata["labels"] });
    }
    if let Kind::Deployment { replicas: Some(replicas) } = kind
        && replicas != 1
    {
        spec["replicas"] = json!(replicas);
    }
    Ok(json!({
        "apiVersion": version,
        "kind": name,
        "metadata": {
            "creationTimestamp": metadata["creationTimestamp"],
            "labels": metadata["labels"],
            "name": format!("{pod_name}-{suffix}"),
        },
        "spec": spec,
    }))
}

/// Ports of the nodes of a cluster, from the range that it has for them, each once.
struct NodePorts {
    next: u32,
}

impl NodePorts {
    const FIRST: u32 = 30_000;
    const COUNT: u32 = 2_768;

    /// Begins anywhere.
    fn new(now: Timestamp) -> Self {
        Self { next: now.subsec_nanosecond().unsigned_abs() / 1000 % Self::COUNT }
    }

    fn next(&mut self) -> u32 {
        self.next = (self.next + 1) % Self::COUNT;
        Self::FIRST + self.next
    }
}
