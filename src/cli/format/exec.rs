//! Runs a template over a value.
//!
//! # Source
//! Go, `text/template/exec.go`.

use super::parse::{Base, Command, Node, Operand, Pipeline};
use super::value::Value;
use super::{functions, moment};
use crate::cli::printable::Printable;

/// Why a template stopped: the place and the reason, without the template's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExecError {
    pub(super) at: usize,
    pub(super) context: String,
    pub(super) message: String,
}

/// Where control goes after a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub(super) struct Executor<'a> {
    text: &'a str,
    /// What Go calls the type of a row, for messages.
    type_name: &'a str,
    /// The variables in sight, innermost last; `""` is `$`.
    variables: Vec<(String, Value)>,
    out: String,
}

/// Runs `nodes` with `data` as dot.
///
/// What was printed before an error is returned with it, as Go writes it before it notices.
pub(super) fn execute(text: &str, nodes: &[Node], data: &Value, type_name: &str) -> (String, Option<ExecError>) {
    let variables = vec![(String::new(), data.clone())];
    let mut executor = Executor { text, type_name, variables, out: String::new() };
    let error = executor.nodes(nodes, data).err();
    (executor.out, error)
}

impl Executor<'_> {
    fn fail(&self, operand: &Operand, message: impl Into<String>) -> ExecError {
        let context = self.text.get(operand.start..operand.end).unwrap_or_default().to_owned();
        // Go points at what was chained to the first word.
        let chained = operand.fields.get(usize::from(operand.base == Base::Dot)..).unwrap_or_default();
        let at = match chained.iter().map(|field| field.len() + 1).sum::<usize>() {
            0 => operand.start,
            length => operand.end - length,
        };
        ExecError { at, context, message: message.into() }
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, ExecError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, ExecError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Output(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    let text = if value == Value::Nil { "<no value>".to_owned() } else { value.to_text() };
                    self.out.push_str(&Printable::lines(&text).to_string());
                }
            }
            Node::If { condition, then, otherwise } => {
                return self.scoped(|this| {
                    let value = this.pipeline(condition, dot)?;
                    this.nodes(if value.is_true() { then } else { otherwise }, dot)
                });
            }
            Node::With { value, then, otherwise } => {
                return self.scoped(|this| {
                    let value = this.pipeline(value, dot)?;
                    if value.is_true() { this.nodes(then, &value) } else { this.nodes(otherwise, dot) }
                });
            }
            Node::Range { over, body, otherwise } => {
                return self.scoped(|this| this.range(over, body, otherwise, dot));
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn scoped(&mut self, run: impl FnOnce(&mut Self) -> Result<Flow, ExecError>) -> Result<Flow, ExecError> {
        let depth = self.variables.len();
        let flow = run(self);
        self.variables.truncate(depth);
        flow
    }

    fn range(&mut self, over: &Pipeline, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<Flow, ExecError> {
        let undeclared = Pipeline { variables: Vec::new(), ..over.clone() };
        let items: Vec<(Value, Value)> = match self.pipeline(&undeclared, dot)? {
            Value::List(list) => {
                list.into_iter().enumerate().map(|(index, value)| (Value::from(index as u64), value)).collect()
            }
            Value::Map(map) => map.into_iter().map(|(key, value)| (Value::Str(key), value)).collect(),
            Value::Int(count) => (0..count).map(|index| (Value::Int(index), Value::Int(index))).collect(),
            Value::Nil | Value::NilList | Value::NilMap | Value::NilPointer => Vec::new(),
            other => {
                let message = format!("range can't iterate over {}", other.to_text());
                let operand = &over.commands[0].words[0];
                return Err(self.fail(operand, message));
            }
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, value) in items {
            let depth = self.variables.len();
            match over.variables.as_slice() {
                [one] => self.bind(one, value.clone(), over.assigns),
                [one, two] => {
                    self.bind(one, key, over.assigns);
                    self.bind(two, value.clone(), over.assigns);
                }
                _ => {}
            }
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(depth);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, assigns: bool) {
        if assigns && let Some((_, slot)) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
            *slot = value;
        } else {
            self.variables.push((name.to_owned(), value));
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, ExecError> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        let value = value.unwrap_or(Value::Nil);
        for name in &pipeline.variables {
            self.bind(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, ExecError> {
        let (first, arguments) = (&command.words[0], &command.words[1..]);
        if let Base::Function(name) = &first.base {
            let result = self.call(first, name, arguments, dot, piped)?;
            return self.fields(first, result, &first.fields);
        }
        let has_arguments = !arguments.is_empty() || piped.is_some();
        if has_arguments && first.fields.last().is_some_and(|field| field == "Label") {
            // The one method rows have: `.Label "key"`.
            let receiver = self.base(first, dot)?;
            let receiver = self.fields(first, receiver, &first.fields[..first.fields.len() - 1])?;
            let key = match arguments.first() {
                Some(argument) => self.operand(argument, dot)?,
                None => piped.unwrap_or(Value::Nil),
            };
            let label = receiver.get("Labels").and_then(|labels| labels.get(&key.to_text()));
            return Ok(label.cloned().unwrap_or_else(|| Value::str("")));
        }
        if let (Some(layout), Some("Format")) = (arguments.first(), first.fields.last().map(String::as_str)) {
            let receiver = self.base(first, dot)?;
            if let Value::Time(time) = self.fields(first, receiver, &first.fields[..first.fields.len() - 1])? {
                return Ok(moment::format(time, &self.operand(layout, dot)?.to_text()).into());
            }
        }
        if has_arguments {
            let context = self.text.get(first.start..first.end).unwrap_or_default();
            return Err(self.fail(first, format!("{context} is not a method but has arguments")));
        }
        if first.base == Base::Nil {
            return Err(self.fail(first, "nil is not a command"));
        }
        self.operand(first, dot)
    }

    fn call(
        &mut self,
        operand: &Operand,
        name: &str,
        arguments: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, ExecError> {
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            // `and` and `or` look no further once they know.
            let decided = match name {
                "and" => !value.is_true(),
                "or" => value.is_true(),
                _ => false,
            };
            if decided {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(piped);
        functions::call(name, &values).map_err(|message| {
            let context = self.text.get(operand.start..arguments.last().map_or(operand.end, |last| last.end));
            let context = context.unwrap_or_default().to_owned();
            ExecError { at: operand.start, context, message: format!("error calling {name}: {message}") }
        })
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, ExecError> {
        let base = self.base(operand, dot)?;
        self.fields(operand, base, &operand.fields)
    }

    fn base(&mut self, operand: &Operand, dot: &Value) -> Result<Value, ExecError> {
        Ok(match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map_or(Value::Nil, |(_, value)| value.clone())
            }
            Base::Literal(value) => value.clone(),
            Base::Nil => Value::Nil,
            Base::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Function(name) => self.call(operand, name, &[], dot, None)?,
        })
    }

    fn fields(&self, operand: &Operand, mut value: Value, fields: &[String]) -> Result<Value, ExecError> {
        for field in fields {
            let found = match &value {
                Value::Time(time) => moment::method(*time, field),
                other => other.get(field).cloned(),
            };
            value = match (found, &value) {
                (Some(found), _) => found,
                // What a map does not have is nothing, as is what nothing has.
                (None, Value::Map(_) | Value::NilMap) => Value::Nil,
                (None, Value::Nil | Value::NilPointer) => {
                    return Err(self.fail(operand, format!("nil pointer evaluating interface {{}}.{field}")));
                }
                (None, other) => {
                    let type_name = match other {
                        Value::Row(..) | Value::Struct(_) => self.type_name,
                        Value::Str(_) => "string",
                        Value::Bool(_) => "bool",
                        Value::Int(_) => "int",
                        Value::Float(_) => "float64",
                        Value::Time(_) => "time.Time",
                        _ => "[]interface {}",
                    };
                    return Err(self.fail(operand, format!("can't evaluate field {field} in type {type_name}")));
                }
            };
        }
        Ok(value)
    }
}
