//! Where images come from and go to.

pub mod registry;

pub mod oci_layout;

pub mod docker_archive;

pub mod dir;
