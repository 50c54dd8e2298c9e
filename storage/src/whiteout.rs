//! Every spelling of whiteout and opaque: tar name, 0/0 device, xattr.
