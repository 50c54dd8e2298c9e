//! The grammar of templates: tokens → nodes.
//!
//! # Source
//! Go, `text/template/parse/parse.go`.

use super::functions;
use super::lex::{Spanned, Token, tokens};
use super::value::Value;

/// A template that cannot be parsed: line and reason, without the template's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseError {
    pub(super) line: usize,
    pub(super) message: String,
}

impl ParseError {
    pub(super) fn new(text: &str, at: usize, message: &str) -> Self {
        Self { line: 1 + text[..at].matches('\n').count(), message: message.to_owned() }
    }
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Output(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
    Break,
    Continue,
}

/// `[$a, $b :=] command | command …`
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    pub(super) variables: Vec<String>,
    /// `=` rather than `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// `operand argument …`
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    pub(super) words: Vec<Operand>,
}

/// One word and the fields taken of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
    /// Where it stands, for messages.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a word begins with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Nil,
    Pipeline(Box<Pipeline>),
}

/// Parses a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, ParseError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens, at: 0, ranges: 0, scopes: vec![String::new()] };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End => Err(parser.fail("unexpected {{end}}")),
        Stop::Else(_) => Err(parser.fail("unexpected {{else}}")),
    }
}

/// What ended a list of nodes.
enum Stop {
    Text,
    End,
    /// `{{else}}`, or `{{else if …}}` and `{{else with …}}` with the keyword.
    Else(Option<String>),
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Spanned>,
    at: usize,
    ranges: usize,
    /// The variables in sight; `""` is `$`.
    scopes: Vec<String>,
}

impl Parser<'_> {
    fn fail(&self, message: &str) -> ParseError {
        let at = self.tokens.get(self.at.saturating_sub(1)).map_or(self.text.len(), |token| token.start);
        ParseError::new(self.text, at, message)
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|spanned| &spanned.token)
    }

    fn next(&mut self) -> Option<Spanned> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), ParseError> {
        let mut nodes = Vec::new();
        loop {
            match self.next().map(|spanned| spanned.token) {
                None => return Ok((nodes, Stop::Text)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                // Outside of actions there is nothing but text and their beginnings.
                Some(_) => {
                    let keyword = match self.peek() {
                        Some(Token::Identifier(word)) => word.clone(),
                        _ => String::new(),
                    };
                    if !matches!(keyword.as_str(), "end" | "else" | "if" | "with" | "range" | "break" | "continue") {
                        let pipeline = self.pipeline("command")?;
                        self.close()?;
                        nodes.push(Node::Output(pipeline));
                        continue;
                    }
                    self.at += 1;
                    match keyword.as_str() {
                        "end" => {
                            self.close()?;
                            return Ok((nodes, Stop::End));
                        }
                        "else" => return Ok((nodes, self.otherwise()?)),
                        "break" | "continue" => {
                            if self.ranges == 0 {
                                return Err(self.fail(&format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                            }
                            self.close()?;
                            nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                        }
                        keyword => nodes.push(self.block(keyword)?),
                    }
                }
            }
        }
    }

    fn otherwise(&mut self) -> Result<Stop, ParseError> {
        if let Some(Token::Identifier(word)) = self.peek()
            && matches!(word.as_str(), "if" | "with")
        {
            let word = word.clone();
            self.at += 1;
            return Ok(Stop::Else(Some(word)));
        }
        self.close()?;
        Ok(Stop::Else(None))
    }

    fn block(&mut self, keyword: &str) -> Result<Node, ParseError> {
        let scope = self.scopes.len();
        let pipeline = self.pipeline(keyword)?;
        self.close()?;
        let is_range = keyword == "range";
        self.ranges += usize::from(is_range);
        let (then, end) = self.nodes()?;
        self.ranges -= usize::from(is_range);
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::Text => return Err(self.fail("unexpected EOF")),
            // `{{else if}}` is an `{{if}}` inside the `{{else}}` that shares its `{{end}}`.
            Stop::Else(Some(keyword)) => vec![self.block(&keyword)?],
            Stop::Else(None) => match self.nodes()? {
                (nodes, Stop::End) => nodes,
                (_, Stop::Else(_)) => return Err(self.fail("expected end; found {{else}}")),
                (_, Stop::Text) => return Err(self.fail("unexpected EOF")),
            },
        };
        self.scopes.truncate(scope);
        Ok(match keyword {
            "if" => Node::If { condition: pipeline, then, otherwise },
            "with" => Node::With { value: pipeline, then, otherwise },
            _ => Node::Range { over: pipeline, body: then, otherwise },
        })
    }

    fn close(&mut self) -> Result<(), ParseError> {
        match self.next().map(|spanned| spanned.token) {
            Some(Token::Close) => Ok(()),
            _ => Err(self.fail("unexpected token in action")),
        }
    }

    fn pipeline(&mut self, context: &str) -> Result<Pipeline, ParseError> {
        let mut pipeline = Pipeline { variables: Vec::new(), assigns: false, commands: Vec::new() };
        self.declaration(context, &mut pipeline)?;
        loop {
            let command = self.command()?;
            if command.words.is_empty() {
                return Err(self.fail(&format!("missing value for {context}")));
            }
            if !pipeline.commands.is_empty()
                && !matches!(command.words[0].base, Base::Function(_) | Base::Dot | Base::Variable(_))
            {
                return Err(self.fail("non executable command in pipeline"));
            }
            pipeline.commands.push(command);
            if self.peek() != Some(&Token::Pipe) {
                break;
            }
            self.at += 1;
        }
        if !pipeline.assigns {
            self.scopes.extend(pipeline.variables.iter().cloned());
        }
        Ok(pipeline)
    }

    fn declaration(&mut self, context: &str, pipeline: &mut Pipeline) -> Result<(), ParseError> {
        let start = self.at;
        let mut variables = Vec::new();
        while let Some(Token::Variable(name)) = self.peek() {
            variables.push(name.clone());
            self.at += 1;
            match self.peek() {
                Some(Token::Comma) if context == "range" && variables.len() < 2 => self.at += 1,
                Some(token @ (Token::Declare | Token::Assign)) => {
                    pipeline.assigns = *token == Token::Assign;
                    pipeline.variables = variables;
                    self.at += 1;
                    return Ok(());
                }
                _ => break,
            }
        }
        self.at = start;
        Ok(())
    }

    fn command(&mut self) -> Result<Command, ParseError> {
        let mut words = Vec::new();
        while !matches!(self.peek(), None | Some(Token::Pipe | Token::Right | Token::Close)) {
            words.push(self.operand()?);
        }
        Ok(Command { words })
    }

    fn operand(&mut self) -> Result<Operand, ParseError> {
        let Some(Spanned { token, start, mut end }) = self.next() else { return Err(self.fail("unexpected EOF")) };
        let mut fields = Vec::new();
        let base = match token {
            Token::Dot => Base::Dot,
            Token::Field(name) => {
                fields.push(name);
                Base::Dot
            }
            Token::Variable(name) => {
                if !self.scopes.contains(&name) {
                    return Err(self.fail(&format!("undefined variable \"${name}\"")));
                }
                Base::Variable(name)
            }
            Token::Str(text) => Base::Literal(Value::Str(text)),
            Token::Number(text) => match number(&text) {
                Some(value) => Base::Literal(value),
                None => return Err(self.fail(&format!("bad number syntax: {text:?}"))),
            },
            Token::Identifier(word) => match word.as_str() {
                "true" => Base::Literal(Value::Bool(true)),
                "false" => Base::Literal(Value::Bool(false)),
                "nil" => Base::Nil,
                _ if functions::exists(&word) => Base::Function(word),
                _ => return Err(self.fail(&format!("function {word:?} not defined"))),
            },
            Token::Left => {
                let pipeline = self.pipeline("parenthesized pipeline")?;
                match self.next() {
                    Some(Spanned { token: Token::Right, end: right, .. }) => end = right,
                    _ => return Err(self.fail("unclosed left paren")),
                }
                Base::Pipeline(Box::new(pipeline))
            }
            _ => return Err(self.fail(&format!("unexpected {:?} in operand", &self.text[start..end]))),
        };
        // A field belongs to the word it touches.
        while let Some(Spanned { token: Token::Field(name), start: next, end: next_end }) = self.tokens.get(self.at) {
            if *next != end {
                break;
            }
            if matches!(base, Base::Literal(_) | Base::Nil) {
                return Err(self.fail(&format!("unexpected . after term {:?}", &self.text[start..end])));
            }
            fields.push(name.clone());
            end = *next_end;
            self.at += 1;
        }
        Ok(Operand { base, fields, start, end })
    }
}

fn number(text: &str) -> Option<Value> {
    if let Some(c) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        let c = match c {
            "\\n" => '\n',
            "\\t" => '\t',
            "\\\\" => '\\',
            "\\'" => '\'',
            c => c.chars().next().filter(|first| first.len_utf8() == c.len())?,
        };
        return Some(Value::Int(i64::from(u32::from(c))));
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = digits.strip_prefix(prefix) {
            return i64::from_str_radix(digits, radix).ok().map(|value| Value::Int(sign * value));
        }
    }
    if let Ok(value) = digits.parse::<i64>() {
        return Some(Value::Int(sign * value));
    }
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return plain.parse().ok().map(Value::Float);
    }
    None
}
