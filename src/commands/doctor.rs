//! `coracle doctor`: what this host lacks, each with the command that mends it.
//!
//! ```text
//! probes (try it on this host) → findings → report (pure) → table or JSON, exit status
//! ```

mod probes;

use std::io::Write;

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::cli::printable::Printable;
use crate::error::{CommandError, reason};

const EXAMPLES: &str = r#"Examples:
  coracle doctor"#;

/// Check what this host lacks, and how to mend it
///
/// Exits with 1 if a container with the default options could not run.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print the report as JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    format: Option<String>,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It works; a word about how.
    Ok(String),
    /// Something works less well without it.
    Degraded {
        /// What is not as it could be.
        why: String,
        /// The command or the file that changes that.
        mend: String,
    },
    /// A container with the default options cannot run without it.
    Missing {
        /// What is not there.
        why: String,
        /// The command or the file that changes that.
        mend: String,
    },
}

/// One thing that is tried on this host.
pub(crate) trait Probe {
    /// Its name in the report.
    fn what(&self) -> &'static str;
    /// Tries it.
    fn probe(&self) -> Finding;
}

/// What was found, in the order in which a container needs it.
struct Report {
    findings: Vec<(&'static str, Finding)>,
}

/// Runs `coracle doctor`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let probes = probes::all(context);
    let report = Report { findings: probes.iter().map(|probe| (probe.what(), probe.probe())).collect() };
    let text = if args.format.is_some() { report.to_json().to_string() } else { report.to_table() };
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CommandError::host(reason(&error))),
        _ => Ok(u8::from(!report.is_fit())),
    }
}

impl Report {
    /// Can a container with the default options run?
    fn is_fit(&self) -> bool {
        !self.findings.iter().any(|(_, finding)| matches!(finding, Finding::Missing { .. }))
    }

    fn to_table(&self) -> String {
        let width = self.findings.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
        let line = |(what, finding): &(&str, Finding)| {
            let (state, why, mend) = finding.parts();
            let mend = mend.map(|mend| format!("  — mend: {mend}")).unwrap_or_default();
            // Paths and messages may come from the environment.
            Printable::line(&format!("{state:<8}  {what:<width$}  {why}{mend}")).to_string()
        };
        self.findings.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn to_json(&self) -> Value {
        let check = |(what, finding): &(&str, Finding)| {
            let (state, detail, mend) = finding.parts();
            json!({"what": what, "state": state, "detail": detail, "mend": mend})
        };
        json!({"fit": self.is_fit(), "checks": self.findings.iter().map(check).collect::<Vec<_>>()})
    }
}

impl Finding {
    fn ok(how: impl Into<String>) -> Self {
        Self::Ok(how.into())
    }

    fn degraded(why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Degraded { why: why.into(), mend: mend.into() }
    }

    fn missing(why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Missing { why: why.into(), mend: mend.into() }
    }

    /// State, reason, remedy.
    fn parts(&self) -> (&'static str, &str, Option<&str>) {
        match self {
            Self::Ok(how) => ("ok", how, None),
            Self::Degraded { why, mend } => ("degraded", why, Some(mend)),
            Self::Missing { why, mend } => ("missing", why, Some(mend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let findings = vec![
            ("kernel", Finding::ok("6.1")),
            ("user namespaces", Finding::missing("not allowed", "sudo sysctl -w x=1")),
            ("lingering", Finding::degraded("off", "loginctl enable-linger")),
        ];
        Report { findings }
    }

    #[test]
    fn table_aligns_and_names_the_remedy() {
        let expected = "ok        kernel           6.1\n\
                        missing   user namespaces  not allowed  — mend: sudo sysctl -w x=1\n\
                        degraded  lingering        off  — mend: loginctl enable-linger";
        assert_eq!(report().to_table(), expected);
    }

    #[test]
    fn json_has_a_null_remedy_for_what_works() {
        let value = report().to_json();
        assert_eq!(value["fit"], false);
        assert_eq!(value["checks"][0], json!({"what": "kernel", "state": "ok", "detail": "6.1", "mend": null}));
    }

    #[test]
    fn what_is_only_degraded_does_not_fail() {
        let mut report = report();
        assert!(!report.is_fit());
        report.findings.remove(1);
        assert!(report.is_fit());
    }
}
