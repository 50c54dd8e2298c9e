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
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system of the image
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// Variant of the architecture of the image
    #[arg(long, value_name = "VARIANT")]
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
}
