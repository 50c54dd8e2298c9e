//! YAML → objects, in the order in which they are to be made.

use serde::de::DeserializeOwned;
use serde_saphyr::Options;

use super::model::{Claim, ConfigMap, Head, List, Metadata, Pod, PodSpec, Secret, Workload};
use crate::cli::printable::Printable;

/// What a file may hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    /// A volume that is to be there.
    Claim(Claim),
    /// Values for containers.
    ConfigMap(ConfigMap),
    /// Values for containers that are nobody else's business.
    Secret(Secret),
    /// Containers that share namespaces.
    Pod(Box<NamedPod>),
    /// Something that only a cluster has a use for.
    Other,
}

/// A pod as it shall be called here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NamedPod {
    /// `NAME`, or `NAME-pod` for one that a Deployment, DaemonSet or Job makes.
    pub(super) name: String,
    /// Labels of the pod.
    pub(super) labels: std::collections::BTreeMap<String, String>,
    /// Annotations of the pod, and of what makes it.
    pub(super) annotations: std::collections::BTreeMap<String, String>,
    /// What it is.
    pub(super) spec: PodSpec,
    /// More than one was asked for.
    pub(super) replicas: i64,
}

/// Why a text holds no objects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// It is no YAML, or not of the kind it says.
    #[error("unable to read YAML{}: line {line}: {why}", as_kind(kind))]
    Yaml {
        /// The kind that was being read.
        kind: String,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// An object without a name.
    #[error("{0} does not have a name")]
    NoName(&'static str),
    /// There is nothing to do.
    #[error("YAML document does not contain any supported kube kind")]
    Nothing,
    /// Nobody uses them.
    #[error("ConfigMaps in podman are not a standalone object and must be used in a container")]
    OnlyConfigMaps,
    /// A file of ConfigMaps has others.
    #[error("invalid YAML kind: {0:?}. [ConfigMap] is the only supported by --configmap")]
    NotConfigMap(String),
}

fn as_kind(kind: &str) -> String {
    if kind.is_empty() { String::new() } else { format!(" as Kube {}", Printable::line(kind)) }
}

/// Objects of a text in the order in which podman makes them: what pods need first, the last one first.
pub(super) fn objects(text: &str) -> Result<Vec<Object>, ReadError> {
    let (mut others, mut pods) = (Vec::new(), Vec::new());
    for object in all(text)? {
        match object {
            Object::Pod(_) => pods.push(object),
            other => others.push(other),
        }
    }
    others.reverse();
    let is_made = |object: &Object| matches!(object, Object::Claim(_) | Object::Secret(_));
    if pods.is_empty() && !others.iter().any(is_made) {
        let only = others.iter().any(|object| matches!(object, Object::ConfigMap(_)));
        return Err(if only { ReadError::OnlyConfigMaps } else { ReadError::Nothing });
    }
    others.append(&mut pods);
    Ok(others)
}

/// The objects of a `--configmap` file.
pub(super) fn config_maps(text: &str) -> Result<Vec<ConfigMap>, ReadError> {
    let mut maps = Vec::new();
    for document in documents(text) {
        let head: Head = document.parse("")?;
        match head.kind.as_str() {
            "ConfigMap" => maps.push(document.parse("ConfigMap")?),
            _ => return Err(ReadError::NotConfigMap(head.kind)),
        }
    }
    Ok(maps)
}

fn all(text: &str) -> Result<Vec<Object>, ReadError> {
    let mut found = Vec::new();
    for document in documents(text) {
        let head: Head = document.parse("")?;
        if head.kind != "List" {
            found.push(object(&head.kind, &document)?);
            continue;
        }
        let list: List = document.parse("List")?;
        for item in list.items {
            let item = Item { value: item, line: document.lines_before + 1 };
            let head: Head = item.parse("")?;
            found.push(object(&head.kind, &item)?);
        }
    }
    Ok(found)
}

fn object(kind: &str, source: &impl Source) -> Result<Object, ReadError> {
    Ok(match kind {
        "Pod" => {
            let pod: Pod = source.parse(kind)?;
            if pod.metadata.name.is_empty() {
                return Err(ReadError::NoName("pod"));
            }
            let Pod { metadata, spec } = pod;
            let Metadata { name, labels, annotations } = metadata;
            Object::Pod(Box::new(NamedPod { name, labels, annotations, spec, replicas: 1 }))
        }
        "Deployment" | "DaemonSet" | "Job" => {
            let Workload { metadata, spec } = source.parse(kind)?;
            if metadata.name.is_empty() {
                return Err(ReadError::NoName(match kind {
                    "Deployment" => "deployment",
                    "Job" => "job",
                    _ => "daemonSet",
                }));
            }
            let mut annotations = metadata.annotations;
            annotations.extend(spec.template.metadata.annotations);
            Object::Pod(Box::new(NamedPod {
                name: format!("{}-pod", metadata.name),
                labels: spec.template.metadata.labels,
                annotations,
                spec: spec.template.spec,
                replicas: spec.replicas.unwrap_or(1),
            }))
        }
        "ConfigMap" => Object::ConfigMap(source.parse(kind)?),
        "Secret" => Object::Secret(source.parse(kind)?),
        "PersistentVolumeClaim" => Object::Claim(source.parse(kind)?),
        _ => Object::Other,
    })
}

/// Where an object is read from.
trait Source {
    /// The object as of this kind; none yet if that is empty.
    fn parse<T: DeserializeOwned>(&self, kind: &str) -> Result<T, ReadError>;
}

/// One document of a file.
struct Document<'a> {
    text: &'a str,
    lines_before: u64,
}

impl Source for Document<'_> {
    fn parse<T: DeserializeOwned>(&self, kind: &str) -> Result<T, ReadError> {
        serde_saphyr::from_str_with_options(self.text, options()).map_err(|error| {
            let error = error.without_snippet();
            let line = error.location().map_or(1, |location| location.line());
            let why = error.to_string();
            // Its own end tells the place, by lines of the document.
            let why = why.rsplit_once(" at line ").map_or(why.as_str(), |(why, _)| why);
            ReadError::Yaml {
                kind: kind.to_owned(),
                line: self.lines_before + line,
                why: Printable::line(why).to_string(),
            }
        })
    }
}

/// One object of a list.
struct Item {
    value: serde_json::Value,
    line: u64,
}

impl Source for Item {
    fn parse<T: DeserializeOwned>(&self, kind: &str) -> Result<T, ReadError> {
        T::deserialize(&self.value).map_err(|error| {
            let why = Printable::line(&error.to_string()).to_string();
            ReadError::Yaml { kind: kind.to_owned(), line: self.line, why }
        })
    }
}

/// As clusters read it: text that looks like a number is no text, `true` and `false` are the only booleans, and `0644` is
/// octal.
fn options() -> Options {
    serde_saphyr::options! {
        strict_booleans: true,
        no_schema: true,
        legacy_octal_numbers: true,
        emit_comments: false,
        with_snippet: false,
    }
}

/// The documents of a text that hold anything. A line that begins with three dashes separates them, whatever it stands in;
/// YAML leaves no other meaning to it.
fn documents(text: &str) -> Vec<Document<'_>> {
    let is_mark = |line: &str| {
        line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let (mut found, mut start, mut first, mut at) = (Vec::new(), 0, 0, 0);
    let is_said = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !matches!(line, "---" | "...") && !line.starts_with("--- #")
    };
    for (number, line) in (0u64..).zip(text.split_inclusive('\n')) {
        if is_mark(line) && at > start {
            found.push(Document { text: &text[start..at], lines_before: first });
            (start, first) = (at, number);
        }
        at += line.len();
    }
    found.push(Document { text: &text[start..], lines_before: first });
    found.retain(|document| document.text.lines().any(is_said));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> NamedPod {
        match objects(text).unwrap().pop().unwrap() {
            Object::Pod(pod) => *pod,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kinds_are_told_apart_and_what_pods_need_comes_first() {
        let text = "# a comment\n---\nkind: Pod\nmetadata: {name: p}\n---\nkind: Secret\nmetadata: {name: s}\n--- # more\n\
                    kind: Service\nspec: {ports: x}\n---\n\n---\nkind: PersistentVolumeClaim\nmetadata:\n  name: v\n...\n";
        let kinds: Vec<_> = objects(text)
            .unwrap()
            .iter()
            .map(|object| match object {
                Object::Claim(_) => "claim",
                Object::ConfigMap(_) => "map",
                Object::Secret(_) => "secret",
                Object::Pod(_) => "pod",
                Object::Other => "other",
            })
            .collect();
        assert_eq!(kinds, ["claim", "other", "secret", "pod"]);
    }

    #[test]
    fn workloads_and_lists_hold_pods() {
        for kind in ["Deployment", "DaemonSet", "Job"] {
            let made = pod(&format!(
                "kind: {kind}\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  template:\n    metadata: {{labels: {{a: b}}}}\n    \
                 spec: {{containers: [{{name: c, image: i}}]}}"
            ));
            assert_eq!((made.name.as_str(), made.labels["a"].as_str(), made.replicas), ("web-pod", "b", 3));
        }
        let list = "kind: List\nitems:\n- kind: Pod\n  metadata: {name: p}\n  spec: {hostPID: true}\n";
        assert!(pod(list).spec.host_pid);
    }

    #[test]
    fn values_are_read_as_a_cluster_reads_them() {
        let made = pod(
            "kind: Pod\nmetadata: {name: p}\nspec:\n  hostAliases:\n  volumes:\n  - name: v\n    configMap: {name: c, defaultMode: 0400}\n  \
             containers:\n  - name: c\n    env: [{name: A, value: \"5\"}, {name: B, value: yes}]\n    resources: {limits: {cpu: 0.5, memory: 64Mi}}\n    \
             livenessProbe: {httpGet: {port: 80}}\n    startupProbe: {tcpSocket: {port: web}}\n",
        );
        let container = &made.spec.containers[0];
        assert_eq!(made.spec.volumes[0].config_map.as_ref().unwrap().default_mode, Some(0o400));
        assert_eq!(container.env[1].value, "yes");
        let limit = |name: &str| container.resources.limits[name].0.clone();
        assert_eq!((limit("cpu").as_str(), limit("memory").as_str()), ("0.5", "64Mi"));
        let port = container.liveness_probe.as_ref().unwrap().http_get.as_ref().unwrap().port.0.clone();
        assert_eq!(port, "80");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let line = |text: &str| objects(text).unwrap_err().to_string();
        let number = "kind: Secret\nmetadata: {name: s}\n---\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: 5\n";
        assert!(line(number).starts_with("unable to read YAML as Kube Pod: line 9: "), "{}", line(number));
        assert!(line("kind: [").starts_with("unable to read YAML: line 1: "), "{}", line("kind: ["));
        assert!(!line(number).contains('\n'));
        assert_eq!(objects(""), Err(ReadError::Nothing));
        assert_eq!(objects("kind: Service"), Err(ReadError::Nothing));
        assert_eq!(objects("kind: ConfigMap"), Err(ReadError::OnlyConfigMaps));
        assert_eq!(objects("kind: Pod"), Err(ReadError::NoName("pod")));
        assert!(config_maps("kind: Pod").is_err());
        let doubled = "kind: Pod\nkind: Pod\nmetadata: {name: p}";
        assert!(objects(doubled).is_err());
    }

    #[test]
    fn a_text_that_grows_by_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", ")));
        }
        text.push_str("kind: List\nitems: *a11\n");
        assert!(matches!(objects(&text), Err(ReadError::Yaml { .. })));
    }
}
