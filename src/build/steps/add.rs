//! ADD: COPY that unpacks archives.

use storage::digest::Digest;

use super::super::containerfile::{Add, Step};
use super::super::context::Source;
use super::super::ignore::Ignore;
use super::super::remote::{Remote, as_pattern, fetch};
use super::super::stage::Stage;
use super::copy::{From, Item, Job};
use crate::error::CommandError;

impl Stage<'_> {
    /// ADD.
    pub(in super::super) fn add(&mut self, add: &Add, step: &Step) -> Result<(), CommandError> {
        let build = self.build;
        let job = self.job(&add.transfer, From::Context(&build.source))?;
        let mut remotes = Vec::new();
        for item in &job.items {
            if let Item::Pattern(source) = item {
                let remote = Remote::of_add(source);
                let remote = remote.map_err(|why| CommandError::user(format!("ADD {source}: {why}")))?;
                remotes.extend(remote);
            }
        }
        let checksum = add.checksum.as_ref().map(|word| self.expand(word)).transpose()?;
        if remotes.is_empty() {
            if checksum.is_some() {
                return Err(CommandError::user("ADD --checksum: only what is downloaded has one"));
            }
            let unpack = add.unpack.unwrap_or(true);
            return self.transfer(Job { unpack, ..job }, step, "ADD");
        }
        if remotes.len() < job.items.len() {
            return Err(CommandError::user("ADD: files of the context and downloaded ones in one instruction")
                .hinted("give them an ADD each"));
        }
        let unpack = add.unpack.unwrap_or(false);
        let (fetched, items) = match remotes.as_slice() {
            [Remote::Git(git)] => {
                let mut git = git.clone();
                if let Some(commit) = checksum {
                    git.commit = Some(commit.to_ascii_lowercase());
                }
                let keep = add.keep_git_dir.or(git.keep_git_dir).unwrap_or(false);
                (fetch::repository(&git, keep, &build.cache)?, vec![".".to_owned()])
            }
            remotes => {
                let urls = remotes.iter().map(|remote| match remote {
                    Remote::Url(url) => Ok(url.clone()),
                    Remote::Git(git) => {
                        Err(CommandError::user(format!("ADD {}: a repository with other sources", git.url))
                            .hinted("give it an ADD of its own"))
                    }
                });
                let urls = urls.collect::<Result<Vec<_>, _>>()?;
                if checksum.is_some() && urls.len() > 1 {
                    return Err(CommandError::user("ADD --checksum: it is of one file, and there are several"));
                }
                let checksum = checksum.map(|text| {
                    Digest::parse(&text).map_err(|why| CommandError::user(format!("ADD --checksum={text}: {why}")))
                });
                let (fetched, names) = fetch::files(&urls, checksum.transpose()?.as_ref(), &build.cache)?;
                (fetched, names.iter().map(|name| as_pattern(name)).collect())
            }
        };
        let source = Source::open(&fetched.directory, Ignore::default())?;
        let items = items.into_iter().map(Item::Pattern).collect();
        self.transfer(Job { from: From::Context(&source), items, unpack, ..job }, step, "ADD")
    }
}
