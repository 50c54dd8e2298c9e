//! Where the text of a file comes from: a path, `-`, or an address.

use std::fs::File;
use std::io::{IsTerminal, Read};

use runtime::userns::Mapping;

use crate::commands::in_userns_with_output;
use crate::error::{CommandError, reason};

/// The largest file that is read.
const LIMIT: u64 = 16 << 20;

/// Reads the whole text.
pub(super) fn read(name: &str) -> Result<String, CommandError> {
    let failed = |why: String| CommandError::user(format!("{name}: {why}"));
    let bytes = match name {
        "-" if std::io::stdin().is_terminal() => {
            return Err(CommandError::user("cannot read from terminal, use command-line redirection"));
        }
        "-" => limited(std::io::stdin().lock()).map_err(failed)?,
        address if address.starts_with("http://") || address.starts_with("https://") => {
            // In a process of its own: it has threads and TLS, and this one is about to fork.
            return in_userns_with_output(&Mapping::of_user(), || {
                let bytes = storage::transport::registry::fetch(address, LIMIT).map_err(CommandError::host)?;
                text(bytes).map_err(failed)
            });
        }
        path => limited(File::open(path).map_err(|error| failed(reason(&error)))?).map_err(failed)?,
    };
    text(bytes).map_err(failed)
}

fn limited(source: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
    if bytes.len() as u64 > LIMIT { Err(format!("larger than {LIMIT} bytes")) } else { Ok(bytes) }
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}
