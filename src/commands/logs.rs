//! `logs`: what containers have written, and with `-f` what they go on to write.

mod journal;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use runtime::monitor::log::{Entry, Follow, Printer, ReadError, Reader, Selection as Span, Stream, Timestamp, Visitor};
use runtime::process::pidfd_open;
use storage::state::container::Record;
use storage::state::request::LogDriver;
use storage::state::status;

use super::select::{Selected, Selection};
use super::{Context, Outcome};
use crate::error::{CommandError, reason};
use crate::supervisor::log_file;

const EXAMPLES: &str = r#"Examples:
  coracle logs --tail 20 web
  coracle logs -f --since 10m web"#;

/// Fetch the logs of one or more containers
///
/// Retrieves logs for one or more containers. This does not guarantee execution order when combined with coracle run
/// (i.e., your run may not have generated any logs at the time you execute coracle logs).
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Output the containers with different colors in the log (without effect)
    #[arg(long, hide = true)]
    color: bool,
    /// Show extra details (without effect)
    #[arg(long, hide = true)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Output the names of containers in the log instead of their IDs, where there are several
    #[arg(short, long)]
    names: bool,
    /// Show logs since TIMESTAMP
    #[arg(long, value_name = "TIMESTAMP")]
    since: Option<String>,
    /// Output the specified number of LINES at the end of the logs, all if negative
    #[arg(long, value_name = "LINES", default_value = "-1", allow_hyphen_values = true)]
    tail: String,
    /// Output the timestamps in the log
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs until TIMESTAMP
    #[arg(long, value_name = "TIMESTAMP")]
    until: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.containers.is_empty() && !args.latest {
        return Err(CommandError::user("specify at least one container name or ID to log"));
    }
    let now = Timestamp::now();
    let moment = |text: &Option<String>| {
        text.as_deref().map(|text| Timestamp::parse_moment(text, now)).transpose().map_err(CommandError::user)
    };
    let span =
        Span { tail: tail(&args.tail)?, since: moment(&args.since)?, until: moment(&args.until)?, ..Span::default() };
    let selection = Selection { names: &args.containers, latest: args.latest, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    // Of several containers each line says whose it is. What holds a pod together says nothing.
    let several = selected.iter().filter(|one| !one.record.request.infra).count() > 1;
    // Following, one container is shown after the other: docker takes one, podman mixes them.
    super::select::each(&selected, errors, |one| show(&args, context, &span, one, several))
}

/// `all`, a number, or less than none for all.
fn tail(text: &str) -> Result<Option<u64>, CommandError> {
    if text == "all" {
        return Ok(None);
    }
    let lines: i64 = text.parse().map_err(|_| {
        CommandError::user(format_args!("invalid argument {text:?} for \"--tail\" flag: must be a number or \"all\""))
    })?;
    Ok(u64::try_from(lines).ok())
}

fn show(args: &Args, context: &Context, span: &Span, one: &Selected, several: bool) -> Result<(), CommandError> {
    let record = &one.record;
    let driver = record.request.log.driver;
    let Some(path) = log_file(&context.layout, record) else {
        if driver == LogDriver::Journald {
            return show_journal(args, context, span, record);
        }
        return Err(CommandError::user(format_args!(
            "this container is using the '{}' log driver, cannot read logs: this container is not logging output",
            driver.as_str()
        )));
    };
    let (directory, name) = (path.parent().unwrap_or(&path), path.file_name().and_then(|name| name.to_str()));
    let opened = File::open(directory)
        .map_err(|error| CommandError::host(format_args!("open {}: {}", directory.display(), reason(&error))))?;
    let reader = Reader::new(opened.as_fd(), name.unwrap_or("log")).map_err(CommandError::host)?;
    let writer = if args.follow { writer(context, record)? } else { None };
    let stdout = io::stdout();
    let follow =
        writer.as_ref().map(|writer| Follow { writer_ended: writer.as_fd(), reader_gone: Some(stdout.as_fd()) });
    let shown = if several {
        let name = if args.names { record.name.as_str() } else { record.id.short() };
        let mut named = Named { name: name.to_owned(), timestamps: args.timestamps };
        reader.read(span, follow, &mut named)
    } else {
        let printer = Printer::new(BufWriter::new(io::stdout()), BufWriter::new(io::stderr()), args.timestamps);
        reader.read(span, follow, &mut InOrder { printer, last: None })
    };
    match shown {
        Ok(()) => Ok(()),
        Err(ReadError::Show(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CommandError::host(error)),
    }
}

fn show_journal(args: &Args, context: &Context, span: &Span, record: &Record) -> Result<(), CommandError> {
    let writer = if args.follow { writer(context, record)? } else { None };
    let journal = journal::Journal { record, span };
    let shown = if args.names {
        let mut named = Named { name: record.name.clone(), timestamps: args.timestamps };
        journal.read(writer.as_ref(), &mut named)
    } else {
        let printer = Printer::new(BufWriter::new(io::stdout()), BufWriter::new(io::stderr()), args.timestamps);
        journal.read(writer.as_ref(), &mut InOrder { printer, last: None })
    };
    match shown {
        Err(error) if error.is_printed() => Ok(()),
        shown => shown,
    }
}

/// The supervisor, readable once nobody writes to the log any more; `None` if that is so already.
fn writer(context: &Context, record: &Record) -> Result<Option<OwnedFd>, CommandError> {
    let observed = status::observe(&context.layout, record)?;
    Ok(match (observed.state.is_alive(), observed.supervisor) {
        (true, Some(pid)) => pidfd_open(pid).ok(),
        _ => None,
    })
}

/// Flushes one stream before the other is written: where both lead to one terminal, lines stay in order.
struct InOrder<P> {
    printer: P,
    last: Option<Stream>,
}

impl<P: Visitor> Visitor for InOrder<P> {
    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if self.last.replace(entry.stream).is_some_and(|last| last != entry.stream) {
            self.printer.idle()?;
        }
        self.printer.entry(entry)
    }

    fn idle(&mut self) -> io::Result<()> {
        self.printer.idle()
    }
}

/// Prints each line behind the name or the id of its container.
struct Named {
    name: String,
    timestamps: bool,
}

impl Visitor for Named {
    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let mut line = Vec::new();
        if entry.starts_line {
            line.extend_from_slice(self.name.as_bytes());
            line.push(b' ');
            if self.timestamps {
                entry.time.write_with_offset(entry.offset_s, &mut line);
                line.push(b' ');
            }
        }
        line.extend_from_slice(entry.text);
        if entry.ends_line {
            line.push(b'\n');
        }
        match entry.stream {
            Stream::Stdout => io::stdout().write_all(&line),
            Stream::Stderr => io::stderr().write_all(&line),
        }
    }
}
