//! Which containers stand on others: they share a namespace of theirs, or start only with them.

use storage::state::container::Record;
use storage::state::request::{Namespace, UserNamespace};

use crate::error::CommandError;

/// What a container stands on, by name or id as it was given.
fn needs(record: &Record) -> impl Iterator<Item = &str> {
    let request = &record.request;
    let shared =
        [&request.pid, &request.ipc, &request.uts, &request.cgroupns].into_iter().filter_map(|one| match one {
            Namespace::Container(name) => Some(name.as_str()),
            _ => None,
        });
    let users = match &request.userns {
        UserNamespace::Container(name) => Some(name.as_str()),
        _ => None,
    };
    let network = request.network.mode.strip_prefix("container:");
    shared.chain(users).chain(network).chain(request.requires.iter().map(String::as_str))
}

/// Whether `one` stands on `other`.
fn stands_on(one: &Record, other: &Record) -> bool {
    let is_it = |name: &str| name == other.name || name.len() >= 12 && other.id.as_str().starts_with(name);
    one.id != other.id && needs(one).any(is_it)
}

/// Those of `all` that stand on a container.
pub(crate) fn of<'a>(all: &'a [Record], record: &Record) -> Vec<&'a Record> {
    all.iter().filter(|one| stands_on(one, record)).collect()
}

/// Those of `all` that stand on a container, those that stand on these, and so on; whatever stands on another before it.
pub(crate) fn chain_of<'a>(all: &'a [Record], record: &Record) -> Vec<&'a Record> {
    let mut chain: Vec<&Record> = of(all, record);
    let mut next = 0;
    while let Some(one) = chain.get(next).copied() {
        let is_new = |further: &&Record| further.id != record.id && !chain.iter().any(|known| known.id == further.id);
        let further: Vec<&Record> = of(all, one).into_iter().filter(is_new).collect();
        chain.extend(further);
        next += 1;
    }
    sort(chain, |record| record)
}

/// Sorts so that whatever stands on another comes before it.
pub(crate) fn sort<T>(mut things: Vec<T>, record: impl Fn(&T) -> &Record) -> Vec<T> {
    let mut sorted = Vec::with_capacity(things.len());
    while !things.is_empty() {
        let is_free = |one: &T| !things.iter().any(|other| stands_on(record(other), record(one)));
        // There is always one, unless somebody has made a circle by renaming.
        let at = things.iter().position(is_free).unwrap_or(0);
        sorted.push(things.remove(at));
    }
    sorted
}

/// Refuses to remove what others stand on, with their ids as podman has it.
pub(crate) fn refuse(all: &[Record], record: &Record) -> Result<(), CommandError> {
    let dependents = of(all, record);
    if dependents.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = dependents.iter().map(|one| one.id.as_str()).collect();
    let names: Vec<&str> = dependents.iter().map(|one| one.name.as_str()).collect();
    let error = CommandError::user(format_args!(
        "container {} has dependent containers which must be removed before it: {}: container already exists",
        record.id,
        ids.join(", ")
    ));
    Err(error.hinted(format!("coracle rm {}, or coracle rm --depend {}", names.join(" "), record.name)))
}

#[cfg(test)]
mod tests {
    use storage::state::layout::ContainerId;
    use storage::state::request::Request;

    use super::*;

    fn record(name: &str, request: Request) -> Record {
        let id = ContainerId::parse(&format!("{:0<64}", name.bytes().map(|b| format!("{b:x}")).collect::<String>()));
        let json = format!(
            r#"{{"version":1,"id":"{}","name":"{name}","created":"2025-01-02T03:04:05Z","request":{{}}}}"#,
            id.unwrap()
        );
        Record { request, ..serde_json::from_str(&json).unwrap() }
    }

    fn containers() -> Vec<Record> {
        let mut net = Request::default();
        net.network.mode = "container:base".to_owned();
        let base = record("base", Request::default());
        let pid = Request { pid: Namespace::Container(base.id.to_string()), ..Request::default() };
        let both = Request { requires: vec!["n".to_owned(), "base".to_owned()], ..Request::default() };
        vec![base, record("n", net), record("p", pid), record("b", both), record("alone", Request::default())]
    }

    fn names(records: &[&Record]) -> Vec<String> {
        records.iter().map(|record| record.name.clone()).collect()
    }

    #[test]
    fn namespaces_and_requirements_make_dependents() {
        let all = containers();
        assert_eq!(names(&of(&all, &all[0])), ["n", "p", "b"]);
        assert_eq!(names(&of(&all, &all[1])), ["b"]);
        assert!(of(&all, &all[4]).is_empty());
        let text = refuse(&all, &all[1]).unwrap_err().to_string();
        assert!(text.contains("must be removed before it: 62000"), "{text}");
        refuse(&all, &all[4]).unwrap();
    }

    #[test]
    fn what_stands_on_others_goes_first() {
        let all = containers();
        let chain = names(&chain_of(&all, &all[0]));
        assert_eq!(chain.len(), 3);
        let at = |name: &str| chain.iter().position(|one| one == name).unwrap();
        assert!(at("b") < at("n"), "{chain:?}");
        let sorted = sort(all, |record| record);
        let at = |name: &str| sorted.iter().position(|one| one.name == name).unwrap();
        assert!(at("b") < at("n") && at("n") < at("base") && at("p") < at("base"));
    }

    #[test]
    fn a_circle_ends() {
        let one = record("one", Request { requires: vec!["two".to_owned()], ..Request::default() });
        let two = record("two", Request { requires: vec!["one".to_owned()], ..Request::default() });
        let all = [one, two];
        assert_eq!(names(&chain_of(&all, &all[0])), ["two"]);
        assert_eq!(sort(all.to_vec(), |record| record).len(), 2);
    }
}
