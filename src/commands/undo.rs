//! `undo`: brings back what a command removed.

use storage::image::store::ImageStore;
use storage::state::container::ContainerError;
use storage::state::name::NameError;
use storage::state::undo::{Entry, Kind, UndoError, UndoLock, list};
use storage::volume;

use super::{Context, Outcome, select, tag};
use crate::cli::output;
use crate::error::CommandError;

/// Bring back what was removed
///
/// Containers, volumes and images that rm, rmi, volume rm or a prune command removed stay in the trash for a day
/// ($CORACLE_UNDO_WINDOW, 0 for none), or until the disk runs short. Without an argument everything comes back that the
/// last such command removed. Anonymous volumes come with their container, names with their image. What was made to vanish
/// at its end (--rm) does not come back.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of a container, volume, image, or of an entry of `coracle trash ls` (can be repeated)
    #[arg(value_name = "NAME")]
    wanted: Vec<String>,
    /// Bring a container or volume back under another name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.name.is_some() && args.wanted.len() != 1 {
        return Err(CommandError::user("--name needs exactly one container or volume to bring back"));
    }
    // Nothing is swept meanwhile.
    let lock = UndoLock::take(&context.layout)?;
    let entries = list(&context.layout);
    let mut errors = Vec::new();
    if args.wanted.is_empty() {
        let Some(last) = entries.last() else {
            return Err(CommandError::user("the trash is empty: there is nothing to bring back"));
        };
        let mut together: Vec<&Entry> = entries.iter().filter(|entry| entry.removal == last.removal).collect();
        // Images first: containers need them.
        together.sort_by_key(|entry| entry.kind);
        for entry in together {
            errors.extend(bring_back(context, &lock, entry, None).and_then(output::print_line).err());
        }
        return select::finish(errors);
    }
    for wanted in &args.wanted {
        let found = entries.iter().rev().find(|entry| answers(context, entry, wanted));
        let result = match found {
            Some(entry) => bring_back_with_volumes(context, &lock, &entries, entry, args.name.as_deref()),
            None => Err(CommandError::user(UndoError::NotFound(wanted.clone())).hinted("coracle trash ls")),
        };
        errors.extend(result.and_then(output::print_line).err());
    }
    select::finish(errors)
}

/// Whether an entry of the trash is what a user means by `wanted`.
pub(crate) fn answers(context: &Context, entry: &Entry, wanted: &str) -> bool {
    let begins = |id: &str| wanted.len() >= 3 && id.starts_with(wanted);
    begins(&entry.id)
        || match entry.kind {
            Kind::Container => {
                entry.container().is_ok_and(|record| record.name == wanted || begins(record.id.as_str()))
            }
            Kind::Volume => {
                entry.volume().is_ok_and(|volume| volume.name == wanted || (volume.anonymous && begins(&volume.name)))
            }
            Kind::Image => ImageStore::open(&context.layout).trashed(entry).is_ok_and(|trashed| {
                trashed.names().iter().any(|name| tag::answers(name, wanted))
                    || trashed.image.is_some_and(|image| begins(image.id.hex()))
            }),
        }
}

/// A container's own volumes were removed with it.
fn bring_back_with_volumes(
    context: &Context,
    lock: &UndoLock,
    entries: &[Entry],
    entry: &Entry,
    name: Option<&str>,
) -> Result<String, CommandError> {
    if entry.kind == Kind::Container
        && let Ok(record) = entry.container()
    {
        let with_it = |other: &&Entry| {
            other.kind == Kind::Volume
                && other.removal == entry.removal
                && other.volume().is_ok_and(|volume| record.anonymous_volumes.contains(&volume.name))
        };
        for volume in entries.iter().filter(with_it) {
            bring_back(context, lock, volume, None)?;
        }
    }
    bring_back(context, lock, entry, name)
}

/// Brings one thing back; returns what it is called.
fn bring_back(context: &Context, lock: &UndoLock, entry: &Entry, name: Option<&str>) -> Result<String, CommandError> {
    let layout = &context.layout;
    let store = ImageStore::open(layout);
    match entry.kind {
        Kind::Container => {
            let before = entry.container();
            let record = lock.restore_container(layout, entry, name).map_err(|error| refused(entry, error))?;
            context.note(&record, "undo");
            if let Ok(before) = before
                && before.request.pod.is_some()
                && record.request.pod.is_none()
            {
                let pod = &before.request.pod_name;
                eprintln!(
                    "Warning: container {}: its pod {pod} is gone: it is a container of its own now",
                    record.name
                );
            }
            if let Some(image) = &record.image
                && store.resolve(&image.id.to_string())?.is_none()
            {
                eprintln!("Warning: container {}: its image {} is not in the store any more", record.name, image.typed);
            }
            Ok(record.name)
        }
        Kind::Volume => {
            let volume = volume::restore(layout, lock, entry, name).map_err(|error| refused(entry, error))?;
            let event = storage::state::events::Event::new(
                storage::state::events::Kind::Volume,
                "undo",
                "",
                volume.name.as_str(),
            );
            storage::state::events::note(layout, &[event]);
            Ok(volume.name)
        }
        Kind::Image if name.is_some() => {
            Err(CommandError::user("an image comes back with its own names: coracle tag gives it another"))
        }
        Kind::Image => {
            let trashed = store.restore(lock, entry).map_err(|error| refused(entry, error))?;
            let names: Vec<String> = trashed.names().iter().map(ToString::to_string).collect();
            let id = trashed.image.map(|image| image.id).into_iter();
            for id in id.clone() {
                context.note_image("undo", &id, names.join(" "));
            }
            let id = id.map(|id| id.hex().to_owned()).next().unwrap_or_default();
            Ok(if names.is_empty() { id } else { names.join("\n") })
        }
    }
}

/// Somebody else has the name: there is a way.
fn refused(entry: &Entry, error: UndoError) -> CommandError {
    let taken = match &error {
        UndoError::NameTaken { name, .. } => Some(name.clone()),
        UndoError::Container(ContainerError::Name(NameError::InUse { name, .. })) => Some(name.clone()),
        _ => None,
    };
    let error = CommandError::from(error);
    match (taken, entry.kind) {
        (Some(name), Kind::Image) => error.hinted(format!("coracle untag {name} && coracle undo {}", entry.id)),
        (Some(name), _) => error.hinted(format!("coracle undo --name {name}-old {}", entry.id)),
        (None, _) => error,
    }
}
