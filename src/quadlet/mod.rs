//! Quadlet: services of systemd from files that describe containers, pods, volumes, networks, images and builds.
//!
//! ```text
//! directories ── load ──▶ Source ── convert ──▶ Unit ── install ──▶ NAME.service, links
//! ```
//! Everything but `load` and `install` is pure: text in, text out. The files are podman's; what a key means is an option of
//! `run`, `pod create`, `volume create`, ….
//!
//! # Source
//! `podman-systemd.unit(5)`, `systemd.syntax(7)`, `systemd.generator(7)`.

pub(crate) mod words;

pub(crate) mod unit;

pub(crate) mod load;

pub(crate) mod convert;

pub(crate) mod install;
