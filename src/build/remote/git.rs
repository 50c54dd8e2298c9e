//! Repositories, by the git program: `URL.git[#REF[:SUBDIR]]` or `URL.git?branch=…&subdir=…`.
//!
//! The program runs as the caller, so that what he may read can be built. It may not run anything of the repository:
//! hooks are off, protocols that execute commands are refused, and nothing that begins with `-` comes to its arguments.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use runtime::process::dies_with_parent;

use crate::error::{CommandError, reason};

/// A repository, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GitSource {
    /// What git fetches from.
    pub(crate) url: String,
    /// A branch, a tag, a commit or `refs/…`; the default branch if not said.
    pub(crate) reference: Option<String>,
    /// The commit that it must be, in full or its beginning.
    pub(crate) commit: Option<String>,
    /// The directory in it.
    pub(crate) subdir: Option<String>,
    /// Whether `.git` stays.
    pub(crate) keep_git_dir: Option<bool>,
    /// Whether repositories in it are fetched too.
    pub(crate) submodules: Option<bool>,
}

impl GitSource {
    /// Reads a name; `None` if it is none of a repository. A URL of the web is one if its path ends with `.git`.
    ///
    /// # Errors
    /// What is wrong with its fragment or query.
    pub(crate) fn parse(text: &str) -> Result<Option<GitSource>, String> {
        let is_git = ["git://", "ssh://"].iter().any(|scheme| text.starts_with(scheme)) || is_scp(text);
        let is_web = text.starts_with("http://") || text.starts_with("https://");
        let path = text.split(['?', '#']).next().unwrap_or_default();
        if is_git || (is_web && path.ends_with(".git")) { Self::of_url(text) } else { Ok(None) }
    }

    /// Reads a name that is one of a repository.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn of_url(text: &str) -> Result<Option<GitSource>, String> {
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (text, None),
        };
        let (url, query) = match rest.split_once('?') {
            Some((url, query)) if !is_scp(rest) => (url, Some(query)),
            _ => (rest, None),
        };
        let mut source = GitSource { url: url.to_owned(), ..GitSource::default() };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            source.reference = Some(reference.to_owned()).filter(|text| !text.is_empty());
            source.subdir = Some(subdir.to_owned()).filter(|text| !text.is_empty());
        }
        for part in query.iter().flat_map(|query| query.split('&')).filter(|part| !part.is_empty()) {
            source.set(part, fragment.is_some())?;
        }
        if source.url.starts_with('-') || source.reference.as_ref().is_some_and(|text| text.starts_with('-')) {
            return Err("expected a repository and a reference that do not begin with '-'".to_owned());
        }
        Ok(Some(source))
    }

    /// Takes one `key=value` of the query.
    fn set(&mut self, part: &str, has_fragment: bool) -> Result<(), String> {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = decoded(value, true).ok_or_else(|| format!("malformed query {part:?}"))?;
        let truth = || match value.as_str() {
            "" | "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            other => Err(format!("invalid value {other:?} of {key}: expected true or false")),
        };
        match key {
            "ref" | "branch" | "tag" | "subdir" if has_fragment => {
                return Err(format!("{key} is given in the query, and there is a fragment: expected one of them"));
            }
            "ref" | "branch" | "tag" if self.reference.is_some() => {
                return Err("expected one of ref, branch and tag".to_owned());
            }
            "ref" => self.reference = Some(value),
            "branch" => self.reference = Some(format!("refs/heads/{value}")),
            "tag" => self.reference = Some(format!("refs/tags/{value}")),
            "subdir" => self.subdir = Some(value),
            "checksum" | "commit" => {
                if value.len() < 7 || !value.chars().all(|c| c.is_ascii_hexdigit()) {
                    return Err(format!("invalid {key} {value:?}: expected a commit"));
                }
                self.commit = Some(value.to_ascii_lowercase());
            }
            "keep-git-dir" => self.keep_git_dir = truth()?,
            "submodules" => self.submodules = truth()?,
            other => return Err(format!("unknown key {other:?} in the query")),
        }
        Ok(())
    }

    /// Fetches it into `directory`, which is empty, and gives the directory that was asked for, and the commit.
    ///
    /// # Errors
    /// git is missing, or what it says.
    pub(crate) fn fetch(&self, directory: &Path) -> Result<(PathBuf, String), CommandError> {
        let git = Git { directory, shown: &self.url };
        git.run(&["init", "-q"])?;
        let wanted = self.reference.as_deref().or(self.commit.as_deref()).unwrap_or("HEAD");
        // One commit is enough, if the server gives it by that name and can count; a shortened commit needs all of them.
        let shallow = git.run(&["fetch", "-q", "--depth=1", "--no-tags", "--", &self.url, wanted]);
        let fetched = shallow.or_else(|first| {
            let whole = git.run(&["fetch", "-q", "--no-tags", "--", &self.url, wanted]);
            whole.map_err(|_| first)
        });
        match fetched {
            Ok(_) => git.run(&["checkout", "-q", "--detach", "FETCH_HEAD"])?,
            Err(first) => {
                let everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
                let all = git.run(&["fetch", "-q", "--", &self.url, everything[0], everything[1]]);
                let commit = format!("{wanted}^{{commit}}");
                let found = all.and_then(|_| git.run(&["rev-parse", "-q", "--verify", &commit]));
                // What the first attempt said is about what was asked for.
                let commit = found.map_err(|_| first)?;
                git.run(&["checkout", "-q", "--detach", commit.trim()])?
            }
        };
        let commit = git.run(&["rev-parse", "HEAD"])?.trim().to_owned();
        if let Some(expected) = self.commit.as_deref().filter(|expected| !commit.starts_with(expected)) {
            let message = format!("{}: expected commit {expected}, found {commit}", self.url);
            return Err(CommandError::user(message));
        }
        if self.submodules != Some(false) && directory.join(".gitmodules").is_file() {
            git.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
        }
        Ok((self.subdirectory(directory)?, commit))
    }

    /// The directory in the repository that was asked for; not one that a link leads out to.
    fn subdirectory(&self, directory: &Path) -> Result<PathBuf, CommandError> {
        let Some(subdir) = &self.subdir else { return Ok(directory.to_owned()) };
        let failed = |why: String| CommandError::user(format!("{}: directory {subdir}: {why}", self.url));
        let root = directory.canonicalize().map_err(|error| failed(reason(&error)))?;
        let inner = root.join(subdir.trim_start_matches('/'));
        let inner = inner.canonicalize().map_err(|error| failed(reason(&error)))?;
        match inner.starts_with(&root) {
            false => Err(failed("it is outside of the repository".to_owned())),
            true if !inner.is_dir() => Err(failed("not a directory".to_owned())),
            true => Ok(inner),
        }
    }
}

/// Takes `.git` away.
///
/// # Errors
/// What cannot be removed.
pub(crate) fn forget_history(directory: &Path) -> Result<(), CommandError> {
    let path = directory.join(".git");
    let removed = match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(CommandError::host(format!("remove {}: {}", path.display(), reason(&error))))
        }
        _ => Ok(()),
    }
}

struct Git<'a> {
    directory: &'a Path,
    shown: &'a str,
}

impl Git<'_> {
    fn run(&self, args: &[impl AsRef<OsStr>]) -> Result<String, CommandError> {
        let mut command = Command::new("git");
        command
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "protocol.ext.allow=never",
                "-c",
                "advice.detachedHead=false",
            ])
            .args(["-c", "init.defaultBranch=main", "-c", "core.fsmonitor=false", "-c", "gc.auto=0"])
            .args(args)
            .current_dir(self.directory)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", allowed_protocols())
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .stdin(Stdio::null());
        let output = dies_with_parent(&mut command).output();
        let output = output.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                CommandError::host(format!("{}: there is no git program on this machine", self.shown))
                    .hinted("install git")
            }
            _ => CommandError::host(format!("run git: {}", reason(&error))),
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rev().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
        let said =
            said.map_or("git failed", |line| line.trim_start_matches("fatal:").trim_start_matches("error:").trim());
        Err(CommandError::user(format!("{}: {said}", self.shown)))
    }
}

/// Those that a server answers; a file's own ones only where tests ask for them.
fn allowed_protocols() -> String {
    std::env::var("GIT_ALLOW_PROTOCOL").unwrap_or_else(|_| "http:https:git:ssh".to_owned())
}

/// `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    !user.starts_with('-')
        && is_name(user)
        && rest.split_once(':').is_some_and(|(host, path)| is_name(host) && !path.is_empty())
}

/// `%41` of a URL, and `+` of a query.
pub(super) fn decoded(text: &str, is_query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, following @ ..] = rest {
        rest = following;
        match (first, following) {
            (b'%', [high, low, following @ ..]) => {
                let pair = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
                rest = following;
            }
            (b'%', _) => return None,
            (b'+', _) if is_query => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_repositories() {
        let source = |url: &str, reference: Option<&str>, subdir: Option<&str>| GitSource {
            url: url.to_owned(),
            reference: reference.map(str::to_owned),
            subdir: subdir.map(str::to_owned),
            ..GitSource::default()
        };
        let cases = [
            ("https://a.b/c.git", source("https://a.b/c.git", None, None)),
            ("https://a.b/c.git#main", source("https://a.b/c.git", Some("main"), None)),
            ("https://a.b/c.git#v1:sub/dir", source("https://a.b/c.git", Some("v1"), Some("sub/dir"))),
            ("https://a.b/c.git#:sub", source("https://a.b/c.git", None, Some("sub"))),
            ("git@a.b:c/d.git#x", source("git@a.b:c/d.git", Some("x"), None)),
            ("ssh://git@a.b:22/c", source("ssh://git@a.b:22/c", None, None)),
            ("git://a.b/c?tag=1&subdir=a%2Fb", source("git://a.b/c", Some("refs/tags/1"), Some("a/b"))),
            ("http://a.b/c.git?branch=x", source("http://a.b/c.git", Some("refs/heads/x"), None)),
        ];
        for (text, wanted) in cases {
            assert_eq!(GitSource::parse(text), Ok(Some(wanted)), "{text}");
        }
        let asked = GitSource::parse("https://a.b/c.git?commit=ABCDEF0&keep-git-dir=1&submodules=false");
        let asked = asked.expect("a name").expect("a repository");
        assert_eq!(
            (asked.commit.as_deref(), asked.keep_git_dir, asked.submodules),
            (Some("abcdef0"), Some(true), Some(false))
        );
        for path in ["a/b", "./c.git", "https://a.b/c", "https://a.b/c.git/d", "a@b", "-x@b:c", "me@host", "a b@c:d"] {
            assert_eq!(GitSource::parse(path), Ok(None), "{path}");
        }
        for bad in [
            "https://a.b/c.git#--upload-pack=x",
            "https://a.b/c.git?ref=-x",
            "https://a.b/c.git?ref=a#b",
            "https://a.b/c.git?ref=a&tag=b",
            "https://a.b/c.git?other=1",
            "https://a.b/c.git?commit=xyz",
            "https://a.b/c.git?ref=%4",
            "https://a.b/c.git?submodules=maybe",
        ] {
            assert!(GitSource::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn subdirectory_does_not_lead_out() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("in")).expect("a directory");
        std::os::unix::fs::symlink("/etc", directory.path().join("out")).expect("a link");
        let of = |subdir: &str| {
            GitSource { subdir: Some(subdir.to_owned()), ..GitSource::default() }.subdirectory(directory.path())
        };
        assert!(of("in").is_ok_and(|path| path.ends_with("in")) && of("/in/").is_ok());
        assert!(of("out").is_err() && of("..").is_err() && of("none").is_err());
    }
}
