//! ADD: COPY that unpacks archives, and fetches what is elsewhere.

use storage::build::tree::Tree;

use super::super::containerfile::{Add, Step};
use super::super::remote::Remote;
use super::super::stage::Stage;
use super::copy::{From, Item};
use crate::error::CommandError;

impl Stage<'_> {
    /// ADD.
    pub(in super::super) fn add(&mut self, add: &Add, step: &Step) -> Result<(), CommandError> {
        let mut job = self.job(&add.transfer, From::Context(&self.build.source))?;
        let checksum = add.checksum.as_ref().map(|word| self.expand(word)).transpose()?;
        // They stay until the step is done.
        let (mut places, mut missing) = (Vec::new(), Vec::new());
        for item in &mut job.items {
            let Item::Pattern(source) = item else { continue };
            let Some(remote) = Remote::of_add(source).map_err(CommandError::user)? else { continue };
            let staging = self.build.cache.stage()?;
            let keep_git_dir = add.keep_git_dir.unwrap_or(false);
            let fetched = remote.fetch(self.build, &staging.diff(), checksum.as_deref(), keep_git_dir)?;
            let tree = Tree::of_directory(fetched.root);
            missing.extend(fetched.missing);
            *item =
                Item::Fetched { tree, name: fetched.name, digest: fetched.digest, unpack: add.unpack == Some(true) };
            places.push(staging);
        }
        if checksum.is_some() && places.is_empty() {
            return Err(CommandError::user("ADD --checksum: only what is fetched has one"));
        }
        job.missing = missing;
        job.unpack = add.unpack.unwrap_or(true);
        self.transfer(job, step, "ADD")
    }
}
