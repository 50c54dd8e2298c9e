//! Runs the binary under test: an environment built from nothing, a time limit, and assertions that print the whole
//! command with both its streams.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::home::Home;

/// The binary under test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CORACLE_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_coracle")), PathBuf::from)
}

/// A command of coracle that is being put together.
pub(crate) struct Coracle {
    command: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    dir: PathBuf,
    limit: Duration,
}

/// A command that is running.
pub(crate) struct Running {
    line: String,
    child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
    started: Instant,
    limit: Duration,
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    line: String,
    pub(crate) status: ExitStatus,
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) took: Duration,
}

impl Coracle {
    pub(crate) fn new(home: &Home, line: &str) -> Self {
        let system = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
        let path = |path: PathBuf| path.into_os_string();
        let environment = [
            ("HOME", path(home.path())),
            ("XDG_RUNTIME_DIR", path(home.runtime_dir())),
            ("TMPDIR", path(home.tmp())),
            ("PATH", system.into()),
            ("LANG", "C.UTF-8".into()),
        ];
        let mut command = vec![binary().into_os_string()];
        command.extend(words(line).into_iter().map(OsString::from));
        let mut environment: Vec<(OsString, OsString)> = environment.map(|(name, value)| (name.into(), value)).into();
        // The whole suite on another storage driver.
        if let Some(driver) = std::env::var_os("CORACLE_TEST_DRIVER") {
            environment.push(("STORAGE_DRIVER".into(), driver));
        }
        Self { command, environment, stdin: Vec::new(), dir: home.tmp(), limit: Duration::from_secs(30) }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.push(argument.as_ref().to_owned());
        self
    }

    /// Through a link of that name, which decides as whom it answers.
    pub(crate) fn called(self, home: &Home, name: &str) -> Self {
        let link = home.tmp().join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(binary(), &link).expect("tmp is ours");
        }
        self.program(&link)
    }

    /// Calls the binary by another name.
    pub(crate) fn program(mut self, path: &Path) -> Self {
        path.as_os_str().clone_into(&mut self.command[0]);
        self
    }

    /// Puts other words in front: `strace -f`, `prlimit --nofile=64`, `setsid`.
    pub(crate) fn under(mut self, line: &str) -> Self {
        self.command.splice(0..0, words(line).into_iter().map(OsString::from));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_owned();
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        dir.clone_into(&mut self.dir);
        self
    }

    pub(crate) fn limit_secs(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn run(self) -> Finished {
        self.spawn().wait()
    }

    /// The same command for a caller that has its own streams: a terminal, a full device.
    pub(crate) fn to_command(&self) -> Command {
        let (program, arguments) = self.command.split_first().expect("the binary is there");
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment.iter().cloned()).current_dir(&self.dir);
        command
    }

    #[track_caller]
    pub(crate) fn spawn(self) -> Running {
        let line =
            self.command.iter().skip(1).fold("coracle".to_owned(), |line, word| line + " " + &word.to_string_lossy());
        let mut command = self.to_command();
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("$ {line}\ncannot start: {error}"));
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin.clone();
            // It may end without reading all of it.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = collect(child.stdout.take().expect("it is piped"));
        let stderr = collect(child.stderr.take().expect("it is piped"));
        Running { line, child, stdout, stderr, started, limit: self.limit }
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        sender.send(bytes)
    });
    receiver
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Waits for the end of the command and of both its streams: a process it left behind must not hold them.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Finished {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if self.started.elapsed() > self.limit {
                let tree = super::reaper::descendants(self.child.id());
                let tree: Vec<_> = tree.into_iter().map(super::reaper::command_line).collect();
                super::reaper::kill_descendants(self.child.id());
                let _ = self.child.kill();
                let out = self.stdout.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                let err = self.stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
                panic!("$ {}\nhangs for {:?}, below it: {tree:#?}\n{out}\n{err}", self.line, self.limit);
            }
            thread::sleep(Duration::from_millis(1));
        };
        let took = self.started.elapsed();
        let stream = |name: &str, receiver: &mpsc::Receiver<Vec<u8>>| {
            let received = receiver.recv_timeout(Duration::from_secs(5));
            received.unwrap_or_else(|_| panic!("$ {}\nhas ended, but something keeps its {name} open", self.line))
        };
        let (out, err) = (stream("stdout", &self.stdout), stream("stderr", &self.stderr));
        Finished { line: self.line, status, out, err, took }
    }
}

impl Finished {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }

    /// The status as a shell shows it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code(), code, "\n{}", self.transcript());
        self
    }

    /// Success; stdout without its last newline.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        self.exits(0);
        let text = self.stdout();
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// Failure with this status and one line on stderr, hints aside; returns the line.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> String {
        self.exits(code);
        let stderr = self.stderr();
        if super::reaper::is_oracle() {
            return stderr;
        }
        // What it did before it failed, and what to do now, may be said as well.
        let aside = ["Hint: ", "Warning: ", "Trying to pull ", "Unable to find image "];
        let is_error = |line: &&str| !line.trim().is_empty() && !aside.iter().any(|start| line.starts_with(start));
        let mut lines = stderr.lines().filter(is_error);
        let line = lines.next().unwrap_or_else(|| panic!("it fails without a word\n{}", self.transcript()));
        assert!(lines.next().is_none(), "more than one line\n{}", self.transcript());
        assert!(!line.contains("(os error "), "the number of an errno\n{}", self.transcript());
        assert!(!line.contains("panicked") && !line.contains('\u{1b}'), "\n{}", self.transcript());
        line.to_owned()
    }

    /// Command, streams and status, as in a terminal.
    pub(crate) fn transcript(&self) -> String {
        let status = if self.status.success() { String::new() } else { format!("[{}]\n", self.code()) };
        format!("$ {}\n{}{}{status}", self.line, self.stdout(), self.stderr())
    }
}

/// Splits a line into words: spaces, single quotes, double quotes, backslash.
pub(crate) fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ' | '\n') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}
