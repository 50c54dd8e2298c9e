//! Whole conversations, word for word: one file per command in `transcripts/`, see `support/transcript.rs`.
//!
//! Each is checked against itself on every machine. Where there is a podman (`$PODMAN`, or from PATH), the same lines go
//! to it, and stdout, stderr and status must be equal: what is not is listed with its reason in
//! `transcripts/differences.txt`, and what is listed must differ.

use crate::support::peer::Podman;
use crate::support::prelude::*;
use crate::support::transcript::{self, Answer, Script, difference};

/// A pair of tests for each file.
macro_rules! transcripts {
    ($($name:ident)*) => {
        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];

        mod own {
            use super::*;
            $(pub(super) fn $name(home: &Home) {
                Script::read(stringify!($name)).check(home);
            })*
            pub(super) const TESTS: &[Test] = &[$(test!($name).limit_secs(120)),*];
        }

        mod podman {
            use super::*;
            $(pub(super) fn $name(home: &Home) {
                super::compare(stringify!($name), home);
            })*
            pub(super) const TESTS: &[Test] = &[$(test!($name).needs(&[Need::Podman]).limit_secs(300)),*];
        }
    };
}

transcripts! {
    commit container cp create diff events exec export history images info inspect kill life list load logs mistakes
    mount network pause pod port ps rename restart rm rmi run save secret start stats stop system tag top version volume wait
}

const LISTS: &[Test] = &[test!(every_transcript_is_a_test), test!(every_difference_is_of_a_transcript)];

pub(crate) fn tests() -> Vec<Test> {
    [LISTS, own::TESTS, podman::TESTS].concat()
}

fn every_transcript_is_a_test(_: &Home) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/transcripts");
    for file in crate::support::home::entries(dir.as_ref()) {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap().to_owned();
        assert!(name == "differences" || SCRIPTS.contains(&name.as_str()), "{} is not run", file.display());
    }
}

fn every_difference_is_of_a_transcript(_: &Home) {
    for (name, line, reason) in differences() {
        assert!(SCRIPTS.contains(&name), "no transcript {name}");
        assert!(Script::read(name).lines().any(|one| one == line), "{name}: nobody says {line}");
        assert!(!reason.is_empty(), "{name}: {line}: why?");
    }
}

/// Transcript, line, reason.
fn differences() -> Vec<(&'static str, &'static str, &'static str)> {
    let text = include_str!("transcripts/differences.txt");
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut differences = Vec::new();
    while let Some(line) = lines.next() {
        let (name, line) = line.split_once(": $ ").unwrap_or_else(|| panic!("no TRANSCRIPT: $ COMMAND: {line}"));
        differences.push((name, line, lines.next().unwrap_or_default().trim()));
    }
    differences
}

fn compare(name: &str, home: &Home) {
    let podman = Podman::new(home);
    let listed: Vec<_> = differences().into_iter().filter(|(of, ..)| *of == name).map(|(_, line, _)| line).collect();
    let mut found = String::new();
    for line in Script::read(name).lines() {
        let ours = Answer::of(&transcript::run(home, line)).to_comparable(home);
        let Some(rest) = line.strip_prefix("coracle ") else { continue };
        let (code, stdout, stderr) = podman.run(rest);
        let theirs = Answer { code, stdout, stderr }.to_comparable(home);
        match (ours == theirs, listed.contains(&line)) {
            (true, false) | (false, true) => {}
            (true, true) => found += &format!("$ {line}\nis listed, and is the same\n\n"),
            (false, false) => found += &format!("$ {line}\n(- podman, + coracle) {}\n", difference(&theirs, &ours)),
        }
    }
    assert!(found.is_empty(), "\n{found}");
}
