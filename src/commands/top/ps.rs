//! The two forms of `ps(1)` that everybody types: `-ef` and `aux`, laid out as procps does.
//!
//! podman runs the program in the container for them; here no program is needed, and none is seen in its own list.

use jiff::{Timestamp, Unit, Zoned};

use super::{Host, Names, Process};
use crate::cli::printable::Printable;
use crate::cli::units;

/// A form of `ps(1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `-ef`
    Full,
    /// `aux`
    User,
}

impl Form {
    /// The form that these words ask for, if they are one of the two.
    pub(super) fn of(words: &[String]) -> Option<Self> {
        let letters: String = words.iter().map(|word| word.trim_start_matches('-')).collect();
        let is_of = |all: &str| !letters.is_empty() && letters.chars().all(|letter| all.contains(letter));
        let dashed = words.iter().all(|word| word.starts_with('-') && word.len() > 1);
        if dashed && is_of("eAf") && letters.contains('f') {
            return Some(Self::Full);
        }
        (words.len() == 1 && is_of("auxw") && letters.contains('u')).then_some(Self::User)
    }

    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Full => "UID          PID    PPID  C STIME TTY          TIME CMD\n",
            Self::User => "USER         PID %CPU %MEM    VSZ   RSS TTY      STAT START   TIME COMMAND\n",
        }
    }

    pub(super) fn line(self, process: &Process, host: &Host, users: &Names) -> String {
        let cell = |column| process.cell(column, host, users, users);
        let (user, tty) = (cell("user"), cell("tty"));
        let user =
            if user.chars().count() > 8 { format!("{}+", user.chars().take(7).collect::<String>()) } else { user };
        let user = Printable::line(&user).to_string();
        let args = cell("args");
        let args = Printable::line(args.trim_end()).to_string();
        let seconds = |ticks: i64| ticks as f64 / host.ticks_per_second;
        let elapsed_s = (host.uptime_s - seconds(process.number(19))).max(0.0);
        let cpu_s = seconds(process.number(11) + process.number(12));
        let percent = if elapsed_s > 0.0 { (cpu_s * 100.0 / elapsed_s).min(99.9) } else { 0.0 };
        let start = start(elapsed_s);
        let whole_s = cpu_s as u64;
        let (pid, parent) = (process.inner_pid(), process.inner_parent());
        match self {
            Self::Full => {
                let time = format!("{:02}:{:02}:{:02}", whole_s / 3600, whole_s / 60 % 60, whole_s % 60);
                let percent = percent as u64;
                format!("{user:<8} {pid:>7} {parent:>7} {percent:>2} {start:<5} {tty:<8} {time:>8} {args}\n")
            }
            Self::User => {
                let time = format!("{}:{:02}", whole_s / 60, whole_s % 60);
                let (vsz, rss) = (cell("vsz"), cell("rss"));
                let memory = rss.parse::<f64>().unwrap_or(0.0) * 100.0 / host.memory_kib.max(1.0);
                let state = state(process);
                format!(
                    "{user:<8} {pid:>7} {percent:>4.1} {memory:>4.1} {vsz:>6} {rss:>5} {tty:<8} {state:<4} {start:<5} \
                     {time:>6} {args}\n"
                )
            }
        }
    }
}

/// When a process has begun: the hour today, or the day.
fn start(elapsed_s: f64) -> String {
    let now = Timestamp::now();
    let began = now - jiff::SignedDuration::from_secs(elapsed_s as i64);
    let zoned: Zoned = began.to_zoned(units::local_zone());
    let is_recent = elapsed_s < 24.0 * 3600.0;
    let zoned = zoned.round(Unit::Second).unwrap_or(zoned);
    zoned.strftime(if is_recent { "%H:%M" } else { "%b%d" }).to_string()
}

/// `S`, with what procps adds to it: niced, leader of a session, threads, in the foreground.
fn state(process: &Process) -> String {
    let mut text = process.stat.first().cloned().unwrap_or_default();
    let nice = process.number(16);
    if nice != 0 {
        text.push(if nice < 0 { '<' } else { 'N' });
    }
    if process.number(3) == i64::from(process.pid) || process.leads_session() {
        text.push('s');
    }
    if process.number(17) > 1 {
        text.push('l');
    }
    if process.number(5) > 0 && process.number(5) == process.number(2) {
        text.push('+');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_known_by_their_letters() {
        for (words, form) in [
            (&["-ef"][..], Some(Form::Full)),
            (&["-e", "-f"], Some(Form::Full)),
            (&["-A", "-f"], Some(Form::Full)),
            (&["aux"], Some(Form::User)),
            (&["-aux"], Some(Form::User)),
            (&["-e"], None),
            (&["pid"], None),
            (&["user"], None),
            (&["-eo", "pid"], None),
            (&[], None),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(Form::of(&words), form, "{words:?}");
        }
    }
}
