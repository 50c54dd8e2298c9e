//! What stands before the command: options of everything, other people's words for commands we do not have, and what
//! was meant by words we do not know.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args as _, FromArgMatches as _};
use storage::image::ImageStore;
use storage::state::layout::Layout;

use super::Context;
use crate::cli::accepted::Form::{Switch, Value};
use crate::cli::accepted::{Accepted, Ignored, Table};
use crate::cli::suggest::nearest;
use crate::cli::usage;
use crate::error::CommandError;
use crate::role::{Persona, Program};

/// Options of podman and docker that stand before the command and have no effect here.
#[derive(Clone, Debug)]
struct OfEverything;

const NO_CONMON: &str = "containers have no conmon";
const NO_API: &str = "there is no daemon to talk to";
const NO_NETAVARK: &str = "networks are coracle's own";

const fn value(name: &'static str, idle: &'static [&'static str], why: &'static str) -> Ignored {
    Ignored { name, form: Value, idle, why }
}

const fn switch(name: &'static str, why: &'static str) -> Ignored {
    Ignored { name, form: Switch, idle: &[], why }
}

impl Table for OfEverything {
    const OPTIONS: &'static [Ignored] = &[
        value("cgroup-manager", &["cgroupfs", "systemd"], "containers have a cgroup where one can be made"),
        value("config", &[], "see DOCKER_CONFIG and REGISTRY_AUTH_FILE"),
        value("events-backend", &["file", "none"], "events are kept in files"),
        value("runtime", &["coracle", "crun", "runc"], "containers are run by coracle itself"),
        value("runtime-flag", &[], "containers are run by coracle itself"),
        value("conmon", &[], NO_CONMON),
        value("identity", &[], NO_API),
        value("ssh", &[], NO_API),
        value("tlscacert", &[], NO_API),
        value("tlscert", &[], NO_API),
        value("tlskey", &[], NO_API),
        switch("tls", NO_API),
        switch("tlsverify", NO_API),
        switch("remote", NO_API),
        value("tmpdir", &[], "see --runroot"),
        value("volumepath", &[], "see --root"),
        value("imagestore", &[], "see --root"),
        value("hooks-dir", &[], "there are no hooks"),
        value("module", &[], "containers.conf is not read"),
        value("network-cmd-path", &[], NO_NETAVARK),
        value("network-config-dir", &[], NO_NETAVARK),
        value("out", &[], "see your shell's >"),
        switch("syslog", "messages go to standard error"),
        switch("noout", "see your shell's >"),
        switch("transient-store", "containers are kept"),
        switch("debug", "there is no log of steps; errors say what failed"),
    ];
}

/// The additional stores of the command line or, if it names none, of `storage.conf`: directories like that of `--root`.
///
/// # Errors
/// One that was named is none.
pub(super) fn additional_stores(matches: &ArgMatches) -> Result<Vec<PathBuf>, CommandError> {
    let mut stores = Vec::new();
    for option in matches.get_many::<String>("storage-opt").into_iter().flatten() {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let key = key.trim_start_matches("overlay.").trim_start_matches('.');
        if !matches!(key, "imagestore" | "additionalimagestore") {
            eprintln!("Warning: --storage-opt {option} is ignored: see --storage-driver and STORAGE_DRIVER");
            continue;
        }
        for dir in value.split(',').filter(|dir| !dir.is_empty()) {
            let path = PathBuf::from(dir);
            let refused = |why| Err(CommandError::user(format_args!("--storage-opt {key}={dir}: {why}")));
            if !path.is_absolute() {
                return refused("must be an absolute path");
            }
            if !Layout::is_store(&path) {
                return refused("there are no images of coracle: a directory is needed that was its --root");
            }
            stores.push(path);
        }
    }
    if stores.is_empty() {
        stores = crate::config::additional_stores()?;
        // Those of other programs are for them.
        stores.retain(|path| Layout::is_store(path));
    }
    Ok(stores)
}

const LEVELS: [&str; 8] = ["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"];

/// Adds the options.
pub(super) fn options(command: clap::Command) -> clap::Command {
    let path = |name, help| {
        Arg::new(name).long(name).value_name("DIR").help(help).value_parser(clap::value_parser!(PathBuf)).global(true)
    };
    let command = command
        .arg(path("root", "Directory of images, containers and volumes"))
        .arg(path("runroot", "Directory of the state of running containers"))
        .arg(
            path(
                "cdi-spec-dir",
                "Directory of specifications of devices (CDI), instead of the usual ones (can be repeated)",
            )
            .action(ArgAction::Append),
        )
        .arg(
            Arg::new("storage-driver")
                .long("storage-driver")
                .value_name("DRIVER")
                .help("What mounts root file systems: auto, overlay, overlay-fuse or fuse")
                .global(true),
        )
        .arg(
            Arg::new("storage-opt")
                .long("storage-opt")
                .value_name("OPTION")
                .help("additionalimagestore=DIR: a directory like that of --root, whose images can be used too, and are never changed (can be repeated)")
                .action(ArgAction::Append),
        )
        .arg(
            Arg::new("log-level")
                .long("log-level")
                .value_name("LEVEL")
                .help("How much is told: warn and error are all there is")
                .global(true),
        )
        .arg(Arg::new("host").short('H').long("host").value_name("URL").action(ArgAction::Append).hide(true))
        .arg(Arg::new("url").long("url").value_name("URL").action(ArgAction::Append).hide(true))
        .arg(
            Arg::new("context")
                .short('c')
                .long("context")
                .visible_alias("connection")
                .value_name("NAME")
                .action(ArgAction::Append)
                .hide(true),
        );
    Accepted::<OfEverything>::augment_args(command).mut_args(usage::valued_flag)
}

/// Checks what stands before the command; what has no effect says so.
pub(super) fn check(matches: &ArgMatches, persona: Persona) -> Result<(), CommandError> {
    if let Ok(accepted) = Accepted::<OfEverything>::from_arg_matches(matches) {
        accepted.warn();
    }
    if let Some(level) = matches.get_one::<String>("log-level") {
        match level.to_lowercase().as_str() {
            "trace" | "debug" | "info" => {
                eprintln!("Warning: --log-level {level} is ignored: there is no log of steps; errors say what failed");
            }
            level if LEVELS.contains(&level) => {}
            _ => {
                return Err(CommandError::user(format_args!(
                    "Log Level {level:?} is not supported, choose from: {}",
                    LEVELS.join(", ")
                ))
                .with_code(1));
            }
        }
    }
    for flag in ["host", "url"] {
        for place in matches.get_many::<String>(flag).into_iter().flatten() {
            here_only(&format!("--{flag}"), place)?;
        }
    }
    for name in matches.get_many::<String>("context").into_iter().flatten() {
        if !matches!(name.as_str(), "" | "default" | "rootless") {
            return Err(CommandError::user(format_args!(
                "context {name:?}: there is none but \"default\": coracle acts on the machine it runs on"
            )));
        }
    }
    match std::env::var("DOCKER_HOST") {
        Ok(place) if persona == Persona::Docker => here_only("DOCKER_HOST", &place),
        _ => Ok(()),
    }
}

/// There is no server: only a socket of this machine can be meant to be us.
fn here_only(what: &str, place: &str) -> Result<(), CommandError> {
    let Some((scheme, rest)) = place.split_once("://") else { return Ok(()) };
    if matches!(scheme, "unix" | "fd" | "npipe") {
        return Ok(());
    }
    let error = CommandError::user(format_args!("{what} {place}: coracle acts on the machine it runs on"));
    let host = rest.split('/').next().unwrap_or_default();
    Err(match scheme {
        "ssh" => error.hinted(format_args!("ssh {host} coracle ...")),
        _ => error,
    })
}

/// Commands of podman and docker that there will not be, and what to do instead.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["swarm", "node", "service", "stack", "config"],
        "coracle runs the containers of one machine; use a Kubernetes cluster for many",
    ),
    (&["machine"], "containers run on this machine, without a virtual one"),
    (&["farm"], "run the build on each machine, over ssh"),
    (&["artifact"], "use a client for registries, such as oras"),
    (&["plugin"], "networks and volumes are coracle's own"),
    (&["scout", "sbom"], "use a scanner on what `coracle save` writes"),
    (&["trust"], "use a verifier for signatures, such as cosign"),
    (&["checkpoint"], "processes cannot be frozen to disk without root"),
];

/// The exit status of docker for what its command line does not understand.
const NOT_UNDERSTOOD: u8 = 1;

/// The command that a command line calls: `coracle image ls`, whatever options stand between its words.
pub(super) fn spoken(name: &str, command: &clap::Command, args: &[OsString]) -> String {
    let (mut words, mut command) = (vec![name], command);
    for word in args.iter().skip(1).filter_map(|word| word.to_str()) {
        match command.find_subcommand(word) {
            Some(found) => {
                words.push(found.get_name());
                command = found;
            }
            None if !command.has_subcommands() => break,
            None => {}
        }
    }
    words.join(" ")
}

/// The error for a command line that clap does not take.
///
/// `spoken` is the command that was called, as far as it is known: `coracle image ls`.
pub(super) fn misunderstood(error: &clap::Error, program: Program, spoken: &str, names: &[&str]) -> CommandError {
    let typed = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => word.clone(),
        _ => String::new(),
    };
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some((_, instead)) = ELSEWHERE.iter().find(|(words, _)| words.contains(&typed.as_str()))
    {
        return CommandError::user(format_args!("{typed} is not supported: {instead}")).with_code(NOT_UNDERSTOOD);
    }
    let mut out = CommandError::user(usage::one_line(error));
    let is_of_flags = usage::is_about_flag(error);
    if program.persona == Persona::Docker && !is_of_flags {
        out = out.with_code(NOT_UNDERSTOOD);
    }
    let command = usage::command_of(error);
    let command = if command.is_empty() { spoken.to_owned() } else { command };
    let suggested = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        Some(ContextValue::Strings(words)) => words.first().cloned(),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let meant = nearest(&typed, names.iter().copied()).map(str::to_owned);
            match meant.or_else(|| suggested(ContextKind::SuggestedSubcommand)) {
                Some(meant) => out.hinted(format_args!("did you mean: {command} {meant}")),
                None => out.hinted(format_args!("{command} --help")),
            }
        }
        ErrorKind::UnknownArgument if is_of_flags => match suggested(ContextKind::SuggestedArg) {
            Some(meant) => out.hinted(format_args!("did you mean {meant}? See {command} --help")),
            None => out.hinted(format_args!("{command} --help")),
        },
        _ => out.hinted(format_args!("{command} --help")),
    }
}

/// Adds to the error about a name that there is not which one may have been meant.
pub(super) fn name_meant(error: CommandError, context: &Context) -> CommandError {
    let text = error.to_string();
    let Some((kind, typed)) = missing_name(&text) else { return error };
    let kinds = match &kind {
        Some(kind) => std::slice::from_ref(kind),
        None => &[Kind::Container, Kind::Image, Kind::Volume],
    };
    let known: Vec<String> = kinds.iter().flat_map(|kind| names(*kind, &context.layout)).collect();
    match nearest(typed, known.iter().map(String::as_str)) {
        Some(meant) => error.hinted(format_args!("did you mean: {meant}")),
        None => error,
    }
}

/// Things with names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Image,
    Volume,
    Network,
}

/// What an error says is not there; without a kind it may have been any.
fn missing_name(text: &str) -> Option<(Option<Kind>, &str)> {
    let text = text.trim();
    for (kind, thing) in [
        (Some(Kind::Container), "no such container"),
        (Some(Kind::Image), "image not known"),
        (Some(Kind::Volume), "no such volume"),
        (Some(Kind::Network), "network not found"),
        (None, "no such object"),
    ] {
        if let Some(before) = text.strip_suffix(thing) {
            // `no container with name or ID "web" found: no such container`, `web: image not known`
            let quoted = before.split('"').nth(1);
            let before = before.strip_prefix("unable to find network with name or ID ").unwrap_or(before);
            return quoted.or_else(|| before.strip_suffix(": ")?.rsplit(' ').next()).map(|name| (kind, name));
        }
        if let Some(at) = text.to_lowercase().find(thing) {
            let name = text.get(at + thing.len()..)?.trim_matches([' ', ':', '"']);
            return (!name.is_empty()).then_some((kind, name));
        }
    }
    None
}

/// The names that there are, for completions and guesses.
pub(crate) fn names(kind: Kind, layout: &Layout) -> Vec<String> {
    match kind {
        Kind::Container => match storage::state::container::list(layout) {
            Ok((records, _)) => records.into_iter().map(|record| record.name).collect(),
            Err(_) => Vec::new(),
        },
        Kind::Image => {
            let images = ImageStore::open(layout).list().unwrap_or_default();
            let names = images.iter().flat_map(|image| &image.names);
            let mut all: Vec<String> = names
                .flat_map(|name| {
                    let short = name.familiar();
                    let untagged = short.strip_suffix(":latest").map(str::to_owned);
                    let bare = name.to_string();
                    let bare = bare.strip_prefix("localhost/").map(str::to_owned);
                    let bare_untagged = bare.as_ref().and_then(|bare| bare.strip_suffix(":latest").map(str::to_owned));
                    [Some(short), untagged, bare, bare_untagged]
                })
                .flatten()
                .collect();
            all.sort();
            all.dedup();
            all
        }
        Kind::Network => {
            let networks = crate::networks::all(layout).unwrap_or_default();
            networks.into_iter().map(|network| network.name).collect()
        }
        Kind::Volume => match storage::volume::list(layout) {
            Ok((volumes, _)) => volumes.into_iter().map(|volume| volume.name).collect(),
            Err(_) => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_names_are_found_in_errors() {
        for (text, expected) in [
            ("no container with name or ID \"web\" found: no such container", Some((Some(Kind::Container), "web"))),
            ("no such container web", Some((Some(Kind::Container), "web"))),
            ("nginx: image not known", Some((Some(Kind::Image), "nginx"))),
            ("no volume with name \"data\" found: no such volume", Some((Some(Kind::Volume), "data"))),
            ("no such object: \"web\"", Some((None, "web"))),
            ("No such object: web", Some((None, "web"))),
            ("start container web: exit", None),
        ] {
            assert_eq!(missing_name(text), expected, "{text}");
        }
    }

    #[test]
    fn other_machines_are_not_ours() {
        for place in ["", "unix:///run/user/1000/docker.sock", "/run/docker.sock", "fd://"] {
            assert!(here_only("-H", place).is_ok(), "{place}");
        }
        for place in ["ssh://me@host", "tcp://127.0.0.1:2375"] {
            assert!(here_only("-H", place).is_err(), "{place}");
        }
    }
}
