//! `--mount type=…,key=value,…`: comma-separated values with Go's quoting, every key by all its names.

use std::path::{Path, PathBuf};

use storage::state::request::{BindMount, DevptsMount, ImageMount, Mount, TmpfsMount, VolumeMount};

use super::Parsed;
use super::mount_flags::{Flags, finish_tmpfs, propagation, target, tmpfs_mode, tmpfs_option, tmpfs_size};
use super::volume::{NO_IDMAP, host_path, volume_name};
use crate::cli::usage::boolean;

/// One `--mount`, which is several mounts for `type=glob`. A path of the host is relative to `cwd`.
pub(crate) fn mount(value: &str, cwd: &Path) -> Parsed<Vec<Mount>> {
    let mut kind = "volume".to_owned();
    let mut options = Vec::new();
    for field in fields(value)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        match (key.as_str(), &value) {
            ("type", Some(value)) => kind.clone_from(value),
            ("type", None) => return Err("type must have a value".to_owned()),
            _ => options.push(Key { name: key, value }),
        }
    }
    match kind.as_str() {
        "bind" => bind(options, cwd).map(|mount| vec![Mount::Bind(mount)]),
        "glob" => glob(options, cwd),
        "volume" => volume(options).map(|mount| vec![Mount::Volume(mount)]),
        "tmpfs" => tmpfs(options, "tmpfs").map(|mount| vec![Mount::Tmpfs(mount)]),
        "ramfs" => {
            tmpfs(options, "ramfs").map(|mount| vec![Mount::Tmpfs(TmpfsMount { ramfs: true, nocopy: true, ..mount })])
        }
        "image" => image(options).map(|mount| vec![Mount::Image(mount)]),
        "devpts" => devpts(options).map(|mount| vec![Mount::Devpts(mount)]),
        "npipe" | "cluster" | "artifact" => Err(format!("mounts of type {kind:?} are not supported")),
        _ => Err(format!("invalid filesystem type {kind:?}")),
    }
}

#[derive(Debug)]
struct Key {
    name: String,
    value: Option<String>,
}

impl Key {
    fn value(&self) -> Parsed<&str> {
        match self.value.as_deref() {
            None | Some("") => Err(format!("{} must have a value", self.name)),
            Some(value) => Ok(value),
        }
    }

    /// `key`, `key=true` or `key=false`.
    fn boolean(&self) -> Parsed<bool> {
        self.value
            .as_deref()
            .map_or(Ok(true), |value| boolean(value).map_err(|reason| format!("{}: {reason}", self.name)))
    }

    /// Takes what every type has: `ro`, `readonly`, `rw`, mount flags, `consistency`.
    fn take_shared(&self, flags: &mut Flags) -> Parsed<bool> {
        match self.name.as_str() {
            "ro" | "readonly" => flags.take(if self.boolean()? { "ro" } else { "rw" }),
            "rw" => flags.take(if self.boolean()? { "rw" } else { "ro" }),
            "consistency" => match self.value()? {
                "cached" | "delegated" | "consistent" | "default" => Ok(true),
                other => Err(format!("invalid consistency {other:?}")),
            },
            name if self.value.is_none() => flags.take(name),
            _ => Ok(false),
        }
    }

    fn unknown(&self, kind: &str) -> String {
        format!("{:?} option not supported for {kind:?} mount types", self.name)
    }
}

fn bind(options: Vec<Key>, cwd: &Path) -> Parsed<BindMount> {
    let mut mount = BindMount::default();
    let (mut flags, mut source, mut destination) = (Flags::default(), None, None);
    for key in &options {
        match key.name.as_str() {
            "source" | "src" => source = Some(host_path(key.value()?, cwd)?),
            "target" | "dst" | "destination" => destination = Some(target(key.value()?)?),
            "bind-propagation" => {
                let word = key.value()?;
                mount.propagation = Some(propagation(word).ok_or_else(|| format!("invalid propagation {word:?}"))?);
            }
            "bind-nonrecursive" => mount.non_recursive = key.boolean()?,
            "bind-recursive" => match key.value()? {
                "enabled" => mount.non_recursive = false,
                "disabled" => mount.non_recursive = true,
                other => return Err(format!("bind-recursive={other} is not supported")),
            },
            "relabel" => match key.value()? {
                "shared" | "private" => {}
                other => return Err(format!("invalid mount option 'relabel={other}': must be shared or private")),
            },
            "u" | "chown" => mount.chown = key.boolean()?,
            "idmap" => return Err(NO_IDMAP.to_owned()),
            _ if key.take_shared(&mut flags)? => {}
            _ => return Err(format!("{}: invalid mount option", key.name)),
        }
    }
    mount.source = source.ok_or("must set source of a bind mount")?;
    mount.target = destination.ok_or("must set volume destination")?;
    mount.read_only = flags.read_only == Some(true);
    mount.propagation = mount.propagation.or(flags.propagation);
    mount.options = flags.options;
    Ok(mount)
}

fn volume(options: Vec<Key>) -> Parsed<VolumeMount> {
    let mut mount = VolumeMount::default();
    let (mut flags, mut destination) = (Flags::default(), None);
    for key in &options {
        match key.name.as_str() {
            "source" | "src" => mount.name = Some(volume_name(key.value()?)?),
            "target" | "dst" | "destination" => destination = Some(target(key.value()?)?),
            "volume-nocopy" | "nocopy" => mount.nocopy = key.boolean()?,
            "volume-subpath" | "subpath" => mount.subpath = Some(subpath(key.value()?)?),
            "volume-driver" if key.value()? == "local" => {}
            "u" | "chown" => mount.chown = key.boolean()?,
            "idmap" => return Err(NO_IDMAP.to_owned()),
            "volume-label" | "volume-opt" | "volume-driver" => return Err(key.unknown("volume")),
            _ if key.take_shared(&mut flags)? => {}
            _ => return Err(key.unknown("volume")),
        }
    }
    mount.target = destination.ok_or("must set volume destination")?;
    mount.read_only = flags.read_only == Some(true);
    mount.propagation = flags.propagation;
    mount.options = flags.options;
    Ok(mount)
}

/// `type=glob`: a bind mount of everything that the pattern fits, below the target or where it is on the host.
fn glob(options: Vec<Key>, cwd: &Path) -> Parsed<Vec<Mount>> {
    let is_destination = |key: &Key| matches!(key.name.as_str(), "target" | "dst" | "destination");
    let has_destination = options.iter().any(is_destination);
    let mut options = options;
    if !has_destination {
        // Replaced below: each goes to its own path.
        options.push(Key { name: "dst".to_owned(), value: Some("/glob".to_owned()) });
    }
    let pattern = bind(options, cwd)?;
    let found = crate::cli::pattern::glob_paths(&pattern.source);
    if found.is_empty() {
        return Err(format!("no file paths matching glob {:?}", pattern.source.display().to_string()));
    }
    let one = |source: PathBuf| {
        let target = match (has_destination, source.file_name()) {
            (true, Some(name)) => pattern.target.join(name),
            _ => source.clone(),
        };
        Mount::Bind(BindMount { source, target, ..pattern.clone() })
    };
    Ok(found.into_iter().map(one).collect())
}

fn image(options: Vec<Key>) -> Parsed<ImageMount> {
    let mut mount = ImageMount::default();
    let mut destination = None;
    for key in &options {
        match key.name.as_str() {
            "source" | "src" => key.value()?.clone_into(&mut mount.image),
            "target" | "dst" | "destination" => destination = Some(target(key.value()?)?),
            "rw" | "readwrite" => mount.writable = key.boolean()?,
            "ro" | "readonly" => mount.writable = !key.boolean()?,
            "subpath" | "image-subpath" => mount.subpath = Some(subpath(key.value()?)?),
            "consistency" => drop(key.take_shared(&mut Flags::default())?),
            _ => return Err(key.unknown("image")),
        }
    }
    if mount.image.is_empty() {
        return Err("must set source and destination for image volumes".to_owned());
    }
    mount.target = destination.ok_or("must set source and destination for image volumes")?;
    Ok(mount)
}

fn devpts(options: Vec<Key>) -> Parsed<DevptsMount> {
    let mut mount = DevptsMount::default();
    let mut destination = None;
    for key in &options {
        match key.name.as_str() {
            "target" | "dst" | "destination" => destination = Some(target(key.value()?)?),
            "uid" | "gid" | "max" => {
                let number: u32 = key.value()?.parse().map_err(|_| format!("{} must be a number", key.name))?;
                mount.options.push(format!("{}={number}", key.name));
            }
            "mode" => mount.options.push(format!("mode={:o}", tmpfs_mode(key.value()?)?)),
            _ => return Err(key.unknown("devpts")),
        }
    }
    mount.target = destination.ok_or("must set volume destination")?;
    Ok(mount)
}

/// A directory within a volume: relative, and nowhere upward.
fn subpath(path: &str) -> Parsed<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    let plain = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain && !relative.as_os_str().is_empty() && !path.contains('\0') {
        Ok(relative.to_path_buf())
    } else {
        Err(format!("invalid subpath {path:?}"))
    }
}

fn tmpfs(options: Vec<Key>, kind: &str) -> Parsed<TmpfsMount> {
    let mut mount = TmpfsMount::default();
    let (mut flags, mut destination) = (Flags::default(), None);
    for key in &options {
        match key.name.as_str() {
            "target" | "dst" | "destination" => destination = Some(target(key.value()?)?),
            "tmpfs-size" | "size" if kind == "tmpfs" => mount.size = Some(tmpfs_size(key.value()?)?),
            "tmpfs-mode" | "mode" => mount.mode = Some(tmpfs_mode(key.value()?)?),
            "source" | "src" => return Err(key.unknown(kind)),
            // The kernel's ramfs has neither a limit nor an owner to be asked for.
            "tmpfs-size" | "size" | "tmpcopyup" | "notmpcopyup" | "uid" | "gid" | "u" | "chown" if kind == "ramfs" => {
                return Err(key.unknown(kind));
            }
            "u" | "chown" => mount.chown = key.boolean()?,
            "tmpcopyup" => mount.nocopy = !key.boolean()?,
            "notmpcopyup" => mount.nocopy = key.boolean()?,
            _ if key.take_shared(&mut flags)? => {}
            name => {
                let option = key.value.as_ref().map_or_else(|| name.to_owned(), |value| format!("{name}={value}"));
                tmpfs_option(&mut mount, &mut flags, &option).map_err(|_| key.unknown(kind))?;
            }
        }
    }
    mount.target = destination.ok_or("must set volume destination")?;
    finish_tmpfs(&mut mount, flags)?;
    Ok(mount)
}

/// One record of comma-separated values: a field in double quotes may hold commas, a doubled quote is a quote.
fn fields(value: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = value;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err("bare \" in a field that is not quoted".to_owned());
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => break,
            None => return Err("extraneous \" in a quoted field".to_owned()),
        }
    }
    if fields.iter().any(|field| field.trim().is_empty()) {
        return Err("has an empty field".to_owned());
    }
    Ok(fields)
}

/// The content of a field whose opening quote is gone, and what follows its closing one.
fn quoted_field(text: &str) -> Parsed<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or("a quoted field does not end")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::state::request::Propagation;

    use super::*;

    #[test]
    fn bind_mounts_are_read_by_every_name_of_a_key() {
        let plain = BindMount { source: "/s".into(), target: "/t".into(), ..BindMount::default() };
        for (text, expected) in [
            ("type=bind,source=/s,target=/t", plain.clone()),
            ("type=bind,src=/s,dst=/t", plain.clone()),
            ("target=/t,TYPE=bind,Src=/s", BindMount { ..plain.clone() }),
            ("type=bind,src=s,destination=/t", plain.clone()),
            ("type=bind,src=/s,dst=/t,ro", BindMount { read_only: true, ..plain.clone() }),
            ("type=bind,src=/s,dst=/t,readonly=true", BindMount { read_only: true, ..plain.clone() }),
            ("type=bind,src=/s,dst=/t,ro=false", plain.clone()),
            ("type=bind,src=/s,dst=/t,rw", plain.clone()),
            ("type=bind,src=/s,dst=/t,bind-nonrecursive", BindMount { non_recursive: true, ..plain.clone() }),
            (
                "type=bind,src=/s,dst=/t,bind-propagation=rshared",
                BindMount { propagation: Some(Propagation::Rshared), ..plain.clone() },
            ),
            ("type=bind,src=/s,dst=/t,relabel=shared,consistency=cached,U=false", plain.clone()),
            ("type=bind,src=/s,dst=/t,noexec", BindMount { options: vec!["noexec".to_owned()], ..plain.clone() }),
            ("type=bind,\"src=/a,\"\"b\",dst=/t", BindMount { source: "/a,\"b".into(), ..plain }),
        ] {
            assert_eq!(mount(text, Path::new("/")), Ok(vec![Mount::Bind(expected)]), "{text}");
        }
    }

    #[test]
    fn volumes_and_tmpfs_have_their_own_keys() {
        let volume = VolumeMount { name: Some("v".to_owned()), target: "/t".into(), ..VolumeMount::default() };
        let tmpfs = TmpfsMount { target: "/t".into(), ..TmpfsMount::default() };
        for (text, expected) in [
            ("src=v,dst=/t", Mount::Volume(volume.clone())),
            ("type=volume,dst=/t", Mount::Volume(VolumeMount { name: None, ..volume.clone() })),
            (
                "type=volume,source=v,target=/t,volume-nocopy=true,ro",
                Mount::Volume(VolumeMount { nocopy: true, read_only: true, ..volume.clone() }),
            ),
            (
                "type=volume,src=v,dst=/t,subpath=/a/b",
                Mount::Volume(VolumeMount { subpath: Some("a/b".into()), ..volume }),
            ),
            (
                "type=volume,src=v,dst=/t,U",
                Mount::Volume(VolumeMount {
                    name: Some("v".to_owned()),
                    target: "/t".into(),
                    chown: true,
                    ..VolumeMount::default()
                }),
            ),
            ("type=tmpfs,dst=/t", Mount::Tmpfs(tmpfs.clone())),
            ("type=tmpfs,dst=/t,chown=true", Mount::Tmpfs(TmpfsMount { chown: true, ..tmpfs.clone() })),
            (
                "type=ramfs,dst=/t,tmpfs-mode=700",
                Mount::Tmpfs(TmpfsMount { ramfs: true, nocopy: true, mode: Some(0o700), ..tmpfs.clone() }),
            ),
            (
                "type=image,src=img:1,dst=/t,rw=true,subpath=/usr",
                Mount::Image(ImageMount {
                    image: "img:1".to_owned(),
                    target: "/t".into(),
                    writable: true,
                    subpath: Some("usr".into()),
                    ..ImageMount::default()
                }),
            ),
            (
                "type=devpts,dst=/t,uid=1,mode=620",
                Mount::Devpts(DevptsMount {
                    target: "/t".into(),
                    options: vec!["uid=1".to_owned(), "mode=620".to_owned()],
                }),
            ),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700,ro",
                Mount::Tmpfs(TmpfsMount {
                    size: Some("1m".to_owned()),
                    mode: Some(0o700),
                    read_only: true,
                    ..tmpfs.clone()
                }),
            ),
            (
                "type=tmpfs,dst=/t,notmpcopyup,noexec,uid=5",
                Mount::Tmpfs(TmpfsMount {
                    nocopy: true,
                    options: vec!["uid=5".to_owned(), "noexec".to_owned()],
                    ..tmpfs
                }),
            ),
        ] {
            assert_eq!(mount(text, Path::new("/")), Ok(vec![expected]), "{text}");
        }
    }

    #[test]
    fn glob_is_a_bind_mount_of_each_match() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a1", "a2", "b1"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        let targets = |text: &str| {
            let all = mount(text, root.path()).unwrap();
            all.iter().map(|mount| mount.target().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(targets("type=glob,src=./a*,dst=/t,ro"), ["/t/a1", "/t/a2"]);
        let here = root.path().display();
        assert_eq!(targets("type=glob,src=b?"), [format!("{here}/b1")]);
    }

    #[test]
    fn broken_mounts_are_refused_with_a_reason() {
        for (text, part) in [
            ("", "empty field"),
            ("type=bind,,dst=/t", "empty field"),
            ("type=foo,dst=/t", "invalid filesystem type \"foo\""),
            ("type=image,dst=/t", "must set source"),
            ("type=image,src=a,dst=/t,subpath=../x", "invalid subpath"),
            ("type=image,src=a,dst=/t,noexec", "not supported for \"image\""),
            ("type=glob,src=/no/such/*,dst=/t", "no file paths matching glob"),
            ("type=devpts,dst=/t,src=/s", "not supported for \"devpts\""),
            ("type=devpts,dst=/t,uid=x", "must be a number"),
            ("type=ramfs,dst=/t,tmpfs-size=1m", "not supported for \"ramfs\""),
            ("type", "type must have a value"),
            ("type=bind,dst=/t", "must set source"),
            ("type=bind,src=/s", "must set volume destination"),
            ("type=bind,src=/s,dst=t", "absolute path"),
            ("type=bind,src=/s,dst=/", "cannot be '/'"),
            ("type=bind,src=/s,dst=/t,foo", "foo: invalid mount option"),
            ("type=bind,src=/s,dst=/t,ro=maybe", "true or false"),
            ("type=bind,src=/s,dst=/t,ro,rw", "both ro and rw"),
            ("type=bind,src=/s,dst=/t,idmap", "real root"),
            ("type=volume,src=s,dst=/t,idmap=x", "keep-id"),
            ("type=bind,src=,dst=/t", "src must have a value"),
            ("type=bind,src=/s,dst=/t,bind-propagation=x", "invalid propagation"),
            ("type=tmpfs,dst=/t,src=/s", "\"src\" option not supported for \"tmpfs\" mount types"),
            ("type=tmpfs,dst=/t,tmpfs-mode=888", "invalid mode"),
            ("type=volume,src=a/b,dst=/t", "names must match"),
            ("type=volume,dst=/t,subpath=../x", "invalid subpath"),
            ("type=volume,dst=/t,volume-opt=a=b", "not supported"),
            ("type=bind,\"src=/s", "does not end"),
            ("type=bind,src=/\"s,dst=/t", "bare \""),
            ("\"type=bind\"x,src=/s,dst=/t", "extraneous"),
        ] {
            let reason = mount(text, Path::new("/")).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }
}
