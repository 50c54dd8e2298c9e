//! Bytes: from the wire to a mountable root. Owns every file that coracle keeps.
//!
//! ```text
//! reference → transport → blob → image → layer → union mount
//! ```
//!
//! Invariants: nothing here mounts, makes a namespace or changes credentials; nothing here speaks netlink. The async
//! runtime and TLS live in `transport::registry` alone. A name that came from an image is resolved only beneath a
//! directory descriptor.

pub mod reference;

pub mod digest;

pub mod progress;

pub mod transport;

pub mod blob;

pub mod image;

pub mod layer;

pub mod whiteout;

pub mod union;

pub mod state;

pub mod volume;

pub mod prune;

#[allow(unsafe_code)]
mod sys;
