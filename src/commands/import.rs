//! `coracle import`: an image from the tar of a root file system.

use std::fs::File;
use std::io::{IsTerminal, Read};

use oci_spec::image::Config;
use storage::image::ImageStore;
use storage::transport::import::{ImportOptions, import};

use super::pull::{local_options, parse_platform};
use super::{Context, Outcome};
use crate::cli::output;
use crate::error::{CommandError, reason};

/// Import a tarball to create a filesystem image
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The tar, of any supported compression; - is standard input
    #[arg(value_name = "PATH")]
    path: String,
    /// Name of the image
    #[arg(value_name = "REFERENCE")]
    reference: Option<String>,
    /// Apply a Dockerfile instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Commit message of the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Platform of the image, OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Print nothing but the image's ID
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `coracle import`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.path.starts_with("http://") || args.path.starts_with("https://") {
        return Err(CommandError::user(format!(
            "import {}: fetch it first: curl -L {0} | coracle import -",
            args.path
        )));
    }
    let name = args.reference.as_deref().map(super::tag::local_name).transpose()?;
    let mut config = Config::default();
    for change in &args.change {
        apply(&mut config, change).map_err(|why| CommandError::user(format!("--change \"{change}\": {why}")))?;
    }
    let wanted = ImportOptions {
        config,
        message: args.message.clone(),
        names: name.into_iter().collect(),
        platform: parse_platform(args.platform.as_deref())?,
    };
    let (mapping, options) = local_options();
    let store = ImageStore::open(&context.layout);
    let id = super::in_userns_with_output(&mapping, || {
        storage::state::layout::create_dir(&context.layout.images())?;
        let stream: Box<dyn Read> = match args.path.as_str() {
            "-" if std::io::stdin().is_terminal() => {
                return Err(CommandError::user("cannot read from terminal, use command-line redirection"));
            }
            "-" => Box::new(std::io::stdin().lock()),
            path => Box::new(
                File::open(path).map_err(|error| CommandError::user(format!("import {path}: {}", reason(&error))))?,
            ),
        };
        let progress = crate::cli::progress::for_terminal(args.quiet);
        let image = import(&store, stream, &wanted, &options, progress.as_ref()).map_err(CommandError::host)?;
        Ok(image.id.to_string())
    })?;
    output::print_line(&id)?;
    Ok(0)
}

/// Applies one Dockerfile instruction that changes the configuration only.
///
/// # Source
/// docker-import(1), podman-import(1), `--change`.
fn apply(config: &mut Config, change: &str) -> Result<(), String> {
    let (instruction, value) = match change.trim().split_once(|c: char| c.is_whitespace() || c == '=') {
        Some((instruction, value)) => (instruction.to_uppercase(), value.trim()),
        None => return Err("an instruction and its value are needed".to_owned()),
    };
    match instruction.as_str() {
        "CMD" => {
            config.set_cmd(Some(words(value)));
        }
        "ENTRYPOINT" => {
            config.set_entrypoint(Some(words(value)));
        }
        "ENV" => {
            let (name, text) = pair(value)?;
            let mut env = config.env().clone().unwrap_or_default();
            env.retain(|other| other.split('=').next() != Some(name.as_str()));
            env.push(format!("{name}={text}"));
            config.set_env(Some(env));
        }
        "EXPOSE" => {
            let mut ports = config.exposed_ports().clone().unwrap_or_default();
            for port in value.split_whitespace() {
                ports.push(if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") });
            }
            config.set_exposed_ports(Some(ports));
        }
        "LABEL" => {
            let (name, text) = pair(value)?;
            let mut labels = config.labels().clone().unwrap_or_default();
            labels.insert(name, text);
            config.set_labels(Some(labels));
        }
        "STOPSIGNAL" => {
            config.set_stop_signal(Some(value.to_owned()));
        }
        "USER" => {
            config.set_user(Some(value.to_owned()));
        }
        "VOLUME" => {
            let mut volumes = config.volumes().clone().unwrap_or_default();
            volumes.extend(list(value).unwrap_or_else(|| value.split_whitespace().map(str::to_owned).collect()));
            config.set_volumes(Some(volumes));
        }
        "WORKDIR" => {
            config.set_working_dir(Some(value.to_owned()));
        }
        _ => {
            return Err(format!(
                "{instruction} cannot be changed; use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR"
            ));
        }
    }
    Ok(())
}

/// The exec form as it is, the shell form wrapped.
fn words(value: &str) -> Vec<String> {
    list(value).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()])
}

fn list(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

fn pair(value: &str) -> Result<(String, String), String> {
    let (name, text) = value
        .split_once('=')
        .or_else(|| value.split_once(char::is_whitespace))
        .ok_or_else(|| "NAME=VALUE is needed".to_owned())?;
    Ok((name.trim().to_owned(), text.trim().trim_matches('"').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_a_dockerfile_has_them() {
        let mut config = Config::default();
        for change in
            ["CMD [\"/bin/sh\", \"-l\"]", "env A=1", "ENV A 2", "EXPOSE 80 53/udp", "LABEL a=\"b c\"", "CMD=[\"x\"]"]
        {
            apply(&mut config, change).expect(change);
        }
        assert_eq!(config.cmd().as_deref(), Some(&["x".to_owned()][..]));
        assert_eq!(config.env().as_deref(), Some(&["A=2".to_owned()][..]));
        assert_eq!(config.exposed_ports().as_deref(), Some(&["80/tcp".to_owned(), "53/udp".to_owned()][..]));
        assert_eq!(config.labels().as_ref().and_then(|all| all.get("a")).map(String::as_str), Some("b c"));
        assert!(apply(&mut config, "RUN x").is_err());
    }
}
