//! Layers that come entry by entry, looked at in between.
