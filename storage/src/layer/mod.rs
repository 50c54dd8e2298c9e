//! Layers: from tar to tree and back.
//!
//! ```text
//! blob ─ compression ─ tar ─ apply ─┬─ layers/.tmp-…/diff ─ rename ─ layers/<diffID>/
//!                                   └─ index
//! ```

pub mod compression;

pub mod unpacker;

pub mod compress;

pub mod tar;

pub mod ids;

pub mod index;

pub(crate) mod journal;

pub mod apply;

pub mod staging;

pub mod ensure;

pub mod view;

pub mod diff;

pub mod pack;

pub mod changes;

pub mod unpack;

mod confine;

pub(crate) mod remove;

pub(crate) use apply::umask;
pub use confine::confine_thread;
pub use ensure::ensure_unpacked;
pub use ids::{IdMap, IdPolicy, IdRange};
pub use remove::{Effort, remove_tree};
pub use staging::{Staging, sweep};

use std::fmt;

/// Displays bytes that came from an image on one line: what is not printable text is escaped.
///
/// Names in layers are bytes chosen by a stranger; an error message must not let them move the cursor.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 200;
        let cut = self.0.get(..SHOWN_BYTES).unwrap_or(self.0);
        for chunk in cut.utf8_chunks() {
            for ch in chunk.valid().chars() {
                match ch {
                    '\\' => f.write_str("\\\\")?,
                    '"' | '\'' => write!(f, "{ch}")?,
                    _ => write!(f, "{}", ch.escape_debug())?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if cut.len() < self.0.len() { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    #[test]
    fn control_bytes_in_names_are_shown_escaped_and_long_names_are_cut() {
        assert_eq!(Shown(b"a\x1b[31m\n\xff/\xc3\xa9").to_string(), "a\\u{1b}[31m\\n\\xff/é");
        let shown = Shown(&[b'x'; 70_000]).to_string();
        assert!(shown.len() < 250 && shown.ends_with("(70000 bytes)"), "{shown}");
    }
}
