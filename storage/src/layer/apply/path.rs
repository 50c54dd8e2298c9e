//! Names in a tar, cut into components without asking the file system.

/// Longest component of a path (`NAME_MAX`).
pub(super) const MAX_COMPONENT_BYTES: usize = 255;

/// Why a name leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPath {
    Escapes,
    TooLong,
}

/// Components of a name relative to the layer's root, cleaned by text as Go's `filepath.Clean` does, because that is
/// what other engines do before they unpack: empty parts and `.` vanish, `..` takes its predecessor away. A relative
/// name that climbs above the root is an attack; an absolute one stays at the root.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, BadPath> {
    let is_absolute = path.starts_with(b"/");
    let mut components: Vec<&[u8]> = Vec::with_capacity(8);
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() && !is_absolute {
                    return Err(BadPath::Escapes);
                }
            }
            part if part.len() > MAX_COMPONENT_BYTES => return Err(BadPath::TooLong),
            part => components.push(part),
        }
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_by_text() {
        let clean = |path: &[u8]| components(path).map(|parts| parts.join(&b'/'));
        for (path, expected) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"./a//b/.", b"a/b"),
            (b"/a", b"a"),
            (b"/../../a", b"a"),
            (b"a/../b", b"b"),
            (b"./", b""),
            (b"a/..", b""),
            (b"...", b"..."),
        ] {
            assert_eq!(clean(path).as_deref(), Ok(expected), "{}", path.escape_ascii());
        }
        for path in [&b".."[..], b"../a", b"a/../../b", b"./../a"] {
            assert_eq!(clean(path), Err(BadPath::Escapes), "{}", path.escape_ascii());
        }
        assert_eq!(clean(&[b'x'; 256]), Err(BadPath::TooLong));
    }
}
