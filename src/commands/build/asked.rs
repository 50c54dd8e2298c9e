//! The command line of `build` as what the executor is asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;

use storage::image::index::Platform;
use storage::layer::tar::Timestamp;
use storage::state::request::PullPolicy;
use storage::transport::commit::Format;

use super::Args;
use super::places::read;
use crate::build::containerfile::{self, Containerfile};
use crate::build::options::{Options, Progress, Secret, Squash};
use crate::build::stage::platform_argument;
use crate::cli::parse::words;
use crate::cli::usage::one;
use crate::commands::{Context, tag};
use crate::error::{CommandError, reason};
use crate::role::Persona;

/// Arguments before the first FROM.
pub(super) fn global(file: &Containerfile, options: &Options) -> Result<BTreeMap<String, String>, CommandError> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let target = options.platform.clone().unwrap_or_else(Platform::host);
    for part in ["PLATFORM", "OS", "ARCH", "VARIANT"] {
        for side in ["TARGET", "BUILD"] {
            let name = format!("{side}{part}");
            if let Some(value) = platform_argument(&name, &target) {
                values.insert(name, value);
            }
        }
    }
    let automatic = values.clone();
    for arg in &file.global_args {
        let located = |error: containerfile::ExpandError| CommandError::user(error);
        let escape = file.directives.escape;
        let name = arg.name.expand(escape, &|name| values.get(name).cloned()).map_err(located)?;
        let default = arg.default.as_ref().map(|word| word.expand(escape, &|name| values.get(name).cloned()));
        let default = default.transpose().map_err(located)?;
        let value = options.build_args.get(&name).cloned().or(default).or_else(|| automatic.get(&name).cloned());
        if let Some(value) = value {
            values.insert(name, value);
        }
    }
    Ok(values)
}

/// Command line and environment become options.
pub(super) fn options(args: &Args, context: &Context) -> Result<Options, CommandError> {
    let is_docker = context.persona == Persona::Docker;
    let tags = args.tag.iter().map(|name| tag::local_name(name)).collect::<Result<Vec<_>, _>>()?;
    let platforms = args.platform.asked().map_err(CommandError::user)?;
    let platforms = platforms.iter().map(|text| Platform::parse(text)).collect::<Result<Vec<_>, _>>();
    let pull = match args.pull.as_deref() {
        None => PullPolicy::Missing,
        Some("true") => PullPolicy::Always,
        Some("false") => PullPolicy::Missing,
        Some(text) => one("--pull", text, words::pull_policy).map_err(CommandError::user)?,
    };
    let environment = |name: &str| std::env::var(name).ok();
    let progress = args.progress.clone().or_else(|| environment("BUILDKIT_PROGRESS")).unwrap_or_default();
    let progress = match (args.quiet, progress.as_str()) {
        (true, _) | (_, "quiet") => Progress::Quiet,
        (_, "rawjson") => Progress::RawJson,
        (_, "tty") => Progress::Terminal,
        (_, "auto" | "") if args.logfile.is_none() && is_watched(is_docker) => Progress::Terminal,
        (_, "auto" | "plain" | "") if is_docker => Progress::Vertices,
        (_, "auto" | "plain" | "") => Progress::Steps,
        (_, other) => {
            return Err(CommandError::user(format!("--progress {other}: one of auto, plain, tty, quiet, rawjson")));
        }
    };
    let timestamp = match (args.timestamp, environment("SOURCE_DATE_EPOCH")) {
        (Some(secs), _) => Some(secs),
        (None, Some(text)) if !text.is_empty() => {
            let parsed = text.parse::<i64>();
            Some(parsed.map_err(|_| CommandError::user(format!("SOURCE_DATE_EPOCH={text}: not a number of seconds")))?)
        }
        _ => None,
    };
    let pairs = |flag: &str, list: &[String]| -> Result<Vec<(String, String)>, CommandError> {
        list.iter()
            .map(|text| match text.split_once('=') {
                Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
                None if !text.is_empty() => Ok((text.clone(), String::new())),
                _ => Err(CommandError::user(format!("{flag} {text}: expected NAME=VALUE"))),
            })
            .collect()
    };
    let mut env = pairs("--env", &args.env)?;
    for (given, (name, value)) in args.env.iter().zip(&mut env) {
        if !given.contains('=') {
            *value = environment(name).unwrap_or_default();
        }
    }
    let jobs = match args.jobs {
        Some(0) => usize::MAX,
        Some(jobs) => jobs,
        // podman builds one stage after the other unless told otherwise; BuildKit all at once.
        None if is_docker => std::thread::available_parallelism().map_or(2, usize::from).max(2),
        None => 1,
    };
    let format = match args.format.as_deref() {
        None | Some("") if is_docker => Format::Docker,
        None | Some("" | "oci") => Format::Oci,
        Some("docker") => Format::Docker,
        Some(other) => return Err(CommandError::user(format!("unrecognized image format {other:?}"))),
    };
    Ok(Options {
        persona: context.persona,
        tags,
        typed_tags: args.tag.clone(),
        build_args: build_args(args)?,
        contexts: pairs("--build-context", &args.build_context)?.into_iter().collect(),
        target: args.target.clone().filter(|target| !target.is_empty()),
        from: args.from.clone(),
        platforms: platforms.map_err(CommandError::user)?,
        platform: None,
        debug: args.debug,
        no_cache: args.no_cache,
        layers: args.layers,
        pull,
        client: args.registry.to_client_options()?,
        secrets: secrets(&args.secret)?,
        agents: agents(&args.ssh)?,
        run_flags: args.steps.flags(),
        network: args.network.clone().filter(|mode| !mode.is_empty() && mode != "default"),
        labels: pairs("--label", &args.label)?,
        annotations: pairs("--annotation", &args.annotation)?.into_iter().collect(),
        env,
        unset_env: args.unsetenv.clone(),
        unset_labels: args.unsetlabel.clone(),
        squash: match (args.squash_all, args.squash) {
            (true, _) => Squash::All,
            (false, true) => Squash::New,
            (false, false) => Squash::No,
        },
        format,
        timestamp: timestamp.map(|secs| Timestamp { secs, nanos: 0 }),
        omit_history: args.omit_history,
        with_unused: !args.skip_unused_stages,
        jobs,
        is_own_cache: args.build_arg.iter().any(|arg| arg == "BUILDKIT_INLINE_CACHE=1"),
        progress,
    })
}

/// Whether somebody looks at the terminal: podman's lines on standard output are also for programs.
fn is_watched(is_docker: bool) -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb" || name.is_empty());
    !is_dumb && std::io::stderr().is_terminal() && (is_docker || std::io::stdout().is_terminal())
}

/// `--build-arg-file` first, then `--build-arg`.
fn build_args(args: &Args) -> Result<BTreeMap<String, String>, CommandError> {
    let mut all = BTreeMap::new();
    for path in &args.build_arg_file {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        all.extend(
            lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
    }
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => drop(all.insert(name.to_owned(), value.to_owned())),
            None => match std::env::var(text) {
                Ok(value) => drop(all.insert(text.clone(), value)),
                // What is not in the environment is as if it had not been named.
                Err(_) => drop(all.remove(text)),
            },
        }
    }
    Ok(all)
}

/// `--secret id=ID[,src=FILE|,env=VARIABLE][,type=file|env]`.
fn secrets(asked: &[String]) -> Result<BTreeMap<String, Secret>, CommandError> {
    let mut all = BTreeMap::new();
    for text in asked {
        let bad = |why: &str| CommandError::user(format!("--secret {text}: {why}"));
        let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => id = Some(value),
                Some(("src" | "source", value)) => source = Some(value),
                Some(("env", value)) => variable = Some(value),
                Some(("type", value @ ("file" | "env"))) => kind = Some(value),
                _ => return Err(bad(&format!("expected id=, src=, env= or type=, not {part:?}"))),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| bad("expected id="))?;
        if kind == Some("env") && variable.is_none() {
            variable = source.take();
        }
        let bytes = match (source, variable) {
            (Some(path), None) => fs::read(path).map_err(|error| bad(&reason(&error)))?,
            (None, Some(name)) => variable_of(name).ok_or_else(|| bad("there is no such variable"))?,
            // The variable of that name, else the file.
            (None, None) => match variable_of(id) {
                Some(value) => value,
                None => fs::read(id).map_err(|error| bad(&reason(&error)))?,
            },
            (Some(_), Some(_)) => return Err(bad("src= and env= exclude each other")),
        };
        all.insert(id.to_owned(), Secret(bytes));
    }
    Ok(all)
}

fn variable_of(name: &str) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).map(OsStringExt::into_vec)
}

/// `--ssh default|ID[=SOCKET]`.
fn agents(asked: &[String]) -> Result<BTreeMap<String, PathBuf>, CommandError> {
    let mut all = BTreeMap::new();
    for text in asked {
        let bad = |why: String| CommandError::user(format!("--ssh {text}: {why}"));
        let (id, given) =
            text.split_once('=').map_or((text.as_str(), None), |(id, path)| (id, Some(PathBuf::from(path))));
        let path = given.or_else(|| std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from));
        let path = path.ok_or_else(|| bad("SSH_AUTH_SOCK is not set: no agent runs".to_owned()))?;
        use std::os::unix::fs::FileTypeExt;
        let kind =
            fs::metadata(&path).map_err(|error| bad(format!("{}: {}", path.display(), reason(&error))))?.file_type();
        if !kind.is_socket() {
            return Err(bad(format!("{}: not the socket of an agent; keys are not read", path.display())));
        }
        all.insert(if id.is_empty() { "default".to_owned() } else { id.to_owned() }, path);
    }
    Ok(all)
}
