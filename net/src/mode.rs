//! What `--network` may say: podman's and docker's spellings, as data.
//!
//! First step of the network path: `mode` → [`crate::driver`] → start. Pure; nothing here looks at the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::builtin;
use crate::driver_options;
use crate::pasta;
use crate::slirp4netns;

/// Why a `--network` value was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModeError {
    /// A word that is no mode and names no network we have.
    #[error("network {0} not found")]
    NotFound(String),
    /// A driver that needs rights on the host's links.
    #[error("network driver {0} is not available: it needs rights on the host's network devices")]
    NeedsHostLinks(String),
    /// `container:` or `ns:` with nothing behind the colon.
    #[error("network mode {mode}: needs {what}, as in {mode}:{what}")]
    MissingArgument {
        /// The mode.
        mode: &'static str,
        /// What belongs behind its colon.
        what: &'static str,
    },
    /// `ns:` with a path that depends on the working directory.
    #[error("network mode ns: {0} is not an absolute path")]
    RelativePath(PathBuf),
    /// A mode that takes no options was given some.
    #[error("network mode {mode} takes no options: {options}")]
    UnexpectedOptions {
        /// The mode.
        mode: String,
        /// The text behind its colon.
        options: String,
    },
    /// An option of podman's bridge networks, which this driver cannot serve.
    #[error("network {network}: option {option} needs a bridge network")]
    NeedsBridge {
        /// The network as it was named.
        network: String,
        /// The option as it was given.
        option: String,
    },
    /// Bad options of pasta.
    #[error(transparent)]
    Pasta(#[from] pasta::OptionError),
    /// Bad options of another driver.
    #[error(transparent)]
    Driver(#[from] driver_options::OptionError),
}

/// One value of `--network`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// An own namespace with nothing in it but loopback.
    None,
    /// The host's namespace.
    Host,
    /// The default network, under whichever of its names it was asked for.
    ///
    /// [`crate::driver::default_driver`] says what that is on this host.
    Default,
    /// The namespace of another container, by name or id.
    Container(String),
    /// A namespace that exists already.
    Namespace(PathBuf),
    /// An own namespace behind slirp4netns.
    Slirp4netns(slirp4netns::Options),
    /// An own namespace behind pasta.
    Pasta(pasta::Options),
    /// An own namespace behind the stack of our own.
    Builtin(builtin::Options),
}

impl Mode {
    /// Parses one value of `--network`.
    ///
    /// # Errors
    /// [`ModeError`], whose text is fit to be shown as it is.
    ///
    /// # Source
    /// podman-run(1) `--network`, docker run reference `--network`.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let (name, options) = match text.split_once(':') {
            Some((name, options)) => (name, Some(options)),
            None => (text, None),
        };
        let plain = |mode: Self| match options.filter(|o| !o.is_empty()) {
            None => Ok(mode),
            Some(options) => Err(ModeError::UnexpectedOptions { mode: name.to_owned(), options: options.to_owned() }),
        };
        match name {
            "none" => plain(Self::None),
            "host" => plain(Self::Host),
            "private" => plain(Self::Default),
            "" | "default" | "bridge" | "podman" => match options.filter(|o| !o.is_empty()) {
                None => Ok(Self::Default),
                Some(options) => {
                    let option = options.split(',').next().unwrap_or(options).to_owned();
                    Err(ModeError::NeedsBridge { network: name.to_owned(), option })
                }
            },
            "container" => match options.filter(|o| !o.is_empty()) {
                Some(container) => Ok(Self::Container(container.to_owned())),
                None => Err(ModeError::MissingArgument { mode: "container", what: "NAME|ID" }),
            },
            "ns" => match options.filter(|o| !o.is_empty()).map(PathBuf::from) {
                Some(path) if path.is_absolute() => Ok(Self::Namespace(path)),
                Some(path) => Err(ModeError::RelativePath(path)),
                None => Err(ModeError::MissingArgument { mode: "ns", what: "PATH" }),
            },
            "slirp4netns" => Ok(Self::Slirp4netns(slirp4netns::Options::parse(options.unwrap_or_default())?)),
            "pasta" => Ok(Self::Pasta(pasta::Options::parse(options.unwrap_or_default())?)),
            "builtin" => Ok(Self::Builtin(builtin::Options::parse(options.unwrap_or_default())?)),
            "macvlan" | "ipvlan" | "overlay" => Err(ModeError::NeedsHostLinks(name.to_owned())),
            _ => Err(ModeError::NotFound(name.to_owned())),
        }
    }

    /// Whether the container gets a network namespace of its own.
    #[must_use]
    pub fn is_private(&self) -> bool {
        matches!(self, Self::None | Self::Default | Self::Slirp4netns(_) | Self::Pasta(_) | Self::Builtin(_))
    }

    /// Whether ports can be published: there is a namespace of its own with a way out.
    #[must_use]
    pub fn can_publish(&self) -> bool {
        matches!(self, Self::Default | Self::Slirp4netns(_) | Self::Pasta(_) | Self::Builtin(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_spelling_is_accepted() {
        for (text, mode) in [
            ("none", Mode::None),
            ("host", Mode::Host),
            ("bridge", Mode::Default),
            ("default", Mode::Default),
            ("podman", Mode::Default),
            ("private", Mode::Default),
            ("container:web", Mode::Container("web".into())),
            ("ns:/run/netns/a:b", Mode::Namespace("/run/netns/a:b".into())),
            ("slirp4netns", Mode::Slirp4netns(slirp4netns::Options::default())),
            ("pasta", Mode::Pasta(pasta::Options::default())),
            ("pasta:", Mode::Pasta(pasta::Options::default())),
            ("builtin", Mode::Builtin(builtin::Options::default())),
        ] {
            assert_eq!(Mode::parse(text).as_ref(), Ok(&mode), "{text}");
        }
    }

    #[test]
    fn refusals_name_what_was_asked_for() {
        for (text, message) in [
            ("backend", "network backend not found"),
            ("macvlan", "network driver macvlan is not available: it needs rights on the host's network devices"),
            ("container:", "network mode container: needs NAME|ID, as in container:NAME|ID"),
            ("container", "network mode container: needs NAME|ID, as in container:NAME|ID"),
            ("ns:", "network mode ns: needs PATH, as in ns:PATH"),
            ("ns:netns", "network mode ns: netns is not an absolute path"),
            ("host:x=y", "network mode host takes no options: x=y"),
            ("bridge:ip=10.88.0.9,mac=x", "network bridge: option ip=10.88.0.9 needs a bridge network"),
            ("builtin:mtv=1", "unknown option for builtin: \"mtv=1\""),
            ("slirp4netns:mtv=1", "unknown option for slirp4netns: \"mtv=1\""),
        ] {
            assert_eq!(Mode::parse(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }
}
