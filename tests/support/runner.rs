//! Runs the list: chooses by the command line, skips by need, a few at a time, each in a process of its own
//! (`reaper.rs`), and prints what cargo's own harness would, with what each failure wrote.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::framework::Test;
use super::needs::{self, Machine, Need};
use super::{home, image, reaper};

/// The command line, in the spelling of libtest as far as `cargo test` and nextest use it.
#[derive(Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
    no_capture: bool,
    jobs: Option<usize>,
}

enum Outcome {
    Passed(Duration),
    /// Passed alone, after it had failed among the others: what it printed then. A defect all the same, of the test or
    /// of what it tests, which the summary keeps in sight.
    Unsteady(String),
    Skipped(String),
    Failed(String),
}

/// The whole program.
pub(crate) fn main(tests: &[Test]) -> ExitCode {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>();
    if let [role, port] = arguments.as_slice()
        && role == "--udp-echo"
    {
        return echo(port);
    }
    if let [role, name] = arguments.as_slice()
        && role == "--inside"
    {
        return crate::union::inside(name);
    }
    if let [role, argument] = arguments.as_slice()
        && let Some(code) = crate::net::inside(role, argument)
    {
        return code;
    }
    // The two inner roles of this executable: see `reaper.rs`.
    if let [role, name] = arguments.as_slice()
        && let Some(test) = tests.iter().find(|test| test.name() == name)
    {
        match role.as_str() {
            "--reap" => return reaper::reap(name),
            "--body" => return reaper::body(test),
            _ => {}
        }
    }
    match run(tests, &mut arguments) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// Sends every datagram back, for ever: a server that tests put into a container's network namespace.
fn echo(port: &str) -> ExitCode {
    let bound = port.parse().map(|port: u16| std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port)));
    let Ok(Ok(socket)) = bound else { return ExitCode::FAILURE };
    let mut datagram = [0; 65_536];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        // The next one may come through all the same.
        let _ = socket.send_to(&datagram[..length], from);
    }
    ExitCode::SUCCESS
}

fn run(tests: &[Test], arguments: &mut Vec<String>) -> Result<ExitCode, String> {
    let options = parse(arguments)?;
    let required = needs::required(&std::env::var("CORACLE_TEST_REQUIRE").unwrap_or_default())?;
    let chosen = tests.iter().filter(|test| options.chooses(test)).collect::<Vec<_>>();
    if options.list {
        chosen.iter().for_each(|test| println!("{}: test", test.name()));
        return Ok(ExitCode::SUCCESS);
    }

    let base = tempfile::Builder::new().prefix("ct.").tempdir().map_err(|error| format!("a directory: {error}"))?;
    image::make_busybox_archive(base.path());
    println!("\nrunning {} tests", chosen.len());
    let mut outcomes = Vec::new();
    let mut machine = Machine::default();
    let (mut runnable, mut alone) = (VecDeque::new(), VecDeque::new());
    for test in chosen {
        match machine.lacks(test.all_needs()) {
            None if test.alone => alone.push_back(test),
            None => runnable.push_back(test),
            Some((need, reason)) => {
                let outcome = skip(need, reason, &required);
                report(test, &outcome);
                outcomes.push((test, outcome));
            }
        }
    }
    let jobs = if options.no_capture { 1 } else { options.jobs.unwrap_or(2) };
    outcomes.extend(run_parallel(runnable, jobs, base.path(), options.no_capture));
    outcomes.extend(run_parallel(alone, 1, base.path(), options.no_capture));
    retry(&mut outcomes, base.path(), options.no_capture)?;
    home::remove_tree(base.path());
    Ok(summary(&outcomes))
}

fn parse(arguments: &mut Vec<String>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = arguments.drain(..);
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        let mut value = || value.clone().or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--exact" => options.exact = true,
            "--list" => options.list = true,
            "--ignored" => options.ignored_only = true,
            "--nocapture" | "--no-capture" => options.no_capture = true,
            "--include-ignored" | "--quiet" | "-q" | "--show-output" => {}
            "--skip" => options.skips.push(value()?),
            "--jobs" | "-j" | "--test-threads" => {
                let number = value()?;
                options.jobs = Some(number.parse().map_err(|_| format!("{flag} {number}: not a number"))?);
            }
            "--format" | "--color" | "-Z" => drop(value()?),
            flag if flag.starts_with('-') => return Err(format!("unknown option {flag}")),
            filter => options.filters.push(filter.to_owned()),
        }
    }
    Ok(options)
}

impl Options {
    fn chooses(&self, test: &Test) -> bool {
        let matches =
            |pattern: &String| if self.exact { test.name() == pattern } else { test.name().contains(pattern) };
        !self.ignored_only
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.skips.iter().any(|pattern| test.name().contains(pattern))
    }
}

fn skip(need: Need, reason: String, required: &[Need]) -> Outcome {
    if required.contains(&need) {
        Outcome::Failed(format!("needs {reason}, and this run demands '{}'\n", need.name()))
    } else {
        Outcome::Skipped(reason)
    }
}

fn run_parallel<'t>(queue: VecDeque<&'t Test>, jobs: usize, base: &Path, no_capture: bool) -> Vec<(&'t Test, Outcome)> {
    let queue = Mutex::new(queue);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no test panics in this process").pop_front();
                    let Some(test) = next else { break };
                    let outcome = run_one(test, base, no_capture);
                    report(test, &outcome);
                    outcomes.lock().expect("no test panics in this process").push((test, outcome));
                }
            });
        }
    });
    outcomes.into_inner().expect("no test panics in this process")
}

/// Gives failed tests a second try, alone, when `CORACLE_TEST_RETRIES` says for how many at most. More failures than
/// that are no accident.
fn retry(outcomes: &mut [(&Test, Outcome)], base: &Path, no_capture: bool) -> Result<(), String> {
    let most = match std::env::var("CORACLE_TEST_RETRIES") {
        Ok(number) if !number.is_empty() => {
            number.parse::<usize>().map_err(|_| format!("CORACLE_TEST_RETRIES={number}: not a number"))?
        }
        _ => 0,
    };
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    if outcomes.iter().filter(|(_, outcome)| failed(outcome)).count() > most {
        return Ok(());
    }
    for (test, outcome) in outcomes.iter_mut() {
        if let Outcome::Failed(output) = outcome
            && let Outcome::Passed(_) = run_one(test, base, no_capture)
        {
            *outcome = Outcome::Unsteady(std::mem::take(output));
            report(test, outcome);
        }
    }
    Ok(())
}

/// Runs one test below its reaper and waits for both, or kills what the test started when the time is over.
fn run_one(test: &Test, base: &Path, no_capture: bool) -> Outcome {
    let started = Instant::now();
    let attempt = || -> std::io::Result<Outcome> {
        let dir: PathBuf = tempfile::Builder::new().prefix("").rand_bytes(4).tempdir_in(base)?.keep();
        let log = dir.join("log");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--reap", test.name()]).env("CORACLE_TEST_DIR", &dir).stdin(Stdio::null());
        if let Some(archive) = image::busybox_archive() {
            command.env("CORACLE_TEST_BUSYBOX", archive);
        }
        if !no_capture {
            let file = File::create(&log)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        let mut reaper = command.spawn()?;
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = reaper.try_wait()? {
                break status;
            }
            // The reaper needs a little longer than the test: it gives leftovers time to go.
            if started.elapsed() > test.limit + reaper::GRACE && !timed_out {
                timed_out = true;
                reaper::kill_descendants(reaper.id());
                reaper.kill()?;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let mut output = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        home::remove_tree(&dir);
        if status.success() {
            return Ok(Outcome::Passed(started.elapsed()));
        }
        if timed_out {
            output.push_str(&format!("the test was killed after {:?}\n", test.limit));
        } else if status.code() != Some(1) {
            output.push_str(&format!("the test ended with {status}\n"));
        }
        Ok(Outcome::Failed(output))
    };
    attempt().unwrap_or_else(|error| Outcome::Failed(format!("the test could not be started: {error}\n")))
}

fn report(test: &Test, outcome: &Outcome) {
    match outcome {
        Outcome::Passed(took) if *took > Duration::from_secs(5) => {
            println!("test {} ... ok ({:.1} s)", test.name(), took.as_secs_f64());
        }
        Outcome::Passed(_) => println!("test {} ... ok", test.name()),
        Outcome::Unsteady(_) => println!("test {} ... ok at the second try", test.name()),
        Outcome::Skipped(reason) => println!("test {} ... skipped: needs {reason}", test.name()),
        Outcome::Failed(_) => println!("test {} ... FAILED", test.name()),
    }
}

fn summary(outcomes: &[(&Test, Outcome)]) -> ExitCode {
    let (mut passed, mut unsteady, mut failed, mut skipped) = (0, 0, 0, 0);
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Passed(_) => passed += 1,
            Outcome::Unsteady(_) => {
                passed += 1;
                unsteady += 1;
            }
            Outcome::Skipped(_) => skipped += 1,
            Outcome::Failed(_) => failed += 1,
        }
    }
    if failed + unsteady > 0 {
        println!("\nfailures:");
    }
    for (test, outcome) in outcomes {
        if let Outcome::Failed(output) | Outcome::Unsteady(output) = outcome {
            println!("\n---- {} ----\n{}", test.name(), output.trim_end());
        }
    }
    if unsteady > 0 {
        println!("\n{unsteady} of the passed failed at the first try");
    }
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
