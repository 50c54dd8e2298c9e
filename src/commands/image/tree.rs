//! `image tree`: the layers of an image, and who else has them.

use storage::image::store::{Image, ImageStore};

use crate::cli::{output, units};
use crate::commands::{Context, Outcome, images};

/// Print layer hierarchy of an image in a tree format
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name or ID of the image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Show all child images and layers of the specified image
    #[arg(long)]
    whatrequires: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let store = ImageStore::open(&context.layout);
    let image = store.resolve(&args.image)?.ok_or_else(|| images::not_known(&args.image))?;
    let all = store.list()?;
    let mut text = format!(
        "Image ID: {}\nTags:     [{}]\nSize:     {}\n",
        images::short_id(&image),
        images::repo_tags(&image).join(" "),
        units::human_size(images::size(&image, context.persona), 4)
    );
    if image.layers.is_empty() {
        text.push_str("No Image Layers\n");
        return output::print(&text).map(|()| 0);
    }
    text.push_str("Image Layers\n");
    if args.whatrequires {
        above(&image, &all, &mut text);
    } else {
        own(&image, &all, &mut text);
    }
    // podman ends the drawing with an empty line.
    text.push('\n');
    output::print(&text)?;
    Ok(0)
}

/// One layer's line: its short digest, what it weighs, and the images it is the top of.
fn line(image: &Image, at: usize, all: &[Image]) -> String {
    let Some(layer) = image.layers.get(at) else { return String::new() };
    let bytes = image.layer_sizes.as_ref().and_then(|sizes| sizes.get(at)).copied().unwrap_or(layer.blob.size);
    let chain = |image: &Image| image.layers.iter().map(|layer| layer.diff_id.clone()).collect::<Vec<_>>();
    let own = image.layers.iter().take(at + 1).map(|layer| layer.diff_id.clone()).collect::<Vec<_>>();
    let tops: Vec<String> = all.iter().filter(|other| chain(other) == own).flat_map(images::repo_tags).collect();
    let top = if tops.is_empty() { String::new() } else { format!(" Top Layer of: [{}]", tops.join(" ")) };
    format!("ID: {} Size: {:>7}{top}", layer.diff_id.hex().get(..12).unwrap_or_default(), units::human_size(bytes, 4))
}

fn own(image: &Image, all: &[Image], text: &mut String) {
    for at in 0..image.layers.len() {
        let branch = if at + 1 == image.layers.len() { "└──" } else { "├──" };
        text.push_str(&format!("{branch} {}\n", line(image, at, all)));
    }
}

/// The layers that other images have put on top of this one's.
fn above(image: &Image, all: &[Image], text: &mut String) {
    let children: Vec<&Image> = all
        .iter()
        .filter(|other| {
            other.layers.len() > image.layers.len()
                && image.layers.iter().zip(&other.layers).all(|(own, other)| own.diff_id == other.diff_id)
        })
        .collect();
    grow(&children, image.layers.len(), "", all, text);
}

/// The layers at one height, each once, each with what stands on it.
fn grow(images: &[&Image], at: usize, indent: &str, all: &[Image], text: &mut String) {
    let mut groups: Vec<Vec<&Image>> = Vec::new();
    for image in images.iter().filter(|image| image.layers.len() > at) {
        let same = |group: &&mut Vec<&Image>| {
            group.first().is_some_and(|first| {
                first.layers.get(at).map(|layer| &layer.diff_id) == image.layers.get(at).map(|layer| &layer.diff_id)
            })
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(image),
            None => groups.push(vec![image]),
        }
    }
    for (number, group) in groups.iter().enumerate() {
        let last = number + 1 == groups.len();
        if let Some(first) = group.first() {
            text.push_str(&format!("{indent}{} {}\n", if last { "└──" } else { "├──" }, line(first, at, all)));
        }
        let deeper = format!("{indent}{}", if last { "    " } else { "│   " });
        grow(group, at + 1, &deeper, all, text);
    }
}
