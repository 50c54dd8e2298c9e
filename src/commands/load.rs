//! `coracle load`: images from an archive of `save`, docker's or OCI's, or from a layout directory.

use std::path::PathBuf;

use storage::image::ImageStore;
use storage::transport::{PullOptions, load};

use super::pull::{local_options, parse_platform, tell_of_platform};
use super::{Context, Outcome};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle load -i image.tar
  coracle load < image.tar.gz"#;

/// Load image(s) from a tar archive
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Read from a file or directory instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Print nothing but the names of the images
    #[arg(short, long)]
    quiet: bool,
    /// Which image of those for several platforms, OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

/// Runs `coracle load`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    use std::io::IsTerminal;
    if args.input.is_none() && std::io::stdin().is_terminal() {
        return Err(CommandError::user("cannot read from terminal, use command-line redirection or the --input flag"));
    }
    let platform = parse_platform(args.platform.as_deref())?;
    let (mapping, options) = local_options();
    let options = PullOptions { platform, ..options };
    let store = ImageStore::open(&context.layout);
    let names = super::in_userns_with_output(&mapping, || {
        let progress = crate::cli::progress::for_terminal(args.quiet);
        let spool = context.layout.images();
        storage::state::layout::create_dir(&spool)?;
        let sources = match &args.input {
            Some(path) => load::open_all(path, &spool),
            None => load::open_all_from(std::io::stdin().lock(), &spool),
        };
        let mut names = String::new();
        for source in sources.map_err(refused)? {
            let image =
                storage::transport::pull_from(&store, source.as_ref(), &options, progress.as_ref()).map_err(refused)?;
            tell_of_platform(&image, &options);
            let from = args.input.as_deref().map(std::path::Path::display);
            context.note_image("loadfromarchive", &image.id, from.map(|path| path.to_string()).unwrap_or_default());
            let shown = source.names();
            if shown.is_empty() {
                names.push_str(&format!("Loaded image: {}\n", image.id));
            }
            for name in shown {
                names.push_str(&format!("Loaded image: {name}\n"));
            }
        }
        Ok(names)
    })?;
    output::print(&names)?;
    Ok(0)
}

fn refused(error: storage::transport::TransportError) -> CommandError {
    CommandError::host(error).while_doing("load")
}
