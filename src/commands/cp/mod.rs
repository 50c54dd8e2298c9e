//! `cp`: files between a container and the host, or between two containers.
//!
//! ```text
//! P (CLI)  packs or unpacks on the host, or passes a tar through       [user namespace and mounts of the host]
//!    │ pipe: tar                                     ▲ pipe: "directory" or "file", then an error if there is one
//!    ▼                                               │
//! W        unpacks or packs in the container         [root of its user namespace, in its mounts]
//! ```
//! For a container that runs, W joins its namespaces; for one that does not, W mounts its root in a mount namespace of its
//! own. No name that comes from a container is resolved by P, and none of the host's by W.

pub(crate) mod inside;
mod place;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use storage::layer::IdPolicy;
use storage::layer::compression::Decompressor;
use storage::layer::unpack::{Links, Options, Owner, UnpackError, unpack};
use storage::state::container::{self, Record};

use super::{Context, Outcome};
use crate::error::{CommandError, reason};
use inside::Worker;
use place::Place;

const EXAMPLES: &str = r#"Examples:
  coracle cp web:/var/log/app.log .
  coracle cp conf/. web:/etc/app
  tar c . | coracle cp - web:/srv"#;

/// Copy files/folders between a container and the local filesystem
///
/// SRC or DEST is CONTAINER:PATH for one at least of the two. `-` is a tar archive on stdin or stdout.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Keep owners: the user's become the container's root, those of containers and archives stay
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    archive: Option<bool>,
    /// Follow a symbolic link that is the source (it always is)
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing (nothing is said)
    #[arg(short, long)]
    quiet: bool,
    /// Allow to overwrite directories with non-directories and vice versa
    #[arg(long)]
    overwrite: bool,
    /// Where from, where to
    #[arg(value_name = "[CONTAINER:]PATH")]
    paths: Vec<OsString>,
}

/// What there is to say when nothing was copied: of devices and sockets there are no copies.
const NO_ITEMS: &str = "copied no items: it is neither a file nor a directory";

/// One of the two arguments.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stream,
    Host(Vec<u8>),
    Container(String, Vec<u8>),
}

impl End {
    /// What starts with a slash or a dot is no container.
    fn parse(argument: &[u8]) -> End {
        let colon = argument.iter().position(|byte| *byte == b':');
        match (argument, colon) {
            (b"-", _) => End::Stream,
            ([b'/' | b'.', ..], _) | (_, None | Some(0)) => End::Host(argument.to_vec()),
            (_, Some(colon)) => {
                let (name, path) = argument.split_at(colon);
                End::Container(String::from_utf8_lossy(name).into_owned(), path.get(1..).unwrap_or_default().to_vec())
            }
        }
    }

    fn path(&self) -> &[u8] {
        match self {
            End::Stream => b"-",
            End::Host(path) | End::Container(_, path) => path,
        }
    }
}

/// What unpacking may do.
#[derive(Debug, Clone, Copy)]
struct Rights {
    /// Owners are kept.
    archive: bool,
    overwrite: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let [from, to] = args.paths.as_slice() else {
        return Err(CommandError::user(format!("accepts 2 arg(s), received {}", args.paths.len())));
    };
    let (mut source, mut target) = (End::parse(from.as_bytes()), End::parse(to.as_bytes()));
    // Names of what is read and written anyway; podman knows `-` by them.
    if source.path() == b"/dev/stdin" {
        source = End::Stream;
    }
    if target.path() == b"/dev/stdout" {
        target = End::Stream;
    }
    if source.path().is_empty() || target.path().is_empty() {
        return Err(CommandError::user(format!("invalid arguments {from:?}, {to:?}: you must specify paths")));
    }
    let rights = Rights { archive: args.archive.unwrap_or(false), overwrite: args.overwrite };
    // What is made has the mode of what is copied.
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    match (&source, &target) {
        (End::Container(from, from_path), End::Container(to, to_path)) => {
            let (from, to) = (find(context, from)?, find(context, to)?);
            between(context, (&from, from_path), (&to, to_path), rights)
        }
        (End::Container(from, path), to) => out(context, &find(context, from)?, path, to, rights),
        (from, End::Container(to, path)) => into(context, from, &find(context, to)?, path, rights),
        _ => Err(CommandError::user("must specify at least one container source or destination")
            .hinted("coracle cp CONTAINER:SRC DEST, or coracle cp SRC CONTAINER:DEST")),
    }?;
    Ok(0)
}

fn find(context: &Context, name: &str) -> Result<Record, CommandError> {
    Ok(container::find(&context.layout, name)?)
}

fn pipe() -> Result<(PipeReader, PipeWriter), CommandError> {
    std::io::pipe().map_err(|error| CommandError::host(format!("pipe(): {}", reason(&error))))
}

/// Container to host.
fn out(context: &Context, record: &Record, path: &[u8], to: &End, rights: Rights) -> Result<(), CommandError> {
    let (data, writer) = pipe()?;
    let mut data = Some(data);
    let prefix = matches!(to, End::Stream);
    let mut worker = Worker::pack(context, record, path, prefix, writer, || drop(data.take()))?;
    let copied = worker.source().and_then(|source| match (to, data.take()) {
        (End::Host(to), Some(data)) => {
            let target = place::target(&Place::Host, to, &source)?;
            let ids = IdPolicy::identity();
            let options = Options { owner: Owner::Us, ids: &ids, links: Links::Refused, overwrite: rights.overwrite };
            unpacked(unpack(data, target.dir.as_fd(), target.name.as_deref(), &options), &Place::Host, false)
        }
        (_, Some(mut data)) => match std::io::copy(&mut data, &mut std::io::stdout().lock()) {
            // A closed pipe is success.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(CommandError::host(format!("write to stdout: {}", reason(&error))))
            }
            _ => Ok(()),
        },
        (_, None) => Ok(()),
    });
    drop(data);
    worker.end(copied)
}

/// Host to container.
fn into(context: &Context, from: &End, record: &Record, path: &[u8], rights: Rights) -> Result<(), CommandError> {
    let (reader, data) = pipe()?;
    let mut data = Some(data);
    match from {
        End::Host(from) => {
            let opened = place::open_source(&Place::Host, from)?;
            let owner = if rights.archive { inside::OwnerOf::User } else { inside::OwnerOf::Root };
            let work = inside::Unpack { source: Some(&opened.source), owner, overwrite: rights.overwrite };
            let worker = Worker::unpack(context, record, path, work, reader, || drop(data.take()))?;
            let Some(data) = data.take() else { return Ok(()) };
            let packed = opened.pack(b"", &IdPolicy::Single, BufWriter::with_capacity(1 << 18, data));
            worker.end_of_target(packed)
        }
        _ => {
            let work = inside::Unpack { source: None, owner: inside::OwnerOf::Archive, overwrite: rights.overwrite };
            let worker = Worker::unpack(context, record, path, work, reader, || drop(data.take()))?;
            let Some(mut data) = data.take() else { return Ok(()) };
            let passed = pass_archive(&mut data);
            drop(data);
            worker.end_of_target(passed)
        }
    }
}

/// Uncompresses what comes on stdin.
fn pass_archive(data: &mut PipeWriter) -> Result<(), CommandError> {
    let no_archive = |why: String| {
        CommandError::user(format!("source must be a (compressed) tar archive when copying from stdin{why}"))
    };
    let stdin =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| no_archive(format!(": {}", reason(&error))))?;
    let mut archive =
        Decompressor::new(File::from(stdin)).map_err(|error| no_archive(format!(": {}", reason(&error))))?;
    let mut first = [0; 512];
    archive.read_exact(&mut first).map_err(|_| no_archive(String::new()))?;
    let is_tar = first.get(257..262) == Some(b"ustar") || first == [0; 512];
    if !is_tar {
        return Err(no_archive(String::new()));
    }
    let copied = data.write_all(&first).and_then(|()| std::io::copy(&mut archive, data));
    match copied {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::host(format!("read from stdin: {}", reason(&error))))
        }
        Err(_) => Err(CommandError::printed(crate::error::FAILED)),
        Ok(_) => Ok(()),
    }
}

/// Container to container.
fn between(
    context: &Context,
    (from, from_path): (&Record, &[u8]),
    (to, to_path): (&Record, &[u8]),
    rights: Rights,
) -> Result<(), CommandError> {
    if from.id == to.id && !inside::is_running(context, from)? {
        return Err(CommandError::user(format!("container {} is not running: cannot copy within it", from.name))
            .hinted(format!("coracle start {}", from.name)));
    }
    let (reader, writer) = pipe()?;
    let mut reader = Some(reader);
    let mut packer = Worker::pack(context, from, from_path, false, writer, || drop(reader.take()))?;
    let copied = packer.source().and_then(|source| {
        let Some(reader) = reader.take() else { return Ok(()) };
        let owner = if rights.archive { inside::OwnerOf::Archive } else { inside::OwnerOf::Root };
        let work = inside::Unpack { source: Some(&source), owner, overwrite: rights.overwrite };
        let unpacker = Worker::unpack(context, to, to_path, work, reader, || {})?;
        unpacker.end_of_target(Ok(()))
    });
    drop(reader);
    packer.end(copied)
}

/// What unpacking came to.
fn unpacked(outcome: Result<u64, UnpackError>, place: &Place<'_>, is_archive: bool) -> Result<(), CommandError> {
    match (outcome, place) {
        (Ok(0), _) if !is_archive => Err(CommandError::user(NO_ITEMS)),
        (Ok(_), _) => Ok(()),
        (Err(error), Place::Container { name, .. }) if error.is_read_only() => {
            Err(CommandError::user(format!("container {name} cannot be written to: read-only file system: {error}")))
        }
        (Err(UnpackError::Tar(error)), _) => Err(CommandError::host(error)),
        (Err(error), _) => Err(CommandError::user(error)),
    }
}

/// Bytes as a path of the host.
fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::End;

    #[test]
    fn arguments_are_told_apart_as_podman_does() {
        let container = |name: &str, path: &[u8]| End::Container(name.to_owned(), path.to_vec());
        for (argument, end) in [
            (&b"-"[..], End::Stream),
            (b"file", End::Host(b"file".to_vec())),
            (b"c:/x", container("c", b"/x")),
            (b"c:x:y", container("c", b"x:y")),
            (b"c:", container("c", b"")),
            (b"./c:x", End::Host(b"./c:x".to_vec())),
            (b"/tmp/a:b", End::Host(b"/tmp/a:b".to_vec())),
            (b":x", End::Host(b":x".to_vec())),
        ] {
            assert_eq!(End::parse(argument), end, "{}", argument.escape_ascii());
        }
    }
}
