//! How far images are that arrive, for those who list containers.
//!
//! - **File**: `$RUNTIME/lazy/pulls/<image id>`: bytes that are here and bytes in all, in decimal, with a space between.
//! - **Writer**: the puller, a few times a second; removes it at its end. One that was killed leaves it, and its containers end
//!   with it. **Readers**: `ps`. **Lock**: none, it is replaced by rename. **Durability**: none.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::progress::{Event, Progress};
use crate::state::atomic::{Durability, write_atomic};
use crate::state::layout::{Layout, create_dir};
use crate::transport::Known;

/// How often it is told.
const PERIOD: Duration = Duration::from_millis(250);

fn directory(layout: &Layout) -> PathBuf {
    layout.lazy().join("pulls")
}

/// A pull that tells how far it is.
#[derive(Debug)]
pub struct Telling {
    directory: PathBuf,
    told: OnceLock<Told>,
}

#[derive(Debug)]
struct Told {
    path: PathBuf,
    sizes: HashMap<Digest, u64>,
    here: Mutex<(HashMap<Digest, u64>, Instant)>,
}

impl Telling {
    /// Tells nothing before it is known of what.
    pub fn new(layout: &Layout) -> Self {
        Self { directory: directory(layout), told: OnceLock::new() }
    }

    /// Tells of this image from now on. That it cannot be told is no reason not to pull.
    pub fn begin(&self, known: &Known) {
        if create_dir(&self.directory).is_err() {
            return;
        }
        let sizes = known.layers().map(|layer| (layer.digest.clone(), layer.size)).collect();
        let path = self.directory.join(known.id().hex());
        let told = self.told.get_or_init(|| Told { path, sizes, here: Mutex::new((HashMap::new(), Instant::now())) });
        told.write(0);
    }
}

impl Told {
    fn write(&self, here: u64) {
        let total: u64 = self.sizes.values().fold(0, |sum, size| sum.saturating_add(*size));
        let _ = write_atomic(&self.path, format!("{here} {total}").as_bytes(), Durability::None);
    }
}

impl Progress for Telling {
    fn event(&self, event: Event<'_>) {
        let Some(told) = self.told.get() else { return };
        let mut here = told.here.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, last) = &mut *here;
        match event {
            Event::Advanced { digest, done_bytes } => {
                bytes.insert(digest.clone(), done_bytes);
                if last.elapsed() < PERIOD {
                    return;
                }
            }
            Event::Done { digest } | Event::Exists { digest, .. } => {
                let Some(size) = told.sizes.get(digest) else { return };
                bytes.insert(digest.clone(), *size);
            }
            _ => return,
        }
        *last = Instant::now();
        told.write(bytes.values().fold(0, |sum, size| sum.saturating_add(*size)));
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(told) = self.told.get() {
            let _ = fs::remove_file(&told.path);
        }
    }
}

/// Which images arrive, by their ids in hex, and how many percent of each are here.
pub fn arriving(layout: &Layout) -> HashMap<String, u8> {
    // Most of the time there is none.
    let Ok(entries) = fs::read_dir(directory(layout)) else { return HashMap::new() };
    let percent = |text: &str| {
        let (here, total) = text.split_once(' ')?;
        let (here, total): (u64, u64) = (here.parse().ok()?, total.trim().parse().ok()?);
        u8::try_from(u128::from(here.min(total)) * 100 / u128::from(total.max(1))).ok()
    };
    let known = entries.flatten().filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        Some((entry.file_name().into_string().ok()?, percent(&text)?))
    });
    known.collect()
}
