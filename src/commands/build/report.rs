//! What a build says when it is over, or could not be finished.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use super::Args;
use crate::build::containerfile::ParseError;
use crate::build::finish;
use crate::build::options::Progress;
use crate::build::schedule::Failed;
use crate::build::screen::Screen;
use crate::build::stage::Build;
use crate::commands::Context;
use crate::error::{CommandError, reason};
use crate::role::Persona;

/// `--iidfile` and `--metadata-file`.
pub(super) fn write_results(
    args: &Args,
    build: &Build<'_>,
    finished: &finish::Finished,
    names: &[String],
) -> Result<(), CommandError> {
    let write = |flag: &str, path: &Path, text: String| {
        fs::write(path, text)
            .map_err(|error| CommandError::user(format!("{flag} {}: {}", path.display(), reason(&error))))
    };
    if let Some(path) = &args.iidfile {
        write("--iidfile", path, format!("sha256:{}", finished.id))?;
    }
    if let Some(path) = &args.metadata_file {
        let json = serde_json::json!({
            "containerimage.config.digest": format!("sha256:{}", finished.id),
            "containerimage.digest": finished.digest,
            "image.name": names.join(","),
            "buildx.build.ref": format!("default/default/{}", build.source.path.display()),
        });
        write("--metadata-file", path, format!("{json:#}\n"))?;
    }
    Ok(())
}

/// A failed step: what it was, what it said, and where it stands.
pub(super) fn explain(context: &Context, screen: &Screen, failed: Failed, files: &[(String, Vec<u8>)]) -> CommandError {
    let _ = std::io::stderr().write_all(screen.unseen(failed.stage));
    let Some((step, line)) = failed.step else {
        let error = CommandError::user(failed.message).with_code(failed.code);
        return failed.hint.into_iter().fold(error, CommandError::hinted);
    };
    let file = files.first().map_or("Containerfile", |(name, _)| name);
    let error = match context.persona {
        Persona::Podman => {
            CommandError::user(format!("building at STEP {step:?}: {}", failed.message)).with_code(failed.code)
        }
        Persona::Docker => {
            let why = match failed.message.strip_prefix("while running runtime: exit status ") {
                Some(code) => format!("process {step:?} did not complete successfully: exit code: {code}"),
                None => failed.message.clone(),
            };
            CommandError::user(format!("failed to solve: {why}")).with_code(1)
        }
    };
    let error = match failed.hint {
        Some(hint) => error.hinted(hint),
        None => error,
    };
    if line > 0 { error.hinted(format!("the step is in line {line} of {file}")) } else { error }
}

pub(super) fn misread(error: &ParseError, files: &[(String, Vec<u8>)]) -> CommandError {
    let (name, source) = match files.get(usize::from(error.span.file)) {
        Some((name, source)) => (name.as_str(), source.as_slice()),
        None => ("Containerfile", b"".as_slice()),
    };
    if error.span.line > 0 {
        eprint!("{}", error.excerpt(source));
    }
    let out = match error.span.line {
        0 => CommandError::user(&error.message),
        _ => CommandError::user(format!("{name}:{error}")),
    };
    match &error.hint {
        Some(hint) => out.hinted(hint),
        None => out,
    }
}

pub(super) fn warn_of_unused(build: &Build<'_>, used: &BTreeSet<String>) {
    let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
    let known = |name: &String| {
        used.contains(name)
            || is_proxy(name)
            || name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
            || build.global.contains_key(name)
    };
    let unused: Vec<&str> = build.options.build_args.keys().filter(|name| !known(name)).map(String::as_str).collect();
    if !unused.is_empty() && build.options.progress != Progress::Quiet {
        eprintln!("[Warning] one or more build-args were not consumed: [{}]", unused.join(" "));
    }
}
