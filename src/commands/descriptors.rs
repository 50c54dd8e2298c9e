//! Descriptors that a command passes on: `--preserve-fds`, `--preserve-fd`, and the sockets of socket activation.

use net::forward::Held;
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
    /// Those of them that are a service manager's sockets.
    sockets: Vec<i32>,
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
    /// What was asked for by number.
    pub(crate) fn new(descriptors: Inherited) -> Self {
        Self { descriptors, ..Self::default() }
    }

    /// Copies of the service manager's sockets, which may be those of published ports.
    pub(crate) fn sockets(&self) -> Result<Held, CommandError> {
        let copies = self.descriptors.copies(&self.sockets);
        let copies = copies.map_err(|errno| CommandError::host(format!("dup(): {}", errno.desc().to_lowercase())))?;
        Ok(Held::new(copies))
    }

    /// The program gets no socket that serves a published port: `left` have not been taken of `before`.
    pub(crate) fn keep(&mut self, before: usize, left: usize) -> Result<(), CommandError> {
        match (before - left, self.sockets.len()) {
            (0, _) => {}
            (taken, all) if taken == all => {
                self.descriptors.drop_these(&std::mem::take(&mut self.sockets));
                self.variables.clear();
            }
            (taken, all) => {
                return Err(CommandError::user(format!(
                    "LISTEN_FDS={all}: {taken} of the sockets serve published ports and the others are for the program: \
                     a container has the ones or the others"
                )));
            }
        }
        Ok(())
    }

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
        self.sockets = (3..).take(count as usize).collect();
        // The process puts in its own number: only it knows it.
        self.variables.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=".to_owned()]);
        self.variables.extend(variable("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
        Ok(self)
    }
}
