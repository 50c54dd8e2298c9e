//! `export`: a container's root file system as a tar, without what is mounted over it.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use storage::state::container::{self, Record};

use super::cp::inside::Worker;
use super::{Context, Outcome};
use crate::error::{CommandError, reason};

/// Export container's filesystem contents as a tar archive
///
/// Volumes and other mounts are not part of it.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Write to a file instead of standard output, which must not be a terminal
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let record = container::find(&context.layout, &args.container)?;
    match &args.output {
        Some(path) => to_file(context, &record, path)?,
        None => {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                return Err(CommandError::user("refusing to export to terminal. Use -o flag or redirect"));
            }
            export(context, &record, &mut stdout.lock())?;
        }
    }
    context.note(&record, "export");
    Ok(0)
}

fn export(context: &Context, record: &Record, out: &mut dyn Write) -> Result<(), CommandError> {
    let (mut data, writer) =
        std::io::pipe().map_err(|error| CommandError::host(format_args!("pipe(): {}", reason(&error))))?;
    let mut kept = data.try_clone().ok();
    let worker = Worker::export(context, record, writer, || drop(kept.take()))?;
    drop(kept);
    let mut buffer = vec![0; 1 << 16];
    let copied = loop {
        match data.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(length) => match buffer.get(..length).map_or(Ok(()), |bytes| out.write_all(bytes)) {
                Ok(()) => {}
                // Whoever read it has enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => break Err(CommandError::host(format_args!("export: write: {}", reason(&error)))),
            },
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => break Err(CommandError::host(format_args!("export: {}", reason(&error)))),
        }
    };
    drop(data);
    worker.end(copied)
}

/// Writes beside the file and renames: an export that fails leaves what was there.
fn to_file(context: &Context, record: &Record, path: &Path) -> Result<(), CommandError> {
    let failed =
        |error: std::io::Error| CommandError::user(format_args!("export: {}: {}", path.display(), reason(&error)));
    // A device or a pipe is written as it is.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut file = fs::File::options().write(true).open(path).map_err(failed)?;
        return export(context, record, &mut file);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::File::create(&temporary)
        .map_err(failed)
        .and_then(|mut file| export(context, record, &mut file))
        .and_then(|()| fs::rename(&temporary, path).map_err(failed));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
