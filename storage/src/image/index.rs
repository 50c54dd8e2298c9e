//! Platforms, and which image of an index runs on one.
//!
//! # Source
//! OCI image specification, `image-index.md`; normalisation as in `github.com/containerd/platforms`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ImageError;
use super::manifest::{Descriptor, Index};

/// What a machine must be to run an image.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// Instruction set, in Go's words: `amd64`, `arm64`, `arm`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// Level of the instruction set: `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system; only Windows needs it.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// The machine this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7".to_owned())),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant, os_version: None }
    }

    /// Parses `os/arch[/variant]`, or an architecture or `linux` alone.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(input: &str) -> Result<Self, ImageError> {
        let refuse = || ImageError::ParsePlatform { input: input.chars().take(160).collect() };
        let is_word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let lower = input.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if !parts.iter().all(is_word) {
            return Err(refuse());
        }
        let (os, arch, variant) = match *parts.as_slice() {
            ["linux"] => return Ok(Self::host()),
            [arch] => ("linux", arch, None),
            [os, arch] => (os, arch, None),
            [os, arch, variant] => (os, arch, Some(variant)),
            _ => return Err(refuse()),
        };
        Ok(Self {
            architecture: arch.to_owned(),
            os: os.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        }
        .normalised())
    }

    /// The same platform in Go's words, without a variant that is the default.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        let variant = self.variant.take().filter(|variant| !variant.is_empty());
        let (architecture, variant) = match (self.architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", _) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", None),
            ("aarch64" | "arm64", None | Some("8" | "v8" | "v8.0")) => ("arm64", None),
            ("aarch64", _) => ("arm64", variant),
            ("armhf", _) => ("arm", Some("v7".to_owned())),
            ("armel", _) => ("arm", Some("v6".to_owned())),
            ("arm", None | Some("7")) => ("arm", Some("v7".to_owned())),
            ("arm", Some("5" | "6" | "8")) => ("arm", variant.map(|digit| format!("v{digit}"))),
            _ => (self.architecture.as_str(), variant),
        };
        self.architecture = architecture.to_owned();
        self.variant = variant;
        self
    }

    /// Whether no machine is meant: how builders mark attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// How well an image for `self` runs where `wanted` was asked for: smaller is better, nothing is not at all.
    ///
    /// A machine runs code for its own level and for all below it.
    pub fn rank_for(&self, wanted: &Self) -> Option<u32> {
        let (have, wanted) = (self.clone().normalised(), wanted.clone().normalised());
        if have.os != wanted.os || have.architecture != wanted.architecture {
            return None;
        }
        let level = |platform: &Self| match platform.variant.as_deref() {
            // The base level: below which there is no name for what an image needs.
            None => Some(match platform.architecture.as_str() {
                "arm64" => 80,
                "amd64" => 10,
                _ => 0,
            }),
            Some(variant) => {
                let digits = variant.strip_prefix('v')?;
                let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
                Some(major.parse::<u32>().ok()?.checked_mul(10)?.checked_add(minor.parse::<u32>().ok()?)?)
            }
        };
        match (level(&have), level(&wanted)) {
            (Some(have), Some(wanted)) => wanted.checked_sub(have),
            _ if have.variant == wanted.variant => Some(0),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // From somebody's JSON: nothing that a terminal obeys gets through.
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", variant.escape_debug()),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = ImageError;
    fn from_str(input: &str) -> Result<Self, Self::Err> {
        Self::parse(input)
    }
}

impl Index {
    /// Picks the entry for `wanted`: the nearest platform, the first of equals; failing that, an entry that says
    /// nothing about its platform.
    ///
    /// # Errors
    /// [`ImageError::NoPlatform`] with what there is.
    pub fn choose(&self, what: &str, wanted: &Platform) -> Result<&Descriptor, ImageError> {
        let ranked =
            self.manifests.iter().filter_map(|entry| Some((entry.platform.as_ref()?.rank_for(wanted)?, entry)));
        let silent = || {
            let of_unknown_platform = |entry: &&Descriptor| match &entry.platform {
                None => entry.artifact_type.is_none(),
                Some(platform) => platform.os.is_empty() && platform.architecture.is_empty(),
            };
            self.manifests.iter().find(of_unknown_platform)
        };
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry).or_else(silent).ok_or_else(|| {
            let mut available: Vec<String> = Vec::new();
            for platform in self.manifests.iter().filter_map(|entry| entry.platform.as_ref()) {
                let text = platform.to_string();
                if !platform.is_unknown() && !available.contains(&text) && available.len() < 20 {
                    available.push(text);
                }
            }
            let available = if available.is_empty() { "nothing".to_owned() } else { available.join(", ") };
            ImageError::NoPlatform { what: what.to_owned(), wanted: Box::new(wanted.clone()), available }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::image::manifest::media_type::OCI_MANIFEST;

    fn index(platforms: &[&str]) -> Index {
        let entry = |text: &&str| {
            let mut entry = Descriptor::new(OCI_MANIFEST, Digest::of(text.as_bytes()), 1);
            let parts: Vec<&str> = text.split('/').collect();
            if parts.len() > 1 {
                entry.platform = Some(Platform {
                    os: parts[0].to_owned(),
                    architecture: parts[1].to_owned(),
                    variant: parts.get(2).map(|variant| (*variant).to_owned()),
                    os_version: None,
                });
            }
            entry
        };
        Index { manifests: platforms.iter().map(entry).collect() }
    }

    #[test]
    fn nearest_platform_is_chosen() {
        let usual =
            ["linux/amd64", "unknown/unknown", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8", "windows/amd64"];
        for (wanted, have, chosen) in [
            ("linux/amd64", &usual[..], Some("linux/amd64")),
            ("amd64", &usual, Some("linux/amd64")),
            ("linux/x86_64", &usual, Some("linux/amd64")),
            ("linux/arm64", &usual, Some("linux/arm64/v8")),
            ("linux/arm64/v8", &["linux/arm64"], Some("linux/arm64")),
            ("linux/arm64/v9", &["linux/arm64", "linux/arm64/v8.1"], Some("linux/arm64/v8.1")),
            ("linux/arm", &usual, Some("linux/arm/v7")),
            ("linux/arm/v6", &usual, Some("linux/arm/v5")),
            ("linux/arm/v8", &usual, Some("linux/arm/v7")),
            ("linux/armhf", &usual, Some("linux/arm/v7")),
            ("linux/arm/v5", &["linux/arm/v7"], None),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some("linux/amd64")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v3"], Some("linux/amd64/v3")),
            ("linux/amd64", &["linux/amd64/v3"], None),
            ("linux/s390x", &usual, None),
            ("windows/amd64", &usual, Some("windows/amd64")),
            ("linux/amd64", &["linux/arm64", "silent"], Some("silent")),
            ("linux/amd64", &["unknown/unknown"], None),
            ("linux/amd64", &[], None),
        ] {
            let index = index(have);
            let wanted = Platform::parse(wanted).expect("valid");
            let found = index.choose("x", &wanted).ok().map(|entry| entry.digest.clone());
            assert_eq!(found, chosen.map(|text| Digest::of(text.as_bytes())), "{wanted} in {have:?}");
        }
    }

    #[test]
    fn refusal_lists_what_there_is_without_attestations() {
        let error = index(&["linux/arm64", "unknown/unknown", "linux/arm\u{1b}/v7"])
            .choose("x:latest", &Platform::parse("amd64").expect("valid"))
            .expect_err("no amd64");
        assert_eq!(
            error.to_string(),
            "x:latest: no image for platform linux/amd64; there is linux/arm64, linux/arm\\u{1b}/v7"
        );
    }

    #[test]
    fn only_words_make_a_platform() {
        for bad in ["", "/", "linux/", "linux//v8", "a/b/c/d", "linux/amd 64", "linux/\u{1b}"] {
            assert!(Platform::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Platform::parse("Linux/ARM64/v8").expect("valid").to_string(), "linux/arm64");
        assert_eq!(Platform::parse("linux").expect("valid"), Platform::host());
    }
}
