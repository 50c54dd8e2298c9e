//! `pod ps` and `pod inspect`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use storage::state::pod::{self, ExitPolicy, Pod};
use storage::state::status::Observed;

use super::{observed_members, state_of};
use crate::cli::format::{Json, Listing, Template, Value, is_json, normalize};
use crate::cli::pattern::regex_is_found;
use crate::cli::{output, units};
use crate::commands::filter::{self, label_fits};
use crate::commands::{Context, Outcome, select};
use crate::error::CommandError;
use crate::role::Persona;
use crate::supervisor::cgroup;

/// List pods
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct PsArgs {
    /// Display the container UUIDs
    #[arg(long)]
    ctr_ids: bool,
    /// Display the container names
    #[arg(long)]
    ctr_names: bool,
    /// Display the container status
    #[arg(long)]
    ctr_status: bool,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Pretty-print pods to JSON or using a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Act on the latest pod
    #[arg(short, long)]
    latest: bool,
    /// Display namespace information of the pod
    #[arg(long)]
    ns: bool,
    /// Do not truncate pod and container IDs
    #[arg(long)]
    no_trunc: bool,
    /// Do not print headers
    #[arg(short, long)]
    noheading: bool,
    /// Print the numeric IDs of the pods only
    #[arg(short, long)]
    quiet: bool,
    /// Sort output by created, id, name, or number
    #[arg(long, value_name = "KEY", default_value = "created")]
    sort: String,
}

/// Display a pod configuration
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct InspectArgs {
    /// Name or ID (can be repeated)
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// Format the output to a Go template or json
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    format: String,
    /// Act on the latest pod
    #[arg(short, long)]
    latest: bool,
}

struct Row {
    pod: Pod,
    state: &'static str,
    /// Id, name and state of each container.
    members: Vec<(String, String, String)>,
}

/// What a pod may be said to be.
const STATES: [&str; 7] = ["stopped", "running", "paused", "exited", "dead", "created", "degraded"];

/// Runs `pod ps`.
pub(crate) fn ps(args: PsArgs, context: &Context) -> Outcome {
    let mut rows = Vec::new();
    for pod in pod::list(&context.layout)? {
        let members = observed_members(context, &pod)?;
        let state = state_of(&members);
        let member = |(record, observed): &(storage::state::container::Record, storage::state::status::Observed)| {
            (record.id.to_string(), record.name.clone(), observed.state.as_str().to_owned())
        };
        rows.push(Row { state, members: members.iter().map(member).collect(), pod });
    }
    for filter in &args.filters {
        let bad = || CommandError::user(format_args!("invalid filter {filter:?}"));
        let (key, value) = filter::pair(filter).ok_or_else(bad)?;
        match key {
            "id" => rows.retain(|row| row.pod.id.as_str().starts_with(value)),
            "name" => rows.retain(|row| regex_is_found(value, &row.pod.name)),
            "label" => rows.retain(|row| label_fits(row.pod.labels.iter(), value)),
            "label!" => rows.retain(|row| !label_fits(row.pod.labels.iter(), value)),
            "status" if !STATES.contains(&value.to_ascii_lowercase().as_str()) => {
                return Err(CommandError::user(format_args!("{value} is not a valid pod status")));
            }
            "status" => rows.retain(|row| row.state.eq_ignore_ascii_case(value)),
            "ctr-names" => rows.retain(|row| row.members.iter().any(|(_, name, _)| name == value)),
            "ctr-ids" => rows.retain(|row| row.members.iter().any(|(id, ..)| id.starts_with(value))),
            "ctr-status" => rows.retain(|row| row.members.iter().any(|(.., state)| state == value)),
            "ctr-number" => rows.retain(|row| row.members.len().to_string() == value),
            "until" => {
                let moment = filter::moment(value)?;
                rows.retain(|row| row.pod.created < moment);
            }
            _ => return Err(bad()),
        }
    }
    match args.sort.as_str() {
        // The newest first, as podman has it.
        "created" => rows.reverse(),
        "id" => rows.sort_by(|one, other| one.pod.id.as_str().cmp(other.pod.id.as_str())),
        "name" => rows.sort_by(|one, other| one.pod.name.cmp(&other.pod.name)),
        "number" => rows.sort_by_key(|row| row.members.len()),
        "status" => rows.sort_by_key(|row| row.state),
        other => return Err(CommandError::user(format_args!("invalid sort {other:?}: created, id, name or number"))),
    }
    if args.latest {
        rows.truncate(1);
    }
    if args.quiet {
        let id = |row: &Row| if args.no_trunc { row.pod.id.to_string() } else { row.pod.id.short().to_owned() };
        output::print(&rows.iter().map(|row| id(row) + "\n").collect::<String>())?;
        return Ok(0);
    }
    if args.format.as_deref() == Some("json") {
        let style = Json { indent: Some(4), escape_html: true, open_empty_maps: true };
        output::print_line(Value::List(rows.iter().map(json).collect()).to_json(style))?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let mut columns = r"table {{.Id}}\t{{.Name}}\t{{.Status}}\t{{.Created}}".to_owned();
    if args.ns {
        columns.push_str(r"\t{{.Namespaces}}");
    }
    columns.push_str(r"\t{{.InfraId}}");
    for (wanted, column) in [
        (args.ctr_ids, r"\t{{.ContainerIds}}"),
        (args.ctr_names, r"\t{{.ContainerNames}}"),
        (args.ctr_status, r"\t{{.ContainerStatuses}}"),
    ] {
        columns.push_str(if wanted { column } else { "" });
    }
    if !(args.ctr_ids || args.ctr_names || args.ctr_status) {
        columns.push_str(r"\t{{.NumberOfContainers}}");
    }
    let format = match args.format.as_deref() {
        None | Some("table") => columns.as_str(),
        Some(format) => format,
    };
    let listing = Listing {
        name: "list",
        type_name: "pods.ListPodReporter",
        format,
        headings: &[
            ("Id", "POD ID"),
            ("ID", "POD ID"),
            ("InfraId", "INFRA ID"),
            ("InfraID", "INFRA ID"),
            ("ContainerIds", "IDS"),
            ("ContainerNames", "NAMES"),
            ("ContainerStatuses", "STATUS"),
            ("Namespaces", "NAMESPACES"),
            ("NumberOfContainers", "# OF CONTAINERS"),
        ],
        no_heading: args.noheading,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(rows.iter().map(|row| value(row, args.no_trunc, now)).collect());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn value(row: &Row, whole: bool, now: Timestamp) -> Value {
    let cut = |id: &str| if whole { id.to_owned() } else { id.get(..12).unwrap_or(id).to_owned() };
    let infra = row.pod.infra.as_ref().map(|id| cut(id.as_str())).unwrap_or_default();
    let joined = |part: fn(&(String, String, String)) -> &String| {
        row.members.iter().map(|member| part(member).as_str()).collect::<Vec<_>>().join(",")
    };
    let ids: Vec<String> = row.members.iter().map(|(id, ..)| cut(id)).collect();
    Value::Struct(vec![
        ("Id", cut(row.pod.id.as_str()).into()),
        ("ID", cut(row.pod.id.as_str()).into()),
        ("Name", row.pod.name.as_str().into()),
        ("Status", row.state.into()),
        ("Created", units::ago(row.pod.created, now).into()),
        ("Labels", Value::map(&row.pod.labels)),
        ("Namespaces", row.pod.share.join(",").into()),
        ("InfraId", infra.as_str().into()),
        ("InfraID", infra.into()),
        ("ContainerIds", ids.join(",").into()),
        ("ContainerNames", joined(|member| &member.1).into()),
        ("ContainerStatuses", joined(|member| &member.2).into()),
        ("NumberOfContainers", Value::from(row.members.len() as u64)),
    ])
}

fn json(row: &Row) -> Value {
    let members = row.members.iter().map(|(id, name, state)| {
        Value::Struct(vec![
            ("Id", id.as_str().into()),
            ("Names", name.as_str().into()),
            ("Status", state.as_str().into()),
            ("RestartCount", Value::Int(0)),
        ])
    });
    Value::Struct(vec![
        ("Cgroup", "".into()),
        ("Containers", Value::List(members.collect())),
        ("Created", Value::Time(Some(row.pod.created))),
        ("Id", row.pod.id.as_str().into()),
        ("InfraId", row.pod.infra.as_ref().map(ToString::to_string).unwrap_or_default().into()),
        ("Name", row.pod.name.as_str().into()),
        ("Namespace", "".into()),
        ("Networks", Value::strings(Vec::<String>::new())),
        ("Status", row.state.into()),
        ("Labels", Value::map(&row.pod.labels)),
    ])
}

/// Runs `pod inspect`.
pub(super) fn run_inspect(args: InspectArgs, context: &Context) -> Outcome {
    inspect(args.pods, args.latest, &args.format, context)
}

/// Shows pods, by `pod inspect` or `inspect --type pod`.
pub(crate) fn inspect(mut names: Vec<String>, latest: bool, format: &str, context: &Context) -> Outcome {
    if latest {
        names.extend(pod::list(&context.layout)?.pop().map(|pod| pod.id.to_string()));
    }
    if names.is_empty() {
        return Err(CommandError::user("you must provide the name or id of a pod"));
    }
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &names {
        match pod::find(&context.layout, name) {
            Ok(pod) => found.push(describe(context, &pod)?),
            Err(pod::PodError::NotFound(name)) => errors.push(CommandError::user(format!("no such pod {name}"))),
            Err(error) => errors.push(error.into()),
        }
    }
    if is_json(format) && format.trim() == "json" {
        output::print_line(Value::List(found).to_json(Json::INSPECT))?;
        return select::finish(errors);
    }
    let template = Template::parse("inspect", &normalize(format))?;
    for value in &found {
        let (text, error) = template.execute(value, "define.InspectPodData");
        output::print(&text)?;
        if let Some(error) = error {
            return Err(error);
        }
    }
    select::finish(errors)
}

fn describe(context: &Context, pod: &Pod) -> Result<Value, CommandError> {
    let members = observed_members(context, pod)?;
    let infra = members.iter().find(|(record, _)| record.request.infra);
    let containers = members.iter().map(|(record, observed)| {
        Value::Struct(vec![
            ("Id", record.id.as_str().into()),
            ("Name", record.name.as_str().into()),
            ("State", observed.state.as_str().into()),
        ])
    });
    let of_pod = |observed: &Observed| Some(cgroup::of_pod(observed.cgroup.as_ref()?)?.display().to_string());
    let cgroup = members.iter().find_map(|(_, observed)| of_pod(observed)).map(|path| format!("/{path}"));
    let mut fields = vec![
        ("Id", pod.id.as_str().into()),
        ("Name", pod.name.as_str().into()),
        ("Created", Value::Time(Some(pod.created))),
        ("CreateCommand", Value::strings_or_nil(pod.create_command.iter().map(String::as_str))),
        ("ExitPolicy", if pod.exit_policy == ExitPolicy::Stop { "stop" } else { "continue" }.into()),
        ("State", state_of(&members).into()),
        ("Hostname", pod.hostname.as_str().into()),
        ("Labels", Value::map(&pod.labels)),
        ("CreateCgroup", (!pod.members.together.is_empty()).into()),
        ("CgroupParent", pod.members.cgroup_parent.clone().unwrap_or_default().into()),
        ("CgroupPath", cgroup.unwrap_or_default().into()),
        ("CreateInfra", pod.infra.is_some().into()),
        ("InfraContainerID", pod.infra.as_ref().map(ToString::to_string).unwrap_or_default().into()),
    ];
    if let Some((record, _)) = infra {
        let network = &record.request.network;
        let ports: BTreeMap<String, Value> = network
            .published
            .iter()
            .map(|port| {
                let binding = Value::Struct(vec![
                    ("HostIp", port.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()).into()),
                    ("HostPort", port.host_port.map(|port| port.to_string()).unwrap_or_default().into()),
                ]);
                (format!("{}/{}", port.container_port, port.protocol.as_str()), Value::List(vec![binding]))
            })
            .collect();
        fields.push((
            "InfraConfig",
            Value::Struct(vec![
                ("PortBindings", Value::Map(ports)),
                ("HostNetwork", (network.mode == "host").into()),
                ("NoManageHosts", network.no_hosts.into()),
                ("DNSServer", Value::strings_or_nil(network.dns.iter().map(ToString::to_string))),
                ("DNSSearch", Value::strings_or_nil(network.dns_search.iter().map(ToString::to_string))),
                ("DNSOption", Value::strings_or_nil(network.dns_options.iter().map(ToString::to_string))),
            ]),
        ));
    }
    fields.extend([
        ("SharedNamespaces", Value::strings_or_nil(pod.share.iter().map(String::as_str))),
        ("NumContainers", Value::from(members.len() as u64)),
        ("Containers", Value::List(containers.collect())),
    ]);
    let limits = &pod.members.together;
    let (quota, period) = limits.quota_and_period();
    let weight = limits.blkio_weight.map(u64::from);
    fields.extend([
        ("cpu_period", Value::from(period.unwrap_or(0)).omitempty()),
        ("cpu_quota", Value::Int(quota.unwrap_or(0)).omitempty()),
        ("cpu_shares", Value::from(limits.cpu_shares.unwrap_or(0)).omitempty()),
        ("memory_limit", Value::from(limits.memory_bytes.unwrap_or(0)).omitempty()),
        ("memory_swap", Value::Int(limits.memory_and_swap().unwrap_or(0)).omitempty()),
        ("blkio_weight", Value::from(weight.unwrap_or(0)).omitempty()),
    ]);
    Ok(Value::Struct(fields))
}
