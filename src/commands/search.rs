//! `search`: repositories of registries, and their tags.

use runtime::userns::Mapping;
use storage::reference::{DOCKER_HUB, Reference};
use storage::transport::registry::Registries;
use storage::transport::registry::search::{self, Found};

use super::pull::RegistryArgs;
use super::{Context, Outcome};
use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::output;
use crate::cli::printable::Printable;
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle search --filter is-official --limit 3 alpine
  coracle search registry.example/team
  coracle search --list-tags docker.io/library/alpine"#;

/// How many repositories of a registry are shown without a wish.
const LIMIT: usize = 25;

/// The longest description that is shown whole.
const DESCRIPTION_CHARACTERS: usize = 44;

/// Search registry for image
///
/// Searches a registry, or all that registries.conf has for names without one: Docker Hub if it has none.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// What to look for, with or without a registry before it
    #[arg(value_name = "TERM")]
    term: String,
    /// List stars, official and automated columns
    #[arg(long)]
    compatible: bool,
    /// Show only what fits: stars=N, is-official, is-automated
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Format the output to JSON or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show at most so many repositories of each registry [default: 25]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// List the tags of a repository
    #[arg(long)]
    list_tags: bool,
    /// Do not shorten descriptions
    #[arg(long)]
    no_trunc: bool,
    /// Show only repositories with at least so many stars
    #[arg(short, long, hide = true, value_name = "N")]
    stars: Option<i64>,
    /// Show only automated builds
    #[arg(long, hide = true)]
    automated: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What a repository must be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    stars: Option<i64>,
    official: Option<bool>,
    automated: Option<bool>,
}

impl Wanted {
    fn parse(filters: &[String]) -> Result<Self, CommandError> {
        let mut wanted = Self::default();
        for filter in filters {
            let (name, value) = filter.split_once('=').map_or((filter.as_str(), None), |(name, v)| (name, Some(v)));
            let flag = |value: Option<&str>| match value {
                None => Ok(Some(true)),
                Some(value) => crate::cli::usage::boolean(value).map(Some).map_err(|_| {
                    CommandError::user(format!("incorrect value type for {name} filter: {value:?} is not a boolean"))
                }),
            };
            match name {
                "stars" => {
                    let stars = value.unwrap_or_default().parse().map_err(|_| {
                        let value = value.unwrap_or_default();
                        CommandError::user(format!("incorrect value type for stars filter: {value:?} is not a number"))
                    })?;
                    wanted.stars = Some(stars);
                }
                "is-official" => wanted.official = flag(value)?,
                "is-automated" => wanted.automated = flag(value)?,
                _ => return Err(CommandError::user(format!("invalid filter type {filter:?}"))),
            }
        }
        Ok(wanted)
    }

    fn accepts(&self, found: &Found) -> bool {
        self.stars.is_none_or(|stars| found.stars >= stars)
            && self.official.is_none_or(|official| found.is_official == official)
            && self.automated.is_none_or(|automated| found.is_automated == automated)
    }
}

/// The registry that a term begins with, and what is looked for there.
fn split(term: &str) -> (Option<&str>, &str) {
    match term.split_once('/') {
        Some((registry, rest)) if registry.contains(['.', ':']) || registry == "localhost" => (Some(registry), rest),
        _ => (None, term),
    }
}

/// Runs `coracle search`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let mut wanted = Wanted::parse(&args.filters)?;
    wanted.stars = args.stars.or(wanted.stars);
    wanted.automated = args.automated.then_some(true).or(wanted.automated);
    let limit = args.limit.filter(|limit| *limit > 0);
    if args.list_tags {
        if !args.filters.is_empty() {
            return Err(CommandError::user("filters are not applicable to list tags result"));
        }
        return list_tags(&args, limit.unwrap_or(LIMIT), context);
    }
    let (registry, term) = split(&args.term);
    let env = |name: &str| std::env::var_os(name);
    let registries = match registry {
        Some(registry) => vec![registry.to_owned()],
        None => {
            let known = Registries::load(&env).map_err(CommandError::host)?.unqualified;
            known.filter(|known| !known.is_empty()).unwrap_or_else(|| vec![DOCKER_HUB.to_owned()])
        }
    };
    let options = args.registry.to_client_options()?;
    // One line for each: the registry and what was found there, as JSON.
    let answers = super::in_userns_with_output(&Mapping::of_user(), || {
        let (mut lines, mut errors) = (Vec::new(), Vec::new());
        for registry in &registries {
            match search::search(registry, term, limit.unwrap_or(LIMIT), &options) {
                Ok(found) => lines.extend(found.iter().map(|found| to_line(registry, found))),
                Err(error) => {
                    errors
                        .push(CommandError::host(error).while_doing(format!("couldn't search registry {registry:?}")));
                }
            }
        }
        // What one registry says is worth showing when another is away.
        match errors.pop() {
            Some(last) if lines.is_empty() => {
                errors.iter().for_each(CommandError::print);
                Err(last)
            }
            last => {
                errors.iter().chain(&last).for_each(CommandError::print);
                Ok(lines.join("\n"))
            }
        }
    })?;
    let rows: Vec<Value> = answers
        .lines()
        .filter_map(from_line)
        .filter(|(_, found)| wanted.accepts(found))
        .map(|(registry, found)| row(&registry, &found, &args, context.persona))
        .collect();
    show(rows, &args, context)
}

fn to_line(registry: &str, found: &Found) -> String {
    let Found { name, description, stars, is_official, is_automated } = found;
    serde_json::json!([registry, name, description, stars, is_official, is_automated]).to_string()
}

fn from_line(line: &str) -> Option<(String, Found)> {
    let (registry, name, description, stars, is_official, is_automated) = serde_json::from_str(line).ok()?;
    Some((registry, Found { name, description, stars, is_official, is_automated }))
}

fn row(registry: &str, found: &Found, args: &Args, persona: Persona) -> Value {
    let name = match (persona, registry) {
        // docker has one registry, whose name goes without saying.
        (Persona::Docker, DOCKER_HUB) => found.name.clone(),
        (_, DOCKER_HUB) if !found.name.contains('/') => format!("{DOCKER_HUB}/library/{}", found.name),
        _ => format!("{registry}/{}", found.name),
    };
    let line = found.description.split_whitespace().collect::<Vec<_>>().join(" ");
    let description = match line.chars().count() > DESCRIPTION_CHARACTERS && !args.no_trunc {
        true => {
            let short: String = line.chars().take(DESCRIPTION_CHARACTERS).collect();
            short + if persona == Persona::Docker { "…" } else { "..." }
        }
        false => line,
    };
    let mark = |is: bool| Value::str(if is { "[OK]" } else { "" });
    Value::Struct(vec![
        ("Index", Value::str(registry)),
        ("Name", Value::Str(Printable::line(&name).to_string())),
        ("Description", Value::Str(Printable::line(&description).to_string())),
        ("Stars", Value::Int(found.stars)),
        ("Official", mark(found.is_official)),
        ("Automated", mark(found.is_automated)),
        ("Tag", Value::str("")),
    ])
}

fn show(rows: Vec<Value>, args: &Args, context: &Context) -> Outcome {
    let is_docker = context.persona == Persona::Docker;
    let format = match args.format.as_deref() {
        Some(format) if is_json(format) && !is_docker => {
            let json = Json { indent: Some(4), ..Json::INSPECT };
            output::print_line(Value::List(rows).to_json(json))?;
            return Ok(0);
        }
        Some("json") => "{{json .}}",
        None | Some("table") if is_docker => r"table {{.Name}}\t{{.Description}}\t{{.Stars}}\t{{.Official}}",
        None | Some("table") if args.compatible => {
            r"table {{.Name}}\t{{.Description}}\t{{.Stars}}\t{{.Official}}\t{{.Automated}}"
        }
        None | Some("table") => r"table {{.Name}}\t{{.Description}}",
        Some(format) => format,
    };
    // podman has no headings above nothing.
    if rows.is_empty() && !is_docker {
        return Ok(0);
    }
    let type_name = "entities.ImageSearchReport";
    let listing = Listing { name: "search", type_name, format, headings: &[], no_heading: false, docker: is_docker };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn list_tags(args: &Args, limit: usize, context: &Context) -> Outcome {
    let text = args.term.strip_prefix("docker://").unwrap_or(&args.term);
    let repository = Reference::parse(text).map_err(CommandError::user)?;
    if repository.tag().is_some() || repository.digest().is_some() {
        return Err(CommandError::user(format!("reference {text:?} must be a docker reference without a tag")));
    }
    let options = args.registry.to_client_options()?;
    let tags = super::in_userns_with_output(&Mapping::of_user(), || {
        let tags = search::tags(&repository, limit, &options);
        Ok(tags.map_err(|error| CommandError::host(error).while_doing("getting repository tags"))?.join("\n"))
    })?;
    let name = repository.name();
    if args.format.as_deref().is_some_and(is_json) {
        let tags = Value::List(tags.lines().map(Value::str).collect());
        let list = Value::List(vec![Value::Struct(vec![("Name", Value::str(&name)), ("Tags", tags)])]);
        output::print_line(list.to_json(Json { indent: Some(4), ..Json::INSPECT }))?;
        return Ok(0);
    }
    let rows = tags.lines().map(|tag| {
        Value::Struct(vec![("Name", Value::str(&name)), ("Tag", Value::Str(Printable::line(tag).to_string()))])
    });
    let format = args.format.as_deref().unwrap_or(r"table {{.Name}}\t{{.Tag}}");
    let listing = Listing {
        name: "search",
        type_name: "entities.ImageSearchReport",
        format,
        headings: &[],
        no_heading: false,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(rows.collect());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_podmans() {
        let parse =
            |filters: &[&str]| Wanted::parse(&filters.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let wanted = parse(&["stars=3", "is-official", "is-automated=false"]).unwrap();
        assert_eq!(wanted, Wanted { stars: Some(3), official: Some(true), automated: Some(false) });
        let found = Found { stars: 3, is_official: true, ..Found::default() };
        assert!(wanted.accepts(&found) && !wanted.accepts(&Found { stars: 2, ..found.clone() }));
        assert!(!wanted.accepts(&Found { is_automated: true, ..found }));
        for bad in ["foo=1", "stars", "stars=x", "is-official=maybe"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_term_may_begin_with_a_registry() {
        assert_eq!(split("nginx"), (None, "nginx"));
        assert_eq!(split("library/nginx"), (None, "library/nginx"));
        assert_eq!(split("localhost:5000/a/b"), (Some("localhost:5000"), "a/b"));
        assert_eq!(split("quay.io/"), (Some("quay.io"), ""));
    }
}
