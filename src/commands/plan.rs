//! What is unused and how much room it takes: the one walk behind the prune commands and `system df`.

use std::collections::HashSet;
use std::path::PathBuf;

use storage::digest::Digest;
use storage::image::space::Space;
use storage::image::store::{Image, ImageStore};
use storage::prune;
use storage::state::container::{self, ContainerError, Record};
use storage::state::status;
use storage::state::undo::Removal;
use storage::volume::{self, Volume, VolumeError};

use super::filter::ContainerFilters;
use super::image::prune::Check;
use super::space::{self, bytes_of};
use super::volume::VolumeFilters;
use super::{Context, dependents, rm, rmi, select};
use crate::error::CommandError;

/// Things to be removed, each with the bytes that it takes.
pub(crate) type Sized<T> = Vec<(T, u64)>;

/// Where the changes of a container are.
pub(crate) fn upper(context: &Context, record: &Record) -> PathBuf {
    context.layout.container(&record.id).join("upper")
}

/// Containers that do not run.
pub(crate) fn containers(
    context: &Context,
    records: &[Record],
    filters: &ContainerFilters,
) -> Result<Sized<Record>, CommandError> {
    let mut found = Vec::new();
    // A pod goes with `pod prune`, as a whole.
    for record in records.iter().filter(|record| !record.request.infra) {
        let observed = status::observe(&context.layout, record)?;
        if !observed.state.is_alive() && filters.accept_observed(record, Some(&observed)) {
            found.push(record.clone());
        }
    }
    let bytes = bytes_of(&found.iter().map(|record| upper(context, record)).collect::<Vec<_>>())?;
    Ok(found.into_iter().zip(bytes).collect())
}

/// Volumes that none of these containers uses.
pub(crate) fn volumes(
    context: &Context,
    staying: &[Record],
    filters: &VolumeFilters,
    only_anonymous: bool,
) -> Result<Sized<Volume>, CommandError> {
    let mut found = super::volume::all(context)?;
    found.retain(|volume| {
        filters.accept(volume, staying)
            && !staying.iter().any(|record| prune::uses_volume(record, &volume.name))
            && (volume.anonymous || !only_anonymous)
    });
    let bytes = bytes_of(&found.iter().map(|volume| volume.mountpoint(&context.layout)).collect::<Vec<_>>())?;
    Ok(found.into_iter().zip(bytes).collect())
}

/// Images that nobody uses.
#[derive(Debug)]
pub(crate) struct Images {
    /// Those.
    pub(crate) unused: Vec<Image>,
    /// What would come back without them, what no image refers to included.
    pub(crate) bytes: u64,
    /// All images.
    pub(crate) all: Vec<Image>,
    /// The room that they take, measured.
    pub(crate) space: Space,
}

/// Images that none of these containers uses; without `all` only those without a name.
pub(crate) fn images(
    context: &Context,
    staying: &[Record],
    all: bool,
    filters: &[Check],
) -> Result<Images, CommandError> {
    let store = ImageStore::open(&context.layout);
    let images = store.list()?;
    let is_used = |image: &Image| {
        staying.iter().any(|record| prune::uses_image(record, &image.id))
            || super::image::mount::is_mounted(context, image)
    };
    // Asked once for each: it looks at the mounts of this machine.
    let used: HashSet<&Digest> = images.iter().filter(|image| is_used(image)).map(|image| &image.id).collect();
    let is_unused = |image: &&Image| {
        !used.contains(&image.id) && (all || image.names.is_empty()) && filters.iter().all(|check| check.accept(image))
    };
    let unused: Vec<Image> = images.iter().filter(is_unused).cloned().collect();
    let space = store.space()?;
    let layers = space::layers_of(staying);
    let stay = images.iter().filter(|image| !is_unused(image));
    let bytes = space.reclaimable(&images, stay, &layers);
    Ok(Images { unused, bytes, all: images, space })
}

/// Removes containers that do not run; returns those that went, and their bytes.
pub(crate) fn remove_containers(
    context: &Context,
    plan: Sized<Record>,
    removal: Option<&Removal>,
) -> (Vec<String>, u64) {
    let (mut ids, mut freed) = (Vec::new(), 0);
    for (record, bytes) in dependents::sort(plan, |(record, _)| record) {
        // What stands on it runs, or was kept by a filter.
        if select::all(context).is_ok_and(|all| !dependents::of(&all, &record).is_empty()) {
            continue;
        }
        match rm::remove_to(context, &record, false, removal) {
            // About to be started: it is none of ours.
            Err(_) if is_busy(context, &record) => {}
            Ok(()) => {
                ids.push(record.id.to_string());
                freed += bytes;
            }
            Err(error) => error.print(),
        }
    }
    (ids, freed)
}

fn is_busy(context: &Context, record: &Record) -> bool {
    matches!(container::lock(&context.layout, &record.id), Err(ContainerError::Busy(_)))
}

/// Removes volumes that nobody uses; returns those that went, and their bytes.
pub(crate) fn remove_volumes(
    context: &Context,
    plan: Sized<Volume>,
    removal: Option<&Removal>,
) -> Result<(Vec<String>, u64), CommandError> {
    let (mut names, mut freed) = (Vec::new(), 0);
    for (volume, bytes) in plan {
        // Looked at once more under the lock: a container may have come meanwhile.
        let users = |volume: &Volume| {
            let users = prune::volume_users(&context.layout, &volume.name).unwrap_or_default();
            users.into_iter().map(String::from).collect()
        };
        match volume::remove_to(&context.layout, &volume.name, removal, users) {
            Ok(_) => {
                names.push(volume.name);
                freed += bytes;
            }
            Err(VolumeError::InUse { .. } | VolumeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((names, freed))
}

/// Removes images that nobody uses, and what no image refers to; returns their ids and the bytes.
pub(crate) fn remove_images(
    context: &Context,
    plan: Images,
    removal: Option<&Removal>,
) -> Result<(Vec<String>, u64), CommandError> {
    let store = ImageStore::open(&context.layout);
    let mut ids = Vec::new();
    for image in &plan.unused {
        rmi::remove_from(&store, context, image, removal)?;
        ids.push(image.id.hex().to_owned());
    }
    let halves = space::collect_garbage(context)?;
    Ok((ids, plan.bytes + halves))
}

/// Tells where the room of what was removed is now.
pub(crate) fn tell_of_trash(context: &Context, removed: usize, removal: Option<&Removal>) {
    let kept = removal.filter(|_| removed > 0).is_some();
    if kept && !storage::state::undo::list(&context.layout).is_empty() {
        let window = crate::cli::units::short_duration(space::undo_window());
        eprintln!(
            "In the trash for {window}, or until the disk runs short: `coracle undo` brings it back, `coracle trash empty` \
             frees the space now"
        );
    }
}
