//! What is not in a directory of this machine: git repositories and files of web servers, for ADD and as contexts.
//!
//! ```text
//! text → Remote (pure) → fetched into a directory that the build made for it
//! ```

/// Into a directory.
pub(crate) mod fetch;
/// Repositories, by the git program.
pub(crate) mod git;

use git::GitSource;

/// A source by what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    /// A repository, or a directory of one.
    Git(GitSource),
    /// A file.
    Url(String),
}

impl Remote {
    /// What a source of ADD names; `None` for a path.
    ///
    /// # Errors
    /// Why the name of a repository is none.
    pub(crate) fn of_add(text: &str) -> Result<Option<Remote>, String> {
        if let Some(git) = GitSource::parse(text)? {
            return Ok(Some(Remote::Git(git)));
        }
        let is_url = text.starts_with("http://") || text.starts_with("https://");
        Ok(is_url.then(|| Remote::Url(text.to_owned())))
    }

    /// What a context names; `None` for a directory. Here `github.com/…` is a repository as well.
    ///
    /// # Errors
    /// As [`of_add`](Self::of_add).
    pub(crate) fn of_context(text: &str) -> Result<Option<Remote>, String> {
        if text.starts_with("github.com/") {
            return Ok(GitSource::of_url(&format!("https://{text}"))?.map(Remote::Git));
        }
        Self::of_add(text)
    }
}

/// The name that a downloaded file has in a directory: the last part of the URL's path.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (_, path) = path.split_once('/').unwrap_or_default();
    let path = git::decoded(path, false).unwrap_or_default();
    match path.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default() {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name if name.contains('\0') => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_their_url() {
        let cases = [
            ("https://a.b/c/d.tar.gz?x=/y#z", "d.tar.gz"),
            ("https://a.b/c/", "c"),
            ("https://a.b", "__unnamed__"),
            ("https://a.b/", "__unnamed__"),
            ("https://a.b/..", "__unnamed__"),
            ("http://a.b/a%20b+c", "a b+c"),
            ("http://a.b/c%2F..%2fd", "d"),
            ("http://a.b/c%00d", "__unnamed__"),
        ];
        for (url, wanted) in cases {
            assert_eq!(file_name(url), wanted, "{url}");
        }
    }

    #[test]
    fn github_is_a_repository_only_as_a_context() {
        assert!(
            matches!(Remote::of_context("github.com/a/b"), Ok(Some(Remote::Git(git))) if git.url == "https://github.com/a/b")
        );
        assert_eq!(Remote::of_add("github.com/a/b"), Ok(None));
        assert_eq!(Remote::of_context("./github.com/a"), Ok(None));
        assert!(matches!(Remote::of_add("https://a.b/c.tar"), Ok(Some(Remote::Url(_)))));
    }
}
