//! `buildx`: what docker's plugin of that name has besides `build`. There is one builder: this machine and its user.

mod bake;

/// What bake files say.
mod definition;

/// Their expressions.
mod expression;

/// Expressions that may fail.
mod attempt;

/// Regular expressions in them.
mod pattern;

/// Files of compose.
mod compose;

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Context, Outcome};
use crate::cli::output;
use crate::error::{CommandError, reason};
use bake::{BakeFile, Planned};

/// The version of the plugin whose command line is offered. Docker Compose decides by it whether it asks us to bake.
pub(super) const OFFERED: &str = "v0.17.1";

const NAME: &str = "default";

/// The files that are read if none is named.
const DEFAULT_FILES: [&str; 8] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];

/// Build from a file of several targets
///
/// Reads docker-bake.hcl, docker-bake.json or a compose file: variables, functions and matrices as docker has them. Targets that others need are built before them.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct BakeArgs {
    /// File of targets; - reads it from stdin (can be repeated)
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// Change a target: TARGET.KEY=VALUE (can be repeated)
    #[arg(long, value_name = "CHANGE")]
    set: Vec<String>,
    /// Print what would be built, and build nothing
    #[arg(long)]
    print: bool,
    /// Do not use what was built before
    #[arg(long)]
    no_cache: bool,
    /// Pull base images even if there are some
    #[arg(long)]
    pull: bool,
    /// Put the images into the store, as is done anyway
    #[arg(long)]
    load: bool,
    /// How progress is shown: auto, plain, tty, quiet or rawjson
    #[arg(long, value_name = "FORM")]
    progress: Option<String>,
    /// File to write what was built to, as JSON by target
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Access that builds get; they have that of the caller
    #[arg(long, value_name = "ACCESS")]
    allow: Vec<String>,
    /// Builder to use, of which there is one
    #[arg(long, value_name = "NAME")]
    builder: Option<String>,
    /// Whether to tell where the image comes from; it is not told
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Whether to tell what is in the image; it is not told
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Targets or groups, the group or target default if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Create a builder
#[derive(clap::Args, Debug)]
pub(crate) struct CreateArgs {
    /// Name of the builder
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Driver; builds run on this machine with any
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// Option of the driver
    #[arg(long, value_name = "OPTION")]
    driver_opt: Vec<String>,
    /// Flags of a daemon that there is not
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    buildkitd_flags: Option<String>,
    /// Platforms of the builder
    #[arg(long, value_name = "PLATFORMS")]
    platform: Vec<String>,
    /// Make it the current one
    #[arg(long = "use")]
    is_used: bool,
    /// Start it at once
    #[arg(long)]
    bootstrap: bool,
    /// Endpoint
    #[arg(value_name = "ENDPOINT")]
    endpoint: Option<String>,
}

/// Inspect the builder
#[derive(clap::Args, Debug)]
pub(crate) struct InspectArgs {
    /// Start it before; there is nothing to start
    #[arg(long)]
    bootstrap: bool,
    /// Its name
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// List builders
#[derive(clap::Args, Debug)]
pub(crate) struct LsArgs {}

/// Remove a builder
#[derive(clap::Args, Debug)]
pub(crate) struct RmArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove those that are not used
    #[arg(long)]
    all_inactive: bool,
    /// Its name
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Set the current builder
#[derive(clap::Args, Debug)]
pub(crate) struct UseArgs {
    /// For all contexts
    #[arg(long)]
    global: bool,
    /// Also where no context is current
    #[arg(long)]
    default: bool,
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

/// The command line of the plugin: docker calls it as `docker-buildx [OPTIONS] buildx COMMAND`, others as
/// `docker-buildx COMMAND`.
pub(super) fn arranged(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.get(1).is_some_and(|word| word == "--version") {
        args[1] = "version".into();
    }
    if !args.iter().any(|word| word == "buildx") {
        args.insert(1, "buildx".into());
    }
    args
}

/// What docker wants to know of a plugin.
pub(super) fn metadata() -> Outcome {
    let json = json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "coracle",
        "Version": OFFERED,
        "ShortDescription": "Builds without a daemon",
    });
    output::print_line(json)?;
    Ok(0)
}

/// Runs `buildx create`.
pub(super) fn create(args: &CreateArgs) -> Outcome {
    eprintln!("Builds run on this machine, as its user, by any name: no builder was created.");
    output::print_line(args.name.as_deref().unwrap_or(NAME))?;
    Ok(0)
}

/// Runs `buildx use`.
pub(super) fn choose(args: &UseArgs) -> Outcome {
    if args.name != NAME {
        eprintln!("Builds run on this machine, as its user: {} is the same as {NAME}.", args.name);
    }
    Ok(0)
}

/// Runs `buildx rm`.
pub(super) fn rm(args: &RmArgs) -> Outcome {
    for name in &args.names {
        if name == NAME {
            return Err(CommandError::user(format!("builder {NAME} cannot be removed: it is this machine")));
        }
        eprintln!("{name} removed");
    }
    Ok(0)
}

fn platform() -> String {
    let platform = storage::image::index::Platform::host();
    format!("{}/{}", platform.os, platform.architecture)
}

/// Runs `buildx ls`.
pub(super) fn ls(_: &LsArgs) -> Outcome {
    output::print(&format!(
        "NAME/NODE     DRIVER/ENDPOINT   STATUS    BUILDKIT   PLATFORMS\n\
         {NAME}*      coracle                                 \n \
         \\_ {NAME}    \\_ {NAME}       running   -          {}\n",
        platform()
    ))?;
    Ok(0)
}

/// Runs `buildx inspect`.
pub(super) fn inspect(args: &InspectArgs) -> Outcome {
    let name = args.name.as_deref().unwrap_or(NAME);
    output::print(&format!(
        "Name:   {name}\nDriver: coracle\n\nNodes:\nName:      {name}\nEndpoint:  {NAME}\nStatus:    running\nPlatforms: {}\n",
        platform()
    ))?;
    Ok(0)
}

/// Runs `buildx bake`.
pub(super) fn bake(args: &BakeArgs, context: &Context) -> Outcome {
    let sources = sources(&args.file)?;
    let mut file = BakeFile::read(&sources, &|name| std::env::var(name).ok()).map_err(CommandError::user)?;
    for change in &args.set {
        file.set(change).map_err(CommandError::user)?;
    }
    let planned = file.plan(&args.targets).map_err(CommandError::user)?;
    if args.print {
        let targets: Map<String, Value> =
            planned.iter().map(|target| (target.name.clone(), target.definition.clone())).collect();
        let names: Vec<&str> = planned.iter().map(|target| target.name.as_str()).collect();
        let json = json!({ "group": { "default": { "targets": names } }, "target": targets });
        output::print(&format!("{json:#}\n"))?;
        return Ok(0);
    }
    let scratch = Scratch::new()?;
    let mut results = Map::new();
    for target in &planned {
        let words = words(args, target, &scratch)?;
        let code =
            super::run_as(&words, context).map_err(|error| error.while_doing(format!("target {}", target.name)))?;
        if code != 0 {
            return Ok(code);
        }
        let result = fs::read(scratch.metadata(&target.name)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        results.insert(target.name.clone(), result.unwrap_or(Value::Null));
    }
    if let Some(path) = &args.metadata_file {
        let text = format!("{:#}\n", Value::Object(results));
        fs::write(path, text)
            .map_err(|error| CommandError::user(format!("--metadata-file {}: {}", path.display(), reason(&error))))?;
    }
    Ok(0)
}

/// The command line of `build` for a target.
fn words(args: &BakeArgs, target: &Planned, scratch: &Scratch) -> Result<Vec<String>, CommandError> {
    let mut words = vec!["build".to_owned()];
    words.extend(args.progress.iter().map(|form| format!("--progress={form}")));
    words.extend(args.no_cache.then(|| "--no-cache".to_owned()));
    words.extend(args.pull.then(|| "--pull".to_owned()));
    words.push(format!("--metadata-file={}", scratch.metadata(&target.name).display()));
    words.push(format!("--iidfile={}", scratch.id(&target.name).display()));
    if let Some(text) = &target.inline {
        let path = scratch.0.join(format!("{}.Dockerfile", Scratch::safe(&target.name)));
        fs::write(&path, text).map_err(|error| scratch.failed(&error))?;
        words.push(format!("--file={}", path.display()));
    }
    for (name, other) in &target.linked {
        let id = fs::read_to_string(scratch.id(other)).map_err(|error| scratch.failed(&error))?;
        words.push(format!("--build-context={name}=docker-image://{}", id.trim()));
    }
    words.extend(target.words.iter().cloned());
    Ok(words)
}

/// The files that are named, or those that are there.
fn sources(named: &[String]) -> Result<Vec<(String, String)>, CommandError> {
    let found: Vec<String> = match named {
        [] => DEFAULT_FILES.iter().filter(|name| Path::new(name).is_file()).map(ToString::to_string).collect(),
        named => named.to_vec(),
    };
    if found.is_empty() {
        let error = CommandError::user(
            "couldn't find a bake definition: there is no docker-bake.hcl, docker-bake.json or compose.yaml",
        );
        return Err(error.hinted("name a file with --file"));
    }
    let read = |name: String| {
        let mut text = String::new();
        let read = match name.as_str() {
            "-" => std::io::stdin().read_to_string(&mut text),
            path => fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
        };
        read.map_err(|error| CommandError::user(format!("read {name}: {}", reason(&error))))?;
        Ok((name, text))
    };
    found.into_iter().map(read).collect()
}

/// A directory for what the builds tell each other; gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, CommandError> {
        use std::os::unix::fs::DirBuilderExt;
        let failed =
            |error: std::io::Error| CommandError::host(format!("make a temporary directory: {}", reason(&error)));
        for attempt in 0..100 {
            let path = std::env::temp_dir().join(format!("coracle-bake-{}-{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(std::io::ErrorKind::AlreadyExists.into()))
    }

    fn safe(name: &str) -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
    }

    fn metadata(&self, name: &str) -> PathBuf {
        self.0.join(format!("{}.json", Self::safe(name)))
    }

    fn id(&self, name: &str) -> PathBuf {
        self.0.join(format!("{}.id", Self::safe(name)))
    }

    fn failed(&self, error: &std::io::Error) -> CommandError {
        CommandError::host(format!("{}: {}", self.0.display(), reason(error)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_is_called_with_and_without_its_name() {
        let arranged = |words: &[&str]| {
            let words = arranged(words.iter().map(OsString::from).collect());
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(arranged(&["docker-buildx", "buildx", "build", "."]), ["docker-buildx", "buildx", "build", "."]);
        assert_eq!(arranged(&["docker-buildx", "bake", "-f", "-"]), ["docker-buildx", "buildx", "bake", "-f", "-"]);
        assert_eq!(arranged(&["docker-buildx", "--version"]), ["docker-buildx", "buildx", "version"]);
    }
}
