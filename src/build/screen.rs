//! What a build shows: podman's lines, BuildKit's, its picture on a terminal, JSON, or nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use serde_json::json;

use super::options::Progress;
use super::report::Event;
use super::schedule::At;
use super::stage::Build;
use super::terminal::{TICK, Terminal};
use crate::cli::printable::Printable;

/// How much of a failed step's output is shown again.
const KEPT_BYTES: usize = 64 << 10;

/// A step as it is shown.
#[derive(Debug)]
struct Vertex {
    number: usize,
    /// The last of its stage.
    is_last: bool,
    /// Its place on the terminal.
    row: usize,
    name: String,
    digest: String,
    began: Instant,
    began_at: jiff::Timestamp,
    is_cached: bool,
    output: Vec<u8>,
    /// The last line without an end.
    rest: Vec<u8>,
}

/// The command's output.
#[derive(Debug)]
pub(crate) struct Screen {
    progress: Progress,
    /// Position among the stages that are built, their number, and name.
    stages: BTreeMap<At, (usize, usize, String)>,
    /// The stages whose results are the images.
    targets: Vec<At>,
    /// Of each build, if there are several.
    platforms: Vec<String>,
    current: BTreeMap<At, Vertex>,
    next: usize,
    log: Option<std::fs::File>,
    terminal: Option<Terminal>,
    drawn: Instant,
}

impl Screen {
    pub(crate) fn new(progress: Progress, builds: &[Build<'_>], log: Option<std::fs::File>) -> Self {
        let (mut stages, mut targets, mut steps) = (BTreeMap::new(), Vec::new(), 0);
        for (number, Build { file, graph, .. }) in builds.iter().enumerate() {
            targets.push(At { build: number, stage: graph.target });
            for (place, node) in graph.nodes.iter().enumerate() {
                let stage = file.stages.get(node.index);
                let name =
                    stage.and_then(|stage| stage.name.clone()).unwrap_or_else(|| format!("stage-{}", node.index));
                steps += 1 + stage.map_or(0, |stage| stage.steps.len());
                stages.insert(At { build: number, stage: node.index }, (place + 1, graph.nodes.len(), name));
            }
        }
        let platform = |build: &Build<'_>| build.options.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let platforms = if builds.len() > 1 { builds.iter().map(platform).collect() } else { Vec::new() };
        let terminal = (progress == Progress::Terminal).then(|| Terminal::new(steps + builds.len()));
        let current = BTreeMap::new();
        Screen { progress, stages, targets, platforms, current, next: 1, log, terminal, drawn: Instant::now() }
    }

    /// When the picture is to be drawn again although nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.terminal.as_ref().map(|_| self.drawn + TICK)
    }

    /// Draws the picture, if there is one and the last one is old enough.
    pub(crate) fn refresh(&mut self) {
        if let Some(terminal) = &mut self.terminal
            && self.drawn.elapsed() >= TICK
        {
            terminal.draw(&mut std::io::stderr());
            self.drawn = Instant::now();
        }
    }

    /// Draws the picture for the last time.
    pub(crate) fn end(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.finish(&mut std::io::stderr());
        }
    }

    /// Does what writes to the terminal by itself.
    pub(crate) fn settle(&mut self, write: impl FnOnce()) {
        if let Some(terminal) = &mut self.terminal {
            terminal.clear(&mut std::io::stderr());
        }
        write();
    }

    /// A line on stdout, where podman has them. A reader that went away changes nothing.
    fn line(&mut self, text: &str) {
        match &mut self.log {
            Some(log) => drop(writeln!(log, "{text}")),
            None => drop(writeln!(std::io::stdout(), "{text}")),
        }
    }

    /// A line on stderr, where BuildKit has them.
    fn note(&mut self, text: &str) {
        if let Some(terminal) = &mut self.terminal {
            terminal.clear(&mut std::io::stderr());
        }
        match &mut self.log {
            Some(log) => drop(writeln!(log, "{text}")),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn prefix(&self, at: At) -> String {
        let platform = self.platforms.get(at.build).map(|platform| format!("[{platform}] ")).unwrap_or_default();
        match self.stages.get(&at) {
            Some((place, count, _)) if *count > 1 => format!("{platform}[{place}/{count}] "),
            _ => platform,
        }
    }

    /// A stage has told something.
    pub(crate) fn on(&mut self, stage: At, event: &Event) {
        match event {
            Event::Step { number, count, text, key } => {
                let text = Printable::line(text).to_string();
                if self.progress == Progress::Steps {
                    let prefix = self.prefix(stage);
                    self.line(&format!("{prefix}STEP {number}/{count}: {text}"));
                }
                let mut place = self.platforms.get(stage.build).map(|name| format!("{name} ")).unwrap_or_default();
                if let Some((_, count, name)) = self.stages.get(&stage)
                    && (*count > 1 || !place.is_empty())
                {
                    place.push_str(&format!("{name} "));
                }
                let name = format!("[{place}{number}/{count}] {text}");
                let digest = format!("{}.{} {number} {key}", stage.build, stage.stage);
                let vertex = Vertex {
                    number: self.next,
                    is_last: number == count,
                    row: self.terminal.as_mut().map_or(0, |terminal| terminal.begin(&name)),
                    name,
                    digest: storage::digest::Digest::of(digest.as_bytes()).to_string(),
                    began: Instant::now(),
                    began_at: jiff::Timestamp::now(),
                    is_cached: false,
                    output: Vec::new(),
                    rest: Vec::new(),
                };
                self.next += 1;
                if self.progress == Progress::Vertices {
                    self.note(&format!("#{} {}", vertex.number, vertex.name));
                }
                self.current.insert(stage, vertex);
                self.status(stage, None);
            }
            Event::Cached { key } => {
                if let Some(vertex) = self.current.get_mut(&stage) {
                    vertex.is_cached = true;
                    if let Some(terminal) = &mut self.terminal {
                        terminal.cached(vertex.row);
                    }
                }
                if self.progress == Progress::Steps {
                    self.line(&format!("--> Using cache {key}"));
                }
            }
            Event::Done { key } => {
                self.flush(stage);
                let Some(vertex) = self.current.get(&stage) else { return };
                let (number, is_cached) = (vertex.number, vertex.is_cached);
                let seconds = vertex.began.elapsed().as_secs_f64();
                let is_last = vertex.is_last && self.targets.contains(&stage);
                if let Some(terminal) = &mut self.terminal {
                    terminal.end(vertex.row, false);
                }
                match (self.progress, key) {
                    (Progress::Steps, Some(key)) if !is_last => {
                        self.line(&format!("--> {}", key.get(..12).unwrap_or(key)));
                    }
                    (Progress::Vertices, _) if is_cached => self.note(&format!("#{number} CACHED\n")),
                    (Progress::Vertices, _) => self.note(&format!("#{number} DONE {seconds:.1}s\n")),
                    _ => {}
                }
                self.status(stage, Some(None));
            }
            Event::Failed { message, .. } => {
                self.flush(stage);
                if let (Some(terminal), Some(vertex)) = (&mut self.terminal, self.current.get(&stage)) {
                    terminal.end(vertex.row, true);
                }
                if let (Progress::Vertices, Some(vertex)) = (self.progress, self.current.get(&stage)) {
                    let text = format!("#{} ERROR: {}\n", vertex.number, Printable::line(message));
                    self.note(&text);
                }
                self.status(stage, Some(Some(message)));
            }
            Event::Warning(text) => self.note(&format!("Warning: {}", Printable::line(text))),
            Event::Finished(_) | Event::Used(_) | Event::Namespace(_) | Event::Broken(_) => {}
        }
    }

    /// A stage's programs have written something.
    pub(crate) fn output(&mut self, stage: At, is_stderr: bool, bytes: &[u8]) {
        if let Some(vertex) = self.current.get_mut(&stage) {
            vertex.output.extend_from_slice(bytes);
            let too_much = vertex.output.len().saturating_sub(KEPT_BYTES);
            vertex.output.drain(..too_much);
            if let Some(terminal) = &mut self.terminal {
                terminal.output(vertex.row, bytes);
            }
        }
        match self.progress {
            Progress::Steps => {
                let _ = match (&mut self.log, is_stderr) {
                    (Some(log), _) => log.write_all(bytes),
                    (None, true) => std::io::stderr().write_all(bytes),
                    (None, false) => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
                };
            }
            Progress::Vertices => {
                let Some(vertex) = self.current.get_mut(&stage) else { return };
                vertex.rest.extend_from_slice(bytes);
                let lines = vertex.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let whole: Vec<u8> = vertex.rest.drain(..lines).collect();
                self.lines(stage, &whole);
            }
            Progress::RawJson => {
                let Some(vertex) = self.current.get(&stage) else { return };
                let now = jiff::Timestamp::now().to_string();
                let text = base64(bytes);
                let stream = if is_stderr { 2 } else { 1 };
                let status =
                    json!({"logs": [{"vertex": vertex.digest, "stream": stream, "data": text, "timestamp": now}]});
                self.note(&status.to_string());
            }
            Progress::Quiet | Progress::Terminal => {}
        }
    }

    fn lines(&mut self, stage: At, bytes: &[u8]) {
        let Some(vertex) = self.current.get(&stage) else { return };
        let (number, seconds) = (vertex.number, vertex.began.elapsed().as_secs_f64());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned();
            self.note(&format!("#{number} {seconds:.3} {line}"));
        }
    }

    fn flush(&mut self, stage: At) {
        if let Some(vertex) = self.current.get_mut(&stage) {
            let rest = std::mem::take(&mut vertex.rest);
            if !rest.is_empty() {
                self.lines(stage, &rest);
            }
        }
    }

    /// BuildKit's `SolveStatus`. `done`: the step has ended, perhaps with an error.
    fn status(&mut self, stage: At, done: Option<Option<&String>>) {
        if self.progress != Progress::RawJson {
            return;
        }
        let Some(vertex) = self.current.get(&stage) else { return };
        let mut status = json!({
            "digest": vertex.digest,
            "name": vertex.name,
            "started": vertex.began_at.to_string(),
        });
        if vertex.is_cached {
            status["cached"] = json!(true);
        }
        if let Some(error) = done {
            status["completed"] = json!(jiff::Timestamp::now().to_string());
            if let Some(error) = error {
                status["error"] = json!(error);
            }
        }
        self.note(&json!({"vertexes": [status]}).to_string());
    }

    /// A failed step: its name, what it has written, and whether that was shown in full.
    pub(crate) fn failed(&self, stage: At) -> Option<(&str, &[u8], bool)> {
        let vertex = self.current.get(&stage)?;
        let is_shown = matches!(self.progress, Progress::Steps | Progress::RawJson);
        Some((&vertex.name, &vertex.output, is_shown))
    }

    /// Whether the place of a failure is shown as BuildKit shows it.
    pub(crate) fn shows_places(&self) -> bool {
        matches!(self.progress, Progress::Vertices | Progress::Terminal)
    }

    /// The image is being made.
    pub(crate) fn committing(&mut self, tag: Option<&str>) {
        if self.progress == Progress::Steps {
            let prefix = self.targets.first().map(|target| self.prefix(*target)).unwrap_or_default();
            let tag = tag.map(|tag| format!(" {tag}")).unwrap_or_default();
            self.line(&format!("{prefix}COMMIT{tag}"));
        }
    }

    /// The image is there.
    pub(crate) fn committed(&mut self, id: &str, names: &[String]) {
        match self.progress {
            Progress::Steps => {
                self.line(&format!("--> {}", id.get(..12).unwrap_or(id)));
                for name in names {
                    self.line(&format!("Successfully tagged {name}"));
                }
                self.line(id);
            }
            Progress::Vertices => {
                let number = self.next;
                self.note(&format!("#{number} exporting to image\n#{number} writing image sha256:{id} done"));
                for name in names {
                    self.note(&format!("#{number} naming to {name} done"));
                }
                self.note(&format!("#{number} DONE 0.0s"));
            }
            Progress::Terminal => {
                let mut texts = vec![format!("exporting to image: writing image sha256:{id}")];
                texts.extend(names.iter().map(|name| format!("exporting to image: naming to {name}")));
                if let Some(terminal) = &mut self.terminal {
                    for text in texts {
                        let row = terminal.begin(&text);
                        terminal.end(row, false);
                    }
                }
            }
            Progress::RawJson | Progress::Quiet => {}
        }
    }

    /// A list of the images is there.
    pub(crate) fn listed(&mut self, digest: &str, names: &[String]) {
        match self.progress {
            Progress::Steps => {
                for name in names {
                    self.line(&format!("Successfully tagged {name}"));
                }
                self.line(digest.trim_start_matches("sha256:"));
            }
            Progress::Vertices => {
                let number = self.next + 1;
                self.note(&format!("#{number} exporting manifest list {digest} done"));
                for name in names {
                    self.note(&format!("#{number} naming to {name} done"));
                }
                self.note(&format!("#{number} DONE 0.0s"));
            }
            Progress::Terminal => {
                if let Some(terminal) = &mut self.terminal {
                    let row = terminal.begin(&format!("exporting manifest list {digest} as {}", names.join(", ")));
                    terminal.end(row, false);
                }
            }
            Progress::RawJson | Progress::Quiet => {}
        }
    }
}

/// Standard base64, which Go's JSON has for bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn bytes_are_written_as_go_writes_them() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
