//! What a target does without a fuzzer: the files it is given, or random bytes for a while.

use std::fs::{self, File};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The `main` of a target.
pub(crate) fn main(target: fn(&[u8])) -> ExitCode {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    for file in &files {
        match fs::read(file) {
            Ok(bytes) => target(&bytes),
            Err(error) => {
                eprintln!("read {}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    if files.is_empty() { random(target) } else { ExitCode::SUCCESS }
}

fn random(target: fn(&[u8])) -> ExitCode {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut source = File::open("/dev/urandom").expect("every machine has it");
    let mut count = 0_u64;
    while Instant::now() < end {
        let mut length = [0; 2];
        source.read_exact(&mut length).expect("it never ends");
        let mut bytes = vec![0; usize::from(u16::from_le_bytes(length) % 2048)];
        source.read_exact(&mut bytes).expect("it never ends");
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            let name = format!("crash-{count}-{}", std::process::id());
            fs::write(&name, &bytes).expect("this directory can be written");
            eprintln!("input number {count} failed; it is kept as {name}");
            return ExitCode::FAILURE;
        }
        count += 1;
    }
    eprintln!("{count} inputs in {seconds} s");
    ExitCode::SUCCESS
}
