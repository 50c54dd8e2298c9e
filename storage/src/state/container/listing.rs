//! All containers and what they do, cheaply: what listings show of each, kept from one listing to the next.
//!
//! `<runtime>/listing` holds a few words of every container, each with the stamps of the two directories that its files are
//! in. Every one of those files is replaced by rename, which changes its directory: where neither stamp has changed, nothing
//! has, and two `fstatat` stand for a dozen calls and the parsing of three files. What runs is always looked at.
//!
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | a listing that found much to read | listings | none: published by rename, the last one stays | none: tmpfs | 3; another one is not read |
//!
//! A directory that changed less than a moment before it was looked at is not kept: it may change once more within the
//! same tick of the file system's clock.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use jiff::Timestamp;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use serde::{Deserialize, Serialize};

use super::{ContainerError, Summary, ids, load};
use crate::state::atomic::{Durability, write_atomic};
use crate::state::layout::{ContainerId, Layout};
use crate::state::status::{Exit, Observed, State, StatusError, boot_id, observe_started};

const FILE: &str = "listing";

/// The format of the file.
const FORMAT: u32 = 3;

/// A file system's clock may tick this slowly.
const MOMENT_NS: i128 = 1_000_000_000;

/// So many containers to look at are worth a file.
const WORTH_KEEPING: usize = 16;

/// A container in a listing.
#[derive(Debug)]
pub struct Listed {
    /// What is shown of it.
    pub summary: Summary,
    /// What it does.
    pub observed: Result<Observed, StatusError>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    boot: String,
    /// Whose runtime directory it is in: the same may serve several data directories.
    data: PathBuf,
    containers: Vec<Entry>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    /// Of `containers/<id>`, where `container.json` and `exit` are.
    data: Stamp,
    /// Of `<runtime>/<id>`, where `state.json` is.
    runtime: Option<Stamp>,
    summary: Summary,
    /// What it does, if nothing but a start would change that.
    rest: Option<Rest>,
}

/// What changes with a directory's entries: inode, mtime and ctime in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, i64, i64);

impl Stamp {
    fn of(directory: BorrowedFd<'_>, id: &ContainerId) -> Option<Self> {
        let stat = fstatat(directory, id.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
        Some(Self(
            stat.st_ino,
            nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        ))
    }

    /// Whether nothing has changed for a while.
    fn is_settled(self, now: Timestamp) -> bool {
        now.as_nanosecond() - i128::from(self.1.max(self.2)) > MOMENT_NS
    }
}

/// Created, or ended.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Rest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<Exit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "is_zero")]
    restarts: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stopped_by_user: bool,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Rest {
    fn of(observed: &Observed) -> Option<Self> {
        let is_at_rest = matches!(observed.state, State::Created | State::Stopped { .. })
            && observed.supervisor.is_none()
            && observed.health.is_none();
        is_at_rest.then(|| Self {
            exit: observed.state.exit().cloned(),
            started_at: observed.started_at,
            restarts: observed.restarts,
            stopped_by_user: observed.stopped_by_user,
        })
    }

    fn into_observed(self) -> Observed {
        let state = self.exit.map_or(State::Created, |exit| State::Stopped { exit });
        let stopped_by_user = self.stopped_by_user;
        Observed { stopped_by_user, ..Observed::at_rest(state, self.started_at, self.restarts) }
    }
}

/// Every container with what it does, the oldest first. One that cannot be read is reported beside the others.
///
/// # Errors
/// [`ContainerError::Io`] when the directory itself cannot be read.
pub fn listing(layout: &Layout) -> Result<(Vec<Listed>, Vec<ContainerError>), ContainerError> {
    let mut ids = ids(layout)?;
    ids.sort();
    // A container without a runtime directory has none to look into; without the data directory there are no ids.
    let (data, runtime) = (File::open(layout.containers()).ok(), File::open(layout.runtime_dir()).ok());
    // Both sorted, so that one walk finds each.
    let mut kept = read(layout).into_iter().peekable();
    let now = Timestamp::now();
    let (mut found, mut errors, mut looked_at) = (Vec::with_capacity(ids.len()), Vec::new(), 0);
    for id in ids {
        // Before anything of it is read: what changes meanwhile is looked at again the next time.
        let stamp = |directory: &Option<File>| Stamp::of(directory.as_ref()?.as_fd(), &id);
        let (Some(data), runtime) = (stamp(&data), stamp(&runtime)) else { continue };
        while kept.next_if(|entry| entry.summary.id < id).is_some() {}
        let known = kept.next_if(|entry| entry.summary.id == id).filter(|entry| entry.data == data);
        if let Some(entry) = &known
            && entry.runtime == runtime
            && entry.rest.is_some()
        {
            found.extend(known.map(|entry| (entry, None)));
            continue;
        }
        let whole = match known {
            Some(entry) => Ok(Some(entry.summary)),
            None => load(layout, &id).map(|record| record.map(|record| Summary::of(&record))),
        };
        match whole {
            Ok(Some(summary)) => {
                let observed = observe_started(layout, &summary.id, summary.started_at_once);
                let rest = observed.as_ref().ok().and_then(Rest::of);
                // What runs is looked at in any case.
                looked_at += usize::from(rest.is_some());
                found.push((Entry { data, runtime, summary, rest }, Some(observed)));
            }
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    if looked_at >= WORTH_KEEPING {
        let is_settled =
            |entry: &&Entry| entry.data.is_settled(now) && entry.runtime.is_none_or(|run| run.is_settled(now));
        write(layout, found.iter().map(|(entry, _)| entry).filter(is_settled).cloned().collect());
    }
    let mut listed: Vec<Listed> = found
        .into_iter()
        .map(|(Entry { summary, rest, .. }, observed)| Listed {
            summary,
            // There is one of the two.
            observed: observed.unwrap_or_else(|| Ok(rest.unwrap_or_default().into_observed())),
        })
        .collect();
    // Those of one moment stay in the order of their ids. Each is moved once.
    listed.sort_by_cached_key(|one| one.summary.created);
    Ok((listed, errors))
}

/// What was kept for this boot and this data directory, by id.
fn read(layout: &Layout) -> Vec<Entry> {
    let bytes = std::fs::read(layout.runtime_dir().join(FILE)).unwrap_or_default();
    // Whatever it is instead, it is not needed.
    let kept = serde_json::from_slice::<Kept>(&bytes).ok();
    let is_ours = |kept: &Kept| kept.format == FORMAT && kept.boot == boot_id() && kept.data == layout.data_dir();
    kept.filter(is_ours).map(|kept| kept.containers).unwrap_or_default()
}

fn write(layout: &Layout, mut containers: Vec<Entry>) {
    containers.sort_by(|a, b| a.summary.id.cmp(&b.summary.id));
    let kept = Kept { format: FORMAT, boot: boot_id().to_owned(), data: layout.data_dir().to_owned(), containers };
    // A listing that is not kept is made again.
    if let Ok(bytes) = serde_json::to_vec(&kept) {
        let _ = write_atomic(&layout.runtime_dir().join(FILE), &bytes, Durability::None);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::super::tests::{create, layout};
    use super::super::{Record, remove, rename, update};
    use super::*;
    use crate::state::status::{ExitRecord, StateFile};

    /// As if nothing had been touched for a while.
    fn settle(layout: &Layout) {
        let before = SystemTime::now() - Duration::from_secs(60);
        for id in ids(layout).unwrap() {
            for directory in [layout.container(&id), layout.runtime_container(&id)] {
                File::open(directory).unwrap().set_modified(before).unwrap();
            }
        }
    }

    fn shown(layout: &Layout) -> Vec<(String, &'static str)> {
        let (listed, errors) = listing(layout).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        listed.into_iter().map(|one| (one.summary.name, one.observed.unwrap().state.as_str())).collect()
    }

    /// Twenty containers that the file knows. Their ctime cannot be set: the stamps are made to look old instead.
    fn kept() -> (tempfile::TempDir, Layout, Vec<Record>) {
        let (root, layout) = layout();
        let records: Vec<_> = (10..30).map(|n| create(&layout, &format!("{n}"), &format!("c{n}"))).collect();
        settle(&layout);
        let entries = records.iter().map(|record| {
            let stamp = |path: &Path| Stamp::of(File::open(path).unwrap().as_fd(), &record.id);
            let rest = Rest { exit: None, started_at: None, restarts: 0, stopped_by_user: false };
            let mut summary = Summary::of(record);
            // To be told from what is on disk.
            summary.name.push_str("-kept");
            Entry {
                data: stamp(&layout.containers()).unwrap(),
                runtime: stamp(layout.runtime_dir()),
                summary,
                rest: Some(rest),
            }
        });
        write(&layout, entries.collect());
        (root, layout, records)
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let (_root, layout, records) = kept();
        let all = shown(&layout);
        assert_eq!(all.len(), records.len());
        assert!(all.iter().all(|(name, state)| name.ends_with("-kept") && *state == "created"), "{all:?}");
    }

    #[test]
    fn every_change_is_seen_at_once() {
        let (_root, layout, records) = kept();
        rename(&layout, &records[0].id, "renamed").unwrap();
        remove(&layout, &records[1].id).unwrap();
        let run = StateFile { version: 1, ..StateFile::new(1) };
        run.write(&layout, &records[2].id).unwrap();
        let exit = Exit { code: 3, ..Exit::default() };
        ExitRecord::write(&layout, &records[3].id, None, Some(&exit), 0).unwrap();
        update(&layout, &records[4].id, |request| request.remove = true).unwrap();
        create(&layout, "40", "new");
        let all = shown(&layout);
        assert_eq!(all.len(), records.len());
        assert_eq!(all[0].0, "renamed");
        assert_eq!((all[1].0.as_str(), all[1].1), ("c12-kept", "created"));
        assert_eq!((all[2].0.as_str(), all[2].1), ("c13", "exited"));
        assert_eq!(all[3].0, "c14");
        assert_eq!(all.last().unwrap().0, "new");
        assert_eq!(all.iter().filter(|(name, _)| name.ends_with("-kept")).count(), records.len() - 4);
    }

    #[test]
    fn what_has_just_changed_is_not_kept() {
        let (_root, layout) = layout();
        for n in 10..30 {
            create(&layout, &format!("{n}"), &format!("c{n}"));
        }
        assert_eq!(shown(&layout).len(), 20);
        assert!(read(&layout).is_empty());
    }

    #[test]
    fn a_file_of_another_boot_or_store_or_kind_is_not_believed() {
        let (_root, layout, records) = kept();
        let path = layout.runtime_dir().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        for other in [
            text.replacen(boot_id(), "another boot", 1),
            text.replacen("\"format\":3", "\"format\":1", 1),
            text.replacen("/data\"", "/other\"", 1),
            text[..text.len() / 2].to_owned(),
            String::new(),
        ] {
            std::fs::write(&path, other).unwrap();
            let all = shown(&layout);
            assert_eq!(all.len(), records.len());
            assert!(all.iter().all(|(name, _)| !name.ends_with("-kept")));
        }
    }
}
