//! `kube down`: takes away what `kube play` has made.

use storage::prune;
use storage::secret::{self, SecretError};
use storage::state::pod::{self, PodError};
use storage::volume::{self, VolumeError};

use super::read::{self, Object};
use super::source;
use crate::cli::output;
use crate::commands::{Context, Outcome, pod as pods, space};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle kube down nginx.yml
  cat nginx.yml | coracle kube down -
  coracle kube down --force https://example.com/nginx.yml"#;

/// Remove pods based on Kubernetes YAML
///
/// Removes the pods, their containers and the secrets that the file describes. Volumes stay, unless --force says
/// otherwise.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// The file: a path, - or an address
    #[arg(value_name = "KUBEFILE|-")]
    file: String,
    /// Remove volumes
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let objects = read::objects(&source::read(&args.file)?).map_err(CommandError::user)?;
    tear_down(context, &objects, args.force)?;
    Ok(0)
}

/// Removes what the objects describe, and says what that was. What is not there needs no removing; after a failure the
/// rest goes all the same.
pub(super) fn tear_down(context: &Context, objects: &[Object], force: bool) -> Result<(), CommandError> {
    let layout = &context.layout;
    let mut errors = Vec::new();
    let (mut stopped, mut removed) = (Vec::new(), Vec::new());
    for object in objects {
        let Object::Pod(named) = object else { continue };
        let pod = match pod::find(layout, &named.name) {
            Ok(pod) if pod.name == named.name => pod,
            Ok(_) | Err(PodError::NotFound(_)) => continue,
            Err(error) => {
                errors.push(error.into());
                continue;
            }
        };
        match pods::stop_pod(context, &pod, None) {
            Ok(()) => stopped.push(pod),
            Err(error) => errors.push(error),
        }
    }
    for pod in &stopped {
        match pods::remove(context, pod, None) {
            Ok(()) => removed.push(pod.id.to_string()),
            Err(error) => errors.push(error),
        }
    }
    let (mut secrets, mut volumes) = (Vec::new(), Vec::new());
    for object in objects {
        if let Object::Secret(one) = object {
            // By its name alone, not by an id that begins with it.
            let found = secret::find(layout, &one.metadata.name).map(|secret| secret.name == one.metadata.name);
            let gone = match found {
                Ok(true) => secret::remove(layout, &one.metadata.name),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            match gone {
                Ok(secret) => secrets.push(secret.id),
                Err(SecretError::NotFound(_)) => {}
                Err(error) => errors.push(error.into()),
            }
        }
    }
    for object in objects.iter().filter(|_| force) {
        let name = match object {
            Object::Claim(claim) => &claim.metadata.name,
            Object::ConfigMap(map) => &map.metadata.name,
            _ => continue,
        };
        let users = |volume: &volume::Volume| {
            let users = prune::volume_users(layout, &volume.name).unwrap_or_default();
            users.into_iter().map(String::from).collect()
        };
        match volume::remove_to(layout, name, context.removal(), users) {
            Ok(volume) => volumes.push(volume.name),
            Err(VolumeError::NotFound(_) | VolumeError::InvalidName(_)) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    space::empty_trash(layout);
    for (heading, names) in [
        ("Pods stopped:", stopped.iter().map(|pod| pod.id.to_string()).collect()),
        ("Pods removed:", removed),
        ("Secrets removed:", secrets),
        ("Volumes removed:", volumes),
    ] {
        output::print_line(heading)?;
        names.iter().try_for_each(output::print_line)?;
    }
    // Every one is told; the last is the command's.
    let last: Option<CommandError> = errors.pop();
    errors.iter().for_each(CommandError::print);
    last.map_or(Ok(()), Err)
}
