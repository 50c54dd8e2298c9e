//! Life of the container: name, image, labels, log, restart.

use clap::Args;
use storage::state::request::{Log, Request, RestartPolicy};

use super::Caller;
use super::platform::PlatformOptions;
use crate::cli::parse::{pairs, volume, words};
use crate::cli::usage::{Checked, InvalidOption, each, one};

/// Options of the container as a whole.
#[derive(Args, Clone, Debug)]
pub(crate) struct LifeOptions {
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Run the container in a pod, NAME or new:NAME
    #[arg(long, value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Run the container in the pod whose id is in this file
    #[arg(long, value_name = "FILE", conflicts_with = "pod")]
    pub(crate) pod_id_file: Option<std::path::PathBuf>,
    /// Remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Remove a container of the same name first
    #[arg(long)]
    pub(crate) replace: bool,
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<String>,
    /// Write the process id of the container to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<String>,
    /// Write the process id of the container's supervisor to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) conmon_pidfile: Option<String>,
    /// When to pull the image: always, missing, never, newer, or lazy: start before all of it is here
    #[arg(long, value_name = "POLICY", default_value = "missing")]
    pub(crate) pull: String,
    /// Print no progress of a pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) platform: PlatformOptions,
    /// Start these containers first
    #[arg(long, value_name = "CONTAINER", value_delimiter = ',')]
    pub(crate) requires: Vec<String>,
    /// The first argument is a directory that serves as root file system
    #[arg(long)]
    pub(crate) rootfs: bool,
    /// Add a label, KEY=VALUE
    #[arg(short, long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// Add the labels in this file
    #[arg(long = "label-file", value_name = "FILE")]
    pub(crate) label_files: Vec<String>,
    /// Add an annotation, KEY=VALUE
    #[arg(long = "annotation", value_name = "ANNOTATION")]
    pub(crate) annotations: Vec<String>,
    /// When to start the container again: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub(crate) restart: String,
    /// Where output is kept: k8s-file, json-file, journald, passthrough or none
    #[arg(long, value_name = "DRIVER", default_value = "k8s-file")]
    pub(crate) log_driver: String,
    /// Option of the log driver, NAME=VALUE
    #[arg(long = "log-opt", value_name = "OPTION")]
    pub(crate) log_options: Vec<String>,
    /// Stream to attach to: stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", value_delimiter = ',')]
    pub(crate) attach: Vec<String>,
}

impl LifeOptions {
    pub(super) const RESTART: &'static str = "--restart";

    pub(crate) fn apply(&self, request: &mut Request, caller: &Caller<'_>) -> Checked<()> {
        request.remove = self.rm;
        request.pull = one("--pull", &self.pull, words::container_pull_policy)?;
        request.platform = self.platform.asked()?;
        request.requires.clone_from(&self.requires);
        let path = |path: &str| volume::host_path(path, caller.cwd);
        request.cidfile = crate::cli::usage::maybe("--cidfile", self.cidfile.as_ref(), path)?;
        request.pidfile = crate::cli::usage::maybe("--pidfile", self.pidfile.as_ref(), path)?;
        request.supervisor_pidfile = crate::cli::usage::maybe("--conmon-pidfile", self.conmon_pidfile.as_ref(), path)?;
        request.attach = each("-a, --attach", &self.attach, words::stream)?;
        let of_file = |path: &str| pairs::label_file(&caller.file(path)?);
        for labels in each("--label-file", &self.label_files, of_file)? {
            request.labels.extend(labels);
        }
        request.labels.extend(each("-l, --label", &self.labels, pairs::label)?);
        request.annotations.extend(each("--annotation", &self.annotations, pairs::annotation)?);
        request.log = Log {
            driver: one("--log-driver", &self.log_driver, words::log_driver)?,
            options: each("--log-opt", &self.log_options, words::log_option)?.into_iter().collect(),
        };
        request.restart = one(Self::RESTART, &self.restart, words::restart_policy)?;
        self.refuse_restart(request.restart)
    }

    /// What is removed at its end cannot come back whatever happens; after a failure it can.
    fn refuse_restart(&self, policy: RestartPolicy) -> Checked<()> {
        match policy {
            RestartPolicy::Always | RestartPolicy::UnlessStopped if self.rm => Err(InvalidOption {
                flag: Self::RESTART,
                value: self.restart.clone(),
                reason: "conflicts with --rm".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
