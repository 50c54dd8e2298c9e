//! Kernel calls that `nix` lacks.

pub(crate) mod clone;
pub(crate) mod flags;
pub(crate) mod fuse;
pub(crate) mod getdents;
pub(crate) mod mmap;
pub(crate) mod rename;
pub(crate) mod times;
pub(crate) mod xattr;

/// Why an I/O call failed, as messages have it: lower case, without the number. An error that wraps another says what is
/// at its bottom.
pub(crate) fn reason(error: &std::io::Error) -> String {
    if let Some(number) = error.raw_os_error() {
        return nix::errno::Errno::from_raw(number).desc().to_lowercase();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<std::io::Error>()) {
        Some(inner) => reason(inner),
        None => error.to_string(),
    }
}
