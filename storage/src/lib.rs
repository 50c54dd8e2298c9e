//! Bytes: from the wire to a mountable root. Owns every file that coracle keeps.
//!
//! ```text
//! reference → transport → blob → image → layer → union mount
//! ```
//!
//! Invariants: nothing here mounts, makes a namespace or changes credentials; nothing here speaks netlink. The async
//! runtime and TLS live in `transport::registry` alone. A name that came from an image is resolved only beneath a
//! directory descriptor.
//!
//! | kernel feature | first version | without it |
//! | --- | --- | --- |
//! | `openat2` | 5.6 | an error: the rest of coracle needs it too |
//! | device 0/0 made without privilege (whiteouts) | 5.8 | a file with overlay's whiteout xattr |
//! | Landlock with `REFER` around unpacking and the union server | 5.19 | they have only their first wall |
//! | `O_TMPFILE` for spooled archives | 3.11, not all file systems | a file that is unlinked at once |

// The fences of clippy.toml are for what we ship; tests make their own surroundings.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

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

pub mod secret;

pub mod build;

pub mod prune;

pub mod check;

#[allow(unsafe_code)]
mod sys;
