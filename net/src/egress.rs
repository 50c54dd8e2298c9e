//! What a container may reach beyond its networks: rules as data.
//!
//! ```text
//! --egress ─ Rules ─┬▶ netfilter::egress: one table for each container, in the user's namespace
//!                   └▶ dns: which names are answered, and to which set of addresses the answers belong
//! ```
//! The first rule that a packet meets decides. What none names is refused if there is a rule that allows something, and
//! passes if there is none; `*` says so expressly. A name is known by what our own resolver has answered for it.
//!
//! Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::subnet::Range;

/// What happens to what meets a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is refused, and noted.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every address.
    Anything,
    /// These addresses.
    Addresses(Range),
    /// What this name leads to.
    Name(String),
    /// What every name below this one leads to, but not itself.
    Below(String),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What happens.
    pub verdict: Verdict,
    /// To what.
    pub target: Target,
    /// The first and last port, of TCP and UDP; else every protocol.
    pub ports: Option<(u16, u16)>,
}

/// A rule that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// It begins with neither.
    #[error("must be allow=HOST[:PORT], allow=CIDR[:PORT], deny=CIDR[:PORT] or deny=*")]
    Verdict,
    /// Neither an address nor a name.
    #[error("{0:?} is neither a host, nor an address, nor a CIDR")]
    Target(String),
    /// No port.
    #[error("invalid port {0:?}: must be PORT or FIRST-LAST")]
    Port(String),
    /// Only addresses can be denied.
    #[error("a host can only be allowed: its addresses are reached without its name, so deny those")]
    DeniedName,
    /// `*` is both allowed and denied.
    #[error("allow=* and deny=* contradict each other")]
    Contradiction,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (verdict, target) = match text.split_once('=') {
            Some(("allow", target)) => (Verdict::Allow, target),
            Some(("deny", target)) => (Verdict::Deny, target),
            _ => return Err(RuleError::Verdict),
        };
        if let Some(range) = range(target) {
            return Ok(Self { verdict, target: Target::Addresses(range), ports: None });
        }
        let (host, ports) = match target.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((inner, "")) => (inner, None),
            Some((inner, rest)) => (inner, Some(rest.strip_prefix(':').unwrap_or(rest))),
            None => target.split_once(':').map_or((target, None), |(host, ports)| (host, Some(ports))),
        };
        let ports =
            ports.map(|ports| self::ports(ports).ok_or_else(|| RuleError::Port(ports.to_owned()))).transpose()?;
        let target = match range(host) {
            Some(range) => Target::Addresses(range),
            None if host == "*" => Target::Anything,
            None => name(host).ok_or_else(|| RuleError::Target(host.to_owned()))?,
        };
        if verdict == Verdict::Deny && matches!(target, Target::Name(_) | Target::Below(_)) {
            return Err(RuleError::DeniedName);
        }
        Ok(Self { verdict, target, ports })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.verdict == Verdict::Allow { "allow=" } else { "deny=" })?;
        match &self.target {
            Target::Anything => f.write_str("*"),
            Target::Addresses(range) if range.first.is_ipv6() && self.ports.is_some() => write!(f, "[{range}]"),
            Target::Addresses(range) => write!(f, "{range}"),
            Target::Name(name) => f.write_str(name),
            Target::Below(name) => write!(f, "*.{name}"),
        }?;
        match self.ports {
            None => Ok(()),
            Some((first, last)) if first == last => write!(f, ":{first}"),
            Some((first, last)) => write!(f, ":{first}-{last}"),
        }
    }
}

fn range(text: &str) -> Option<Range> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Range::around(ip, if ip.is_ipv4() { 32 } else { 128 }),
        Err(_) => Range::parse(text).ok(),
    }
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (ports.0 != 0 && ports.0 <= ports.1).then_some(ports)
}

/// A name as questions have it: in lower case, without the last dot.
fn name(text: &str) -> Option<Target> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let (is_below, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text.as_str()),
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // An address that is none, as 10.0.0.256, is no name either.
    let is_number = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > 253 || !name.split('.').all(is_label) || is_number {
        return None;
    }
    Some(if is_below { Target::Below(name.to_owned()) } else { Target::Name(name.to_owned()) })
}

/// All rules of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Rules {
    rules: Vec<Rule>,
    default: Verdict,
}

impl Rules {
    /// Parses them, one each.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, RuleError> {
        let mut rules: Vec<Rule> = texts.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        let mut expressly = None;
        for rule in rules.extract_if(.., |rule| rule.target == Target::Anything && rule.ports.is_none()) {
            if expressly.is_some_and(|before| before != rule.verdict) {
                return Err(RuleError::Contradiction);
            }
            expressly = Some(rule.verdict);
        }
        let allows = rules.iter().any(|rule| rule.verdict == Verdict::Allow);
        let default = expressly.unwrap_or(if allows { Verdict::Deny } else { Verdict::Allow });
        Ok(Self { rules, default })
    }

    /// In order, but for that of [`Rules::default_verdict`].
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// What happens to what no rule is about.
    #[must_use]
    pub fn default_verdict(&self) -> Verdict {
        self.default
    }

    /// The rules, by number, that allow what a name leads to.
    #[must_use]
    pub fn about(&self, name: &str) -> Vec<usize> {
        // Who looks for `_http._tcp.deb.debian.org` wants to know where `deb.debian.org` is.
        let service = |label: &&str| label.starts_with('_');
        let labels = name.split('.').take_while(service).map(|label| label.len() + 1).sum();
        let name = name.get(labels..).unwrap_or(name);
        let is_about = |rule: &Rule| match &rule.target {
            Target::Name(allowed) => allowed == name,
            Target::Below(above) => {
                name.strip_suffix(above.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Target::Anything | Target::Addresses(_) => false,
        };
        (0..).zip(&self.rules).filter(|(_, rule)| is_about(rule)).map(|(number, _)| number).collect()
    }

    /// Whether a name is looked up for the container. If only names are allowed, no others are: a question is a way out,
    /// too.
    #[must_use]
    pub fn may_ask(&self, name: Option<&str>) -> bool {
        self.default == Verdict::Allow
            || self.rules.iter().any(|rule| {
                rule.verdict == Verdict::Allow && matches!(rule.target, Target::Addresses(_) | Target::Anything)
            })
            || name.is_some_and(|name| !self.about(name).is_empty())
    }
}

impl TryFrom<Vec<String>> for Rules {
    type Error = RuleError;

    fn try_from(texts: Vec<String>) -> Result<Self, RuleError> {
        Self::parse(texts.iter().map(String::as_str))
    }
}

impl From<Rules> for Vec<String> {
    fn from(rules: Rules) -> Self {
        let default = Rule { verdict: rules.default, target: Target::Anything, ports: None };
        rules.rules.iter().chain([&default]).map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules, RuleError> {
        Rules::parse(text.split(','))
    }

    #[test]
    fn rules_are_read_and_shown() {
        for (text, shown) in [
            ("allow=example.org,deny=*", "allow=example.org deny=*"),
            ("deny=*,allow=*.Debian.org.:80-443", "allow=*.debian.org:80-443 deny=*"),
            ("allow=10.1.2.3/8", "allow=10.0.0.0/8 deny=*"),
            ("allow=10.1.2.3:53", "allow=10.1.2.3/32:53 deny=*"),
            ("allow=2001:db8::1,allow=[2001:db8::/32]:443", "allow=2001:db8::1/128 allow=[2001:db8::/32]:443 deny=*"),
            ("deny=10.0.0.0/8,deny=*:25", "deny=10.0.0.0/8 deny=*:25 allow=*"),
        ] {
            let read = rules(text).unwrap();
            let words: Vec<String> = read.clone().into();
            assert_eq!(words.join(" "), shown, "{text}");
            assert_eq!(Rules::try_from(words).unwrap(), read);
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for (text, error) in [
            ("", RuleError::Verdict),
            ("example.org", RuleError::Verdict),
            ("permit=example.org", RuleError::Verdict),
            ("allow=", RuleError::Target(String::new())),
            ("allow=10.0.0.256", RuleError::Target("10.0.0.256".into())),
            ("allow=a..b", RuleError::Target("a..b".into())),
            ("allow=*.*", RuleError::Target("*.*".into())),
            ("allow=exa mple", RuleError::Target("exa mple".into())),
            ("allow=example.org:0", RuleError::Port("0".into())),
            ("allow=example.org:http", RuleError::Port("http".into())),
            ("allow=example.org:20-10", RuleError::Port("20-10".into())),
            ("deny=example.org", RuleError::DeniedName),
            ("allow=*,deny=*", RuleError::Contradiction),
        ] {
            assert_eq!(rules(text), Err(error), "{text}");
        }
    }

    #[test]
    fn names_meet_the_rules_that_are_about_them() {
        let all = rules("allow=example.org,allow=*.example.org,allow=10.0.0.0/8,allow=example.org:80").unwrap();
        for (name, about) in [
            ("example.org", &[0, 3][..]),
            ("a.example.org", &[1]),
            ("a.b.example.org", &[1]),
            ("_http._tcp.example.org", &[0, 3]),
            ("badexample.org", &[]),
            (".example.org", &[]),
            ("example.org.evil.net", &[]),
            ("_http._tcp", &[]),
        ] {
            assert_eq!(all.about(name), about, "{name}");
        }
    }

    #[test]
    fn names_are_asked_for_unless_only_others_are_allowed() {
        for (text, may) in [
            ("allow=example.org", false),
            ("deny=*", false),
            ("allow=example.org,allow=*", true),
            ("allow=example.org,allow=10.0.0.0/8", true),
            ("allow=example.org,deny=10.0.0.0/8", false),
            ("deny=10.0.0.0/8", true),
        ] {
            let rules = rules(text).unwrap();
            assert_eq!((rules.may_ask(Some("evil.net")), rules.may_ask(None)), (may, may), "{text}");
        }
        assert!(rules("allow=example.org").unwrap().may_ask(Some("example.org")));
    }
}
