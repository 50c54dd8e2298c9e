//! Announcements: where a layer that grows can be read.
//!
//! - **File**: `$RUNTIME/lazy/<layer name>`: the name of the temporary directory in `layers/`.
//! - **Writer**: who unpacks the layer, before its first entry; removes it when the layer has its final name. **Readers**: see
//!   [`super`]. **Lock**: none, it is replaced by rename. **Durability**: none; one that leads nowhere says nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::layer::staging::PREFIX;
use crate::state::atomic::{Durability, write_atomic};
use crate::state::layout::{Layout, create_dir};

/// An announced layer; dropped, it is announced no more.
#[derive(Debug)]
pub struct Announcement {
    path: PathBuf,
    directory: String,
}

impl Announcement {
    /// Announces that `layer` grows in `directory`. Where that cannot be written nobody reads the layer before it is whole.
    pub(crate) fn make(layout: &Layout, layer: &str, directory: String) -> Option<Self> {
        let path = layout.lazy().join(layer);
        create_dir(&layout.lazy()).ok()?;
        write_atomic(&path, directory.as_bytes(), Durability::None).ok()?;
        Some(Self { path, directory })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.directory) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where `layer` grows, if anybody says so.
pub(super) fn read(notes: &Path, layer: &str) -> Option<String> {
    let text = fs::read_to_string(notes.join(layer)).ok()?;
    let is_ours = text.starts_with(PREFIX) && !text.contains('/') && text.len() < 64;
    is_ours.then_some(text)
}
