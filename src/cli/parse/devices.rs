//! Limits of devices, and of where a cgroup is.

use std::path::PathBuf;

use storage::state::request::{CgroupMode, OfDevice};

use super::{Parsed, size};

/// `/dev/PATH:VALUE`. Whether there is such a device shows when the container is started.
fn of_device(text: &str) -> Parsed<(PathBuf, &str)> {
    let (path, value) = text.rsplit_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((PathBuf::from(path), value))
}

/// A weight of 10 to 1000.
pub(crate) fn weight(text: &str) -> Parsed<OfDevice> {
    let (path, value) = of_device(text)?;
    let weight = value.parse().ok().filter(|weight| *weight == 0 || (10..=1000).contains(weight));
    Ok(OfDevice { path, value: weight.ok_or_else(|| format!("invalid weight for device: {text}"))? })
}

/// A size for each second.
pub(crate) fn bytes_per_second(text: &str) -> Parsed<OfDevice> {
    let (path, value) = of_device(text)?;
    let why = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a \
             positive integer. Unit is optional and can be kb, mb, or gb"
        )
    };
    Ok(OfDevice { path, value: size::bytes(value).map_err(|_| why())? })
}

/// A number for each second.
pub(crate) fn per_second(text: &str) -> Parsed<OfDevice> {
    let (path, value) = of_device(text)?;
    let why = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive \
             integer"
        )
    };
    Ok(OfDevice { path, value: value.parse().map_err(|_| why())? })
}

/// `--cgroups`.
pub(crate) fn cgroup_mode(text: &str) -> Parsed<CgroupMode> {
    let all = [CgroupMode::Enabled, CgroupMode::Disabled, CgroupMode::NoConmon, CgroupMode::Split];
    let found = all.into_iter().find(|mode| mode.as_str() == text);
    // podman's file of defaults says so.
    let found = found.or((text == "default").then_some(CgroupMode::Enabled));
    found.ok_or_else(|| "must be enabled, disabled, no-conmon or split".to_owned())
}

/// `--cgroup-parent`: `NAME.slice`, or a path.
pub(crate) fn cgroup_parent(text: &str) -> Parsed<String> {
    let is_slice = text.ends_with(".slice") && !text.contains('/') && text.len() > ".slice".len();
    let is_path = !text.split('/').any(|part| part == "..");
    if is_slice || is_path { Ok(text.to_owned()) } else { Err("must be NAME.slice or a path without ..".to_owned()) }
}

/// `--cgroup-conf`: a file of a cgroup and what is written to it.
pub(crate) fn cgroup_conf(text: &str) -> Parsed<(String, String)> {
    let (name, value) = text.split_once('=').ok_or("--cgroup-conf must be formatted KEY=VALUE")?;
    if name.contains('/') || !name.contains('.') || name.starts_with('.') {
        return Err(format!("{name:?} is no file of a cgroup"));
    }
    if name == "cgroup.procs" || name == "cgroup.threads" {
        return Err(format!("{name} is not a limit"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_weights_and_rates() {
        let of = |path: &str, value| Ok(OfDevice { path: path.into(), value });
        assert_eq!(weight("/dev/sda:300"), of("/dev/sda", 300));
        assert_eq!(bytes_per_second("/dev/sda:1mb"), of("/dev/sda", 1 << 20));
        assert_eq!(per_second("/dev/sda:100"), of("/dev/sda", 100));
        for (text, error) in [
            ("foo", "bad format: foo"),
            ("x:300", "bad format for device path: x:300"),
            ("/dev/sda:5", "invalid weight for device: /dev/sda:5"),
        ] {
            assert_eq!(weight(text), Err(error.to_owned()));
        }
        for text in ["/dev/sda:-5", "/dev/sda:5k"] {
            assert!(per_second(text).unwrap_err().contains("Number must be a positive integer"), "{text}");
        }
        assert!(bytes_per_second("/dev/sda:x").is_err());
    }

    #[test]
    fn names_of_cgroups_do_not_lead_elsewhere() {
        assert_eq!(cgroup_parent("web.slice").as_deref(), Ok("web.slice"));
        assert_eq!(cgroup_parent("/a/b").as_deref(), Ok("/a/b"));
        assert!(cgroup_parent("/a/../b").is_err());
        assert_eq!(cgroup_conf("memory.high=1"), Ok(("memory.high".into(), "1".into())));
        for text in ["foo", "a=b", "../x.y=1", "cgroup.procs=1"] {
            assert!(cgroup_conf(text).is_err(), "{text}");
        }
        assert_eq!(cgroup_mode("no-conmon"), Ok(CgroupMode::NoConmon));
        assert!(cgroup_mode("foo").is_err());
    }
}
