//! The option groups of `run` and `create`. Each says what its options are and puts their values into a [`Request`].
//!
//! [`Request`]: storage::state::request::Request

use std::io;
use std::path::Path;

use super::parse::pairs::Environment;

/// Life of the container: name, image, labels, log, restart.
pub(crate) mod life;

/// How its health is found out.
pub(crate) mod health;

/// Its first process.
pub(crate) mod process;

/// Which platform of an image.
pub(crate) mod platform;

/// What it has to do with systemd.
pub(crate) mod service;

/// Its users and groups.
pub(crate) mod accounts;

/// What it sees of the host's files and devices.
pub(crate) mod mounts;

/// Its network.
pub(crate) mod network;

/// What it may do.
pub(crate) mod security;

/// How much it may use.
pub(crate) mod resources;

/// What is in the place of options that were not given.
pub(crate) mod defaults;

/// What has no effect here.
pub(crate) mod ignored;

/// What only `run` has.
pub(crate) mod run;

/// Whoever typed the command: everything that options take from outside the command line.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// Their environment.
    pub(crate) environment: Environment<'a>,
    /// Their working directory, absolute.
    pub(crate) cwd: &'a Path,
    /// Their user id.
    pub(crate) uid: u32,
    /// Their group id.
    pub(crate) gid: u32,
    /// Reads a file they named.
    pub(crate) read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

impl Caller<'_> {
    /// The content of a file for a parser, or why there is none.
    pub(crate) fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        (self.read)(&self.cwd.join(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            _ => crate::error::reason(&error),
        })
    }
}
