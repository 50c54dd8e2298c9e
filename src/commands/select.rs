//! Which containers a command is about: names, `--all`, `--latest`, `--cidfile`, filters.

use std::path::PathBuf;

use storage::state::container::{self, ContainerError, Record};

use super::Context;
use super::filter::ContainerFilters;
use crate::error::CommandError;

/// A container with what it was called on the command line.
#[derive(Debug)]
pub(crate) struct Selected {
    /// What was typed; the id when nothing was.
    pub(crate) typed: String,
    /// The container.
    pub(crate) record: Record,
}

/// The containers of a command line.
#[derive(Debug, Default)]
pub(crate) struct Selection<'a> {
    /// Names and ids.
    pub(crate) names: &'a [String],
    /// All there are.
    pub(crate) all: bool,
    /// The one created last.
    pub(crate) latest: bool,
    /// Files with one id each.
    pub(crate) cidfiles: &'a [PathBuf],
    /// Filters that choose among all.
    pub(crate) filters: &'a [String],
    /// What is not there is no error.
    pub(crate) ignore: bool,
}

/// The options that choose containers: those of `kill`, `restart`, `rm` and `stop` alike.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Chosen {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
    /// Act on all containers
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Read the container ID from the file
    #[arg(long = "cidfile", value_name = "FILE")]
    pub(crate) cidfiles: Vec<PathBuf>,
    /// Act on the latest container
    #[arg(short, long)]
    pub(crate) latest: bool,
}

impl Chosen {
    /// Whether containers are named, one by one.
    pub(crate) fn is_named(&self) -> bool {
        !self.containers.is_empty() || !self.cidfiles.is_empty()
    }

    /// An error unless something is chosen; `otherwise` says what else chooses.
    pub(crate) fn required(&self, otherwise: bool) -> Result<(), CommandError> {
        match self.is_named() || self.all || self.latest || otherwise {
            true => Ok(()),
            false => Err(CommandError::user("you must provide at least one name or id")),
        }
    }

    /// The choice, without filters.
    pub(crate) fn selection(&self) -> Selection<'_> {
        Selection {
            names: &self.containers,
            all: self.all,
            latest: self.latest,
            cidfiles: &self.cidfiles,
            ..Selection::default()
        }
    }
}

impl Selection<'_> {
    /// Finds the containers. The errors of missing ones come with the others: a command goes on with these.
    pub(crate) fn resolve(&self, context: &Context) -> Result<(Vec<Selected>, Vec<CommandError>), CommandError> {
        let mut names: Vec<String> = self.names.to_vec();
        for path in self.cidfiles {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let reason = crate::error::reason(&error);
                CommandError::user(format_args!("reading CIDFile: open {}: {reason}", path.display()))
            });
            match text {
                Ok(text) => names.push(text.trim().to_owned()),
                Err(_) if self.ignore => {}
                Err(error) => return Err(error),
            }
        }
        if self.all && (!names.is_empty() || self.latest) {
            return Err(CommandError::user("--all, --latest and containers cannot be used together"));
        }
        if self.latest && !names.is_empty() {
            return Err(CommandError::user("--latest and containers cannot be used together"));
        }
        if self.all || self.latest || !self.filters.is_empty() {
            let mut records = all(context)?;
            if self.latest {
                // Filters may leave none; that there is none to begin with is an error.
                let last = records.pop().ok_or_else(|| CommandError::user("no such container"))?;
                records = vec![last];
            }
            if !self.filters.is_empty() {
                let filters = ContainerFilters::parse(context, self.filters)?;
                let mut kept = Vec::new();
                for record in records {
                    let named = names.is_empty() || names.iter().any(|name| answers(&record, name));
                    if named && filters.accept(context, &record)? {
                        kept.push(record);
                    }
                }
                records = kept;
            }
            let selected = records.into_iter().map(|record| Selected { typed: record.id.to_string(), record });
            return Ok((selected.collect(), Vec::new()));
        }
        let (mut selected, mut errors) = (Vec::new(), Vec::new());
        for typed in names {
            match container::find(&context.layout, &typed) {
                Ok(record) => selected.push(Selected { typed, record }),
                Err(ContainerError::NotFound(_)) if self.ignore => {}
                Err(error) => errors.push(error.into()),
            }
        }
        Ok((selected, errors))
    }
}

fn answers(record: &Record, name: &str) -> bool {
    record.name == name || (!name.is_empty() && record.id.as_str().starts_with(name))
}

/// Every container, the oldest first; those that cannot be read are named on stderr.
pub(crate) fn all(context: &Context) -> Result<Vec<Record>, CommandError> {
    let (records, errors) = container::list(&context.layout)?;
    for error in errors {
        CommandError::host(error).print();
    }
    Ok(records)
}

/// The container created last.
pub(crate) fn latest(context: &Context) -> Result<Record, CommandError> {
    all(context)?.pop().ok_or_else(|| CommandError::user("no containers: there is no latest one"))
}

/// Does something to each container, prints the errors as they come and ends with the last.
pub(crate) fn each(
    selected: &[Selected],
    mut errors: Vec<CommandError>,
    mut act: impl FnMut(&Selected) -> Result<(), CommandError>,
) -> super::Outcome {
    for one in selected {
        match act(one) {
            Ok(()) => {}
            // Interrupted: the rest is not wanted either.
            Err(error) if error.is_printed() => {
                errors.push(error);
                break;
            }
            Err(error) => errors.push(error),
        }
    }
    finish(errors)
}

/// Prints all errors but the last, which the command ends with.
pub(crate) fn finish(mut errors: Vec<CommandError>) -> super::Outcome {
    let Some(last) = errors.pop() else { return Ok(0) };
    for error in errors {
        error.print();
    }
    Err(last)
}
