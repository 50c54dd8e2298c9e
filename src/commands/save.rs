//! `coracle save`: images to an archive or a directory.

use std::fs;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use storage::image::{Image, ImageStore};
use storage::reference::Reference;
use storage::transport::TransportError;
use storage::transport::save::{self, Saved};

use super::{Context, Outcome};
use crate::cli::accepted::Accepted;
use crate::cli::options::ignored::OfSave;
use crate::error::{CommandError, reason};

const EXAMPLES: &str = r#"Examples:
  coracle save -o image.tar nginx:1 redis:7
  coracle save nginx | ssh host coracle load"#;

/// Save image(s) to an archive
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Images to save
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Format of the archive or directory
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Format,
    /// Write to a file, or a directory for the directory formats, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    accepted: Accepted<OfSave>,
    /// Accepted for podman: several images are always saved into one archive
    #[arg(short, long)]
    multi_image_archive: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// docker's
    DockerArchive,
    /// A tar of an OCI image layout
    OciArchive,
    /// An OCI image layout
    OciDir,
    /// Manifest and blobs of one image
    DockerDir,
}

/// Runs `coracle save`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    args.accepted.warn();
    let store = ImageStore::open(&context.layout);
    let images = choose(&store, &args.images)?;
    super::images::remake_blobs(&store, images.iter().map(|(image, _)| image))?;
    let saved: Vec<Saved<'_>> = images.iter().map(|(image, names)| Saved { image, names: names.clone() }).collect();
    let failed = |error: TransportError| CommandError::host(error).while_doing("save");
    match (args.format, &args.output) {
        (Format::OciDir, Some(path)) => save::oci_directory(&store, &saved, path).map_err(failed)?,
        (Format::DockerDir, Some(path)) => match images.as_slice() {
            [(image, _)] => save::docker_directory(&store, image, path).map_err(failed)?,
            _ => return Err(CommandError::user("--format docker-dir takes one image")),
        },
        (Format::OciDir | Format::DockerDir, None) => {
            return Err(CommandError::user("--format of a directory needs --output"));
        }
        (format, Some(path)) => to_file(path, |out| archive(&store, &saved, format, out))?,
        (format, None) => {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                return Err(CommandError::user("refusing to save to terminal. Use -o flag or redirect"));
            }
            let mut out = BufWriter::with_capacity(1 << 18, stdout.lock());
            archive(&store, &saved, format, &mut out)?;
            out.flush().map_err(|error| CommandError::host(format!("save: write: {}", reason(&error))))?;
        }
    }
    for (image, _) in &images {
        let to = args.output.as_deref().map(Path::display);
        context.note_image("save", &image.id, to.map(|path| path.to_string()).unwrap_or_default());
    }
    Ok(0)
}

fn archive(store: &ImageStore, saved: &[Saved<'_>], format: Format, out: &mut dyn Write) -> Result<(), CommandError> {
    let written = match format {
        Format::OciArchive => save::oci_archive(store, saved, out),
        _ => save::docker_archive(store, saved, out),
    };
    written.map_err(|error| CommandError::host(error).while_doing("save"))
}

/// Writes beside the file and renames: a save that fails leaves what was there.
pub(crate) fn to_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let fail = |error: std::io::Error| CommandError::host(format!("save: {}: {}", path.display(), reason(&error)));
    // A device or a pipe is written as it is.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = BufWriter::with_capacity(1 << 18, fs::File::create(path).map_err(fail)?);
        write(&mut out)?;
        return out.flush().map_err(fail);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = fs::File::create(&temporary).map_err(fail).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        write(&mut out)?;
        out.flush().map_err(fail)?;
        fs::rename(&temporary, path).map_err(fail)
    });
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// The images named, each once, with the names that were asked for.
fn choose(store: &ImageStore, names: &[String]) -> Result<Vec<(Image, Vec<Reference>)>, CommandError> {
    let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
    for name in names {
        let image = store.resolve(name)?.ok_or_else(|| CommandError::user(format!("{name}: image not known")))?;
        let spellings = [name.clone(), format!("localhost/{name}")];
        let wanted = spellings
            .iter()
            .filter_map(|text| Some(Reference::parse(text).ok()?.with_default_tag()))
            .find(|reference| image.names.contains(reference));
        match images.iter_mut().find(|(other, _)| other.id == image.id) {
            Some((_, others)) => others.extend(wanted.filter(|name| !others.contains(name))),
            None => images.push((image, wanted.into_iter().collect())),
        }
    }
    Ok(images)
}
