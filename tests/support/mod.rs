//! What the tests stand on, in the order of use: the list of tests, what a machine can do, the process that runs one
//! test, the hermetic home, the command, and the things containers are made from.

pub(crate) mod framework;

pub(crate) mod needs;

pub(crate) mod runner;

pub(crate) mod reaper;

pub(crate) mod home;

pub(crate) mod command;

pub(crate) mod docker;

pub(crate) mod transcript;

pub(crate) mod pty;

pub(crate) mod image;

pub(crate) mod layout;

pub(crate) mod registry;

pub(crate) mod http;

pub(crate) mod sink;

pub(crate) mod peer;

/// What a test file needs at its top.
pub(crate) mod prelude {
    pub(crate) use super::framework::{Test, test};
    pub(crate) use super::home::Home;
    pub(crate) use super::needs::Need;
}
