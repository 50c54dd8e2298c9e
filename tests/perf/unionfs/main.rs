//! Compares four file systems on one machine in one run: a plain directory, the kernel's overlay, a fuse-overlayfs and
//! ours, over the same six layers of a tree like `/usr`. Trust the ratios; milliseconds are this machine's.
//!
//! ```text
//! cargo bench --bench unionfs -- [--full] [--rounds N] [--no-index] [--dir DIR] [--json FILE] [ROW…]
//!
//!   ROW              only the rows whose name contains one of these words, for example: cold 'create storm'
//!   --full           nine rounds instead of three
//!   --rounds N       how often every file system has its turn
//!   --no-index       ours reads the layers' directories instead of their indexes
//!   --dir DIR        everything in this directory, on its file system (default: a tmpfs of its own)
//!   --json FILE      every single time, for other tools
//!
//!   CORACLE=…        the coracle to measure (default: the one that cargo built)
//!   FUSE_OVERLAYFS=… the fuse-overlayfs to compare with, a command with its first words (default: fuse-overlayfs)
//! ```
//! Runs as an ordinary user with subordinate ids, in a user namespace it makes for itself (`unshare(1)`). Needs git, tar
//! and python3 for the rows that use them. A measured mount is always fresh and its upper directory a file system of its
//! own: on ext4, creating files after a tree was deleted costs many times more, so nothing here is deleted with `rm -rf`.

// The bench makes its own surroundings, and it measures kernel calls.
#![allow(clippy::disallowed_methods)]

mod cases;
mod mounts;
mod table;
mod tree;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use mounts::{Driver, Mounted};
use table::Table;
use tree::World;

/// The command line.
struct Options {
    rounds: usize,
    with_index: bool,
    dir: Option<PathBuf>,
    json: Option<PathBuf>,
    rows: Vec<String>,
}

fn parse() -> Result<Options, String> {
    let mut options = Options { rounds: 3, with_index: true, dir: None, json: None, rows: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => options.rounds = 3,
            "--full" => options.rounds = 9,
            "--rounds" => options.rounds = value()?.parse().map_err(|_| "--rounds needs a number".to_owned())?,
            "--no-index" => options.with_index = false,
            "--dir" => options.dir = Some(value()?.into()),
            "--json" => options.json = Some(value()?.into()),
            // What `cargo bench` itself adds.
            "--bench" => {}
            word if word.starts_with("--") => return Err(format!("unknown option {word}")),
            word => options.rows.push(word.to_owned()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    // Everything below happens in namespaces of our own, whose end ends every server in them.
    if std::env::var_os("UNIONFS_INSIDE").is_none() {
        let unshare =
            ["--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut command = Command::new("unshare");
        command
            .args(unshare)
            .arg(std::env::current_exe().expect("this program has a path"))
            .args(std::env::args().skip(1));
        return match command.env("UNIONFS_INSIDE", "1").status() {
            Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
            Err(error) => {
                eprintln!("error: unshare: {error}");
                ExitCode::FAILURE
            }
        };
    }
    run(&options)
}

fn run(options: &Options) -> ExitCode {
    let place = mounts::place(options.dir.as_deref());
    let started = Instant::now();
    let world = World::build(&place);
    eprintln!(
        "{} files, {} directories, {} MiB in {} layers, made in {:.1} s",
        world.files.len(),
        world.directories.len(),
        world.files.iter().map(|file| file.1).sum::<u64>() >> 20,
        world.layers.len(),
        started.elapsed().as_secs_f64()
    );
    let drivers = mounts::available(options.with_index);
    let chosen = |name: &str| options.rows.is_empty() || options.rows.iter().any(|word| name.contains(word.as_str()));
    let mut table = Table::new(&drivers);
    for case in cases::CASES.iter().filter(|case| chosen(case.name)) {
        if !(case.is_possible)(&world) {
            eprintln!("{}: skipped, this machine lacks what it runs", case.name);
            continue;
        }
        for round in 0..options.rounds {
            for turn in 0..drivers.len() {
                let driver = drivers[(round + turn) % drivers.len()];
                let time = measure(case, &world, driver);
                table.add(case.name, driver, time);
            }
        }
        table.print_row(case);
    }
    for limit in cases::LIMITS.iter().filter(|limit| chosen(limit.name)) {
        let values: Vec<_> = drivers
            .iter()
            .filter(|driver| driver.is_fuse())
            .map(|driver| (*driver, (limit.measure)(&world, *driver)))
            .collect();
        table.print_limit(limit, &values);
    }
    table.print_summary();
    if let Some(file) = &options.json
        && let Err(error) = table.write_json(file)
    {
        eprintln!("error: {}: {error}", file.display());
    }
    if table.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One time: a fresh mount, the case's preparation, the case.
fn measure(case: &cases::Case, world: &World, driver: Driver) -> Duration {
    let mut mounted = Mounted::new(world, &world.layers, driver);
    (case.prepare)(world, &mounted);
    if case.is_cold {
        mounted.mount_again();
    }
    let started = Instant::now();
    (case.run)(world, &mounted);
    let time = started.elapsed();
    if driver == Driver::Plain {
        (case.restore)(world, &mounted);
    }
    time
}
