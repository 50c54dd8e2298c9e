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
