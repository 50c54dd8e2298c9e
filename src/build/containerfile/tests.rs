//! Whole files: what is read, and what is refused where.

use std::time::Duration;

use super::directive::Directives;
use super::instruction::{Healthcheck, Heredoc};
use super::mount::MountKind;
use super::*;

fn file(source: &str) -> Containerfile {
    parse(source.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{}", error.excerpt(source.as_bytes())))
}

fn steps(source: &str) -> Vec<Step> {
    file(&format!("FROM x\n{source}")).stages.remove(0).steps
}

fn step(source: &str) -> Instruction {
    let mut steps = steps(source);
    assert_eq!(steps.len(), 1, "{source}");
    steps.remove(0).instruction
}

fn raw(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.raw.as_str()).collect()
}

fn pairs(instruction: &Instruction) -> Vec<(&str, &str)> {
    let (Instruction::Env(pairs) | Instruction::Label(pairs)) = instruction else { panic!("{instruction:?}") };
    pairs.iter().map(|(name, value)| (name.raw.as_str(), value.raw.as_str())).collect()
}

fn run(source: &str) -> Run {
    match step(source) {
        Instruction::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stages_have_images_names_and_platforms() {
    let file = file(
        "# a comment\n\nARG V=1 W\nFROM --platform=$BUILDPLATFORM debian:$V AS Build\nRUN a\nfrom build\n\nFROM x@sha256:1 as c-1.x_\n",
    );
    assert_eq!(file.global_args.len(), 2);
    assert_eq!((file.global_args[0].name.raw.as_str(), &file.global_args[1].default), ("V", &None));
    let stages: Vec<_> = file.stages.iter().map(|s| (s.image.raw.as_str(), s.name.as_deref(), s.span.line)).collect();
    assert_eq!(stages, [("debian:$V", Some("build"), 4), ("build", None, 6), ("x@sha256:1", Some("c-1.x_"), 8)]);
    assert_eq!(file.stages[0].platform.as_ref().map(|word| word.raw.as_str()), Some("$BUILDPLATFORM"));
    assert_eq!(file.stages[0].steps.len(), 1);
    let rules: Vec<_> = file.warnings.iter().map(|warning| (warning.rule, warning.span.line)).collect();
    assert_eq!(rules, [("StageNameCasing", 4), ("FromAsCasing", 8)]);
}

#[test]
fn lines_continue_over_comments_and_empty_lines() {
    let source = "RUN a && \\\n   # why\n# and\n\n  b \\  \n\\\n c\nRUN d\\\\\nRUN e \\";
    let steps = steps(source);
    let said: Vec<_> = steps.iter().map(|step| (step.original.as_str(), step.span.line, step.span.end_line)).collect();
    assert_eq!(said, [("RUN a &&   b  c", 2, 8), ("RUN d\\\\", 9, 9), ("RUN e", 10, 10)]);
    let file = file(&format!("FROM x\n{source}"));
    assert_eq!(file.warnings.iter().map(|w| (w.rule, w.span.line)).collect::<Vec<_>>(), [("NoEmptyContinuation", 5)]);
}

#[test]
fn windows_line_ends_and_byte_order_mark() {
    let file = file("\u{feff}# escape=`\r\nFROM x\r\nRUN a `\r\n  b\r\nCOPY <<E /f\r\nc\r\nE\r\n");
    assert_eq!(file.directives.escape, '`');
    assert_eq!(file.stages[0].steps[0].original, "RUN a   b");
    let Instruction::Copy(copy) = &file.stages[0].steps[1].instruction else { panic!() };
    assert!(matches!(&copy.transfer.sources[..], [Source::Heredoc(heredoc)] if heredoc.raw == "c\r\n"));
}

#[test]
fn directives_end_at_the_first_other_line() {
    let top = "#!/usr/bin/env coracle\n# syntax=docker/dockerfile:1\n#Escape = `\n# CHECK=skip=A;error=true \nFROM x\n";
    let directives = file(top).directives;
    assert_eq!(
        directives.syntax.map(|word| (word.raw, word.span.line, word.span.column)),
        Some(("docker/dockerfile:1".to_owned(), 2, 10))
    );
    assert_eq!((directives.escape, directives.check.map(|word| word.raw).as_deref()), ('`', Some("skip=A;error=true")));
    for late in
        ["\n# escape=`\nFROM x", "# hello\n# escape=`\nFROM x", "# unknown=1\n# escape=`\nFROM x", "FROM x\n# escape=`"]
    {
        assert_eq!(file(late).directives, Directives::default(), "{late}");
    }
}

#[test]
fn commands_are_for_the_shell_or_exact() {
    let cases: &[(&str, Command)] = &[
        ("CMD echo  \"a\" $b", Command::Shell("echo  \"a\" $b".to_owned())),
        ("CMD [\"a\", \"b c\", \"\\u1E6E\"]", Command::Exec(vec!["a".into(), "b c".into(), "Ṯ".into()])),
        ("cmd []", Command::Exec(vec![])),
        ("CMD ['a']", Command::Shell("['a']".to_owned())),
        ("CMD [\"a\"", Command::Shell("[\"a\"".to_owned())),
        ("CMD [\"a\"] b", Command::Shell("[\"a\"] b".to_owned())),
        ("CMD [ -f x ] && y", Command::Shell("[ -f x ] && y".to_owned())),
        ("CMD", Command::Shell(String::new())),
    ];
    for (source, wanted) in cases {
        assert_eq!(step(source), Instruction::Cmd(wanted.clone()), "{source}");
        let entrypoint = source.replacen("CMD", "ENTRYPOINT", 1).replacen("cmd", "entrypoint", 1);
        assert_eq!(step(&entrypoint), Instruction::Entrypoint(wanted.clone()));
    }
    assert_eq!(step("SHELL [\"a\", \"-c\"]"), Instruction::Shell(vec!["a".into(), "-c".into()]));
}

#[test]
fn names_have_values_in_both_forms() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("ENV a=b", &[("a", "b")]),
        ("ENV a=b c='d e' f=g\\ h i=", &[("a", "b"), ("c", "'d e'"), ("f", "g\\ h"), ("i", "")]),
        ("ENV a=b=c", &[("a", "b=c")]),
        ("ENV a=\"x y\" \\\n    b=c", &[("a", "\"x y\""), ("b", "c")]),
        ("ENV a b c  \"d\"", &[("a", "b c  \"d\"")]),
        ("ENV a  b=c", &[("a", "b=c")]),
        ("LABEL \"com.x y\"=\"z\"", &[("\"com.x y\"", "\"z\"")]),
        ("LABEL a= b=''", &[("a", ""), ("b", "''")]),
    ];
    for (source, wanted) in cases {
        assert_eq!(pairs(&step(source)), *wanted, "{source}");
    }
    let Instruction::Arg(args) = step("ARG a b=c d= e='f g'") else { panic!() };
    let args: Vec<_> = args.iter().map(|a| (a.name.raw.as_str(), a.default.as_ref().map(|d| d.raw.as_str()))).collect();
    assert_eq!(args, [("a", None), ("b", Some("c")), ("d", Some("")), ("e", Some("'f g'"))]);
}

#[test]
fn lists_and_single_words() {
    let Instruction::Expose(ports) = step("EXPOSE 80/tcp  $PORT 1-2") else { panic!() };
    assert_eq!(raw(&ports), ["80/tcp", "$PORT", "1-2"]);
    let Instruction::Volume(paths) = step("VOLUME [\"/a b\", \"/c \"]") else { panic!() };
    assert_eq!(raw(&paths), ["/a b", "/c"]);
    let Instruction::Volume(paths) = step("VOLUME /a /b") else { panic!() };
    assert_eq!(raw(&paths), ["/a", "/b"]);
    for (source, wanted) in
        [("WORKDIR /a b", "/a b"), ("WORKDIR $X/y  ", "$X/y"), ("USER a:b", "a:b"), ("STOPSIGNAL 9", "9")]
    {
        let (Instruction::Workdir(word) | Instruction::User(word) | Instruction::StopSignal(word)) = step(source)
        else {
            panic!("{source}")
        };
        assert_eq!(word.raw, wanted);
    }
    assert_eq!(step("MAINTAINER A B <c@d>"), Instruction::Maintainer("A B <c@d>".to_owned()));
}

#[test]
fn copy_and_add_have_sources_a_destination_and_flags() {
    let Instruction::Copy(copy) = step(
        "COPY --from=st --chown=$U:g --chmod=u+x --link --parents=true --exclude=*.o --exclude='a b' a/./b $X/c /d/",
    ) else {
        panic!()
    };
    let sources = copy.transfer.sources.iter().map(|source| match source {
        Source::Path(word) => word.raw.as_str(),
        Source::Heredoc(_) => panic!(),
    });
    let sources: Vec<_> = sources.collect();
    assert_eq!((sources, copy.transfer.destination.raw.as_str()), (vec!["a/./b", "$X/c"], "/d/"));
    assert_eq!(copy.from.map(|word| word.raw).as_deref(), Some("st"));
    assert_eq!(copy.transfer.chown.map(|word| word.raw).as_deref(), Some("$U:g"));
    assert_eq!(copy.transfer.chmod.map(|word| word.raw).as_deref(), Some("u+x"));
    assert!(copy.transfer.link && copy.parents);
    assert_eq!(raw(&copy.transfer.excludes), ["*.o", "a b"]);

    let source = "ADD --checksum=sha256:1 --keep-git-dir --unpack=False --link=false [\"a b\", \"/c d\"]";
    let Instruction::Add(add) = step(source) else { panic!() };
    assert_eq!((add.keep_git_dir, add.unpack, add.transfer.link), (Some(true), Some(false), false));
    assert_eq!(
        (add.checksum.map(|word| word.raw).as_deref(), add.transfer.destination.raw.as_str()),
        (Some("sha256:1"), "/c d")
    );
    assert!(matches!(&add.transfer.sources[..], [Source::Path(word)] if word.raw == "a b"));
    let Instruction::Add(add) = step("ADD -- --a /b") else { panic!() };
    assert!(matches!(&add.transfer.sources[..], [Source::Path(word)] if word.raw == "--a"));
}

#[test]
fn run_has_flags_and_a_command() {
    let run = run(
        "RUN --mount=type=cache,target=/c --mount='target=/a b' --network=none --security=insecure --device=x/y=z a -- b",
    );
    assert_eq!(run.mounts.iter().map(|mount| mount.kind).collect::<Vec<_>>(), [MountKind::Cache, MountKind::Bind]);
    assert_eq!((run.network, run.security, raw(&run.devices)), (Network::None, Security::Insecure, vec!["x/y=z"]));
    assert_eq!(run.command, Command::Shell("a -- b".to_owned()));
}

#[test]
fn heredocs_belong_to_their_line() {
    let source = "RUN <<A cat <<-'B' 3<< C > f \\\n  && x\na $x\nA\n\tb\n\tB\nC\nRUN y";
    let steps = steps(source);
    assert_eq!(steps.len(), 2);
    let Instruction::Run(run) = &steps[0].instruction else { panic!() };
    let docs: Vec<_> = run.heredocs.iter().map(|d| (d.name.as_str(), d.text(), d.expand, d.file_descriptor)).collect();
    assert_eq!(
        docs,
        [("A", "a $x\n".to_owned(), true, 0), ("B", "b\n".to_owned(), false, 0), ("C", String::new(), true, 3)]
    );
    assert_eq!(steps[0].original, "RUN <<A cat <<-'B' 3<< C > f   && x");
    assert_eq!((steps[0].span.line, steps[0].span.end_line), (2, 8));
    assert_eq!(run.form(), RunForm::Shell("<<A cat <<-'B' 3<< C > f   && x\na $x\nA\n\tb\nB\nC".to_owned()));
    for source in [
        "RUN \"<<A\"",
        "RUN '<<A'",
        "RUN [\"<<A\"]",
        "RUN a <<< b",
        "RUN echo $((1<<2))",
        "RUN [ 1 -lt 2 ] && a \\<<A",
        "RUN it's <<A",
        "USER <<A",
        "CMD <<A",
    ] {
        assert_eq!(steps_without_heredocs(source), 1, "{source}");
    }
}

fn steps_without_heredocs(source: &str) -> usize {
    let steps = steps(source);
    assert!(!matches!(&steps[0].instruction, Instruction::Run(run) if !run.heredocs.is_empty()), "{source}");
    steps.len()
}

#[test]
fn heredoc_alone_is_the_script() {
    assert_eq!(run("RUN <<E\na\n# b\nE").form(), RunForm::Shell("a\n# b\n".to_owned()));
    assert_eq!(run("RUN --network=none <<-'E'\n\ta\n\tE").form(), RunForm::Shell("a\n".to_owned()));
    let program = RunForm::File { name: "E".to_owned(), content: "#!/bin/awk -f\nx\n".to_owned() };
    assert_eq!(run("RUN << E\n#!/bin/awk -f\nx\nE").form(), program);
    assert_eq!(run("RUN python3 <<E\nx\nE").form(), RunForm::Shell("python3 <<E\nx\nE".to_owned()));
    assert_eq!(run("RUN [\"a\"]").form(), RunForm::Exec(vec!["a".to_owned()]));
}

#[test]
fn files_may_stand_in_the_dockerfile() {
    let Instruction::Copy(copy) = step("COPY --chmod=755 <<a.sh <<\"b\" c /d/\n$X\na.sh\n$X\nb") else { panic!() };
    let [Source::Heredoc(a), Source::Heredoc(b), Source::Path(c)] = &copy.transfer.sources[..] else { panic!() };
    let x = |_: &str| Some("y".to_owned());
    assert_eq!((a.name.as_str(), a.content(&x).as_deref()), ("a.sh", Ok("y\n")));
    assert_eq!((b.name.as_str(), b.content(&x).as_deref(), c.raw.as_str()), ("b", Ok("$X\n"), "c"));
}

#[test]
fn healthcheck_has_a_command_and_times() {
    let source =
        "HEALTHCHECK --interval=1m30s --timeout=0 --start-period=1.5s --start-interval=100ms --retries=3 CMD a b";
    let wanted = Healthcheck::Check {
        command: Command::Shell("a b".to_owned()),
        interval: Some(Duration::from_secs(90)),
        timeout: None,
        start_period: Some(Duration::from_millis(1500)),
        start_interval: Some(Duration::from_millis(100)),
        retries: Some(3),
    };
    assert_eq!(step(source), Instruction::Healthcheck(wanted));
    assert_eq!(step("HEALTHCHECK none"), Instruction::Healthcheck(Healthcheck::None));
    let Instruction::Healthcheck(Healthcheck::Check { command, .. }) = step("HEALTHCHECK cmd [\"a\"]") else {
        panic!()
    };
    assert_eq!(command, Command::Exec(vec!["a".to_owned()]));
}

#[test]
fn on_build_keeps_its_trigger_as_written() {
    let Instruction::OnBuild(trigger) = step("ONBUILD   copy --link a \\\n b") else { panic!() };
    assert_eq!(trigger.original, "copy --link a  b");
    assert!(matches!(trigger.instruction, Instruction::Copy(_)));
    let Instruction::OnBuild(trigger) = step("ONBUILD RUN <<-E\n\ta\n\tE") else { panic!() };
    assert_eq!(trigger.original, "RUN <<-E\n\ta\nE");
    let again = parse_step(&trigger.original, '\\').expect("a step");
    assert_eq!(
        again.instruction,
        Instruction::Run(Run {
            heredocs: vec![Heredoc { span: again_span(&again), ..heredoc(&trigger) }],
            ..run("RUN <<-E\n\ta\n\tE")
        })
    );
    assert!(
        parse_step("FROM x", '\\').is_err()
            && parse_step("RUN a\nRUN b", '\\').is_err()
            && parse_step("", '\\').is_err()
    );
}

fn heredoc(step: &Step) -> Heredoc {
    let Instruction::Run(run) = &step.instruction else { panic!() };
    run.heredocs[0].clone()
}

fn again_span(step: &Step) -> Span {
    heredoc(step).span
}

#[test]
fn several_files_are_one() {
    let file = parse_all(&[b"FROM a AS b\nRUN c\n", b"RUN d\nFROM b\n", b"RUN e"]).expect("files");
    let steps: Vec<Vec<_>> =
        file.stages.iter().map(|s| s.steps.iter().map(|s| (s.original.as_str(), s.span.file)).collect()).collect();
    assert_eq!(steps, [vec![("RUN c", 0), ("RUN d", 1)], vec![("RUN e", 2)]]);
    let error = parse_all(&[b"FROM a", b"\nNO"]).expect_err("no instruction");
    assert_eq!((error.span.file, error.span.line), (1, 2));
    assert!(parse_all(&[b"FROM a", b"# escape=`\nRUN b"]).is_err());
}

#[test]
fn errors_point_at_the_place_and_say_what_was_expected() {
    // The source, the place, and a part of the message or of the hint.
    let cases: &[(&str, &str, &str)] = &[
        ("", "1:1", "expected FROM"),
        ("# only\n", "1:1", "expected FROM"),
        ("ARG a\n", "1:1", "no stage"),
        ("\n  RUN a", "2:3", "expected FROM or ARG before RUN"),
        ("FROM", "1:1", "FROM requires either one or three arguments"),
        ("FROM a b", "1:8", "FROM requires either one or three arguments"),
        ("FROM a as", "1:8", "FROM requires either one or three arguments"),
        ("FROM centos: latest", "1:14", "did you mean FROM centos:latest?"),
        ("FROM a AS 1b", "1:11", "invalid name for build stage"),
        ("FROM a AS b/c", "1:11", "invalid name for build stage"),
        ("FROM --plattform=x a", "1:6", "did you mean --platform?"),
        ("FROM x\nRUM a", "2:1", "did you mean RUN?"),
        ("FROM x\nfoo a", "2:1", "unknown instruction: foo"),
        ("FROM x\nRUN", "2:1", "RUN requires at least one argument"),
        ("FROM x\nRUN --mount=type=cahce,target=/a b", "2:5", "did you mean cache?"),
        ("FROM x\nRUN a \\\n  --b\nRUN --mount a", "4:5", "needs a value"),
        ("FROM x\nRUN --network=lan a", "2:5", "expected default, none or host"),
        ("FROM x\nRUN --security=no a", "2:5", "expected sandbox or insecure"),
        ("FROM x\nRUN a \\\n <<EOF\nb", "3:2", "expected a line \"EOF\""),
        ("FROM x\nRUN cat <<EOF>f\na\nEOF\n", "2:9", "put a space after \"EOF\""),
        ("FROM x\nCOPY a", "2:1", "COPY requires at least two arguments, but only one"),
        ("FROM x\nADD", "2:1", "ADD requires at least two arguments"),
        ("FROM x\nCOPY --form=y a b", "2:6", "did you mean --from?"),
        ("FROM x\nCOPY --from= a b", "2:6", "expected a stage"),
        ("FROM x\nCOPY --link=2 a b", "2:6", "expected true or false"),
        ("FROM x\nCOPY --link --link a b", "2:13", "given twice"),
        ("FROM x\nCOPY a <<E\nE", "2:8", "heredoc as a destination"),
        ("FROM x\nCOPY [1, 2]", "2:6", "arrays must be comprised of strings only"),
        ("FROM x\nADD --from=y a b", "2:5", "unknown flag --from of ADD"),
        ("FROM x\nENV", "2:1", "ENV requires at least one argument"),
        ("FROM x\nENV a", "2:5", "ENV must have two arguments"),
        ("FROM x\nENV a=b \\\n  c", "3:3", "can't find = in \"c\""),
        ("FROM x\nENV =b", "2:5", "names can not be blank"),
        ("FROM x\nLABEL a=b =c", "2:11", "names can not be blank"),
        ("FROM x\nARG", "2:1", "ARG requires at least one argument"),
        ("FROM x\nARG =a", "2:5", "names can not be blank"),
        ("FROM x\nWORKDIR", "2:1", "WORKDIR requires exactly one argument"),
        ("FROM x\nUSER", "2:1", "USER requires exactly one argument"),
        ("FROM x\nSTOPSIGNAL", "2:1", "STOPSIGNAL requires exactly one argument"),
        ("FROM x\nMAINTAINER", "2:1", "MAINTAINER requires exactly one argument"),
        ("FROM x\nMAINTAINER --boo a", "2:12", "unknown flag --boo"),
        ("FROM x\nEXPOSE", "2:1", "EXPOSE requires at least one argument"),
        ("FROM x\nVOLUME", "2:1", "VOLUME requires at least one argument"),
        ("FROM x\nVOLUME [\"\"]", "2:8", "can not be an empty string"),
        ("FROM x\nSHELL a -c", "2:1", "SHELL requires the arguments to be in JSON form"),
        ("FROM x\nSHELL []", "2:1", "SHELL requires at least one argument"),
        ("FROM x\nCMD [\"a\", 1]", "2:5", "arrays must be comprised of strings only"),
        ("FROM x\nCMD --a b", "2:5", "CMD has no flags"),
        ("FROM x\nHEALTHCHECK", "2:1", "HEALTHCHECK requires at least one argument"),
        ("FROM x\nHEALTHCHECK NONE a", "2:18", "takes no arguments"),
        ("FROM x\nHEALTHCHECK RUN a", "2:13", "expected CMD or NONE"),
        ("FROM x\nHEALTHCHECK CMD", "2:1", "missing command"),
        ("FROM x\nHEALTHCHECK --interval=5 CMD a", "2:13", "expected a duration"),
        ("FROM x\nHEALTHCHECK --interval=50ns CMD a", "2:13", "expected 1ms or more"),
        ("FROM x\nHEALTHCHECK --retries=-1 CMD a", "2:13", "expected a number"),
        ("FROM x\nONBUILD", "2:1", "ONBUILD requires at least one argument"),
        ("FROM x\nONBUILD FROM y", "2:9", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM x\nONBUILD ONBUILD RUN a", "2:9", "chaining ONBUILD"),
        ("FROM x\nONBUILD COPY a", "2:9", "COPY requires at least two"),
        ("# escape=x\nFROM x", "1:10", "expected \\ or `"),
        ("# syntax=a\n# syntax=b\nFROM x", "2:10", "only one syntax"),
    ];
    for (source, place, wanted) in cases {
        let error = parse(source.as_bytes()).expect_err(source);
        let hint = error.hint.clone().unwrap_or_default();
        assert_eq!(error.span.to_string(), *place, "{source:?}: {error} ({hint})");
        assert!(error.message.contains(wanted) || hint.contains(wanted), "{source:?}: {error} ({hint})");
    }
    assert_eq!(parse(b"FROM x\nRUN a\xff").expect_err("no UTF-8").span.to_string(), "2:6");
    assert!(parse(b"# caf\xe9\nFROM x\n").is_ok());
    assert!(parse(b"\xff\xfeF\0").expect_err("UTF-16").message.contains("UTF-16"));
}

#[test]
fn excerpt_marks_the_place() {
    let source = "FROM x\n\tCOPY --form=y a b\n";
    let error = parse(source.as_bytes()).expect_err("a flag");
    let wanted = "   1 | FROM x\n   2 |  COPY --form=y a b\n     |       ^^^^^^^^\n";
    assert_eq!(error.excerpt(source.as_bytes()), wanted);
}

/// Pieces of Dockerfiles in random order: whatever comes, it is read or refused, and every place lies in the file.
#[test]
fn no_input_is_too_strange() {
    let pieces: &[&str] = &[
        "FROM x\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "SHELL ",
        "EXPOSE ",
        "VOLUME ",
        "# escape=`\n",
        "# ",
        "\\",
        "\\\n",
        "`\n",
        "\n",
        "\r\n",
        " ",
        "\t",
        "<<",
        "<<-E",
        "<<'E'",
        "E\n",
        "\tE\n",
        "\"",
        "'",
        "$",
        "${",
        "}",
        ":-",
        ":?",
        "#",
        "%",
        "/",
        "=",
        "a",
        "é",
        "한",
        "[",
        "]",
        "[\"a\"]",
        ",",
        "--",
        "--mount=type=cache,target=",
        "--from=",
        "--interval=",
        "CMD",
        "NONE",
        "AS ",
        "1",
        "\u{feff}",
        "\u{0}",
        "\u{b}",
        "\u{a0}",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % limit as u64) as usize
    };
    for _ in 0..20_000 {
        let mut source = String::from(if next(4) > 0 { "FROM x\n" } else { "" });
        for _ in 0..next(24) {
            source.push_str(pieces[next(pieces.len())]);
        }
        let lines = source.split('\n').count() as u32 + 1;
        match parse(source.as_bytes()) {
            Err(error) => {
                assert!((1..=lines).contains(&error.span.line) && error.span.column > 0, "{source:?}: {error}");
                let _ = error.excerpt(source.as_bytes());
            }
            Ok(file) => {
                for step in file.stages.iter().flat_map(|stage| &stage.steps) {
                    assert!(step.span.line <= step.span.end_line && step.span.end_line <= lines, "{source:?}");
                    expand_all(&step.instruction);
                }
            }
        }
    }
}

fn expand_all(instruction: &Instruction) {
    let value = |name: &str| (name.len() % 2 == 1).then(|| "a/b*\\".to_owned());
    match instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            for (name, word) in pairs {
                let _ = (name.expand('\\', &value), word.expand('`', &value), word.undefined('\\', &value));
            }
        }
        Instruction::Expose(words) => words.iter().for_each(|word| drop(word.expand_words('\\', &value))),
        Instruction::Run(run) => {
            drop(run.form());
            run.mounts.iter().for_each(|mount| drop(mount.expand('\\', &value)));
        }
        Instruction::Copy(Copy { transfer, .. }) => {
            for source in &transfer.sources {
                match source {
                    Source::Path(word) => drop(word.expand('\\', &value)),
                    Source::Heredoc(heredoc) => drop(heredoc.content(&value)),
                }
            }
        }
        _ => {}
    }
}
