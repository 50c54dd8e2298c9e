//! What a push changes about an image: nothing, if that can be; else the compression of layers and the kind of the manifest.

use serde_json::{Value, json};

use super::PushOptions;
use crate::image::manifest::{Descriptor, media_type};
use crate::layer::compress;
use crate::layer::compression::Compression;
use crate::transport::TransportError;
use crate::transport::commit::Format;

const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What becomes of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It goes as it is.
    Keep,
    /// It goes as it is if the registry has it, else compressed this way.
    Prefer(compress::Format, i32),
    /// It goes compressed this way.
    Compress(compress::Format, i32),
}

/// What a format's bytes look like.
pub(super) fn compression_of(format: compress::Format) -> Compression {
    match format {
        compress::Format::Gzip => Compression::Gzip,
        compress::Format::Zstd | compress::Format::ZstdChunked => Compression::Zstd,
    }
}

/// Decides about a layer whose bytes are compressed as `found`, and whether that has a table of contents.
pub(super) fn treatment(found: Compression, has_table: bool, options: &PushOptions) -> Treatment {
    let wanted = options.compression.map(compression_of);
    // Without a table of contents, zstd is not what was asked for.
    let lacks_table = options.compression == Some(compress::Format::ZstdChunked) && !has_table;
    let level = |format: compress::Format| options.level.unwrap_or_else(|| format.default_level());
    match (found, options.compression) {
        (Compression::None, format) => {
            let format = format.unwrap_or(compress::Format::Gzip);
            Treatment::Compress(format, level(format))
        }
        (found, Some(format)) if wanted != Some(found) || lacks_table => match options.force {
            true => Treatment::Compress(format, level(format)),
            false => Treatment::Prefer(format, level(format)),
        },
        _ => Treatment::Keep,
    }
}

/// A layer as it is in the registry.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Digest and length.
    pub(super) blob: Descriptor,
    /// What it is compressed with.
    pub(super) compression: Compression,
}

/// The kind of manifest: as asked for, else as it is, unless a layer has no name in that kind.
pub(super) fn kind(own: &str, layers: &[Sent], asked: Option<Format>) -> Result<Format, TransportError> {
    let has_zstd = layers.iter().any(|layer| layer.compression == Compression::Zstd);
    let own = if own == media_type::DOCKER_MANIFEST { Format::Docker } else { Format::Oci };
    match (asked, own) {
        (Some(Format::Docker), _) if has_zstd => Err(TransportError::Invalid {
            what: "format v2s2".to_owned(),
            reason: "it has no layers compressed with zstd: use --format oci or --compression-format gzip".to_owned(),
        }),
        (Some(asked), _) => Ok(asked),
        (None, Format::Docker) if has_zstd && layers.iter().all(|layer| layer.blob.media_type != DOCKER_LAYER_ZSTD) => {
            Ok(Format::Oci)
        }
        (None, own) => Ok(own),
    }
}

/// The manifest with other layers, of another kind; nothing if it stays byte for byte what it is.
pub(super) fn rewritten(
    manifest: &[u8],
    own_type: &str,
    layers: &[Sent],
    kind: Format,
) -> Result<Option<(Vec<u8>, &'static str)>, TransportError> {
    let invalid =
        |error: serde_json::Error| TransportError::Invalid { what: "manifest".to_owned(), reason: error.to_string() };
    let (manifest_type, config_type) = match kind {
        Format::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        Format::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let mut document: Value = serde_json::from_slice(manifest).map_err(invalid)?;
    let empty = Vec::new();
    let known = document["layers"].as_array().unwrap_or(&empty);
    let is_same = |(layer, known): (&Sent, &Value)| known["digest"] == layer.blob.digest.to_string();
    if own_type == manifest_type && known.len() == layers.len() && layers.iter().zip(known).all(is_same) {
        return Ok(None);
    }
    document["mediaType"] = json!(manifest_type);
    document["config"]["mediaType"] = json!(config_type);
    let places = document["layers"].as_array_mut().into_iter().flatten();
    for (place, layer) in places.zip(layers) {
        let is_changed = place["digest"] != layer.blob.digest.to_string();
        if is_changed || own_type != manifest_type {
            let own = place["mediaType"].as_str().unwrap_or_default();
            place["mediaType"] = json!(layer_type(own, layer.compression, kind));
        }
        place["digest"] = json!(layer.blob.digest);
        place["size"] = json!(layer.blob.size);
        if is_changed && let Some(place) = place.as_object_mut() {
            // They speak of the bytes that were: tables of contents of zstd:chunked and eStargz.
            place.shift_remove("annotations");
            if let Some(annotations) = &layer.blob.annotations {
                place.insert("annotations".to_owned(), json!(annotations));
            }
        }
    }
    if kind == Format::Docker
        && let Some(document) = document.as_object_mut()
    {
        for name in ["annotations", "artifactType", "subject"] {
            document.shift_remove(name);
        }
    }
    Ok(Some((serde_json::to_vec(&document).map_err(invalid)?, manifest_type)))
}

/// The index with other manifests, or of another kind; nothing if it stays byte for byte what it is.
pub(super) fn rewritten_index(
    index: &[u8],
    own: &Descriptor,
    before: &[Descriptor],
    after: &[Descriptor],
    asked: Option<Format>,
) -> Result<Option<(Vec<u8>, String)>, TransportError> {
    let invalid =
        |error: serde_json::Error| TransportError::Invalid { what: "index".to_owned(), reason: error.to_string() };
    let kind = match asked {
        Some(Format::Oci) => media_type::OCI_INDEX,
        Some(Format::Docker) => media_type::DOCKER_LIST,
        None => own.media_type.as_str(),
    };
    if kind == own.media_type && before.iter().zip(after).all(|(one, other)| one.digest == other.digest) {
        return Ok(None);
    }
    let mut document: Value = serde_json::from_slice(index).map_err(invalid)?;
    document["mediaType"] = json!(kind);
    for (place, pushed) in document["manifests"].as_array_mut().into_iter().flatten().zip(after) {
        place["mediaType"] = json!(pushed.media_type);
        place["digest"] = json!(pushed.digest);
        place["size"] = json!(pushed.size);
    }
    Ok(Some((serde_json::to_vec(&document).map_err(invalid)?, kind.to_owned())))
}

fn layer_type(own: &str, compression: Compression, kind: Format) -> String {
    // Layers that may not be distributed stay what they are.
    if own.contains("nondistributable") || own.contains("foreign") {
        return own.to_owned();
    }
    let name = match (kind, compression) {
        (Format::Oci, Compression::None) => media_type::OCI_LAYER,
        (Format::Oci, Compression::Gzip) => media_type::OCI_LAYER_GZIP,
        (Format::Oci, Compression::Zstd) => media_type::OCI_LAYER_ZSTD,
        (Format::Docker, Compression::None) => media_type::DOCKER_LAYER,
        (Format::Docker, Compression::Gzip) => media_type::DOCKER_LAYER_GZIP,
        (Format::Docker, Compression::Zstd) => DOCKER_LAYER_ZSTD,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn sent(text: &str, compression: Compression) -> Sent {
        let blob = Descriptor::new("", Digest::of(text.as_bytes()), text.len() as u64);
        Sent { blob, compression }
    }

    fn manifest(own: &str, layer: &str) -> Vec<u8> {
        let digest = Digest::of(layer.as_bytes());
        format!(
            r#"{{ "schemaVersion":2,"mediaType":"{own}","config":{{"mediaType":"c","digest":"{digest}","size":7}},
            "layers":[{{"mediaType":"l","digest":"{digest}","size":{},"annotations":{{"toc":"1"}}}}],"annotations":{{"a":"b"}}}}"#,
            layer.len()
        )
        .into_bytes()
    }

    #[test]
    fn layers_that_are_compressed_stay_so_and_plain_ones_become_gzip() {
        use Compression::{Gzip, None as Plain, Zstd};
        use compress::Format;
        let options = |compression, force| PushOptions { compression, force, ..PushOptions::default() };
        for (found, wanted, force, expected) in [
            (Gzip, None, false, Treatment::Keep),
            (Zstd, None, true, Treatment::Keep),
            (Plain, None, false, Treatment::Compress(Format::Gzip, 1)),
            (Plain, Some(Format::Zstd), false, Treatment::Compress(Format::Zstd, 3)),
            (Gzip, Some(Format::Gzip), true, Treatment::Keep),
            (Gzip, Some(Format::Zstd), true, Treatment::Compress(Format::Zstd, 3)),
            (Gzip, Some(Format::Zstd), false, Treatment::Prefer(Format::Zstd, 3)),
            (Zstd, Some(Format::ZstdChunked), true, Treatment::Compress(Format::ZstdChunked, 3)),
        ] {
            assert_eq!(treatment(found, false, &options(wanted, force)), expected, "{found:?} {wanted:?} {force}");
        }
        assert_eq!(treatment(Zstd, true, &options(Some(Format::ZstdChunked), true)), Treatment::Keep);
    }

    #[test]
    fn a_manifest_of_the_same_kind_and_layers_keeps_its_bytes() {
        let layers = [sent("one", Compression::Gzip)];
        for (own, kind) in [(media_type::OCI_MANIFEST, Format::Oci), (media_type::DOCKER_MANIFEST, Format::Docker)] {
            assert_eq!(super::kind(own, &layers, None).unwrap(), kind);
            assert!(rewritten(&manifest(own, "one"), own, &layers, kind).unwrap().is_none());
        }
    }

    #[test]
    fn another_kind_or_compression_is_written_with_its_names() {
        let own = media_type::OCI_MANIFEST;
        let (bytes, kind) = rewritten(&manifest(own, "one"), own, &[sent("one", Compression::Gzip)], Format::Docker)
            .unwrap()
            .expect("changed");
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(kind, media_type::DOCKER_MANIFEST);
        assert!(text.contains(media_type::DOCKER_LAYER_GZIP) && text.contains(media_type::DOCKER_CONFIG), "{text}");
        assert!(!text.contains(r#""a":"b""#) && text.contains("toc"), "{text}");
        let zstd = [sent("other", Compression::Zstd)];
        let (bytes, _) = rewritten(&manifest(own, "one"), own, &zstd, Format::Oci).unwrap().expect("changed");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(media_type::OCI_LAYER_ZSTD) && text.contains(r#""size":5"#), "{text}");
        assert!(text.contains(r#""a":"b""#) && !text.contains("toc"), "{text}");
        assert_eq!(super::kind(media_type::DOCKER_MANIFEST, &zstd, None).unwrap(), Format::Oci);
        assert!(super::kind(own, &zstd, Some(Format::Docker)).is_err());
    }
}
