//! Where a build reads: its context, its Containerfiles and what is to be ignored.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use storage::build::BuildCache;
use storage::layer::Staging;

use super::Args;
use crate::build::ignore::Ignore;
use crate::build::remote::Remote;
use crate::build::tidy;
use crate::error::{CommandError, reason};

/// Where everything is that is read.
pub(super) struct Places {
    pub(super) directory: PathBuf,
    /// Dockerfiles: their names and bytes.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// Of the first, if it is a file.
    path: Option<PathBuf>,
}

/// Keeps it for as long as the build takes.
pub(super) fn kept(made: &mut Vec<Staging>, staging: Staging) -> &Staging {
    made.insert(0, staging);
    &made[0]
}

/// Links of what was fetched do not choose a file of ours.
fn must_be_below(directory: &Path, path: &Path) -> Result<(), CommandError> {
    let is_below = match (directory.canonicalize(), path.canonicalize()) {
        (Ok(directory), Ok(path)) => path.starts_with(directory),
        // What is not there is refused when it is read.
        _ => true,
    };
    match is_below {
        true => Ok(()),
        false => Err(CommandError::user(format!("{}: it is outside of the context", name_of(path)))),
    }
}

fn read_stdin() -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| CommandError::user(format!("read stdin: {}", reason(&error))))?;
    Ok(bytes)
}

/// Finds the context and the Dockerfile; what is made for this build goes to `made`.
pub(super) fn places(args: &Args, cache: &BuildCache, made: &mut Vec<Staging>) -> Result<Places, CommandError> {
    let asked = args.context.as_deref();
    let mut is_fetched = false;
    let mut from_stdin = None;
    let directory = match asked {
        Some("-") => {
            let bytes = read_stdin()?;
            let staging = kept(made, cache.stage()?);
            let directory = staging.diff();
            match tidy::unpack_context(&bytes, staging)? {
                true => {}
                false if args.file.is_empty() => from_stdin = Some(bytes),
                false => return Err(CommandError::user("-: stdin holds no archive, and -f names a Containerfile")),
            }
            directory
        }
        Some(text) if is_remote(text)? => {
            let (directory, file) = tidy::fetch_context(text, kept(made, cache.stage()?))?;
            from_stdin = file;
            is_fetched = true;
            directory
        }
        Some(path) => PathBuf::from(path),
        // podman's default is the directory of the file, or this one.
        None => match args.file.first().filter(|file| *file != "-") {
            Some(file) => {
                Path::new(file).parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
            }
            None => PathBuf::from("."),
        },
    };
    if !directory.is_dir() {
        return Err(CommandError::user(format!("context must be a directory: {}", directory.display())));
    }
    let mut files = Vec::new();
    let mut path = None;
    if let Some(bytes) = from_stdin {
        files.push(("stdin".to_owned(), bytes));
    } else if args.file.is_empty() {
        let found = ["Containerfile", "Dockerfile", "dockerfile"]
            .iter()
            .map(|name| directory.join(name))
            .find(|path| path.is_file());
        let found = found.ok_or_else(|| {
            CommandError::user(format!(
                "no Containerfile or Dockerfile specified or found in context directory, {}",
                directory.display()
            ))
        })?;
        if is_fetched {
            must_be_below(&directory, &found)?;
        }
        files.push((name_of(&found), read(&found)?));
        path = Some(found);
    }
    for file in &args.file {
        if file == "-" {
            files.push(("stdin".to_owned(), read_stdin()?));
            continue;
        }
        let given = PathBuf::from(file);
        // podman looks beside the caller first, docker too; a name may also mean a file of the context.
        let is_here = !is_fetched && (given.is_file() || given.is_absolute());
        let found = if is_here { given } else { directory.join(&given) };
        if is_fetched {
            must_be_below(&directory, &found)?;
        }
        files.push((name_of(&found), read(&found)?));
        path.get_or_insert(found);
    }
    Ok(Places { directory, files, path })
}

pub(super) fn is_remote(text: &str) -> Result<bool, CommandError> {
    Ok(Remote::of_context(text).map_err(CommandError::user)?.is_some())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    fs::read(path).map_err(|error| CommandError::user(format!("read {}: {}", path.display(), reason(&error))))
}

/// What is left out of the context: by the file that is asked for, or that of the Dockerfile, or that of the context.
pub(super) fn ignore(args: &Args, places: &Places) -> Result<Ignore, CommandError> {
    let mut candidates = Vec::new();
    if let Some(path) = &args.ignorefile {
        candidates.push(path.clone());
        if !path.is_file() {
            return Err(CommandError::user(format!("--ignorefile {}: no such file", path.display())));
        }
    } else {
        for suffix in ["containerignore", "dockerignore"] {
            if let Some(path) = &places.path {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{suffix}"));
                candidates.push(name.into());
            }
        }
        candidates.extend([".containerignore", ".dockerignore"].iter().map(|name| places.directory.join(name)));
    }
    match candidates.iter().find(|path| path.is_file()) {
        None => Ok(Ignore::default()),
        Some(path) => {
            Ignore::parse(&read(path)?).map_err(|error| CommandError::user(format!("{}:{error}", path.display())))
        }
    }
}
