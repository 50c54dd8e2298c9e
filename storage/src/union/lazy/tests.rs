//! Layers that come name by name, looked at in between.

use std::fs;
use std::path::Path;

use super::Places;
use super::tree::{LazyTree, Stop};
use crate::layer::index::{Kind, Node, NodeId, ROOT, Writer};
use crate::layer::journal::Journal;
use crate::state::layout::Layout;
use crate::union::attributes::{FileKind, InodeNo};

/// A layer in the making, announced as a pull would.
fn growing(layout: &Layout, name: &str) -> Writer {
    let directory = format!(".tmp-{name}");
    let path = layout.layers().join(&directory);
    fs::create_dir_all(path.join("tree/diff")).unwrap();
    let journal = Journal::new(fs::File::create(path.join("journal")).unwrap());
    fs::create_dir_all(layout.lazy()).unwrap();
    fs::write(layout.lazy().join(name), directory).unwrap();
    Writer::journaled(journal)
}

fn add(layer: &mut Writer, parent: NodeId, name: &str, kind: Kind) -> NodeId {
    let mut node = Node::new(kind);
    node.mode = 0o755;
    let id = layer.insert(parent, name.as_bytes(), node).unwrap();
    layer.tell().unwrap();
    id
}

fn kind_of(tree: &mut LazyTree, parent: InodeNo, name: &str) -> Result<Option<(InodeNo, FileKind)>, Stop> {
    tree.refresh();
    let found = tree.lookup(parent, name.as_bytes())?;
    Ok(found.map(|entry| (entry.attributes.ino, entry.attributes.kind)))
}

fn places(root: &Path, names: &[&str]) -> (Layout, Places) {
    let layout = Layout::new(root.join("data"), root.join("run"));
    fs::create_dir_all(layout.layers()).unwrap();
    let mut places = Places::new(&layout, names.iter().map(|name| (*name).to_owned()).collect());
    places.mounted_over(Path::new("/dir/mounted"), false);
    (layout, places)
}

#[test]
fn a_name_is_answered_when_every_layer_above_has_told_that_it_has_it_not() {
    let root = tempfile::tempdir().unwrap();
    let (layout, places) = places(root.path(), &["top", "bottom"]);
    let mut tree = LazyTree::new(places).unwrap();
    let at_root = |tree: &mut LazyTree, name: &str| kind_of(tree, InodeNo::ROOT, name);
    assert_eq!(at_root(&mut tree, "dir"), Err(Stop::Wait), "nothing has come");
    let (mut top, mut bottom) = (growing(&layout, "top"), growing(&layout, "bottom"));
    let below = add(&mut bottom, ROOT, "dir", Kind::Directory);
    add(&mut bottom, below, "late", Kind::File);
    add(&mut bottom, ROOT, "hidden", Kind::File);
    bottom.tell_end().unwrap();
    assert_eq!(at_root(&mut tree, "hidden"), Err(Stop::Wait), "the layer above has not told");
    let dir = add(&mut top, ROOT, "dir", Kind::Directory);
    add(&mut top, dir, "early", Kind::File);
    let (ino, kind) = at_root(&mut tree, "dir").unwrap().unwrap();
    assert_eq!(kind, FileKind::Directory);
    assert_eq!(kind_of(&mut tree, ino, "early").unwrap().unwrap().1, FileKind::File);
    assert_eq!(kind_of(&mut tree, ino, "late"), Err(Stop::Wait), "it may still be hidden");
    assert!(matches!(tree.list(ino), Err(Stop::Wait)));
    assert!(kind_of(&mut tree, ino, "mounted").unwrap().is_some(), "nobody sees what is there");
    add(&mut top, ROOT, "hidden", Kind::Whiteout);
    assert_eq!(at_root(&mut tree, "hidden"), Ok(None));
    top.tell_end().unwrap();
    assert_eq!(kind_of(&mut tree, ino, "late").unwrap().unwrap().1, FileKind::File);
    assert_eq!(at_root(&mut tree, "nothing"), Ok(None));
    let names: Vec<_> = tree.list(ino).unwrap().iter().map(|listed| listed.name.clone()).collect();
    assert_eq!(names, [Box::from(*b"early"), Box::from(*b"late")]);
    assert_eq!(tree.contradiction(), None);
}

#[test]
fn an_opaque_directory_hides_what_lies_below_though_it_says_so_late() {
    let root = tempfile::tempdir().unwrap();
    let (layout, places) = places(root.path(), &["top", "bottom"]);
    let mut tree = LazyTree::new(places).unwrap();
    let (mut top, mut bottom) = (growing(&layout, "top"), growing(&layout, "bottom"));
    let below = add(&mut bottom, ROOT, "dir", Kind::Directory);
    add(&mut bottom, below, "old", Kind::File);
    bottom.tell_end().unwrap();
    let dir = add(&mut top, ROOT, "dir", Kind::Directory);
    let (ino, _) = kind_of(&mut tree, InodeNo::ROOT, "dir").unwrap().unwrap();
    assert_eq!(kind_of(&mut tree, ino, "old"), Err(Stop::Wait));
    top.node_mut(dir).is_opaque = true;
    top.tell_end().unwrap();
    assert_eq!(kind_of(&mut tree, ino, "old"), Ok(None));
    assert_eq!(tree.contradiction(), None);
}

#[test]
fn a_layer_that_is_begun_anew_is_waited_for_where_it_had_come_further() {
    let root = tempfile::tempdir().unwrap();
    let (layout, places) = places(root.path(), &["top"]);
    let mut tree = LazyTree::new(places).unwrap();
    let mut first = growing(&layout, "top");
    add(&mut first, ROOT, "one", Kind::File);
    let (one, _) = kind_of(&mut tree, InodeNo::ROOT, "one").unwrap().unwrap();
    // Its puller is killed, and another one begins.
    fs::rename(layout.layers().join(".tmp-top"), layout.layers().join(".tmp-swept")).unwrap();
    let directory = ".tmp-again";
    fs::create_dir_all(layout.layers().join(directory).join("tree/diff")).unwrap();
    let file = fs::File::create(layout.layers().join(directory).join("journal")).unwrap();
    let mut second = Writer::journaled(Journal::new(file));
    fs::write(layout.lazy().join("top"), directory).unwrap();
    tree.refresh();
    assert_eq!(tree.attributes(one), Err(Stop::Wait));
    add(&mut second, ROOT, "one", Kind::File);
    tree.refresh();
    assert_eq!(tree.attributes(one).map(|found| found.ino), Ok(one));
}
