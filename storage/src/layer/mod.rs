//! Layers: from tar to tree and back.
