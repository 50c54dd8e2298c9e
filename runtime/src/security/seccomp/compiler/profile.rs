//! The text format of the default profile.
//!
//! ```text
//! # comment
//! default errno EPERM
//! allow                                       a rule: action, conditions ...
//!     read write openat                       ... and, indented, the calls it is about
//! allow if cap SYS_ADMIN                      only with the capability
//!     mount
//! allow when arg0 & 0x7e020000 == 0 unless cap SYS_ADMIN
//!     clone
//! allow when arg0 in 1 2 16                   one alternative after the other
//!     socket
//! ```
//! Actions are `allow`, `log`, `kill` and `errno NAME`; operators `== != < <= > >=`.

use std::fmt;

use super::abi::Abi;
use super::policy::{Action, Comparison, Condition, Policy, Rule, errno};

/// A profile: rules that depend on the container's capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile<'a> {
    /// What happens to calls that no rule speaks of.
    pub default: Action,
    rules: Vec<ConditionalRule<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ConditionalRule<'a> {
    rule: Rule<'a>,
    /// The rule holds only with this capability, named without `CAP_`.
    needs: Option<&'a str>,
    /// The rule holds only without this one.
    unless: Option<&'a str>,
}

/// A line that is not in the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seccomp profile, line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for SyntaxError {}

impl<'a> Profile<'a> {
    /// Reads a profile.
    ///
    /// # Errors
    /// [`SyntaxError`] for the first line that is not in the format.
    pub fn parse(text: &'a str) -> Result<Self, SyntaxError> {
        let mut default = None;
        let mut rules: Vec<ConditionalRule<'a>> = Vec::new();
        // Rules from here on belong to the last header: `in` makes several of one.
        let mut open = 0;
        for (index, line) in text.lines().enumerate() {
            let error = |problem| SyntaxError { line: index + 1, problem };
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            if line.trim().is_empty() {
                continue;
            } else if line.starts_with(char::is_whitespace) {
                let names: Vec<&str> = words.collect();
                match rules.get_mut(open..).filter(|rules| !rules.is_empty()) {
                    Some(rules) => rules.iter_mut().for_each(|rule| rule.rule.names.extend_from_slice(&names)),
                    None => return Err(error("names of system calls before the first rule")),
                }
            } else if line.starts_with("default ") {
                words.next();
                default = Some(action(&mut words).ok_or(error("unknown action"))?);
            } else {
                open = rules.len();
                rules.extend(header(&mut words).map_err(error)?);
            }
        }
        let default = default.ok_or(SyntaxError { line: 1, problem: "no default action" })?;
        Ok(Self { default, rules })
    }

    /// The policy for a container with these capabilities, named without `CAP_`.
    pub fn select(&self, abis: &[Abi], has_capability: &dyn Fn(&str) -> bool) -> Policy<'a> {
        let applies = |rule: &&ConditionalRule<'a>| {
            rule.needs.is_none_or(has_capability) && !rule.unless.is_some_and(has_capability)
        };
        let rules = self.rules.iter().filter(applies).map(|rule| rule.rule.clone()).collect();
        Policy { default: self.default, abis: abis.to_vec(), rules }
    }
}

fn action<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Action> {
    Some(match words.next()? {
        "allow" => Action::Allow,
        "log" => Action::Log,
        "kill" => Action::KillProcess,
        "errno" => Action::Errno(errno(words.next()?)?),
        _ => return None,
    })
}

fn header<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Vec<ConditionalRule<'a>>, &'static str> {
    let action = action(words).ok_or("unknown action")?;
    let mut words = words.peekable();
    let (mut alternatives, mut needs, mut unless) = (Vec::new(), None, None);
    while let Some(word) = words.next() {
        match word {
            "when" => {
                let argument = words.next().and_then(argument).ok_or("expected arg0 to arg5 after \"when\"")?;
                let operator = words.next().ok_or("expected an operator")?;
                let mut next_number = || {
                    let value = number(words.peek()?)?;
                    words.next();
                    Some(value)
                };
                let first = next_number().ok_or("expected a number after the operator")?;
                let mut condition = |comparison, value| alternatives.push(Condition { argument, comparison, value });
                match operator {
                    "==" => condition(Comparison::Eq, first),
                    "!=" => condition(Comparison::Ne, first),
                    "<" => condition(Comparison::Lt, first),
                    "<=" => condition(Comparison::Le, first),
                    ">" => condition(Comparison::Gt, first),
                    ">=" => condition(Comparison::Ge, first),
                    "in" => {
                        condition(Comparison::Eq, first);
                        while let Some(value) = next_number() {
                            condition(Comparison::Eq, value);
                        }
                    }
                    "&" => {
                        if words.next() != Some("==") {
                            return Err("expected == after the mask");
                        }
                        let value = words.next().and_then(number);
                        let value = value.ok_or("expected a number after ==")?;
                        condition(Comparison::MaskedEq { mask: first }, value);
                    }
                    _ => return Err("unknown operator"),
                }
            }
            "if" | "unless" => {
                if words.next() != Some("cap") {
                    return Err("expected \"cap\"");
                }
                let capability = words.next().ok_or("expected a capability")?;
                *(if word == "if" { &mut needs } else { &mut unless }) = Some(capability);
            }
            _ => return Err("expected \"when\", \"if\" or \"unless\""),
        }
    }
    let rule = |conditions| ConditionalRule { rule: Rule { names: Vec::new(), action, conditions }, needs, unless };
    if alternatives.is_empty() {
        return Ok(vec![rule(Vec::new())]);
    }
    Ok(alternatives.into_iter().map(|condition| rule(vec![condition])).collect())
}

fn argument(word: &str) -> Option<u8> {
    word.strip_prefix("arg")?.parse().ok().filter(|argument| *argument < 6)
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}
