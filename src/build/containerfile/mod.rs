//! The Dockerfile language: from bytes to stages of typed instructions.
//!
//! Pure: no file is read, nothing is run, nothing outside of this module is used. What it accepts is what BuildKit's
//! Dockerfile frontend accepts (the reference at <https://docs.docker.com/reference/dockerfile/>), with errors that
//! point at the place and say what was expected there.
//!
//! ```text
//! bytes → directives → logical lines (continuations joined) → flags, arguments, heredocs → instructions → stages
//!        directive.rs  line.rs, text.rs                       flag.rs, heredoc.rs         parse.rs, mount.rs  mod.rs
//! ```
//! Variables are not expanded here: a [`Word`] keeps what was written until somebody knows the values, and then
//! [`Word::expand`] (`expand.rs`, `glob.rs`) does what BuildKit's shell lexer does.

/// The comment lines at the top that change how the rest is read.
mod directive;
/// Where something stands in the source, and what is wrong there.
mod error;
/// Expansion of variables, quotes and escapes.
mod expand;
/// The flags between an instruction's name and its arguments.
mod flag;
/// The patterns of `${v#pattern}`.
mod glob;
/// The words that announce heredocs, and what becomes of their bodies.
mod heredoc;
/// The instructions as values.
mod instruction;
/// From bytes to logical lines.
mod line;
/// What `RUN --mount` asks for.
mod mount;
/// The known name that is meant by one that is not.
mod nearest;
/// From a logical line to an instruction.
mod parse;
#[cfg(test)]
mod tests;
/// A logical line and pieces of it that know where they stand.
mod text;
/// A piece of text whose variables can be expanded.
mod word;

pub(crate) use error::{ExpandError, ParseError, Span, Warning};
pub(crate) use instruction::{
    Add, ArgDeclaration, Command, Containerfile, Copy, Instruction, Network, Run, RunForm, Security, Source, Stage,
    Step, Transfer,
};
pub(crate) use mount::{Mount, RunMount, Sharing};
pub(crate) use word::Word;

use line::Reader;
use parse::Parsed;

/// Reads a Dockerfile.
///
/// # Errors
/// The first [`ParseError`], with its place.
#[cfg(test)]
pub(crate) fn parse(source: &[u8]) -> Result<Containerfile, ParseError> {
    parse_all(&[source])
}

/// Reads several Dockerfiles as if they were one: the instructions of each follow those of the one before. Directives
/// are the first one's; another escape character in a later one is an error.
///
/// # Errors
/// The first [`ParseError`], with its place ([`Span::file`] counts the sources).
pub(crate) fn parse_all(sources: &[&[u8]]) -> Result<Containerfile, ParseError> {
    let mut out = Containerfile::default();
    let mut end = Span::default();
    for (file, source) in sources.iter().enumerate() {
        let mut reader = Reader::new(source, file as u16)?;
        if file == 0 {
            out.directives = reader.directives.clone();
        } else if reader.directives.escape != out.directives.escape {
            let message = "expected the same escape character as in the first file";
            return Err(ParseError::new(
                Span { file: file as u16, line: 1, column: 1, end_line: 1, end_column: 1 },
                message,
            ));
        }
        end = reader.end();
        while let Some(line) = reader.next_line()? {
            add(&mut out, parse::instruction(&line, &mut reader)?)?;
        }
        out.warnings.append(&mut reader.warnings);
    }
    if out.stages.is_empty() {
        let message = match out.global_args.is_empty() {
            true => "the file has no instructions: expected FROM",
            false => "the file has no stage: expected FROM after ARG",
        };
        return Err(ParseError::new(end, message));
    }
    out.warnings.sort_by_key(|warning| warning.span);
    Ok(out)
}

/// Reads an instruction that stands alone: what an image's config has under `OnBuild`.
///
/// # Errors
/// The [`ParseError`]; also for FROM, and for anything behind the instruction.
pub(crate) fn parse_step(source: &str, escape: char) -> Result<Step, ParseError> {
    let mut reader = Reader::new(source.as_bytes(), 0)?;
    reader.directives.escape = escape;
    let Some(line) = reader.next_line()? else {
        return Err(ParseError::new(Span::default(), "expected an instruction"));
    };
    let parsed = parse::instruction(&line, &mut reader)?;
    if let Some(more) = reader.next_line()? {
        return Err(ParseError::new(more.whole().span(), "expected one instruction only"));
    }
    match parsed {
        Parsed::Step(step) => Ok(*step),
        Parsed::From(stage) => Err(ParseError::new(stage.span, "FROM cannot stand alone")),
    }
}

fn add(out: &mut Containerfile, parsed: Parsed) -> Result<(), ParseError> {
    let step = match parsed {
        Parsed::From(stage) => {
            out.stages.push(*stage);
            return Ok(());
        }
        Parsed::Step(step) => *step,
    };
    match (out.stages.last_mut(), step) {
        (None, Step { instruction: Instruction::Arg(mut args), .. }) => out.global_args.append(&mut args),
        (Some(stage), step) => stage.steps.push(step),
        (None, step) => {
            let name = step.original.split_whitespace().next().unwrap_or_default();
            let message = format!("no build stage in current context: expected FROM or ARG before {name}");
            return Err(ParseError::new(step.span, message));
        }
    }
    Ok(())
}
