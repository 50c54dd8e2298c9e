//! `unshare`: a command as root of the user namespace that containers live in.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use runtime::userns::{self, Mapping};

use super::{Context, Outcome};
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle unshare                        # a shell as root of the user namespace
  coracle unshare ls -ln ~/.local/share/coracle/volumes"#;

/// Run a command in a modified user namespace
///
/// The command sees the files of containers and volumes as their root does, and may mount. Without one, the user's shell is started.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Join the rootless network namespace (there is none)
    #[arg(long, hide = true)]
    rootless_netns: bool,
    /// The command with its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let mut command = args.command;
    if command.is_empty() {
        command.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    }
    let name = command[0].to_string_lossy().into_owned();
    let words = command
        .into_iter()
        .map(|word| CString::new(word.into_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CommandError::user("an argument has a zero byte"))?;
    // What runs inside shall find the same files, although it is root there.
    let runtime_dir = context.layout.runtime_dir();
    let runtime_dir =
        runtime_dir.ends_with("coracle").then(|| runtime_dir.parent().map(std::path::Path::to_owned)).flatten();
    let exit = userns::run_in(&Mapping::of_user(), move || {
        // For `coracle mount`, and whatever else the command mounts: it goes with the last process inside.
        if let Err(error) = runtime::mount::rootfs::own_namespace() {
            CommandError::host(error).print();
            return 125;
        }
        let mut child = std::process::Command::new(OsString::from_vec(words[0].as_bytes().to_vec()));
        child.args(words.iter().skip(1).map(|word| OsString::from_vec(word.as_bytes().to_vec())));
        if let Some(runtime_dir) = runtime_dir
            && std::env::var_os("XDG_RUNTIME_DIR").is_none()
        {
            child.env("XDG_RUNTIME_DIR", runtime_dir);
        }
        let error = std::os::unix::process::CommandExt::exec(&mut child);
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => 127,
            _ => 126,
        };
        CommandError::user(format_args!("{name}: {}", crate::error::reason(&error))).print();
        code
    })?;
    Ok(exit.code() as u8)
}
