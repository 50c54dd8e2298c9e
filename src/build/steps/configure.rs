//! Instructions that change the configuration and no file.

use std::path::PathBuf;

use super::super::containerfile::{self, Instruction, Step};
use super::super::stage::{Stage, located};
use crate::error::CommandError;

impl Stage<'_> {
    /// Applies an instruction that changes the configuration; says how it reads with its variables replaced.
    pub(in super::super) fn configure(&mut self, step: &Step) -> Result<String, CommandError> {
        let quoted = |pairs: &[(String, String)]| {
            let one =
                |(name, value): &(String, String)| match value.contains([' ', '"', '\\', '\'']) || value.is_empty() {
                    true => format!("{name}={value:?}"),
                    false => format!("{name}={value}"),
                };
            pairs.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        Ok(match &step.instruction {
            Instruction::Env(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                for (name, value) in &pairs {
                    self.state.config.set_variable(name, value);
                }
                format!("ENV {}", quoted(&pairs))
            }
            Instruction::Label(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                for (name, value) in &pairs {
                    self.state.config.set_label(name, value);
                }
                format!("LABEL {}", quoted(&pairs))
            }
            Instruction::User(word) => {
                let user = self.expand(word)?;
                self.state.config.set_user(&user);
                format!("USER {user}")
            }
            Instruction::Workdir(word) => {
                let asked = self.expand(word)?;
                let path = super::clean(&PathBuf::from(self.state.config.workdir()).join(&asked));
                self.state.config.set_workdir(&path.to_string_lossy());
                format!("WORKDIR {}", path.display())
            }
            Instruction::Expose(words) => {
                let escape = self.build.file.directives.escape;
                let mut ports = Vec::new();
                for word in words {
                    ports.extend(word.expand_words(escape, &|name| self.lookup(name)).map_err(located)?);
                }
                for port in &ports {
                    for port in exposed(port)? {
                        self.state.config.expose(&port);
                    }
                }
                format!("EXPOSE {}", ports.join(" "))
            }
            Instruction::Volume(words) => {
                let paths = words.iter().map(|word| self.expand(word)).collect::<Result<Vec<_>, _>>()?;
                for path in &paths {
                    self.state.config.add_volume(path);
                }
                format!("VOLUME {}", paths.join(" "))
            }
            Instruction::Entrypoint(command) => {
                let words = self.words(command);
                self.state.config.set_entrypoint(&words);
                format!("ENTRYPOINT {}", json(&words))
            }
            Instruction::Cmd(command) => {
                let words = self.words(command);
                self.state.config.set_cmd(&words);
                format!("CMD {}", json(&words))
            }
            Instruction::Shell(words) => {
                self.state.config.set_shell(words);
                format!("SHELL {}", json(words))
            }
            Instruction::StopSignal(word) => {
                let signal = self.expand(word)?;
                crate::cli::parse::words::signal(&signal)
                    .map_err(|_| CommandError::user(format!("invalid signal: {signal}")))?;
                self.state.config.set_stop_signal(&signal);
                format!("STOPSIGNAL {signal}")
            }
            Instruction::Healthcheck(check) => {
                let check = check.to_config();
                self.state.config.set_healthcheck(check.clone());
                format!("HEALTHCHECK {check}")
            }
            Instruction::OnBuild(trigger) => {
                self.state.config.add_trigger(&trigger.original);
                format!("ONBUILD {}", trigger.original)
            }
            Instruction::Maintainer(name) => {
                self.state.config.set_author(name);
                format!("MAINTAINER {name}")
            }
            Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Arg(_) => {
                step.original.clone()
            }
        })
    }

    fn words(&self, command: &containerfile::Command) -> Vec<String> {
        match command {
            containerfile::Command::Exec(words) => words.clone(),
            containerfile::Command::Shell(line) if line.is_empty() => Vec::new(),
            containerfile::Command::Shell(line) => {
                self.state.config.shell().into_iter().chain([line.clone()]).collect()
            }
        }
    }
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

/// A port or range of EXPOSE as the configuration has it.
fn exposed(text: &str) -> Result<Vec<String>, CommandError> {
    let bad = || CommandError::user(format!("invalid containerPort: {text}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(CommandError::user(format!("invalid proto: {protocol}")));
    }
    // The published side means nothing in an image.
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first > last {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}
