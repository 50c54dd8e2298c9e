//! What a build says when it is over, or could not be finished.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use storage::image::Image;
use storage::image::manifest::Descriptor;

use super::Args;
use crate::build::check;
use crate::build::containerfile::ParseError;
use crate::build::options::Progress;
use crate::build::schedule::{Built, Failed};
use crate::build::screen::Screen;
use crate::build::stage::Build;
use crate::commands::Context;
use crate::error::{CommandError, reason};
use crate::role::Persona;

/// What a build has put into the store.
pub(super) struct Written {
    /// The ID of the image; of a list its digest.
    pub(super) id: String,
    /// The manifest or the index.
    pub(super) descriptor: Descriptor,
    /// Its names.
    pub(super) names: Vec<String>,
    /// The images.
    pub(super) images: Vec<Image>,
}

/// `--iidfile` and `--metadata-file`.
pub(super) fn write_results(args: &Args, build: &Build<'_>, written: &Written) -> Result<(), CommandError> {
    let write = |flag: &str, path: &Path, text: String| {
        fs::write(path, text)
            .map_err(|error| CommandError::user(format!("{flag} {}: {}", path.display(), reason(&error))))
    };
    if let Some(path) = &args.iidfile {
        write("--iidfile", path, format!("sha256:{}", written.id))?;
    }
    if let Some(path) = &args.metadata_file {
        let Descriptor { media_type, digest, size, .. } = &written.descriptor;
        let mut json = serde_json::json!({
            "containerimage.digest": digest,
            "containerimage.descriptor": {"mediaType": media_type, "digest": digest, "size": size},
            "image.name": written.names.join(","),
            "buildx.build.ref": format!("default/default/{}", build.source.path.display()),
        });
        if let [image] = written.images.as_slice() {
            json["containerimage.config.digest"] = serde_json::json!(image.id);
        }
        write("--metadata-file", path, format!("{json:#}\n"))?;
    }
    Ok(())
}

/// A failed step: what it was, what it said, and where it stands.
pub(super) fn explain(context: &Context, screen: &Screen, failed: Failed, files: &[(String, Vec<u8>)]) -> CommandError {
    if let Some((name, output, false)) = screen.failed(failed.at) {
        let mut text = format!("------\n > {name}:\n").into_bytes();
        text.extend_from_slice(output);
        if !output.is_empty() && !output.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(b"------\n");
        let _ = std::io::stderr().write_all(&text);
    }
    if let Some((_, line @ 1..)) = &failed.step
        && let Some((name, source)) = files.first()
        && screen.shows_places()
    {
        eprint!("{}", check::place(name, source, (*line as usize, *line as usize)));
    }
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

pub(super) fn warn_of_unused(builds: &[Build<'_>], built: &[Built]) {
    let Some(build) = builds.first() else { return };
    let used: BTreeSet<&String> = built.iter().flat_map(|built| &built.used).collect();
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
