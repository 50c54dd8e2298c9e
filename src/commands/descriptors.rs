//! Descriptors that a command passes on: `--preserve-fds`, `--preserve-fd`, and the sockets of socket activation.

use runtime::process::inherited::Inherited;

use crate::error::CommandError;

/// Options of commands that execute a program in a container.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct DescriptorOptions {
    /// Pass this many descriptors on to the program, from 3 upward
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    preserve_fds: u16,
    /// Pass a descriptor on to the program (can be repeated, or a list)
    #[arg(long = "preserve-fd", value_name = "FD", value_delimiter = ',')]
    preserve_fd: Vec<i32>,
}

/// What a program gets of its starter's.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// Descriptors.
    pub(crate) descriptors: Inherited,
    /// Variables that say what they are.
    pub(crate) variables: Vec<String>,
}

impl DescriptorOptions {
    /// Takes over what was asked for.
    pub(crate) fn take(&self) -> Result<Inherited, CommandError> {
        let counted: Vec<i32> = (3..3 + i32::from(self.preserve_fds)).collect();
        let take = |numbers: &[i32], flag| {
            Inherited::take(numbers).map_err(|error| {
                CommandError::user(format!("{error} - the {flag} option requires that file descriptors must be passed"))
            })
        };
        let mut all = take(&counted, "preserve-fds")?;
        let single: Vec<i32> = self.preserve_fd.iter().copied().filter(|number| !counted.contains(number)).collect();
        all.append(take(&single, "preserve-fd")?);
        Ok(all)
    }
}

impl Handed {
    /// Adds the sockets that a service manager has passed to this process, if it has.
    ///
    /// # Source
    /// `sd_listen_fds(3)`: they are 3 and upward, and meant for the process that `LISTEN_PID` names.
    pub(crate) fn with_sockets(mut self) -> Result<Self, CommandError> {
        let variable = |name: &str| std::env::var(name).ok();
        let number = |name: &str| variable(name).and_then(|text| text.parse::<u32>().ok());
        let Some(count) = number("LISTEN_FDS").filter(|count| (1..1024).contains(count)) else { return Ok(self) };
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(self);
        }
        let numbers: Vec<i32> =
            (3..).take(count as usize).filter(|number| !self.descriptors.contains(*number)).collect();
        let sockets = Inherited::take(&numbers)
            .map_err(|error| CommandError::user(format!("{error}, which LISTEN_FDS={count} promises")))?;
        self.descriptors.append(sockets);
        // The process puts in its own number: only it knows it.
        self.variables.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=".to_owned()]);
        self.variables.extend(variable("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
        Ok(self)
    }
}
