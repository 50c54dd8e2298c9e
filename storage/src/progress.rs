//! What a transfer reports while it runs.
//!
//! The transfer calls from several threads at once and never waits for an answer; drawing is the terminal's business
//! (`src/cli/progress.rs`).

use crate::digest::Digest;

/// One thing that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A blob begins to arrive.
    Started {
        /// The blob.
        digest: &'a Digest,
        /// Its length in bytes.
        total_bytes: u64,
        /// Whether it is a layer, or a manifest or configuration.
        kind: Kind,
    },
    /// More of a blob has arrived.
    Advanced {
        /// The blob.
        digest: &'a Digest,
        /// Bytes that are there now, from the start; falls back when a server cannot resume.
        done_bytes: u64,
    },
    /// A blob has arrived whole and is being finished: unpacked to its end, checked.
    Unpacking {
        /// The blob.
        digest: &'a Digest,
    },
    /// A blob is in place.
    Done {
        /// The blob.
        digest: &'a Digest,
    },
    /// A blob was there before.
    Exists {
        /// The blob.
        digest: &'a Digest,
        /// Whether it is a layer, or a manifest or configuration.
        kind: Kind,
    },
    /// The registry has taken a blob from another of its repositories.
    Mounted {
        /// The blob.
        digest: &'a Digest,
        /// The other repository.
        from: &'a str,
    },
    /// Something to tell the user in a line of its own, such as a repeated request.
    Message(&'a str),
}

/// What a blob is to an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A layer.
    Layer,
    /// The configuration.
    Config,
    /// A manifest or an index.
    Manifest,
}

/// Takes reports of a transfer.
pub trait Progress: Send + Sync {
    /// Takes one report; called from the thread that works, so it must be quick.
    fn event(&self, event: Event<'_>);
}

/// Reports to nobody.
#[derive(Clone, Copy, Default, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}

impl<P: Progress + ?Sized> Progress for &P {
    fn event(&self, event: Event<'_>) {
        (**self).event(event);
    }
}
