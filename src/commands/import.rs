//! `coracle import`: an image from the tar of a root file system.

use std::fs::File;
use std::io::{IsTerminal, Read};

use storage::image::ImageStore;
use storage::transport::import::{ImportOptions, import};

use super::change::Changed;
use super::pull::{local_options, parse_platform};
use super::{Context, Outcome};
use crate::cli::options::platform::PlatformOptions;
use crate::cli::output;
use crate::error::{CommandError, reason};

const EXAMPLES: &str = r#"Examples:
  coracle import root.tar.gz localhost/root:1
  coracle import -c 'CMD ["/bin/sh"]' - localhost/root < root.tar"#;

/// Import a tarball to create a filesystem image
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// The tar, of any supported compression; - is standard input
    #[arg(value_name = "PATH")]
    path: String,
    /// Name of the image
    #[arg(value_name = "REFERENCE")]
    reference: Option<String>,
    /// Apply a Dockerfile instruction to the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Commit message of the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    #[command(flatten)]
    platform: PlatformOptions,
    /// Print nothing but the image's ID
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `coracle import`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.path.starts_with("http://") || args.path.starts_with("https://") {
        return Err(CommandError::user(format!(
            "import {}: fetch it first: curl -L {0} | coracle import -",
            args.path
        )));
    }
    let name = args.reference.as_deref().map(super::tag::local_name).transpose()?;
    let mut changed = Changed::default();
    for change in &args.change {
        changed.apply(change).map_err(|why| CommandError::user(format!("--change \"{change}\": {why}")))?;
    }
    let wanted = ImportOptions {
        beyond_oci: changed.beyond_oci(),
        config: changed.config,
        message: args.message.clone(),
        names: name.into_iter().collect(),
        platform: parse_platform(args.platform.asked().map_err(CommandError::user)?.as_deref())?,
    };
    let (mapping, options) = local_options();
    let store = ImageStore::open(&context.layout);
    let id = super::in_userns_with_output(&mapping, || {
        storage::state::layout::create_dir(&context.layout.images())?;
        let stream: Box<dyn Read> = match args.path.as_str() {
            "-" if std::io::stdin().is_terminal() => {
                return Err(CommandError::user("cannot read from terminal, use command-line redirection"));
            }
            "-" => Box::new(std::io::stdin().lock()),
            path => Box::new(
                File::open(path).map_err(|error| CommandError::user(format!("import {path}: {}", reason(&error))))?,
            ),
        };
        let progress = crate::cli::progress::for_terminal(args.quiet);
        let image = import(&store, stream, &wanted, &options, progress.as_ref()).map_err(CommandError::host)?;
        context.note_image("import", &image.id, args.reference.as_deref().unwrap_or_default());
        Ok(image.id.to_string())
    })?;
    output::print_line(&id)?;
    Ok(0)
}
