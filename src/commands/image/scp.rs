//! `image scp`: an image from one machine to another, through ssh.
//!
//! ```text
//! [ssh SOURCE] save IMAGE ── archive ──> [ssh DESTINATION] load
//! ```
//! On the other machine coracle, podman or docker does it, whichever is there first. Nothing is written in between.

use std::process::{Child, Command, Stdio};

use crate::cli::printable::Printable;
use crate::commands::{Context, Outcome};
use crate::error::{CommandError, reason};

const EXAMPLES: &str = "Examples:
  coracle image scp web:1 user@host::
  coracle image scp user@host::web:1
  coracle image scp one.example::web:1 two.example::";

/// Securely copy an image from one host to another
///
/// HOST is what ssh knows: a name, USER@HOST, or ssh://USER@HOST:PORT. The image keeps its name. An IMAGE without HOST is one of
/// this machine, and a destination that is not given is this machine. The other machine needs coracle, podman or docker.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Suppress the output
    #[arg(short, long)]
    quiet: bool,
    /// What to copy: IMAGE, or HOST::IMAGE
    #[arg(value_name = "[HOST::]IMAGE")]
    source: String,
    /// Where to: HOST::
    #[arg(value_name = "HOST::")]
    destination: Option<String>,
}

/// A machine as ssh is told of it.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    destination: String,
    port: Option<u16>,
}

impl Host {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let refused = |why: &str| CommandError::user(format_args!("invalid host {}: {why}", Printable::line(text)));
        let (destination, port) = match text.strip_prefix("ssh://") {
            None => (text, None),
            Some(rest) => {
                let rest = rest.split('/').next().unwrap_or_default();
                match rest.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
                    Some((host, port)) => (host, Some(port.parse().map_err(|_| refused("the port is not a number"))?)),
                    None => (rest, None),
                }
            }
        };
        if destination.is_empty() {
            return Err(refused("it is empty"));
        }
        // What begins so would be an option of ssh.
        if destination.starts_with('-') || destination.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(refused("it is not the name of a machine"));
        }
        Ok(Self { destination: destination.to_owned(), port })
    }

    fn ssh(&self, script: &str) -> Command {
        let mut command = Command::new("ssh");
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        // Without a terminal, so that the archive stays what it is.
        command.arg("-T").arg("--").arg(&self.destination).arg(script);
        command
    }
}

/// One end: this machine, or another.
struct End {
    host: Option<Host>,
    image: String,
}

impl End {
    fn parse(text: &str) -> Result<Self, CommandError> {
        match text.split_once("::") {
            None => Ok(Self { host: None, image: text.to_owned() }),
            Some((host, image)) => Ok(Self { host: Some(Host::parse(host)?), image: image.to_owned() }),
        }
    }

    fn shown(&self) -> &str {
        self.host.as_ref().map_or("this machine", |host| &host.destination)
    }

    /// A command of coracle's here, or of what is there.
    fn command(&self, words: &[&str], context: &Context) -> Result<Command, CommandError> {
        match &self.host {
            Some(host) => Ok(host.ssh(&remote(words))),
            None => {
                let own = std::env::current_exe().map_err(|error| {
                    CommandError::host(format_args!("cannot find the program itself: {}", reason(&error)))
                })?;
                let mut command = Command::new(own);
                command.arg("--root").arg(context.layout.data_dir());
                command.arg("--runroot").arg(context.layout.runtime_dir()).args(words);
                Ok(command)
            }
        }
    }
}

/// A script for any shell that runs the words there, with whatever there is.
fn remote(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    let words = words.join(" ");
    // A shell that is not a login shell knows little of where users install things.
    format!(
        "PATH=\"$PATH:$HOME/.local/bin:$HOME/.cargo/bin:/usr/local/bin\"; for p in coracle podman docker; do \
         if command -v $p >/dev/null 2>&1; then exec $p {words}; fi; done; \
         echo 'neither coracle, podman nor docker is here' >&2; exit 127"
    )
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let source = End::parse(&args.source)?;
    let destination = End::parse(args.destination.as_deref().unwrap_or_default())?;
    if source.image.is_empty() {
        return Err(CommandError::user("an image must be named: [HOST::]IMAGE"));
    }
    if !destination.image.is_empty() {
        return Err(CommandError::user(format_args!(
            "invalid destination {}: an image keeps its name, so it is HOST:: alone",
            Printable::line(args.destination.as_deref().unwrap_or_default())
        )));
    }
    if source.host.is_none() && destination.host.is_none() {
        return Err(CommandError::user("one of the two must be another machine: HOST::IMAGE, or a destination HOST::"));
    }
    if source.host.is_none()
        && storage::image::store::ImageStore::open(&context.layout).resolve(&source.image)?.is_none()
    {
        return Err(super::images::not_known(&source.image));
    }
    let quiet: &[&str] = if args.quiet { &["-q"] } else { &[] };
    let mut saving = source.command(&[&["save"], quiet, &[source.image.as_str()]].concat(), context)?;
    let mut loading = destination.command(&[&["load"], quiet].concat(), context)?;
    let mut sender = start(saving.stdin(Stdio::null()).stdout(Stdio::piped()), source.shown())?;
    let archive = sender.stdout.take().map_or_else(Stdio::null, Stdio::from);
    if args.quiet {
        loading.stdout(Stdio::null());
    }
    let receiver = start(loading.stdin(archive), destination.shown());
    // Or the sender would wait for a reader that is us.
    drop(loading);
    let received = receiver.and_then(|receiver| finish(receiver, "load", destination.shown()));
    let sent = finish(sender, "save", source.shown());
    // Who sends fails as well when nobody receives: the receiver knows why, unless the archive never came.
    sent.and(received).map(|()| 0)
}

fn start(command: &mut Command, host: &str) -> Result<Child, CommandError> {
    command.spawn().map_err(|error| {
        let program = Printable::line(&command.get_program().to_string_lossy()).to_string();
        let failed = CommandError::host(format_args!("cannot reach {host}: cannot run {program}: {}", reason(&error)));
        if program == "ssh" { failed.hinted("install openssh-client") } else { failed }
    })
}

fn finish(mut child: Child, what: &str, host: &str) -> Result<(), CommandError> {
    let status = child.wait().map_err(|error| CommandError::host(reason(&error)))?;
    match status.success() {
        true => Ok(()),
        false => Err(CommandError::host(format_args!("{what} on {} failed: {status}", Printable::line(host)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_ssh_knows_and_never_its_options() {
        let host = |text| Host::parse(text).ok();
        let of = |destination: &str, port| Some(Host { destination: destination.to_owned(), port });
        assert_eq!(host("user@host"), of("user@host", None));
        assert_eq!(host("ssh://user@host:2222"), of("user@host", Some(2222)));
        assert_eq!(host("ssh://host/run/podman.sock"), of("host", None));
        for wrong in ["", "-oProxyCommand=sh", "a b", "ssh://h:port", "a\nb"] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_reach_the_other_shell_as_they_are() {
        assert!(remote(&["save", "it's; rm -rf /"]).contains(r"exec $p 'save' 'it'\''s; rm -rf /'"));
    }
}
