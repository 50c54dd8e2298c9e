//! `system df`: what takes how much room, counted by the walk that prune makes.

use jiff::Timestamp;
use storage::prune;
use storage::state::container::Record;
use storage::state::status;
use storage::state::undo;

use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::commands::filter::ContainerFilters;
use crate::commands::plan::{self, Images, upper};
use crate::commands::space::{bytes_of, layers_of};
use crate::commands::volume::{VolumeFilters, all as all_volumes};
use crate::commands::{Context, Outcome, builder, images, select, trash};
use crate::error::CommandError;
use crate::role::Persona;

/// Show disk usage
///
/// RECLAIMABLE is what the prune command of that row would free (image prune with -a). Images take what is on the disk: their
/// layers as they were sent and unpacked, each once. What can be brought back is a row of its own.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Pretty-print the sizes using a Go template, or as json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show detailed information on disk usage
    #[arg(short, long)]
    verbose: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.verbose && args.format.is_some() {
        return Err(CommandError::user("cannot combine --format and --verbose flags"));
    }
    let records = select::all(context)?;
    let images = plan::images(context, &records, true, &[])?;
    if args.verbose {
        return verbose(context, &records, &images);
    }
    let rows = summary(context, &records, &images)?;
    let docker = context.persona == Persona::Docker;
    let default = r"table {{.Type}}\t{{.Total}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let format = match args.format.as_deref() {
        None | Some("" | "table") => default,
        Some(format) if is_json(format) && !docker => {
            let style = Json { indent: None, escape_html: true, open_empty_maps: false };
            let rows: Vec<String> = rows.iter().map(|row| format!("    {}", row.to_json(style))).collect();
            output::print(&format!("[\n{}\n]\n", rows.join(",\n")))?;
            return Ok(0);
        }
        Some("json") => "{{json .}}",
        Some(format) => format,
    };
    show(docker, format, &[], rows)
}

fn show(docker: bool, format: &str, headings: &[(&'static str, &'static str)], rows: Vec<Value>) -> Outcome {
    let listing = Listing { name: "df", type_name: "*system.dfSummary", format, headings, no_heading: false, docker };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn summary(context: &Context, records: &[Record], images: &Images) -> Result<Vec<Value>, CommandError> {
    let layers = layers_of(records);
    let stopped = plan::containers(context, records, &ContainerFilters::parse(context, &[])?)?;
    let written: u64 = upper_bytes(context, records)?.into_iter().sum();
    let idle = plan::volumes(context, records, &VolumeFilters::parse(&[])?, false)?;
    let (volumes, volume_bytes) = volume_bytes(context)?;
    let sum = |bytes: &[u64]| bytes.iter().sum::<u64>();
    let mut rows = vec![
        row(
            "Images",
            images.all.len(),
            images.all.len() - images.unused.len(),
            images.space.in_use(&images.all, &layers),
            images.bytes,
        ),
        row(
            "Containers",
            records.len(),
            records.len() - stopped.len(),
            written,
            stopped.iter().map(|(_, bytes)| bytes).sum(),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.len() - idle.len(),
            sum(&volume_bytes),
            idle.iter().map(|(_, bytes)| bytes).sum(),
        ),
    ];
    let built = builder::usage(context)?;
    if built.count > 0 {
        let reclaimable = if built.in_use { 0 } else { built.bytes };
        rows.push(row("Build Cache", built.count, 0, built.bytes, reclaimable));
    }
    let entries = undo::list(&context.layout);
    if !entries.is_empty() {
        let bytes = trash::total(&entries, context)?;
        rows.push(row("Trash", entries.len(), 0, bytes, bytes));
    }
    Ok(rows)
}

fn upper_bytes(context: &Context, records: &[Record]) -> Result<Vec<u64>, CommandError> {
    bytes_of(&records.iter().map(|record| upper(context, record)).collect::<Vec<_>>())
}

fn volume_bytes(context: &Context) -> Result<(Vec<storage::volume::Volume>, Vec<u64>), CommandError> {
    let volumes = all_volumes(context)?;
    let bytes = bytes_of(&volumes.iter().map(|volume| volume.mountpoint(&context.layout)).collect::<Vec<_>>())?;
    Ok((volumes, bytes))
}

fn row(kind: &'static str, total: usize, active: usize, bytes: u64, reclaimable: u64) -> Value {
    let percent = if bytes == 0 { 0.0 } else { (reclaimable as f64 * 100.0 / bytes as f64).round() };
    Value::Struct(vec![
        ("Type", kind.into()),
        ("Total", Value::from(total as u64)),
        ("Active", Value::from(active as u64)),
        ("RawSize", bytes.into()),
        ("RawReclaimable", reclaimable.into()),
        ("TotalCount", Value::from(total as u64)),
        ("Size", units::human_size(bytes, 4).into()),
        ("Reclaimable", format!("{} ({percent}%)", units::human_size(reclaimable, 4)).into()),
    ])
}

fn verbose(context: &Context, records: &[Record], images: &Images) -> Outcome {
    let docker = context.persona == Persona::Docker;
    let now = Timestamp::now();
    output::print("Images space usage:\n\n")?;
    let format = r"table {{.Repository}}\t{{.Tag}}\t{{.ImageID}}\t{{.Created}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
    show(docker, format, &[("ImageID", "IMAGE ID")], image_rows(records, images, now))?;
    output::print("\nContainers space usage:\n\n")?;
    let format = r"table {{.ContainerID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.Created}}\t{{.Status}}\t{{.Names}}";
    show(docker, format, &[("ContainerID", "CONTAINER ID")], container_rows(context, records, now)?)?;
    output::print("\nLocal Volumes space usage:\n\n")?;
    let (volumes, bytes) = volume_bytes(context)?;
    let rows = volumes.iter().zip(bytes).map(|(volume, bytes)| {
        let links = records.iter().filter(|record| prune::uses_volume(record, &volume.name)).count();
        Value::Struct(vec![
            ("VolumeName", volume.name.as_str().into()),
            ("Links", Value::from(links as u64)),
            ("Size", units::human_size(bytes, 4).into()),
        ])
    });
    show(docker, r"table {{.VolumeName}}\t{{.Links}}\t{{.Size}}", &[], rows.collect())
}

fn image_rows(records: &[Record], images: &Images, now: Timestamp) -> Vec<Value> {
    let layers = layers_of([]);
    let all = images.space.held_by(&images.all, &layers);
    let mut rows = Vec::new();
    for image in &images.all {
        let own = images.space.held_by([image], &layers);
        let others = images.all.iter().filter(|other| other.manifest.digest != image.manifest.digest);
        let unique = all - images.space.held_by(others, &layers);
        let users = records.iter().filter(|record| prune::uses_image(record, &image.id)).count();
        let names: Vec<(String, String)> = match image.names.is_empty() {
            true => vec![("<none>".to_owned(), "<none>".to_owned())],
            false => image
                .names
                .iter()
                .map(|name| (name.name().to_string(), name.tag().unwrap_or("<none>").to_owned()))
                .collect(),
        };
        for (repository, tag) in names {
            rows.push(Value::Struct(vec![
                ("Repository", repository.into()),
                ("Tag", tag.into()),
                ("ImageID", images::short_id(image).into()),
                ("Created", age(images::created(image), now)),
                ("Size", units::human_size(own, 4).into()),
                ("SharedSize", units::human_size(own - unique, 4).into()),
                ("UniqueSize", units::human_size(unique, 4).into()),
                ("Containers", Value::from(users as u64)),
            ]));
        }
    }
    rows
}

fn age(created: Option<Timestamp>, now: Timestamp) -> Value {
    created.map_or_else(|| "N/A".to_owned(), |created| units::human_duration(units::since(created, now))).into()
}

fn container_rows(context: &Context, records: &[Record], now: Timestamp) -> Result<Vec<Value>, CommandError> {
    let bytes = upper_bytes(context, records)?;
    let rows = records.iter().zip(bytes).map(|(record, bytes)| {
        let observed = status::observe(&context.layout, record)?;
        let named = |mount: &storage::state::request::Mount| matches!(mount, storage::state::request::Mount::Volume(_));
        let volumes = record.request.mounts.iter().filter(|mount| named(mount)).count();
        let image = record.image.as_ref().map(|image| image.id.hex().get(..12).unwrap_or_default().to_owned());
        Ok(Value::Struct(vec![
            ("ContainerID", record.id.short().into()),
            ("Image", image.unwrap_or_default().into()),
            ("Command", Printable::line(&record.request.args.join(" ")).to_string().into()),
            ("LocalVolumes", Value::from(volumes as u64)),
            ("Size", units::human_size(bytes, 4).into()),
            ("Created", age(Some(record.created), now)),
            ("Status", observed.state.as_str().into()),
            ("Names", record.name.as_str().into()),
        ]))
    });
    rows.collect()
}
