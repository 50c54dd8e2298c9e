//! Bytes as a Containerfile, an ignore file and a trigger. The parser belongs to a program, so its files are compiled here
//! once more.

#![cfg_attr(fuzzing, no_main)]
#![allow(dead_code, unused_imports, missing_docs)]

#[cfg(not(fuzzing))]
#[path = "../../storage/fuzz/fuzz_targets/plain.rs"]
mod plain;

#[path = "../../src/build/containerfile/mod.rs"]
mod containerfile;
#[path = "../../src/cli/parse/duration.rs"]
mod duration;
#[path = "../../src/build/ignore.rs"]
mod ignore;
#[path = "../../src/cli/parse/size.rs"]
mod size;

/// What a value on the command line is.
type Parsed<T> = Result<T, String>;

/// What the parser takes from there.
mod cli {
    pub(crate) mod parse {
        pub(crate) use crate::{duration, size};
    }
}

use containerfile::{Instruction, ParseError, Source, Step};
use ignore::Ignore;

fn value(name: &str) -> Option<String> {
    (name.len() % 2 == 1).then(|| format!("a/*b?{name}"))
}

fn expand(step: &Step, escape: char) {
    let words = match &step.instruction {
        Instruction::Copy(copy) => {
            let transfer = &copy.transfer;
            let mut words = vec![&transfer.destination];
            words.extend(transfer.sources.iter().filter_map(|source| match source {
                Source::Path(word) => Some(word),
                Source::Heredoc(heredoc) => {
                    let _ = heredoc.content(&value);
                    None
                }
            }));
            words
        }
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            pairs.iter().flat_map(|(name, value)| [name, value]).collect()
        }
        Instruction::Run(run) => {
            let _ = run.form();
            run.mounts.iter().for_each(|mount| drop(mount.expand(escape, &value)));
            Vec::new()
        }
        _ => Vec::new(),
    };
    words.into_iter().for_each(|word| drop(word.expand(escape, &value)));
}

fn check(error: &ParseError, lines: usize) {
    assert!(error.span.line as usize <= lines + 1, "line {} of {lines}: {}", error.span.line, error.message);
    assert!(!error.message.is_empty());
}

fn run(bytes: &[u8]) {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    match containerfile::parse_all(&[bytes]) {
        Ok(file) => {
            let escape = file.directives.escape;
            file.stages.iter().for_each(|stage| drop(stage.image.expand(escape, &value)));
            file.stages.iter().flat_map(|stage| &stage.steps).for_each(|step| expand(step, escape));
        }
        Err(error) => check(&error, lines),
    }
    if let Ok(ignore) = Ignore::parse(bytes) {
        for path in [b"a".as_slice(), b"a/b", b"a/b/c.log", b"\xff", b"..", b""] {
            let _ = ignore.verdict(path);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        for escape in ['\\', '`'] {
            match containerfile::parse_step(text, escape) {
                Ok(step) => expand(&step, escape),
                Err(error) => check(&error, lines),
            }
        }
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| run(bytes));

/// Random bytes are hardly ever a Containerfile: half of the inputs are pieces of the language instead.
#[cfg(not(fuzzing))]
fn pieces(bytes: &[u8]) {
    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "FROM a AS b\n", "FROM --platform=$P x\n", "RUN ", "RUN --mount=type=", "cache,target=/a,", "bind,from=b,rw,",
        "secret,id=x", "COPY ", "--from=", "--chown=1:2 ", "--chmod=u=rwX,", "ADD ", "--checksum=sha256:", "https://a/b.git#c:d ",
        "<<E", "<<-'E' ", "<<\"E\" ", "\nE\n", "E\n", "\tE\n", "ENV a=", "ENV a b", "LABEL ", "ARG x=", "ARG x", "ONBUILD ",
        "HEALTHCHECK --interval=1m ", "CMD [", "\"a\"", ", ", "]", "SHELL [\"a\"]\n", "${", "$x", "}", ":-", ":+", "#", "##",
        "%", "%%", "/", "//", "'", "\"", "\\", "\\\n", "`\n", "# syntax=a\n", "# escape=`\n", "# check=skip=all\n", "# c\n",
        "WORKDIR ", "EXPOSE 1-2/tcp ", "VOLUME [", "USER a:b\n", "STOPSIGNAL 9\n", "\u{feff}", "\r\n", " ", "\n", "é", "\0", "*?[a-",
    ];
    if bytes.len() % 2 == 0 {
        return run(bytes);
    }
    let text: String = bytes.iter().filter_map(|byte| PIECES.get(usize::from(*byte) % PIECES.len()).copied()).collect();
    let head = if bytes.first().is_some_and(|byte| byte % 3 == 0) { "" } else { "FROM a\n" };
    run(format!("{head}{text}").as_bytes());
}

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    plain::main(pieces)
}
