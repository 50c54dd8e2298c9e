//! Which of an image's platforms is meant: for every command that chooses one.

use clap::Args;

use crate::cli::parse::words;
use crate::cli::usage::{Checked, InvalidOption, maybe, one};

/// `--platform`, or its parts.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PlatformOptions {
    /// Platform of the image, OS/ARCH[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Architecture of the image instead of this machine's
    #[arg(long, alias = "override-arch", value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system of the image
    #[arg(long, alias = "override-os", value_name = "OS")]
    os: Option<String>,
    /// Variant of the architecture of the image
    #[arg(long, alias = "override-variant", value_name = "VARIANT")]
    variant: Option<String>,
}

impl PlatformOptions {
    /// The platform asked for, `os/arch[/variant]`.
    pub(crate) fn asked(&self) -> Checked<Option<String>> {
        let parts = [&self.os, &self.arch, &self.variant];
        let Some(given) = parts.into_iter().flatten().next() else {
            return maybe("--platform", self.platform.as_ref(), words::platform);
        };
        let flag = "--arch, --os, --variant";
        if self.platform.is_some() {
            let reason = "conflicts with --platform".to_owned();
            return Err(InvalidOption { flag, value: given.clone(), reason });
        }
        let host = storage::image::index::Platform::host();
        let of_host = self.arch.as_ref().is_none_or(|arch| *arch == host.architecture);
        let variant = self.variant.clone().or(host.variant.filter(|_| of_host));
        let [os, arch] =
            [(&self.os, host.os), (&self.arch, host.architecture)].map(|(given, host)| given.clone().unwrap_or(host));
        let platform = variant.iter().fold(format!("{os}/{arch}"), |all, variant| format!("{all}/{variant}"));
        one(flag, &platform, words::platform).map(Some)
    }
}

/// `--platform` of a command that makes images for several, or its parts.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct PlatformsOptions {
    /// Platform of the image, OS/ARCH[/VARIANT]; several make a list of images (can be repeated)
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    /// Architecture of the image instead of this machine's
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system of the image
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// Variant of the architecture of the image
    #[arg(long, value_name = "VARIANT")]
    variant: Option<String>,
}

impl PlatformsOptions {
    /// The platforms asked for, each once; none is this machine's.
    pub(crate) fn asked(&self) -> Checked<Vec<String>> {
        let one = |platform: Option<String>| {
            let (arch, os, variant) = (self.arch.clone(), self.os.clone(), self.variant.clone());
            PlatformOptions { platform, arch, os, variant }.asked()
        };
        if self.platform.is_empty() {
            return Ok(one(None)?.into_iter().collect());
        }
        let mut all = Vec::new();
        for text in self.platform.iter().filter(|text| !text.is_empty()) {
            let text = match text.trim() {
                "local" => storage::image::index::Platform::host().to_string(),
                text => text.to_owned(),
            };
            all.extend(one(Some(text))?.filter(|platform| !all.contains(platform)));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_platform() {
        let host = storage::image::index::Platform::host();
        let options = PlatformOptions { arch: Some("s390x".to_owned()), ..PlatformOptions::default() };
        assert_eq!(options.asked(), Ok(Some(format!("{}/s390x", host.os))));
        let options = PlatformOptions { arch: Some("arm".into()), variant: Some("v7".into()), ..options };
        assert_eq!(options.asked(), Ok(Some(format!("{}/arm/v7", host.os))));
        assert!(PlatformOptions { platform: Some("linux/arm".to_owned()), ..options }.asked().is_err());
        assert_eq!(PlatformOptions::default().asked(), Ok(None));
    }

    #[test]
    fn several_platforms_are_told_apart() {
        let list = |texts: &[&str]| PlatformsOptions {
            platform: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..PlatformsOptions::default()
        };
        let two = Ok(vec!["linux/arm64".to_owned(), "linux/amd64".to_owned()]);
        assert_eq!(list(&["linux/arm64", "linux/amd64", "linux/arm64"]).asked(), two);
        assert_eq!(PlatformsOptions::default().asked(), Ok(Vec::new()));
        assert!(list(&["linux/arm64", "nonsense/"]).asked().is_err());
        assert!(PlatformsOptions { arch: Some("arm".into()), ..list(&["linux/arm64"]) }.asked().is_err());
    }
}
