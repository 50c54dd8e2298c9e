//! `system df`: what takes how much room.

use std::collections::HashSet;

use storage::image::store::ImageStore;
use storage::prune;
use storage::state::status;

use crate::cli::format::{Listing, Value, is_json};
use crate::cli::{output, units};
use crate::commands::volume::all as all_volumes;
use crate::commands::{Context, Outcome, ps, select};
use crate::role::Persona;

/// Show disk usage
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Pretty-print the sizes using a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let records = select::all(context)?;
    let images = ImageStore::open(&context.layout).list()?;
    let used: HashSet<_> = records.iter().filter_map(|record| Some(&record.image.as_ref()?.id)).collect();
    let is_used = |image: &&storage::image::store::Image| used.contains(&image.id);
    let unused_bytes: u64 = images.iter().filter(|image| !is_used(image)).map(|image| image.size).sum();
    let (mut running, mut written, mut reclaimable) = (0, 0, 0);
    for record in &records {
        let bytes = ps::tree_bytes(&context.layout.container(&record.id).join("upper"));
        written += bytes;
        match status::observe(&context.layout, record)?.state.is_alive() {
            true => running += 1,
            false => reclaimable += bytes,
        }
    }
    let volumes = all_volumes(context)?;
    let (mut active_volumes, mut volume_bytes, mut unused_volume_bytes) = (0, 0, 0);
    for volume in &volumes {
        let bytes = ps::tree_bytes(&volume.mountpoint(&context.layout));
        volume_bytes += bytes;
        match records.iter().any(|record| prune::uses_volume(record, &volume.name)) {
            true => active_volumes += 1,
            false => unused_volume_bytes += bytes,
        }
    }
    let image_bytes = images.iter().map(|image| image.size).sum();
    let rows = vec![
        row("Images", images.len(), images.iter().filter(is_used).count(), image_bytes, unused_bytes),
        row("Containers", records.len(), running, written, reclaimable),
        row("Local Volumes", volumes.len(), active_volumes, volume_bytes, unused_volume_bytes),
    ];
    let default = r"table {{.Type}}\t{{.Total}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    let format = match args.format.as_deref() {
        None | Some("table") => default,
        Some(format) if is_json(format) => "{{json .}}",
        Some(format) => format,
    };
    let docker = context.persona == Persona::Docker;
    let listing =
        Listing { name: "df", type_name: "system.dfSummary", format, headings: &[], no_heading: false, docker };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

fn row(kind: &'static str, total: usize, active: usize, bytes: u64, reclaimable: u64) -> Value {
    let percent = (reclaimable * 100).checked_div(bytes).unwrap_or(0);
    Value::Struct(vec![
        ("Type", kind.into()),
        ("Total", Value::from(total as u64)),
        ("TotalCount", Value::from(total as u64)),
        ("Active", Value::from(active as u64)),
        ("RawSize", bytes.into()),
        ("RawReclaimable", reclaimable.into()),
        ("Size", units::human_size(bytes, 4).into()),
        ("Reclaimable", format!("{} ({percent}%)", units::human_size(reclaimable, 4)).into()),
    ])
}
