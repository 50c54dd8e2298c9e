//! `version`.

use jiff::Timestamp;

use super::{Context, Outcome};
use crate::cli::format::{Json, Template, Value, enforce_range, is_json, normalize};
use crate::cli::{output, units};
use crate::role::{Persona, Program};

/// The API version that docker's tools are told: enough for all of today's.
const API_VERSION: &str = "1.44";

/// Display the coracle version information
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Change the output format to JSON or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let docker = context.persona == Persona::Docker;
    let version = describe(context.program());
    let text = match args.format.as_deref() {
        Some(format) if is_json(format) => {
            let style = Json { indent: None, escape_html: true, open_empty_maps: false };
            version.to_json(style) + "\n"
        }
        Some(format) => {
            let template = Template::parse("version", &enforce_range(&normalize(format)))?;
            let (text, error) = template.execute(&Value::List(vec![version]), "*define.Version");
            output::print(&text)?;
            return error.map_or(Ok(0), Err);
        }
        None if docker => human_docker(&version),
        None => human(&version),
    };
    output::print(&text)?;
    Ok(0)
}

/// The architecture in Go's word.
pub(crate) fn arch() -> String {
    storage::image::index::Platform::host().architecture
}

/// When this binary was built, as far as its file tells.
fn built() -> Option<Timestamp> {
    let modified = std::fs::metadata("/proc/self/exe").and_then(|metadata| metadata.modified()).ok()?;
    Timestamp::try_from(modified).ok().and_then(|time| Timestamp::from_second(time.as_second()).ok())
}

/// There is no server; scripts that ask for its version get ours all the same.
pub(crate) fn describe(program: Program) -> Value {
    let docker = program.persona == Persona::Docker;
    let built = built();
    let api = if docker { API_VERSION } else { program.version() };
    let side = |server: bool| {
        let mut fields = vec![
            ("APIVersion", api.into()),
            ("Version", program.version().into()),
            ("GoVersion", "".into()),
            ("GitCommit", "".into()),
            ("BuiltTime", built.map(units::ansi_c).unwrap_or_default().into()),
            ("Built", Value::Int(built.map_or(0, Timestamp::as_second))),
            ("BuildOrigin", concat!("coracle ", env!("CARGO_PKG_VERSION")).into()),
            ("OsArch", format!("linux/{}", arch()).into()),
            ("Os", "linux".into()),
        ];
        if docker {
            // What docker calls these.
            fields.push(("ApiVersion", API_VERSION.into()));
            fields.push(("Arch", arch().into()));
            fields.push(if server {
                ("MinAPIVersion", "1.24".into())
            } else {
                ("DefaultAPIVersion", API_VERSION.into())
            });
        }
        Value::Struct(fields)
    };
    Value::Struct(vec![("Client", side(false)), ("Server", side(true))])
}

fn field(version: &Value, side: &str, name: &str) -> String {
    version.get(side).and_then(|side| side.get(name)).map(Value::to_text).unwrap_or_default()
}

fn human(version: &Value) -> String {
    let field = |name: &str| field(version, "Client", name);
    let text = format!(
        "Client:\tCoracle\nVersion:\t{}\nAPI Version:\t{}\nBuilt:\t{}\nOS/Arch:\t{}\n",
        field("Version"),
        field("APIVersion"),
        field("BuiltTime"),
        field("OsArch")
    );
    // One column of fifteen, as podman has it.
    text.lines()
        .map(|line| match line.split_once('\t') {
            Some((name, value)) => format!("{name:<15}{value}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

/// Two blocks, as docker has it: what reads them finds a server.
fn human_docker(version: &Value) -> String {
    let client = |name: &str| field(version, "Client", name);
    let server = |name: &str| field(version, "Server", name);
    format!(
        "Client: Coracle {coracle}\n \
         Version:           {}\n \
         API version:       {}\n \
         Built:             {}\n \
         OS/Arch:           {}\n \
         Context:           default\n\n\
         Server: Coracle {coracle} (no daemon is needed)\n \
         Engine:\n  \
         Version:          {}\n  \
         API version:      {} (minimum version {})\n  \
         Built:            {}\n  \
         OS/Arch:          {}\n  \
         Experimental:     false\n",
        client("Version"),
        client("APIVersion"),
        client("BuiltTime"),
        client("OsArch"),
        server("Version"),
        server("APIVersion"),
        server("MinAPIVersion"),
        server("BuiltTime"),
        server("OsArch"),
        coracle = env!("CARGO_PKG_VERSION"),
    )
}
