//! Images: manifests, configurations, names.
