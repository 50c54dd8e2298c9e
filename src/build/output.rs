//! `--output`: where a build's result goes besides the store.
//!
//! | type | what | to |
//! | --- | --- | --- |
//! | `image` | the image | the store |
//! | `docker` | `docker save`'s archive; the store without `dest` | a file, or `-` |
//! | `oci` | an archive of an OCI layout; with `tar=false` the layout | a file, or `-`; a directory |
//! | `tar` | the root file system | a file, or `-` |
//! | `local` | the root file system, belonging to the caller | a directory |

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use storage::image::manifest::Descriptor;
use storage::image::{Image, ImageStore};
use storage::layer::IdPolicy;
use storage::layer::compression::Decompressor;
use storage::layer::unpack::{Links, Options, Owner, unpack};
use storage::reference::Reference;
use storage::transport::save::{self, Saved, SavedList};

use crate::commands::images::remake_blobs;
use crate::commands::save::to_file;
use crate::error::{CommandError, reason};

/// A result that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// The image in the store.
    Image {
        /// A name, besides those of `--tag`.
        name: Option<String>,
        /// And in the registries of its names.
        is_pushed: bool,
    },
    /// docker's archive.
    DockerArchive(Destination),
    /// An archive of an OCI layout.
    OciArchive(Destination),
    /// An OCI layout.
    OciDirectory(PathBuf),
    /// The root file system as an archive.
    Tar(Destination),
    /// The root file system.
    Local(PathBuf),
    /// Nothing: what was built stays in the cache.
    Nothing,
}

/// Where an archive goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// `-`.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Output {
    /// Reads a value of `--output`: `type=TYPE[,dest=PATH]...`, or a directory, or `-`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Output, String> {
        if text == "-" {
            return Ok(Output::Tar(Destination::Stdout));
        }
        if !text.contains('=') && !text.contains(',') {
            return match text.is_empty() {
                true => Err("expected a directory, - or type=TYPE,dest=PATH".to_owned()),
                false => Ok(Output::Local(PathBuf::from(text))),
            };
        }
        let (mut kind, mut dest, mut name, mut is_tar, mut is_pushed) = (None, None, None, true, false);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, not {part:?}"))?;
            let truth = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(format!("invalid value {value:?} of {key}: expected true or false")),
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "type" => kind = Some(value),
                "dest" | "output" => dest = Some(value).filter(|value| !value.is_empty()),
                "name" => name = Some(value.to_owned()),
                "tar" => is_tar = truth()?,
                "push" => is_pushed = truth()?,
                // The formats that the store has anyway.
                "oci-mediatypes" | "unpack" | "store" | "context" | "platform-split" => {}
                "compression" if matches!(value, "gzip" | "uncompressed") => {}
                other => return Err(format!("unknown key {other:?}: expected type, dest, name, tar or push")),
            }
        }
        if is_pushed && kind != Some("image") {
            return Err("push=true: only type=image is pushed".to_owned());
        }
        let destination = || match dest {
            None => Err("expected dest=PATH".to_owned()),
            Some("-") => Ok(Destination::Stdout),
            Some(path) => Ok(Destination::File(PathBuf::from(path))),
        };
        Ok(match kind {
            Some("image") => Output::Image { name, is_pushed },
            Some("registry") => Output::Image { name, is_pushed: true },
            Some("docker") if dest.is_none() => Output::Image { name, is_pushed: false },
            Some("docker") => Output::DockerArchive(destination()?),
            Some("oci") if is_tar => Output::OciArchive(destination()?),
            Some("tar") => Output::Tar(destination()?),
            Some("cacheonly") => Output::Nothing,
            Some("oci" | "local") => match (destination()?, kind) {
                (Destination::Stdout, _) => return Err("a directory cannot go to standard output".to_owned()),
                (Destination::File(path), Some("oci")) => Output::OciDirectory(path),
                (Destination::File(path), _) => Output::Local(path),
            },
            Some(other) => {
                return Err(format!(
                    "unknown type {other:?}: expected local, tar, oci, docker, image, registry or cacheonly"
                ));
            }
            None => return Err("expected type=TYPE".to_owned()),
        })
    }

    /// Whether it is files rather than an image: all layers as one.
    pub(crate) fn is_file_system(&self) -> bool {
        matches!(self, Output::Tar(_) | Output::Local(_))
    }

    /// Whether the result goes to standard output, where nothing else may go then.
    pub(crate) fn is_on_stdout(&self) -> bool {
        matches!(
            self,
            Output::DockerArchive(Destination::Stdout)
                | Output::OciArchive(Destination::Stdout)
                | Output::Tar(Destination::Stdout)
        )
    }

    /// Whether there is no place for images of several platforms.
    pub(crate) fn is_of_one_platform(&self) -> bool {
        matches!(self, Output::Tar(_) | Output::DockerArchive(_))
    }

    /// Writes an index and its images.
    ///
    /// # Errors
    /// What cannot be read or written.
    pub(crate) fn write_list(
        &self,
        store: &ImageStore,
        index: &Descriptor,
        images: &[Image],
        names: &[Reference],
    ) -> Result<(), CommandError> {
        remake_blobs(store, images)?;
        let list = SavedList { index, images, names: names.to_vec() };
        let failed = |error: storage::transport::TransportError| CommandError::host(error).while_doing("--output");
        match self {
            Output::OciDirectory(path) => save::oci_list_directory(store, &list, path).map_err(failed),
            Output::OciArchive(to) => to.write(|out| save::oci_list_archive(store, &list, out).map_err(failed)),
            _ => Ok(()),
        }
    }

    /// Writes the files of an image that has one layer at most; below `place` if there are several.
    ///
    /// # Errors
    /// What cannot be read or written.
    pub(crate) fn write_files(
        &self,
        store: &ImageStore,
        image: &Image,
        place: Option<&str>,
    ) -> Result<(), CommandError> {
        match (self, place) {
            (Output::Local(path), Some(place)) => local(store, image, &path.join(place)),
            _ => self.write(store, image, &[]),
        }
    }

    /// Writes the result. For a file system, `image` has one layer at most ([`Output::is_file_system`]).
    ///
    /// # Errors
    /// What cannot be read or written.
    pub(crate) fn write(&self, store: &ImageStore, image: &Image, names: &[Reference]) -> Result<(), CommandError> {
        if !matches!(self, Output::Image { .. } | Output::Nothing) {
            remake_blobs(store, [image])?;
        }
        let saved = [Saved { image, names: names.to_vec() }];
        let failed = |error: storage::transport::TransportError| CommandError::host(error).while_doing("--output");
        match self {
            Output::Image { .. } | Output::Nothing => Ok(()),
            Output::OciDirectory(path) => save::oci_directory(store, &saved, path).map_err(failed),
            Output::DockerArchive(to) => to.write(|out| save::docker_archive(store, &saved, out).map_err(failed)),
            Output::OciArchive(to) => to.write(|out| save::oci_archive(store, &saved, out).map_err(failed)),
            Output::Tar(to) => to.write(|out| {
                let copied = std::io::copy(&mut file_system(store, image)?, out);
                copied.map(drop).map_err(|error| CommandError::host(format!("--output: {}", reason(&error))))
            }),
            Output::Local(path) => local(store, image, path),
        }
    }
}

impl Destination {
    fn write(&self, write: impl FnOnce(&mut dyn Write) -> Result<(), CommandError>) -> Result<(), CommandError> {
        match self {
            Destination::File(path) => to_file(path, write),
            Destination::Stdout => {
                let stdout = std::io::stdout();
                if stdout.is_terminal() {
                    return Err(CommandError::user("refusing to write the result to a terminal: redirect it"));
                }
                let mut out = std::io::BufWriter::with_capacity(1 << 18, stdout.lock());
                write(&mut out)?;
                out.flush().map_err(|error| CommandError::host(format!("--output: {}", reason(&error))))
            }
        }
    }
}

/// The archive of an image's only layer; an empty one for an image without layers.
fn file_system(store: &ImageStore, image: &Image) -> Result<Box<dyn Read>, CommandError> {
    let Some(layer) = image.layers.last() else { return Ok(Box::new(&[0; 1024][..])) };
    let blob = store.blobs().open(&layer.blob.digest).map_err(CommandError::host)?;
    Ok(Box::new(Decompressor::new(blob).map_err(|error| CommandError::host(reason(&error)))?))
}

fn local(store: &ImageStore, image: &Image, path: &Path) -> Result<(), CommandError> {
    let failed = |why: String| CommandError::user(format!("--output {}: {why}", path.display()));
    std::fs::create_dir_all(path).map_err(|error| failed(reason(&error)))?;
    let directory = std::fs::File::open(path).map_err(|error| failed(reason(&error)))?;
    let ids = IdPolicy::identity();
    let options = Options { owner: Owner::Us, ids: &ids, links: Links::Refused, overwrite: true };
    unpack(file_system(store, image)?, directory.as_fd(), None, &options).map_err(|error| failed(error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_by_their_spelling() {
        let file = |path: &str| Destination::File(PathBuf::from(path));
        let cases = [
            ("out", Output::Local("out".into())),
            ("-", Output::Tar(Destination::Stdout)),
            ("type=local,dest=out", Output::Local("out".into())),
            ("type=tar,dest=a.tar", Output::Tar(file("a.tar"))),
            ("type=tar,dest=-", Output::Tar(Destination::Stdout)),
            ("type=oci,dest=a.tar", Output::OciArchive(file("a.tar"))),
            ("type=oci,dest=a,tar=false", Output::OciDirectory("a".into())),
            ("type=docker", Output::Image { name: None, is_pushed: false }),
            ("type=docker,dest=-", Output::DockerArchive(Destination::Stdout)),
            ("type=image,name=a:1,push=false", Output::Image { name: Some("a:1".to_owned()), is_pushed: false }),
            ("type=registry", Output::Image { name: None, is_pushed: true }),
            ("type=cacheonly", Output::Nothing),
        ];
        for (text, wanted) in cases {
            assert_eq!(Output::parse(text), Ok(wanted), "{text}");
        }
        for (text, wanted) in [
            ("", "expected a directory"),
            ("type=tar", "expected dest=PATH"),
            ("type=local,dest=-", "cannot go to standard output"),
            ("type=zip,dest=a", "unknown type"),
            ("dest=a", "expected type=TYPE"),
            ("type=tar,dest", "expected KEY=VALUE"),
            ("type=tar,dest=a,other=1", "unknown key"),
            ("type=oci,dest=a,tar=maybe", "expected true or false"),
            ("type=oci,dest=a,push=true", "only type=image is pushed"),
        ] {
            let error = Output::parse(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
