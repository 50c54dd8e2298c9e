//! User namespaces and their id maps.
