//! Whole conversations in a file: what a person types and what a person sees, with what differs from run to run
//! replaced. The same file is the script and the expectation:
//!
//! ```text
//! ## A note.
//! $ coracle rm nosuch
//! Error: no container with name or ID "nosuch" found: no such container
//! [1]
//! $ docker rm nosuch
//! …
//! ```
//!
//! stdout comes first, then stderr, then the status unless it is zero. A line that begins with `docker` is called
//! through a link of that name. The text stands for what it says: sizes, times and ids are words such as `<SIZE>`.

use std::fs;
use std::path::{Path, PathBuf};

use super::command::Finished;
use super::home::Home;

/// Commands and what they should print.
pub(crate) struct Script {
    file: PathBuf,
    text: String,
}

/// What one command printed.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Script {
    /// `tests/cli/transcripts/<name>.txt`
    #[track_caller]
    pub(crate) fn read(name: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/transcripts").join(name).with_extension("txt");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { file, text }
    }

    /// The commands, in order.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(|line| line.strip_prefix("$ "))
    }

    /// Runs it all and compares; `CORACLE_TEST_UPDATE=1` writes the file anew: review it as code.
    #[track_caller]
    pub(crate) fn check(&self, home: &Home) {
        let mut found = String::new();
        for line in self.text.lines() {
            if line.starts_with("## ") {
                found += line;
                found.push('\n');
            } else if let Some(command) = line.strip_prefix("$ ") {
                let answer = Answer::of(&run(home, command));
                let text = answer.to_text();
                let text = redact(&text, home);
                found += &format!("{line}\n{text}");
            }
        }
        if std::env::var_os("CORACLE_TEST_UPDATE").is_some_and(|value| !value.is_empty()) {
            fs::write(&self.file, found).expect("the tree is writable");
            return;
        }
        assert!(found == self.text, "differs from {}:\n{}", self.file.display(), difference(&self.text, &found));
    }
}

/// Runs `coracle …` or `docker …`.
#[track_caller]
pub(crate) fn run(home: &Home, line: &str) -> Finished {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    match name {
        "coracle" => home.coracle(rest).limit_secs(60).run(),
        name => home.coracle(rest).called(home, name).limit_secs(60).run(),
    }
}

impl Answer {
    pub(crate) fn of(finished: &Finished) -> Self {
        Self { code: finished.code(), stdout: finished.stdout(), stderr: finished.stderr() }
    }

    fn to_text(&self) -> String {
        let status = if self.code == 0 { String::new() } else { format!("[{}]\n", self.code) };
        let whole = |text: &str| match text.is_empty() || text.ends_with('\n') {
            true => text.to_owned(),
            // A line without an end, as `printf` leaves it.
            false => format!("{text}<NO NEWLINE>\n"),
        };
        format!("{}{}{status}", whole(&self.stdout), whole(&self.stderr))
    }

    /// What must be equal in two programs' answers: stdout, the status, and of stderr the phrases that scripts look for.
    /// The rest of an error is each program's own: podman's has the names of its parts, coracle's the object.
    pub(crate) fn to_comparable(&self, home: &Home) -> String {
        const PHRASES: [&str; 19] = [
            "no such container",
            "no such object",
            "no such volume",
            "no such pod",
            "no such secret",
            "image not known",
            "already in use",
            "already exists",
            "in use by a container",
            "is being used by",
            "container state improper",
            "unknown flag",
            "unknown shorthand flag",
            "unrecognized command",
            "can't evaluate field",
            "without force",
            "network not found",
            "network is being used",
            "network is already connected",
        ];
        let phrases = PHRASES.iter().filter(|phrase| self.stderr.contains(**phrase));
        let stderr: String = phrases.map(|phrase| format!("… {phrase} …\n")).collect();
        let text = Self { code: self.code, stdout: self.stdout.clone(), stderr }.to_text();
        let text = redact_ids_and_times(&text.replace(&*home.path().to_string_lossy(), "<HOME>"));
        text.replace("podman", "coracle")
    }
}

/// Replaces what differs from run to run, or from machine to machine.
fn redact(text: &str, home: &Home) -> String {
    let mut text = text.to_owned();
    for (path, name) in [(home.path(), "<HOME>"), (home.runtime_dir(), "<RUN>"), (home.tmp(), "<TMP>")] {
        text = text.replace(&*path.to_string_lossy(), name);
    }
    let text = redact_ids_and_times(&text).replace(super::image::host_architecture(), "<ARCH>");
    settled(&text, text.split('\n').map(redact_sizes).collect::<Vec<_>>().join("\n"))
}

/// Full and short ids, and moments in time.
fn redact_ids_and_times(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        let hex = word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match word.len() {
            64 if hex => redacted.push_str("<ID>"),
            // Of a secret.
            25 if hex => redacted.push_str("<SECRET-ID>"),
            12 if hex => redacted.push_str("<SHORT-ID>"),
            _ => redacted.push_str(&word),
        }
        word.clear();
        if character != '\0' {
            redacted.push(character);
        }
    }
    let timeless = redacted.split('\n').map(|line| redact_ages(&redact_dates(line))).collect::<Vec<_>>().join("\n");
    settled(&redacted, timeless)
}

/// Where something of another length was replaced, the columns are where they are by chance: two spaces for any more.
fn settled(before: &str, after: String) -> String {
    if before == after {
        return after;
    }
    let collapse = |line: &str| {
        let text = line.trim_start();
        let mut words = text.split("  ").map(str::trim).filter(|word| !word.is_empty());
        let first = line[..line.len() - text.len()].to_owned() + words.next().unwrap_or_default();
        words.fold(first, |line, word| line + "  " + word)
    };
    after.split('\n').map(collapse).collect::<Vec<_>>().join("\n")
}

/// `2026-11-21T14:22:05.123Z`, `2026-11-21 14:22:05 +0000 UTC`
fn redact_dates(line: &str) -> String {
    const DATE: &str = "0000-00-00 00:00:00";
    // The times that mean something: none, and the one in the tests' own images.
    let is_known = |text: &str| ["0001-01-01", "1970-01-01", "2024-01-01"].iter().any(|date| text.starts_with(date));
    let is_date = |text: &str| {
        let fits = |(pattern, byte): (u8, u8)| match pattern {
            b'0' => byte.is_ascii_digit(),
            b' ' => byte == b' ' || byte == b'T',
            other => byte == other,
        };
        text.len() >= DATE.len() && DATE.bytes().zip(text.bytes()).all(fits)
    };
    let digits = |c: char| c.is_ascii_digit() || c == ':';
    let (mut redacted, mut rest) = (String::new(), line);
    while let Some(first) = rest.chars().next() {
        if !is_date(rest) || is_known(rest) {
            redacted.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        rest = rest[DATE.len()..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        rest = match rest.strip_prefix(" +").or(rest.strip_prefix(" -")) {
            Some(zone) => {
                let zone = zone.trim_start_matches(digits);
                zone.strip_prefix(' ').map_or(zone, |name| name.trim_start_matches(|c: char| c.is_ascii_uppercase()))
            }
            None => match rest.strip_prefix(['+', '-']) {
                Some(zone) => zone.trim_start_matches(digits),
                None => rest.strip_prefix('Z').unwrap_or(rest),
            },
        };
        redacted.push_str("<TIME>");
    }
    redacted
}

/// `3 seconds ago`, `Up Less than a second`.
fn redact_ages(line: &str) -> String {
    let mut redacted = line
        .replace("Less than a second", "<AGE>")
        .replace("About a minute", "<AGE>")
        .replace("About an hour", "<AGE>");
    for unit in [" seconds", " second", " minutes"] {
        let mut from = 0;
        while let Some(at) = redacted[from..].find(unit).map(|at| at + from) {
            let start = redacted[..at].trim_end_matches(|c: char| c.is_ascii_digit()).len();
            from = at + 1;
            if start < at {
                redacted.replace_range(start..at + unit.len(), "<AGE>");
                from = start;
            }
        }
    }
    redacted
}

/// `2.17 MB`, `6.51MB`: those of the image depend on the busybox of the machine.
fn redact_sizes(line: &str) -> String {
    let (mut redacted, mut rest) = (String::new(), line);
    while let Some(first) = rest.chars().next() {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = after.strip_prefix(' ').unwrap_or(after);
        if after.len() < rest.len() && unit.starts_with("MB") {
            redacted.push_str("<SIZE>");
            redacted.push_str(&after[..after.len() - unit.len()]);
            rest = unit;
            continue;
        }
        let taken = (rest.len() - after.len()).max(first.len_utf8());
        // As many bytes, or seconds since 1970.
        if rest.len() - after.len() >= 7 && !rest.starts_with('0') && !rest[..taken].contains('.') {
            redacted.push_str("<NUMBER>");
            rest = after;
            continue;
        }
        redacted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    redacted
}

/// Lines that are only in one of the two, each with its side.
pub(crate) fn difference(expected: &str, found: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let end = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let removed = old[start..old.len() - end].iter().map(|line| format!("-{line}\n"));
    let added = new[start..new.len() - end].iter().map(|line| format!("+{line}\n"));
    format!("line {}\n{}", start + 1, removed.chain(added).collect::<String>())
}
