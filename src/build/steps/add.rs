//! ADD: COPY that unpacks archives.

use super::super::containerfile::{Add, Step};
use super::super::stage::Stage;
use super::copy::{From, Item};
use crate::error::CommandError;

impl Stage<'_> {
    /// ADD.
    pub(in super::super) fn add(&mut self, add: &Add, step: &Step) -> Result<(), CommandError> {
        let mut job = self.job(&add.transfer, From::Context(&self.build.source))?;
        for item in &job.items {
            let Item::Pattern(source) = item else { continue };
            if let Some(kind) = remote(source) {
                return Err(CommandError::user(format!("ADD {source}: {kind} cannot be added yet"))
                    .hinted("download it in a RUN, or into the context"));
            }
        }
        if add.checksum.is_some() {
            return Err(CommandError::user("ADD --checksum: only what is downloaded has one"));
        }
        job.unpack = add.unpack.unwrap_or(true);
        self.transfer(job, step, "ADD")
    }
}

/// What a source is that is not in the context.
fn remote(source: &str) -> Option<&'static str> {
    if source.starts_with("git@") || source.starts_with("git://") || source.starts_with("ssh://") {
        return Some("a git repository");
    }
    let url = source.strip_prefix("https://").or_else(|| source.strip_prefix("http://"))?;
    let path = url.split(['?', '#']).next().unwrap_or(url);
    Some(if path.ends_with(".git") { "a git repository" } else { "a URL" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_elsewhere_are_told_by_their_names() {
        assert_eq!(remote("https://example.com/a.tar.gz"), Some("a URL"));
        assert_eq!(remote("https://example.com/a.git#main:sub"), Some("a git repository"));
        assert_eq!(remote("git@example.com:a.git"), Some("a git repository"));
        assert_eq!(remote("http.txt"), None);
    }
}
