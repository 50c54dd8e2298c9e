//! Capabilities and `--security-opt`.

use std::path::Path;

use runtime::security::capabilities::Selection;
use storage::state::request::{SeccompProfile, Security};

use super::Parsed;

/// A capability in any case, with or without `CAP_`, or `ALL`.
pub(crate) fn capability(value: &str) -> Parsed<String> {
    match value.parse::<Selection>() {
        Ok(Selection::All) => Ok("ALL".to_owned()),
        Ok(Selection::One(capability)) => Ok(capability.to_string()),
        Err(_) => Err("unknown capability".to_owned()),
    }
}

/// Takes one `--security-opt`; both `=` and `:` separate. A profile's path is relative to `cwd`.
pub(crate) fn security_option(security: &mut Security, value: &str, cwd: &Path) -> Parsed<()> {
    let invalid = || Err(format!("invalid --security-opt: {value:?}"));
    let (key, argument) = match value.find(['=', ':']) {
        Some(at) => (&value[..at], Some(&value[at + 1..])),
        None => (value, None),
    };
    match (key, argument) {
        ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
        ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
        ("seccomp", Some("unconfined")) => security.seccomp = SeccompProfile::Unconfined,
        ("seccomp", Some("default" | "builtin")) => security.seccomp = SeccompProfile::Default,
        ("seccomp", Some(path)) if is_text(path) => security.seccomp = SeccompProfile::File(cwd.join(path)),
        ("systempaths", Some("unconfined")) => security.unconfined_system_paths = true,
        ("mask", Some(paths)) if paths.split(':').all(|path| path.starts_with('/') && is_text(path)) => {
            security.mask.extend(paths.split(':').map(str::to_owned));
        }
        ("unmask", Some(paths)) if paths.eq_ignore_ascii_case("all") => security.unmask.push("ALL".to_owned()),
        ("unmask", Some(paths)) if paths.split(':').all(|path| path.starts_with('/') && is_text(path)) => {
            security.unmask.extend(paths.split(':').map(str::to_owned));
        }
        ("proc-opts", Some(options)) => security.proc_options = proc_options(options)?,
        ("label", Some(label)) if is_label(label) => security.label.push(label.to_owned()),
        ("apparmor", Some(profile)) if is_text(profile) => security.apparmor = Some(profile.to_owned()),
        _ => return invalid(),
    }
    Ok(())
}

/// `hidepid=` and `gid=`: what the kernel's proc file system takes.
fn proc_options(options: &str) -> Parsed<Vec<String>> {
    let known = |option: &str| match option.split_once('=') {
        Some(("hidepid", value)) => {
            matches!(value, "0" | "1" | "2" | "4" | "off" | "noaccess" | "invisible" | "ptraceable")
        }
        Some(("gid", value)) => value.parse::<u32>().is_ok(),
        Some(("subset", value)) => value == "pid",
        _ => false,
    };
    match options.split(',').find(|option| !known(option)) {
        Some(option) => Err(format!("invalid option {option:?} for the proc file system")),
        None => Ok(options.split(',').map(str::to_owned).collect()),
    }
}

fn is_label(label: &str) -> bool {
    matches!(label, "disable" | "nested")
        || label.split_once(':').is_some_and(|(part, value)| {
            matches!(part, "user" | "role" | "type" | "level" | "filetype") && is_text(value)
        })
}

fn is_text(value: &str) -> bool {
    !value.is_empty() && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_in_any_case() {
        for (text, expected) in [
            ("NET_ADMIN", "CAP_NET_ADMIN"),
            ("net_admin", "CAP_NET_ADMIN"),
            ("cap_Sys_Admin", "CAP_SYS_ADMIN"),
            ("CAP_CHECKPOINT_RESTORE", "CAP_CHECKPOINT_RESTORE"),
            ("all", "ALL"),
        ] {
            assert_eq!(capability(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "foo", "CAP_", "CAP_ALL", "CAP_CAP_CHOWN", "chown,kill"] {
            assert!(capability(text).is_err(), "{text}");
        }
    }

    #[test]
    fn security_options_take_both_spellings() {
        let take = |values: &[&str]| {
            let mut security = Security::default();
            values
                .iter()
                .try_for_each(|value| security_option(&mut security, value, Path::new("/w")))
                .map(|()| security)
        };
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (values, expected) in [
            (&["no-new-privileges"][..], Security { no_new_privileges: true, ..Security::default() }),
            (&["no-new-privileges:true"], Security { no_new_privileges: true, ..Security::default() }),
            (&["no-new-privileges", "no-new-privileges=false"], Security::default()),
            (&["seccomp=unconfined"], Security { seccomp: SeccompProfile::Unconfined, ..Security::default() }),
            (&["seccomp:unconfined"], Security { seccomp: SeccompProfile::Unconfined, ..Security::default() }),
            (
                &["seccomp=p.json"],
                Security { seccomp: SeccompProfile::File("/w/p.json".into()), ..Security::default() },
            ),
            (&["seccomp=/a:b"], Security { seccomp: SeccompProfile::File("/a:b".into()), ..Security::default() }),
            (
                &["label=disable", "label:type:x_t"],
                Security { label: words(&["disable", "type:x_t"]), ..Security::default() },
            ),
            (&["apparmor=unconfined"], Security { apparmor: Some("unconfined".to_owned()), ..Security::default() }),
            (&["systempaths=unconfined"], Security { unconfined_system_paths: true, ..Security::default() }),
            (
                &["mask=/proc/a:/proc/b", "unmask=ALL"],
                Security { mask: words(&["/proc/a", "/proc/b"]), unmask: words(&["ALL"]), ..Security::default() },
            ),
            (
                &["unmask=/proc/*:/sys/firmware"],
                Security { unmask: words(&["/proc/*", "/sys/firmware"]), ..Security::default() },
            ),
            (
                &["proc-opts=hidepid=2,gid=5"],
                Security { proc_options: words(&["hidepid=2", "gid=5"]), ..Security::default() },
            ),
        ] {
            assert_eq!(take(values), Ok(expected), "{values:?}");
        }
        for value in [
            "",
            "foo",
            "foo=bar",
            "seccomp",
            "seccomp=",
            "label=foo",
            "label",
            "mask=proc",
            "mask=",
            "unmask=",
            "apparmor=",
            "systempaths=x",
            "no-new-privileges=x",
            "proc-opts=mode=1",
            "proc-opts=",
        ] {
            assert!(take(&[value]).is_err(), "{value}");
        }
    }
}
