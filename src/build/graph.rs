//! Stages become a graph: which of them are needed, and what each needs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::containerfile::{Containerfile, Instruction, ParseError, Span, Stage, Step, Word};

/// What a name after FROM, `--from=` or `from=` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing at all.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// A context of `--build-context`.
    Context(String),
    /// An image, by reference.
    Image(String),
}

/// A stage that is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its number in the file.
    pub(crate) index: usize,
    /// What it begins with.
    pub(crate) base: Origin,
    /// The stages that must be there before it.
    pub(crate) needs: BTreeSet<usize>,
}

/// The stages that the target needs, in the order of the file, the target last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Graph {
    /// What is to be built.
    pub(crate) nodes: Vec<Node>,
    /// The stage whose result is the image.
    pub(crate) target: usize,
}

/// What names may mean.
pub(crate) struct Names<'a> {
    /// The file.
    pub(crate) file: &'a Containerfile,
    /// Contexts by name.
    pub(crate) contexts: &'a BTreeMap<String, String>,
    /// Variables of FROM lines.
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Names<'_> {
    /// What `word` means in the stage `index`.
    pub(crate) fn origin(&self, word: &Word, index: usize) -> Result<Origin, ParseError> {
        let name = word.expand(self.file.directives.escape, self.lookup)?;
        if name.is_empty() {
            return Err(ParseError::new(word.span, format!("base name ({}) should not be blank", word.raw)));
        }
        self.named(&name, index, word.span)
    }

    fn named(&self, name: &str, index: usize, span: Span) -> Result<Origin, ParseError> {
        let lower = name.to_lowercase();
        let is_named = |stage: &Stage| stage.name.as_deref() == Some(lower.as_str());
        // The last of that name before this one; so a stage may have the name of the image it begins with.
        if let Some(found) = self.file.stages.iter().take(index).rposition(is_named) {
            return Ok(Origin::Stage(found));
        }
        if let Ok(number) = name.parse::<usize>() {
            if number < index {
                return Ok(Origin::Stage(number));
            }
            return Err(ParseError::new(
                span,
                format!("invalid from flag value {name}: there is no such stage before this one"),
            ));
        }
        if self.contexts.contains_key(name) {
            return Ok(Origin::Context(name.to_owned()));
        }
        if lower == "scratch" {
            return Ok(Origin::Scratch);
        }
        Ok(Origin::Image(name.to_owned()))
    }

    /// The stages that a step copies or mounts from.
    fn needs(&self, step: &Step, index: usize, out: &mut BTreeSet<usize>) -> Result<(), ParseError> {
        let mut words: Vec<&Word> = Vec::new();
        match &step.instruction {
            Instruction::Copy(copy) => words.extend(&copy.from),
            Instruction::Run(run) => words.extend(run.mounts.iter().filter_map(|mount| mount.from.as_ref())),
            _ => {}
        }
        for word in words {
            if let Origin::Stage(stage) = self.origin(word, index)? {
                out.insert(stage);
            }
        }
        Ok(())
    }

    /// The graph of what `target`, a name or a number, needs; of the last stage without one.
    pub(crate) fn graph(&self, target: Option<&str>, with_unused: bool) -> Result<Graph, ParseError> {
        let stages = &self.file.stages;
        let last = stages.len().saturating_sub(1);
        let target = match target {
            None => last,
            Some(name) => {
                let lower = name.to_lowercase();
                let by_name = stages.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str()));
                let by_number = || name.parse::<usize>().ok().filter(|number| *number < stages.len());
                by_name.or_else(by_number).ok_or_else(|| {
                    let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
                    let error = ParseError::new(Span::default(), format!("target stage {name:?} could not be found"));
                    if names.is_empty() { error } else { error.hinted(format!("stages: {}", names.join(", "))) }
                })?
            }
        };
        let mut nodes = BTreeMap::new();
        let mut rest = if with_unused { (0..=target).collect() } else { vec![target] };
        while let Some(index) = rest.pop() {
            let Some(stage) = stages.get(index).filter(|_| !nodes.contains_key(&index)) else { continue };
            let base = self.origin(&stage.image, index)?;
            let mut needs = BTreeSet::new();
            if let Origin::Stage(stage) = base {
                needs.insert(stage);
            }
            for step in &stage.steps {
                self.needs(step, index, &mut needs)?;
            }
            rest.extend(&needs);
            nodes.insert(index, Node { index, base, needs });
        }
        Ok(Graph { nodes: nodes.into_values().collect(), target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::containerfile::parse;

    fn graph(text: &str, target: Option<&str>) -> Result<Vec<(usize, Vec<usize>)>, String> {
        let file = parse(text.as_bytes()).expect("well formed");
        let names = Names { file: &file, contexts: &BTreeMap::new(), lookup: &|_| None };
        let graph = names.graph(target, false).map_err(|error| error.message)?;
        Ok(graph.nodes.into_iter().map(|node| (node.index, node.needs.into_iter().collect())).collect())
    }

    #[test]
    fn only_what_the_target_needs_is_built() {
        let text = "FROM a AS one\nFROM b AS two\nFROM scratch AS unused\nRUN x\nFROM one\nCOPY --from=two /x /y\n\
            RUN --mount=type=bind,from=1,target=/t true\n";
        assert_eq!(graph(text, None).unwrap(), [(0, vec![]), (1, vec![]), (3, vec![0, 1])]);
        assert_eq!(graph(text, Some("TWO")).unwrap(), [(1, vec![])]);
        assert_eq!(graph(text, Some("0")).unwrap(), [(0, vec![])]);
        assert!(graph(text, Some("three")).unwrap_err().contains("could not be found"));
    }

    #[test]
    fn names_mean_earlier_stages_before_images() {
        assert_eq!(graph("FROM x AS x\nFROM x\n", None).unwrap(), [(0, vec![]), (1, vec![0])]);
        assert_eq!(graph("FROM y\nCOPY --from=later /a /a\nFROM z AS later\n", Some("0")).unwrap(), [(0, vec![])]);
        assert!(graph("FROM y\nCOPY --from=1 /a /a\nFROM z\n", Some("0")).is_err());
    }
}
