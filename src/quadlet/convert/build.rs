//! `.build`: `build`.

use std::path::Path;

use super::command::Rule;
use super::{Making, is_url};

pub(super) const RULES: &[Rule] = &[
    Rule::One("Arch", "--arch"),
    Rule::One("AuthFile", "--authfile"),
    Rule::One("Target", "--target"),
    Rule::One("Variant", "--variant"),
    Rule::One("Retry", "--retry"),
    Rule::One("RetryDelay", "--retry-delay"),
    Rule::Bool("TLSVerify", "--tls-verify"),
    Rule::Bool("ForceRM", "--force-rm"),
    Rule::Every("DNS", "--dns"),
    Rule::Every("DNSOption", "--dns-option"),
    Rule::Every("DNSSearch", "--dns-search"),
    Rule::Every("GroupAdd", "--group-add"),
    Rule::Every("ImageTag", "--tag"),
    Rule::Pairs("Environment", "--env"),
    Rule::Pairs("Label", "--label"),
    Rule::Pairs("Annotation", "--annotation"),
    Rule::Pairs("BuildArg", "--build-arg"),
    Rule::Words("Secret", "--secret"),
];

pub(super) const KEYS: &[&str] = &["File", "IgnoreFile", "Network", "Pull", "SetWorkingDirectory", "Volume"];

impl Making<'_> {
    pub(super) fn build(&mut self) -> Result<(), String> {
        if self.source.resource().is_empty() {
            return Err("no ImageTag key specified".to_owned());
        }
        let mut build = self.command(&["build"])?;
        if let Some(policy) = self.filled("Pull") {
            build.add([format!("--pull={policy}")]);
        }
        self.apply_rules(&mut build)?;
        self.add_networks(&mut build)?;
        self.add_volumes(&mut build)?;
        if let Some(file) = self.filled("IgnoreFile") {
            build.add(["--ignorefile", &self.source.absolute(file)]);
        }
        let context = self.working_directory()?;
        let directory = self.service.filled("Service", "WorkingDirectory").map(str::to_owned);
        let file = self.filled("File").map(str::to_owned);
        if context.is_none() && directory.is_none() && file.is_none() {
            return Err("neither SetWorkingDirectory, nor File key specified".to_owned());
        }
        if let Some(file) = &file {
            build.add(["--file", file]);
        }
        self.add_arguments(&mut build)?;
        let is_elsewhere = |file: &String| Path::new(file).is_absolute() || is_url(file);
        match (context, directory) {
            (Some(context), _) => build.add([context]),
            // The file says enough.
            _ if file.as_ref().is_some_and(is_elsewhere) => {}
            (None, Some(directory)) => build.add([directory]),
            (None, None) => {
                return Err("relative path in File key requires SetWorkingDirectory key to be set".to_owned());
            }
        }
        self.execute("ExecStart", &build);
        self.add_oneshot(false);
        Ok(())
    }
}
