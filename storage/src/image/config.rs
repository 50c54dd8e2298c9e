//! Image configurations: what to run, and which trees the layers must turn out to be.
//!
//! # Source
//! OCI image specification, `config.md`; docker's `image.json` is a superset.

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::index::Platform;
use super::{CONFIG_LIMIT_BYTES, ImageError, parse_json};
use crate::digest::DiffId;

/// A parsed configuration beside the bytes it came from.
#[derive(Clone, Debug)]
pub struct Config {
    /// What OCI specifies.
    pub spec: ImageConfiguration,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// The machine it is for.
    pub platform: Platform,
    /// The bytes, whose digest is the image's ID; also holds what OCI does not specify (`HEALTHCHECK`, `ONBUILD`).
    pub raw: Vec<u8>,
}

/// The parts that are checked more strictly than `oci-spec` does.
#[derive(Deserialize)]
struct Strict {
    #[serde(default)]
    rootfs: RootFs,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

impl Config {
    /// Parses a configuration; `what` names it in errors.
    ///
    /// # Errors
    /// Too long, not JSON, not of layers, or a malformed diffID.
    pub fn parse(what: &str, raw: Vec<u8>) -> Result<Self, ImageError> {
        let strict: Strict = parse_json(what, &raw, CONFIG_LIMIT_BYTES)?;
        let diff_ids = strict.rootfs.diff_ids.unwrap_or_default();
        if strict.rootfs.kind != "layers" && !(strict.rootfs.kind.is_empty() && diff_ids.is_empty()) {
            let kind = strict.rootfs.kind.chars().take(160).collect();
            return Err(ImageError::RootFsType { what: what.to_owned(), kind });
        }
        let spec = parse_json(what, &raw, CONFIG_LIMIT_BYTES)?;
        let Strict { os, architecture, variant, os_version, .. } = strict;
        Ok(Self { spec, diff_ids, platform: Platform { os, architecture, variant, os_version }, raw })
    }

    /// Checks that there is one diffID for each of `layers` layers.
    ///
    /// # Errors
    /// [`ImageError::LayerCount`].
    pub fn check_layers(&self, what: &str, layers: usize) -> Result<(), ImageError> {
        match self.diff_ids.len() {
            diff_ids if diff_ids == layers => Ok(()),
            diff_ids => Err(ImageError::LayerCount { what: what.to_owned(), layers, diff_ids }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<Config, ImageError> {
        Config::parse("c", text.as_bytes().to_vec())
    }

    #[test]
    fn docker_configuration_with_nulls_and_extras_is_read() {
        let config = parse(&format!(
            r#"{{"architecture":"amd64","os":"linux","variant":"v2","created":"2024-01-02T03:04:05.678Z",
            "docker_version":"20.10","container":"abc","container_config":{{"Cmd":null}},
            "config":{{"Hostname":"","Env":["PATH=/bin"],"Cmd":["sh"],"Entrypoint":null,"Volumes":null,"ExposedPorts":
            {{"80/tcp":{{}}}},"OnBuild":null,"Labels":null,"Image":"","WorkingDir":"","User":"","Healthcheck":{{"Test":["NONE"]}}}},
            "history":[{{"created":"2024-01-02T03:04:05Z","created_by":"x","empty_layer":true}}],
            "rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#
        ))
        .expect("valid");
        assert_eq!(config.diff_ids.len(), 1);
        assert_eq!(config.platform.to_string(), "linux/amd64/v2");
        assert!(config.check_layers("x", 1).is_ok());
        assert_eq!(
            config.check_layers("x", 2).expect_err("two").to_string(),
            "x: the manifest has 2 layers, the configuration 1"
        );
    }

    #[test]
    fn what_is_not_a_stack_of_layers_is_refused() {
        for (text, message) in [
            ("", "invalid JSON"),
            ("{", "invalid JSON"),
            (r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"x","diff_ids":[]}}"#, "unsupported rootfs type"),
            (
                r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:../"]}}"#,
                "invalid digest",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
