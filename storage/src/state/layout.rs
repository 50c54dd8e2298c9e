//! Every path on disk, and the identity of a container.
//!
//! ```text
//! $XDG_DATA_HOME/coracle/        data: survives a reboot, 0700
//!   images/ layers/ mounts/<image>/ containers/<id>/ names/<name> volumes/<name>/ networks/ build/ undo/ trash/ events{,.1}
//! $XDG_RUNTIME_DIR/coracle/      runtime: tmpfs, gone after a reboot, 0700
//!   <id>/{lock,state.json,exec/…}  net/
//! ```
//!
//! Nothing here opens a file; directories appear when somebody needs one, through [`create_dir`].

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest};

/// What keeps coracle from knowing where its files are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Neither `XDG_DATA_HOME` nor `HOME` is set and the user database has no home either.
    #[error("no place for coracle's files: neither XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// The fallback runtime directory exists and is not ours alone.
    #[error("refusing the runtime directory {}: {reason}", path.display())]
    Untrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A directory cannot be made.
    #[error("cannot create directory {}: {}", path.display(), crate::sys::reason(source))]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How the owners of an unpacked layer's files are kept. A layer's name says it, since one tree cannot serve for the other:
/// a user who is given subordinate ids, or loses them, has the layers unpacked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Files belong to whom the layer says, by ids of the user's containers: `<diffID>`.
    Mapped,
    /// All files belong to the user, who has one id; owners are recorded beside them: `<diffID>-single`.
    Single,
}

impl Ownership {
    const SINGLE_SUFFIX: &str = "-single";

    /// The name of a layer's directory.
    pub(crate) fn layer_name(self, diff_id: &DiffId) -> String {
        match self {
            Self::Mapped => diff_id.hex().to_owned(),
            Self::Single => format!("{}{}", diff_id.hex(), Self::SINGLE_SUFFIX),
        }
    }

    /// The digits in such a name.
    pub(crate) fn hex_of(layer_name: &str) -> &str {
        layer_name.strip_suffix(Self::SINGLE_SUFFIX).unwrap_or(layer_name)
    }
}

/// Where everything is. Cheap to build and to clone; holds no descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    data: PathBuf,
    runtime: PathBuf,
    /// Data directories that images are also read from.
    additional: Vec<PathBuf>,
}

impl Layout {
    /// A layout with both roots given, as `--root` and `--runroot` do.
    pub fn new(data_dir: impl Into<PathBuf>, runtime_dir: impl Into<PathBuf>) -> Self {
        Self { data: data_dir.into(), runtime: runtime_dir.into(), additional: Vec::new() }
    }

    /// The same, with the data directories of other stores whose images can be used too; nothing is ever written there.
    #[must_use]
    pub fn with_additional(self, additional: Vec<PathBuf>) -> Self {
        Self { additional, ..self }
    }

    /// The data directories of additional stores, in the order in which they are asked.
    pub fn additional(&self) -> &[PathBuf] {
        &self.additional
    }

    /// Whether this is a directory that [`Self::with_additional`] can be given: one with images in our format.
    pub fn is_store(data_dir: &Path) -> bool {
        data_dir.join("images/oci-layout").is_file()
    }

    /// The layout of the calling user, from the environment.
    ///
    /// Data: `$XDG_DATA_HOME/coracle`, else `$HOME/.local/share/coracle`. Runtime: `$XDG_RUNTIME_DIR/coracle`; when
    /// that variable is unset (cron, `su`), `/run/user/<uid>/coracle` if the directory is ours, so that the answer is
    /// the one a login shell gets; else `/tmp/coracle-<uid>`. Relative values are ignored, as the specification asks.
    ///
    /// # Errors
    /// No home, or a `/tmp/coracle-<uid>` that is not a directory of this user with mode 0700.
    ///
    /// # Source
    /// XDG Base Directory Specification 0.8.
    pub fn from_env() -> Result<Self, LayoutError> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let uid = geteuid();
        let data = match variable("XDG_DATA_HOME") {
            Some(data_home) => data_home.join("coracle"),
            None => {
                let home = variable("HOME").or_else(|| User::from_uid(uid).ok().flatten().map(|user| user.dir));
                home.ok_or(LayoutError::NoHome)?.join(".local/share/coracle")
            }
        };
        let runtime = match variable("XDG_RUNTIME_DIR") {
            Some(runtime_dir) => runtime_dir.join("coracle"),
            None => {
                let session = PathBuf::from(format!("/run/user/{uid}"));
                if check_private(&session, uid.as_raw()).is_ok() {
                    session.join("coracle")
                } else {
                    private_fallback(PathBuf::from(format!("/tmp/coracle-{uid}")), uid.as_raw())?
                }
            }
        };
        Ok(Self { data, runtime, additional: Vec::new() })
    }

    /// The root of what survives a reboot.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The root of what does not.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// The OCI image layout.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Unpacked layers.
    pub fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    /// One unpacked layer: `diff/` and `index`.
    pub fn layer(&self, diff_id: &DiffId, ownership: Ownership) -> PathBuf {
        self.data.join("layers").join(ownership.layer_name(diff_id))
    }

    /// Where an image is mounted: `merged/`, beside empty directories that serve as layers. Only made when it is needed,
    /// and removed with the image.
    pub fn image_mount(&self, id: &Digest) -> PathBuf {
        self.data.join("mounts").join(id.hex())
    }

    /// All containers.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// The bundle of one container.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.data.join("containers").join(id.as_str())
    }

    /// The index of container names.
    pub fn names(&self) -> PathBuf {
        self.data.join("names")
    }

    /// The symlink that is the lock of one container name. The caller has checked the name's grammar.
    pub fn name(&self, name: &str) -> PathBuf {
        self.data.join("names").join(name)
    }

    /// All named volumes.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// One named volume. The caller has checked the name's grammar.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.data.join("volumes").join(name)
    }

    /// User-defined networks.
    pub fn networks(&self) -> PathBuf {
        self.data.join("networks")
    }

    /// Where directories wait to be unlinked.
    pub fn trash(&self) -> PathBuf {
        self.data.join("trash")
    }

    /// What was removed and can be brought back.
    pub fn undo(&self) -> PathBuf {
        self.data.join("undo")
    }

    /// What builds make and keep.
    pub fn build(&self) -> PathBuf {
        self.data.join("build")
    }

    /// Held while `--userns auto` chooses a range of ids.
    pub fn auto_ids_lock(&self) -> PathBuf {
        self.data.join("auto-ids.lock")
    }

    /// The journal of events.
    pub fn events(&self) -> PathBuf {
        self.data.join("events")
    }

    /// An empty file: the user has been told what becomes of containers when lingering is off.
    pub fn lingering_told(&self) -> PathBuf {
        self.data.join("lingering-told")
    }

    /// What belongs to the user's network namespace.
    pub fn network_runtime(&self) -> PathBuf {
        self.runtime.join("net")
    }

    /// Held while a leader of the user's network namespace is started, or ends.
    pub fn network_lock(&self) -> PathBuf {
        self.network_runtime().join("leader.lock")
    }

    /// The runtime files of one container: `lock`, `state.json`, sockets.
    pub fn runtime_container(&self, id: &ContainerId) -> PathBuf {
        self.runtime.join(id.as_str())
    }

    /// Where layers are announced that can be read while they arrive, see [`crate::union::lazy`].
    pub fn lazy(&self) -> PathBuf {
        self.runtime.join("lazy")
    }

    /// The lock a supervisor holds for life.
    pub fn container_lock(&self, id: &ContainerId) -> PathBuf {
        self.runtime.join(id.as_str()).join("lock")
    }
}

/// Creates `path` and every missing parent, each with mode 0700. An existing directory is left as it is.
///
/// # Errors
/// [`LayoutError::Create`] with the directory that failed.
pub fn create_dir(path: &Path) -> Result<(), LayoutError> {
    // Almost always there, or one level short: `DirBuilder::recursive` would start with a stat of each.
    let failed = |source| LayoutError::Create { path: path.to_owned(), source };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Makes the directory below a world-writable one, or accepts it only if nobody else could have made it.
fn private_fallback(path: PathBuf, uid: u32) -> Result<PathBuf, LayoutError> {
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match check_private(&path, uid) {
            Ok(()) => Ok(path),
            Err(reason) => Err(LayoutError::Untrusted { path, reason }),
        },
        Err(source) => Err(LayoutError::Create { path, source }),
    }
}

fn check_private(path: &Path, uid: u32) -> Result<(), &'static str> {
    let metadata = fs::symlink_metadata(path).map_err(|_| "it cannot be examined")?;
    if !metadata.is_dir() {
        return Err("it is not a directory");
    }
    if metadata.uid() != uid {
        return Err("it belongs to another user");
    }
    if metadata.mode() & 0o077 != 0 {
        return Err("others have access to it");
    }
    Ok(())
}

/// Fills a buffer with random bytes and spells them in hexadecimal.
///
/// # Panics
/// When the kernel has no random numbers, which `getrandom(2)` rules out after boot.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    SystemRandom::new().fill(&mut buffer).expect("getrandom does not fail once the system has booted");
    buffer.iter().fold(String::with_capacity(bytes * 2), |mut hex, byte| {
        hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        hex
    })
}

/// Not 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid container ID")]
pub struct ParseContainerIdError;

/// The identity of a container: 64 hexadecimal digits, random, safe as a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Box<str>);

impl ContainerId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(random_hex(32).into())
    }

    /// Accepts a full id only.
    ///
    /// # Errors
    /// Anything but 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, ParseContainerIdError> {
        if text.len() == 64 && is_lower_hex(text) { Ok(Self(text.into())) } else { Err(ParseContainerIdError) }
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as tables show them and as the default host name.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for ContainerId {
    type Err = ParseContainerIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ContainerId {
    type Error = ParseContainerIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn container_ids_are_64_lower_case_hex_digits() {
        let id = ContainerId::random();
        assert_eq!(id.as_str().len(), 64);
        assert_eq!(id.short().len(), 12);
        assert_eq!(ContainerId::parse(id.as_str()), Ok(id.clone()));
        assert_ne!(id, ContainerId::random());
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), &"a".repeat(63), &"../".repeat(22)[..64]] {
            assert_eq!(ContainerId::parse(bad), Err(ParseContainerIdError), "{bad}");
        }
    }

    #[test]
    fn layers_have_a_place_for_each_way_of_keeping_owners() {
        let layout = Layout::new("/data", "/run");
        let diff_id = DiffId::new(Digest::of(b"layer"));
        let [mapped, single] = [Ownership::Mapped, Ownership::Single].map(|one| layout.layer(&diff_id, one));
        assert_ne!(mapped, single);
        for place in [mapped, single] {
            assert_eq!(Ownership::hex_of(place.file_name().unwrap().to_str().unwrap()), diff_id.hex());
        }
    }

    #[test]
    fn created_directories_are_private_and_creation_is_idempotent() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        for path in [root.path().join("a"), root.path().join("a/b"), deep] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn fallback_runtime_directory_of_somebody_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let uid = geteuid().as_raw();
        let path = root.path().join("coracle-1");
        assert_eq!(private_fallback(path.clone(), uid).unwrap(), path);
        assert_eq!(private_fallback(path.clone(), uid).unwrap(), path);
        assert!(matches!(private_fallback(path.clone(), uid + 1), Err(LayoutError::Untrusted { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(private_fallback(path, uid), Err(LayoutError::Untrusted { .. })));
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(matches!(private_fallback(link, uid), Err(LayoutError::Untrusted { .. })));
    }
}
