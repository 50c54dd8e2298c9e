//! `build`: from a Dockerfile and a context to an image.

/// What is accepted, but hardly meant.
pub(crate) mod check;
/// The language: a pure parser, from bytes to stages of typed instructions.
pub(crate) mod containerfile;
/// Which paths of a context a `.dockerignore` leaves out.
pub(crate) mod ignore;
/// Where the result goes.
pub(crate) mod output;
/// What is not in a directory of this machine.
pub(crate) mod remote;

/// The configuration of the image.
mod config;
/// The directory that is copied from.
pub(crate) mod context;
/// A shell where a step failed.
pub(crate) mod debug;
/// What goes on beside the next step.
mod endings;
/// The image at the end.
pub(crate) mod finish;
/// Stages and what they need.
pub(crate) mod graph;
/// Children in the user namespace.
mod inside;
/// What a signal ends.
pub(crate) mod interrupt;

pub(crate) use inside::{Space, inside as in_userns};

/// What was built elsewhere.
pub(crate) mod exchange;
/// What a build was asked for.
pub(crate) mod options;
/// What a stage tells.
mod report;
/// Stages side by side.
pub(crate) mod schedule;
/// What is shown.
pub(crate) mod screen;
/// One layer of many.
mod squash;
/// One stage, and what it comes to.
pub(crate) mod stage;
/// What the stages of a build share.
mod state;
/// The instructions that change files.
mod steps;
/// What is shown on a terminal.
mod terminal;
/// What is left behind.
pub(crate) mod tidy;
