//! What `RUN --mount` asks for.

use super::error::{ParseError, Span};
use super::nearest::nearest;
use super::text::Text;
use super::word::Word;
use crate::cli::parse::size;

/// A `--mount` of RUN as written: its keys are checked, its values may hold variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunMount {
    /// `type`; `bind` if not said.
    pub(crate) kind: MountKind,
    /// `from`: the stage, image or context whose files it shows. Never holds variables.
    pub(crate) from: Option<Word>,
    /// Every option but those two, in order, under its main name; `None` where it stands without a value.
    pub(super) options: Vec<(&'static str, Option<Word>)>,
    /// Where.
    pub(crate) span: Span,
}

/// The type of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file or variable that is never written.
    Secret,
    /// An SSH agent's socket.
    Ssh,
}

/// A `--mount` of RUN with its variables expanded. Paths are as written: relative ones are to be taken from WORKDIR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mount {
    /// `type=bind`.
    Bind {
        /// The path within `from` or the context; its root if empty.
        source: String,
        /// Where it appears.
        target: String,
        /// The stage, image or context.
        from: Option<String>,
        /// `rw`: writes are taken and thrown away.
        writable: bool,
    },
    /// `type=cache`.
    Cache {
        /// What names it; the target if not said.
        id: Option<String>,
        /// Where it appears.
        target: String,
        /// `ro`.
        read_only: bool,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// What it is filled from when it is new.
        from: Option<String>,
        /// The path within `from`.
        source: String,
        /// Of its root directory when it is new; 0755 if not said.
        mode: Option<u32>,
        /// Of its root directory when it is new; 0 if not said.
        uid: Option<u32>,
        /// Of its root directory when it is new; 0 if not said.
        gid: Option<u32>,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// How much it may hold, in bytes.
        size: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// Which one.
        id: String,
        /// The file it appears as: `/run/secrets/ID` if neither this nor `env` is said.
        target: Option<String>,
        /// The variable it appears as.
        env: Option<String>,
        /// Whether it is an error if the build was not given it.
        required: bool,
        /// 0400 if not said.
        mode: Option<u32>,
        /// 0 if not said.
        uid: Option<u32>,
        /// 0 if not said.
        gid: Option<u32>,
    },
    /// `type=ssh`.
    Ssh {
        /// Which agent: `default` if not said.
        id: String,
        /// The socket: `/run/buildkit/ssh_agent.N` if not said.
        target: Option<String>,
        /// Whether it is an error if the build was not given it.
        required: bool,
        /// 0600 if not said.
        mode: Option<u32>,
        /// 0 if not said.
        uid: Option<u32>,
        /// 0 if not said.
        gid: Option<u32>,
    },
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One at a time; the others get a new one.
    Private,
    /// One at a time; the others wait.
    Locked,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The options of each type under their main names.
const BIND: &[&str] = &["type", "from", "source", "target", "readonly", "relabel"];
const CACHE: &[&str] =
    &["type", "from", "source", "target", "readonly", "id", "sharing", "mode", "uid", "gid", "relabel"];
const TMPFS: &[&str] = &["type", "target", "size", "readonly"];
const SECRET: &[&str] = &["type", "id", "target", "env", "required", "mode", "uid", "gid", "readonly"];
const SSH: &[&str] = &["type", "id", "target", "required", "mode", "uid", "gid", "readonly"];

impl MountKind {
    fn named(name: &str) -> Option<MountKind> {
        Some(match name.to_ascii_lowercase().as_str() {
            "bind" => MountKind::Bind,
            "cache" => MountKind::Cache,
            "tmpfs" => MountKind::Tmpfs,
            "secret" => MountKind::Secret,
            "ssh" => MountKind::Ssh,
            _ => return None,
        })
    }

    /// The name in `type=`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Cache => "cache",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Secret => "secret",
            MountKind::Ssh => "ssh",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            MountKind::Bind => BIND,
            MountKind::Cache => CACHE,
            MountKind::Tmpfs => TMPFS,
            MountKind::Secret => SECRET,
            MountKind::Ssh => SSH,
        }
    }
}

/// The main name of an option.
fn main_name(key: &str, kind: MountKind) -> Option<&'static str> {
    Some(match key {
        "type" => "type",
        "from" => "from",
        // A secret's source is its id.
        "source" | "src" if kind == MountKind::Secret => "id",
        "source" | "src" => "source",
        "target" | "dst" | "destination" => "target",
        "readonly" | "ro" => "readonly",
        "readwrite" | "rw" => "readwrite",
        "id" => "id",
        "sharing" => "sharing",
        "required" => "required",
        "env" => "env",
        "size" | "tmpfs-size" => "size",
        "mode" => "mode",
        "uid" => "uid",
        "gid" => "gid",
        // For SELinux, which we do not speak.
        "relabel" | "z" => "relabel",
        _ => return None,
    })
}

impl RunMount {
    /// Reads the value of `--mount`.
    pub(super) fn parse(value: &str, at: Text<'_>) -> Result<RunMount, ParseError> {
        let span = at.span();
        let error = |message: String| ParseError::new(span, message);
        let fields = fields(value).map_err(|reason| error(format!("invalid mount {value:?}: {reason}")))?;
        let mut kind = MountKind::default();
        for field in &fields {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("type")
            {
                kind = MountKind::named(value).ok_or_else(|| {
                    let message =
                        format!("unsupported mount type {value:?}: expected bind, cache, tmpfs, secret or ssh");
                    let names = ["bind", "cache", "tmpfs", "secret", "ssh"];
                    error(message).maybe_hinted(nearest(value, names).map(|name| format!("did you mean {name}?")))
                })?;
            }
        }
        let mut mount = RunMount { kind, from: None, options: Vec::new(), span };
        for field in &fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(at.with_raw(value))),
                None => (field.to_ascii_lowercase(), None),
            };
            let Some(name) = main_name(&key, kind).filter(|name| *name == "readwrite" || kind.options().contains(name))
            else {
                let message = match main_name(&key, kind) {
                    Some(_) => format!("mount option {key:?} is not one of type={}", kind.name()),
                    None => format!("unknown mount option {key:?} in {field:?}"),
                };
                let known = kind.options().iter().copied();
                let hint = nearest(&key, known).map(|name| format!("did you mean {name}?"));
                let all = kind.options().join(", ");
                return Err(error(message).maybe_hinted(hint.or(Some(format!("type={} has {all}", kind.name())))));
            };
            match (name, value) {
                ("type", _) => {}
                ("from", Some(value)) if value.has_variable() => {
                    let message = "the mount option \"from\" cannot hold a variable";
                    return Err(error(message.to_owned())
                        .hinted("give the image a name by a stage of its own: FROM $IMAGE AS name"));
                }
                ("from", Some(value)) => mount.from = Some(value),
                ("readonly" | "readwrite" | "required" | "relabel", None) => mount.options.push((name, None)),
                (_, None) => return Err(error(format!("mount option {key:?} needs a value: expected {key}=VALUE"))),
                (_, Some(value)) => mount.options.push((name, Some(value))),
            }
        }
        // What holds no variables can be judged at once.
        if !mount.options.iter().any(|(_, value)| value.as_ref().is_some_and(Word::has_variable)) {
            mount.expand('\\', &|_| None)?;
        }
        Ok(mount)
    }

    /// The mount with its variables expanded and every value checked.
    ///
    /// # Errors
    /// A value that is not what its option takes, or what its type needs is missing.
    pub(crate) fn expand(&self, escape: char, lookup: Lookup<'_>) -> Result<Mount, ParseError> {
        let values = Values { mount: self, escape, lookup };
        let from = self.from.as_ref().map(|word| word.raw.clone());
        let target = values.text("target")?.filter(|target| !target.is_empty());
        let read_only = values.read_only()?;
        Ok(match self.kind {
            MountKind::Bind => Mount::Bind {
                source: values.text("source")?.unwrap_or_default(),
                target: target.unwrap_or_default(),
                from,
                writable: read_only == Some(false),
            },
            MountKind::Cache => Mount::Cache {
                id: values.text("id")?.filter(|id| !id.is_empty()),
                target: target.ok_or_else(|| self.missing("target"))?,
                read_only: read_only == Some(true),
                sharing: values.sharing()?,
                from,
                source: values.text("source")?.unwrap_or_default(),
                mode: values.number("mode", 8)?,
                uid: values.number("uid", 10)?,
                gid: values.number("gid", 10)?,
            },
            MountKind::Tmpfs => {
                Mount::Tmpfs { target: target.ok_or_else(|| self.missing("target"))?, size: values.size()? }
            }
            MountKind::Secret => {
                let file_name = |path: &String| path.rsplit('/').find(|part| !part.is_empty()).map(str::to_owned);
                let env = values.text("env")?.filter(|env| !env.is_empty());
                Mount::Secret {
                    id: values
                        .text("id")?
                        .filter(|id| !id.is_empty())
                        .or_else(|| target.as_ref().and_then(file_name))
                        .ok_or_else(|| self.missing("id"))?,
                    target,
                    env,
                    required: values.flag("required")?.unwrap_or(false),
                    mode: values.number("mode", 8)?,
                    uid: values.number("uid", 10)?,
                    gid: values.number("gid", 10)?,
                }
            }
            MountKind::Ssh => Mount::Ssh {
                id: values.text("id")?.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned()),
                target,
                required: values.flag("required")?.unwrap_or(false),
                mode: values.number("mode", 8)?,
                uid: values.number("uid", 10)?,
                gid: values.number("gid", 10)?,
            },
        })
    }

    fn missing(&self, option: &str) -> ParseError {
        ParseError::new(self.span, format!("a mount of type={} needs {option}=", self.kind.name()))
    }
}

/// The values of a mount once its variables are known; of an option given twice the last counts.
struct Values<'a> {
    mount: &'a RunMount,
    escape: char,
    lookup: Lookup<'a>,
}

impl Values<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, ParseError> {
        let last = self.mount.options.iter().rev().find(|(known, _)| *known == name);
        let Some((_, Some(word))) = last else { return Ok(None) };
        Ok(Some(word.expand(self.escape, self.lookup)?))
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ParseError> {
        match self.mount.options.iter().rev().find(|(known, _)| *known == name) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            Some(_) => {
                let text = self.text(name)?.unwrap_or_default();
                boolean(&text).map(Some).ok_or_else(|| self.invalid(name, &text, "true or false"))
            }
        }
    }

    /// What the last of `ro` and `rw` says.
    fn read_only(&self) -> Result<Option<bool>, ParseError> {
        match self.mount.options.iter().rev().find(|(name, _)| matches!(*name, "readonly" | "readwrite")) {
            Some(("readwrite", _)) => Ok(self.flag("readwrite")?.map(|writable| !writable)),
            Some(_) => self.flag("readonly"),
            None => Ok(None),
        }
    }

    fn number(&self, name: &str, radix: u32) -> Result<Option<u32>, ParseError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let expected = if radix == 8 { "an octal number" } else { "a number" };
        let is_number = text.starts_with(|c: char| c.is_ascii_digit());
        let number = u32::from_str_radix(&text, radix).ok().filter(|_| is_number);
        number.map(Some).ok_or_else(|| self.invalid(name, &text, expected))
    }

    fn size(&self) -> Result<Option<u64>, ParseError> {
        let Some(text) = self.text("size")? else { return Ok(None) };
        size::bytes(&text).map(Some).map_err(|_| self.invalid("size", &text, "a size such as 64m"))
    }

    fn sharing(&self) -> Result<Sharing, ParseError> {
        let Some(text) = self.text("sharing")? else { return Ok(Sharing::default()) };
        Ok(match text.to_ascii_lowercase().as_str() {
            "shared" => Sharing::Shared,
            "private" => Sharing::Private,
            "locked" => Sharing::Locked,
            _ => return Err(self.invalid("sharing", &text, "shared, private or locked")),
        })
    }

    fn invalid(&self, name: &str, text: &str, expected: &str) -> ParseError {
        ParseError::new(self.mount.span, format!("invalid value {text:?} of mount option {name}: expected {expected}"))
    }
}

/// A truth value in one of Go's spellings.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The fields of a line of comma-separated values; a field that begins with a double quote ends with one.
fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("expected a second double quote"),
                }
            }
            if !matches!(chars.peek(), None | Some(',')) {
                return Err("expected a comma after the double quote");
            }
        }
        while let Some(c) = chars.next_if(|c| *c != ',') {
            if c == '"' {
                return Err("a double quote within a field");
            }
            field.push(c);
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
#[path = "mount_tests.rs"]
mod tests;
