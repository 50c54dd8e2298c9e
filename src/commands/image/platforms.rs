//! `images --tree`: images with the platforms that are here of them, as docker draws them.

use storage::image::store::Image;

use crate::cli::{table, units};
use crate::commands::images;

/// The drawing. An image here is of one platform, which stands below its names.
pub(crate) fn draw(images: &[(&Image, bool)]) -> String {
    let mut text = "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tEXTRA\n".to_owned();
    for (image, is_used) in images {
        let sent = image.layers.iter().map(|layer| layer.blob.size).sum::<u64>();
        let sizes = format!("{}\t{}", units::human_size(image.size, 3), units::human_size(sent, 3));
        let used = if *is_used { "U" } else { "" };
        let mut names: Vec<String> =
            image.names.iter().map(|name| images::of_docker(&name.familiar()).to_owned()).collect();
        if names.is_empty() {
            names.push("<untagged>".to_owned());
        }
        let id = images::short_id(image);
        for name in names {
            text.push_str(&format!("{name}\t{id}\t{sizes}\t{used}\n"));
        }
        text.push_str(&format!("└─ {}\t{id}\t{sizes}\t{used}\n", image.platform));
    }
    table::align(&text, table::DOCKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_images_are_a_heading() {
        assert_eq!(draw(&[]), "IMAGE     ID        DISK USAGE   CONTENT SIZE   EXTRA\n");
    }
}
