//! `history`: the steps an image was built in, the newest first.

use jiff::Timestamp;
use serde::Deserialize;
use storage::image::store::{Image, ImageStore};

use super::{Context, Outcome, images};
use crate::cli::format::{Json, Listing, Value};
use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle history nginx
  coracle history --no-trunc --format "{{.CreatedBy}}" nginx"#;

/// Show history of a specified image
///
/// Displays the history of an image. The information can be printed out in an easy to read, or user specified format,
/// and can be truncated.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Change the output to JSON or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Display sizes and dates in human readable format
    #[arg(short = 'H', long, default_value_t = true)]
    human: bool,
    /// Do not truncate the output
    #[arg(long, alias = "notruncate")]
    no_trunc: bool,
    /// Platform that the image must be of, OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Display the numeric IDs only
    #[arg(short, long)]
    quiet: bool,
}

/// One step as the configuration has it.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Step {
    created: Option<Timestamp>,
    created_by: String,
    comment: String,
    empty_layer: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Configuration {
    history: Vec<serde_json::Value>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let image = store.resolve(&args.image)?.ok_or_else(|| images::not_known(&args.image))?;
    images::must_be_of(&image, args.platform.as_deref(), &args.image)?;
    let steps = steps(&image);
    let now = Timestamp::now();
    if args.format.as_deref() == Some("json") {
        let rows = steps.iter().map(|step| json(&image, step)).collect();
        let style = Json { indent: None, escape_html: true, open_empty_maps: false };
        output::print_line(Value::List(rows).to_json(style))?;
        return Ok(0);
    }
    let default = r"table {{.ID}}\t{{.Created}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
    let format = match (args.quiet, args.format.as_deref()) {
        (true, _) => "{{.ID}}",
        (false, None | Some("table")) => default,
        (false, Some(format)) => format,
    };
    let listing = Listing {
        name: "history",
        type_name: "images.historyReporter",
        format,
        headings: &[("CreatedBy", "CREATED BY"), ("CreatedAt", "CREATED AT"), ("CreatedSince", "CREATED")],
        no_heading: false,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) =
        listing.render(steps.iter().map(|step| row(&args, listing.docker, &image, step, now)).collect());
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

/// A step, the bytes it added, and whether it is the last one, which has the image's id.
struct Sized {
    step: Step,
    size_bytes: u64,
    is_image: bool,
}

fn steps(image: &Image) -> Vec<Sized> {
    let configuration: Configuration = serde_json::from_slice(&image.raw_config).unwrap_or_default();
    let mut layers = 0;
    let mut steps: Vec<Sized> = configuration
        .history
        .into_iter()
        .map(|step| {
            let step: Step = serde_json::from_value(step).unwrap_or_default();
            let size_bytes = if step.empty_layer { 0 } else { layer_bytes(image, layers) };
            layers += usize::from(!step.empty_layer);
            Sized { step, size_bytes, is_image: false }
        })
        .collect();
    // Layers that no step owns up to.
    while layers < image.layers.len() {
        let step = Step { created: images::created(image), ..Step::default() };
        steps.push(Sized { step, size_bytes: layer_bytes(image, layers), is_image: false });
        layers += 1;
    }
    steps.reverse();
    if let Some(first) = steps.first_mut() {
        first.is_image = true;
    }
    steps
}

fn layer_bytes(image: &Image, layer: usize) -> u64 {
    let unpacked = image.layer_sizes.as_ref().and_then(|sizes| sizes.get(layer)).copied();
    unpacked.or_else(|| image.layers.get(layer).map(|layer| layer.blob.size)).unwrap_or(0)
}

fn row(args: &Args, docker: bool, image: &Image, one: &Sized, now: Timestamp) -> Value {
    let Sized { step, size_bytes, is_image } = one;
    let id = match (is_image, args.no_trunc) {
        (false, _) => "<missing>",
        (true, true) => image.id.hex(),
        (true, false) => images::short_id(image),
    };
    let created_by = match step.created_by.char_indices().nth(45) {
        Some(_) if !args.no_trunc => {
            let at = step.created_by.char_indices().nth(42).map_or(0, |(at, _)| at);
            format!("{}...", &step.created_by[..at])
        }
        _ => step.created_by.clone(),
    };
    // Go's format has no fraction here.
    let whole = step.created.and_then(|created| Timestamp::from_second(created.as_second()).ok());
    let since = step.created.map_or_else(|| "N/A".to_owned(), |created| units::ago(created, now));
    let at = units::rfc3339(whole);
    // podman makes only the dates less human.
    let human_size = args.human || !docker;
    Value::Struct(vec![
        ("ID", id.into()),
        ("Created", (if args.human { since.clone() } else { at.clone() }).into()),
        ("CreatedSince", since.into()),
        ("CreatedAt", at.into()),
        ("CreatedBy", Printable::line(&created_by).to_string().into()),
        ("Size", (if human_size { units::human_size(*size_bytes, 3) } else { size_bytes.to_string() }).into()),
        ("Comment", Printable::line(&step.comment).to_string().into()),
        ("Tags", if *is_image { Value::strings(images::repo_tags(image)) } else { Value::NilList }),
    ])
}

fn json(image: &Image, Sized { step, size_bytes, is_image }: &Sized) -> Value {
    let whole = step.created.and_then(|created| Timestamp::from_second(created.as_second()).ok());
    let mut fields = vec![
        ("id", (if *is_image { image.id.hex() } else { "<missing>" }).into()),
        ("created", Value::Time(step.created)),
        ("CreatedBy", step.created_by.as_str().into()),
    ];
    if *is_image {
        fields.push(("tags", Value::strings(images::repo_tags(image))));
    }
    fields.push(("size", (*size_bytes).into()));
    if !step.comment.is_empty() {
        fields.push(("comment", step.comment.as_str().into()));
    }
    fields.push(("Created", Value::Time(whole)));
    Value::Struct(fields)
}
