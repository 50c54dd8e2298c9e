//! All containers and what they do, cheaply: what listings show of each, kept from one listing to the next.
//!
//! `<runtime>/listing` holds a few words of every container, each with the stamps of the two directories that its files are
//! in. Every one of those files is replaced by rename, which changes its directory: where neither stamp has changed, nothing
//! has, and two `fstatat` stand for a dozen calls and the parsing of three files. What runs is always looked at.
//!
//! | writer | readers | lock | durability | version |
//! |---|---|---|---|---|
//! | a listing that found much to read | listings | none: published by rename, the last one stays | none: tmpfs | 2; another one is not read |
//!
//! A directory that changed less than a moment before it was looked at is not kept: it may change once more within the
//! same tick of the file system's clock.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use jiff::Timestamp;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use serde::{Deserialize, Serialize};

use super::{ContainerError, ImageRecord, Record, VERSION, ids, load};
use crate::digest::Digest;
use crate::state::atomic::{Durability, write_atomic};
use crate::state::layout::{ContainerId, Layout};
use crate::state::request::{ExposedPorts, PublishedPort, Request};
use crate::state::status::{Exit, Observed, State, StatusError, boot_id, observe};

const FILE: &str = "listing";

/// The format of the file.
const FORMAT: u32 = 2;

/// A file system's clock may tick this slowly.
const MOMENT_NS: i128 = 1_000_000_000;

/// So many containers to look at are worth a file.
const WORTH_KEEPING: usize = 16;

/// A container in a listing.
#[derive(Debug)]
pub struct Listed {
    /// Its record without what listings do not show: name, image, command, ports, pod, and whether it is to vanish.
    pub record: Box<Record>,
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
    brief: Brief,
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

/// A record in few words.
#[derive(Clone, Serialize, Deserialize)]
struct Brief {
    id: ContainerId,
    name: String,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<BriefImage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rootfs: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    remove: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    started_at_once: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pod_name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    infra: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    published: Vec<PublishedPort>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exposed: Vec<ExposedPorts>,
}

#[derive(Clone, Serialize, Deserialize)]
struct BriefImage {
    typed: String,
    full: String,
    id: Digest,
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

impl Brief {
    fn of(record: Record) -> Self {
        let Record { id, name, created, image, started_at_once, request, .. } = record;
        Self {
            id,
            name,
            created,
            image: image.map(|image| BriefImage { typed: image.typed, full: image.full, id: image.id }),
            rootfs: request.rootfs,
            args: request.args,
            cmd: request.cmd,
            remove: request.remove,
            started_at_once,
            pod: request.pod,
            pod_name: request.pod_name,
            infra: request.infra,
            published: request.network.published,
            exposed: request.network.exposed,
        }
    }

    fn into_record(self) -> Record {
        let mut request = Request {
            rootfs: self.rootfs,
            args: self.args,
            cmd: self.cmd,
            remove: self.remove,
            pod: self.pod,
            pod_name: self.pod_name,
            infra: self.infra,
            ..Request::default()
        };
        request.network.published = self.published;
        request.network.exposed = self.exposed;
        Record {
            version: VERSION,
            id: self.id,
            name: self.name,
            created: self.created,
            image: self.image.map(|BriefImage { typed, full, id }| ImageRecord {
                typed,
                full,
                manifest: id.clone(),
                id,
                platform: String::new(),
                layers: Vec::new(),
            }),
            driver: String::new(),
            started_at_once: self.started_at_once,
            anonymous_volumes: Vec::new(),
            addresses: BTreeMap::new(),
            request,
        }
    }
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
        while kept.next_if(|entry| entry.brief.id < id).is_some() {}
        let known = kept.next_if(|entry| entry.brief.id == id).filter(|entry| entry.data == data);
        if let Some(entry) = &known
            && entry.runtime == runtime
            && entry.rest.is_some()
        {
            found.extend(known.map(|entry| (entry, None)));
            continue;
        }
        let whole = match known {
            Some(entry) => Ok(Some(entry.brief)),
            None => load(layout, &id).map(|record| record.map(Brief::of)),
        };
        match whole {
            Ok(Some(brief)) => {
                let record = brief.clone().into_record();
                let observed = observe(layout, &record);
                let rest = observed.as_ref().ok().and_then(Rest::of);
                // What runs is looked at in any case.
                looked_at += usize::from(rest.is_some());
                found.push((Entry { data, runtime, brief, rest }, Some(observed)));
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
        .map(|(Entry { brief, rest, .. }, observed)| Listed {
            record: Box::new(brief.into_record()),
            // There is one of the two.
            observed: observed.unwrap_or_else(|| Ok(rest.unwrap_or_default().into_observed())),
        })
        .collect();
    listed.sort_by(|a, b| (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id)));
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
    containers.sort_by(|a, b| a.brief.id.cmp(&b.brief.id));
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
    use super::super::{remove, rename, update};
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
        listed.into_iter().map(|one| (one.record.name, one.observed.unwrap().state.as_str())).collect()
    }

    /// Twenty containers that the file knows. Their ctime cannot be set: the stamps are made to look old instead.
    fn kept() -> (tempfile::TempDir, Layout, Vec<Record>) {
        let (root, layout) = layout();
        let records: Vec<_> = (10..30).map(|n| create(&layout, &format!("{n}"), &format!("c{n}"))).collect();
        settle(&layout);
        let entries = records.iter().map(|record| {
            let stamp = |path: &Path| Stamp::of(File::open(path).unwrap().as_fd(), &record.id);
            let rest = Rest { exit: None, started_at: None, restarts: 0, stopped_by_user: false };
            let mut brief = Brief::of(record.clone());
            // To be told from what is on disk.
            brief.name.push_str("-kept");
            Entry {
                data: stamp(&layout.containers()).unwrap(),
                runtime: stamp(layout.runtime_dir()),
                brief,
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
            text.replacen("\"format\":2", "\"format\":1", 1),
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

    #[test]
    fn a_brief_record_has_what_listings_show() {
        let (_root, layout) = layout();
        let mut record = create(&layout, "10", "c");
        record.request.args = vec!["sleep".to_owned(), "1".to_owned()];
        record.request.pod = Some("p".to_owned());
        record.request.remove = true;
        let json = serde_json::to_vec(&Brief::of(record.clone())).unwrap();
        let back = serde_json::from_slice::<Brief>(&json).unwrap().into_record();
        assert_eq!((&back.id, &back.name, back.created), (&record.id, &record.name, record.created));
        assert_eq!(back.request.args, record.request.args);
        assert_eq!((back.request.pod, back.request.remove), (record.request.pod, true));
    }
}
