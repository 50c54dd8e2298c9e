//! `--all-platforms`: those that all base images are there for.

use serde_json::Value;
use storage::image::ImageStore;
use storage::image::index::Platform;
use storage::reference::Reference;
use storage::transport::registry::RegistrySource;
use storage::transport::{ImageSource, PullError};

use crate::build::Space;
use crate::build::graph::{Graph, Origin};
use crate::build::options::Options;
use crate::error::CommandError;

/// Nobody's index is longer.
const MAX_INDEX_BYTES: u64 = 4 << 20;

/// The platforms that the images which the needed stages begin with have in common, in the order of the first.
pub(super) fn common(
    graph: &Graph,
    options: &Options,
    store: &ImageStore,
    space: &Space,
) -> Result<Vec<Platform>, CommandError> {
    let refused = |why: &str| CommandError::user(format!("--all-platforms: {why}"));
    let mut names: Vec<&str> = Vec::new();
    for node in &graph.nodes {
        let name = match (&options.from, &node.base) {
            (Some(from), _) if node.index == 0 => Some(from.as_str()),
            (_, Origin::Image(name)) => Some(name.as_str()),
            (_, Origin::Context(name)) => options.contexts.get(name).and_then(|value| {
                value.strip_prefix("docker-image://").or_else(|| value.strip_prefix("container-image://"))
            }),
            (_, Origin::Scratch | Origin::Stage(_)) => None,
        };
        names.extend(name.filter(|name| !names.contains(name)));
    }
    let mut common: Option<Vec<Platform>> = None;
    for name in names {
        let found = of_image(name, options, store, space)?;
        common = Some(match common {
            None => found,
            Some(common) => common.into_iter().filter(|platform| found.contains(platform)).collect(),
        });
    }
    match common {
        None => Err(refused("no stage begins with an image, which would say what there is").hinted("--platform A,B")),
        Some(common) if common.is_empty() => Err(refused("the base images have no platform in common")),
        Some(common) => Ok(common),
    }
}

/// The platforms of an image: by its index, here or in its registry; of an image without one its own.
fn of_image(name: &str, options: &Options, store: &ImageStore, space: &Space) -> Result<Vec<Platform>, CommandError> {
    if let Some(list) = store.find_list(name)? {
        return Ok(listed(&Value::Object(list.document)));
    }
    if let Some(image) = store.resolve(name)? {
        let index = image.index.as_ref().and_then(|index| {
            let bytes = store.blobs().read(index, MAX_INDEX_BYTES).ok().flatten()?;
            serde_json::from_slice::<Value>(&bytes).ok()
        });
        return Ok(index.map_or_else(|| vec![image.platform.clone()], |index| listed(&index)));
    }
    let reference = Reference::parse(name).map_err(CommandError::user)?.with_default_tag();
    let text: String = space.inside(|| {
        let source = RegistrySource::new(&reference, &options.client);
        let raw = source.manifest(None).map_err(|reason| {
            let from = source.describe();
            CommandError::host(PullError { from, reason })
        })?;
        Ok(String::from_utf8_lossy(&raw.bytes).into_owned())
    })?;
    let document: Value =
        serde_json::from_str(&text).map_err(|error| CommandError::host(format!("{name}: {error}")))?;
    match document.get("manifests") {
        Some(_) => Ok(listed(&document)),
        // One image: what it is for is seen when it is pulled.
        None => Ok(vec![Platform::host()]),
    }
}

/// The platforms of an index; attestations have none.
fn listed(index: &Value) -> Vec<Platform> {
    let entries = index.get("manifests").and_then(Value::as_array).into_iter().flatten();
    let platform = |entry: &Value| serde_json::from_value::<Platform>(entry.get("platform")?.clone()).ok();
    let mut all: Vec<Platform> = Vec::new();
    for mut platform in entries.filter_map(platform) {
        // Some say the only variant there is.
        platform.variant = platform.variant.filter(|variant| platform.architecture != "arm64" || variant != "v8");
        let is_known = !platform.architecture.is_empty() && platform.os == "linux";
        if is_known && !all.contains(&platform) {
            all.push(platform);
        }
    }
    all
}
