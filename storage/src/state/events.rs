//! `events`: the journal of what happened, one JSON object per line.
//!
//! Writer: every process that changes something, by one `write` to a file opened for appending, which the kernel does
//! not interleave. Readers: `events`. Lock: none. Durability: none; a torn last line is skipped. Version: none in the
//! file: readers ignore members they do not know. Above [`ROTATE_BYTES`] the file becomes `events.1`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::Layout;

/// The size at which the journal starts anew.
pub const ROTATE_BYTES: u64 = 8 << 20;

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the event journal {}: {}", path.display(), crate::sys::reason(source))]
pub struct EventError {
    action: &'static str,
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Kind {
    Container,
    Image,
    Volume,
    Network,
    System,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// To what.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What: `create`, `start`, `died`, `remove`, `pull`, …, in podman's spelling.
    pub action: String,
    /// The id of what it happened to.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// The image, for containers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Labels, exit code and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// Appends one event.
///
/// # Errors
/// [`EventError`]; callers go on after it, an event is not worth an operation.
pub fn append(layout: &Layout, event: &Event) -> Result<(), EventError> {
    let path = layout.events();
    let failed = |action, source| EventError { action, path: path.clone(), source };
    let mut line = serde_json::to_vec(event).map_err(|error| failed("append to", error.into()))?;
    line.push(b'\n');
    let mut file =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|error| failed("open", error))?;
    file.write_all(&line).map_err(|error| failed("append to", error))?;
    if file.metadata().is_ok_and(|metadata| metadata.len() > ROTATE_BYTES) {
        std::fs::rename(&path, path.with_extension("1")).map_err(|error| failed("rotate", error))?;
    }
    Ok(())
}

/// Reads what happened so far, oldest first, the older journal included. Lines that are torn are left out.
///
/// # Errors
/// [`EventError`].
pub fn read(layout: &Layout) -> Result<Vec<Event>, EventError> {
    let mut events = Vec::new();
    for path in [layout.events().with_extension("1"), layout.events()] {
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(EventError { action: "open", path, source }),
        };
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(|source| EventError { action: "read", path: path.clone(), source })?;
            events.extend(serde_json::from_slice::<Event>(&line));
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_back_in_order_and_torn_lines_are_skipped() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), root.path());
        assert!(read(&layout).unwrap().is_empty());
        let event = |action: &str| Event {
            time: Timestamp::UNIX_EPOCH,
            kind: Kind::Container,
            action: action.to_owned(),
            id: "1".to_owned(),
            name: "one\ntwo".to_owned(),
            image: String::new(),
            attributes: BTreeMap::new(),
        };
        append(&layout, &event("create")).unwrap();
        OpenOptions::new().append(true).open(layout.events()).unwrap().write_all(b"{\"time\":\n").unwrap();
        append(&layout, &event("start")).unwrap();
        assert_eq!(read(&layout).unwrap(), [event("create"), event("start")]);
    }
}
