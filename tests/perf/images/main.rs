//! What a pull cannot be faster than: inflating the blobs of an image, or writing what they hold, whichever is slower, with
//! as many threads as there are cores; and what each crate for it is worth on this machine. `tests/perf/images.sh` runs it.
//!
//! ```text
//! cargo bench --bench images -- [--dir DIR] BLOB…
//!
//!   BLOB       a layer as it is sent, gzip
//!   --dir DIR  where to write, on the file system to be measured (default: below TMPDIR)
//! ```
//! | line | what |
//! | --- | --- |
//! | `inflate zlib-rs` | what the pull uses: any length of stream in 64 KiB of memory |
//! | `inflate libdeflate` | needs a whole blob and all it holds in memory: no pull can, but it bounds what inflating costs |
//! | `sha256 ring` | of what is inflated, which proves the diffID |
//! | `write` | the files of the layers, of their sizes, and the blobs beside them, until they are on disk (`syncfs`) |
//! | `floor` | the slower of the best inflating and of writing |

// A bench says on its own what it measures, and it makes its own files.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::bufread::MultiGzDecoder;

const BLOCK_BYTES: usize = 512;

/// How much is moved at once.
const BUFFER_BYTES: usize = 256 << 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut dir = std::env::temp_dir();
    let mut blobs = Vec::new();
    // cargo itself adds `--bench`.
    let mut args = std::env::args_os().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--dir") => dir = args.next().map(PathBuf::from).unwrap_or(dir),
            _ => blobs.push(PathBuf::from(arg)),
        }
    }
    if blobs.is_empty() {
        println!("no blobs, nothing measured: see tests/perf/images.sh");
        return Ok(());
    }
    // The largest first, as a pull takes them.
    blobs.sort_by_key(|blob| std::cmp::Reverse(fs::metadata(blob).map_or(0, |metadata| metadata.len())));
    let sent: u64 = blobs.iter().filter_map(|blob| Some(fs::metadata(blob).ok()?.len())).sum();
    // Once for what they hold, which also brings them into memory.
    let files = on_all_cores(&blobs, |blob| sizes(blob))?;
    let held = on_all_cores(&blobs, |blob| inflate(blob, |_| {}))?.into_iter().sum::<u64>();
    let count: usize = files.iter().map(Vec::len).sum();
    println!("{} blobs, {} MB, hold {} MB in {count} files", blobs.len(), sent / 1_000_000, held / 1_000_000);

    let streamed = timed(|| on_all_cores(&blobs, |blob| inflate(blob, |_| {})).map(drop))?;
    let mut all = 0;
    let whole = timed(|| on_all_cores(&blobs, |blob| inflate_whole(blob)).map(|lens| all = lens.into_iter().sum()))?;
    // Of a stream of several members, such as coracle makes, it gives the first alone.
    let whole = Some(whole).filter(|_| all == held);
    let hashed = timed(|| on_all_cores(&blobs, |_| hash(held / blobs.len() as u64)).map(drop))?;
    let written = timed(|| write(&dir, &blobs, &files))?;
    let show = |what: &str, took: Duration, bytes: u64| {
        println!("{what:<20} {:>6} ms {:>6.0} MB/s", took.as_millis(), bytes as f64 / 1e6 / took.as_secs_f64());
    };
    show("inflate zlib-rs", streamed, held);
    if let Some(whole) = whole {
        show("inflate libdeflate", whole, held);
    }
    show("sha256 ring", hashed, held);
    show("write", written, held + sent);
    println!("floor {} ms", whole.map_or(streamed, |whole| whole.min(streamed)).max(written).as_millis());
    Ok(())
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

/// Does `work` for each item, in order, a thread per core.
fn on_all_cores<I: Sync, R: Send>(items: &[I], work: impl Fn(&I) -> io::Result<R> + Sync) -> io::Result<Vec<R>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { return };
                    let result = work(item);
                    done.lock().expect("no thread panics").push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

fn decoder(blob: &Path) -> io::Result<impl Read + use<>> {
    Ok(MultiGzDecoder::new(io::BufReader::with_capacity(BUFFER_BYTES, File::open(blob)?)))
}

/// Gives every piece to `see`, and says how many bytes there were.
fn inflate(blob: &Path, mut see: impl FnMut(&[u8])) -> io::Result<u64> {
    let (mut source, mut buffer, mut len) = (decoder(blob)?, vec![0; BUFFER_BYTES], 0);
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(len),
            read => {
                see(&buffer[..read]);
                len += read as u64;
            }
        }
    }
}

/// The first member, as a whole.
fn inflate_whole(blob: &Path) -> io::Result<u64> {
    let bytes = fs::read(blob)?;
    let mut decompressor = libdeflater::Decompressor::new();
    // The end of a gzip file says how much its only member holds.
    let tail = bytes.last_chunk::<4>().map_or(0, |tail| u32::from_le_bytes(*tail)) as usize;
    let mut out = vec![0; tail.max(1)];
    loop {
        match decompressor.gzip_decompress(&bytes, &mut out) {
            Ok(len) => return Ok(len as u64),
            Err(libdeflater::DecompressionError::InsufficientSpace) => {
                let larger = out.len() * 2;
                out = vec![0; larger];
            }
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
    }
}

fn hash(len: u64) -> io::Result<u8> {
    let buffer = vec![0; BUFFER_BYTES];
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for _ in 0..len.div_ceil(BUFFER_BYTES as u64) {
        context.update(&buffer);
    }
    Ok(context.finish().as_ref()[0])
}

/// The sizes of the regular files of a layer. Headers that are not understood are taken for empty entries.
fn sizes(blob: &Path) -> io::Result<Vec<u64>> {
    let mut source = decoder(blob)?;
    let (mut block, mut sizes) = ([0; BLOCK_BYTES], Vec::new());
    while source.read_exact(&mut block).is_ok() {
        let octal = str::from_utf8(&block[124..135]).ok().and_then(|text| u64::from_str_radix(text.trim(), 8).ok());
        let size = octal.unwrap_or_default();
        if matches!(block[156], 0 | b'0') && block[0] != 0 {
            sizes.push(size);
        }
        let stored = size.next_multiple_of(BLOCK_BYTES as u64);
        io::copy(&mut source.by_ref().take(stored), &mut io::sink())?;
    }
    Ok(sizes)
}

/// Writes files of these sizes, a hundred in a directory, and as many bytes as the blobs have beside them.
fn write(dir: &Path, blobs: &[PathBuf], files: &[Vec<u64>]) -> io::Result<()> {
    let place = tempfile::tempdir_in(dir)?;
    let jobs: Vec<(usize, (&PathBuf, &Vec<u64>))> = blobs.iter().zip(files).enumerate().collect();
    on_all_cores(&jobs, |(number, (blob, sizes))| {
        let buffer: Vec<u8> = (0..BUFFER_BYTES).map(|at| ((at * at) >> 7) as u8).collect();
        let layer = place.path().join(number.to_string());
        fs::create_dir(&layer)?;
        fill(&layer.join("blob"), fs::metadata(blob)?.len(), &buffer)?;
        for (at, size) in sizes.iter().enumerate() {
            let below = layer.join((at / 100).to_string());
            if at % 100 == 0 {
                fs::create_dir(&below)?;
            }
            fill(&below.join(at.to_string()), *size, &buffer)?;
        }
        Ok(())
    })?;
    nix::unistd::syncfs(File::open(place.path())?)?;
    Ok(())
}

fn fill(path: &Path, mut len: u64, buffer: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    while len > 0 {
        let piece = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        file.write_all(&buffer[..piece])?;
        len -= piece as u64;
    }
    Ok(())
}
