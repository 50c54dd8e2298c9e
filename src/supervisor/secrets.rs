//! A container's secrets: looked up at each start, and never written anywhere.

use std::borrow::Cow;

use oci_spec::runtime::Spec;
use runtime::mount::secrets::SecretFile;
use storage::secret;
use storage::state::layout::Layout;
use storage::state::request::{SecretKind, SecretUse};

use crate::error::CommandError;

/// What a container gets.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Files on a file system in memory.
    pub(crate) files: Vec<SecretFile>,
    /// `NAME=value` for its processes.
    variables: Vec<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} files, {} variables]", self.files.len(), self.variables.len())
    }
}

impl Secrets {
    /// Secrets that somebody else has looked up.
    pub(crate) fn given(files: Vec<SecretFile>, variables: Vec<String>) -> Self {
        Self { files, variables }
    }

    /// Looks them up.
    pub(crate) fn find(layout: &Layout, asked: &[SecretUse]) -> Result<Self, CommandError> {
        let mut found = Self::default();
        for one in asked {
            let secret = secret::find(layout, &one.name).map_err(CommandError::user)?;
            let data = match &one.key {
                None => secret.data.0,
                Some(key) => secret.keys().and_then(|mut keys| keys.remove(key)).ok_or_else(|| {
                    CommandError::user(format!("secret {}: it has no key {:?} any more", one.name, key))
                })?,
            };
            match &one.kind {
                SecretKind::Mount { target, uid, gid, mode } => {
                    found.files.push(SecretFile { target: target.clone(), owner: (*uid, *gid), mode: *mode, data })
                }
                SecretKind::Env { variable } => {
                    let text = String::from_utf8(data).ok().filter(|text| !text.contains('\0'));
                    let text = text.ok_or_else(|| {
                        CommandError::user(format!("secret {}: not a text that a variable could hold", one.name))
                    })?;
                    found.variables.push(format!("{variable}={text}"));
                }
            }
        }
        Ok(found)
    }

    /// The specification with the variables: for the process alone, not for the disk.
    pub(crate) fn add_variables<'a>(&self, spec: &'a Spec) -> Cow<'a, Spec> {
        if self.variables.is_empty() {
            return Cow::Borrowed(spec);
        }
        let mut spec = spec.clone();
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            env.extend(self.variables.iter().cloned());
            process.set_env(Some(env));
        }
        Cow::Owned(spec)
    }
}
