//! `system reset`: everything this user has here goes, for good.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use runtime::userns::Mapping;
use storage::image::ImageStore;
use storage::layer::remove_tree;
use storage::state::layout::ContainerId;
use storage::state::status;

use crate::cli::output;
use crate::cli::printable::Printable;
use crate::commands::{Context, Outcome, in_userns_with_output, lifecycle, select};
use crate::error::{CommandError, reason};

const EXAMPLES: &str = r#"Examples:
  coracle system reset                   # shows what goes, and asks
  coracle --root /tmp/try --runroot /run/user/1000/try system reset --force"#;

/// Reset the storage to what it was before the first command
///
/// Stops all containers of this user and removes them with all pods, images, volumes, networks, secrets and what builds
/// keep, and with what `undo` could bring back. Files of configuration and of logins stay.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// What is ours in the data directory, besides locks: whoever named a directory may keep other things there.
const OURS: [&str; 12] = [
    "build",
    "containers",
    "events",
    "images",
    "layers",
    "mounts",
    "names",
    "networks",
    "pods",
    "secrets",
    "trash",
    "undo",
];

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let layout = &context.layout;
    if !args.force && !output::confirm(&warning(context)?)? {
        return Ok(0);
    }
    stop_all(context)?;
    let mut failed = remove(layout.data_dir(), is_ours)?;
    // Who serves the network ends with the last container; what it listens on is in the way of nobody.
    let is_state = |name: &str| ContainerId::parse(name).is_ok() || matches!(name, "net" | "listing" | "bin");
    failed.extend(remove(layout.runtime_dir(), is_state)?);
    for directory in [layout.data_dir(), layout.runtime_dir()] {
        // Something of somebody else's stays, and its directory with it.
        let _ = std::fs::remove_dir(directory);
    }
    match failed.pop() {
        None => Ok(0),
        Some(last) => {
            failed.into_iter().for_each(|error| CommandError::host(error).print());
            Err(CommandError::host(last))
        }
    }
}

fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name == "volumes" || name.starts_with(".doctor-") || name.ends_with(".lock")
}

fn warning(context: &Context) -> Result<String, CommandError> {
    let layout = &context.layout;
    let mut text = String::from(
        "WARNING! This will remove:\n\t- all containers\n\t- all pods\n\t- all images\n\t- all networks\n\t- all build \
         cache\n\t- all volumes\n\t- all secrets\n\t- what `undo` could bring back\n",
    );
    for (what, directory) in [("data", layout.data_dir()), ("runtime", layout.runtime_dir())] {
        text.push_str(&format!("\t- the {what} directory: {}\n", Printable::line(&directory.display().to_string())));
    }
    let mut names: Vec<(&str, Vec<String>)> = Vec::new();
    let records = select::all(context)?.into_iter().filter(|record| !record.request.infra);
    let containers = records.map(|record| {
        let runs = status::observe(layout, &record).is_ok_and(|observed| observed.state.is_alive());
        if runs { format!("{} (running)", record.name) } else { record.name }
    });
    names.push(("containers", containers.collect()));
    let pods = storage::state::pod::list(layout).unwrap_or_default();
    names.push(("pods", pods.into_iter().map(|pod| pod.name).collect()));
    let images = ImageStore::open(layout).list().unwrap_or_default();
    let name = |image: &storage::image::Image| {
        image
            .names
            .first()
            .map_or_else(|| image.id.hex().get(..12).unwrap_or_default().to_owned(), |name| name.familiar())
    };
    names.push(("images", images.iter().map(name).collect()));
    let volumes = storage::volume::list(layout).map(|(volumes, _)| volumes).unwrap_or_default();
    names.push(("volumes", volumes.into_iter().map(|volume| volume.name).collect()));
    let networks = crate::networks::created(layout).unwrap_or_default();
    names.push(("networks", networks.into_iter().map(|network| network.name).collect()));
    names.retain(|(_, names)| !names.is_empty());
    if !names.is_empty() {
        text.push_str("\nThese are:\n");
    }
    for (kind, names) in names {
        const SHOWN: usize = 20;
        let shown: Vec<String> = names.iter().take(SHOWN).map(|name| Printable::line(name).to_string()).collect();
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        text.push_str(&format!("{kind}: {}{more}\n", shown.join(", ")));
    }
    Ok(text + "\n")
}

/// Kills what runs, all at once, and waits for its end.
fn stop_all(context: &Context) -> Result<(), CommandError> {
    let records = select::all(context)?;
    let mut stopping = Vec::new();
    for record in &records {
        match lifecycle::begin_stop(context, record, Some(Duration::ZERO)) {
            Ok(begun) => stopping.push(begun),
            // Its files go all the same; a process of it that cannot be found cannot be stopped either.
            Err(error) => error.print(),
        }
    }
    stopping.into_iter().try_for_each(|begun| begun.finish(context))
}

/// Deletes what is ours in a directory, in the user namespace: files belong to subordinate ids, too. Returns what could
/// not be deleted, and why.
fn remove(directory: &Path, is_ours: impl Fn(&str) -> bool) -> Result<Vec<String>, CommandError> {
    let opened = match File::open(directory) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CommandError::host(format!("open {}: {}", directory.display(), reason(&error)))),
    };
    let failed = in_userns_with_output(&Mapping::of_user(), || {
        let mut failed = String::new();
        let entries = std::fs::read_dir(directory)
            .map_err(|error| CommandError::host(format!("read {}: {}", directory.display(), reason(&error))))?;
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().filter(|name| is_ours(name)).map(str::to_owned) else {
                continue;
            };
            if let Err(errno) = remove_tree(opened.as_fd(), name.as_bytes()) {
                let path = directory.join(&name);
                failed.push_str(&format!("delete {}: {}\n", path.display(), errno.desc().to_lowercase()));
            }
        }
        Ok(failed)
    })?;
    Ok(failed.lines().map(str::to_owned).collect())
}
