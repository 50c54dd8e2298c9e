//! `events`: the journal of what happened, one JSON object per line, below the data directory: it tells of last week,
//! too.
//!
//! Writer: whoever changes something, by one `write` to a file opened for appending, which the kernel does not
//! interleave; several events of one moment share it. Every write begins with a line end, so that a line that was torn
//! (a full disk, a power cut) spoils no other. Readers: `events`, which skip what they cannot read. Lock: none; whoever
//! finds more than [`ROTATE_BYTES`] renames the file to `events.1` under `events.lock`, which is only tried. So the
//! journal takes twice that at most. Durability: none. Version: none in the file: readers ignore members they do not
//! know.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

use super::container::Record;
use super::layout::{Layout, create_dir};
use super::lock::FileLock;

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
    Pod,
    Secret,
    System,
}

impl Kind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Pod => "pod",
            Self::Secret => "secret",
            Self::System => "system",
        }
    }
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
    /// The id of what it happened to; volumes have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The image, for containers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The pod, for containers that are in one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// How the container or the program in it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What a health check has found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub health: String,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happens now.
    pub fn new(kind: Kind, action: &str, id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            time: Timestamp::now(),
            kind,
            action: action.to_owned(),
            id: id.into(),
            name: name.into(),
            image: String::new(),
            pod: String::new(),
            exit_code: None,
            health: String::new(),
            error: String::new(),
            attributes: BTreeMap::new(),
        }
    }

    /// Something that happens to a container now.
    pub fn container(record: &Record, action: &str) -> Self {
        Self {
            image: record.image_name().to_owned(),
            attributes: record.request.labels.clone(),
            ..Self::new(Kind::Container, action, record.id.as_str(), record.name.as_str())
        }
    }

    /// The event with how something has ended.
    #[must_use]
    pub fn with_exit_code(self, code: i32) -> Self {
        Self { exit_code: Some(code), ..self }
    }
}

/// Appends events by one write.
///
/// # Errors
/// [`EventError`].
pub fn append(layout: &Layout, events: &[Event]) -> Result<(), EventError> {
    let path = layout.events();
    let failed = |action, source| EventError { action, path: path.clone(), source };
    let mut lines = Vec::with_capacity(256 * events.len());
    for event in events {
        lines.push(b'\n');
        serde_json::to_writer(&mut lines, event).map_err(|error| failed("append to", error.into()))?;
    }
    lines.push(b'\n');
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = create_dir(layout.data_dir()).map_err(io::Error::other);
            made.and_then(|()| open())
        }
        other => other,
    }
    .map_err(|error| failed("open", error))?;
    // One call, also if it writes less: the rest would stand after somebody else's line.
    file.write(&lines).map_err(|error| failed("append to", error))?;
    if file.stream_position().is_ok_and(|length| length > ROTATE_BYTES) {
        rotate(layout).map_err(|error| failed("rotate", error))?;
    }
    Ok(())
}

/// As [`append`]; a failure is nobody's: an event is not worth an operation.
pub fn note(layout: &Layout, events: &[Event]) {
    let _ = append(layout, events);
}

fn rotate(layout: &Layout) -> io::Result<()> {
    let Ok(Some(_lock)) = FileLock::try_exclusive(&layout.data_dir().join("events.lock")) else { return Ok(()) };
    let path = layout.events();
    // Somebody may have done it while we came here.
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > ROTATE_BYTES => std::fs::rename(&path, older(&path)),
        _ => Ok(()),
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("1")
}

/// Reads the journal, and hears of what is added to it.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    watch: Inotify,
    /// The journals that are read, the older first: one that was moved aside is read a last time after the move, for
    /// those who had it open.
    open: Vec<Journal>,
}

#[derive(Debug)]
struct Journal {
    file: File,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Follower {
    /// Begins with the first event there is, or with the next one.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn new(layout: &Layout, from_start: bool) -> Result<Self, EventError> {
        let path = layout.events();
        let failed = |action, source| EventError { action, path: path.clone(), source };
        create_dir(layout.data_dir()).map_err(|error| failed("make the directory of", io::Error::other(error)))?;
        // The watch begins before the first read: nothing falls between them.
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .and_then(|watch| watch.add_watch(layout.data_dir(), changes).map(|_| watch))
            .map_err(|errno| failed("watch", errno.into()))?;
        let mut follower = Self { path: path.clone(), watch, open: Vec::new() };
        if from_start {
            follower.open(&older(&path), SeekFrom::Start(0))?;
        }
        follower.open(&path, if from_start { SeekFrom::Start(0) } else { SeekFrom::End(0) })?;
        Ok(follower)
    }

    fn open(&mut self, path: &Path, from: SeekFrom) -> Result<(), EventError> {
        let opened = File::open(path).and_then(|mut file| file.seek(from).map(|_| file));
        match opened {
            Ok(file) => self.open.push(Journal { file, partial: Vec::new() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(EventError { action: "open", path: path.to_owned(), source }),
        }
        Ok(())
    }

    /// What has come since the last call, oldest first. Lines that are torn are left out.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn read(&mut self) -> Result<Vec<Event>, EventError> {
        let failed = |action, source| EventError { action, path: self.path.clone(), source };
        match self.watch.read_events() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(failed("watch", errno.into())),
        }
        let mut events = Vec::new();
        for journal in &mut self.open {
            journal.read(&mut events).map_err(|error| failed("read", error))?;
        }
        // Moved aside, or not there before.
        let current = self.open.last().and_then(|journal| journal.file.metadata().ok());
        let there = std::fs::metadata(&self.path).ok();
        if let Some(there) = there
            && current.is_none_or(|current| (current.dev(), current.ino()) != (there.dev(), there.ino()))
        {
            let path = self.path.clone();
            if self.open.len() > 1 {
                self.open.remove(0);
            }
            self.open(&path, SeekFrom::Start(0))?;
            if let Some(journal) = self.open.last_mut() {
                journal.read(&mut events).map_err(|source| EventError { action: "read", path, source })?;
            }
        }
        Ok(events)
    }
}

impl AsFd for Follower {
    /// Readable once the journal may have changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Journal {
    fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.file.read_to_end(&mut self.partial)?;
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.partial.split_off(end + 1);
        let lines = std::mem::replace(&mut self.partial, rest);
        events.extend(lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        (root, layout)
    }

    fn event(action: &str) -> Event {
        Event { time: Timestamp::UNIX_EPOCH, ..Event::new(Kind::Container, action, "1", "one\ntwo") }
    }

    #[test]
    fn events_are_read_back_in_order_and_torn_lines_spoil_no_other() {
        let (_root, layout) = layout();
        assert!(Follower::new(&layout, true).unwrap().read().unwrap().is_empty());
        append(&layout, &[event("create"), event("init")]).unwrap();
        OpenOptions::new().append(true).open(layout.events()).unwrap().write_all(b"\n{\"time\":").unwrap();
        append(&layout, &[event("start")]).unwrap();
        OpenOptions::new().append(true).open(layout.events()).unwrap().write_all(b"\n{\"time\":\"1970").unwrap();
        let mut follower = Follower::new(&layout, true).unwrap();
        assert_eq!(follower.read().unwrap(), [event("create"), event("init"), event("start")]);
        assert!(follower.read().unwrap().is_empty());
    }

    #[test]
    fn a_follower_hears_of_what_comes_through_a_rotation() {
        let (_root, layout) = layout();
        let mut follower = Follower::new(&layout, false).unwrap();
        append(&layout, &[event("create")]).unwrap();
        assert_eq!(follower.read().unwrap(), [event("create")]);
        let mut late = OpenOptions::new().append(true).open(layout.events()).unwrap();
        std::fs::rename(layout.events(), older(&layout.events())).unwrap();
        append(&layout, &[event("start")]).unwrap();
        assert_eq!(follower.read().unwrap(), [event("start")]);
        // By somebody who had opened the old one before.
        late.write_all(&[b"\n", serde_json::to_vec(&event("exec")).unwrap().as_slice(), b"\n"].concat()).unwrap();
        append(&layout, &[event("died")]).unwrap();
        assert_eq!(follower.read().unwrap(), [event("exec"), event("died")]);
        let all = Follower::new(&layout, true).unwrap().read().unwrap();
        assert_eq!(all, [event("create"), event("exec"), event("start"), event("died")]);
    }

    #[test]
    fn a_journal_that_is_long_enough_starts_anew() {
        let (_root, layout) = layout();
        append(&layout, &[event("create")]).unwrap();
        OpenOptions::new().write(true).open(layout.events()).unwrap().set_len(ROTATE_BYTES).unwrap();
        append(&layout, &[event("start")]).unwrap();
        assert!(!layout.events().exists() && older(&layout.events()).exists());
        append(&layout, &[event("died")]).unwrap();
        let all = Follower::new(&layout, true).unwrap().read().unwrap();
        assert_eq!(all, [event("create"), event("start"), event("died")]);
    }
}
