//! `image trust`: the policy of which images may come in, shown and changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Subcommand;
use storage::state::atomic::{Durability, write_atomic};
use storage::transport::policy::{self, Keys, Policy, Requirement};

use crate::cli::format::{Json, Listing, Value};
use crate::cli::output;
use crate::commands::{Context, Outcome};
use crate::error::CommandError;
use crate::role::Persona;

const SHOW_EXAMPLES: &str = r#"Examples:
  coracle image trust show
  coracle image trust show --raw"#;

const SET_EXAMPLES: &str = r#"Examples:
  coracle image trust set --type reject default
  coracle image trust set --type accept docker.io
  coracle image trust set --type sigstoreSigned --pubkeysfile cosign.pub registry.example/team"#;

/// What to do with the policy.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set default trust policy or a new trust policy for a registry
    Set(SetArgs),
    /// Display trust policy for the system
    Show(ShowArgs),
}

/// Display trust policy for the system
#[derive(clap::Args, Debug)]
#[command(after_help = SHOW_EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct ShowArgs {
    /// Output as json
    #[arg(short, long)]
    json: bool,
    /// Do not print column headings
    #[arg(short, long)]
    noheading: bool,
    /// Output raw policy file
    #[arg(long)]
    raw: bool,
    /// Show the policy of this registry or repository alone
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
}

/// Set default trust policy or add a new trust policy for a registry
#[derive(clap::Args, Debug)]
#[command(after_help = SET_EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct SetArgs {
    /// Trust type: accept, reject, signedBy or sigstoreSigned
    #[arg(short = 't', long = "type", value_name = "TYPE", default_value = "signedBy")]
    kind: String,
    /// Path of a public key to trust; may be given several times
    #[arg(short = 'f', long, value_name = "PATH")]
    pubkeysfile: Vec<PathBuf>,
    /// A registry, a repository, or `default`
    #[arg(value_name = "REGISTRY")]
    registry: String,
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Set(args) => set(args),
        Command::Show(args) => show(&args, context),
    }
}

fn env(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// What is in force where there is no file.
fn accept_everything() -> Policy {
    Policy { default: vec![Requirement::InsecureAcceptAnything], transports: BTreeMap::new() }
}

fn show(args: &ShowArgs, context: &Context) -> Outcome {
    let path = policy::find(&env);
    let policy = match &path {
        Some(path) => {
            policy::read(path).map_err(|reason| CommandError::user(format!("{}: {reason}", path.display())))?
        }
        None => accept_everything(),
    };
    if args.raw {
        let text = match &path {
            Some(path) => fs::read_to_string(path)
                .map_err(|error| CommandError::host(error).while_doing(format!("reading {}", path.display())))?,
            None => to_text(&policy)?,
        };
        return output::print_line(text.trim_end_matches('\n')).map(|()| 0);
    }
    let entries: Vec<Entry> = entries(&policy)
        .into_iter()
        .filter(|entry| args.registry.as_ref().is_none_or(|wanted| entry.name == *wanted))
        .collect();
    if args.json {
        let list = Value::List(entries.iter().map(Entry::to_json).collect());
        return output::print_line(list.to_json(Json { indent: Some(2), ..Json::INSPECT })).map(|()| 0);
    }
    let listing = Listing {
        name: "show",
        type_name: "images.trustPolicy",
        format: "table {{.Transport}}\\t{{.Name}}\\t{{.Type}}\\t{{.ID}}\\t{{.Store}}",
        headings: &[],
        no_heading: args.noheading,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(entries.iter().map(Entry::to_row).collect());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

/// One requirement at its place.
struct Entry {
    transport: String,
    name: String,
    kind: &'static str,
    key: &'static str,
}

impl Entry {
    fn new(transport: &str, name: &str, requirement: &Requirement) -> Self {
        let (kind, key) = match requirement {
            Requirement::InsecureAcceptAnything => ("accept", ""),
            Requirement::Reject => ("reject", ""),
            Requirement::SignedBy(..) => ("signed", ""),
            Requirement::SigstoreSigned(..) => ("sigstoreSigned", "N/A"),
        };
        // Docker's is what podman calls a repository.
        let transport = if transport == "docker" { "repository" } else { transport };
        Self { transport: transport.to_owned(), name: name.to_owned(), kind, key }
    }

    fn to_row(&self) -> Value {
        Value::Struct(vec![
            ("Transport", Value::str(&self.transport)),
            ("Name", Value::str(&self.name)),
            ("Type", Value::str(self.kind)),
            ("ID", Value::str(self.key)),
            ("Store", Value::str("")),
        ])
    }

    fn to_json(&self) -> Value {
        let mut fields = vec![("transport", Value::str(&self.transport))];
        match self.transport.as_str() {
            "all" => fields.extend([("name", "* (default)".into()), ("repo_name", "default".into())]),
            _ if self.name.is_empty() => {}
            _ => fields.extend([("name", Value::str(&self.name)), ("repo_name", Value::str(&self.name))]),
        }
        fields.push(("type", Value::str(self.kind)));
        if !self.key.is_empty() {
            fields.push(("gpg_id", Value::str(self.key)));
        }
        Value::Struct(fields)
    }
}

/// The default first, then transport by transport.
fn entries(policy: &Policy) -> Vec<Entry> {
    let mut all: Vec<Entry> =
        policy.default.iter().map(|requirement| Entry::new("all", "default", requirement)).collect();
    for (transport, scopes) in &policy.transports {
        for (scope, requirements) in scopes {
            all.extend(requirements.iter().map(|requirement| Entry::new(transport, scope, requirement)));
        }
    }
    all
}

fn set(args: SetArgs) -> Outcome {
    let path = policy::own(&env)
        .ok_or_else(|| CommandError::user("neither XDG_CONFIG_HOME nor HOME says where policy.json is to be"))?;
    let policy = match policy::find(&env) {
        // What the system says goes on to hold.
        Some(known) => {
            policy::read(&known).map_err(|reason| CommandError::user(format!("{}: {reason}", known.display())))?
        }
        None => accept_everything(),
    };
    let requirement = requirement(&args)?;
    let policy = with(policy, &args.registry, requirement);
    let failed = |error: &dyn std::fmt::Display| CommandError::host(format!("write {}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    }
    write_atomic(&path, to_text(&policy)?.as_bytes(), Durability::Full).map_err(|error| failed(&error))?;
    Ok(0)
}

fn to_text(policy: &Policy) -> Result<String, CommandError> {
    let mut text = Vec::new();
    let style = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, style);
    serde::Serialize::serialize(policy, &mut writer).map_err(CommandError::host)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn with(mut policy: Policy, scope: &str, requirement: Vec<Requirement>) -> Policy {
    match scope {
        "default" => policy.default = requirement,
        scope => {
            policy.transports.entry("docker".to_owned()).or_default().insert(scope.to_owned(), requirement);
        }
    }
    policy
}

fn requirement(args: &SetArgs) -> Result<Vec<Requirement>, CommandError> {
    let is_signed = matches!(args.kind.as_str(), "signedBy" | "sigstoreSigned");
    match args.kind.as_str() {
        "accept" => return Ok(vec![Requirement::InsecureAcceptAnything]),
        "reject" => return Ok(vec![Requirement::Reject]),
        kind if !is_signed => {
            let choices = "'accept', 'reject', 'signedBy', 'sigstoreSigned'";
            return Err(CommandError::user(format!("invalid choice: {kind} (choose from {choices})")));
        }
        kind if args.pubkeysfile.is_empty() => {
            return Err(CommandError::user(format!("at least one public key must be defined for type '{kind}'")));
        }
        _ => {}
    }
    let each = args.pubkeysfile.iter().map(|path| {
        let path = std::path::absolute(path).map_err(CommandError::user)?;
        match path.is_file() {
            true => Ok(path),
            false => Err(CommandError::user(format!("{}: no such file", path.display()))),
        }
    });
    // Each of them must have signed, as podman reads several keys.
    let requirements = each.map(|path| {
        let keys = Keys { path: Some(path?), ..Keys::default() };
        Ok(match args.kind.as_str() {
            "sigstoreSigned" => Requirement::SigstoreSigned(keys, None),
            _ => Requirement::SignedBy(keys, None),
        })
    });
    requirements.collect()
}
