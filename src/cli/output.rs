//! Data on stdout, notes on stderr.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::process::pty::Winsize;

use crate::error::{CommandError, reason};

/// Writes data to stdout. A closed pipe is success: whoever read it has enough.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CommandError::host(format_args!("write to standard output: {}", reason(&error)))),
    }
}

/// Writes one line of data.
pub(crate) fn print_line(text: impl std::fmt::Display) -> Result<(), CommandError> {
    print(&format!("{text}\n"))
}

/// The width of the terminal that a table is to fit; none where nobody looks, or everything was asked for.
pub(crate) fn table_width() -> Option<usize> {
    let stdout = io::stdout();
    if WHOLE.load(Ordering::Relaxed) || !stdout.is_terminal() {
        return None;
    }
    let size = Winsize::of(&stdout).ok()?;
    (size.cols > 0).then(|| size.cols.into())
}

/// `--no-trunc`: no table is cut any more.
pub(crate) fn show_all() {
    WHOLE.store(true, Ordering::Relaxed);
}

static WHOLE: AtomicBool = AtomicBool::new(false);

/// Shows a warning and asks whether to go on; anything but yes is no.
pub(crate) fn confirm(warning: &str) -> Result<bool, CommandError> {
    print(&format!("{warning}Are you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| CommandError::host(format_args!("read the answer: {}", reason(&error))))?;
    if answer.is_empty() && io::stdin().is_terminal() {
        // The shell's prompt shall not stand on our line after ^D.
        print("\n")?;
    }
    Ok(answer.trim().starts_with(['y', 'Y']))
}
