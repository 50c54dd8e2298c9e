//! The `dir:` transport of skopeo.
