//! From a logical line to an instruction.

use std::time::Duration;

use super::error::{ParseError, Span, Warning};
use super::flag::{self, Flags, Known, truth, value, values};
use super::heredoc;
use super::instruction::{
    Add, ArgDeclaration, Command, Copy, Healthcheck, Heredoc, Instruction, Network, Run, Security, Source, Stage, Step,
    Transfer,
};
use super::line::Reader;
use super::mount::RunMount;
use super::nearest::nearest;
use super::text::{Logical, Text};
use super::word::Word;
use crate::cli::parse::duration::go_duration;

/// What a line is.
pub(super) enum Parsed {
    /// FROM: what follows belongs to it.
    From(Box<Stage>),
    /// Anything else.
    Step(Box<Step>),
}

/// Every instruction.
const NAMES: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads the instruction on a line, and from `reader` the heredocs that it announces.
pub(super) fn instruction(line: &Logical, reader: &mut Reader<'_>) -> Result<Parsed, ParseError> {
    let line = line.whole().trim();
    let openings = if may_open_heredocs(line) { heredoc::openings(line) } else { Vec::new() };
    let heredocs = reader.heredocs(openings)?;
    let escape = reader.directives.escape;
    Statement::read(line, heredocs, escape, &mut reader.warnings)?.parse()
}

/// COPY, ADD and RUN, also in ONBUILD, unless their arguments are a JSON array.
fn may_open_heredocs(line: Text<'_>) -> bool {
    let (name, rest) = line.split_word();
    match name.as_str().to_ascii_uppercase().as_str() {
        "ONBUILD" => may_open_heredocs(flag::split(rest).1),
        "RUN" | "COPY" | "ADD" => !matches!(json(flag::split(rest).1), Ok(Some(_))),
        _ => false,
    }
}

/// A line in its parts.
struct Statement<'a> {
    line: Text<'a>,
    /// The instruction's name as written.
    written: Text<'a>,
    /// The name in upper case.
    name: String,
    flags: Flags<'a>,
    arguments: Text<'a>,
    heredocs: Vec<Heredoc>,
    escape: char,
    warnings: &'a mut Vec<Warning>,
}

impl<'a> Statement<'a> {
    fn read(
        line: Text<'a>,
        heredocs: Vec<Heredoc>,
        escape: char,
        warnings: &'a mut Vec<Warning>,
    ) -> Result<Self, ParseError> {
        let (written, rest) = line.split_word();
        let name = written.as_str().to_ascii_uppercase();
        if !NAMES.contains(&name.as_str()) {
            let message = format!("unknown instruction: {}", written.as_str());
            let meant = nearest(&name, NAMES.iter().copied()).map(|meant| format!("did you mean {meant}?"));
            return Err(ParseError::new(written.span(), message).maybe_hinted(meant));
        }
        let (flags, arguments) = flag::split(rest);
        Ok(Statement { line, written, name, flags, arguments, heredocs, escape, warnings })
    }

    fn parse(mut self) -> Result<Parsed, ParseError> {
        // Heredocs are part of it, and soon given away.
        let span = self.heredocs.last().map_or(self.line.span(), |last| self.line.span().to(last.span));
        let instruction = match self.name.as_str() {
            "FROM" => return self.from().map(|stage| Parsed::From(Box::new(stage))),
            "RUN" => Instruction::Run(self.run()?),
            "COPY" => Instruction::Copy(self.copy()?),
            "ADD" => Instruction::Add(self.add()?),
            "ENV" => Instruction::Env(self.pairs()?),
            "LABEL" => Instruction::Label(self.pairs()?),
            "ARG" => Instruction::Arg(self.arg()?),
            "USER" => Instruction::User(self.single()?),
            "WORKDIR" => Instruction::Workdir(self.single()?),
            "STOPSIGNAL" => Instruction::StopSignal(self.single()?),
            "EXPOSE" => Instruction::Expose(self.list(false)?),
            "VOLUME" => Instruction::Volume(self.list(true)?),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command()?),
            "CMD" => Instruction::Cmd(self.command()?),
            "SHELL" => Instruction::Shell(self.shell()?),
            "HEALTHCHECK" => Instruction::Healthcheck(self.healthcheck()?),
            "ONBUILD" => Instruction::OnBuild(Box::new(self.on_build()?)),
            _ => Instruction::Maintainer(self.maintainer()?),
        };
        Ok(Parsed::Step(Box::new(Step { span, original: self.line.as_str().to_owned(), instruction })))
    }

    /// Where an argument is missing.
    fn missing(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.line.span(), message)
    }

    fn flags(&mut self, known: &[Known]) -> Result<(), ParseError> {
        let flags = std::mem::replace(&mut self.flags, flag::split(self.line.slice(0, 0)).0);
        self.flags = flags.check(&self.name, known)?;
        Ok(())
    }

    fn warn(&mut self, span: Span, rule: &'static str, message: String) {
        self.warnings.push(Warning { span, rule, message });
    }

    fn from(&mut self) -> Result<Stage, ParseError> {
        self.flags(&[value("platform")])?;
        let words = self.arguments.split_blanks();
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, keyword, name] if keyword.as_str().eq_ignore_ascii_case("as") => (image, Some((*keyword, *name))),
            [image, tag] if image.as_str().ends_with(':') => {
                let meant = format!("did you mean FROM {}{}?", image.as_str(), tag.as_str());
                return Err(ParseError::new(tag.span(), FROM_ARGUMENTS).hinted(meant));
            }
            [] => return Err(self.missing(FROM_ARGUMENTS)),
            [_, rest @ ..] => {
                let span = rest.iter().fold(rest[0].span(), |span, word| span.to(word.span()));
                return Err(ParseError::new(span, FROM_ARGUMENTS).hinted("expected FROM IMAGE or FROM IMAGE AS NAME"));
            }
        };
        let image = image.to_word();
        let name = name.map(|(keyword, name)| self.stage_name(keyword, name)).transpose()?;
        Ok(Stage {
            image,
            platform: self.flags.value("platform"),
            name,
            span: self.line.span(),
            original: self.line.as_str().to_owned(),
            steps: Vec::new(),
        })
    }

    fn stage_name(&mut self, keyword: Text<'_>, name: Text<'_>) -> Result<String, ParseError> {
        let is_lower = |text: &str| text == text.to_lowercase();
        if is_lower(keyword.as_str()) != is_lower(self.written.as_str()) {
            let message =
                format!("'{}' and '{}' keywords' casing do not match", keyword.as_str(), self.written.as_str());
            self.warn(keyword.span(), "FromAsCasing", message);
        }
        let written = name.as_str();
        let lower = written.to_lowercase();
        if lower != written {
            let message = format!("Stage name '{written}' should be lowercase");
            self.warn(name.span(), "StageNameCasing", message);
        }
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if !lower.starts_with(|c: char| c.is_ascii_lowercase()) || !lower.chars().all(is_allowed) {
            let message = format!(
                "invalid name for build stage: {written:?}: expected a letter, then letters, digits, '-', '_' and '.'"
            );
            return Err(ParseError::new(name.span(), message));
        }
        Ok(lower)
    }

    fn run(&mut self) -> Result<Run, ParseError> {
        self.flags(&[values("mount"), value("network"), value("security"), values("device")])?;
        if self.arguments.is_empty() {
            return Err(self.missing("RUN requires at least one argument"));
        }
        let mounts = self
            .flags
            .written("mount")
            .filter_map(|(value, at)| Some(RunMount::parse(value?, at)))
            .collect::<Result<_, _>>()?;
        let network = match self.flags.value("network") {
            None => Network::default(),
            Some(word) => match word.raw.as_str() {
                "default" => Network::Default,
                "none" => Network::None,
                "host" => Network::Host,
                other => return Err(choice(&word, "network", other, "default, none or host")),
            },
        };
        let security = match self.flags.value("security") {
            None => Security::default(),
            Some(word) => match word.raw.as_str() {
                "sandbox" => Security::Sandbox,
                "insecure" => Security::Insecure,
                other => return Err(choice(&word, "security", other, "sandbox or insecure")),
            },
        };
        let devices = self.flags.values("device").collect();
        let command = self.shell_or_exec(self.arguments)?;
        Ok(Run { command, mounts, network, security, devices, heredocs: std::mem::take(&mut self.heredocs) })
    }

    fn shell_or_exec(&self, arguments: Text<'_>) -> Result<Command, ParseError> {
        Ok(match json(arguments)? {
            Some(words) => Command::Exec(words),
            None => Command::Shell(arguments.as_str().to_owned()),
        })
    }

    fn command(&mut self) -> Result<Command, ParseError> {
        self.flags(&[])?;
        self.shell_or_exec(self.arguments)
    }

    fn shell(&mut self) -> Result<Vec<String>, ParseError> {
        self.flags(&[])?;
        match json(self.arguments)? {
            Some(words) if !words.is_empty() => Ok(words),
            Some(_) => Err(self.missing("SHELL requires at least one argument")),
            None => Err(self
                .missing("SHELL requires the arguments to be in JSON form")
                .hinted("expected SHELL [\"/bin/sh\", \"-c\"]")),
        }
    }

    fn copy(&mut self) -> Result<Copy, ParseError> {
        self.flags(&[
            value("chown"),
            value("from"),
            value("chmod"),
            truth("link"),
            truth("parents"),
            values("exclude"),
        ])?;
        let from = self.flags.value("from");
        if let Some(from) = from.as_ref().filter(|from| from.raw.is_empty()) {
            return Err(ParseError::new(
                from.span,
                "flag --from needs a value: expected a stage, an image or a context",
            ));
        }
        let parents = self.flags.truth("parents").unwrap_or(false);
        Ok(Copy { transfer: self.transfer()?, from, parents })
    }

    fn add(&mut self) -> Result<Add, ParseError> {
        self.flags(&[
            value("chown"),
            value("chmod"),
            truth("link"),
            truth("keep-git-dir"),
            value("checksum"),
            truth("unpack"),
            values("exclude"),
        ])?;
        let (checksum, flags) = (self.flags.value("checksum"), &self.flags);
        let (keep_git_dir, unpack) = (flags.truth("keep-git-dir"), flags.truth("unpack"));
        Ok(Add { transfer: self.transfer()?, checksum, keep_git_dir, unpack })
    }

    fn transfer(&mut self) -> Result<Transfer, ParseError> {
        let mut words: Vec<Word> = match json(self.arguments)? {
            Some(words) => words.into_iter().map(|word| self.arguments.with_raw(word)).collect(),
            None if self.heredocs.is_empty() => self.arguments.split_blanks().into_iter().map(Text::to_word).collect(),
            None => heredoc::words(self.arguments).into_iter().map(Text::to_word).collect(),
        };
        let name = &self.name;
        let destination = match words.pop() {
            Some(destination) if !words.is_empty() => destination,
            Some(_) => {
                let message = format!("{name} requires at least two arguments, but only one was provided");
                return Err(self.missing(message).hinted(format!("expected {name} SOURCE... DESTINATION")));
            }
            None => {
                let message = format!("{name} requires at least two arguments");
                return Err(self.missing(message).hinted(format!("expected {name} SOURCE... DESTINATION")));
            }
        };
        let mut heredocs = std::mem::take(&mut self.heredocs).into_iter();
        if heredocs.len() > 0 && heredoc::opening(&destination.raw).is_some() {
            let message = format!("{name} cannot accept a heredoc as a destination");
            return Err(ParseError::new(destination.span, message).hinted("put the destination behind it"));
        }
        let sources = words
            .into_iter()
            .map(|word| match heredoc::opening(&word.raw).and_then(|_| heredocs.next()) {
                Some(heredoc) => Source::Heredoc(heredoc),
                None => Source::Path(word),
            })
            .collect();
        Ok(Transfer {
            sources,
            destination,
            chown: self.flags.value("chown"),
            chmod: self.flags.value("chmod"),
            link: self.flags.truth("link").unwrap_or(false),
            excludes: self.flags.values("exclude").collect(),
        })
    }

    /// `name=value ...`, or in the old form one name and the rest of the line.
    fn pairs(&mut self) -> Result<Vec<(Word, Word)>, ParseError> {
        self.flags(&[])?;
        let name = self.name.clone();
        let words = self.arguments.split_quoted(self.escape);
        let Some(first) = words.first() else {
            return Err(self
                .missing(format!("{name} requires at least one argument"))
                .hinted(format!("expected {name} NAME=VALUE...")));
        };
        if !first.as_str().contains('=') {
            let (key, value) = self.arguments.split_word();
            if value.is_empty() {
                return Err(ParseError::new(key.span(), format!("{name} must have two arguments"))
                    .hinted(format!("expected {name} {}=VALUE", key.as_str())));
            }
            let message = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            self.warn(self.line.span(), "LegacyKeyValueFormat", message);
            return Ok(vec![(key.to_word(), value.to_word())]);
        }
        words.into_iter().map(|word| self.pair(word)).collect()
    }

    fn pair(&self, word: Text<'_>) -> Result<(Word, Word), ParseError> {
        let name = &self.name;
        let Some(at) = word.as_str().find('=') else {
            let message = format!("can't find = in {:?}: expected {name} NAME=VALUE...", word.as_str());
            return Err(ParseError::new(word.span(), message).hinted("put a value with spaces in quotes"));
        };
        if at == 0 {
            return Err(ParseError::new(
                word.span(),
                format!("{name} names can not be blank: expected a name before ="),
            ));
        }
        Ok((word.slice(0, at).to_word(), word.from(at + 1).to_word()))
    }

    fn arg(&mut self) -> Result<Vec<ArgDeclaration>, ParseError> {
        self.flags(&[])?;
        let words = self.arguments.split_quoted(self.escape);
        if words.is_empty() {
            return Err(self.missing("ARG requires at least one argument").hinted("expected ARG NAME[=DEFAULT]..."));
        }
        let declared = words.into_iter().map(|word| match word.as_str().contains('=') {
            true => self.pair(word).map(|(name, default)| ArgDeclaration { name, default: Some(default) }),
            false => Ok(ArgDeclaration { name: word.to_word(), default: None }),
        });
        declared.collect()
    }

    /// All of the line as one argument.
    fn single(&mut self) -> Result<Word, ParseError> {
        self.flags(&[])?;
        if self.arguments.is_empty() {
            return Err(self.missing(format!("{} requires exactly one argument", self.name)));
        }
        Ok(self.arguments.to_word())
    }

    fn maintainer(&mut self) -> Result<String, ParseError> {
        let name = self.single()?.raw;
        let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
        self.warn(self.line.span(), "MaintainerDeprecated", message);
        Ok(name)
    }

    /// Arguments between white space, or as a JSON array if the instruction allows that.
    fn list(&mut self, may_be_json: bool) -> Result<Vec<Word>, ParseError> {
        self.flags(&[])?;
        let name = self.name.clone();
        let words = if may_be_json { json(self.arguments)? } else { None };
        let words: Vec<Word> = match words {
            Some(words) => words.iter().map(|word| self.arguments.with_raw(word.trim())).collect(),
            None => self.arguments.split_blanks().into_iter().map(Text::to_word).collect(),
        };
        match words.iter().find(|word| word.raw.is_empty()) {
            Some(empty) => Err(ParseError::new(
                empty.span,
                format!("{name} specified can not be an empty string: expected a path"),
            )),
            None if words.is_empty() => Err(self.missing(format!("{name} requires at least one argument"))),
            None => Ok(words),
        }
    }

    fn healthcheck(&mut self) -> Result<Healthcheck, ParseError> {
        let (kind, rest) = self.arguments.split_word();
        match kind.as_str().to_ascii_uppercase().as_str() {
            "" => Err(self
                .missing("HEALTHCHECK requires at least one argument")
                .hinted("expected HEALTHCHECK [OPTIONS] CMD COMMAND or HEALTHCHECK NONE")),
            "NONE" if rest.is_empty() => Ok(Healthcheck::None),
            "NONE" => Err(ParseError::new(rest.span(), "HEALTHCHECK NONE takes no arguments")),
            "CMD" => self.check(rest),
            other => {
                let message = format!("unknown type {other:?} in HEALTHCHECK: expected CMD or NONE");
                Err(ParseError::new(kind.span(), message))
            }
        }
    }

    fn check(&mut self, rest: Text<'_>) -> Result<Healthcheck, ParseError> {
        self.flags(&[
            value("interval"),
            value("timeout"),
            value("start-period"),
            value("start-interval"),
            value("retries"),
        ])?;
        let command = self.shell_or_exec(rest)?;
        if matches!(&command, Command::Shell(line) if line.is_empty())
            || matches!(&command, Command::Exec(words) if words.is_empty())
        {
            return Err(self.missing("missing command after HEALTHCHECK CMD"));
        }
        let retries = match self.flags.value("retries").filter(|word| !word.raw.is_empty()) {
            None => None,
            Some(word) => match word.raw.parse::<i32>() {
                Ok(retries) if retries >= 0 => Some(retries as u32).filter(|retries| *retries > 0),
                _ => return Err(choice(&word, "retries", &word.raw, "a number, 0 or more")),
            },
        };
        Ok(Healthcheck::Check {
            command,
            interval: self.interval("interval")?,
            timeout: self.interval("timeout")?,
            start_period: self.interval("start-period")?,
            start_interval: self.interval("start-interval")?,
            retries,
        })
    }

    fn interval(&self, name: &str) -> Result<Option<Duration>, ParseError> {
        let Some(word) = self.flags.value(name).filter(|word| !word.raw.is_empty()) else { return Ok(None) };
        match go_duration(&word.raw) {
            None => Err(choice(&word, name, &word.raw, "a duration such as 1m30s")),
            Some(Duration::ZERO) => Ok(None),
            Some(short) if short < Duration::from_millis(1) => Err(choice(&word, name, &word.raw, "1ms or more")),
            Some(duration) => Ok(Some(duration)),
        }
    }

    fn on_build(&mut self) -> Result<Step, ParseError> {
        self.flags(&[])?;
        let (name, _) = self.arguments.split_word();
        match name.as_str().to_ascii_uppercase().as_str() {
            "" => {
                return Err(self
                    .missing("ONBUILD requires at least one argument")
                    .hinted("expected ONBUILD INSTRUCTION"));
            }
            "ONBUILD" => {
                return Err(ParseError::new(name.span(), "chaining ONBUILD via ONBUILD ONBUILD isn't allowed"));
            }
            trigger @ ("FROM" | "MAINTAINER") => {
                return Err(ParseError::new(name.span(), format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        let bodies: String = self.heredocs.iter().map(|heredoc| format!("\n{}{}", heredoc.raw, heredoc.name)).collect();
        let heredocs = self.heredocs.clone();
        match Statement::read(self.arguments, heredocs, self.escape, self.warnings)?.parse()? {
            Parsed::Step(mut step) => {
                step.original.push_str(&bodies);
                Ok(*step)
            }
            Parsed::From(stage) => Err(ParseError::new(stage.span, "FROM isn't allowed as an ONBUILD trigger")),
        }
    }
}

const FROM_ARGUMENTS: &str = "FROM requires either one or three arguments";

/// A flag whose value is not among those that it takes.
fn choice(word: &Word, flag: &str, value: &str, expected: &str) -> ParseError {
    ParseError::new(word.span, format!("invalid value {value:?} of flag --{flag}: expected {expected}"))
}

/// The strings of a JSON array; `None` for anything that is not a JSON array, which is for the shell then.
fn json(text: Text<'_>) -> Result<Option<Vec<String>>, ParseError> {
    if !text.as_str().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text.as_str()) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(string) => Some(string),
        _ => None,
    });
    match strings.collect() {
        Some(strings) => Ok(Some(strings)),
        None => {
            Err(ParseError::new(text.span(), "when using JSON array syntax, arrays must be comprised of strings only"))
        }
    }
}
