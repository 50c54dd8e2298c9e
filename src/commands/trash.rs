//! `trash`: what was removed and can be brought back.

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use storage::image::store::ImageStore;
use storage::state::undo::{Entry, Kind, UndoError, UndoLock, list};

use super::space::{self, bytes_of};
use super::{Context, Outcome, select, undo};
use crate::cli::format::{Listing, Value, is_json};
use crate::cli::{output, units};
use crate::error::CommandError;
use crate::role::Persona;

/// What to do with the trash.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Remove what is in the trash for good, and give its space back
    Empty(EmptyArgs),
    /// List what was removed and can be brought back
    #[command(visible_alias = "list")]
    Ls(LsArgs),
}

/// Remove what is in the trash for good, and give its space back
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct EmptyArgs {
    /// Only these, by name or ID
    #[arg(value_name = "NAME")]
    wanted: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// List what was removed and can be brought back
///
/// `coracle undo ID` brings it back. After a day ($CORACLE_UNDO_WINDOW), or when less than 5 % of the file system or 2 GiB
/// are free, the next command that removes or pulls something gives the space back.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct LsArgs {
    /// Change the output format to json or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not print column headings
    #[arg(short = 'n', long)]
    noheading: bool,
    /// Display only IDs
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Empty(args) => empty(args, context),
        Command::Ls(args) => ls(args, context),
    }
}

/// One line of the list.
struct Line {
    entry: Entry,
    name: String,
    object: String,
    bytes: u64,
}

fn lines(entries: Vec<Entry>, context: &Context) -> Result<Vec<Line>, CommandError> {
    let store = ImageStore::open(&context.layout);
    let is_image = |entry: &Entry| entry.kind == Kind::Image;
    let trees: Vec<_> = entries
        .iter()
        .filter(|entry| !is_image(entry))
        .map(|entry| entry.path.join(if entry.kind == Kind::Volume { "_data" } else { "upper" }))
        .collect();
    let mut tree_bytes = bytes_of(&trees)?.into_iter();
    let (images, keep) = (store.list()?, space::layers_of(&select::all(context)?));
    let space = if entries.iter().any(is_image) { Some(store.space()?) } else { None };
    let lines = entries.into_iter().map(|entry| {
        let (name, object, bytes) = match entry.kind {
            Kind::Container => {
                let record = entry.container().ok();
                let name = record.as_ref().map(|record| record.name.clone()).unwrap_or_default();
                let id = record.map(|record| record.id.to_string()).unwrap_or_default();
                (name, id, tree_bytes.next().unwrap_or(0))
            }
            Kind::Volume => {
                let name = entry.volume().map(|volume| volume.name).unwrap_or_default();
                (name.clone(), name, tree_bytes.next().unwrap_or(0))
            }
            Kind::Image => {
                let trashed = store.trashed(&entry).ok();
                let names = trashed.as_ref().map(|trashed| trashed.names()).unwrap_or_default();
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                let image = trashed.and_then(|trashed| trashed.image);
                let with =
                    |more: Option<_>| space.as_ref().map_or(0, |space| space.held_by(images.iter().chain(more), &keep));
                let bytes = with(image.as_ref()) - with(None);
                (names.join(","), image.map(|image| image.id.hex().to_owned()).unwrap_or_default(), bytes)
            }
        };
        Line { entry, name, object, bytes }
    });
    Ok(lines.collect())
}

fn ls(args: LsArgs, context: &Context) -> Outcome {
    // The latest first: that is what `undo` brings back.
    let entries: Vec<Entry> = list(&context.layout).into_iter().rev().collect();
    if args.quiet {
        output::print(&entries.iter().flat_map(|entry| [entry.id.as_str(), "\n"]).collect::<String>())?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows = lines(entries, context)?.into_iter().map(|line| row(&line, now)).collect();
    let default = r"table {{.ID}}\t{{.Type}}\t{{.Name}}\t{{.Size}}\t{{.Removed}}\t{{.Expires}}";
    let format = match args.format.as_deref() {
        None | Some("table") => default,
        Some(format) if is_json(format) => "{{json .}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "trash ls",
        type_name: "trash.Entry",
        format,
        headings: &[],
        no_heading: args.noheading,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn row(line: &Line, now: Timestamp) -> Value {
    let window = space::undo_window();
    let end = line.entry.removed.checked_add(jiff::SignedDuration::try_from(window).unwrap_or_default()).unwrap_or(now);
    let left = Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO);
    let expires = match left {
        Duration::ZERO => "now".to_owned(),
        left => format!("in {}", units::human_duration(left).to_lowercase()),
    };
    Value::Struct(vec![
        ("ID", line.entry.id.as_str().into()),
        ("Type", line.entry.kind.as_str().into()),
        ("Name", if line.name.is_empty() { "<none>" } else { line.name.as_str() }.into()),
        ("ObjectID", line.object.as_str().into()),
        ("RawSize", line.bytes.into()),
        ("Size", units::human_size(line.bytes, 4).into()),
        ("RemovedAt", Value::Time(Some(line.entry.removed))),
        ("Removed", units::ago(line.entry.removed, now).into()),
        ("ExpiresAt", Value::Time(Some(end))),
        ("Expires", expires.into()),
    ])
}

fn empty(args: EmptyArgs, context: &Context) -> Outcome {
    let chosen = |entries: Vec<Entry>| -> Result<Vec<Entry>, CommandError> {
        if args.wanted.is_empty() {
            return Ok(entries);
        }
        let mut chosen = Vec::new();
        for wanted in &args.wanted {
            let found = entries.iter().rev().find(|entry| undo::answers(context, entry, wanted));
            chosen.push(found.cloned().ok_or_else(|| CommandError::user(UndoError::NotFound(wanted.clone())))?);
        }
        Ok(chosen)
    };
    let entries = chosen(list(&context.layout))?;
    let found = lines(entries, context)?;
    if !args.force && !found.is_empty() {
        let mut warning = "WARNING! This will remove for good:\n".to_owned();
        warning.extend(found.iter().map(|line| {
            let (kind, size) = (line.entry.kind.as_str(), units::human_size(line.bytes, 4));
            let name = if line.name.is_empty() { &line.entry.id } else { &line.name };
            format!("\t- {kind} {name} ({size})\n")
        }));
        if !output::confirm(&warning)? {
            return Ok(0);
        }
    }
    let lock = UndoLock::take(&context.layout)?;
    let held = |entries: &[Entry]| total(entries, context);
    let entries: Vec<Entry> = found.into_iter().map(|line| line.entry).filter(|entry| entry.path.exists()).collect();
    let freed = held(&entries)? + space::trash_bytes(&context.layout)?;
    space::throw_away(context, &lock, &entries)?;
    output::print_line(format_args!("Total reclaimed space: {}", units::human_size(freed, 4)))?;
    Ok(0)
}

/// The bytes that come back without these entries: what several images share counts once.
pub(crate) fn total(entries: &[Entry], context: &Context) -> Result<u64, CommandError> {
    let trees: Vec<_> = entries
        .iter()
        .filter(|entry| entry.kind != Kind::Image)
        .map(|entry| entry.path.join(if entry.kind == Kind::Volume { "_data" } else { "upper" }))
        .collect();
    let trees: u64 = bytes_of(&trees)?.into_iter().sum();
    if entries.iter().all(|entry| entry.kind != Kind::Image) {
        return Ok(trees);
    }
    let store = ImageStore::open(&context.layout);
    let images_of = |entries: &mut dyn Iterator<Item = &Entry>| -> Vec<_> {
        let images = entries.filter(|entry| entry.kind == Kind::Image);
        images.filter_map(|entry| store.trashed(entry).ok()?.image).collect()
    };
    let all = list(&context.layout);
    let everything = images_of(&mut all.iter());
    let rest = images_of(&mut all.iter().filter(|entry| !entries.contains(entry)));
    let (live, keep, space) = (store.list()?, space::layers_of(&select::all(context)?), store.space()?);
    let held = |trashed| space.held_by(live.iter().chain(trashed), &keep);
    Ok(trees + held(&everything).saturating_sub(held(&rest)))
}
