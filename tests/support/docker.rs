//! coracle through a link named `docker`, for lines that are written that way.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use super::command::{binary, words};
use super::home::Home;

/// Whoever types `docker` in this home.
pub(crate) struct Docker<'h> {
    home: &'h Home,
}

/// How a command ended.
pub(crate) struct Answer {
    /// What was typed, without `docker`.
    pub(crate) line: String,
    /// Its status.
    pub(crate) code: i32,
    /// What it wrote to stdout, without white space at the end.
    pub(crate) out: String,
    /// What it wrote to stderr, likewise.
    pub(crate) err: String,
}

impl<'h> Docker<'h> {
    /// Nothing is made yet.
    pub(crate) fn new(home: &'h Home) -> Self {
        Self { home }
    }

    /// Runs a command without input.
    pub(crate) fn run(&self, line: &str) -> Answer {
        self.run_with(line, "")
    }

    /// Runs a command with this input.
    pub(crate) fn run_with(&self, line: &str, stdin: &str) -> Answer {
        let link = self.home.tmp().join("docker");
        if !link.exists() {
            symlink(binary(), &link).unwrap();
        }
        let like = self.home.coracle("").to_command();
        let mut command = Command::new(link);
        command.args(words(line)).env_clear().current_dir(self.home.tmp());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end without reading it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let code = output.status.code().unwrap_or(-1);
        Answer { line: line.to_owned(), code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Runs a command that must succeed; returns what it wrote to stdout.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        let answer = self.run(line);
        assert_eq!(answer.code, 0, "$ docker {}\n{}\n{}", answer.line, answer.out, answer.err);
        answer.out
    }
}
