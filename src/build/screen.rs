//! What a build shows: podman's lines, BuildKit's, JSON, or nothing.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use serde_json::json;

use super::containerfile::Containerfile;
use super::graph::Graph;
use super::options::Progress;
use super::report::Event;
use crate::cli::printable::Printable;

/// How much of a failed step's output is shown again.
const KEPT_BYTES: usize = 64 << 10;

/// A step as it is shown.
#[derive(Debug)]
struct Vertex {
    number: usize,
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
    /// Position among the stages that are built, and name, by the stage's number.
    stages: BTreeMap<usize, (usize, String)>,
    count: usize,
    target: usize,
    current: BTreeMap<usize, Vertex>,
    next: usize,
    log: Option<std::fs::File>,
}

impl Screen {
    pub(crate) fn new(progress: Progress, file: &Containerfile, graph: &Graph, log: Option<std::fs::File>) -> Self {
        let named = |index: usize| {
            let stage = file.stages.get(index);
            stage.and_then(|stage| stage.name.clone()).unwrap_or_else(|| format!("stage-{index}"))
        };
        let stages = graph.nodes.iter().enumerate().map(|(at, node)| (node.index, (at + 1, named(node.index))));
        let (count, target) = (graph.nodes.len(), graph.target);
        Screen { progress, stages: stages.collect(), count, target, current: BTreeMap::new(), next: 1, log }
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
        match &mut self.log {
            Some(log) => drop(writeln!(log, "{text}")),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    fn prefix(&self, stage: usize) -> String {
        match self.stages.get(&stage) {
            Some((at, _)) if self.count > 1 => format!("[{at}/{}] ", self.count),
            _ => String::new(),
        }
    }

    /// A stage has told something.
    pub(crate) fn on(&mut self, stage: usize, event: &Event) {
        match event {
            Event::Step { number, count, text, key } => {
                let text = Printable::line(text).to_string();
                if self.progress == Progress::Steps {
                    let prefix = self.prefix(stage);
                    self.line(&format!("{prefix}STEP {number}/{count}: {text}"));
                }
                let stage_name = self.stages.get(&stage).map(|(_, name)| name.clone()).unwrap_or_default();
                let place = if self.count > 1 { format!("{stage_name} ") } else { String::new() };
                let vertex = Vertex {
                    number: self.next,
                    name: format!("[{place}{number}/{count}] {text}"),
                    digest: storage::digest::Digest::of(format!("{stage} {number} {key}").as_bytes()).to_string(),
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
                let is_last = stage == self.target && vertex.name.contains(&self.last_of(vertex));
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
                if let (Progress::Vertices, Some(vertex)) = (self.progress, self.current.get(&stage)) {
                    let text = format!("#{} ERROR: {}\n", vertex.number, Printable::line(message));
                    self.note(&text);
                }
                self.status(stage, Some(Some(message)));
            }
            Event::Warning(text) => self.note(&format!("Warning: {}", Printable::line(text))),
            Event::Finished(_) | Event::Used(_) => {}
        }
    }

    /// `n/n]`, if the step is the last of its stage.
    fn last_of(&self, vertex: &Vertex) -> String {
        let count = vertex.name.split(']').next().and_then(|head| head.rsplit('/').next()).unwrap_or_default();
        let start = vertex.name.split(']').next().and_then(|head| head.rsplit([' ', '[']).next()).unwrap_or_default();
        if start == format!("{count}/{count}") { start.to_owned() } else { "\0".to_owned() }
    }

    /// A stage's programs have written something.
    pub(crate) fn output(&mut self, stage: usize, is_stderr: bool, bytes: &[u8]) {
        if let Some(vertex) = self.current.get_mut(&stage) {
            vertex.output.extend_from_slice(bytes);
            let too_much = vertex.output.len().saturating_sub(KEPT_BYTES);
            vertex.output.drain(..too_much);
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
            Progress::Quiet => {}
        }
    }

    fn lines(&mut self, stage: usize, bytes: &[u8]) {
        let Some(vertex) = self.current.get(&stage) else { return };
        let (number, seconds) = (vertex.number, vertex.began.elapsed().as_secs_f64());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned();
            self.note(&format!("#{number} {seconds:.3} {line}"));
        }
    }

    fn flush(&mut self, stage: usize) {
        if let Some(vertex) = self.current.get_mut(&stage) {
            let rest = std::mem::take(&mut vertex.rest);
            if !rest.is_empty() {
                self.lines(stage, &rest);
            }
        }
    }

    /// BuildKit's `SolveStatus`. `done`: the step has ended, perhaps with an error.
    fn status(&mut self, stage: usize, done: Option<Option<&String>>) {
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

    /// What a step has written, if it was not shown.
    pub(crate) fn unseen(&self, stage: usize) -> &[u8] {
        match (self.progress, self.current.get(&stage)) {
            (Progress::Quiet, Some(vertex)) => &vertex.output,
            _ => b"",
        }
    }

    /// The image is being made.
    pub(crate) fn committing(&mut self, tag: Option<&str>) {
        if self.progress == Progress::Steps {
            let prefix = self.prefix(self.target);
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
