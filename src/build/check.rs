//! `build --check`: what is accepted, but hardly meant. The rules, their names and their words are BuildKit's checks.
//!
//! Pure. Some are noticed while a file is read (`FromAsCasing`, `StageNameCasing`, `NoEmptyContinuation`,
//! `LegacyKeyValueFormat`, `MaintainerDeprecated`: [`Containerfile::warnings`]); the others are found here. Not here:
//! `InvalidBaseImagePlatform`, which needs the image, and `InvalidDefinitionDescription`, which is experimental.

use std::collections::HashSet;

use super::containerfile::{
    ArgDeclaration, Command, Containerfile, Instruction, ParseError, Source, Span, Stage, Step, Transfer, Warning, Word,
};
use super::ignore::{Ignore, Verdict};

/// Names that FROM lines have without an ARG.
const PLATFORM_ARGS: &[&str] = &[
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// What `# check=` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    skip: HashSet<String>,
    skip_all: bool,
    /// `error=true`: warnings fail the build.
    pub(crate) is_error: bool,
}

impl Options {
    /// Reads `skip=A,B;error=true`.
    ///
    /// # Errors
    /// An option that is none, or a value that it does not take.
    pub(crate) fn parse(check: &Word) -> Result<Options, ParseError> {
        let error = |message: String| ParseError::new(check.span, message);
        let mut options = Options::default();
        for part in check.raw.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("skip", "all")) => options.skip_all = true,
                Some(("skip", rules)) => options.skip.extend(rules.split(',').map(|rule| rule.trim().to_owned())),
                Some(("error", "true" | "1" | "t")) => options.is_error = true,
                Some(("error", "false" | "0" | "f")) => options.is_error = false,
                Some(("error", other)) => {
                    return Err(error(format!("invalid value {other:?}: expected true or false")));
                }
                // A rule that BuildKit calls experimental and we always run or never.
                Some(("experimental", _)) => {}
                _ => return Err(error(format!("invalid check option {part:?}: expected skip=RULE,... or error=true"))),
            }
        }
        Ok(options)
    }
}

/// What is known besides the file.
#[derive(Default)]
pub(crate) struct Surroundings<'a> {
    /// The context's `.dockerignore`.
    pub(crate) ignore: Option<&'a Ignore>,
    /// The names of `--build-arg`.
    pub(crate) build_args: &'a [String],
}

/// Everything that is noticed in a file, in the order of its lines, without what its `# check=` skips.
///
/// # Errors
/// A malformed `# check=`.
pub(crate) fn check(file: &Containerfile, around: &Surroundings<'_>) -> Result<(Vec<Warning>, Options), ParseError> {
    let options = file.directives.check.as_ref().map(Options::parse).transpose()?.unwrap_or_default();
    let mut found = Findings { file, warnings: file.warnings.clone() };
    found.casing();
    found.stages();
    for (index, stage) in file.stages.iter().enumerate() {
        found.base(stage);
        found.repeated(stage);
        found.steps(index, stage, around);
    }
    let mut warnings = found.warnings;
    warnings.retain(|warning| !options.skip_all && !options.skip.contains(warning.rule));
    warnings.sort_by_key(|warning| warning.span);
    Ok((warnings, options))
}

/// What `--check` prints: each warning with its lines. `files` are the Dockerfiles with their names.
pub(crate) fn report(warnings: &[Warning], files: &[(String, Vec<u8>)]) -> String {
    let mut out = match warnings.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in warnings {
        let Warning { span, rule, message } = warning;
        let page = page(rule);
        out.push_str(&format!("\nWARNING: {rule} - https://docs.docker.com/go/dockerfile/rule/{page}/\n{message}\n"));
        let Some((name, source)) = files.get(usize::from(span.file)) else { continue };
        out.push_str(&place(name, source, (span.line as usize, span.end_line as usize)));
    }
    out
}

/// Lines of a file, and two around them, as BuildKit shows them.
pub(crate) fn place(name: &str, source: &[u8], (first, last): (usize, usize)) -> String {
    let ruler = "-".repeat(20);
    let mut out = format!("{name}:{first}\n{ruler}\n");
    let text = String::from_utf8_lossy(source);
    for (index, line) in text.lines().enumerate().skip(first.saturating_sub(3)).take(last + 5 - first.min(3)) {
        let number = index + 1;
        if number > last + 2 {
            break;
        }
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let line: String = line.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        out.push_str(&format!("{number:>4} | {mark} {line}\n"));
    }
    out + &ruler + "\n"
}

/// What a build says at its end, as BuildKit does.
pub(crate) fn summary(warnings: &[Warning]) -> String {
    let mut out = match warnings.len() {
        0 => return String::new(),
        1 => "\n 1 warning found (use --check to expand):\n".to_owned(),
        count => format!("\n {count} warnings found (use --check to expand):\n"),
    };
    for Warning { span, rule, message } in warnings {
        out.push_str(&format!(" - {rule}: {message} (line {})\n", span.line));
    }
    out
}

/// The name of a rule's page: `JSONArgsRecommended` is `json-args-recommended`.
fn page(rule: &str) -> String {
    let chars: Vec<char> = rule.chars().collect();
    let mut out = String::new();
    for (index, c) in chars.iter().enumerate() {
        let is_upper = |at: usize| chars.get(at).is_some_and(char::is_ascii_uppercase);
        // A word begins at a capital after a small letter, and at the last of several capitals.
        let begins = c.is_ascii_uppercase()
            && index > 0
            && (!is_upper(index - 1) || (index + 1 < chars.len() && !is_upper(index + 1)));
        if begins {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

struct Findings<'a> {
    file: &'a Containerfile,
    warnings: Vec<Warning>,
}

impl Findings<'_> {
    fn warn(&mut self, span: Span, rule: &'static str, message: String) {
        self.warnings.push(Warning { span, rule, message });
    }

    /// All names in one case: that of most of them.
    fn casing(&mut self) {
        let first = |original: &str| original.split_whitespace().next().unwrap_or_default().to_owned();
        let mut names: Vec<(Span, String)> = Vec::new();
        for stage in &self.file.stages {
            names.push((stage.span, first(&stage.original)));
            names.extend(stage.steps.iter().map(|step| (step.span, first(&step.original))));
        }
        let is_lower = |name: &str| name == name.to_lowercase();
        let is_upper = |name: &str| name == name.to_uppercase();
        let lower = names.iter().filter(|(_, name)| is_lower(name)).count();
        let upper = names.iter().filter(|(_, name)| is_upper(name)).count();
        for (span, name) in names {
            let (is_right, wanted) =
                if lower > upper { (is_lower(&name), "lowercase") } else { (is_upper(&name), "uppercase") };
            if !is_right {
                let message = format!("Command '{name}' should match the case of the command majority ({wanted})");
                self.warn(span, "ConsistentInstructionCasing", message);
            }
        }
    }

    /// Names of stages.
    fn stages(&mut self) {
        let mut known = HashSet::new();
        for stage in &self.file.stages {
            let Some(name) = stage.name.as_deref() else { continue };
            if matches!(name, "context" | "scratch") {
                let message = format!("Stage name should not use the same name as reserved stage {name:?}");
                self.warn(stage.span, "ReservedStageName", message);
            }
            if !known.insert(name) {
                let message = format!("Duplicate stage name {name:?}, stage names should be unique");
                self.warn(stage.span, "DuplicateStageName", message);
            }
        }
    }

    /// FROM.
    fn base(&mut self, stage: &Stage) {
        let escape = self.file.directives.escape;
        let declared = |name: &str| self.file.global_args.iter().rev().find(|arg| arg.name.raw == name);
        let is_known = |name: &str| (declared(name).is_some() || PLATFORM_ARGS.contains(&name)).then(|| "x".to_owned());
        let default = |name: &str| {
            let default = declared(name)?.default.as_ref()?;
            default.expand(escape, &|_| None).ok()
        };
        let undefined: Vec<_> = [Some(&stage.image), stage.platform.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|word| word.undefined(escape, &is_known))
            .collect();
        let with_defaults = stage.image.expand(escape, &|name| {
            if PLATFORM_ARGS.contains(&name) { Some("linux".to_owned()) } else { default(name) }
        });
        let is_invalid = undefined.is_empty()
            && stage.image.has_variable()
            && with_defaults.is_ok_and(|image| !is_image_name(&image));
        for name in undefined {
            self.warn(stage.span, "UndefinedArgInFrom", format!("FROM argument '{name}' is not declared"));
        }
        if is_invalid {
            let message =
                format!("Default value for ARG {} results in empty or invalid base image name", stage.image.raw);
            self.warn(stage.span, "InvalidDefaultArgInFrom", message);
        }
        let Some(platform) = &stage.platform else { return };
        match platform.raw.as_str() {
            written @ ("$TARGETPLATFORM" | "${TARGETPLATFORM}") => {
                let message = format!(
                    "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
                );
                self.warn(stage.span, "RedundantTargetPlatform", message);
            }
            constant if !platform.has_variable() => {
                // Stages that are named after their platform are chosen by it.
                let architecture = constant.split('/').nth(1).unwrap_or(constant);
                let is_chosen =
                    stage.name.as_deref().is_some_and(|name| name.contains(architecture) || name.contains(constant));
                if !is_chosen {
                    let message = format!("FROM --platform flag should not use constant value {constant:?}");
                    self.warn(stage.span, "FromPlatformFlagConstDisallowed", message);
                }
            }
            _ => {}
        }
    }

    /// Of some instructions only the last one counts.
    fn repeated(&mut self, stage: &Stage) {
        let kind = |step: &Step| match step.instruction {
            Instruction::Cmd(_) => Some("CMD"),
            Instruction::Entrypoint(_) => Some("ENTRYPOINT"),
            Instruction::Healthcheck(_) => Some("HEALTHCHECK"),
            _ => None,
        };
        for (index, step) in stage.steps.iter().enumerate() {
            let Some(name) = kind(step) else { continue };
            if stage.steps[index + 1..].iter().any(|later| kind(later) == Some(name)) {
                let message = format!(
                    "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
                );
                self.warn(step.span, "MultipleInstructionsDisallowed", message);
            }
        }
    }

    fn steps(&mut self, index: usize, stage: &Stage, around: &Surroundings<'_>) {
        let mut scope = Scope::at(self.file, index, around.build_args);
        let has_shell = stage.steps.iter().any(|step| matches!(step.instruction, Instruction::Shell(_)));
        for step in &stage.steps {
            self.variables(step, &scope);
            match &step.instruction {
                Instruction::Cmd(Command::Shell(line)) if !line.is_empty() && !has_shell => self.json(step, "CMD"),
                Instruction::Entrypoint(Command::Shell(line)) if !line.is_empty() && !has_shell => {
                    self.json(step, "ENTRYPOINT");
                }
                Instruction::Env(pairs) => pairs.iter().for_each(|(name, _)| self.secret(step, "ENV", &name.raw)),
                Instruction::Arg(args) => args.iter().for_each(|arg| self.secret(step, "ARG", &arg.name.raw)),
                Instruction::Expose(ports) => ports.iter().for_each(|port| self.port(step, port)),
                Instruction::Workdir(path) => self.workdir(step, path, &mut scope),
                Instruction::Copy(copy) if copy.from.is_none() => {
                    self.ignored(step, "Copy", &copy.transfer, around.ignore);
                }
                Instruction::Add(add) => self.ignored(step, "Add", &add.transfer, around.ignore),
                _ => {}
            }
            scope.after(step);
        }
    }

    fn variables(&mut self, step: &Step, scope: &Scope) {
        let mut names: Vec<String> = Vec::new();
        for word in words(&step.instruction) {
            for name in word.undefined(self.file.directives.escape, &|name| scope.has(name).then(|| "x".to_owned())) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        for name in names {
            let meant = scope.nearest(&name).map(|meant| format!(" (did you mean ${meant}?)")).unwrap_or_default();
            self.warn(step.span, "UndefinedVar", format!("Usage of undefined variable '${name}'{meant}"));
        }
    }

    fn json(&mut self, step: &Step, name: &str) {
        let message =
            format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals");
        self.warn(step.span, "JSONArgsRecommended", message);
    }

    fn secret(&mut self, step: &Step, instruction: &str, name: &str) {
        const SECRET: &[&str] =
            &["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
        let lower = name.to_lowercase();
        let mut parts = lower.split('_');
        let is_public = lower.split('_').any(|part| matches!(part, "public" | "file" | "version"));
        if parts.any(|part| SECRET.contains(&part)) && !is_public {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
            self.warn(step.span, "SecretsUsedInArgOrEnv", message);
        }
    }

    fn port(&mut self, step: &Step, port: &Word) {
        if port.has_variable() {
            return;
        }
        let text = port.raw.as_str();
        if text.contains(':') {
            let message =
                format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'");
            self.warn(step.span, "ExposeInvalidFormat", message);
        }
        if text.split_once('/').is_some_and(|(_, protocol)| protocol != protocol.to_lowercase()) {
            let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            self.warn(step.span, "ExposeProtoCasing", message);
        }
    }

    fn workdir(&mut self, step: &Step, path: &Word, scope: &mut Scope) {
        let text = path.raw.trim_matches(['"', '\'']);
        if text.starts_with(['/', '$']) {
            scope.has_absolute_workdir = true;
        } else if !scope.has_absolute_workdir {
            let message = format!("Relative workdir {text:?} can have unexpected results if the base image changes");
            self.warn(step.span, "WorkdirRelativePath", message);
        }
    }

    fn ignored(&mut self, step: &Step, verb: &str, transfer: &Transfer, ignore: Option<&Ignore>) {
        let Some(ignore) = ignore.filter(|ignore| !ignore.has_exceptions()) else { return };
        for source in &transfer.sources {
            let Source::Path(word) = source else { continue };
            let path = word.raw.trim_start_matches("./").trim_matches('/');
            let is_plain = !path.is_empty() && path != "." && !word.has_variable() && !path.contains("://");
            if is_plain && ignore.verdict(path.as_bytes()) != Verdict::Keep {
                let message = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.warn(step.span, "CopyIgnoredFile", message);
            }
        }
    }
}

/// The variables that a step has.
struct Scope {
    names: HashSet<String>,
    has_absolute_workdir: bool,
}

impl Scope {
    /// At the beginning of a stage: those of the image or stage that it begins with.
    fn at(file: &Containerfile, index: usize, build_args: &[String]) -> Scope {
        let mut scope = Scope { names: HashSet::new(), has_absolute_workdir: false };
        // BuildKit knows the images' variables; all have this one.
        scope.names.insert("PATH".to_owned());
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
        scope.names.extend(proxies.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]));
        scope.names.insert("SOURCE_DATE_EPOCH".to_owned());
        scope.names.extend(build_args.iter().filter(|name| name.starts_with("BUILDKIT_")).cloned());
        let mut current = index;
        let mut parents = Vec::new();
        while let Some(parent) = parent(file, current) {
            parents.push(parent);
            current = parent;
        }
        for parent in parents.into_iter().rev() {
            for step in &file.stages[parent].steps {
                scope.after_in_parent(step);
            }
        }
        scope
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn nearest(&self, name: &str) -> Option<&str> {
        let is_one_off = |known: &&String| is_one_change_away(known, name);
        self.names.iter().filter(is_one_off).min().map(String::as_str)
    }

    fn after(&mut self, step: &Step) {
        if let Instruction::Arg(args) = &step.instruction {
            self.names.extend(args.iter().map(|ArgDeclaration { name, .. }| name.raw.clone()));
        }
        self.after_in_parent(step);
    }

    /// ARGs end with their stage.
    fn after_in_parent(&mut self, step: &Step) {
        match &step.instruction {
            Instruction::Env(pairs) => {
                self.names.extend(pairs.iter().map(|(name, _)| name.raw.trim_matches(['"', '\'']).to_owned()));
            }
            Instruction::Workdir(path) if path.raw.starts_with(['/', '$']) => self.has_absolute_workdir = true,
            _ => {}
        }
    }
}

/// The stage that a stage begins with.
fn parent(file: &Containerfile, index: usize) -> Option<usize> {
    let image = file.stages[index].image.raw.to_lowercase();
    file.stages[..index].iter().rposition(|stage| stage.name.as_deref() == Some(image.as_str()))
}

/// The words of an instruction whose variables are expanded.
fn words(instruction: &Instruction) -> Vec<&Word> {
    match instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            pairs.iter().flat_map(|(name, value)| [name, value]).collect()
        }
        Instruction::Arg(args) => args.iter().filter_map(|arg| arg.default.as_ref()).collect(),
        Instruction::User(word) | Instruction::Workdir(word) | Instruction::StopSignal(word) => vec![word],
        Instruction::Expose(words) | Instruction::Volume(words) => words.iter().collect(),
        Instruction::Copy(copy) => transfer_words(&copy.transfer),
        Instruction::Add(add) => transfer_words(&add.transfer).into_iter().chain(add.checksum.as_ref()).collect(),
        _ => Vec::new(),
    }
}

fn transfer_words(transfer: &Transfer) -> Vec<&Word> {
    let paths = transfer.sources.iter().filter_map(|source| match source {
        Source::Path(word) => Some(word),
        Source::Heredoc(_) => None,
    });
    let flags = [transfer.chown.as_ref(), transfer.chmod.as_ref()];
    paths.chain([&transfer.destination]).chain(flags.into_iter().flatten()).chain(&transfer.excludes).collect()
}

/// Whether something may be an image's name: not empty, no empty part, no space.
fn is_image_name(name: &str) -> bool {
    let path = name.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_tagged_well = last.split_once(':').is_none_or(|(name, tag)| !name.is_empty() && !tag.is_empty());
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    !name.is_empty()
        && name.chars().all(is_allowed)
        && is_tagged_well
        && path.split('/').all(|part| !part.is_empty())
        && !name.ends_with(['@', '-', '_', '.'])
}

/// Whether one letter is inserted, removed or replaced.
fn is_one_change_away(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (short, long) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
    if long.len() < 3 || long.len() - short.len() > 1 {
        return false;
    }
    let same = short.iter().zip(long).take_while(|(x, y)| x == y).count();
    let rest = if short.len() == long.len() { same + 1 } else { same };
    short.get(rest..) == long.get(same + 1..)
}

#[cfg(test)]
mod tests {
    use super::super::containerfile::parse;
    use super::*;

    fn rules_with(source: &str, around: &Surroundings<'_>) -> Vec<String> {
        let file = parse(source.as_bytes()).expect(source);
        let (warnings, _) = check(&file, around).expect(source);
        warnings.iter().map(|warning| format!("{}:{}", warning.span.line, warning.rule)).collect()
    }

    fn rules(source: &str) -> Vec<String> {
        rules_with(source, &Surroundings::default())
    }

    #[test]
    fn every_rule_notices_what_it_is_for() {
        let cases: &[(&str, &[&str])] = &[
            ("FROM x\nRUN a\nrun b", &["3:ConsistentInstructionCasing"]),
            ("from x\nrun a\nRun b", &["3:ConsistentInstructionCasing"]),
            ("FROM x as b\n", &["1:FromAsCasing"]),
            ("FROM x AS B\n", &["1:StageNameCasing"]),
            ("FROM x AS b\nFROM x AS b\n", &["2:DuplicateStageName"]),
            ("FROM x AS scratch\n", &["1:ReservedStageName"]),
            ("FROM x\nCMD a\n", &["2:JSONArgsRecommended"]),
            ("FROM x\nSHELL [\"a\"]\nENTRYPOINT a\n", &[]),
            ("FROM x\nCMD [\"a\"]\nCMD [\"b\"]\n", &["2:MultipleInstructionsDisallowed"]),
            ("FROM x\nMAINTAINER a\n", &["2:MaintainerDeprecated"]),
            ("FROM x\nENV a b\n", &["2:LegacyKeyValueFormat"]),
            ("FROM $x\n", &["1:UndefinedArgInFrom"]),
            ("ARG x\nFROM $x\n", &["2:InvalidDefaultArgInFrom"]),
            ("ARG x\nFROM a:$x\n", &["2:InvalidDefaultArgInFrom"]),
            ("ARG x=1\nFROM --platform=$BUILDPLATFORM a:${x}\n", &[]),
            ("ARG x\nFROM a:${x:-1}\n", &[]),
            ("FROM --platform=$TARGETPLATFORM x\n", &["1:RedundantTargetPlatform"]),
            ("FROM --platform=linux/amd64 x\n", &["1:FromPlatformFlagConstDisallowed"]),
            ("FROM --platform=linux/amd64 x AS base_amd64\n", &[]),
            ("FROM x\nWORKDIR a\n", &["2:WorkdirRelativePath"]),
            ("FROM x\nWORKDIR /a\nWORKDIR b\n", &[]),
            ("FROM x\nENV a=$b\n", &["2:UndefinedVar"]),
            ("FROM x\nARG b\nENV a=$b c=${d:-e} f=$PATH\n", &[]),
            ("FROM x AS p\nENV b=1\nARG c\nFROM p\nLABEL d=$b e=$c\n", &["5:UndefinedVar"]),
            (
                "FROM x\nARG MY_TOKEN\nENV A_PASSWORD=1 PUBLIC_KEY=2 MONKEY=3\n",
                &["2:SecretsUsedInArgOrEnv", "3:SecretsUsedInArgOrEnv"],
            ),
            ("FROM x\nEXPOSE 80/TCP 1:2 3\n", &["2:ExposeProtoCasing", "2:ExposeInvalidFormat"]),
            ("FROM x\nRUN a \\\n\n b\n", &["3:NoEmptyContinuation"]),
        ];
        for (source, wanted) in cases {
            let mut found = rules(source);
            found.sort();
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{source}");
        }
    }

    #[test]
    fn copying_what_the_context_leaves_out() {
        let ignore = Ignore::parse(b"*.log\n").expect("patterns");
        let around = Surroundings { ignore: Some(&ignore), build_args: &[] };
        assert_eq!(rules_with("FROM x\nCOPY ./a.log /\nADD b.txt /\n", &around), ["2:CopyIgnoredFile"]);
        let ignore = Ignore::parse(b"*.log\n!a.log").expect("patterns");
        let around = Surroundings { ignore: Some(&ignore), build_args: &[] };
        assert!(rules_with("FROM x\nCOPY b.log /\n", &around).is_empty());
    }

    #[test]
    fn file_says_what_is_not_to_be_noticed() {
        let source = "FROM x as b\nCMD a\n";
        assert_eq!(rules(&format!("# check=skip=FromAsCasing\n{source}")), ["3:JSONArgsRecommended"]);
        assert!(rules(&format!("# check=skip=JSONArgsRecommended,FromAsCasing;error=true\n{source}")).is_empty());
        assert!(rules(&format!("# check=skip=all\n{source}")).is_empty());
        let options = |source: &str| check(&parse(source.as_bytes()).expect(source), &Surroundings::default());
        assert!(options("# check=error=true\nFROM x").is_ok_and(|(_, options)| options.is_error));
        for bad in ["skip", "error=maybe", "other=1"] {
            let error = options(&format!("# check={bad}\nFROM x")).expect_err(bad);
            assert_eq!(error.span.to_string(), "1:9");
        }
    }

    #[test]
    fn report_shows_the_lines() {
        let source = "FROM x\nCMD a \\\n b\n\nUSER c\nUSER d\nUSER e\n";
        let file = parse(source.as_bytes()).expect("a file");
        let (warnings, _) = check(&file, &Surroundings::default()).expect("warnings");
        let report = report(&warnings, &[("Dockerfile".to_owned(), source.as_bytes().to_vec())]);
        let wanted = "Check complete, 1 warning has been found!\n\n\
            WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n\
            JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n\
            Dockerfile:2\n--------------------\n   1 |     FROM x\n   2 | >>> CMD a \\\n   3 | >>>  b\n   4 |     \n   5 |     USER c\n--------------------\n";
        assert_eq!(report, wanted);
        assert_eq!(page("FromAsCasing"), "from-as-casing");
    }

    #[test]
    fn misspelt_variable_is_recognised() {
        let file = parse(b"FROM x\nENV VERSION=1\nENV a=$VERSON").expect("a file");
        let (warnings, _) = check(&file, &Surroundings::default()).expect("warnings");
        assert_eq!(warnings[0].message, "Usage of undefined variable '$VERSON' (did you mean $VERSION?)");
    }
}
