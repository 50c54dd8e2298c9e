//! Container names: `names/<name>`, a symlink to the id, is the name's lock and its index.
//!
//! Writer: who creates, renames or removes the container. Readers: everybody, by `readlink`. A free name is claimed by
//! `symlinkat`, which fails if it is taken: no lock. Everything that takes a name *away* (release, rename, sweeping one
//! whose container is gone) holds `names.lock`, so that nobody removes a name that somebody else has just claimed.
//! No version: the whole content is an id. An older coracle reads it the same way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use ring::rand::{SecureRandom, SystemRandom};

use super::layout::{ContainerId, Layout, LayoutError, create_dir};
use super::lock::{FileLock, LockError};

/// A name that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not in docker's grammar.
    #[error("invalid name {0:?}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument")]
    Invalid(String),
    /// Another container has it.
    #[error(
        "the container name \"{name}\" is already in use by {holder}. You have to remove that container to be able to \
         reuse that name: that name is already in use"
    )]
    InUse {
        /// The name.
        name: String,
        /// Who has it.
        holder: ContainerId,
    },
    /// A kernel call failed.
    #[error("cannot {action} container name {}: {}", path.display(), crate::sys::reason(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The symlink.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `names.lock` cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `names/` cannot be made.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Checks a name against `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 255 bytes.
///
/// # Errors
/// [`NameError::Invalid`].
pub fn check(name: &str) -> Result<(), NameError> {
    let mut bytes = name.bytes();
    let valid = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && name.len() <= 255;
    if valid { Ok(()) } else { Err(NameError::Invalid(name.to_owned())) }
}

/// The id a name leads to, whether or not that container still exists.
pub fn lookup(layout: &Layout, name: &str) -> Option<ContainerId> {
    check(name).ok()?;
    target(&layout.name(name))
}

fn target(path: &Path) -> Option<ContainerId> {
    ContainerId::parse(fs::read_link(path).ok()?.to_str()?).ok()
}

/// Claims `name` for `id`, whose lock the caller holds. A name whose container is gone is taken over.
///
/// # Errors
/// [`NameError::InUse`] names the container that has it.
pub fn claim(layout: &Layout, name: &str, id: &ContainerId) -> Result<(), NameError> {
    check(name)?;
    match link(layout, name, id)? {
        None => Ok(()),
        Some(holder) if is_live(layout, &holder, name)? => Err(NameError::InUse { name: name.to_owned(), holder }),
        Some(_) => claim_locked(&NamesLock::take(layout)?, layout, name, id),
    }
}

fn claim_locked(_held: &NamesLock, layout: &Layout, name: &str, id: &ContainerId) -> Result<(), NameError> {
    loop {
        let Some(holder) = link(layout, name, id)? else { return Ok(()) };
        if is_live(layout, &holder, name)? {
            return Err(NameError::InUse { name: name.to_owned(), holder });
        }
        unlink(&layout.name(name))?;
    }
}

/// Makes the symlink, or tells who has the name.
fn link(layout: &Layout, name: &str, id: &ContainerId) -> Result<Option<ContainerId>, NameError> {
    let path = layout.name(name);
    for _ in 0..16 {
        match std::os::unix::fs::symlink(id.as_str(), &path) {
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_dir(&layout.names())?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match target(&path) {
                Some(holder) => return Ok(Some(holder)),
                // Released between the two calls, or not a link of ours, which the last round reports.
                None if !path.is_symlink() && fs::symlink_metadata(&path).is_err() => {}
                None => return Err(NameError::Io { action: "claim", path, source: error }),
            },
            Err(source) => return Err(NameError::Io { action: "claim", path, source }),
        }
    }
    Err(NameError::Io { action: "claim", path, source: Errno::EBUSY.into() })
}

/// Whether the container a name leads to exists and the name is its own, or is just being created.
fn is_live(layout: &Layout, id: &ContainerId, name: &str) -> Result<bool, NameError> {
    match super::container::name_of(layout, id) {
        Some(own) => Ok(own == name),
        None => Ok(FileLock::is_held(&layout.container_lock(id))?),
    }
}

fn unlink(path: &Path) -> Result<(), NameError> {
    super::atomic::remove_if_there(path).map_err(|source| NameError::Io {
        action: "release",
        path: path.to_owned(),
        source,
    })
}

/// Holding `names.lock`: names may be taken away.
#[derive(Debug)]
pub struct NamesLock(#[allow(dead_code)] FileLock);

impl NamesLock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn take(layout: &Layout) -> Result<Self, NameError> {
        let path = layout.data_dir().join("names.lock");
        match FileLock::exclusive(&path) {
            Err(error) if error.is_not_found() => {
                create_dir(layout.data_dir())?;
                Ok(Self(FileLock::exclusive(&path)?))
            }
            lock => Ok(Self(lock?)),
        }
    }

    /// Releases `name` if it leads to `id`.
    ///
    /// # Errors
    /// [`NameError::Io`].
    pub fn release(&self, layout: &Layout, name: &str, id: &ContainerId) -> Result<(), NameError> {
        let path = layout.name(name);
        if target(&path).as_ref() == Some(id) { unlink(&path) } else { Ok(()) }
    }

    /// As [`claim`], for a caller who already holds the lock.
    ///
    /// # Errors
    /// As [`claim`].
    pub fn claim(&self, layout: &Layout, name: &str, id: &ContainerId) -> Result<(), NameError> {
        check(name)?;
        claim_locked(self, layout, name, id)
    }

    /// Removes every name whose container is gone or is called otherwise, and tells how many there were.
    ///
    /// # Errors
    /// [`NameError::Io`].
    pub fn sweep(&self, layout: &Layout) -> Result<usize, NameError> {
        let failed = |source| NameError::Io { action: "list", path: layout.names(), source };
        let mut swept = 0;
        for entry in fs::read_dir(layout.names()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().filter(|name| check(name).is_ok()) else { continue };
            let Some(id) = target(&entry.path()) else { continue };
            if !is_live(layout, &id, name)? {
                unlink(&entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// Claims a random name for `id` and returns it.
///
/// # Errors
/// As [`claim`], but never [`NameError::InUse`] unless thousands of containers have used the names up.
pub fn claim_random(layout: &Layout, id: &ContainerId) -> Result<String, NameError> {
    let mut attempt = 0;
    loop {
        let mut seed = [0; 8];
        // The id is random as well: good enough should the kernel fail here.
        if SystemRandom::new().fill(&mut seed).is_err() {
            seed.copy_from_slice(&id.as_str().as_bytes()[..8]);
        }
        let mut name = from_seed(u64::from_ne_bytes(seed));
        if attempt >= 4 {
            name.push_str(&(seed[7] % 10).to_string());
        }
        match claim(layout, &name, id) {
            Ok(()) => return Ok(name),
            Err(NameError::InUse { .. }) if attempt < 64 => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The name a number stands for: `adjective_surname`.
pub fn from_seed(seed: u64) -> String {
    let pick = |list: &'static [&'static str], number: u64| list[(number % list.len() as u64) as usize];
    format!("{}_{}", pick(ADJECTIVES, seed & 0xffff_ffff), pick(SURNAMES, seed >> 32))
}

#[rustfmt::skip]
const ADJECTIVES: &[&str] = &[
    "able", "agile", "airy", "amber", "ample", "apt", "aware", "bold", "brave", "breezy", "brief", "bright", "brisk",
    "calm", "candid", "careful", "casual", "cheerful", "civil", "clear", "clever", "cosy", "crisp", "curious", "daring",
    "decent", "deft", "direct", "eager", "early", "earnest", "easy", "exact", "fair", "famous", "fancy", "fleet",
    "fluent", "fond", "frank", "fresh", "gentle", "glad", "golden", "graceful", "grand", "handy", "happy", "hardy",
    "hearty", "honest", "humble", "ideal", "jolly", "keen", "kind", "lively", "loyal", "lucid", "lucky", "mellow",
    "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "prompt", "proud",
    "quick", "quiet", "rapid", "ready", "robust", "serene", "sharp", "silent", "simple", "sincere", "sleek", "smooth",
    "snug", "sober", "solid", "spry", "steady", "sturdy", "subtle", "sunny", "swift", "tidy", "trusty", "upbeat",
    "vivid", "warm", "wise", "witty", "zealous",
];

#[rustfmt::skip]
const SURNAMES: &[&str] = &[
    "abel", "ampere", "archimedes", "babbage", "banach", "bardeen", "bartik", "bernoulli", "bohr", "boole", "bose",
    "cantor", "carson", "cauchy", "celsius", "chandrasekhar", "church", "clarke", "curie", "darwin", "dijkstra",
    "dirac", "einstein", "engelbart", "erdos", "euclid", "euler", "faraday", "fermat", "fermi", "feynman", "fibonacci",
    "fourier", "franklin", "galileo", "galois", "gauss", "germain", "goedel", "goodall", "hamilton", "hamming",
    "hertz", "hilbert", "hodgkin", "hopper", "hubble", "huygens", "hypatia", "jackson", "johnson", "joule", "kepler",
    "khorana", "knuth", "kovalevskaya", "lagrange", "lamarr", "laplace", "leavitt", "leibniz", "liskov", "lovelace",
    "maxwell", "mayer", "mccarthy", "meitner", "mendel", "mirzakhani", "newton", "nightingale", "noether", "ohm",
    "pascal", "pasteur", "pauling", "perlman", "planck", "poincare", "ramanujan", "riemann", "ritchie", "rubin",
    "rutherford", "sagan", "shannon", "sinoussi", "somerville", "tesla", "thompson", "turing", "volta", "wiles",
    "wilson", "wozniak", "wright", "wu", "yonath",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_dockers() {
        for good in ["a", "web", "9", "my_web.1-x", "A.B", &"x".repeat(255)] {
            check(good).unwrap();
        }
        for bad in ["", ".a", "-a", "_a", "a/b", "a b", "ä", "a\n", "a\u{1b}[m", "../a", &"x".repeat(256)] {
            assert!(matches!(check(bad), Err(NameError::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn random_names_are_determined_by_the_seed_and_valid() {
        assert_eq!(from_seed(0), "able_abel");
        assert_eq!(from_seed(1 << 32 | 2), "airy_ampere");
        for adjective in ADJECTIVES {
            for surname in SURNAMES {
                check(&format!("{adjective}_{surname}")).unwrap();
            }
        }
    }

    #[test]
    fn a_name_is_held_by_a_locked_container_and_falls_with_a_dead_one() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        let (one, two) = (ContainerId::random(), ContainerId::random());
        create_dir(&layout.runtime_container(&one)).unwrap();
        let lock = FileLock::exclusive(&layout.container_lock(&one)).unwrap();
        claim(&layout, "web", &one).unwrap();
        assert_eq!(lookup(&layout, "web"), Some(one.clone()));
        let error = claim(&layout, "web", &two).unwrap_err();
        assert!(matches!(&error, NameError::InUse { holder, .. } if *holder == one));
        drop(lock);
        claim(&layout, "web", &two).unwrap();
        assert_eq!(lookup(&layout, "web"), Some(two.clone()));
        let names = NamesLock::take(&layout).unwrap();
        names.release(&layout, "web", &one).unwrap();
        assert_eq!(lookup(&layout, "web"), Some(two), "only the holder's own name is released");
        assert_eq!(names.sweep(&layout).unwrap(), 1);
        assert_eq!(lookup(&layout, "web"), None);
    }
}
