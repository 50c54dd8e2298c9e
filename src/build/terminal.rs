//! BuildKit's picture of a build on a terminal: a line for each step, with its time, and the last lines of what runs.
//!
//! ```text
//! [+] Building 2.3s (5/9)
//!  => [stage-0 1/3] FROM docker.io/library/alpine        0.0s
//!  => CACHED [stage-0 2/3] RUN fetch                     0.0s
//!  => [stage-0 3/3] RUN make                             1.2s
//!  => => # cc -c one.c
//! ```
//! What is drawn is drawn over at the next turn. It never is higher than the terminal while something runs; at the end
//! all lines are written once and stay.

use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

use runtime::process::pty::Winsize;

use crate::cli::printable::Printable;

/// How often times go on.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// How many lines of output a running step shows.
const TAIL: usize = 6;

/// The size of a terminal that does not tell.
const USUAL: (usize, usize) = (24, 80);

/// A step.
#[derive(Debug)]
struct Row {
    name: String,
    began: Instant,
    took: Option<Duration>,
    is_cached: bool,
    is_failed: bool,
    tail: VecDeque<String>,
    /// A line that has not ended.
    rest: Vec<u8>,
}

/// The picture.
#[derive(Debug)]
pub(crate) struct Terminal {
    began: Instant,
    rows: Vec<Row>,
    /// How many steps there are going to be.
    total: usize,
    /// Lines on the terminal that are ours.
    drawn: usize,
    has_colours: bool,
    is_over: bool,
}

impl Terminal {
    pub(crate) fn new(total: usize) -> Self {
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Terminal { began: Instant::now(), rows: Vec::new(), total, drawn: 0, has_colours, is_over: false }
    }

    /// A step begins; gives its number here.
    pub(crate) fn begin(&mut self, name: &str) -> usize {
        self.rows.push(Row {
            name: name.to_owned(),
            began: Instant::now(),
            took: None,
            is_cached: false,
            is_failed: false,
            tail: VecDeque::new(),
            rest: Vec::new(),
        });
        self.rows.len() - 1
    }

    /// A step's result was known.
    pub(crate) fn cached(&mut self, row: usize) {
        if let Some(row) = self.rows.get_mut(row) {
            row.is_cached = true;
        }
    }

    /// A step is over.
    pub(crate) fn end(&mut self, row: usize, is_failed: bool) {
        if let Some(row) = self.rows.get_mut(row) {
            row.took = Some(row.began.elapsed());
            row.is_failed = is_failed;
        }
    }

    /// A step has written something.
    pub(crate) fn output(&mut self, row: usize, bytes: &[u8]) {
        let Some(row) = self.rows.get_mut(row) else { return };
        row.rest.extend_from_slice(bytes);
        while let Some(end) = row.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = row.rest.drain(..=end).collect();
            row.tail.push_back(shown(&line));
            if row.tail.len() > TAIL {
                row.tail.pop_front();
            }
        }
        // A progress bar without an end of its line.
        let too_much = row.rest.len().saturating_sub(1 << 12);
        row.rest.drain(..too_much);
    }

    /// Draws the picture over the last one.
    pub(crate) fn draw(&mut self, out: &mut impl Write) {
        if self.is_over {
            return;
        }
        let (height, width) = size();
        let lines = self.lines(width, Some(height.saturating_sub(2).max(3)));
        self.put(&lines, out);
    }

    /// Writes all of it a last time; what comes afterwards stands below it.
    pub(crate) fn finish(&mut self, out: &mut impl Write) {
        if self.is_over {
            return;
        }
        let (_, width) = size();
        let lines = self.lines(width, None);
        self.put(&lines, out);
        let _ = out.write_all(b"\x1b[?25h");
        let _ = out.flush();
        self.is_over = true;
    }

    /// Takes the picture away so that something else can be written; the next one comes below.
    pub(crate) fn clear(&mut self, out: &mut impl Write) {
        if self.drawn > 0 && !self.is_over {
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn put(&mut self, lines: &[String], out: &mut impl Write) {
        let mut text = String::from("\x1b[?25l");
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        // A terminal that went away changes nothing.
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
        self.drawn = lines.len();
    }

    fn lines(&self, width: usize, height: Option<usize>) -> Vec<String> {
        let done = self.rows.iter().filter(|row| row.took.is_some()).count();
        let total = self.total.max(self.rows.len());
        let end = if height.is_none() && done == self.rows.len() { " FINISHED" } else { "" };
        let head = format!("[+] Building {} ({done}/{total}){end}", seconds(self.began.elapsed()));
        let mut lines = vec![self.coloured(cut(&head, width), if end.is_empty() { None } else { Some(BLUE) })];
        let mut rows: Vec<(bool, Vec<String>)> = self.rows.iter().map(|row| self.row(row, width)).collect();
        if let Some(height) = height {
            // What is over goes first, the oldest of it.
            let mut count: usize = 1 + rows.iter().map(|(_, lines)| lines.len()).sum::<usize>();
            rows.retain(|(is_running, lines)| {
                let goes = count > height && !is_running;
                count -= if goes { lines.len() } else { 0 };
                !goes
            });
            // Then output.
            for (_, lines) in &mut rows {
                let keep = lines.len().saturating_sub(count.saturating_sub(height)).max(1);
                count -= lines.len() - keep;
                lines.truncate(keep);
            }
            rows.truncate(height.saturating_sub(1));
        }
        lines.extend(rows.into_iter().flat_map(|(_, lines)| lines));
        lines
    }

    /// The lines of a step, and whether it is running.
    fn row(&self, row: &Row, width: usize) -> (bool, Vec<String>) {
        let time = seconds(row.took.unwrap_or_else(|| row.began.elapsed()));
        let mark = match (row.is_failed, row.is_cached) {
            (true, _) => "ERROR ",
            (false, true) => "CACHED ",
            (false, false) => "",
        };
        let left = format!(" => {mark}{}", row.name);
        let room = width.saturating_sub(time.len() + 1);
        let left = cut(&left, room);
        let pad = room.saturating_sub(left.chars().count());
        let line = format!("{left}{} {time}", " ".repeat(pad));
        let colour = match (row.is_failed, row.took) {
            (true, _) => Some(RED),
            (false, Some(_)) => Some(BLUE),
            (false, None) => None,
        };
        let mut lines = vec![self.coloured(line, colour)];
        if row.took.is_none() {
            let rest = (!row.rest.is_empty()).then(|| shown(&row.rest));
            let tail = row.tail.iter().cloned().chain(rest);
            lines.extend(tail.map(|text| cut(&format!(" => => # {text}"), width)));
        }
        (row.took.is_none(), lines)
    }

    fn coloured(&self, text: String, colour: Option<u8>) -> String {
        match colour.filter(|_| self.has_colours) {
            Some(colour) => format!("\x1b[{colour}m{text}\x1b[0m"),
            None => text,
        }
    }
}

const BLUE: u8 = 34;
const RED: u8 = 31;

/// Rows and columns.
fn size() -> (usize, usize) {
    match Winsize::of(std::io::stderr()) {
        Ok(size) if size.rows > 0 && size.cols > 0 => (size.rows.into(), size.cols.into()),
        _ => USUAL,
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// A line of a program: what it wrote over with a carriage return is gone, and it drives no terminal.
fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|byte| *byte == b'\r').next().unwrap_or_default();
    let text = String::from_utf8_lossy(last).replace('\t', "  ");
    Printable::line(&text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(total: usize) -> Terminal {
        Terminal { has_colours: false, ..Terminal::new(total) }
    }

    #[test]
    fn steps_are_drawn_with_their_last_lines() {
        let mut terminal = plain(3);
        let one = terminal.begin("[1/3] FROM x");
        terminal.cached(one);
        terminal.end(one, false);
        let two = terminal.begin("[2/3] RUN make");
        for number in 0..10 {
            terminal.output(two, format!("line {number}\n").as_bytes());
        }
        terminal.output(two, b"10%\r20%\x1b[2J");
        let lines = terminal.lines(40, Some(20));
        assert!(lines[0].starts_with("[+] Building 0.") && lines[0].ends_with("(1/3)"), "{lines:?}");
        assert_eq!(lines[1], " => CACHED [1/3] FROM x             0.0s");
        assert!(lines[2].starts_with(" => [2/3] RUN make"));
        assert_eq!(lines[3], " => => # line 4");
        assert_eq!(lines[9], " => => # 20%\\x1b[2J");
        assert!(lines.iter().all(|line| line.chars().count() <= 40));
        terminal.end(two, true);
        let lines = terminal.lines(40, None);
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with(" => ERROR [2/3] RUN make"));
    }

    #[test]
    fn the_picture_fits_the_terminal_and_running_steps_stay() {
        let mut terminal = plain(60);
        for number in 0..50 {
            let row = terminal.begin(&format!("step {number}"));
            terminal.end(row, false);
        }
        let running = terminal.begin("running");
        terminal.output(running, b"one\ntwo\nthree\n");
        for height in [3, 4, 10, 30] {
            let lines = terminal.lines(80, Some(height));
            assert!(lines.len() <= height, "{height}: {lines:#?}");
            assert!(lines.iter().any(|line| line.contains("running")), "{height}");
        }
        assert_eq!(terminal.lines(80, None).len(), 55);
    }
}
