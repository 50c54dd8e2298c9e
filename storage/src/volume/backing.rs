//! The local driver's options: where a volume's content is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Volume;

/// Where the content of a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In `_data`.
    Directory,
    /// In a directory of the host: `type=none`, `o=bind`, `device=/path`.
    Bind {
        /// The directory.
        source: PathBuf,
        /// The options of the mount.
        options: Vec<String>,
    },
    /// In memory, as long as a container runs, and each container has its own: `type=tmpfs`.
    Tmpfs {
        /// The options of the mount.
        options: Vec<String>,
    },
}

/// Why a volume cannot have these options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOption(String);

impl Volume {
    /// What the options say.
    ///
    /// # Errors
    /// [`BadOption`]: they are not the local driver's, or ask for what takes the real root.
    pub fn backing(&self) -> Result<Backing, BadOption> {
        parse(&self.options)
    }

    /// The owner that `o=uid=…,gid=…` gives a volume's root directory.
    pub fn owner(&self) -> Option<(u32, u32)> {
        let number = |name: &str| {
            let words = self.options.get("o").into_iter().flat_map(|text| text.split(','));
            words.filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
        };
        let ids = (number("uid"), number("gid"));
        (ids != (None, None)).then(|| (ids.0.unwrap_or(0), ids.1.unwrap_or(0)))
    }
}

fn bad<T>(text: impl Into<String>) -> Result<T, BadOption> {
    Err(BadOption(text.into()))
}

fn parse(options: &BTreeMap<String, String>) -> Result<Backing, BadOption> {
    let (mut kind, mut device, mut words) = ("", "", Vec::new());
    for (key, value) in options {
        match key.as_str() {
            "type" => kind = value,
            "device" => device = value,
            "o" => words = value.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            "copy" | "nocopy" | "noquota" => {}
            "size" | "inodes" => return quota(key),
            _ => return bad(format!("volume option {key:?} is unknown: the local driver has type, device and o")),
        }
    }
    let is_bind = words.iter().any(|word| matches!(word.as_str(), "bind" | "rbind"));
    match kind {
        "tmpfs" => Ok(Backing::Tmpfs { options: words }),
        "" | "none" | "bind" if is_bind || kind == "bind" => {
            if !device.starts_with('/') {
                return bad(format!("volume option device={device}: a bind needs the absolute path of a directory"));
            }
            words.retain(|word| !word.starts_with("uid=") && !word.starts_with("gid="));
            Ok(Backing::Bind { source: device.into(), options: words })
        }
        "" if device.is_empty() => {
            for word in &words {
                match word.split_once('=').map(|(key, value)| (key, value.parse::<u32>())) {
                    Some(("uid" | "gid", Ok(_))) => {}
                    Some((key @ ("size" | "inodes"), _)) => return quota(key),
                    _ => return bad(format!("volume option o={word}: needs type and device")),
                }
            }
            Ok(Backing::Directory)
        }
        "" | "none" => bad("volume options: type=none needs o=bind and device=PATH"),
        other => bad(format!(
            "volume option type={other}: only the real root may mount it; mount it on the host and name its directory \
             with type=none, o=bind, device=PATH"
        )),
    }
}

fn quota<T>(key: &str) -> Result<T, BadOption> {
    bad(format!(
        "volume option {key}: a limit for a directory takes project quotas, which only the real root may set; \
         type=tmpfs, o=size=… has a limit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_name_a_place() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (pairs, expected) in [
            (&[][..], Backing::Directory),
            (&[("o", "uid=5,gid=6")], Backing::Directory),
            (
                &[("type", "none"), ("o", "bind,ro"), ("device", "/srv")],
                Backing::Bind { source: "/srv".into(), options: words(&["bind", "ro"]) },
            ),
            (&[("type", "bind"), ("device", "/srv")], Backing::Bind { source: "/srv".into(), options: vec![] }),
            (
                &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,mode=700")],
                Backing::Tmpfs { options: words(&["size=1m", "mode=700"]) },
            ),
        ] {
            assert_eq!(parse(&options(pairs)), Ok(expected), "{pairs:?}");
        }
        for (pairs, part) in [
            (&[("type", "nfs"), ("device", ":/x"), ("o", "addr=1.2.3.4")][..], "real root"),
            (&[("type", "none"), ("device", "/x")], "o=bind"),
            (&[("type", "none"), ("o", "bind"), ("device", "x")], "absolute path"),
            (&[("o", "size=1g")], "quotas"),
            (&[("size", "1g")], "quotas"),
            (&[("o", "uid=x")], "needs type"),
            (&[("colour", "red")], "unknown"),
        ] {
            let error = parse(&options(pairs)).unwrap_err().to_string();
            assert!(error.contains(part), "{pairs:?}: {error}");
        }
        let volume = Volume { options: options(&[("o", "gid=6")]), ..Volume::named("v") };
        assert_eq!(volume.owner(), Some((0, 6)));
    }
}
