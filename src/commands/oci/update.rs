//! `update`: other limits for a container that there is.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use runtime::cgroup::{Cgroup, resources};
use serde_json::{Map, Value, json};

use super::status::{self, Status};
use super::{Outcome, Runtime, bundle, cgroup};
use crate::error::CommandError;

/// Change the limits of a container
///
/// Sizes are in bytes, -1 means no limit.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// File with linux.resources of a bundle, - for standard input; other options are then left alone
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight for input and output, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u64>,
    /// Period for --cpu-quota, in microseconds
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Shares of the processors against others, 2 to 262144
    #[arg(long, value_name = "N", alias = "cpu-shares")]
    cpu_share: Option<u64>,
    /// Processors to use
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Memory that is taken last when there is little
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Memory and swap together
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Number of processes
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
}

/// Runs `update`.
pub(super) fn run(args: Args, runtime: &Runtime) -> Outcome {
    let limits = args.limits()?;
    let container = runtime.root.open(&args.id)?;
    status::require(&container, "update", &[Status::Created, Status::Running, Status::Paused])?;
    let settings = resources::settings(&limits)?;
    if settings.is_empty() {
        return Err(CommandError::user("no limit is given"));
    }
    let of = container.record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok());
    let none = || CommandError::host(format_args!("cannot update container {}: it has no cgroup of its own", args.id));
    cgroup::limit(&of.ok_or_else(none)?, &settings).map(|()| 0)
}

impl Args {
    fn limits(&self) -> Result<LinuxResources, CommandError> {
        if let Some(path) = &self.resources {
            let text = match path.to_str() {
                Some("-") => {
                    let mut text = Vec::new();
                    let read = std::io::stdin().lock().take(1 << 20).read_to_end(&mut text);
                    read.map_err(|error| super::create::because("read standard input", &error))?;
                    text
                }
                _ => bundle::read(path)?,
            };
            return parse(path, &text);
        }
        let section = |members: &[(&str, Option<Value>)]| {
            let given = members.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
            given.collect::<Map<_, _>>()
        };
        let mut all = Map::new();
        let mut add = |name: &str, section: Map<String, Value>| {
            if !section.is_empty() {
                all.insert(name.to_owned(), section.into());
            }
        };
        let number = |value: Option<i64>| value.map(|value| json!(value));
        let count = |value: Option<u64>| value.map(|value| json!(value));
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        add(
            "memory",
            section(&[
                ("limit", number(self.memory)),
                ("reservation", number(self.memory_reservation)),
                ("swap", number(self.memory_swap)),
            ]),
        );
        add(
            "cpu",
            section(&[
                ("shares", count(self.cpu_share)),
                ("quota", number(self.cpu_quota)),
                ("period", count(self.cpu_period)),
                ("cpus", text(&self.cpuset_cpus)),
                ("mems", text(&self.cpuset_mems)),
            ]),
        );
        add("pids", section(&[("limit", number(self.pids_limit))]));
        add("blockIO", section(&[("weight", count(self.blkio_weight))]));
        parse(Path::new("limits"), Value::from(all).to_string().as_bytes())
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<LinuxResources, CommandError> {
    serde_json::from_slice(text).map_err(|error| CommandError::user(format_args!("{}: {error}", path.display())))
}
