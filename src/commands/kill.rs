//! `kill`: a signal to the first process of a container.

use runtime::process::signal::Signal;
use storage::state::request::RestartPolicy;
use storage::state::status::{self, State};

use super::select::{self, Chosen};
use super::{Context, Outcome, lifecycle};
use crate::cli::output;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle kill web
  coracle kill -s HUP web"#;

/// Kill one or more running containers with a specific signal
///
/// The main process inside each container specified will be sent SIGKILL, or any signal specified with option --signal.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_arg("all", |all| all.help("Signal all running containers")), mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let signal: Signal = args.signal.parse().map_err(CommandError::user)?;
    args.chosen.required(false)?;
    let (selected, errors) = args.chosen.selection().resolve(context)?;
    select::each(&selected, errors, |one| {
        let record = &one.record;
        let mut observed = status::observe(&context.layout, record)?;
        // docker's rule: who sends one of these wants it ended, other signals have other meanings.
        let is_end = signal == Signal::KILL || signal == lifecycle::stop_signal(record)?;
        // Where there is no program yet there is nothing to kill.
        let is_begun = !matches!(observed.state, State::Starting { .. });
        if is_end && is_begun && observed.state.is_alive() && record.request.restart != RestartPolicy::No {
            observed = lifecycle::request_end(context, record)?;
            if let State::Restarting { .. } = observed.state {
                return output::print_line(&one.typed);
            }
        }
        let sent = match observed.state.init().filter(|_| is_begun) {
            Some(init) => {
                let sent = lifecycle::signal(init, signal)?;
                if sent && signal == Signal::KILL && lifecycle::has_union_server(record) {
                    lifecycle::wait_for_killed(context, record, init)?;
                }
                sent
            }
            None => false,
        };
        if is_end {
            lifecycle::wake(context, record, &observed);
        }
        match sent {
            true => {
                context.note(record, "kill");
                output::print_line(&one.typed)
            }
            false if args.chosen.all => Ok(()),
            false => Err(CommandError::user(format_args!(
                "can only kill running containers. {} is in state {}: container state improper",
                record.id,
                observed.state.as_str()
            ))),
        }
    })
}
