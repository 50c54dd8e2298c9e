//! Whole conversations compared with a file: what a person would see, with what differs from run to run replaced.

use std::fs;
use std::path::{Path, PathBuf};

use super::home::Home;

/// Commands and what they printed, in order.
pub(crate) struct Transcript<'h> {
    home: &'h Home,
    text: String,
}

impl<'h> Transcript<'h> {
    pub(crate) fn new(home: &'h Home) -> Self {
        Self { home, text: String::new() }
    }

    /// Runs a command and appends it with its output and a status other than zero.
    #[track_caller]
    pub(crate) fn run(&mut self, line: &str) {
        let finished = self.home.run(line);
        self.text.push_str(&finished.transcript());
    }

    /// Compares with `tests/<area>/snapshots/<name>.txt`; `CORACLE_TEST_UPDATE=1` writes it anew.
    #[track_caller]
    pub(crate) fn matches(&self, area: &str, name: &str) {
        let text = redact(&self.text, &self.home.path());
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{area}/snapshots/{name}.txt"));
        if std::env::var_os("CORACLE_TEST_UPDATE").is_some() {
            fs::create_dir_all(file.parent().expect("a snapshot has a directory")).expect("the tree is writable");
            fs::write(&file, text).expect("the tree is writable");
            return;
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        assert!(text == expected, "differs from {}:\n{}", file.display(), difference(&expected, &text));
    }
}

/// Full and short ids, the home and moments in time.
fn redact(text: &str, home: &Path) -> String {
    let text = text.replace(&*home.to_string_lossy(), "<HOME>");
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
            12 if hex => redacted.push_str("<SHORT-ID>"),
            _ => redacted.push_str(&word),
        }
        word.clear();
        if character != '\0' {
            redacted.push(character);
        }
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
