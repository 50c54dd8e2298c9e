//! `--format`: `json`, `table …` and Go templates.
//!
//! ```text
//! lex → parse → exec (functions) → text, laid out by `table` for listings
//! ```
//!
//! The subset of `text/template` that people use with podman and docker: everything but `define`, `template`, `block`
//! and `call`. Beside it stands what podman's `report` package does to a format before it is a template.

mod exec;
mod functions;
mod lex;
mod moment;
mod parse;
mod value;

use crate::cli::{output, table};
use crate::error::CommandError;

pub(crate) use value::{Json, Value};

/// A template that has been parsed.
#[derive(Debug)]
pub(crate) struct Template {
    name: &'static str,
    text: String,
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Parses `text`; `name` is the command's, for messages.
    pub(crate) fn parse(name: &'static str, text: &str) -> Result<Self, CommandError> {
        match parse::parse(text) {
            Ok(nodes) => Ok(Self { name, text: text.to_owned(), nodes }),
            Err(parse::ParseError { line, message }) => {
                // The lines that `Listing` added are not the user's.
                let lines = 1 + text.strip_suffix("\n{{end -}}").unwrap_or(text).matches('\n').count();
                let line = line.min(lines);
                Err(CommandError::user(format_args!("template: {name}:{line}: {message}")))
            }
        }
    }

    /// Runs the template; `type_name` is what Go calls the type of a row.
    ///
    /// What was printed before an error comes with it.
    pub(crate) fn execute(&self, data: &Value, type_name: &str) -> (String, Option<CommandError>) {
        let (out, error) = exec::execute(&self.text, &self.nodes, data, type_name);
        let error = error.map(|exec::ExecError { at, context, message }| {
            let before = &self.text[..at.min(self.text.len())];
            let line = 1 + before.matches('\n').count();
            let column = before.rfind('\n').map_or(at, |newline| at - newline - 1);
            let name = self.name;
            CommandError::user(format_args!(
                "template: {name}:{line}:{column}: executing {name:?} at <{context}>: {message}"
            ))
        });
        (out, error)
    }
}

/// A table without a template: what the default format of a listing would give, for those that may be long.
pub(crate) fn plain(headings: Option<Vec<&str>>, rows: impl Iterator<Item = Vec<String>>, docker: bool) -> String {
    let mut text = headings.map(|headings| headings.join("\t") + "\n").unwrap_or_default();
    for cells in rows {
        for (number, cell) in cells.iter().enumerate() {
            if number > 0 {
                text.push('\t');
            }
            text.push_str(cell);
        }
        text.push('\n');
    }
    lay_out(&text, docker)
}

fn lay_out(text: &str, docker: bool) -> String {
    let columns = if docker { table::DOCKER } else { table::PODMAN };
    match output::table_width() {
        Some(width) => table::fit(text, columns, width),
        None => table::align(text, columns),
    }
}

/// What a listing prints, decided from `--format`, `--quiet` and `--noheading`.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    /// The command's name in messages.
    pub(crate) name: &'static str,
    /// What Go calls the type of a row.
    pub(crate) type_name: &'static str,
    /// The format; begins with `table ` if it is laid out in columns.
    pub(crate) format: &'a str,
    /// The headings of fields whose heading is not their name in capitals.
    pub(crate) headings: &'a [(&'static str, &'static str)],
    /// Print no headings.
    pub(crate) no_heading: bool,
    /// Columns as docker sets them.
    pub(crate) docker: bool,
}

impl Listing<'_> {
    /// Renders the rows.
    pub(crate) fn render(&self, rows: Vec<Value>) -> (String, Option<CommandError>) {
        let is_table = is_table(self.format);
        let template = match Template::parse(self.name, &enforce_range(&normalize(self.format))) {
            Ok(template) => template,
            Err(error) => return (String::new(), Some(error)),
        };
        let mut out = String::new();
        if is_table && !self.no_heading {
            let headings = Value::List(vec![self.heading_row(rows.first())]);
            // A format that cannot be applied to headings shows its error with the rows.
            out = template.execute(&headings, self.type_name).0;
        }
        let (body, error) = template.execute(&Value::List(rows), self.type_name);
        out.push_str(&body);
        (if is_table { lay_out(&out, self.docker) } else { out }, error)
    }

    /// A row whose every field is its own heading. Without rows, the fields are those the headings know and whatever
    /// the format asks for.
    fn heading_row(&self, sample: Option<&Value>) -> Value {
        let mut fields: Vec<(&'static str, Value)> =
            self.headings.iter().map(|(field, heading)| (*field, Value::str(*heading))).collect();
        if let Some(Value::Row(known, _) | Value::Struct(known)) = sample {
            for (field, _) in known {
                if !fields.iter().any(|(name, _)| name == field) {
                    fields.push((field, Value::Str(spaced_capitals(field))));
                }
            }
        }
        match sample {
            Some(_) => Value::Struct(fields),
            // A map has every key; a missing heading is its name in capitals.
            None => {
                let names = field_names(self.format).into_iter().map(|name| {
                    let known = fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.clone());
                    let heading = known.unwrap_or_else(|| Value::Str(spaced_capitals(&name)));
                    (name, heading)
                });
                Value::Map(names.collect())
            }
        }
    }
}

/// Whether a format asks for columns.
pub(crate) fn is_table(format: &str) -> bool {
    format.starts_with("table ")
}

/// Whether a format asks for JSON.
pub(crate) fn is_json(format: &str) -> bool {
    matches!(format.trim(), "json" | "{{json .}}" | "{{ json .}}" | "{{json . }}" | "{{ json . }}")
}

/// Resolves `\t` and `\n`, ends with a line end; in a table spaces separate columns as tabs do.
///
/// # Source
/// containers/common, `pkg/report/template.go` `NormalizeFormat`.
pub(crate) fn normalize(format: &str) -> String {
    let columns = format.strip_prefix("table ");
    let mut text = String::with_capacity(format.len());
    let mut rest = columns.unwrap_or(format);
    while !rest.is_empty() {
        // Inside an action a backslash is a string's business, and spaces separate words.
        let (outside, action) = rest.split_at(rest.find("{{").unwrap_or(rest.len()));
        let outside = outside.replace("\\t", "\t").replace("\\n", "\n");
        text.push_str(&if columns.is_some() { outside.replace(' ', "\t") } else { outside });
        let (action, after) = action.split_at(action.find("}}").map_or(action.len(), |end| end + 2));
        text.push_str(action);
        rest = after;
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Wraps a format for one row into a range over all of them, unless it is one already.
pub(crate) fn enforce_range(format: &str) -> String {
    let ranges = format.split("{{").nth(1).is_some_and(|action| {
        let mut words = action.trim_start_matches('-').split_whitespace();
        words.next() == Some("range") && words.next().is_some_and(|word| word.trim_end_matches("}}") == ".")
    });
    if ranges { format.to_owned() } else { format!("{{{{range .}}}}{format}{{{{end -}}}}") }
}

/// The names after a dot inside the actions of a format.
fn field_names(format: &str) -> Vec<String> {
    format
        .split("{{")
        .skip(1)
        .filter_map(|action| action.split("}}").next())
        .flat_map(|action| action.split('.').skip(1))
        .map(|rest| rest.chars().take_while(char::is_ascii_alphanumeric).collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

/// `CreatedAt` → `CREATED AT`, `ID` → `ID`, `ImageID` → `IMAGE ID`.
fn spaced_capitals(field: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = field.chars().collect();
    for (index, c) in chars.iter().enumerate() {
        let after_lower = index > 0 && chars[index - 1].is_lowercase();
        let before_lower = index > 0
            && chars[index - 1].is_uppercase()
            && chars.get(index + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && (after_lower || before_lower) {
            out.push(' ');
        }
        out.extend(c.to_uppercase());
    }
    out
}

#[cfg(test)]
#[path = "conformance.rs"]
mod conformance;
