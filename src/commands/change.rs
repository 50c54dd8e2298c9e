//! `--change` of `commit` and `import`: instructions of a Dockerfile that change the configuration only.
//!
//! # Source
//! docker-commit(1), podman-commit(1), podman-import(1).

use oci_spec::image::Config;
use serde_json::{Map, Value, json};

use crate::build::containerfile::{Instruction, Step, parse_step};
use crate::cli::parse;

/// The configuration, and what OCI's has no place for.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// What OCI specifies.
    pub(crate) config: Config,
    on_build: Vec<String>,
    healthcheck: Option<Value>,
    has_cmd: bool,
}

impl Changed {
    /// Changes are to be applied to this.
    pub(crate) fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// The members of `config` that OCI has no place for, `OnBuild` and `Healthcheck`, as far as they were changed.
    pub(crate) fn beyond_oci(&self) -> Map<String, Value> {
        let triggers = (!self.on_build.is_empty()).then(|| ("OnBuild".to_owned(), json!(self.on_build)));
        let check = self.healthcheck.clone().map(|check| ("Healthcheck".to_owned(), check));
        triggers.into_iter().chain(check).collect()
    }

    /// Applies one instruction.
    pub(crate) fn apply(&mut self, change: &str) -> Result<(), String> {
        let change = change.trim();
        let (instruction, value) = change
            .split_once(|c: char| c.is_whitespace() || c == '=')
            .map_or((change, ""), |(name, value)| (name, value.trim()));
        let instruction = instruction.to_uppercase();
        let config = &mut self.config;
        let needs_value = || match value {
            "" => Err(format!("{instruction} requires at least one argument")),
            value => Ok(value),
        };
        match instruction.as_str() {
            "CMD" => {
                config.set_cmd(Some(command(value)));
                self.has_cmd = true;
            }
            "ENTRYPOINT" => {
                config.set_entrypoint(Some(command(value)));
                // The command was made for the other one.
                if !self.has_cmd {
                    config.set_cmd(None);
                }
            }
            "ENV" => {
                let mut env = config.env().clone().unwrap_or_default();
                for (name, text) in pairs(&instruction, needs_value()?)? {
                    env.retain(|other| other.split('=').next() != Some(name.as_str()));
                    env.push(format!("{name}={text}"));
                }
                config.set_env(Some(env));
            }
            "EXPOSE" => {
                let mut ports = config.exposed_ports().clone().unwrap_or_default();
                for port in needs_value()?.split_whitespace() {
                    let port = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                    if !ports.contains(&port) {
                        ports.push(port);
                    }
                }
                config.set_exposed_ports(Some(ports));
            }
            "LABEL" => {
                let mut labels = config.labels().clone().unwrap_or_default();
                labels.extend(pairs(&instruction, needs_value()?)?);
                config.set_labels(Some(labels));
            }
            "HEALTHCHECK" => match parse_step(change, '\\') {
                Ok(Step { instruction: Instruction::Healthcheck(check), .. }) => {
                    self.healthcheck = Some(check.to_config());
                }
                Ok(_) => return Err(format!("did not understand change instruction {change:?}")),
                Err(error) => return Err(error.to_string()),
            },
            "ONBUILD" => self.on_build.push(needs_value()?.to_owned()),
            "STOPSIGNAL" => {
                parse::words::signal(needs_value()?).map_err(|_| format!("Invalid signal: {value}"))?;
                config.set_stop_signal(Some(value.to_owned()));
            }
            "USER" => {
                config.set_user(Some(needs_value()?.to_owned()));
            }
            "VOLUME" => {
                let mut volumes = config.volumes().clone().unwrap_or_default();
                let more =
                    list(needs_value()?).unwrap_or_else(|| value.split_whitespace().map(str::to_owned).collect());
                volumes.extend(more.into_iter().filter(|path| !volumes.contains(path)).collect::<Vec<_>>());
                config.set_volumes(Some(volumes));
            }
            "WORKDIR" => {
                let absolute = std::path::Path::new("/").join(needs_value()?);
                config.set_working_dir(Some(absolute.display().to_string()));
            }
            _ => return Err(format!("did not understand change instruction {change:?}")),
        }
        Ok(())
    }
}

/// The exec form as it is, the shell form wrapped.
fn command(value: &str) -> Vec<String> {
    list(value).unwrap_or_else(|| {
        let shell = ["/bin/sh", "-c"].into_iter().map(str::to_owned);
        shell.chain((!value.is_empty()).then(|| value.to_owned())).collect()
    })
}

fn list(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

/// `NAME=VALUE ...`, quoted where a space is meant; or the old form, `NAME VALUE`.
fn pairs(instruction: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text);
    match words.split_first() {
        Some((name, rest)) if !name.contains('=') => match rest {
            [] => Err(format!("{instruction} must have two arguments")),
            _ => Ok(vec![(name.clone(), rest.join(" "))]),
        },
        _ => words
            .iter()
            .map(|word| {
                let (name, value) = word.split_once('=').ok_or_else(|| {
                    format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")
                })?;
                Ok((name.to_owned(), value.to_owned()))
            })
            .collect(),
    }
}

/// Words as a Dockerfile has them: quotes of both kinds and backslashes.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_a_dockerfile_has_them() {
        let mut changed = Changed::default();
        let changes = [
            "CMD [\"/bin/sh\", \"-l\"]",
            "env A=1",
            "ENV A 2",
            "ENV B=\"b c\" C=d\\ e",
            "EXPOSE 80 53/udp",
            "EXPOSE 80",
            "LABEL a=\"b c\" \"d e\"='f g'",
            "CMD=[\"x\"]",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=30s --retries=2 CMD [\"true\"]",
            "STOPSIGNAL 9",
            "VOLUME /x /y",
            "VOLUME [\"/z\"]",
            "WORKDIR w",
        ];
        for change in changes {
            changed.apply(change).expect(change);
        }
        let config = &changed.config;
        let strings = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        assert_eq!(strings(config.cmd()), ["x"]);
        assert_eq!(strings(config.env()), ["A=2", "B=b c", "C=d e"]);
        assert_eq!(strings(config.exposed_ports()), ["80/tcp", "53/udp"]);
        assert_eq!(strings(config.volumes()), ["/x", "/y", "/z"]);
        assert_eq!((config.working_dir().as_deref(), config.stop_signal().as_deref()), (Some("/w"), Some("9")));
        let label = |name| config.labels().as_ref().and_then(|all| all.get(name)).map(String::as_str);
        assert_eq!((label("a"), label("d e")), (Some("b c"), Some("f g")));
        let check = json!({"Test": ["CMD", "true"], "Interval": 30_000_000_000_u64, "Retries": 2});
        assert_eq!(Value::Object(changed.beyond_oci()), json!({"OnBuild": ["RUN true"], "Healthcheck": check}));
        assert!(changed.apply("HEALTHCHECK FOO").is_err() && changed.apply("HEALTHCHECK NONE").is_ok());
        assert_eq!(changed.beyond_oci()["Healthcheck"], json!({"Test": ["NONE"]}));
    }

    #[test]
    fn entrypoint_takes_away_a_command_that_was_not_given_with_it() {
        let mut changed = Changed::default();
        changed.config.set_cmd(Some(vec!["old".to_owned()]));
        changed.apply("ENTRYPOINT a b").unwrap();
        assert_eq!(changed.config.cmd(), &None);
        assert_eq!(changed.config.entrypoint().as_deref().unwrap_or_default(), ["/bin/sh", "-c", "a b"]);
        changed.apply("CMD c").unwrap();
        changed.apply("ENTRYPOINT [\"d\"]").unwrap();
        assert!(changed.config.cmd().is_some());
    }

    #[test]
    fn what_changes_files_or_says_nothing_is_refused() {
        for (change, why) in [
            ("RUN x", "did not understand"),
            ("", "did not understand"),
            ("ENV", "at least one argument"),
            ("ENV A", "two arguments"),
            ("LABEL x=1 y", "can't find = in \"y\""),
            ("STOPSIGNAL ZZZ", "Invalid signal: ZZZ"),
        ] {
            let error = Changed::default().apply(change).expect_err(change);
            assert!(error.contains(why), "{error}");
        }
    }
}
