//! `boot`: what runs again when the machine comes up.
//!
//! Nothing of coracle runs when no container runs, so somebody has to start them: one unit of the user's service manager,
//! which calls `boot start` and, when the machine goes down, `boot stop`. What is to be started is decided then, from what
//! each container was asked for and whether a user had it stopped.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use clap::Subcommand;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::cgroup::place::Place;
use runtime::process::signal::Signal;
use runtime::process::{pidfd_open, pidfd_send_signal};
use runtime::userns::subid;
use storage::state::container::Record;
use storage::state::request::RestartPolicy;
use storage::state::status::{self, Observed, State};

use super::{Context, Outcome, select};
use crate::cli::output;
use crate::error::{CommandError, reason};

/// What to do about the start of the machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Have containers start with the machine, by a unit of this user's systemd
    Enable,
    /// Have no containers start with the machine
    Disable,
    /// Show whether containers start with the machine, and which
    Status,
    /// Start what is to run after a start of the machine
    ///
    /// That is every container with --restart=always, and with --restart=unless-stopped unless a user had it stopped, if it
    /// has been started before. Without systemd, call it from whatever starts your session: `@reboot coracle boot start`
    /// in a crontab does.
    Start,
    /// End every container as the end of the machine does
    ///
    /// Unlike stop, what it ends is started again by `boot start`, whatever its restart policy.
    #[command(hide = true)]
    Stop,
}

/// The unit, as contrib/ has it for packages.
const UNIT: &str = include_str!("../../contrib/systemd/coracle-boot.service");

/// Its name.
const NAME: &str = "coracle-boot.service";

/// How the unit in contrib/ calls us.
pub(super) const PACKAGED: &str = "%h/.local/bin/coracle";

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Enable => enable(context),
        Command::Disable => disable(),
        Command::Status => print_status(context),
        Command::Start => start(context),
        Command::Stop => stop(context),
    }
}

/// Whether a container is to run after a start of the machine.
fn is_due(record: &Record, observed: &Observed) -> bool {
    let is_wanted = match record.request.restart {
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !observed.stopped_by_user,
        RestartPolicy::No | RestartPolicy::OnFailure { .. } => false,
    };
    // One that was only created has not been asked to run yet.
    is_wanted && !matches!(observed.state, State::Created)
}

fn start(context: &Context) -> Outcome {
    let mut errors = Vec::new();
    for record in select::all(context)? {
        let observed = status::observe(&context.layout, &record)?;
        if observed.state.is_alive() || !is_due(&record, &observed) {
            continue;
        }
        let name = record.name.clone();
        match super::start::start(context, record) {
            Ok(()) => output::print_line(&name)?,
            Err(error) => errors.push(error.while_doing(format!("start container {name}"))),
        }
    }
    select::finish(errors)
}

/// Every supervisor ends its container when it is asked to end itself. All are asked before one is waited for.
fn stop(context: &Context) -> Outcome {
    let mut ending = Vec::new();
    for record in select::all(context)? {
        let observed = status::observe(&context.layout, &record)?;
        if observed.state.is_alive()
            && let Some(supervisor) = observed.supervisor.and_then(|pid| pidfd_open(pid).ok())
        {
            if let State::Paused { .. } = observed.state {
                let _ = super::pause::unpause(context, &record);
            }
            // One that is gone has ended.
            let _ = pidfd_send_signal(supervisor.as_fd(), Signal::TERM.number());
            ending.push((record.name, supervisor));
        }
    }
    for (name, supervisor) in ending {
        let mut fds = [PollFd::new(supervisor.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
        output::print_line(&name)?;
    }
    Ok(0)
}

/// The directory of this user's own units.
pub(super) fn units() -> Result<PathBuf, CommandError> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")));
    let config = config
        .ok_or_else(|| CommandError::host("neither HOME nor XDG_CONFIG_HOME is set: there is no place for a unit"))?;
    Ok(config.join("systemd/user"))
}

/// What has a unit of this name start with this user's systemd.
pub(super) fn wants(units: &Path, name: &str) -> PathBuf {
    units.join("default.target.wants").join(name)
}

/// A word of a unit's command line.
///
/// # Source
/// `systemd.service(5)`, "COMMAND LINES"; `systemd.unit(5)`, "SPECIFIERS".
fn quoted(word: &Path) -> String {
    let escaped =
        word.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

/// The unit for this binary and this place of data.
fn unit(binary: &Path, context: &Context, data_home: Option<&Path>) -> String {
    let mut command = quoted(binary);
    // What tells this store from the default one: an option, or a variable that the user's manager may not have.
    let data = context.layout.data_dir();
    let is_by_variable = data_home.is_some_and(|home| home.join("coracle") == data);
    let is_default = std::env::var_os("HOME").is_some_and(|home| Path::new(&home).join(".local/share/coracle") == data);
    let mut variable = String::new();
    match (is_default, is_by_variable, data_home) {
        (true, ..) => {}
        (false, true, Some(home)) => {
            let pair = PathBuf::from(format!("XDG_DATA_HOME={}", home.display()));
            variable = format!("Environment={}\n", quoted(&pair));
        }
        _ => command.push_str(&format!(" --root {} --runroot {}", quoted(data), quoted(context.layout.runtime_dir()))),
    }
    UNIT.replace(PACKAGED, &command).replace("Type=oneshot\n", &format!("Type=oneshot\n{variable}"))
}

fn enable(context: &Context) -> Outcome {
    let units = units()?;
    let path = units.join(NAME);
    let fail = |path: &Path, error: std::io::Error| {
        CommandError::host(format!("write {}: {}", path.display(), reason(&error)))
    };
    let binary =
        std::env::current_exe().map_err(|error| CommandError::host(format!("our own path: {}", reason(&error))))?;
    let data_home = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let link = wants(&units, NAME);
    let directory = link.parent().unwrap_or(&units);
    std::fs::create_dir_all(directory).map_err(|error| fail(directory, error))?;
    std::fs::write(&path, unit(&binary, context, data_home.as_deref())).map_err(|error| fail(&path, error))?;
    match symlink(&path, &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail(&link, error)),
        _ => {}
    }
    output::print_line(format!("Created {}", path.display()))?;
    if !reload() {
        eprintln!("Warning: systemd of this user does not answer: the unit counts from its next start on");
    }
    // Now, too: who goes down with the machine in order is who the unit knows to be up.
    systemctl(&["start", "--no-block", NAME]);
    if !lingers() {
        eprintln!("{}", without_linger());
    }
    Ok(0)
}

fn disable() -> Outcome {
    let units = units()?;
    let mut found = false;
    for path in [wants(&units, NAME), units.join(NAME)] {
        match std::fs::remove_file(&path) {
            Ok(()) => {
                found = true;
                output::print_line(format!("Removed {}", path.display()))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CommandError::host(format!("remove {}: {}", path.display(), reason(&error)))),
        }
    }
    if found {
        // What runs goes on running: the unit is forgotten, not stopped.
        reload();
    }
    Ok(0)
}

fn print_status(context: &Context) -> Outcome {
    let units = units()?;
    let is_enabled = wants(&units, NAME).exists();
    output::print_line(if is_enabled { "enabled" } else { "disabled: see coracle boot enable" })?;
    let user = user_name();
    match lingers() {
        true => output::print_line(format!("lingering: on for {user}, at the start of the machine"))?,
        false => output::print_line(format!("lingering: off for {user}, not before the first login"))?,
    }
    for record in select::all(context)? {
        let observed = status::observe(&context.layout, &record)?;
        let policy = match record.request.restart {
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
            RestartPolicy::No | RestartPolicy::OnFailure { .. } => continue,
        };
        let verdict = match (is_due(&record, &observed), &observed.state) {
            (true, _) => "starts",
            (false, State::Created) => "does not start: it has never run",
            (false, _) => "does not start: it was stopped",
        };
        output::print_line(format!("{}: {verdict} (--restart={policy})", record.name))?;
    }
    // As systemctl is-enabled.
    Ok(u8::from(!is_enabled))
}

fn user_name() -> String {
    subid::Owner::of(nix::unistd::geteuid().as_raw()).name().to_owned()
}

/// Whether this user's systemd runs without a login.
fn lingers() -> bool {
    Path::new("/var/lib/systemd/linger").join(user_name()).exists()
}

/// Says once what becomes of a container in the background: that of a login ends with its last session where lingering is
/// off. What a service has started is not told of it, nor who has another place to live in.
pub(super) fn explain_lingering(context: &Context) {
    if lingers() || !matches!(Place::find(), Place::Manager { service: None, .. }) {
        return;
    }
    let told = std::fs::File::options().write(true).create_new(true).open(context.layout.lingering_told());
    if told.is_ok() {
        eprintln!("{}", without_linger());
    }
}

fn without_linger() -> String {
    format!(
        "Warning: without lingering your systemd starts at your first login and ends with your last session, and \
         containers with it; to have it run as long as the machine: sudo loginctl enable-linger {}",
        user_name()
    )
}

/// Has systemd read its units again; whether there is one.
pub(super) fn reload() -> bool {
    systemctl(&["daemon-reload"])
}

/// Calls this user's systemd; whether it did what it was told.
pub(super) fn systemctl(words: &[&str]) -> bool {
    let mut program = Program::new("systemctl");
    program.arg("--user").args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    program.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_unit_are_taken_as_they_are() {
        assert_eq!(quoted(Path::new("/a b/50%/\"$x\\")), r#""/a b/50%%/\"$$x\\""#);
        assert_eq!(UNIT.matches(PACKAGED).count(), 2);
    }
}
