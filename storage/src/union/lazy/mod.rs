//! The layers of an image that is still being pulled, as one read-only tree.
//!
//! ```text
//! puller (run --pull=lazy, pull --lazy)          server of a container          supervisor
//!   downloads, topmost layer first                 this module                    holds the verdict's pipe
//!   unpacks into layers/.tmp-…/tree ── data ─────▶ opens beneath
//!   tells names: layers/.tmp-…/journal ── inotify ▶ answers what waited
//!   announces: $RUNTIME/lazy/<layer> ── inotify ─▶ finds the journal
//!   verifies, renames to layers/<layer> ─ inotify ▶ finds it whole
//!   verdict: all verified, or why not ─────────────────────────────────────────▶ success may be told, or kills
//! ```
//! Of a layer with a table of contents ([`crate::layer::toc`]) all names come at once, before any contents; what is read and is
//! not here is asked for ([`ask`]), and comes before the rest, bytes of one piece of a file at a time:
//!
//! ```text
//!   reads questions, fetches pieces by range ◀─ pipe: $RUNTIME/lazy/wanted/.tmp-… ─ asks for bytes that a request waits for
//!   verified: layers/.tmp-…/early/<id> ── data ─▶ opens, when the journal has told of them
//! ```
//!
//! The processes share nothing but the store: a server never needs its own puller. Whoever has the claim on a blob unpacks it,
//! everybody who waits for the layer reads the same journal, so several containers cost one download; and a puller that is
//! killed leaves what any killed pull leaves, which the next one sweeps and does again.
//!
//! # What is answered when
//!
//! An archive is a sequence, so of a layer that still arrives only what it *has* is known, not what it has *not*:
//!
//! | asked | answered |
//! | --- | --- |
//! | a name that the topmost layers that are complete have, or hide | at once |
//! | a name that the first layer below those, which grows, has got so far | at once |
//! | any other name; what a directory lists; a directory whose entry has not come | when that layer is complete, or has it |
//! | contents | at once: a name is told when its contents are on disk; with a table of contents when those bytes are |
//!
//! So the first incomplete layer from the top decides, and the pull brings that first. What is answered is believed by the
//! kernel for ever. An archive that takes back what it has said (the same name twice) cannot be served this way: that ends
//! the container, with the hint to pull the image whole. The supervisor asks for it before it believes in a success.
//!
//! Names over which the container has something mounted ([`Places::mounted_over`]) are taken to be there before anybody knows:
//! nobody sees what is behind them.
//!
//! # Waiting
//!
//! A request that cannot be answered is parked with its bytes, and asked again when something has come; the server goes on
//! with others. The kernel takes a parked request back when its process is interrupted or killed ([`serve`]).
//!
//! Changes are not our business: the kernel's overlay lies over this tree. A container that was started when all layers were
//! there has none of this.
//!
//! **Runs in:** the union server, one thread; for a look at single files ([`Reader`]) the command line's process.

pub(crate) mod ask;

mod layer;

mod tree;

mod answer;

mod serve;

mod reader;

mod note;

mod progress;

pub use note::Announcement;
pub use progress::{Telling, arriving};
pub use reader::Reader;
pub use serve::{LazyError, serve};

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::layer::IdMap;
use crate::state::layout::Layout;

/// Which layers, and where they arrive.
#[derive(Clone, Debug)]
pub struct Places {
    /// `layers/`.
    pub(crate) layers: PathBuf,
    /// Where layers that grow are announced.
    pub(crate) notes: PathBuf,
    /// Names of layers, topmost first.
    pub(crate) names: Vec<String>,
    /// How ids of the mount become those that the layers have.
    pub(crate) ids: IdMap,
    /// What is mounted over: paths from the root, without a slash before them, and whether each is a directory.
    pub(crate) covered: Vec<(Vec<u8>, bool)>,
}

impl Places {
    /// The layers with these names, topmost first.
    pub fn new(layout: &Layout, names: Vec<String>) -> Self {
        let (layers, notes) = (layout.layers(), layout.lazy());
        Self { layers, notes, names, ids: IdMap::default(), covered: Vec::new() }
    }

    /// The mount has other numbers for ids than the layers.
    pub fn shift(&mut self, ids: IdMap) {
        self.ids = ids;
    }

    /// Something will be mounted over this absolute path before anybody looks at it.
    pub fn mounted_over(&mut self, path: &Path, is_directory: bool) {
        let path = path.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default();
        if !path.is_empty() {
            self.covered.push((path.to_vec(), is_directory));
        }
    }
}

#[cfg(test)]
mod tests;
