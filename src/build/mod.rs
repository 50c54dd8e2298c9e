//! `build`: from a Dockerfile and a context to an image.

/// What is accepted, but hardly meant.
#[allow(dead_code, reason = "nothing asks yet")]
pub(crate) mod check;
/// The language: a pure parser, from bytes to stages of typed instructions.
#[allow(dead_code, unused_imports, reason = "the language is whole; what runs it uses parts of it")]
pub(crate) mod containerfile;
/// Which paths of a context a `.dockerignore` leaves out.
#[allow(dead_code, reason = "the language is whole; what runs it uses parts of it")]
pub(crate) mod ignore;
/// Where the result goes.
#[allow(dead_code, reason = "nothing asks yet")]
pub(crate) mod output;
/// What is not in a directory of this machine.
#[allow(dead_code, reason = "nothing asks yet")]
pub(crate) mod remote;
