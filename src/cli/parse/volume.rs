//! `-v` and `--volumes-from`.

use std::path::{Path, PathBuf};

use storage::state::request::{BindMount, Mount, Overlay, VolumeMount, VolumesFrom};

use super::Parsed;
use super::mount_flags::{Flags, clean, target};

/// `[source:]target[:option,…]`: a source with a slash or a leading dot is a path of the host, relative to `cwd`;
/// otherwise it is a volume; without one the volume is anonymous. `\:` is a colon within a path.
pub(crate) fn volume(value: &str, cwd: &Path) -> Parsed<Mount> {
    let parts = split_colons(value);
    let (source, path, options) = match parts.as_slice() {
        [path] => (None, path, ""),
        [source, path] => (Some(source.as_str()), path, ""),
        [source, path, options] => (Some(source.as_str()), path, options.as_str()),
        _ => return Err("must be [[SOURCE:]TARGET[:OPTIONS]]".to_owned()),
    };
    let target = target(path)?;
    let options = Options::parse(options, cwd)?;
    match source {
        None => Ok(Mount::Volume(options.volume(None, target)?)),
        Some("") => Err("the source is empty".to_owned()),
        Some(source) if is_path(source) => {
            Ok(Mount::Bind(BindMount { create_source: true, ..options.bind(host_path(source, cwd)?, target)? }))
        }
        Some(name) => Ok(Mount::Volume(options.volume(Some(volume_name(name)?), target)?)),
    }
}

/// `container[:option,…]`.
pub(crate) fn volumes_from(value: &str) -> Parsed<VolumesFrom> {
    let (container, options) = value.split_once(':').unwrap_or((value, ""));
    if container.is_empty() {
        return Err("no container named".to_owned());
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" | "z" => {}
            _ => return Err(format!("invalid option {option:?}: must be ro, rw or z")),
        }
    }
    Ok(VolumesFrom { container: container.to_owned(), read_only })
}

/// A name for a volume.
pub(crate) fn volume_name(name: &str) -> Parsed<String> {
    let valid = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        && name.len() <= 255;
    if valid { Ok(name.to_owned()) } else { Err("names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*".to_owned()) }
}

/// An absolute path of the host without `.` and `..`.
pub(crate) fn host_path(path: &str, cwd: &Path) -> Parsed<PathBuf> {
    if path.is_empty() || path.contains('\0') {
        return Err("must be a path of the host".to_owned());
    }
    Ok(clean(&cwd.join(path)))
}

fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.'])
}

/// Splits at colons that no backslash precedes.
fn split_colons(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&':') => {
                chars.next();
                parts.last_mut().into_iter().for_each(|part| part.push(':'));
            }
            ':' => parts.push(String::new()),
            _ => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
    }
    parts
}

/// What may follow the second colon.
#[derive(Debug, Default)]
struct Options {
    flags: Flags,
    nocopy: Option<bool>,
    non_recursive: Option<bool>,
    chown: bool,
    overlay: Option<Overlay>,
}

/// Why there is no `idmap`, and what to do instead.
pub(super) const NO_IDMAP: &str = "option \"idmap\" is not supported: the kernel lets only the real root map ids of a \
     mount; use U to give the files to the container's user, or --userns=keep-id to have your own id in the container";

impl Options {
    fn parse(text: &str, cwd: &Path) -> Parsed<Self> {
        let mut options = Self::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            if options.flags.take(option)? {
                continue;
            }
            match option {
                "bind" => options.non_recursive = Some(true),
                "rbind" => options.non_recursive = Some(false),
                "copy" => options.nocopy = Some(false),
                "nocopy" => options.nocopy = Some(true),
                // Labels of SELinux: containers in a user namespace run with the user's own.
                "z" | "Z" => {}
                // Hints for a host on the other side of a virtual machine.
                "cached" | "delegated" | "consistent" | "default" => {}
                "U" => options.chown = true,
                "O" => drop(options.overlay.get_or_insert_default()),
                _ if option == "idmap" || option.starts_with("idmap=") => return Err(NO_IDMAP.to_owned()),
                _ if option.starts_with("upperdir=") || option.starts_with("workdir=") => {
                    let (key, path) = option.split_once('=').unwrap_or_default();
                    let path = host_path(path, cwd).map_err(|reason| format!("{key}: {reason}"))?;
                    let overlay = options.overlay.get_or_insert_default();
                    *(if key == "upperdir" { &mut overlay.upper } else { &mut overlay.work }) = Some(path);
                }
                _ => return Err(format!("invalid option type {option:?}")),
            }
        }
        if let Some(overlay) = &options.overlay {
            // Anywhere in the list, as podman has it.
            if !text.split(',').any(|option| option == "O") {
                return Err("upperdir and workdir are for overlay volumes: add O".to_owned());
            }
            if overlay.upper.is_some() != overlay.work.is_some() {
                return Err("an overlay volume needs both upperdir and workdir, or none of them".to_owned());
            }
        }
        Ok(options)
    }

    fn bind(self, source: PathBuf, target: PathBuf) -> Parsed<BindMount> {
        if self.nocopy.is_some() {
            return Err("copy and nocopy are for volumes".to_owned());
        }
        Ok(BindMount {
            source,
            target,
            read_only: self.flags.read_only == Some(true),
            non_recursive: self.non_recursive == Some(true),
            create_source: false,
            propagation: self.flags.propagation,
            options: self.flags.options,
            chown: self.chown,
            overlay: self.overlay,
        })
    }

    fn volume(self, name: Option<String>, target: PathBuf) -> Parsed<VolumeMount> {
        if self.non_recursive.is_some() {
            return Err("bind and rbind are for paths of the host".to_owned());
        }
        Ok(VolumeMount {
            name,
            target,
            read_only: self.flags.read_only == Some(true),
            nocopy: self.nocopy == Some(true),
            propagation: self.flags.propagation,
            options: self.flags.options,
            chown: self.chown,
            overlay: self.overlay,
            ..VolumeMount::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use storage::state::request::Propagation;

    use super::*;

    #[test]
    fn every_form_of_volume_is_read() {
        let bind =
            BindMount { source: "/h/src".into(), target: "/dst".into(), create_source: true, ..BindMount::default() };
        let named = VolumeMount { name: Some("vol".to_owned()), target: "/dst".into(), ..VolumeMount::default() };
        let anonymous = VolumeMount { name: None, ..named.clone() };
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (text, expected) in [
            ("/dst", Mount::Volume(anonymous)),
            ("vol:/dst", Mount::Volume(named.clone())),
            ("vol:/dst:nocopy,ro", Mount::Volume(VolumeMount { nocopy: true, read_only: true, ..named.clone() })),
            (
                "vol:/dst:suid,exec,dev",
                Mount::Volume(VolumeMount { options: words(&["suid", "exec", "dev"]), ..named.clone() }),
            ),
            ("/h/src:/dst", Mount::Bind(bind.clone())),
            ("/h/src/:/dst/", Mount::Bind(bind.clone())),
            ("./src:/dst", Mount::Bind(bind.clone())),
            ("../h/src:/dst", Mount::Bind(bind.clone())),
            (".:/dst", Mount::Bind(BindMount { source: "/h".into(), ..bind.clone() })),
            ("/h/src:/dst:", Mount::Bind(bind.clone())),
            ("/h/src:/dst:ro,Z", Mount::Bind(BindMount { read_only: true, ..bind.clone() })),
            ("/h/src:/dst:rw,z,cached", Mount::Bind(bind.clone())),
            (
                "/h/src:/dst:rslave,bind",
                Mount::Bind(BindMount { propagation: Some(Propagation::Rslave), non_recursive: true, ..bind.clone() }),
            ),
            ("/h/src:/dst:U,z", Mount::Bind(BindMount { chown: true, ..bind.clone() })),
            ("/h/src:/dst:O", Mount::Bind(BindMount { overlay: Some(Overlay::default()), ..bind.clone() })),
            (
                "/h/src:/dst:O,upperdir=./u,workdir=/w",
                Mount::Bind(BindMount {
                    overlay: Some(Overlay { upper: Some("/h/u".into()), work: Some("/w".into()) }),
                    ..bind.clone()
                }),
            ),
            ("vol:/dst:U,O", Mount::Volume(VolumeMount { chown: true, overlay: Some(Overlay::default()), ..named })),
            ("/h/a\\:b:/d\\:e", Mount::Bind(BindMount { source: "/h/a:b".into(), target: "/d:e".into(), ..bind })),
        ] {
            assert_eq!(volume(text, Path::new("/h")), Ok(expected), "{text}");
        }
    }

    #[test]
    fn broken_forms_of_volume_are_refused_with_a_reason() {
        for (text, part) in [
            ("", "absolute path"),
            ("/", "destination cannot be '/'"),
            ("/a:/", "destination cannot be '/'"),
            ("foo:bar", "invalid container path \"bar\""),
            ("/x:ro", "invalid container path \"ro\""),
            ("/x:y", "invalid container path \"y\""),
            (":/a", "the source is empty"),
            ("a/b:/x", "names must match"),
            ("-a:/x", "names must match"),
            ("/x:/y:foo", "invalid option type \"foo\""),
            ("/x:/y:ro,rw", "both ro and rw"),
            ("/x:/y:upperdir=/u,workdir=/w", "add O"),
            ("/x:/y:O,upperdir=/u", "both upperdir and workdir"),
            ("/x:/y:idmap", "real root"),
            ("/x:/y:idmap=uids=0-1-10", "keep-id"),
            ("/x:/y:nocopy", "for volumes"),
            ("/x:/y:private,shared", "one propagation"),
            ("/a:/b:ro:rw", "must be"),
        ] {
            let reason = volume(text, Path::new("/h")).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    #[test]
    fn volumes_from_takes_ro_and_rw() {
        let from = |read_only| VolumesFrom { container: "c".to_owned(), read_only };
        for (text, expected) in [("c", from(false)), ("c:ro", from(true)), ("c:rw,z", from(false))] {
            assert_eq!(volumes_from(text), Ok(expected), "{text}");
        }
        assert!(volumes_from("c:foo").is_err());
        assert!(volumes_from(":ro").is_err());
    }
}
