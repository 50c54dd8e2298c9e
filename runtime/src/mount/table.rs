//! Where something is mounted, as the kernel tells it: the truth about what a command of ours has mounted.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The places of all mounts in the calling process's mount namespace. A place is there once for each mount that is stacked
/// on it; what lies upon something else comes after it.
///
/// # Source
/// `proc_pid_mountinfo(5)`: the fifth field, in which blanks and backslashes are octal escapes.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

fn parse(table: &[u8]) -> Vec<PathBuf> {
    let place = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescaped);
    table.split(|byte| *byte == b'\n').filter_map(place).collect()
}

fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                path.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_with_their_escapes_and_as_often_as_something_is_stacked_on_them() {
        let table = b"22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
            23 1 0:22 /a /with\\040blank\\134x rw - overlay overlay rw\n\
            24 23 0:22 /a /with\\040blank\\134x rw - overlay overlay rw\n";
        let twice = PathBuf::from("/with blank\\x");
        assert_eq!(parse(table), ["/proc".into(), twice.clone(), twice]);
        assert_eq!(unescaped(b"/a\\9"), PathBuf::from("/a\\9"));
        assert!(mount_points().unwrap().contains(&PathBuf::from("/proc")));
    }
}
