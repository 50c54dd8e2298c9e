//! A person at a terminal: a real pty whose slave is the controlling terminal of the command.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::ttyname;

use super::command::Coracle;

/// A terminal with a command in it.
pub(crate) struct Terminal {
    keyboard: File,
    slave: OwnedFd,
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Terminal {
    /// Starts the command in a terminal of 24 lines and 80 columns.
    #[track_caller]
    pub(crate) fn start(command: Coracle) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pty");
        // setsid --ctty makes the terminal the controlling one, as a login does.
        let mut command = command.under("setsid --ctty --wait").env("TERM", "xterm").to_command();
        let side = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid is there");
        let keyboard = File::from(pty.master);
        let mut output = keyboard.try_clone().expect("a descriptor");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = output.read(&mut bytes) {
                if count == 0 {
                    break;
                }
                written.lock().expect("nothing panics with the lock").extend_from_slice(&bytes[..count]);
            }
        });
        Self { keyboard, slave: pty.slave, child, screen, seen: 0 }
    }

    /// Types.
    #[track_caller]
    pub(crate) fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// Waits until this text is on the screen, after what was expected before.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let screen = self.screen.lock().expect("nothing panics with the lock").clone();
            let new = &screen[self.seen..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            let shown = String::from_utf8_lossy(new);
            assert!(Instant::now() < deadline, "{text:?} does not appear; the terminal shows: {shown:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes the size; the kernel tells the foreground job by SIGWINCH.
    #[track_caller]
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let name = ttyname(&self.slave).expect("the slave has a name");
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let mut stty = std::process::Command::new("stty");
        let stty = stty.arg("-F").arg(name).args(["rows", &rows, "cols", &columns]);
        assert!(stty.status().expect("stty is there").success());
    }

    /// How the terminal is set now.
    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.slave).expect("it is a terminal")
    }

    /// Does the terminal edit lines and echo, as a shell leaves it?
    pub(crate) fn is_cooked(&self) -> bool {
        self.settings().local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// The process that was started (setsid executes the command in its place).
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status of the command, as a shell shows it.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            let screen = self.screen.lock().expect("nothing panics with the lock").clone();
            let screen = String::from_utf8_lossy(&screen).into_owned();
            assert!(Instant::now() < deadline, "the command does not end; the terminal shows: {screen:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
