//! `volume ls`, and the filters it shares with `volume prune`.

use jiff::Timestamp;
use storage::prune;
use storage::state::container::Record;
use storage::volume::{self, Volume};

use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::output;
use crate::cli::pattern::regex_is_found;
use crate::commands::filter::{self, label_fits};
use crate::commands::{Context, Outcome, inspect, select};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle volume ls
  coracle volume ls -q --filter dangling=true"#;

/// List volumes
///
/// List all available volumes. The output of the volumes can be filtered and the output format can be changed to JSON or
/// a user specified Go template.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Filter volume output
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Format volume output using Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not print headers
    #[arg(short = 'n', long)]
    noheading: bool,
    /// Print volume output in quiet mode
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let mut volumes = all(context)?;
    let filters = VolumeFilters::parse(&args.filters)?;
    if !filters.is_empty() {
        let records = select::all(context)?;
        volumes.retain(|volume| filters.accept(volume, &records));
    }
    if args.quiet {
        output::print(&volumes.iter().flat_map(|volume| [volume.name.as_str(), "\n"]).collect::<String>())?;
        return Ok(0);
    }
    let rows: Vec<Value> = volumes.iter().map(|volume| inspect::describe_volume(volume, context)).collect();
    let docker = context.persona == Persona::Docker;
    let format = match args.format.as_deref() {
        Some(format) if is_json(format) && !docker && format == "json" => {
            let style = Json { indent: Some(2), escape_html: true, open_empty_maps: true };
            output::print_line(Value::List(rows).to_json(style))?;
            return Ok(0);
        }
        None | Some("table") => r"table {{.Driver}}\t{{.Name}}",
        Some("json") => "{{json .}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "volume ls",
        type_name: "entities.VolumeListReport",
        format,
        headings: &[("Name", "VOLUME NAME")],
        no_heading: args.noheading,
        docker,
    };
    // Without a row podman prints no heading either.
    if rows.is_empty() && !docker {
        return Ok(0);
    }
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

/// Every volume by name; those that cannot be read are named on stderr.
pub(crate) fn all(context: &Context) -> Result<Vec<Volume>, CommandError> {
    let (volumes, errors) = volume::list(&context.layout)?;
    for error in errors {
        CommandError::host(error).print();
    }
    Ok(volumes)
}

/// Filters of volumes; all have to agree.
pub(crate) struct VolumeFilters(Vec<Check>);

enum Check {
    Dangling(bool),
    Label { wanted: String, has: bool },
    Name(String),
    Driver(String),
    Scope(String),
    Anonymous(bool),
    Before(Timestamp),
    After(Timestamp),
    Option(String),
}

impl VolumeFilters {
    /// Parses the filters of a command line.
    pub(crate) fn parse(filters: &[String]) -> Result<Self, CommandError> {
        let parsed = filters.iter().map(|text| {
            let bad = || CommandError::user(format_args!("{text:?}: filters are of the form \"key=value\""));
            let (key, value) = filter::pair(text).ok_or_else(bad)?;
            let boolean = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(CommandError::user(format_args!(
                    "{value:?} is not a valid value for the {key:?} filter - must be true or false"
                ))),
            };
            Ok(match key {
                "dangling" => Check::Dangling(boolean()?),
                "anonymous" => Check::Anonymous(boolean()?),
                "all" => Check::Scope("local".to_owned()),
                "label" => Check::Label { wanted: value.to_owned(), has: true },
                "label!" => Check::Label { wanted: value.to_owned(), has: false },
                "name" => Check::Name(value.to_owned()),
                "driver" => Check::Driver(value.to_owned()),
                "scope" => Check::Scope(value.to_owned()),
                "opt" => Check::Option(value.to_owned()),
                "until" => Check::Before(filter::moment(value)?),
                "since" | "after" => Check::After(filter::moment(value)?),
                _ => return Err(CommandError::user(format_args!("{key:?} is an invalid volume filter"))),
            })
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all accept a volume that these containers may use.
    pub(crate) fn accept(&self, volume: &Volume, records: &[Record]) -> bool {
        self.0.iter().all(|check| match check {
            Check::Dangling(dangling) => {
                records.iter().any(|record| prune::uses_volume(record, &volume.name)) != *dangling
            }
            Check::Anonymous(anonymous) => volume.anonymous == *anonymous,
            Check::Label { wanted, has } => label_fits(volume.labels.iter(), wanted) == *has,
            Check::Name(pattern) => regex_is_found(pattern, &volume.name),
            Check::Driver(driver) => driver == "local",
            Check::Scope(scope) => scope == "local",
            Check::Option(wanted) => label_fits(volume.options.iter(), wanted),
            Check::Before(moment) => volume.created < *moment,
            Check::After(moment) => volume.created > *moment,
        })
    }
}
