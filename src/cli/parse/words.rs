//! Options whose value is a word: policies, drivers, signals, masks.

use std::collections::BTreeMap;

use runtime::process::signal::Signal;
use storage::state::request::{LogDriver, PullPolicy, RestartPolicy, Stream};

use super::Parsed;

/// `--pull`.
pub(crate) fn pull_policy(value: &str) -> Parsed<PullPolicy> {
    match value.to_ascii_lowercase().as_str() {
        "missing" | "ifmissing" | "ifnotpresent" => Ok(PullPolicy::Missing),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        "newer" | "ifnewer" => Ok(PullPolicy::Newer),
        _ => Err(format!("unsupported pull policy {value:?}")),
    }
}

/// `--restart`.
pub(crate) fn restart_policy(value: &str) -> Parsed<RestartPolicy> {
    match value.split_once(':').map_or((value, None), |(policy, count)| (policy, Some(count))) {
        ("" | "no" | "never", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", None) => Ok(RestartPolicy::OnFailure { max_retries: None }),
        ("on-failure", Some(count)) if count.bytes().all(|byte| byte.is_ascii_digit()) => match count.parse() {
            Ok(count) => Ok(RestartPolicy::OnFailure { max_retries: Some(count) }),
            Err(_) => Err(format!("{count:?} is not a number of retries")),
        },
        ("on-failure", Some(count)) => Err(format!("{count:?} is not a number of retries")),
        ("no" | "always" | "unless-stopped", Some(_)) => {
            Err("the number of retries can only be used with on-failure".to_owned())
        }
        _ => Err(format!("{value:?} is not a valid restart policy")),
    }
}

/// `--log-driver`.
pub(crate) fn log_driver(value: &str) -> Parsed<LogDriver> {
    match value {
        "k8s-file" => Ok(LogDriver::K8sFile),
        "json-file" => Ok(LogDriver::JsonFile),
        "none" => Ok(LogDriver::None),
        "journald" => Ok(LogDriver::Journald),
        "passthrough" => Ok(LogDriver::Passthrough),
        "passthrough-tty" | "syslog" | "local" | "fluentd" | "gelf" | "awslogs" | "splunk" | "gcplogs" | "etwlogs" => {
            Err("this log driver is not supported: use k8s-file, json-file, journald, passthrough or none".to_owned())
        }
        _ => Err("invalid log driver".to_owned()),
    }
}

/// Options of docker's drivers that are taken with a warning.
const IDLE_LOG_OPTIONS: [&str; 8] =
    ["labels", "labels-regex", "env", "env-regex", "compress", "mode", "max-buffer-size", "cache-disabled"];

/// A line for each option that was given for an effect it does not have.
pub(crate) fn idle_log_options(given: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    let is_idle = |name: &str, value: &str| {
        IDLE_LOG_OPTIONS.contains(&name) && !matches!((name, value), ("compress", "false") | ("mode", "blocking"))
    };
    given
        .iter()
        .filter(move |(name, value)| is_idle(name, value))
        .map(|(name, _)| format!("Warning: --log-opt {name} is ignored: logs have max-size, max-file, path and tag"))
}

/// `--log-opt name=value`.
pub(crate) fn log_option(value: &str) -> Parsed<(String, String)> {
    let (name, argument) = value.split_once('=').ok_or("must be in the form of NAME=VALUE")?;
    let valid = match name {
        "max-size" => argument == "-1" || super::size::bytes(argument).is_ok(),
        "max-file" => argument.parse::<u32>().is_ok_and(|files| files > 0),
        "path" => argument.starts_with('/') && !argument.contains('\0'),
        "tag" => !argument.contains(char::is_control),
        name if IDLE_LOG_OPTIONS.contains(&name) => true,
        _ => return Err(format!("unknown log option {name:?}: must be max-size, max-file, path or tag")),
    };
    if valid { Ok((name.to_owned(), argument.to_owned())) } else { Err(format!("invalid value for {name}")) }
}

/// `--attach`.
pub(crate) fn stream(value: &str) -> Parsed<Stream> {
    match value.to_ascii_lowercase().as_str() {
        "stdin" => Ok(Stream::Stdin),
        "stdout" => Ok(Stream::Stdout),
        "stderr" => Ok(Stream::Stderr),
        _ => Err(format!("invalid stream {value:?} for --attach - must be one of stdin, stdout, or stderr")),
    }
}

/// `--umask`: octal permission bits.
pub(crate) fn umask(value: &str) -> Parsed<u32> {
    let octal = !value.is_empty() && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let bits = u32::from_str_radix(value, 8).ok().filter(|bits| octal && *bits <= 0o777);
    bits.ok_or_else(|| format!("invalid umask string {value}"))
}

/// `--stop-signal`: a name with or without `SIG`, in any case, or a number; canonical is the name.
pub(crate) fn signal(value: &str) -> Parsed<String> {
    value.parse::<Signal>().map(|signal| signal.to_string()).map_err(|error| error.to_string())
}

/// `--tz`: `local`, or a name below the zone directory.
pub(crate) fn time_zone(value: &str) -> Parsed<String> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '.'))
    };
    if value.split('/').all(part) { Ok(value.to_owned()) } else { Err(format!("unknown time zone {value}")) }
}

/// `--platform`: `os[/arch[/variant]]`.
pub(crate) fn platform(value: &str) -> Parsed<String> {
    let lower = value.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let word = |part: &&str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    match parts.as_slice() {
        [os, ..] if parts.len() <= 3 && parts.iter().all(word) => match *os {
            "linux" => Ok(lower),
            _ if parts.len() == 1 => Err(format!("{value:?} is not of the form linux/arch[/variant]")),
            _ => Err(format!("containers of {os} do not run on linux")),
        },
        _ => Err(format!("{value:?} is not of the form os/arch[/variant]")),
    }
}

/// `--oom-score-adj`.
pub(crate) fn oom_score(value: &str) -> Parsed<i32> {
    let score = value.parse().ok().filter(|score| (-1000..=1000).contains(score));
    score.ok_or_else(|| "must be between -1000 and 1000".to_owned())
}

/// A list of CPUs or memory nodes, `0-3,5`.
pub(crate) fn cpuset(value: &str) -> Parsed<String> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    if value.split(',').all(range) { Ok(value.to_owned()) } else { Err("must be a list such as 0-3,5".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_become_their_names() {
        for (text, expected) in [
            ("TERM", "SIGTERM"),
            ("SIGTERM", "SIGTERM"),
            ("sigquit", "SIGQUIT"),
            ("9", "SIGKILL"),
            ("3", "SIGQUIT"),
            ("RTMIN", "SIGRTMIN"),
            ("SIGRTMIN+3", "SIGRTMIN+3"),
            ("37", "SIGRTMIN+3"),
            ("RTMAX", "SIGRTMAX"),
            ("RTMAX-1", "SIGRTMIN+29"),
            ("WINCH", "SIGWINCH"),
        ] {
            assert_eq!(signal(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "FOO", "0", "65", "-1", "SIGSIGTERM", "RTMIN-1", "RTMAX+1", "RTMIN+31"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn restart_policies_take_a_number_only_on_failure() {
        for (text, expected) in [
            ("", RestartPolicy::No),
            ("no", RestartPolicy::No),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure { max_retries: None }),
            ("on-failure:3", RestartPolicy::OnFailure { max_retries: Some(3) }),
        ] {
            assert_eq!(restart_policy(text), Ok(expected), "{text}");
        }
        for text in ["foo", "always:3", "on-failure:", "on-failure:x", "on-failure:-1"] {
            assert!(restart_policy(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_word_options_know_their_words() {
        assert_eq!(pull_policy("Always"), Ok(PullPolicy::Always));
        assert!(pull_policy("foo").is_err());
        assert_eq!(log_driver("json-file"), Ok(LogDriver::JsonFile));
        assert!(log_driver("syslog").unwrap_err().contains("k8s-file"));
        assert!(log_option("max-size=10mb").is_ok());
        let idle = [("max-size", "1k"), ("compress", "false"), ("mode", "non-blocking"), ("labels", "a,b")];
        let idle = BTreeMap::from(idle.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(idle_log_options(&idle).count(), 2);
        for text in ["max-size", "max-size=x", "max-file=0", "path=x", "foo=1"] {
            assert!(log_option(text).is_err(), "{text}");
        }
        assert_eq!(stream("STDOUT"), Ok(Stream::Stdout));
        assert!(stream("x").is_err());
        assert_eq!((umask("0022"), umask("77")), (Ok(0o22), Ok(0o77)));
        for text in ["", "999", "01000", "-1", "+7", "0o22"] {
            assert!(umask(text).is_err(), "{text}");
        }
        assert!(oom_score("-1000").is_ok());
        assert!(oom_score("1001").is_err());
        for text in ["0", "0-3", "0-3,5"] {
            assert!(cpuset(text).is_ok(), "{text}");
        }
        for text in ["", "x", "3-0", "0-", ",", "-1"] {
            assert!(cpuset(text).is_err(), "{text}");
        }
        for text in ["UTC", "Europe/Berlin", "Etc/GMT+5", "local"] {
            assert!(time_zone(text).is_ok(), "{text}");
        }
        for text in ["", "/etc/passwd", "../x", "a//b", "Europe/../..", "."] {
            assert!(time_zone(text).is_err(), "{text}");
        }
        for text in ["linux", "linux/amd64", "linux/arm/v7", "Linux/ARM64"] {
            assert!(platform(text).is_ok(), "{text}");
        }
        for text in ["", "foo", "windows/amd64", "linux/", "a/b/c/d", "linux/a b"] {
            assert!(platform(text).is_err(), "{text}");
        }
    }
}
