//! Finding containers: all of them, or one by what it is called.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::{ContainerError, FILE, Record, VERSION, load};
use crate::state::layout::{ContainerId, Layout, is_lower_hex};
use crate::state::name;
use crate::state::version;

/// The name in a container's record, without the rest of it.
pub(crate) fn name_of(layout: &Layout, id: &ContainerId) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    version::read::<Named>(&layout.container(id).join(FILE), VERSION).ok().flatten().map(|named| named.name)
}

/// The ids of all directories below `containers/`, published or not, in no order.
///
/// # Errors
/// [`ContainerError::Io`].
pub fn ids(layout: &Layout) -> Result<Vec<ContainerId>, ContainerError> {
    ids_in(&layout.containers())
}

pub(crate) fn ids_in(path: &Path) -> Result<Vec<ContainerId>, ContainerError> {
    let failed = |source| ContainerError::Io { action: "list", path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        if let Some(id) = entry.map_err(failed)?.file_name().to_str().and_then(|name| ContainerId::parse(name).ok()) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Every container, the oldest first. One that cannot be read is reported beside the others, not instead of them.
///
/// # Errors
/// [`ContainerError::Io`] when the directory itself cannot be read.
pub fn list(layout: &Layout) -> Result<(Vec<Record>, Vec<ContainerError>), ContainerError> {
    let mut records = Vec::new();
    let mut errors = Vec::new();
    for id in ids(layout)? {
        match load(layout, &id) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    Ok((records, errors))
}

/// Finds a container by full id, by name, or by a prefix of its id that fits no other.
///
/// # Errors
/// [`ContainerError::NotFound`] and [`ContainerError::Ambiguous`].
pub fn find(layout: &Layout, text: &str) -> Result<Record, ContainerError> {
    let not_found = || ContainerError::NotFound(text.to_owned());
    if let Ok(id) = ContainerId::parse(text)
        && let Some(record) = load(layout, &id)?
    {
        return Ok(record);
    }
    // A name that leads to a container of another name is the trace of a rename cut short.
    if let Some(id) = name::lookup(layout, text)
        && let Some(record) = load(layout, &id)?
        && record.name == text
    {
        return Ok(record);
    }
    if text.is_empty() || text.len() > 64 || !is_lower_hex(text) {
        return Err(not_found());
    }
    let mut found = None;
    for id in ids(layout)?.into_iter().filter(|id| id.as_str().starts_with(text)) {
        if let Some(record) = load(layout, &id)?
            && found.replace(record).is_some()
        {
            return Err(ContainerError::Ambiguous(text.to_owned()));
        }
    }
    found.ok_or_else(not_found)
}
