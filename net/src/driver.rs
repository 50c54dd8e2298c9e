//! The seam between a container and its way out.
