//! What the container has to do with systemd.

use clap::Args;
use storage::state::request::{Notify, Request, Service};

use crate::cli::parse::{Parsed, size};
use crate::cli::usage::{Checked, maybe, one};

/// Options of systemd in the container, and round it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServiceOptions {
    /// Give systemd what it needs: true (if it is the command), always or false
    #[arg(long, value_name = "MODE", default_value = "true")]
    pub(crate) systemd: String,
    /// Size of the temporary file systems that systemd gets, such as 64m; 0 for no limit
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size_systemd: Option<String>,
    /// Who tells systemd outside that the container is ready: container, conmon, healthy or ignore
    #[arg(long, value_name = "MODE", default_value = "container")]
    pub(crate) sdnotify: String,
}

/// When a container is made ready for systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Systemd {
    /// Never.
    Never,
    /// If its command is systemd.
    ByCommand,
    /// Whatever its command is.
    Always,
}

impl ServiceOptions {
    pub(crate) fn apply(&self, request: &mut Request) -> Checked<Systemd> {
        request.service = Service {
            systemd: false,
            systemd_tmpfs_bytes: maybe("--shm-size-systemd", self.shm_size_systemd.as_ref(), size::bytes)?
                .filter(|bytes| *bytes > 0),
            notify: one("--sdnotify", &self.sdnotify, notify)?,
        };
        one("--systemd", &self.systemd, systemd)
    }
}

fn systemd(value: &str) -> Parsed<Systemd> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(Systemd::ByCommand),
        "always" => Ok(Systemd::Always),
        "false" => Ok(Systemd::Never),
        _ => Err("must be true, false or always".to_owned()),
    }
}

/// The word of `--sdnotify`.
pub(crate) fn notify(value: &str) -> Parsed<Notify> {
    let all = [Notify::Container, Notify::Conmon, Notify::Healthy, Notify::Ignore];
    let found = all.into_iter().find(|mode| mode.as_str() == value);
    found.ok_or_else(|| "must be container, conmon, healthy or ignore".to_owned())
}

impl Systemd {
    /// Whether a container with this argument vector gets what systemd needs. A shell that an image puts before it
    /// (`/bin/sh -c`) is looked past.
    pub(crate) fn applies_to(self, args: &[String]) -> bool {
        let command = match args {
            [shell, option, command, ..] if shell == "/bin/sh" && option == "-c" => Some(command),
            args => args.first(),
        };
        let is_systemd = command.is_some_and(|command| {
            matches!(command.as_str(), "/sbin/init" | "/usr/sbin/init" | "/usr/local/sbin/init")
                || command.rsplit('/').next() == Some("systemd")
        });
        match self {
            Self::Never => false,
            Self::ByCommand => is_systemd,
            Self::Always => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_known_by_its_names() {
        let applies = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(|word| (*word).to_owned()).collect();
            Systemd::ByCommand.applies_to(&args)
        };
        for args in [
            &["/sbin/init"][..],
            &["/lib/systemd/systemd", "--user"],
            &["systemd"],
            &["/bin/sh", "-c", "/usr/sbin/init"],
        ] {
            assert!(applies(args), "{args:?}");
        }
        for args in [&["init"][..], &["/bin/sh", "-c", "echo /sbin/init"], &["/sbin/init.sh"], &[]] {
            assert!(!applies(args), "{args:?}");
        }
        assert!(Systemd::Always.applies_to(&["sh".to_owned()]));
        assert!(!Systemd::Never.applies_to(&["/sbin/init".to_owned()]));
    }
}
