//! Union mounts: what a stack of layers looks like, and what writing to it does.
//!
//! ```text
//! stack ← inode_table ← lookup, readdir ← copy_up ← modify, rename, metadata ← Union ← server
//! ```
//! Arrows never turn. The engine has no FUSE type: [`server`] decodes, calls, answers and decides nothing.
//!
//! **Runs in:** the union server, a child of the supervisor (or the tool `coracle fuse-overlayfs`), in the user
//! namespace that owns the layers, a few threads.

mod attributes;

mod upper;

pub use attributes::{
    Attributes, Caller, Changes, DirEntry, Entry, FileKind, InodeNo, NewFile, NewTime, RenameMode, Seek, Statistics,
    UnionError, XattrMode,
};
pub use upper::OpenError;

mod stub;
pub use stub::{Lower, Options, Owners, Union, Upper};

mod session;

pub mod server;
pub mod server_fuser;
