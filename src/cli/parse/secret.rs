//! `--secret NAME[,type=mount|env,target=…,uid=…,gid=…,mode=…]`.

use storage::state::request::{SecretKind, SecretUse};

use super::Parsed;

/// One `--secret`.
pub(crate) fn secret(value: &str) -> Parsed<SecretUse> {
    let mut fields = value.split(',');
    let first = fields.next().unwrap_or_default();
    let mut name = (!first.contains('=')).then(|| first.to_owned());
    let rest = if name.is_some() { fields } else { value.split(',') };
    let (mut kind, mut target, mut uid, mut gid, mut mode) = ("mount", None, None, None, None);
    for field in rest {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let number = || value.parse::<u32>().map_err(|_| format!("option {field} invalid: not a number"));
        match key {
            "source" | "id" if name.is_none() => name = Some(value.to_owned()),
            "type" if matches!(value, "mount" | "env") => kind = value,
            "type" => return Err(format!("type {value} is invalid: must be mount or env")),
            "target" if !value.is_empty() && !value.contains('\0') => target = Some(value.to_owned()),
            "uid" => uid = Some(number()?),
            "gid" => gid = Some(number()?),
            "mode" => {
                let bits = u32::from_str_radix(value, 8).ok().filter(|bits| *bits <= 0o7777);
                mode = Some(bits.ok_or_else(|| format!("mode {value} invalid: not an octal number"))?);
            }
            _ => return Err(format!("option {field} invalid: parsing secret")),
        }
    }
    let name = name.filter(|name| !name.is_empty()).ok_or("no source found: parsing secret")?;
    let kind = match kind {
        "env" if (uid, gid, mode) != (None, None, None) => {
            return Err("UID, GID, Mode options cannot be set with secret type env".to_owned());
        }
        "env" => {
            let variable = target.unwrap_or_else(|| name.clone());
            if variable.contains('=') {
                return Err(format!("target {variable}: not a name of a variable"));
            }
            SecretKind::Env { variable }
        }
        _ => {
            let target = target.unwrap_or_else(|| name.clone());
            let target = super::mount_flags::clean(&std::path::Path::new("/run/secrets").join(target));
            SecretKind::Mount { target, uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), mode: mode.unwrap_or(0o444) }
        }
    };
    Ok(SecretUse { name, key: None, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_secret_is_read() {
        let mount = |target: &str, uid, gid, mode| SecretUse {
            key: None,
            name: "s".to_owned(),
            kind: SecretKind::Mount { target: target.into(), uid, gid, mode },
        };
        let env = |variable: &str| SecretUse {
            key: None,
            name: "s".to_owned(),
            kind: SecretKind::Env { variable: variable.to_owned() },
        };
        for (text, expected) in [
            ("s", mount("/run/secrets/s", 0, 0, 0o444)),
            ("s,target=t", mount("/run/secrets/t", 0, 0, 0o444)),
            ("source=s,target=/etc/x,uid=3,gid=4,mode=0400", mount("/etc/x", 3, 4, 0o400)),
            ("s,target=../../up", mount("/up", 0, 0, 0o444)),
            ("s,type=env", env("s")),
            ("s,type=env,target=V", env("V")),
        ] {
            assert_eq!(secret(text), Ok(expected), "{text}");
        }
        for text in ["", "type=env", "s,colour=red", "s,type=x", "s,uid=x", "s,mode=9", "s,type=env,uid=1", "s,target="]
        {
            assert!(secret(text).is_err(), "{text}");
        }
    }
}
