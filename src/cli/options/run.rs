//! What only `run` has.

use clap::Args;

/// How `run` relates to the container it started.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keys that detach from the container, or an empty value for none
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Remove the image when the container has ended, unless others use it; implies --rm
    #[arg(long)]
    pub(crate) rmi: bool,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true)]
    pub(crate) sig_proxy: bool,
}
