//! How a container's health is found out.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use storage::state::request::{HealthAction, HealthLog, Healthcheck, StartupCheck};

use crate::cli::parse::duration::go_duration;
use crate::cli::usage::{Checked, InvalidOption, maybe};

/// podman's and docker's default interval and timeout.
const THIRTY_SECONDS: Duration = Duration::from_secs(30);

/// Options of the health check. Their aliases are older names, which podman-compose 1.0 uses.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct HealthOptions {
    /// Command that finds out whether the container is healthy; none for no check
    #[arg(long, alias = "healthcheck-command", value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Time between two checks, or disable for none but those asked for [default: 30s]
    #[arg(long, alias = "healthcheck-interval", value_name = "DURATION")]
    pub(crate) health_interval: Option<String>,
    /// Time after which a check has failed [default: 30s]
    #[arg(long, alias = "healthcheck-timeout", value_name = "DURATION")]
    pub(crate) health_timeout: Option<String>,
    /// Failures in a row that make the container unhealthy [default: 3]
    #[arg(long, alias = "healthcheck-retries", value_name = "NUMBER")]
    pub(crate) health_retries: Option<String>,
    /// Time after the start during which failures do not count [default: 0s]
    #[arg(long, alias = "healthcheck-start-period", value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) health_start_period: Option<String>,
    /// Time between two checks during the start period [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_start_interval: Option<String>,
    /// What to do with an unhealthy container: none, kill, restart or stop
    #[arg(long, value_name = "ACTION")]
    pub(crate) health_on_failure: Option<String>,
    /// How many results are kept, 0 for all [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_max_log_count: Option<String>,
    /// How many bytes of a check's output are kept, 0 for all [default: 500]
    #[arg(long, value_name = "BYTES")]
    pub(crate) health_max_log_size: Option<String>,
    /// Where results are kept besides: a directory, local for nowhere, or events_logger
    #[arg(long, value_name = "DESTINATION")]
    pub(crate) health_log_destination: Option<String>,
    /// Command that is the check until it succeeds
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_startup_cmd: Option<String>,
    /// Time between two checks with the startup command [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_startup_interval: Option<String>,
    /// Time after which one has failed [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_startup_timeout: Option<String>,
    /// Failures with the startup command after which the container is restarted, 0 for never [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_startup_retries: Option<String>,
    /// Successes in a row that it takes [default: 1]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) health_startup_success: Option<String>,
    /// No health check, whatever the image has
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
}

impl HealthOptions {
    /// Whether anything is asked for.
    pub(crate) fn is_given(&self) -> bool {
        let texts = [
            &self.health_cmd,
            &self.health_interval,
            &self.health_timeout,
            &self.health_retries,
            &self.health_start_period,
            &self.health_start_interval,
            &self.health_on_failure,
            &self.health_max_log_count,
            &self.health_max_log_size,
            &self.health_log_destination,
            &self.health_startup_cmd,
            &self.health_startup_interval,
            &self.health_startup_timeout,
            &self.health_startup_retries,
            &self.health_startup_success,
        ];
        self.no_healthcheck || texts.iter().any(|text| text.is_some())
    }

    /// Checks every value; what is absent was not asked for.
    pub(crate) fn ask(&self) -> Checked<Healthcheck> {
        if self.no_healthcheck && self.health_cmd.is_some() {
            return Err(InvalidOption {
                flag: "--no-healthcheck",
                value: "true".to_owned(),
                reason: "cannot specify both --no-healthcheck and --health-cmd".to_owned(),
            });
        }
        let test = match (&self.health_cmd, self.no_healthcheck) {
            (_, true) => vec!["NONE".to_owned()],
            (Some(text), false) => maybe("--health-cmd", Some(text), test)?.unwrap_or_default(),
            (None, false) => Vec::new(),
        };
        let retries = |text: &str| match number(text)? {
            0 => Err("must be greater than 0".to_owned()),
            number => Ok(number),
        };
        Ok(Healthcheck {
            test,
            interval: maybe("--health-interval", self.health_interval.as_ref(), interval)?,
            timeout: maybe("--health-timeout", self.health_timeout.as_ref(), timeout)?,
            start_period: maybe("--health-start-period", self.health_start_period.as_ref(), duration)?,
            start_interval: maybe("--health-start-interval", self.health_start_interval.as_ref(), duration)?,
            retries: maybe("--health-retries", self.health_retries.as_ref(), retries)?,
            on_failure: maybe("--health-on-failure", self.health_on_failure.as_ref(), action)?.unwrap_or_default(),
            max_log_count: maybe("--health-max-log-count", self.health_max_log_count.as_ref(), number)?,
            max_log_size: maybe("--health-max-log-size", self.health_max_log_size.as_ref(), number)?,
            log: maybe("--health-log-destination", self.health_log_destination.as_ref(), log)?.unwrap_or_default(),
            startup: self.ask_startup()?,
        })
    }

    /// The check of the start; one without a command changes what there is below it.
    fn ask_startup(&self) -> Checked<Option<StartupCheck>> {
        let asked = StartupCheck {
            test: maybe("--health-startup-cmd", self.health_startup_cmd.as_ref(), test)?.unwrap_or_default(),
            interval: maybe("--health-startup-interval", self.health_startup_interval.as_ref(), interval)?,
            timeout: maybe("--health-startup-timeout", self.health_startup_timeout.as_ref(), timeout)?,
            retries: maybe("--health-startup-retries", self.health_startup_retries.as_ref(), number)?,
            successes: maybe("--health-startup-success", self.health_startup_success.as_ref(), number)?,
        };
        Ok((asked != StartupCheck::default()).then_some(asked))
    }
}

/// What was asked for over what there is below it: the image's, or the container's own.
///
/// # Errors
/// An action without a check.
pub(crate) fn merge(asked: Healthcheck, below: Option<Healthcheck>) -> Checked<Option<Healthcheck>> {
    if asked.test.first().is_some_and(|first| first == "NONE") {
        return Ok(Some(Healthcheck { test: asked.test, ..Healthcheck::default() }));
    }
    let below = below.unwrap_or_default();
    let test = if asked.test.is_empty() { below.test } else { asked.test };
    let on_failure = if asked.on_failure == HealthAction::None { below.on_failure } else { asked.on_failure };
    let merged = Healthcheck {
        test,
        interval: asked.interval.or(below.interval).or(Some(THIRTY_SECONDS)),
        timeout: asked.timeout.or(below.timeout.filter(|time| !time.is_zero())).or(Some(THIRTY_SECONDS)),
        start_period: asked.start_period.or(below.start_period),
        start_interval: asked.start_interval.or(below.start_interval),
        retries: asked.retries.or(below.retries.filter(|count| *count > 0)).or(Some(3)),
        on_failure,
        max_log_count: asked.max_log_count.or(below.max_log_count),
        max_log_size: asked.max_log_size.or(below.max_log_size),
        log: if asked.log == HealthLog::Local { below.log } else { asked.log },
        startup: merge_startup(asked.startup, below.startup),
    };
    if merged.test.is_empty() && merged.startup.is_some() {
        return Err(InvalidOption {
            flag: "--health-startup-cmd",
            value: String::new(),
            reason: "cannot set a startup healthcheck when there is no regular healthcheck".to_owned(),
        });
    }
    match (merged.test.is_empty(), merged.on_failure) {
        (false, _) => Ok(Some(merged)),
        (true, HealthAction::None) => Ok(None),
        (true, action) => Err(InvalidOption {
            flag: "--health-on-failure",
            value: action.as_str().to_owned(),
            reason: format!("cannot set on-failure action to {} without a health check", action.as_str()),
        }),
    }
}

/// As [`merge`], of the check of the start: without a command there is none, and `none` takes it away.
fn merge_startup(asked: Option<StartupCheck>, below: Option<StartupCheck>) -> Option<StartupCheck> {
    let (asked, below) = (asked.unwrap_or_default(), below.unwrap_or_default());
    let merged = StartupCheck {
        test: if asked.test.is_empty() { below.test } else { asked.test },
        interval: asked.interval.or(below.interval).or(Some(THIRTY_SECONDS)),
        timeout: asked.timeout.or(below.timeout).or(Some(THIRTY_SECONDS)),
        retries: asked.retries.or(below.retries),
        successes: asked.successes.or(below.successes),
    };
    merged.test.first().is_some_and(|first| first != "NONE").then_some(merged)
}

/// The check of an image, from the bytes of its configuration: OCI does not know of it.
pub(crate) fn of_image(raw_config: &[u8]) -> Option<Healthcheck> {
    #[derive(Deserialize)]
    struct Raw {
        config: Option<RawConfig>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct RawConfig {
        healthcheck: Option<RawCheck>,
    }
    /// Times are nanoseconds, 0 for the default.
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct RawCheck {
        test: Option<Vec<String>>,
        interval: u64,
        timeout: u64,
        start_period: u64,
        start_interval: u64,
        retries: u32,
    }
    let raw: Raw = serde_json::from_slice(raw_config).ok()?;
    let check = raw.config?.healthcheck?;
    let time = |nanoseconds: u64| (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds));
    Some(Healthcheck {
        test: check.test.unwrap_or_default(),
        interval: time(check.interval),
        timeout: time(check.timeout),
        start_period: time(check.start_period),
        start_interval: time(check.start_interval),
        retries: (check.retries > 0).then_some(check.retries),
        ..Healthcheck::default()
    })
    .filter(|check| !check.test.is_empty())
}

/// A list in JSON, a list of words that says what it is, or text for the container's shell.
fn test(text: &str) -> Result<Vec<String>, String> {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if text.trim().is_empty() {
        return Err("must define a healthcheck command".to_owned());
    }
    if text.eq_ignore_ascii_case("none") {
        return Ok(owned(&["NONE"]));
    }
    if let Ok(list) = serde_json::from_str::<Vec<String>>(text) {
        return match list.first().map(String::as_str) {
            None => Err("must define a healthcheck command".to_owned()),
            Some("CMD" | "CMD-SHELL" | "NONE") => Ok(list),
            Some(_) => Ok([owned(&["CMD"]), list].concat()),
        };
    }
    Ok(match text.split_once(' ') {
        Some(("CMD", rest)) => [owned(&["CMD"]), rest.split_whitespace().map(str::to_owned).collect()].concat(),
        Some(("CMD-SHELL", rest)) => owned(&["CMD-SHELL", rest]),
        _ => owned(&["CMD-SHELL", text]),
    })
}

fn number(text: &str) -> Result<u32, String> {
    text.parse::<u32>().map_err(|_| "must be a number".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    if text == "disable" { Ok(Duration::ZERO) } else { duration(text) }
}

/// `local`, `events_logger`, or a directory that there is.
fn log(text: &str) -> Result<HealthLog, String> {
    match text {
        "" | "local" => Ok(HealthLog::Local),
        "events_logger" => Ok(HealthLog::Events),
        path => {
            let directory = std::path::absolute(path).map_err(|error| crate::error::reason(&error).to_string())?;
            match std::fs::metadata(&directory) {
                Ok(found) if found.is_dir() => Ok(HealthLog::Directory(directory)),
                Ok(_) => Err("is not a directory".to_owned()),
                Err(error) => Err(crate::error::reason(&error).to_string()),
            }
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.starts_with('-') {
        return Err("must be 0 seconds or greater".to_owned());
    }
    go_duration(text).ok_or_else(|| format!("invalid duration {text:?}"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| match time.is_zero() {
        true => Err("must be greater than 0 seconds".to_owned()),
        false => Ok(time),
    })
}

fn action(text: &str) -> Result<HealthAction, String> {
    match text {
        "" | "none" => Ok(HealthAction::None),
        "kill" => Ok(HealthAction::Kill),
        "restart" => Ok(HealthAction::Restart),
        "stop" => Ok(HealthAction::Stop),
        _ => Err("supported actions are none,kill,restart,stop".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_lists_or_shell_text() {
        for (text, expected) in [
            ("curl -f localhost", &["CMD-SHELL", "curl -f localhost"][..]),
            ("none", &["NONE"]),
            (r#"["CMD", "a", "b c"]"#, &["CMD", "a", "b c"]),
            (r#"["a", "b"]"#, &["CMD", "a", "b"]),
            ("[true]", &["CMD-SHELL", "[true]"]),
            ("CMD a  b", &["CMD", "a", "b"]),
            ("CMD-SHELL a  b", &["CMD-SHELL", "a  b"]),
        ] {
            assert_eq!(test(text).unwrap(), expected, "{text}");
        }
        assert!(test(" ").is_err() && test("[]").is_err());
    }

    #[test]
    fn options_stand_over_the_image_and_none_takes_it_away() {
        let image = of_image(
            br#"{"config":{"Healthcheck":{"Test":["CMD","x"],"Interval":5000000000,"Retries":7,"StartPeriod":0}}}"#,
        );
        let options = HealthOptions { health_retries: Some("2".to_owned()), ..HealthOptions::default() };
        let merged = merge(options.ask().unwrap(), image.clone()).unwrap().unwrap();
        assert_eq!(merged.test, ["CMD", "x"]);
        assert_eq!((merged.interval, merged.retries), (Some(Duration::from_secs(5)), Some(2)));
        assert_eq!((merged.timeout, merged.start_period), (Some(THIRTY_SECONDS), None));
        let none = HealthOptions { no_healthcheck: true, ..HealthOptions::default() };
        let merged = merge(none.ask().unwrap(), image).unwrap().unwrap();
        assert!(!merged.is_on());
        assert_eq!(merge(HealthOptions::default().ask().unwrap(), None).unwrap(), None);
        let action = HealthOptions { health_on_failure: Some("kill".to_owned()), ..HealthOptions::default() };
        assert!(merge(action.ask().unwrap(), None).is_err());
        assert_eq!(of_image(b"{}"), None);
    }

    #[test]
    fn the_start_has_a_check_of_its_own_over_a_regular_one() {
        let startup = HealthOptions {
            health_startup_cmd: Some("test -e /ok".to_owned()),
            health_startup_success: Some("2".to_owned()),
            ..HealthOptions::default()
        };
        assert!(merge(startup.ask().unwrap(), None).is_err());
        let both = HealthOptions { health_cmd: Some("true".to_owned()), ..startup };
        let merged = merge(both.ask().unwrap(), None).unwrap().unwrap();
        let check = merged.startup.clone().unwrap();
        assert_eq!((check.test.join(" ").as_str(), check.successes), ("CMD-SHELL test -e /ok", Some(2)));
        assert_eq!((check.interval, check.retries), (Some(THIRTY_SECONDS), None));
        let none = HealthOptions { health_startup_cmd: Some("none".to_owned()), ..HealthOptions::default() };
        assert_eq!(merge(none.ask().unwrap(), Some(merged)).unwrap().unwrap().startup, None);
        let only_times =
            HealthOptions { health_startup_interval: Some("1s".to_owned()), health_cmd: both.health_cmd, ..none };
        assert_eq!(merge(only_times.ask().unwrap(), None).unwrap().unwrap().startup, None);
    }

    #[test]
    fn results_go_to_a_directory_that_is_there() {
        assert_eq!(log("local"), Ok(HealthLog::Local));
        assert_eq!(log("events_logger"), Ok(HealthLog::Events));
        assert_eq!(log("/"), Ok(HealthLog::Directory("/".into())));
        assert_eq!(log("/nonexistent/x"), Err("no such file or directory".to_owned()));
        assert!(log("/dev/null").is_err());
    }
}
