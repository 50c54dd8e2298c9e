//! `secret ls` and `secret inspect`.

use jiff::Timestamp;
use storage::secret::{self, Secret};

use crate::cli::format::{Json, Listing, Template, Value, is_json, normalize};
use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::commands::filter;
use crate::commands::{Context, Outcome, select};
use crate::error::CommandError;
use crate::role::Persona;

/// List secrets
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct LsArgs {
    /// Filter secret output
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Format secret output using Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not print headers
    #[arg(short, long)]
    noheading: bool,
    /// Print secret IDs only
    #[arg(short, long)]
    quiet: bool,
}

/// Inspect a secret
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct InspectArgs {
    /// Name or ID (can be repeated)
    #[arg(value_name = "SECRET", required = true)]
    secrets: Vec<String>,
    /// Format inspect output using Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print inspect output in human-readable format
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    /// Display the secret
    #[arg(long)]
    showsecret: bool,
}

/// Runs `secret ls`.
pub(crate) fn ls(args: LsArgs, context: &Context) -> Outcome {
    let mut secrets = secret::list(&context.layout)?;
    for text in &args.filters {
        match filter::pair(text) {
            Some(("name", wanted)) => secrets.retain(|secret| secret.name.contains(wanted)),
            Some(("id", wanted)) => secrets.retain(|secret| secret.id.starts_with(wanted)),
            _ => return Err(CommandError::user(format_args!("invalid filter {text:?}"))),
        }
    }
    if args.quiet {
        output::print(&secrets.iter().flat_map(|secret| [secret.id.as_str(), "\n"]).collect::<String>())?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows = secrets.iter().map(|secret| {
        Value::Struct(vec![
            ("ID", secret.id.as_str().into()),
            ("Name", secret.name.as_str().into()),
            ("Driver", secret.driver.as_str().into()),
            ("CreatedAt", units::ago(secret.created, now).into()),
            ("UpdatedAt", units::ago(secret.updated, now).into()),
        ])
    });
    let format = match args.format.as_deref() {
        None | Some("table") => r"table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
        Some("json") => "{{json .}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "list",
        type_name: "secrets.secretListOutput",
        format,
        headings: &[("CreatedAt", "CREATED"), ("UpdatedAt", "UPDATED")],
        no_heading: args.noheading,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(rows.collect());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

/// Runs `secret inspect`.
pub(crate) fn inspect(args: InspectArgs, context: &Context) -> Outcome {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &args.secrets {
        match secret::find(&context.layout, name) {
            Ok(secret) => found.push(secret),
            Err(error) => errors.push(CommandError::user(error).while_doing("inspecting secret")),
        }
    }
    if args.pretty {
        output::print(&found.iter().map(|secret| pretty(secret, args.showsecret)).collect::<String>())?;
        return select::finish(errors);
    }
    let values = found.iter().map(|secret| describe(secret, args.showsecret)).collect();
    match args.format.as_deref() {
        None => {
            let style = Json { indent: Some(4), ..Json::INSPECT };
            output::print_line(Value::List(values).to_json(style))?;
        }
        Some(format) if is_json(format) && format.trim() == "json" => {
            output::print_line(Value::List(values).to_json(Json::INSPECT))?;
        }
        Some(format) => {
            let template = Template::parse("inspect", &normalize(format))?;
            for value in &values {
                let (text, error) = template.execute(value, "entities.SecretInfoReport");
                output::print(&text)?;
                if let Some(error) = error {
                    return Err(error);
                }
            }
        }
    }
    select::finish(errors)
}

fn describe(secret: &Secret, show: bool) -> Value {
    let driver = Value::Struct(vec![("Name", secret.driver.as_str().into()), ("Options", Value::map(&secret.options))]);
    let spec = Value::Struct(vec![
        ("Name", secret.name.as_str().into()),
        ("Driver", driver),
        ("Labels", Value::map(&secret.labels)),
    ]);
    let mut fields = vec![
        ("ID", secret.id.as_str().into()),
        ("CreatedAt", Value::Time(Some(secret.created))),
        ("UpdatedAt", Value::Time(Some(secret.updated))),
        ("Spec", spec),
    ];
    if show {
        fields.push(("SecretData", String::from_utf8_lossy(&secret.data.0).into_owned().into()));
    }
    Value::Struct(fields)
}

fn pretty(secret: &Secret, show: bool) -> String {
    let mut text = format!("ID:              {}\nName:              {}\n", secret.id, secret.name);
    if !secret.labels.is_empty() {
        text.push_str("Labels:\n");
        for (key, value) in &secret.labels {
            text.push_str(&format!(" - {}={}\n", Printable::line(key), Printable::line(value)));
        }
    }
    text.push_str(&format!("Driver:            {}\n", secret.driver));
    text.push_str(&format!("Created at:        {}\n", units::go_time(Some(secret.created))));
    text.push_str(&format!("Updated at:        {}\n", units::go_time(Some(secret.updated))));
    if show {
        text.push_str(&format!("Secret:            {}\n", String::from_utf8_lossy(&secret.data.0)));
    }
    text
}
