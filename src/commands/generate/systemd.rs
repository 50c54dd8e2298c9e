//! `generate systemd`: units of containers and pods that there are. Quadlet files do more, and say less.

mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use storage::state::container::{self, Record};
use storage::state::pod::{self, Pod};

use self::words::{Typed, layout};
use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::{CommandError, reason};
use crate::quadlet::words::{literal, quote};

const EXAMPLES: &str = "Examples:
  coracle generate systemd --new --name web
  coracle generate systemd --new --files --name mypod   # a file for the pod and one for each of its containers
  coracle generate systemd --name web > ~/.config/systemd/user/web.service";

/// Generate systemd units of a container or pod
///
/// Prints a unit, for a pod one for each of its containers, too. With --new a unit makes the container anew from the command
/// that made this one, else it starts this one. See quadlet for files from which units are made whenever systemd starts.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of a container or pod
    #[arg(value_name = "CONTAINER|POD")]
    name_or_id: String,
    /// Use names of containers and pods instead of IDs
    #[arg(short, long)]
    name: bool,
    /// Write NAME.service files instead of printing, and print their paths
    #[arg(short, long)]
    files: bool,
    /// Make the container or pod anew instead of starting the one there is
    #[arg(long)]
    new: bool,
    /// Make it a template, whose instances are containers of their own; with --new
    #[arg(long)]
    template: bool,
    /// Print what was made in a format: json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// No comment with version and time
    #[arg(long)]
    no_header: bool,
    /// When systemd starts it again
    #[arg(long, value_name = "POLICY")]
    restart_policy: Option<String>,
    /// Seconds before systemd starts it again
    #[arg(long, value_name = "SECONDS")]
    restart_sec: Option<u64>,
    /// Seconds that a start may take
    #[arg(long, value_name = "SECONDS")]
    start_timeout: Option<u64>,
    /// Seconds between the stop signal and SIGKILL
    #[arg(short = 't', long, visible_alias = "time", value_name = "SECONDS")]
    stop_timeout: Option<u64>,
    /// What names of containers' units begin with
    #[arg(long, value_name = "PREFIX", default_value = "container")]
    container_prefix: String,
    /// What names of pods' units begin with
    #[arg(long, value_name = "PREFIX", default_value = "pod")]
    pod_prefix: String,
    /// What stands between the prefix and the name
    #[arg(long, value_name = "TEXT", default_value = "-")]
    separator: String,
    /// Set a variable of the unit, NAME=VALUE, or NAME for its value here
    #[arg(short, long = "env", value_name = "VARIABLE")]
    env: Vec<String>,
    /// Add a weak dependency on a unit
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    wants: Vec<String>,
    /// Start after a unit
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    after: Vec<String>,
    /// Add a strong dependency on a unit
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    requires: Vec<String>,
}

const POLICIES: [&str; 7] = ["no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"];

/// Longer than the container may take.
const BEYOND_STOP: u64 = 60;

/// Runs `generate systemd`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.template && !args.new {
        return Err(CommandError::user("--template cannot be set without --new"));
    }
    if let Some(policy) = args.restart_policy.as_deref().filter(|policy| !POLICIES.contains(policy)) {
        return Err(CommandError::user(format_args!("{policy} is not a valid restart policy")));
    }
    if let Some(format) = args.format.as_deref().filter(|format| *format != "json") {
        return Err(CommandError::user(format_args!("--format {format}: must be json")));
    }
    let units = units(&args, context)?;
    let mut shown = BTreeMap::new();
    for (name, text) in units {
        let path = std::env::current_dir().unwrap_or_default().join(format!("{name}.service"));
        if args.files {
            write(&path, &text)?;
        }
        match (&args.format, args.files) {
            (Some(_), true) => drop(shown.insert(name, path.to_string_lossy().into_owned())),
            (Some(_), false) => drop(shown.insert(name, text)),
            (None, true) => output::print_line(path.display())?,
            (None, false) => output::print(&text)?,
        }
    }
    if args.format.is_some() {
        let text = serde_json::to_string_pretty(&shown).map_err(CommandError::host)?;
        output::print_line(text)?;
    }
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    std::fs::write(path, text)
        .map_err(|error| CommandError::user(format_args!("write {}: {}", path.display(), reason(&error))))
}

/// The units by name, a pod's before those of its containers.
fn units(args: &Args, context: &Context) -> Result<Vec<(String, String)>, CommandError> {
    let layout = &context.layout;
    if let Ok(record) = container::find(layout, &args.name_or_id) {
        if record.request.infra {
            return Err(CommandError::user(format_args!(
                "container {} holds the namespaces of a pod: generate the units of the pod",
                record.name
            )));
        }
        let unit = Unit::of(args, &record, None)?;
        return Ok(vec![unit.print(args)?]);
    }
    let pod = pod::find(layout, &args.name_or_id).map_err(|_| {
        CommandError::user(format_args!(
            "{0} does not refer to a container or pod: no pod with name or ID {0} found: no such pod: no container with \
             name or ID {0:?} found: no such container",
            args.name_or_id
        ))
    })?;
    if args.template {
        return Err(CommandError::user("--template is not supported for pods"));
    }
    let members = pod::members(layout, &pod)?;
    let infra = members.iter().find(|record| Some(&record.id) == pod.infra.as_ref());
    let infra = infra.ok_or_else(|| {
        CommandError::user(format_args!("pod {} has no infra container: nothing of it can be started", pod.name))
    })?;
    let service = args.service(&args.pod_prefix, &pod.name, pod.id.as_str());
    let mut all = vec![(String::new(), String::new())];
    let mut names = Vec::new();
    for record in members.iter().filter(|record| !record.request.infra) {
        let unit = Unit::of(args, record, Some(&service))?;
        names.push(unit.service.clone());
        all.push(unit.print(args)?);
    }
    let of_pod = Unit::of_pod(args, &pod, infra, service, &names)?.print(args)?;
    if let Some(first) = all.first_mut() {
        *first = of_pod;
    }
    Ok(all)
}

impl Args {
    fn service(&self, prefix: &str, name: &str, id: &str) -> String {
        let separator = if prefix.is_empty() { "" } else { &self.separator };
        format!("{prefix}{separator}{}", if self.name { name } else { id })
    }

    fn stop_seconds(&self, of_container: Option<u64>) -> u64 {
        self.stop_timeout.or(of_container).unwrap_or(10)
    }
}

/// A unit in the making.
#[derive(Debug, Default)]
struct Unit {
    service: String,
    /// Lines of `[Unit]` beyond the common ones.
    dependencies: Vec<String>,
    restart: String,
    start_limit: Option<String>,
    stop_seconds: u64,
    /// Lines of `[Service]`: commands, and how systemd knows the process.
    lines: Vec<String>,
}

/// A line of a command.
fn execute(key: &str, words: &[String]) -> String {
    format!("{key}={}", layout(words))
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn binary() -> Result<String, CommandError> {
    let path: PathBuf = std::env::current_exe()
        .map_err(|error| CommandError::host(format_args!("our own path: {}", reason(&error))))?;
    Ok(literal(&path.to_string_lossy()))
}

const NOTIFIES: [&str; 3] = ["Type=notify", "NotifyAccess=all", "Delegate=yes"];

impl Unit {
    fn of(args: &Args, record: &Record, pod: Option<&str>) -> Result<Self, CommandError> {
        let seconds = args.stop_seconds(record.request.stop_timeout.map(u64::from));
        let mut unit = Self {
            service: args.service(&args.container_prefix, &record.name, record.id.as_str()),
            restart: "on-failure".to_owned(),
            stop_seconds: seconds,
            ..Self::default()
        };
        if let Some(pod) = pod {
            unit.dependencies = vec![format!("BindsTo={pod}.service"), format!("After={pod}.service")];
        }
        let (binary, time) = (binary()?, seconds.to_string());
        if !args.new {
            let name = if args.name { &record.name } else { record.id.as_str() };
            let stop = owned(&[&binary, "stop", "-t", &time, name]);
            unit.lines = vec![
                execute("ExecStart", &owned(&[&binary, "start", "--sdnotify=conmon", name])),
                execute("ExecStop", &stop),
                execute("ExecStopPost", &stop),
            ];
            unit.lines.extend(owned(&NOTIFIES));
            return Ok(unit);
        }
        let typed = Typed::of_container(&record.request.create_command).ok_or_else(|| {
            CommandError::user(format_args!(
                "container {}: --new needs the command that made it, which was neither run nor create",
                record.name
            ))
        })?;
        if let Some(policy) = typed.value("restart") {
            let (policy, limit) =
                policy.split_once(':').map_or((policy, None), |(policy, limit)| (policy, Some(limit)));
            unit.restart = if policy == "unless-stopped" { "always" } else { policy }.to_owned();
            unit.start_limit = limit.map(str::to_owned);
        }
        let id_file = "--cidfile=%t/%n.ctr-id";
        let mut run = vec![binary.clone()];
        run.extend(typed.before().iter().map(|word| literal(word)));
        run.extend(owned(&["run", id_file, "--cgroups=split", "--rm"]));
        let mut dropped =
            vec!["cidfile", "cgroups", "conmon-pidfile", "rm", "detach", "replace", "restart", "pod-id-file"];
        if let Some(pod) = pod {
            run.extend(owned(&["--pod-id-file", &format!("%t/{}.pod-id", literal(pod))]));
            dropped.push("pod");
        }
        if typed.value("sdnotify").is_none_or(|mode| mode == "ignore") {
            run.push("--sdnotify=conmon".to_owned());
            dropped.push("sdnotify");
        }
        run.push("-d".to_owned());
        let is_named = typed.value("name").is_some();
        if is_named {
            run.push("--replace".to_owned());
        }
        let instance = if args.template { "-%i" } else { "" };
        if args.template && !is_named {
            run.push(format!("--name={}-%i", literal(&unit.service)));
        }
        for (name, words) in typed.options.iter().filter(|(name, _)| !dropped.contains(&name.as_str())) {
            let mut words: Vec<String> = words.iter().map(|word| literal(word)).collect();
            if let (true, Some(last)) = (name == "name", words.last_mut()) {
                last.push_str(instance);
            }
            run.extend(words);
        }
        run.extend(typed.rest.iter().map(|word| literal(word)));
        unit.lines = vec![
            execute("ExecStart", &run),
            execute("ExecStop", &owned(&[&binary, "stop", "--ignore", "-t", &time, id_file])),
            execute("ExecStopPost", &owned(&[&binary, "rm", "-f", "--ignore", "-t", &time, id_file])),
        ];
        unit.lines.extend(owned(&NOTIFIES));
        Ok(unit)
    }

    fn of_pod(
        args: &Args,
        pod: &Pod,
        infra: &Record,
        service: String,
        members: &[String],
    ) -> Result<Self, CommandError> {
        let members = members.iter().map(|name| format!("{name}.service")).collect::<Vec<_>>().join(" ");
        let mut unit =
            Self { restart: "on-failure".to_owned(), stop_seconds: args.stop_seconds(None), ..Self::default() };
        if !members.is_empty() {
            unit.dependencies = vec![format!("Wants={members}"), format!("Before={members}")];
        }
        let (binary, time) = (binary()?, unit.stop_seconds.to_string());
        if !args.new {
            let stop = owned(&[&binary, "stop", "-t", &time, &infra.name]);
            unit.lines = vec![
                execute("ExecStart", &owned(&[&binary, "start", "--sdnotify=conmon", &infra.name])),
                execute("ExecStop", &stop),
                execute("ExecStopPost", &stop),
            ];
            unit.lines.extend(owned(&NOTIFIES));
            unit.service = service;
            return Ok(unit);
        }
        let typed = Typed::of_pod(&pod.create_command).ok_or_else(|| {
            CommandError::user(format_args!("pod {}: --new needs the pod create that made it", pod.name))
        })?;
        let base = format!("%t/{}", literal(&service));
        let (pid, id) = (format!("{base}.pid"), format!("{base}.pod-id"));
        let mut create = vec![binary.clone()];
        create.extend(typed.before().iter().map(|word| literal(word)));
        create.extend(owned(&["pod", "create", "--infra-conmon-pidfile", &pid, "--pod-id-file", &id]));
        if typed.value("exit-policy").is_none() {
            create.push("--exit-policy=stop".to_owned());
        }
        let dropped = ["infra-conmon-pidfile", "pod-id-file", "replace"];
        for (_, words) in typed.options.iter().filter(|(name, _)| !dropped.contains(&name.as_str())) {
            create.extend(words.iter().map(|word| literal(word)));
        }
        if typed.value("name").is_none() && typed.rest.is_empty() {
            create.extend(owned(&["--name", &literal(&pod.name)]));
        }
        create.push("--replace".to_owned());
        create.extend(typed.rest.iter().map(|word| literal(word)));
        unit.lines = vec![
            execute("ExecStartPre", &create),
            execute("ExecStart", &owned(&[&binary, "pod", "start", "--pod-id-file", &id])),
            execute("ExecStop", &owned(&[&binary, "pod", "stop", "--ignore", "--pod-id-file", &id, "-t", &time])),
            execute("ExecStopPost", &owned(&[&binary, "pod", "rm", "--ignore", "-f", "--pod-id-file", &id])),
            format!("PIDFile={pid}"),
        ];
        unit.lines.extend(owned(&["Type=forking", "Delegate=yes"]));
        unit.service = service;
        Ok(unit)
    }

    /// The name of the unit without `.service`, and its text.
    fn print(&self, args: &Args) -> Result<(String, String), CommandError> {
        let name = format!("{}{}", self.service, if args.template { "@" } else { "" });
        let mut text = format!("# {name}.service\n");
        if !args.no_header {
            let now =
                Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).strftime("%a %b %-d %H:%M:%S UTC %Y").to_string();
            text.push_str(&format!("# autogenerated by coracle {}\n# {now}\n", env!("CARGO_PKG_VERSION")));
        }
        let of_template = if args.template { " for %I" } else { "" };
        let mut lines = vec![
            String::new(),
            "[Unit]".to_owned(),
            format!("Description=coracle {}.service{of_template}", literal(&self.service)),
            "Documentation=man:coracle-generate-systemd(1)".to_owned(),
            "Wants=network-online.target".to_owned(),
            "After=network-online.target".to_owned(),
            "RequiresMountsFor=%t/coracle".to_owned(),
        ];
        lines.extend(self.dependencies.iter().cloned());
        let asked = [("Wants", &args.wants), ("After", &args.after), ("Requires", &args.requires)];
        if asked.iter().any(|(_, units)| !units.is_empty()) {
            lines.extend([String::new(), "# User-defined dependencies".to_owned()]);
        }
        let asked = asked.iter().filter(|(_, units)| !units.is_empty());
        lines.extend(asked.map(|(key, units)| format!("{key}={}", units.join(" "))));
        lines.extend(owned(&["", "[Service]", "Environment=PODMAN_SYSTEMD_UNIT=%n"]));
        for variable in &args.env {
            lines.extend(value_here(variable).map(|pair| format!("Environment={}", quote(&pair.replace('%', "%%")))));
        }
        lines.push(format!("Restart={}", args.restart_policy.as_ref().unwrap_or(&self.restart)));
        lines.extend(args.restart_sec.map(|seconds| format!("RestartSec={seconds}")));
        lines.extend(self.start_limit.iter().map(|limit| format!("StartLimitBurst={limit}")));
        lines.extend(args.start_timeout.map(|seconds| format!("TimeoutStartSec={seconds}")));
        lines.push(format!("TimeoutStopSec={}", self.stop_seconds.saturating_add(BEYOND_STOP)));
        lines.extend(self.lines.iter().cloned());
        lines.extend(owned(&["", "[Install]", "WantedBy=default.target"]));
        text.push_str(&lines.join("\n"));
        text.push('\n');
        Ok((name, text))
    }
}

/// `NAME=VALUE`; of a name alone the value that it has here, if it has one.
fn value_here(variable: &str) -> Option<String> {
    match variable.contains('=') {
        true => Some(variable.to_owned()),
        false => std::env::var(variable).ok().map(|value| format!("{variable}={value}")),
    }
}
