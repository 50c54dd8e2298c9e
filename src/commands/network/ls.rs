//! `network ls`.

use jiff::Timestamp;
use storage::state::container::Record;
use storage::state::network::Network;

use super::show::{describe, docker_pseudo, template_fields};
use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::output;
use crate::cli::pattern::regex_is_found;
use crate::cli::units;
use crate::commands::filter::{self, label_fits};
use crate::commands::{Context, Outcome, select};
use crate::error::CommandError;
use crate::networks;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle network ls
  coracle network ls -q --filter dangling=true
  coracle network ls --format '{{.Name}} {{.Subnets}}'"#;

/// List networks
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Provide filter values: dangling, driver, id, label, name, type, until (e.g. 'name=podman')
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Pretty-print networks to JSON or using a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not truncate the network ID
    #[arg(long)]
    no_trunc: bool,
    /// Do not print headers
    #[arg(short = 'n', long)]
    noheading: bool,
    /// Display only names
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let filters = NetworkFilters::parse(&args.filters)?;
    let mut networks = networks::all(&context.layout)?;
    for network in &mut networks {
        network.name = networks::shown(&network.name, context.persona).to_owned();
    }
    if !filters.is_empty() {
        let records = select::all(context)?;
        networks.retain(|network| filters.accept(network, &records));
    }
    match context.persona {
        Persona::Podman => podman(&args, &networks),
        Persona::Docker => docker(&args, networks, filters.is_empty()),
    }
}

fn short(id: &str, whole: bool) -> &str {
    if whole { id } else { id.get(..12).unwrap_or(id) }
}

fn podman(args: &Args, networks: &[Network]) -> Outcome {
    if args.quiet {
        output::print(&networks.iter().flat_map(|network| [network.name.as_str(), "\n"]).collect::<String>())?;
        return Ok(0);
    }
    let rows = networks.iter().map(|network| {
        let mut fields = template_fields(network);
        fields.retain(|(name, _)| !matches!(*name, "ID" | "Labels"));
        let labels: Vec<String> = network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        fields.push(("ID", short(&network.id, args.no_trunc).into()));
        fields.push(("Labels", labels.join(",").into()));
        Value::Row(fields, Box::new(describe(network)))
    });
    let format = match args.format.as_deref() {
        Some(format) if is_json(format) && format.trim() == "json" => {
            let style = Json { indent: Some(2), escape_html: true, open_empty_maps: true };
            output::print_line(Value::List(rows.collect()).to_json(style))?;
            return Ok(0);
        }
        None | Some("table") => r"table {{.ID}}\t{{.Name}}\t{{.Driver}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "ls",
        type_name: "network.ListPrintReports",
        format,
        headings: &[("ID", "NETWORK ID"), ("NetworkInterface", "NETWORK INTERFACE")],
        no_heading: args.noheading,
        docker: false,
    };
    print(listing, rows.collect())
}

fn print(listing: Listing<'_>, rows: Vec<Value>) -> Outcome {
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn docker(args: &Args, networks: Vec<Network>, with_pseudo: bool) -> Outcome {
    let mut all: Vec<(Network, &str)> = networks.into_iter().map(|network| (network, "bridge")).collect();
    if with_pseudo {
        all.extend(docker_pseudo());
    }
    all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    if args.quiet {
        let lines = all.iter().flat_map(|(network, _)| [short(&network.id, args.no_trunc), "\n"]);
        output::print(&lines.collect::<String>())?;
        return Ok(0);
    }
    let rows = all.iter().map(|(network, driver)| {
        let labels: Vec<String> = network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Value::Struct(vec![
            ("CreatedAt", units::go_time(Some(network.created)).into()),
            ("Driver", (*driver).into()),
            ("ID", short(&network.id, args.no_trunc).into()),
            ("IPv4", (*driver == "bridge" && network.subnets.iter().any(|one| one.first.is_ipv4())).to_string().into()),
            ("IPv6", network.ipv6.to_string().into()),
            ("Internal", network.internal.to_string().into()),
            ("Labels", labels.join(",").into()),
            ("Name", network.name.as_str().into()),
            ("Scope", "local".into()),
        ])
    });
    let format = match args.format.as_deref() {
        None | Some("table") => r"table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        Some("json") => "{{json .}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "network ls",
        type_name: "*formatter.networkContext",
        format,
        headings: &[("ID", "NETWORK ID")],
        no_heading: args.noheading,
        docker: true,
    };
    print(listing, rows.collect())
}

/// Filters of networks; values of one key are alternatives, keys all have to agree, and every label has to.
#[derive(Debug)]
pub(crate) struct NetworkFilters(Vec<Check>);

#[derive(Debug)]
enum Check {
    Dangling(bool),
    Label { wanted: String, has: bool },
    Name(Vec<String>),
    Id(Vec<String>),
    Driver(Vec<String>),
    Custom(bool),
    Before(Timestamp),
}

impl NetworkFilters {
    /// Parses the filters of a command line.
    pub(crate) fn parse(filters: &[String]) -> Result<Self, CommandError> {
        let mut checks: Vec<Check> = Vec::new();
        for text in filters {
            let (key, value) = filter::pair(text).ok_or_else(|| {
                CommandError::user(format_args!("filter input must be in the form of filter=value: {text} is invalid"))
            })?;
            let bad = || CommandError::user(format_args!("invalid {key} filter value {value:?}"));
            let known = checks.iter_mut().find_map(|check| match (check, key) {
                (Check::Name(all), "name") | (Check::Id(all), "id") | (Check::Driver(all), "driver") => Some(all),
                _ => None,
            });
            if let Some(all) = known {
                all.push(value.to_owned());
                continue;
            }
            checks.push(match key {
                "dangling" => Check::Dangling(crate::cli::usage::boolean(value).map_err(|_| bad())?),
                "label" => Check::Label { wanted: value.to_owned(), has: true },
                "label!" => Check::Label { wanted: value.to_owned(), has: false },
                "name" => Check::Name(vec![value.to_owned()]),
                "id" => Check::Id(vec![value.to_owned()]),
                "driver" => Check::Driver(vec![value.to_owned()]),
                "type" => Check::Custom(match value {
                    "custom" => true,
                    "builtin" => false,
                    _ => return Err(bad()),
                }),
                "until" => Check::Before(filter::moment(value)?),
                _ => return Err(CommandError::user(format_args!("invalid filter {key:?}"))),
            });
        }
        Ok(Self(checks))
    }

    /// As [`Self::parse`], for `prune`, which knows fewer.
    pub(crate) fn parse_for_prune(filters: &[String]) -> Result<Self, CommandError> {
        let key = |text: &String| filter::pair(text).map(|(key, _)| key.to_owned());
        let is_known = |key: &String| matches!(key.as_str(), "label" | "label!" | "until");
        match filters.iter().filter_map(key).find(|key| !is_known(key)) {
            Some(other) => Err(CommandError::user(format_args!("invalid filter {other:?}"))),
            None => Self::parse(filters),
        }
    }

    /// As [`Self::parse`], of those filters that say something about networks: the others are for other things.
    pub(crate) fn parse_known(filters: &[String]) -> Result<Self, CommandError> {
        let known = filters
            .iter()
            .filter(|text| filter::pair(text).is_some_and(|(key, _)| matches!(key, "label" | "label!" | "until")));
        Self::parse(&known.cloned().collect::<Vec<_>>())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all accept a network that these containers may be on.
    pub(crate) fn accept(&self, network: &Network, records: &[Record]) -> bool {
        let is_default = networks::is_default(&network.name);
        self.0.iter().all(|check| match check {
            Check::Dangling(dangling) => {
                let is_used = is_default || networks::users(records, &network.name).next().is_some();
                is_used != *dangling
            }
            Check::Label { wanted, has } => label_fits(network.labels.iter(), wanted) == *has,
            Check::Name(patterns) => patterns.iter().any(|pattern| regex_is_found(pattern, &network.name)),
            Check::Id(ids) => ids.iter().any(|id| network.id.starts_with(id.as_str())),
            Check::Driver(drivers) => drivers.iter().any(|driver| driver == "bridge"),
            Check::Custom(custom) => is_default != *custom,
            Check::Before(moment) => network.created < *moment,
        })
    }
}
