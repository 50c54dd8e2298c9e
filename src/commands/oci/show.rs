//! `state`, `list` and `ps`: what there is.

use std::path::PathBuf;

use runtime::cgroup::Cgroup;
use serde_json::{Value, json};
use storage::state::oci::Record;

use super::status::{self, Status};
use super::{Outcome, Runtime};
use crate::cli::{output, table};
use crate::error::CommandError;

/// Print the state of a container as JSON
#[derive(clap::Args, Debug)]
pub(super) struct StateArgs {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

/// List containers
#[derive(clap::Args, Debug)]
pub(super) struct ListArgs {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// How they are printed: table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// Print the processes of a container
#[derive(clap::Args, Debug)]
pub(super) struct PsArgs {
    /// Id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// How they are printed: table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// Runs `state`.
pub(super) fn state(args: StateArgs, runtime: &Runtime) -> Outcome {
    let whole = whole(&runtime.record(&args.id)?);
    output::print_line(serde_json::to_string_pretty(&whole).unwrap_or_default()).map(|()| 0)
}

/// Runs `list`.
pub(super) fn list(args: ListArgs, runtime: &Runtime) -> Outcome {
    let ids = runtime.root.ids()?;
    if args.quiet {
        return output::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>()).map(|()| 0);
    }
    let mut records = Vec::new();
    for id in &ids {
        // One that is deleted meanwhile is none of them.
        records.extend(runtime.root.read(id)?);
    }
    if args.format == "json" {
        let all: Vec<Value> = records.iter().map(whole).collect();
        return output::print_line(json!(all)).map(|()| 0);
    }
    let mut text = "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER".to_owned();
    for record in &records {
        let status = Status::of(record);
        let row = [
            record.id.clone(),
            shown_pid(record, status).to_string(),
            status.to_string(),
            record.bundle.display().to_string(),
            record.created.clone(),
            owner(record.owner),
        ];
        text.push('\n');
        text.push_str(&row.join("\t").escape_default().to_string().replace("\\t", "\t"));
    }
    output::print_line(table::align(&text, table::PODMAN)).map(|()| 0)
}

/// Runs `ps`.
pub(super) fn ps(args: PsArgs, runtime: &Runtime) -> Outcome {
    let record = runtime.record(&args.id)?;
    if Status::of(&record) == Status::Stopped {
        return Err(CommandError::user(format_args!("cannot list processes of container {}: it is stopped", args.id)));
    }
    let pids = processes(&record)?;
    let text = match args.format.as_str() {
        "json" => format!("{}\n", json!(pids)),
        _ => std::iter::once("PID\n".to_owned()).chain(pids.iter().map(|pid| format!("{pid}\n"))).collect(),
    };
    output::print(&text).map(|()| 0)
}

/// The processes of a container, as `/proc` counts: those of its cgroup; without one those of its pid namespace; where that
/// is the caller's, its init alone is known.
pub(super) fn processes(record: &Record) -> Result<Vec<i32>, CommandError> {
    if let Some(cgroup) = record.cgroup.clone().and_then(|path| Cgroup::existing(path).ok()) {
        return cgroup.processes().map_err(|error| super::create::because("cgroup.procs", &error));
    }
    let init = match status::init_of(record)? {
        Some(_) => record.pid,
        None => return Ok(Vec::new()),
    };
    let namespace = |pid: &str| std::fs::read_link(PathBuf::from(format!("/proc/{pid}/ns/pid"))).ok();
    let theirs = namespace(&init.to_string());
    if theirs.is_none() || theirs == namespace("self") {
        return Ok(vec![init]);
    }
    let entries = std::fs::read_dir("/proc").map_err(|error| super::create::because("read /proc", &error))?;
    let mut pids: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| namespace(&pid.to_string()) == theirs)
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The state with what runc shows besides.
fn whole(record: &Record) -> Value {
    let status = Status::of(record);
    let mut state = status::state(record, status.as_str(), shown_pid(record, status));
    state["rootfs"] = json!(record.rootfs);
    state["created"] = json!(record.created);
    state["owner"] = json!(owner(record.owner));
    state
}

fn shown_pid(record: &Record, status: Status) -> i32 {
    if status == Status::Stopped { 0 } else { record.pid }
}

fn owner(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("#{uid}"), |user| user.name)
}
