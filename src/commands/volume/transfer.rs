//! `volume export` and `volume import`.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use runtime::userns::Mapping;
use storage::layer::IdPolicy;
use storage::layer::compression::Decompressor;
use storage::layer::diff::{TreeForm, write_tree};
use storage::layer::unpack::{Links, Options, Owner, unpack};
use storage::volume::{self, Backing, Volume, VolumeError};

use crate::commands::{Context, Outcome};
use crate::error::{CommandError, reason};

/// Export volumes
///
/// Writes the content of a volume as a tar archive.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct ExportArgs {
    /// Name of the volume
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Write to a file instead of standard output, which must be redirected
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Import a tarball contents into a volume
///
/// What the volume holds stays, unless the archive has something else of that name.
#[derive(clap::Args, Debug)]
pub(crate) struct ImportArgs {
    /// Name of the volume
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// The tar, of any supported compression; - is standard input
    #[arg(value_name = "SOURCE", default_value = "-")]
    source: String,
}

/// Finds a volume by a name that was typed; one that is not there is exit status 1, as for podman.
pub(super) fn find(context: &Context, name: &str) -> Result<Volume, CommandError> {
    match volume::find(&context.layout, name) {
        Err(error @ VolumeError::NotFound(_)) => Err(CommandError::user(error)),
        other => Ok(other?),
    }
}

/// Where its content is.
pub(super) fn content(context: &Context, volume: &Volume) -> Result<PathBuf, CommandError> {
    match volume.backing().map_err(CommandError::user)? {
        Backing::Directory => Ok(volume.mountpoint(&context.layout)),
        Backing::Bind { source, .. } => Ok(source),
        Backing::Tmpfs { .. } => Err(CommandError::user(format!(
            "volume {}: it is in memory, and there only while a container runs: use cp with that container",
            volume.name
        ))),
    }
}

fn policy(mapping: &Mapping) -> IdPolicy {
    if mapping.single.is_some() { IdPolicy::Single } else { IdPolicy::identity() }
}

/// Runs `volume export`.
pub(crate) fn export(args: ExportArgs, context: &Context) -> Outcome {
    let volume = find(context, &args.volume)?;
    let source = content(context, &volume)?;
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(CommandError::user("refusing to export to terminal: use -o FILE or redirect the output"));
    }
    let mapping = Mapping::of_user();
    super::super::in_userns_with_output(&mapping, || {
        let failed = |error: std::io::Error| CommandError::host(format!("{}: {}", source.display(), reason(&error)));
        let tree = File::open(&source).map_err(failed)?;
        let mut out: Box<dyn Write> = match &args.output {
            None => Box::new(std::io::stdout().lock()),
            Some(path) => Box::new(
                File::create(path).map_err(|e| CommandError::user(format!("{}: {}", path.display(), reason(&e))))?,
            ),
        };
        write_tree(tree.as_fd(), TreeForm::Plain, &policy(&mapping), &mut out).map_err(CommandError::host)?;
        out.flush().map_err(|error| CommandError::host(format!("write the archive: {}", reason(&error))))?;
        Ok(String::new())
    })?;
    Ok(0)
}

/// Runs `volume import`.
pub(crate) fn import(args: ImportArgs, context: &Context) -> Outcome {
    let volume = find(context, &args.volume)?;
    let target = content(context, &volume)?;
    let mapping = Mapping::of_user();
    super::super::in_userns_with_output(&mapping, || {
        let failed = |error: &dyn std::fmt::Display| {
            CommandError::user(error).while_doing(format!("import {} into volume {}", args.source, volume.name))
        };
        let stream: Box<dyn Read> = match args.source.as_str() {
            "-" if std::io::stdin().is_terminal() => {
                return Err(CommandError::user("cannot read from terminal, use command-line redirection"));
            }
            "-" => Box::new(std::io::stdin().lock()),
            path => Box::new(File::open(path).map_err(|error| failed(&reason(&error)))?),
        };
        let tar = Decompressor::new(stream).map_err(|error| failed(&error))?;
        let directory = File::open(&target).map_err(|error| failed(&reason(&error)))?;
        let options = Options { owner: Owner::Archive, ids: &policy(&mapping), links: Links::Refused, overwrite: true };
        unpack(tar, directory.as_fd(), None, &options).map_err(|error| failed(&error))?;
        Ok(String::new())
    })?;
    Ok(0)
}
