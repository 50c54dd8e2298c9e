//! `coracle run`: create, start, attach.

use std::io::Write;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use runtime::monitor::attach::{Client, Manners, Outcome as Ended};
use runtime::monitor::detach_keys::DetachKeys;
use runtime::process::pty::{RawMode, Winsize, is_terminal};
use storage::state::container::Record;
use storage::state::request::Stream;

use super::descriptors::DescriptorOptions;
use super::{Context, Outcome, create, pull};
use crate::cli::container_options::ContainerOptions;
use crate::cli::options::run::RunOptions;
use crate::config;
use crate::error::{CommandError, FAILED};
use crate::role::Persona;
use crate::supervisor::{Birth, FirstClient, bundle};

const EXAMPLES: &str = r#"Examples:
  coracle run --rm -it busybox sh                       # a shell, gone when it ends
  coracle run -d --name web -p 8080:80 nginx             # in the background, with a port
  coracle run --rm -v .:/src -w /src golang go test      # on the files of this directory
  coracle run --pull=lazy registry.example/team/large    # starts while its image still arrives
  coracle run --rm -e NAME=value --env-file .env IMAGE env"#;

/// Run a command in a new container
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    descriptors: DescriptorOptions,
    #[command(flatten)]
    registry: pull::RegistryArgs,
    #[command(flatten)]
    container: ContainerOptions,
}

/// Runs `coracle run`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let keys = parse_detach_keys(args.run.detach_keys.as_deref())?;
    let inherited = args.descriptors.take()?;
    let mut record = create::new_record(context, &args.container, &args.registry, true)?;
    record.request.remove |= args.run.rmi;
    super::start::start_required(context, &record.request)?;
    let name = create::claim_place(context, &args.container)?;
    let mut prepared = create::prepare(context, record)?;
    prepared.inherited = inherited;
    let image_told = match &mut prepared.verdict {
        Some(verdict) if !args.run.detach => Some(verdict.add_teller().map_err(CommandError::host)?),
        _ => None,
    };
    let record = prepared.record.clone();
    let attach = if args.run.detach { None } else { Some(first_client(context, &record, keys)?) };
    if attach.is_some() {
        block_proxied_signals();
    }
    // What fails from here on leaves nothing: the container never was.
    let forget_volumes = |_: &CommandError| bundle::forget_volumes(&context.layout, &record.anonymous_volumes);
    create::write_cidfile(&record).inspect_err(forget_volumes)?;
    let launched = prepared.launch(context, Birth::New { name }, attach.clone());
    // After the fork, which must not inherit the duty to restore the terminal; before the container's first words.
    let raw = match &attach {
        Some(client) if launched.is_ok() => enter_raw_mode(&record, client)?,
        _ => None,
    };
    let started = launched.and_then(|running| running.wait_started());
    let (control, _supervisor) = started.inspect_err(|error| {
        if let Some(path) = &record.request.cidfile {
            let _ = std::fs::remove_file(path);
        }
        forget_volumes(error);
    })?;
    match control {
        None => {
            // A reader that went away does not make the start a failure.
            let _ = writeln!(std::io::stdout(), "{}", record.id);
            super::boot::explain_lingering(context);
            if args.run.rmi {
                eprintln!("Warning: --rmi is ignored: this command does not stay until the container ends");
            }
            Ok(0)
        }
        Some(control) => {
            let code = stay(Client::inherited(control).with_raw_mode(raw), &record, args.run.sig_proxy)?;
            if let Some(why) = image_told.filter(|_| code == FAILED).and_then(why_refused) {
                return Err(CommandError::host(why));
            }
            if args.run.rmi {
                remove_image(context, &record)?;
            }
            Ok(code)
        }
    }
}

/// What the supervisor has to say of an image that came while its container ran.
fn why_refused(mut told: std::io::PipeReader) -> Option<String> {
    let mut fds = [PollFd::new(told.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).ok().filter(|ready| *ready > 0)?;
    let mut line = vec![0; 16 << 10];
    let len = std::io::Read::read(&mut told, &mut line).ok().filter(|len| *len > 0)?;
    line.truncate(len);
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// `--rmi`: the image goes with its container, unless others are made of it.
fn remove_image(context: &Context, record: &Record) -> Result<(), CommandError> {
    let Some(image) = &record.image else { return Ok(()) };
    // Detached from: it still runs, and needs it.
    if storage::state::container::load(&context.layout, &record.id)?.is_some() {
        super::lifecycle::wait(context, record, super::lifecycle::Until::Stopped)?;
    }
    match super::rmi::remove_unused(context, &image.id) {
        Ok(()) => {}
        Err(error) => error.print(),
    }
    Ok(())
}

/// Parses `--detach-keys`: docker's default without it, none when it is empty.
pub(crate) fn parse_detach_keys(text: Option<&str>) -> Result<DetachKeys, CommandError> {
    let configured = if text.is_none() { config::detach_keys()? } else { None };
    match text.or(configured.as_deref()) {
        None => Ok(DetachKeys::default()),
        Some("") => Ok(DetachKeys::none()),
        Some(text) => text.parse().map_err(|error| CommandError::user(format!("--detach-keys {text}: {error}"))),
    }
}

/// Signals that arrive between the fork and the loop of the client must reach the container, not end us.
pub(crate) fn block_proxied_signals() {
    let _ = runtime::process::signal::SignalSource::block(&runtime::process::signal::proxied());
}

/// What the command offers the container as its first client.
pub(crate) fn first_client(
    context: &Context,
    record: &Record,
    detach_keys: DetachKeys,
) -> Result<FirstClient, CommandError> {
    let request = &record.request;
    let stdin = std::io::stdin();
    let has_terminal = is_terminal(stdin.as_fd());
    if request.tty && request.stdin_open && !has_terminal {
        match context.persona {
            Persona::Docker => {
                return Err(CommandError::user("the input device is not a TTY").with_code(1));
            }
            Persona::Podman => {
                eprintln!("The input device is not a TTY. The --tty and --interactive flags might not work properly")
            }
        }
    }
    let wants = |stream| request.attach.is_empty() || request.attach.contains(&stream);
    let size = [stdin.as_fd(), std::io::stdout().as_fd()].into_iter().find_map(|fd| Winsize::of(fd).ok());
    Ok(FirstClient {
        stdin: request.stdin_open && wants(Stream::Stdin),
        stdout: wants(Stream::Stdout),
        stderr: wants(Stream::Stderr) && !request.tty,
        detach_keys: if has_terminal { detach_keys } else { DetachKeys::none() },
        size: if request.tty { size } else { None },
    })
}

/// Puts the terminal into raw mode if the container shall have its keys.
pub(crate) fn enter_raw_mode(record: &Record, client: &FirstClient) -> Result<Option<RawMode>, CommandError> {
    let stdin = std::io::stdin();
    let wanted = record.request.tty && client.stdin && is_terminal(stdin.as_fd());
    wanted
        .then(|| RawMode::enter(stdin.as_fd()))
        .transpose()
        .map_err(|errno| CommandError::host(format!("terminal: {}", errno.desc().to_lowercase())))
}

/// Stays attached until the container ends or lets go.
pub(crate) fn stay(client: Client, record: &Record, sig_proxy: bool) -> Outcome {
    let stdin = std::io::stdin();
    let raw = record.request.tty && record.request.stdin_open && is_terminal(stdin.as_fd());
    let manners = Manners { terminal: raw.then(|| stdin.as_fd()), sig_proxy };
    let lost = |descriptor: u8, errno: i32| {
        let errno = nix::errno::Errno::from_raw(errno);
        eprintln!("Error: write to descriptor {descriptor}: {}", errno.desc().to_lowercase());
    };
    match client.run(manners, lost).map_err(CommandError::host)? {
        Ended::Exited(exit) => Ok(exit.code()),
        Ended::Detached => Ok(0),
        Ended::Interrupted(signal) => Ok(128 + signal.number() as u8),
        Ended::Lost => Err(CommandError::host(format!("the supervisor of container {} was killed", record.id.short()))),
    }
}
