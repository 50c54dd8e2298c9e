//! `images`: every name in the store, one row each.

use std::collections::HashSet;
use std::rc::Rc;

use jiff::Timestamp;
use runtime::userns::Mapping;
use storage::image::store::{Image, ImageStore};
use storage::reference::Reference;

use super::filter::{self, label_fits};
use super::image::platforms;
use super::{Context, Outcome, select};
use crate::cli::format::{Json, Listing, Value, is_json, plain};
use crate::cli::pattern::glob_fits;
use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle images
  coracle images --filter dangling=true -q
  coracle images --format "{{.Repository}}:{{.Tag}} {{.Size}}""#;

/// List images in local storage
///
/// Lists images previously pulled to the system or created on the system.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Only images of this name, a reference or a pattern
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    /// Show all images (there are no intermediate ones)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Change the output format to JSON or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Display the image name history
    #[arg(long)]
    history: bool,
    /// Do not truncate output
    #[arg(long, alias = "notruncate")]
    no_trunc: bool,
    /// Do not print column headings
    #[arg(short = 'n', long)]
    noheading: bool,
    /// Display only image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Sort by created, id, repository, size, tag
    #[arg(long, value_name = "KEY", default_value = "created")]
    sort: String,
    /// List the platforms of images as a tree
    #[arg(long, conflicts_with_all = ["format", "quiet"])]
    tree: bool,
}

const SORTS: &[&str] = &["created", "id", "repository", "size", "tag"];

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if !SORTS.contains(&args.sort.as_str()) {
        return Err(CommandError::user(format_args!(
            "invalid argument {:?} for \"--sort\" flag: {:?} is not a valid value.  Choose from: {:?}",
            args.sort,
            args.sort,
            SORTS.join(", ")
        )));
    }
    let rows = rows(&args, context)?;
    if args.tree {
        let mut seen = HashSet::new();
        let images = rows.iter().filter(|row| seen.insert(&row.image.manifest.digest));
        let images: Vec<_> = images.map(|row| (&*row.image, row.containers > 0)).collect();
        return output::print(&platforms::draw(&images)).map(|()| 0);
    }
    let format = args.format.as_deref();
    // As podman has it: of the two JSON counts, and no template.
    if args.quiet && format != Some("json") {
        let mut ids: Vec<String> = Vec::new();
        for row in &rows {
            let id = if args.no_trunc { row.image.id.to_string() } else { short_id(&row.image).to_owned() };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        output::print(&ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect::<String>())?;
        return Ok(0);
    }
    let view = View { now: Timestamp::now(), no_trunc: args.no_trunc, persona: context.persona };
    if format == Some("json") && context.persona == Persona::Podman {
        let style =
            Json { indent: Some(if rows.is_empty() { 0 } else { 4 }), escape_html: true, open_empty_maps: false };
        let list = Value::List(rows.iter().map(|row| view.json(row)).collect());
        output::print_line(list.to_json(style))?;
        return Ok(0);
    }
    if format.is_none() {
        // Only who has additional stores sees which images are of them.
        let with_read_only = rows.iter().any(|row| row.image.read_only.is_some());
        let rows = rows.iter().map(|row| view.cells(row, &args, with_read_only));
        let headings = (!args.noheading).then(|| headings(&args, with_read_only));
        output::print(&plain(headings, rows, context.persona == Persona::Docker))?;
        return Ok(0);
    }
    let default = default_format(&args, context.persona);
    let format = match format {
        None | Some("table") => default.as_str(),
        Some(format) if is_json(format) => "{{json .}}",
        Some(format) => format,
    };
    let listing = Listing {
        name: "images",
        type_name: "images.imageReporter",
        format,
        headings: &[
            ("ID", "IMAGE ID"),
            ("ReadOnly", "R/O"),
            ("CreatedSince", "CREATED"),
            ("CreatedAt", "CREATED AT"),
            ("CreatedTime", "CREATED AT"),
            ("Created", "CREATED"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("VirtualSize", "VIRTUAL SIZE"),
        ],
        no_heading: args.noheading,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(rows.iter().map(|row| view.row(row)).collect());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn default_format(args: &Args, persona: Persona) -> String {
    let created = if persona == Persona::Docker { "CreatedSince" } else { "Created" };
    let mut columns = vec!["Repository", "Tag"];
    if args.digests {
        columns.push("Digest");
    }
    columns.extend(["ID", created, "Size"]);
    if args.history {
        columns.push("History");
    }
    let cells: Vec<_> = columns.iter().map(|column| format!("{{{{.{column}}}}}")).collect();
    format!("table {}", cells.join(r"\t"))
}

/// The headings of a listing without a format.
fn headings(args: &Args, with_read_only: bool) -> Vec<&'static str> {
    let mut headings = vec!["REPOSITORY", "TAG"];
    headings.extend(args.digests.then_some("DIGEST"));
    headings.extend(["IMAGE ID", "CREATED", "SIZE"]);
    headings.extend(args.history.then_some("HISTORY"));
    headings.extend(with_read_only.then_some("R/O"));
    headings
}

/// A name of an image, or an image without one.
struct Row {
    image: Rc<Image>,
    name: Option<Reference>,
    containers: u64,
}

fn rows(args: &Args, context: &Context) -> Result<Vec<Row>, CommandError> {
    let store = ImageStore::open(&context.layout);
    let mut broken = Vec::new();
    let mut images = store.list_with(&mut broken)?;
    for error in broken {
        CommandError::host(error).print();
    }
    images.extend(store.list_read_only()?);
    let filters = ImageFilters::parse(&store, &args.filters)?;
    // A listing without a format does not show how many containers an image has.
    let counts = args.format.is_some() || args.tree || filters.ask_for_containers();
    let containers = if counts { select::all(context)? } else { Vec::new() };
    let users: Vec<_> = containers.into_iter().filter_map(|record| record.image.map(|image| image.id)).collect();
    // The newest first; of two of the same age the one that came last.
    images.reverse();
    images.sort_by_cached_key(|image| std::cmp::Reverse(created(image)));
    let mut rows = Vec::new();
    for image in images.into_iter().map(Rc::new) {
        let containers = users.iter().filter(|id| **id == image.id).count() as u64;
        if !filters.accept(&image, containers > 0) {
            continue;
        }
        // The name given last stands first.
        let named = image.names.iter().rev().filter(|name| shown(args, &filters, name)).cloned().map(Some);
        let mut names: Vec<Option<Reference>> = named.collect();
        if image.names.is_empty() && args.image.is_none() && filters.references.is_empty() {
            names.push(None);
        }
        rows.extend(names.into_iter().map(|name| Row { image: Rc::clone(&image), name, containers }));
    }
    let repository = |row: &Row| row.name.as_ref().map(Reference::name);
    let tag = |row: &Row| row.name.as_ref().and_then(|name| name.tag().map(str::to_owned));
    match args.sort.as_str() {
        "id" => rows.sort_by(|a, b| a.image.id.cmp(&b.image.id)),
        "repository" => rows.sort_by_key(|row| (repository(row), tag(row))),
        "size" => rows.sort_by_key(|row| row.image.size),
        "tag" => rows.sort_by_key(tag),
        _ => {}
    }
    Ok(rows)
}

fn shown(args: &Args, filters: &ImageFilters, name: &Reference) -> bool {
    args.image.as_deref().is_none_or(|wanted| reference_fits(name, wanted))
        && (filters.references.is_empty() || filters.references.iter().any(|wanted| reference_fits(name, wanted)))
}

/// Whether a name answers a pattern: in full, in docker's short form, without its tag, or by its last component.
fn reference_fits(name: &Reference, wanted: &str) -> bool {
    let full = name.to_string();
    let last = full.rsplit('/').next().unwrap_or_default().to_owned();
    let last_name = name.repository().rsplit('/').next().unwrap_or_default().to_owned();
    [full, name.name(), name.familiar(), name.familiar_name(), last, last_name]
        .iter()
        .any(|text| glob_fits(wanted, text))
}

/// The filters of a command line.
struct ImageFilters {
    references: Vec<String>,
    checks: Vec<(Check, bool)>,
}

enum Check {
    Dangling(bool),
    ReadOnly(bool),
    Label(String),
    Before(Timestamp),
    Since(Timestamp),
    Id(String),
    Digest(String),
    Used(bool),
    Nothing(bool),
}

impl ImageFilters {
    fn parse(store: &ImageStore, filters: &[String]) -> Result<Self, CommandError> {
        let mut parsed = Self { references: Vec::new(), checks: Vec::new() };
        for text in filters {
            let (key, value) = filter::pair(text).ok_or_else(|| {
                CommandError::user(format_args!(
                    "invalid image filter {text:?}: must be in the format \"filter=value or filter!=value\""
                ))
            })?;
            let (key, wanted) = key.strip_suffix('!').map_or((key, true), |key| (key, false));
            let boolean = || crate_bool(value);
            let check = match key {
                "reference" => {
                    parsed.references.push(value.to_owned());
                    continue;
                }
                "dangling" => Check::Dangling(boolean()?),
                "label" => Check::Label(value.to_owned()),
                "before" | "since" | "after" => {
                    let image = store.resolve(value)?.ok_or_else(|| not_known(value))?;
                    let moment = created(&image).unwrap_or_default();
                    if key == "before" { Check::Before(moment) } else { Check::Since(moment) }
                }
                "until" => Check::Before(filter::moment(value)?),
                "id" => Check::Id(value.to_owned()),
                "digest" => Check::Digest(value.to_owned()),
                "containers" => Check::Used(boolean()?),
                "readonly" => Check::ReadOnly(boolean()?),
                // None is intermediate or a list.
                "intermediate" | "manifest" => Check::Nothing(!boolean().unwrap_or(false)),
                _ => {
                    return Err(CommandError::user(format_args!(
                        "invalid image filter {key:?}: must be in the format \"filter=value or filter!=value\""
                    )));
                }
            };
            parsed.checks.push((check, wanted));
        }
        Ok(parsed)
    }

    /// Whether the answer depends on which containers there are.
    fn ask_for_containers(&self) -> bool {
        self.checks.iter().any(|(check, _)| matches!(check, Check::Used(_)))
    }

    /// `is_used`: whether a container is made of it.
    fn accept(&self, image: &Image, is_used: bool) -> bool {
        self.checks.iter().all(|(check, wanted)| {
            let fits = match check {
                Check::Dangling(dangling) => image.names.is_empty() == *dangling,
                Check::ReadOnly(read_only) => image.read_only.is_some() == *read_only,
                Check::Label(label) => {
                    image.config.labels_of_config().is_some_and(|labels| label_fits(labels.iter(), label))
                }
                Check::Before(moment) => created(image).unwrap_or_default() < *moment,
                Check::Since(moment) => created(image).unwrap_or_default() > *moment,
                Check::Id(prefix) => image.id.hex().starts_with(prefix.trim_start_matches("sha256:")),
                Check::Digest(prefix) => image.manifest.digest.to_string().starts_with(prefix.as_str()),
                Check::Used(used) => is_used == *used,
                Check::Nothing(fits) => *fits,
            };
            fits == *wanted
        })
    }
}

fn crate_bool(value: &str) -> Result<bool, CommandError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(CommandError::user(format_args!("strconv.ParseBool: parsing {value:?}: invalid syntax"))),
    }
}

/// `NAME: image not known`.
pub(crate) fn not_known(name: &str) -> CommandError {
    CommandError::user(format_args!("{name}: image not known"))
}

/// Refuses an image of another platform than one asked for. An image here is of one platform.
pub(crate) fn must_be_of(image: &Image, asked: Option<&str>, typed: &str) -> Result<(), CommandError> {
    use crate::cli::{parse::words, usage};
    let Some(asked) =
        usage::maybe("--platform", asked.map(str::to_owned).as_ref(), words::platform).map_err(CommandError::user)?
    else {
        return Ok(());
    };
    let has = image.platform.to_string();
    // `linux/arm64` is any variant of it.
    match has == asked || has.starts_with(&format!("{asked}/")) {
        true => Ok(()),
        false => Err(CommandError::user(format_args!("{typed}: image is of platform {has}, not {asked}")).with_code(1)),
    }
}

/// Makes the blobs of images again that were dropped, before something reads them.
pub(crate) fn remake_blobs<'a>(
    store: &ImageStore,
    images: impl IntoIterator<Item = &'a Image>,
) -> Result<(), CommandError> {
    let layers = images.into_iter().flat_map(|image| &image.layers);
    let dropped: Vec<_> = layers.filter(|layer| store.is_dropped(&layer.blob.digest)).collect();
    if dropped.is_empty() {
        return Ok(());
    }
    // Files of layers have many owners.
    super::in_userns_with_output(&Mapping::of_user(), || {
        store.remake_blobs(dropped).map(|()| String::new()).map_err(CommandError::host)
    })
    .map(drop)
}

/// Refuses what would change an image that is in an additional store.
pub(crate) fn must_be_ours(image: &Image) -> Result<(), CommandError> {
    let Some(dir) = &image.read_only else { return Ok(()) };
    let name = image.names.first().map_or_else(|| short_id(image).to_owned(), ToString::to_string);
    Err(CommandError::user(format_args!(
        "image {name} is in the additional store {}, which is read-only",
        dir.display()
    ))
    .hinted(format_args!("coracle --root {} lets its owner change it", dir.display())))
}

/// A name as docker has it: what was built here has no registry in its name there.
pub(crate) fn of_docker(familiar: &str) -> &str {
    familiar.strip_prefix("localhost/").unwrap_or(familiar)
}

/// When an image was built.
pub(crate) fn created(image: &Image) -> Option<Timestamp> {
    image.created.as_deref().and_then(|text| text.parse().ok())
}

/// The size of an image as a persona counts it: docker's is that of its layers; podman's store has its manifest, under two
/// names, and its configuration besides, and counts what is there.
pub(crate) fn size(image: &Image, persona: Persona) -> u64 {
    match persona {
        Persona::Docker => image.size,
        Persona::Podman => image.size + image.raw_config.len() as u64 + 2 * image.manifest.size,
    }
}

/// The first twelve digits of an image's id.
pub(crate) fn short_id(image: &Image) -> &str {
    image.id.hex().get(..12).unwrap_or_default()
}

/// `docker.io/library/nginx@sha256:…`, sorted, for each repository an image has a name in.
pub(crate) fn repo_digests(image: &Image) -> Vec<String> {
    let mut digests: Vec<String> = Vec::new();
    for name in image.names.iter().map(Reference::name) {
        digests.extend(image.index.iter().chain([&image.manifest.digest]).map(|digest| format!("{name}@{digest}")));
    }
    digests.sort();
    digests.dedup();
    digests
}

/// All names with a tag, the one given last first.
pub(crate) fn repo_tags(image: &Image) -> Vec<String> {
    image.names.iter().rev().filter(|name| name.tag().is_some()).map(Reference::to_string).collect()
}

struct View {
    now: Timestamp,
    no_trunc: bool,
    persona: Persona,
}

/// What every kind of listing shows of an image.
struct Words {
    repository: String,
    tag: String,
    digest: String,
    id: String,
    age: String,
    size: String,
}

impl View {
    fn words(&self, Row { image, name, .. }: &Row) -> Words {
        let docker = self.persona == Persona::Docker;
        let bytes = size(image, self.persona);
        Words {
            repository: match name {
                Some(name) if docker => of_docker(&name.familiar_name()).to_owned(),
                Some(name) => name.name(),
                None => "<none>".to_owned(),
            },
            tag: name.as_ref().and_then(Reference::tag).unwrap_or("<none>").to_owned(),
            digest: match (docker, image.names.is_empty()) {
                (true, true) => "<none>".to_owned(),
                _ => image.manifest.digest.to_string(),
            },
            id: if self.no_trunc { image.id.to_string() } else { short_id(image).to_owned() },
            age: created(image).map_or_else(|| "N/A".to_owned(), |created| units::ago(created, self.now)),
            size: if docker { units::human_size(bytes, 3) } else { units::human_size_spaced(bytes) },
        }
    }

    /// A row of a listing without a format.
    fn cells(&self, row: &Row, args: &Args, with_read_only: bool) -> Vec<String> {
        let Words { repository, tag, digest, id, age, size } = self.words(row);
        let mut cells = vec![Printable::line(&repository).to_string(), Printable::line(&tag).to_string()];
        cells.extend(args.digests.then_some(digest));
        cells.extend([id, age, size]);
        cells.extend(args.history.then(|| history(&row.image)));
        cells.extend(with_read_only.then(|| row.image.read_only.is_some().to_string()));
        cells
    }

    fn row(&self, row: &Row) -> Value {
        let Row { image, containers, .. } = row;
        let created = created(image);
        let docker = self.persona == Persona::Docker;
        let bytes = size(image, self.persona);
        let Words { repository, tag, digest, id, age, size } = self.words(row);
        let fields = vec![
            ("Repository", Printable::line(&repository).to_string().into()),
            ("Tag", Printable::line(&tag).to_string().into()),
            ("ID", id.into()),
            ("Digest", digest.into()),
            ("Created", age.clone().into()),
            ("CreatedSince", age.into()),
            ("CreatedAt", units::go_time(created).into()),
            ("CreatedTime", units::go_time(created).into()),
            ("Size", size.clone().into()),
            ("SharedSize", if docker { "N/A".into() } else { Value::Int(0) }),
            ("UniqueSize", "N/A".into()),
            ("VirtualSize", if docker { size.into() } else { bytes.into() }),
            ("Containers", if docker { containers.to_string().into() } else { (*containers).into() }),
            ("ParentId", "".into()),
            ("Labels", labels(image, false)),
            ("RepoTags", Value::strings(repo_tags(image))),
            ("RepoDigests", Value::strings(repo_digests(image))),
            ("Names", Value::strings(repo_tags(image))),
            ("History", history(image).into()),
            ("ReadOnly", image.read_only.is_some().into()),
            ("Dangling", image.names.is_empty().into()),
            ("IsManifestList", Value::NilPointer),
            ("Os", image.platform.os.as_str().into()),
            ("Arch", image.platform.architecture.as_str().into()),
        ];
        let json = if docker {
            let names = [
                "Containers",
                "CreatedAt",
                "CreatedSince",
                "Digest",
                "ID",
                "Repository",
                "SharedSize",
                "Size",
                "Tag",
                "UniqueSize",
                "VirtualSize",
            ];
            let field = |name: &'static str| {
                let value = fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.to_text());
                (name, Value::Str(value.unwrap_or_default()))
            };
            Value::Struct(names.into_iter().map(field).collect())
        } else {
            self.json_line(image, &repository, &tag, *containers)
        };
        Value::Row(fields, Box::new(json))
    }

    /// As `{{json .}}` has it.
    fn json_line(&self, image: &Image, repository: &str, tag: &str, containers: u64) -> Value {
        Value::Struct(vec![
            ("repository", repository.into()),
            ("tag", tag.into()),
            ("Id", image.id.hex().into()),
            ("ParentId", "".into()),
            ("RepoTags", Value::strings_or_nil(repo_tags(image))),
            ("RepoDigests", Value::strings_or_nil(repo_digests(image))),
            ("Created", Value::Int(created(image).unwrap_or_default().as_second())),
            ("Size", size(image, self.persona).into()),
            ("SharedSize", Value::Int(0)),
            ("VirtualSize", size(image, self.persona).into()),
            ("Labels", labels(image, true)),
            ("Containers", containers.into()),
            ("Digest", image.manifest.digest.to_string().into()),
            ("History", Value::strings_or_nil(image.names.iter().map(Reference::to_string))),
            ("Names", Value::strings_or_nil(repo_tags(image))),
        ])
    }

    /// As `--format json` has it.
    fn json(&self, Row { image, containers, .. }: &Row) -> Value {
        let created = created(image).unwrap_or_default();
        let mut fields = vec![
            ("Id", image.id.hex().into()),
            ("ParentId", "".into()),
            ("RepoTags", Value::NilList),
            ("RepoDigests", Value::strings_or_nil(repo_digests(image))),
            ("Size", size(image, self.persona).into()),
            ("SharedSize", Value::Int(0)),
            ("VirtualSize", size(image, self.persona).into()),
            ("Labels", labels(image, true)),
            ("Containers", (*containers).into()),
        ];
        if image.names.is_empty() {
            fields.push(("Dangling", true.into()));
        }
        fields.push(("Digest", image.manifest.digest.to_string().into()));
        if !image.names.is_empty() {
            fields.push(("History", Value::strings(image.names.iter().map(Reference::to_string))));
            fields.push(("Names", Value::strings(repo_tags(image))));
        }
        let seconds = Timestamp::from_second(created.as_second()).unwrap_or_default();
        fields.push(("Created", Value::Int(created.as_second())));
        fields.push(("CreatedAt", Value::Time(Some(seconds))));
        Value::Struct(fields)
    }
}

/// All names, in the order in which they were given.
fn history(image: &Image) -> String {
    image.names.iter().map(Reference::to_string).collect::<Vec<_>>().join(", ")
}

/// The labels of an image.
pub(crate) fn labels(image: &Image, absent_is_nil: bool) -> Value {
    let labels = image.config.labels_of_config().into_iter().flatten();
    if absent_is_nil { Value::map_or_nil(labels) } else { Value::map(labels) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_fit_as_people_write_them() {
        let name = Reference::parse("docker.io/library/nginx:1.27").unwrap();
        for (wanted, fits) in [
            ("nginx", true),
            ("nginx:1.27", true),
            ("nginx:1.28", false),
            ("docker.io/library/nginx", true),
            ("*/nginx", true),
            ("ngin*", true),
            ("*", true),
            ("library/nginx", false),
            ("apache", false),
        ] {
            assert_eq!(reference_fits(&name, wanted), fits, "{wanted}");
        }
    }
}
