//! Asking for what nobody else should see.

use std::io::{self, BufRead, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::error::{CommandError, reason};

/// The exit status of a command that was interrupted.
const INTERRUPTED: u8 = 130;

/// Asks for one line on standard input.
pub(crate) fn line(question: &str) -> Result<String, CommandError> {
    super::output::print(question)?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let len = read.map_err(|error| CommandError::host(reason(&error)))?;
    if len == 0 {
        return Err(CommandError::user("end of input"));
    }
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks for one line that the terminal on standard input does not show.
pub(crate) fn secret(question: &str) -> Result<String, CommandError> {
    super::output::print(question)?;
    let silent = Silent::new()?;
    let mut bytes = Vec::new();
    // Byte by byte: the terminal gives keys, not lines, so that an interrupt can put it right before it ends us.
    for byte in io::stdin().lock().bytes() {
        match byte.map_err(|error| CommandError::host(reason(&error)))? {
            b'\n' | b'\r' => break,
            0x03 => {
                drop(silent);
                println!();
                return Err(CommandError::printed(INTERRUPTED));
            }
            0x04 if bytes.is_empty() => break,
            0x08 | 0x7f => {
                // One character, whatever its bytes.
                while bytes.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            0x15 => bytes.clear(),
            byte => bytes.push(byte),
        }
    }
    drop(silent);
    println!();
    let _ = io::stdout().flush();
    String::from_utf8(bytes).map_err(|_| CommandError::user("not text"))
}

/// A terminal that shows nothing, for as long as it lives.
struct Silent {
    before: Termios,
}

impl Silent {
    fn new() -> Result<Self, CommandError> {
        let stdin = io::stdin();
        let failed = |errno: nix::errno::Errno| match errno {
            nix::errno::Errno::ENOTTY => CommandError::user("standard input is not a terminal"),
            errno => CommandError::user(errno.desc().to_lowercase()),
        };
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_flags &= !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}
