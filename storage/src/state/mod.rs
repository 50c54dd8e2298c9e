//! Every state file: its path, writer, lock and durability.
//!
//! | file | writer | readers | lock | durability |
//! |---|---|---|---|---|
//! | `containers/<id>/container.json` | who creates the container; `rename` | every command | container; `names.lock` for `rename` | none for `run --rm`, else fdatasync + directory |
//! | `containers/<id>/exit` | the supervisor | every command | container | none: a lost record reads as *exit code unknown* |
//! | `names/<name>` | who creates or renames the container | every command | the symlink is the lock | as its container |
//! | `<runtime>/<id>/state.json` | the supervisor | every command | container | none: tmpfs |
//! | `<oci root>/<id>/state.json` | `oci create`, `start` … | `oci` commands | its own | none: tmpfs |
//! | `volumes/<name>/volume.json` | who creates the volume | every command | published by rename | fdatasync |
//! | `undo/…` | who removes | `trash`, `undo` | `undo.lock` to take something out | as before its removal |
//! | `pods/<id>.json` | who creates the pod | every command | `pods.lock` | fdatasync |
//! | `networks/<name>.json` | `network create`, `update` | every command | `networks.lock` | fdatasync |
//! | `secrets/<name>.json` | `secret create` | who starts a container | `secrets.lock` | fdatasync |
//! | `events` | everybody, appending | `events` | none: one write per line | none |
//!
//! Readers take no lock; they ask whether a container's lock is held and draw their conclusions, see [`status`].

pub mod layout;

pub mod atomic;

pub mod lock;

pub mod version;

pub mod request;

pub mod name;

pub mod container;

pub mod records;

pub mod pod;

pub mod network;

pub mod status;

pub mod oci;

pub mod events;

pub mod undo;

pub mod trash;
