//! What unpacking costs. Run with `cargo test --release --test layers -- --ignored --nocapture perf` and `TMPDIR` on a
//! tmpfs: the figure is the kernel's file creation plus ours.

use crate::support::{Archive, Scratch, entry};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use storage::layer::tar::EntryKind;

fn cpu_ms() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage");
    usage.user_time().num_milliseconds() + usage.system_time().num_milliseconds()
}

#[test]
#[ignore = "measures"]
fn perf_forty_thousand_small_files() {
    let mut archive = Archive::new();
    for dir in 0..4000 {
        archive = archive.dir(&format!("usr/lib/python3/dist-packages/package{}/module{dir}", dir / 40));
        for file in 0..10 {
            let path = format!("usr/lib/python3/dist-packages/package{}/module{dir}/file{file}.py", dir / 40);
            archive = archive.add(&entry(&path, EntryKind::File), &[b'x'; 3000]);
        }
    }
    let tar = archive.bytes();
    for _ in 0..3 {
        let scratch = Scratch::new();
        let before = cpu_ms();
        let start = std::time::Instant::now();
        let (applied, index) = scratch.apply(&tar).expect("apply");
        println!(
            "{} entries, {} MB: {} ms CPU, {} ms wall, index of {} names",
            applied.entries,
            tar.len() / 1_000_000,
            cpu_ms() - before,
            start.elapsed().as_millis(),
            index.len()
        );
    }
}

/// Unpacks the archive that `CORACLE_TEST_ARCHIVE` names, compressed or not, into `CORACLE_TEST_LAYERS`.
#[test]
#[ignore = "measures"]
fn perf_given_archive() {
    let (Some(archive), Some(layers)) =
        (std::env::var_os("CORACLE_TEST_ARCHIVE"), std::env::var_os("CORACLE_TEST_LAYERS"))
    else {
        println!("skipped: needs CORACLE_TEST_ARCHIVE and CORACLE_TEST_LAYERS");
        return;
    };
    let open = || std::fs::File::open(&archive).expect("open");
    let mut tar = storage::layer::compression::Decompressor::new(open()).expect("decompress");
    let digest = storage::digest::Hasher::of_reader(storage::digest::Algorithm::Sha256, &mut tar).expect("read").0;
    let diff_id = storage::digest::DiffId::new(digest);
    let before = cpu_ms();
    let start = std::time::Instant::now();
    let result = storage::layer::staging::unpack_blob(
        std::path::Path::new(&layers),
        open(),
        &diff_id,
        &storage::layer::IdPolicy::identity(),
    );
    let peak_kib = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage").max_rss();
    println!("{result:?}: {} ms CPU, {} ms wall, peak {peak_kib} KiB", cpu_ms() - before, start.elapsed().as_millis());
}
