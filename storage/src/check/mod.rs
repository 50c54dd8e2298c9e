//! Whether everything that is kept is what it should be, and making again what can be made again.
//!
//! ```text
//! blobs ── digest ─┐
//! layers ─ index, blob ─┼→ images ─→ containers, names ─┐
//!                       └→ what nothing refers to       ├→ findings ─→ repair
//! volumes, networks, secrets, pods, steps of builds ────┘
//! ```
//! | damaged | made again from |
//! |---|---|
//! | an unpacked layer, or its index | its blob; the index alone from the tree, if the blob is gone |
//! | a blob | the unpacked layer, if archiving that gives the same bytes: layers that were built or committed here |
//! | `index.json` | the manifests among the blobs, named as containers remember them |
//! | a container's name, a volume's description or directory | the container's record; the rest of the volume |
//! | what nothing refers to, or belongs to a cache | nothing: it goes |
//!
//! Readers change nothing, and whoever pulls or runs meanwhile is not disturbed: what changes under the eyes of a check is
//! held by the store's pin. A repair takes that pin alone.
//!
//! **Runs in:** a process in the user namespace, for layers have files of many owners; starts threads.

mod images;
mod layers;
mod records;
mod repair;
mod tree;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::store::{ImageStore, StoreError};
use crate::layer::IdPolicy;
use crate::state::layout::Layout;

pub use repair::repair;

/// How far a check goes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Looks at what is there and how long it is, and reads no contents.
    pub quick: bool,
    /// What nothing refers to is damage when it is older.
    pub max_age: Duration,
}

/// What kind of thing is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// A file of the store that says what there is: `index.json`, `lists.json`.
    Store,
    /// A blob.
    Blob,
    /// An unpacked layer.
    Layer,
    /// An image, or a manifest list.
    Image,
    /// A container.
    Container,
    /// A container's name.
    Name,
    /// A volume.
    Volume,
    /// A network, a secret or a pod.
    Record,
    /// A step of a build.
    Cache,
    /// Something that was removed and can be brought back.
    Trash,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store => "store file",
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Image => "image",
            Self::Container => "container",
            Self::Name => "name",
            Self::Volume => "volume",
            Self::Record => "record",
            Self::Cache => "cache entry",
            Self::Trash => "trash entry",
        })
    }
}

/// What can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remedy {
    /// Make `index.json` from what there is.
    Collect,
    /// Put a file of records out of the way, under another name.
    SetAside,
    /// Make the blob from this unpacked layer, if that gives the same bytes; else delete it, for a pull to bring it again.
    Archive(Option<String>),
    /// Unpack the layer's blob again.
    Unpack(Digest),
    /// Make the layer's index from its tree.
    Index,
    /// Delete it: it is not needed, or made again when it is.
    Delete,
    /// Forget the image of this manifest: it cannot be used any more.
    Forget(Digest),
    /// Forget this manifest list.
    ForgetList(String),
    /// Remove the container.
    RemoveContainer,
    /// Forget how the container's last run ended.
    ForgetRun,
    /// Give the container its name back.
    Claim(String),
    /// Write the volume's description again.
    Describe,
    /// Make the volume's directory again.
    MakeData,
    /// Nothing that coracle can do: the text says what the user can.
    Ask(String),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub object: Object,
    /// Its name, digest or ID.
    pub name: String,
    /// What is wrong with it.
    pub problems: Vec<String>,
    /// What can be done.
    pub remedy: Remedy,
}

impl Finding {
    fn new(object: Object, name: impl fmt::Display, problem: impl fmt::Display, remedy: Remedy) -> Self {
        Self { object, name: name.to_string(), problems: vec![problem.to_string()], remedy }
    }
}

/// What was done about a finding, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is whole again: how.
    Repaired(String),
    /// It is gone: why.
    Deleted(String),
    /// It is as it was: why.
    Left(String),
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody needs what a repair may take away.
    #[error("the store cannot be repaired while an image is pulled, built or pushed: try again when that has ended")]
    Busy,
}

/// What is known of the store's contents while a check runs.
struct Checked<'a> {
    layout: &'a Layout,
    store: ImageStore,
    options: Options,
    /// Whom files of layers belong to, as things are now.
    ids: IdPolicy,
    /// Every blob that is there: its length, and what is wrong with it.
    blobs: HashMap<Digest, (u64, Option<String>)>,
    /// Every unpacked layer by the name of its directory, and whether it is whole.
    layers: HashMap<String, bool>,
    findings: Vec<Finding>,
}

impl Checked<'_> {
    fn is_good(&self, digest: &Digest) -> bool {
        self.blobs.get(digest).is_some_and(|(_, problem)| problem.is_none())
    }

    fn find(&mut self, object: Object, name: impl fmt::Display, problem: impl fmt::Display, remedy: Remedy) {
        self.findings.push(Finding::new(object, name, problem, remedy));
    }
}

/// Looks at everything. What is found comes in the order in which it can be repaired.
///
/// # Errors
/// A directory of the store cannot be read.
pub fn check(layout: &Layout, ids: &IdPolicy, options: Options) -> Result<Vec<Finding>, CheckError> {
    let store = ImageStore::open(layout);
    let mut checked = Checked {
        layout,
        store: store.clone(),
        options,
        ids: ids.clone(),
        blobs: HashMap::new(),
        layers: HashMap::new(),
        findings: Vec::new(),
    };
    if layout.images().is_dir() {
        let _pin = store.pin()?;
        checked.blobs()?;
        checked.layers()?;
        checked.images()?;
        checked.unreferenced()?;
    }
    checked.records();
    let mut findings = checked.findings;
    findings.sort_by_key(|finding| finding.object);
    Ok(findings)
}

/// Calls `work` for each item, on all cores; the results come in the order of the items.
fn on_all_cores<I: Sync, R: Send>(items: &[I], work: impl Fn(&I) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { return };
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
