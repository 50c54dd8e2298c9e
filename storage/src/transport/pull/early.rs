//! What is wanted of layers before their turn: names by their tables of contents, then pieces of files by questions of servers.
//!
//! ```text
//! tables: range requests, digests verified ─ every name told ─ containers start
//! question (pipe) ─ pieces that have it ─ range request ─ inflate ─ SHA-256 right? ─ early/<id> ─ told in the journal
//!                                                           └─ wrong, and again wrong: the pull fails, its containers end
//! the layer's own stream waits while questions are open; when its archive is unpacked, what came early is compared with it
//! ```
//! A source without ranges, a table that is too large or odd, or a layer that somebody else brings: tar order, as without a table.
//!
//! **Runs in:** the pulling process: one thread that reads questions, a few that answer them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::super::TransportError;
use super::super::unpack::{EarlyPlace, Staged, is_unpacked};
use super::{Pull, read_error};
use crate::blob::{Claim, Ingest};
use crate::digest::{Algorithm, Hasher};
use crate::image::config::Config;
use crate::image::manifest::Descriptor;
use crate::layer::Shown;
use crate::layer::compression::Decompressor;
use crate::layer::index::NodeId;
use crate::layer::journal::tell_piece;
use crate::layer::toc::{Footer, Piece, Place, Toc, TocError};
use crate::progress::Event;
use crate::union::lazy::ask::Question;

/// Threads that fetch.
const FETCHERS: usize = 4;

/// Tables read at once.
const READERS: usize = 4;

/// One request brings so many compressed bytes of a file at once, if it goes on so far: the next read most likely wants them.
const AHEAD_BYTES: u64 = 1 << 20;

/// A piece that is longer comes in its turn.
const PIECE_LIMIT_BYTES: u64 = 64 << 20;

/// How long a stream waits at a time while something is wanted before it.
const COURTESY: Duration = Duration::from_millis(50);

/// How often bytes that are not what the table says are fetched again.
const TRIES: u32 = 2;

/// A layer that is announced with all its names, and not downloaded yet.
pub(super) struct Prepared {
    pub(super) ingest: Ingest,
    pub(super) staged: Staged,
}

/// All that is known of tables of contents in one pull.
#[derive(Default)]
pub(super) struct Early {
    /// Layers that wait for their turn, by their place in the image.
    prepared: Mutex<HashMap<usize, Prepared>>,
    shelves: Vec<Shelf>,
    open: Mutex<usize>,
    calm: Condvar,
}

/// One layer of which something may come before the rest.
struct Shelf {
    position: usize,
    blob: Descriptor,
    toc: Arc<Toc>,
    place: EarlyPlace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Pieces that are there, by file and number.
    have: HashSet<(NodeId, usize)>,
    busy: HashSet<(NodeId, usize)>,
    /// Everything is in the tree: nothing is to be added.
    is_closed: bool,
}

/// Work for a fetcher: pieces of a file that lie one after another.
struct Errand {
    shelf: usize,
    id: NodeId,
    pieces: Range<usize>,
}

impl Early {
    /// The layers' places in the image, those first that are prepared: whoever holds a claim must not wait for another's.
    pub(super) fn is_prepared(&self, position: usize) -> bool {
        self.shelves.iter().any(|shelf| shelf.position == position)
    }

    pub(super) fn take(&self, position: usize) -> Option<Prepared> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).remove(&position)
    }

    /// Lets what is wanted first go first.
    pub(super) fn give_way(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if *open > 0 {
            let waited = self.calm.wait_timeout_while(open, COURTESY, |open| *open > 0);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut open);
        if *open == 0 {
            self.calm.notify_all();
        }
    }

    /// All of a layer is in its tree: what came before must be the same.
    pub(super) fn settle(&self, position: usize) -> Result<(), TransportError> {
        let Some(shelf) = self.shelves.iter().find(|shelf| shelf.position == position) else { return Ok(()) };
        let have = {
            let mut state = shelf.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_closed = true;
            std::mem::take(&mut state.have)
        };
        let mut by_file: HashMap<NodeId, Vec<usize>> = HashMap::new();
        have.into_iter().for_each(|(id, piece)| by_file.entry(id).or_default().push(piece));
        for (id, pieces) in by_file {
            let path = shelf.path_of(id);
            let failed = |source| shelf.failed(&path, source);
            let early = File::from(shelf.open_early(id, OFlag::O_RDONLY).map_err(failed)?);
            let whole = shelf.open_whole(&path).map_err(failed)?;
            for piece in pieces.into_iter().filter_map(|piece| shelf.toc.pieces(id).get(piece)) {
                if !is_equal(&early, &whole, piece).map_err(failed)? {
                    let reason = format!(
                        "its table of contents and its archive disagree about the contents of '{}'",
                        Shown(&path.join(&b'/'))
                    );
                    return Err(shelf.refused(reason));
                }
            }
        }
        Ok(())
    }
}

fn is_equal(one: &File, other: &File, piece: &Piece) -> io::Result<bool> {
    let (mut here, mut there) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut at = piece.offset;
    while at < piece.end() {
        let len = usize::try_from(piece.end() - at).unwrap_or(usize::MAX).min(here.len());
        one.read_exact_at(&mut here[..len], at)?;
        match other.read_exact_at(&mut there[..len], at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        if here[..len] != there[..len] {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}

impl Shelf {
    fn refused(&self, reason: String) -> TransportError {
        TransportError::Unpack { blob: self.blob.digest.to_string(), reason, is_full_disk: false }
    }

    fn failed(&self, path: &[Vec<u8>], source: io::Error) -> TransportError {
        let is_full_disk = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let reason = format!("'{}': {}", Shown(&path.join(&b'/')), crate::sys::reason(&source));
        TransportError::Unpack { blob: self.blob.digest.to_string(), reason, is_full_disk }
    }

    fn path_of(&self, id: NodeId) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = id;
        while at != crate::layer::index::ROOT {
            names.push(self.toc.tree.name(at).to_vec());
            at = self.toc.tree.parent(at);
        }
        names.reverse();
        names
    }

    fn open_early(&self, id: NodeId, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(self.place.dir.as_fd(), id.to_string().as_str(), flags, Mode::from_bits_truncate(0o600))?)
    }

    /// The file that the archive has made, link by link below the tree.
    fn open_whole(&self, path: &[Vec<u8>]) -> io::Result<File> {
        let mut at: OwnedFd = File::open(&self.place.tree)?.into();
        for (position, name) in path.iter().enumerate() {
            let kind = if position + 1 == path.len() { OFlag::O_NONBLOCK } else { OFlag::O_DIRECTORY };
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind;
            at = openat(at.as_fd(), name.as_slice(), flags, Mode::empty())?;
        }
        Ok(at.into())
    }

    /// Pieces to fetch for a question, one run of them: those that have what is wanted, and some behind it.
    fn run_for(&self, question: Question) -> Option<Range<usize>> {
        let pieces = self.toc.pieces(question.id);
        let end = question.offset.checked_add(question.len)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return None;
        }
        let is_free = |state: &State, at: usize| {
            let key = (question.id, at);
            !state.have.contains(&key) && !state.busy.contains(&key)
        };
        let from = pieces.partition_point(|piece| piece.end() <= question.offset);
        let first = (from..pieces.len()).take_while(|at| pieces[*at].offset < end).find(|at| is_free(&state, *at))?;
        let mut last = first;
        let mut bytes = 0;
        while let Some(piece) = pieces.get(last).filter(|_| is_free(&state, last)) {
            let before = last.checked_sub(1).filter(|_| last > first).and_then(|before| pieces.get(before));
            // Frames that follow each other are one stream.
            let follows = before.is_none_or(|it| it.blob_end == piece.blob_offset && piece.inner_offset == 0);
            bytes += piece.blob_end - piece.blob_offset;
            let is_enough = last > first && bytes > AHEAD_BYTES;
            if !follows || is_enough || piece.len > PIECE_LIMIT_BYTES {
                break;
            }
            last += 1;
        }
        state.busy.extend((first..last).map(|at| (question.id, at)));
        (last > first).then_some(first..last)
    }
}

impl Pull<'_> {
    /// Reads the tables of those layers that have one, announces their names and claims their blobs.
    pub(super) fn prepare(&self, layers: &[Descriptor], config: &Config) -> Result<Early, TransportError> {
        let mut seen = HashSet::new();
        let mut wanted = Vec::new();
        for (position, blob) in layers.iter().enumerate().rev().filter(|(_, blob)| seen.insert(&blob.digest)) {
            match Place::of(blob) {
                Ok(Some(place)) => wanted.push((position, blob, place)),
                Ok(None) => {}
                Err(error) => self.cannot_use(blob, error)?,
            }
        }
        let (queue, found, failure) = (Mutex::new(wanted.into_iter()), Mutex::new(Vec::new()), Mutex::new(None));
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((position, blob, place)) = next else { return };
                        match self.prepare_layer(position, blob, &place, config) {
                            Ok(Some(one)) => found.lock().unwrap_or_else(PoisonError::into_inner).push(one),
                            Ok(None) => {}
                            Err(error) => {
                                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                                return;
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut early = Early::default();
        for (prepared, shelf) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            early.prepared.get_mut().unwrap_or_else(PoisonError::into_inner).insert(shelf.position, prepared);
            early.shelves.push(shelf);
        }
        Ok(early)
    }

    /// A table that is not used: a lie is an error.
    fn cannot_use(&self, blob: &Descriptor, error: TocError) -> Result<(), TransportError> {
        match error {
            TocError::Unusable(_) => {
                self.progress.event(Event::Message(&format!("layer {}: {error}: it comes in its order", blob.digest)));
                Ok(())
            }
            TocError::Hostile(_) => {
                let (blob, reason) = (blob.digest.to_string(), error.to_string());
                Err(TransportError::Unpack { blob, reason, is_full_disk: false })
            }
        }
    }

    fn prepare_layer(
        &self,
        position: usize,
        blob: &Descriptor,
        place: &Place,
        config: &Config,
    ) -> Result<Option<(Prepared, Shelf)>, TransportError> {
        let Some(diff_id) = config.diff_ids.get(position) else { return Ok(None) };
        if is_unpacked(self.store, diff_id, &self.options.ids) {
            return Ok(None);
        }
        let Some(Claim::Ours(ingest)) = self.store.blobs().try_claim(&blob.digest, blob.size)? else { return Ok(None) };
        let Some((bytes, offset)) = self.table(blob, place)? else { return Ok(None) };
        let toc = match place.read(&bytes, offset, &self.options.ids) {
            Ok(toc) => Arc::new(toc),
            Err(error) => return self.cannot_use(blob, error).map(|()| None),
        };
        drop(bytes);
        let (staged, place) = Staged::of_contents(self.store, &blob.digest, diff_id, &self.options.ids, &toc)?;
        let shelf = Shelf { position, blob: blob.clone(), toc, place, state: Mutex::default() };
        Ok(Some((Prepared { ingest, staged }, shelf)))
    }

    /// The bytes of a table, and where they begin.
    fn table(&self, blob: &Descriptor, place: &Place) -> Result<Option<(Vec<u8>, u64)>, TransportError> {
        match place {
            Place::Chunked { offset, len, .. } => {
                let bytes = self.bytes_of(blob, *offset..offset + len)?;
                Ok(bytes.map(|bytes| (bytes, *offset)))
            }
            Place::Estargz { .. } => {
                let Some(begin) = blob.size.checked_sub(Footer::BYTES) else { return Ok(None) };
                let Some(footer) = self.bytes_of(blob, begin..blob.size)? else { return Ok(None) };
                match Footer::parse(&footer, blob.size) {
                    Ok(offset) => Ok(self.bytes_of(blob, offset..begin)?.map(|bytes| (bytes, offset))),
                    Err(error) => self.cannot_use(blob, error).map(|()| None),
                }
            }
        }
    }

    /// Bytes of a blob; nothing if the source gives no ranges.
    fn bytes_of(&self, blob: &Descriptor, wanted: Range<u64>) -> Result<Option<Vec<u8>>, TransportError> {
        let what = format!("table of contents of layer {}", blob.digest);
        self.retry().retrying(|| {
            let Some(mut reader) = self.source.range(blob, wanted.clone())? else { return Ok(None) };
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(|error| read_error(&what, error))?;
            if bytes.len() as u64 != wanted.end - wanted.start {
                return Err(TransportError::Invalid {
                    what: what.clone(),
                    reason: "the server sent less of it".to_owned(),
                });
            }
            Ok(Some(bytes))
        })
    }

    /// Answers questions until `end` is closed. What cannot be fetched comes in its turn; what is wrong fails the pull.
    pub(super) fn serve_early(&self, early: &Early, end: &PipeReader, fail: &(dyn Fn(TransportError) + Sync)) {
        let (errands, queue) = channel::<Errand>();
        let queue = Mutex::new(queue);
        thread::scope(|scope| {
            for _ in 0..FETCHERS {
                scope.spawn(|| self.run_errands(early, &queue, fail));
            }
            // Its end is that of the fetchers.
            read_questions(early, end, &errands);
            drop(errands);
        });
    }

    fn run_errands(&self, early: &Early, queue: &Mutex<Receiver<Errand>>, fail: &(dyn Fn(TransportError) + Sync)) {
        loop {
            let errand = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Errand { shelf, id, pieces }) = errand else { return };
            if let Some(shelf) = early.shelves.get(shelf).filter(|_| !self.stop.is_set()) {
                let fetched = self.fetch_pieces(shelf, id, pieces.clone());
                let mut state = shelf.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.busy.retain(|(file, at)| *file != id || !pieces.contains(at));
                drop(state);
                match fetched {
                    // What could not be had now comes with the rest.
                    Ok(()) | Err(TransportError::Registry(_) | TransportError::Io { .. } | TransportError::Stopped) => {
                    }
                    Err(error) => fail(error),
                }
            }
            early.count(|open| *open -= 1);
        }
    }

    fn fetch_pieces(&self, shelf: &Shelf, id: NodeId, run: Range<usize>) -> Result<(), TransportError> {
        let mut wrong = 0;
        let mut from = run.start;
        let mut failures = 0;
        while from < run.end {
            match self.fetch_run(shelf, id, from..run.end, &mut from) {
                Ok(()) => {}
                // Perhaps it was not the server that changed them.
                Err(TransportError::Unpack { is_full_disk: false, .. }) if wrong + 1 < TRIES => wrong += 1,
                Err(error) => {
                    failures += 1;
                    self.retry().wait(error, failures)?;
                }
            }
        }
        Ok(())
    }

    /// Fetches pieces in one request; `done` is moved on with each.
    fn fetch_run(&self, shelf: &Shelf, id: NodeId, run: Range<usize>, done: &mut usize) -> Result<(), TransportError> {
        let pieces = shelf.toc.pieces(id);
        let (Some(first), Some(last)) = (pieces.get(run.start), pieces.get(run.end - 1)) else { return Ok(()) };
        let wanted = first.blob_offset..last.blob_end;
        let Some(body) = self.source.range(&shelf.blob, wanted)? else { return Err(TransportError::Stopped) };
        let what = || format!("blob {}", shelf.blob.digest);
        let path = || Shown(&shelf.path_of(id).join(&b'/')).to_string();
        let unpackable = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => shelf
                .refused(format!("its table of contents is wrong about '{}': {}", path(), crate::sys::reason(&error))),
            _ => read_error(&what(), error),
        };
        let mut reader = Decompressor::new(body).map_err(unpackable)?;
        io::copy(&mut reader.by_ref().take(first.inner_offset), &mut io::sink()).map_err(unpackable)?;
        let disk = |error| shelf.failed(&shelf.path_of(id), error);
        let file = File::from(shelf.open_early(id, OFlag::O_WRONLY | OFlag::O_CREAT).map_err(disk)?);
        let mut buffer = vec![0; 1 << 16];
        for (at, piece) in pieces.iter().enumerate().take(run.end).skip(run.start) {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut offset = piece.offset;
            while offset < piece.end() {
                let len = usize::try_from(piece.end() - offset).unwrap_or(usize::MAX).min(buffer.len());
                let len = match reader.read(&mut buffer[..len]) {
                    Ok(0) => return Err(unpackable(io::ErrorKind::UnexpectedEof.into())),
                    Ok(len) => len,
                    Err(error) => return Err(unpackable(error)),
                };
                hasher.update(&buffer[..len]);
                file.write_all_at(&buffer[..len], offset).map_err(disk)?;
                offset += len as u64;
            }
            let (got, expected) = (hasher.finish(), hex(&piece.digest));
            if got.hex() != expected {
                let reason = format!(
                    "its table of contents is wrong about '{}': bytes {} to {} have the digest {got}, not sha256:{expected}",
                    path(),
                    piece.offset,
                    piece.end()
                );
                return Err(shelf.refused(reason));
            }
            let mut state = shelf.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                // All of the layer is here meanwhile.
                *done = run.end;
                return Ok(());
            }
            // Under the lock: whoever closes the shelf compares all that was told.
            tell_piece(&shelf.place.journal, id, piece.offset, piece.len).map_err(disk)?;
            state.have.insert((id, at));
            state.busy.remove(&(id, at));
            *done = at + 1;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Turns questions into errands.
fn read_questions(early: &Early, end: &PipeReader, errands: &Sender<Errand>) {
    loop {
        let mut fds = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        fds.extend(early.shelves.iter().map(|shelf| PollFd::new(shelf.place.asked.pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        if fds[0].any() == Some(true) {
            return;
        }
        let ready: Vec<bool> = fds[1..].iter().map(|fd| fd.any() == Some(true)).collect();
        for (at, shelf) in early.shelves.iter().enumerate().filter(|(at, _)| ready.get(*at) == Some(&true)) {
            let mut bytes = [0; 64 * Question::BYTES];
            let Ok(len) = (&shelf.place.asked.pipe).read(&mut bytes) else { continue };
            for question in bytes[..len].chunks_exact(Question::BYTES) {
                let question = question.first_chunk().and_then(Question::parse);
                // What lies apart in the blob takes several requests.
                while let Some((question, pieces)) = question.and_then(|it| Some((it, shelf.run_for(it)?))) {
                    early.count(|open| *open += 1);
                    if errands.send(Errand { shelf: at, id: question.id, pieces }).is_err() {
                        early.count(|open| *open -= 1);
                        return;
                    }
                }
            }
        }
    }
}

/// Tells [`Pull::serve_early`] to end, when dropped.
pub(super) fn ending() -> io::Result<(PipeReader, PipeWriter)> {
    io::pipe()
}
