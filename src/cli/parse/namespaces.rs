//! `--userns`, `--pid`, `--ipc`, `--uts`, `--cgroupns`.

use std::path::PathBuf;

use storage::state::request::{Namespace, UserNamespace};

use super::Parsed;

/// `private`, `host`, `container:NAME`, `ns:PATH`.
pub(crate) fn namespace(value: &str) -> Parsed<Namespace> {
    match value.split_once(':') {
        None if value.is_empty() || value == "private" => Ok(Namespace::Private),
        None if value == "host" => Ok(Namespace::Host),
        Some(("container", name)) => container(name).map(Namespace::Container),
        Some(("ns", path)) => path_of(path).map(Namespace::Path),
        _ => Err(format!("unrecognized namespace mode {value} passed")),
    }
}

/// `--ipc`: further `shareable`, which every private one is, and `none`, which has no `/dev/shm` (second of the pair).
pub(crate) fn ipc(value: &str) -> Parsed<(Namespace, bool)> {
    match value {
        "shareable" => Ok((Namespace::Private, false)),
        "none" => Ok((Namespace::Private, true)),
        _ => namespace(value).map(|namespace| (namespace, false)),
    }
}

/// `--userns`.
pub(crate) fn user(value: &str) -> Parsed<UserNamespace> {
    let (mode, options) = match value.split_once(':') {
        Some((mode, options)) => (mode, Some(options)),
        None => (value, None),
    };
    match (mode, options) {
        ("" | "host", None) => Ok(UserNamespace::Host),
        ("single", None) => Ok(UserNamespace::Single),
        ("nomap", None) => Ok(UserNamespace::NoMap),
        ("keep-id", options) => {
            let [uid, gid, size] = numbers(options, ["uid", "gid", "size"])?;
            Ok(UserNamespace::KeepId { uid, gid, size })
        }
        ("auto", options) => {
            let [size] = numbers(options, ["size"])?;
            Ok(UserNamespace::Auto { size, first: None })
        }
        ("container", Some(name)) => container(name).map(UserNamespace::Container),
        ("ns", Some(path)) => path_of(path).map(UserNamespace::Path),
        ("private", None) => Err("userns mode private is not supported: use auto or keep-id".to_owned()),
        _ => Err(format!("unrecognized namespace mode {value} passed")),
    }
}

/// `name=number,…`, each name at most once.
fn numbers<const N: usize>(options: Option<&str>, names: [&str; N]) -> Parsed<[Option<u32>; N]> {
    let mut found = [None; N];
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let (name, number) = option.split_once('=').ok_or_else(|| format!("unknown option specified: {option:?}"))?;
        let slot = names.iter().position(|known| *known == name).and_then(|at| found.get_mut(at));
        let slot = slot.ok_or_else(|| format!("unknown option specified: {option:?}"))?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|number| digits && *number < u32::MAX);
        *slot = Some(number.ok_or_else(|| format!("{name} must be a number: {option:?}"))?);
    }
    Ok(found)
}

/// One id in decimal digits.
pub(crate) fn id(text: &str) -> Parsed<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|id| digits && *id < u32::MAX);
    id.ok_or_else(|| format!("{text:?} is not an id"))
}

fn container(name: &str) -> Parsed<String> {
    if name.is_empty() { Err("must name a container".to_owned()) } else { Ok(name.to_owned()) }
}

fn path_of(path: &str) -> Parsed<PathBuf> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(PathBuf::from(path))
    } else {
        Err("the path of a namespace must be absolute".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_private_shared_or_given_by_path() {
        for (text, expected) in [
            ("", Namespace::Private),
            ("private", Namespace::Private),
            ("host", Namespace::Host),
            ("container:web", Namespace::Container("web".to_owned())),
            ("ns:/proc/1/ns/pid", Namespace::Path("/proc/1/ns/pid".into())),
        ] {
            assert_eq!(namespace(text), Ok(expected), "{text}");
        }
        for text in ["foo", "Host", "container:", "container", "ns:", "ns:x", "host:x", "shareable", "none"] {
            assert!(namespace(text).is_err(), "{text}");
        }
        assert_eq!(ipc("shareable"), Ok((Namespace::Private, false)));
        assert_eq!(ipc("none"), Ok((Namespace::Private, true)));
        assert_eq!(ipc("host"), Ok((Namespace::Host, false)));
    }

    #[test]
    fn user_namespaces_take_their_options() {
        let keep = |uid, gid, size| UserNamespace::KeepId { uid, gid, size };
        for (text, expected) in [
            ("", UserNamespace::Host),
            ("host", UserNamespace::Host),
            ("single", UserNamespace::Single),
            ("nomap", UserNamespace::NoMap),
            ("keep-id", keep(None, None, None)),
            ("keep-id:uid=200,gid=210", keep(Some(200), Some(210), None)),
            ("keep-id:size=65536", keep(None, None, Some(65536))),
            ("auto", UserNamespace::Auto { size: None, first: None }),
            ("auto:size=1024", UserNamespace::Auto { size: Some(1024), first: None }),
            ("container:c", UserNamespace::Container("c".to_owned())),
            ("ns:/x", UserNamespace::Path("/x".into())),
        ] {
            assert_eq!(user(text), Ok(expected), "{text}");
        }
        for text in [
            "foo",
            "keep-id:",
            "keep-id:uid",
            "keep-id:uid=x",
            "keep-id:uid=-1",
            "keep-id:foo=1",
            "auto:uid=1",
            "host:x",
            "private",
            "keep-id:uid=4294967295",
            "keep-id:uid=+1",
            "auto:uidmapping=0:1:1",
        ] {
            assert!(user(text).is_err(), "{text}");
        }
    }
}
