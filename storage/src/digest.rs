//! Digests of blobs, layers and chains.
