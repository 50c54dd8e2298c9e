//! `quadlet`: services of systemd from Quadlet files, as a generator that systemd runs or without one.
//!
//! ```text
//! as root, for all users: a generator in /etc ──▶ $XDG_RUNTIME_DIR/systemd/generator   (systemd clears it)
//! as oneself: `enable`, a unit that calls `start` ──▶ $XDG_RUNTIME_DIR/systemd/user    (we clear what is ours)
//! ```

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Context, Outcome, boot};
use crate::cli::output;
use crate::error::{CommandError, reason};
use crate::quadlet::convert::{Conversion, NETWORK_WAIT, Service};
use crate::quadlet::install::{self, replace};
use crate::quadlet::{load, words};

const EXAMPLES: &str = "Examples:
  coracle quadlet --dryrun                      # what the files become
  coracle quadlet enable                        # without root: a unit that makes services when your systemd starts
  coracle quadlet reload                        # after a change of the files
  coracle quadlet /run/user/1000/systemd/user   # as systemd calls it: services go to this directory";

/// Make systemd services of Quadlet files
///
/// Reads .container, .pod, .volume, .network, .image, .build and .kube files, and their drop-ins, in
/// $XDG_RUNTIME_DIR/containers/systemd, $XDG_CONFIG_HOME/containers/systemd and /etc/containers/systemd/users: those of
/// podman as they are. Executed by a name that ends with -generator, the program is a generator of systemd.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where services go, and two directories that are not used; or enable, disable, reload or start
    #[arg(value_name = "DIR|ACTION", num_args = 0..=3)]
    words: Vec<PathBuf>,
    /// Print the services instead of writing them, and what was read
    #[arg(long, visible_alias = "dry-run")]
    dryrun: bool,
    /// For a user's systemd; there is no other
    #[arg(long)]
    user: bool,
    /// Tell what is read
    #[arg(short, long)]
    verbose: bool,
    /// Tell standard error what is wrong, not the kernel; it is never the kernel
    #[arg(long)]
    no_kmsg_log: bool,
    /// Print the version
    #[arg(long)]
    version: bool,
}

/// The unit that stands for a generator, as contrib/ has it for packages.
const UNIT: &str = include_str!("../../contrib/systemd/coracle-quadlet.service");

const NAME: &str = "coracle-quadlet.service";

/// The unit that services come after.
const WAIT_UNIT: &str = include_str!("../../contrib/systemd/coracle-wait-network-online.service");

/// What says that a unit is ours.
const GENERATOR: &str = "coracle quadlet";

/// The command line as Go's programs take it, `-dryrun`, and as systemd calls a generator.
pub(crate) fn arranged(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    if name.as_encoded_bytes().ends_with(b"-generator") {
        args.insert(1, "quadlet".into());
    }
    if args.get(1).is_some_and(|word| word == "quadlet") {
        for word in args.iter_mut().skip(2) {
            if ["-dryrun", "-user", "-version", "-no-kmsg-log"].iter().any(|flag| word == *flag) {
                *word = format!("-{}", word.to_string_lossy()).into();
            }
        }
    }
    args
}

/// Runs the command.
pub(crate) fn run(args: Args, _: &Context) -> Outcome {
    if args.version {
        output::print_line(env!("CARGO_PKG_VERSION"))?;
        return Ok(0);
    }
    let told = args.verbose || args.dryrun;
    let first = args.words.first().map(PathBuf::as_path);
    match first.and_then(Path::to_str) {
        _ if args.dryrun => {}
        Some("enable") => return enable(),
        Some("disable") => return disable(),
        Some("reload") => return generate_at_runtime(told, false),
        Some("start") => return generate_at_runtime(told, true),
        _ => {}
    }
    let made = Made::new(told)?;
    if args.dryrun {
        for service in &made.services {
            output::print(&format!("---{}---\n{}\n", service.name, service.unit))?;
        }
        return Ok(made.code());
    }
    let directory = first.ok_or_else(|| CommandError::user("missing output directory argument").with_code(1))?;
    made.write(directory)
}

/// Services, and whether all is well.
struct Made {
    services: Vec<Service>,
    has_failed: bool,
}

impl Made {
    /// Reads and converts; what is wrong is told at once.
    fn new(told: bool) -> Result<Self, CommandError> {
        let directories = load::directories(nix::unistd::getuid().as_raw());
        let found = load::load(&directories);
        if told {
            found.read.iter().for_each(|path| tell(format_args!("Loading source unit file {}", path.display())));
            if found.sources.is_empty() {
                let all: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
                tell(format_args!("No files parsed from [{}]", all.join(" ")));
            }
        }
        found.errors.iter().for_each(tell);
        let mut made = Self { services: Vec::new(), has_failed: !found.errors.is_empty() };
        let mut conversion = Conversion::new(&binary()?.to_string_lossy(), &found.sources);
        for source in &found.sources {
            match conversion.convert(source) {
                Ok(service) => {
                    service.warnings.iter().for_each(|warning| tell(format_args!("Warning: {warning}")));
                    made.services.push(service);
                }
                Err(error) => {
                    tell(format_args!("converting {:?}: {error}", source.name));
                    made.has_failed = true;
                }
            }
        }
        Ok(made)
    }

    fn code(&self) -> u8 {
        u8::from(self.has_failed)
    }

    fn write(mut self, directory: &Path) -> Outcome {
        let fail = |path: &Path, error: &std::io::Error| {
            CommandError::host(format!("write {}: {}", path.display(), reason(error))).with_code(1)
        };
        if self.services.is_empty() {
            return Ok(self.code());
        }
        fs::create_dir_all(directory).map_err(|error| fail(directory, &error))?;
        if self
            .services
            .iter()
            .any(|service| service.unit.list("Unit", "After").iter().any(|unit| unit == NETWORK_WAIT))
        {
            let path = directory.join(NETWORK_WAIT);
            let text = format!("# Automatically generated by {GENERATOR}\n{WAIT_UNIT}");
            replace(&path, |path| fs::write(path, text)).map_err(|error| fail(&path, &error))?;
        }
        for service in &self.services {
            if let Err(error) = install::write(directory, service, GENERATOR) {
                tell(&error);
                self.has_failed = true;
            }
        }
        Ok(self.code())
    }
}

fn tell(line: impl std::fmt::Display) {
    eprintln!("quadlet-generator[{}]: {line}", std::process::id());
}

/// Ourselves, by a name that outlives this process.
fn binary() -> Result<PathBuf, CommandError> {
    std::env::current_exe()
        .map_err(|error| CommandError::host(format!("our own path: {}", reason(&error))).with_code(1))
}

/// Where units are until the machine or the last session ends.
fn runtime_units() -> Result<PathBuf, CommandError> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = directory.ok_or_else(|| {
        CommandError::host("XDG_RUNTIME_DIR is not set: there is no systemd of this user").with_code(1)
    })?;
    Ok(directory.join("systemd/user"))
}

/// What a generator does when systemd reads its units, where there is none.
fn generate_at_runtime(told: bool, starts: bool) -> Outcome {
    let directory = runtime_units()?;
    let made = Made::new(told)?;
    let wanted: Vec<String> = made.services.iter().flat_map(install::links).filter_map(by_default).collect();
    clear(&directory);
    let code = made.write(&directory)?;
    if !boot::reload() {
        return Err(CommandError::host("systemd of this user does not answer: systemctl --user daemon-reload failed")
            .with_code(1));
    }
    if starts && !wanted.is_empty() {
        let mut words = vec!["start", "--no-block"];
        words.extend(wanted.iter().map(String::as_str));
        boot::systemctl(&words);
    }
    Ok(code)
}

/// The name that a link gives a service which starts with this user's systemd.
fn by_default((place, _): (PathBuf, PathBuf)) -> Option<String> {
    let name = place.strip_prefix("default.target.wants").or_else(|_| place.strip_prefix("default.target.requires"));
    Some(name.ok()?.to_str()?.to_owned())
}

/// Removes the units that we have written before, and the links to them.
fn clear(directory: &Path) {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let head = format!("# Automatically generated by {GENERATOR}\n");
    for path in entries(directory) {
        let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        if is_file && fs::read(&path).is_ok_and(|bytes| bytes.starts_with(head.as_bytes())) {
            let _ = fs::remove_file(&path);
        }
    }
    // What leads nowhere now led to one of them.
    let below: Vec<PathBuf> = entries(directory).filter(|path| path.is_dir() && !path.is_symlink()).collect();
    for directory in below.iter().map(PathBuf::as_path).chain([directory]) {
        for path in entries(directory).filter(|path| path.is_symlink() && !path.exists()) {
            let _ = fs::remove_file(&path);
        }
        // Only one that is empty goes.
        if below.iter().any(|one| one == directory) {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn enable() -> Outcome {
    let units = boot::units()?;
    let (path, link) = (units.join(NAME), boot::wants(&units, NAME));
    let fail = |path: &Path, error: std::io::Error| {
        CommandError::host(format!("write {}: {}", path.display(), reason(&error)))
    };
    let directory = link.parent().unwrap_or(&units);
    fs::create_dir_all(directory).map_err(|error| fail(directory, error))?;
    let binary = words::quote(&words::literal(&binary()?.to_string_lossy()));
    fs::write(&path, UNIT.replace(boot::PACKAGED, &binary)).map_err(|error| fail(&path, error))?;
    replace(&link, |link| symlink(&path, link)).map_err(|error| fail(&link, error))?;
    output::print_line(format_args!("Created {}", path.display()))?;
    if generate_at_runtime(false, false).is_err() {
        eprintln!("Warning: systemd of this user does not answer: the unit counts from its next start on");
    }
    Ok(0)
}

fn disable() -> Outcome {
    let units = boot::units()?;
    for path in [boot::wants(&units, NAME), units.join(NAME)] {
        match fs::remove_file(&path) {
            Ok(()) => output::print_line(format_args!("Removed {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CommandError::host(format!("remove {}: {}", path.display(), reason(&error)))),
        }
    }
    if let Ok(directory) = runtime_units() {
        clear(&directory);
    }
    boot::reload();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quadlet::convert::{Kind, Source};
    use crate::quadlet::unit::Unit;

    /// What is generated is understood: every file of the cases that podman is compared by.
    #[test]
    fn services_call_commands_and_options_that_there_are() {
        let (mut wrong, mut count) = (Vec::new(), 0);
        for case in include_str!("../../tests/cli/quadlet/cases.txt").split("\n== ").skip(1) {
            let file = |text: &str| {
                let (name, text) = text.split_once('\n').unwrap_or((text, ""));
                let unit = Unit::parse(text).ok()?;
                Some(Source { name: name.to_owned(), path: Path::new("/q").join(name), kind: Kind::of(name)?, unit })
            };
            let mut sources: Vec<Source> = case.split("\n-- ").skip(1).filter_map(file).collect();
            sources.sort_by_key(|source| source.kind);
            let mut conversion = Conversion::new("coracle", &sources);
            for service in sources.iter().filter_map(|source| conversion.convert(source).ok()) {
                for key in ["ExecStart", "ExecStartPre", "ExecStop", "ExecStopPost", "ExecReload"] {
                    for line in service.unit.all("Service", key).iter().filter(|line| line.contains("coracle ")) {
                        count += 1;
                        let words = words::split(line, words::Backslash::Escapes).unwrap();
                        let line = super::super::command_line(crate::role::Program::CORACLE, None);
                        if let Err(error) = line.try_get_matches_from(words) {
                            wrong.push(format!("{}: {error}", case.lines().next().unwrap_or_default()));
                        }
                    }
                }
            }
        }
        assert!(wrong.is_empty() && count > 100, "{count}: {}", wrong.join("\n"));
    }

    #[test]
    fn a_generator_and_gos_spelling_are_understood() {
        let arranged = |line: &str| {
            let words = arranged(line.split(' ').map(OsString::from).collect());
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            arranged("/etc/x/coracle-user-generator /a /b /c"),
            "/etc/x/coracle-user-generator quadlet /a /b /c"
        );
        assert_eq!(arranged("coracle quadlet -dryrun -user"), "coracle quadlet --dryrun --user");
        assert_eq!(arranged("coracle run -dryrun"), "coracle run -dryrun");
    }
}
