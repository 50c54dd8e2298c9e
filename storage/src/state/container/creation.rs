//! A container on its way into being.

use std::path::PathBuf;

use super::{ContainerError, Record, discard, lock_new};
use crate::state::atomic::Durability;
use crate::state::layout::{ContainerId, Layout, create_dir};
use crate::state::lock::FileLock;
use crate::state::name::{self, NameError};
use crate::state::trash;

/// A container that is being created: its lock is held, its directory is there, its record is not.
///
/// Dropped without [`Creation::publish`], everything is taken away again.
#[derive(Debug)]
pub struct Creation<'a> {
    layout: &'a Layout,
    id: ContainerId,
    lock: Option<FileLock>,
    name: Option<String>,
}

impl<'a> Creation<'a> {
    /// Takes the lock of a new container and makes its two directories.
    ///
    /// # Errors
    /// [`ContainerError::Layout`] and [`ContainerError::Lock`].
    pub fn begin(layout: &'a Layout, id: ContainerId) -> Result<Self, ContainerError> {
        let lock = lock_new(layout, &id)?;
        let creation = Self { layout, id, lock: Some(lock), name: None };
        create_dir(&layout.container(&creation.id))?;
        trash::prepare(layout)?;
        Ok(creation)
    }

    /// Claims the name it shall have.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn claim_name(&mut self, name: &str) -> Result<(), NameError> {
        name::claim(self.layout, name, &self.id)?;
        self.name = Some(name.to_owned());
        Ok(())
    }

    /// Claims a random name and returns it.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn claim_random_name(&mut self) -> Result<String, NameError> {
        let name = name::claim_random(self.layout, &self.id)?;
        self.name = Some(name.clone());
        Ok(name)
    }

    /// The id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The container's own directory, for everything that goes beside the record.
    pub fn directory(&self) -> PathBuf {
        self.layout.container(&self.id)
    }

    /// Writes the record; from here on the container exists. Returns the lock: a supervisor keeps it for life, `create`
    /// drops it.
    ///
    /// # Errors
    /// [`ContainerError::Write`]; everything is taken away again then.
    pub fn publish(mut self, record: &Record, durability: Durability) -> Result<FileLock, ContainerError> {
        record.write(self.layout, durability)?;
        let lock = self.lock.take();
        // `lock` is there from `begin` until here.
        lock.ok_or_else(|| ContainerError::Busy(self.id.clone()))
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Best effort: what stays has a free lock and no record, which is what a sweep looks for.
            let _ = discard(self.layout, &self.id, self.name.as_deref(), None);
        }
    }
}
