use super::*;
use crate::layer::tar::{Entry, Timestamp, Writer as TarWriter};

/// A tar of two files and something behind its end, and a tree with the first of them.
fn layer() -> (Vec<u8>, tempfile::TempDir) {
    let tree = tempfile::tempdir().unwrap();
    let mut tar = TarWriter::new(Vec::new());
    let noise: Vec<u8> = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (path, data) in [("./dir/noise", noise.as_slice()), ("gone", &[b'g'; 1000]), ("small", b"s")] {
        let entry = Entry {
            path: path.into(),
            link: Vec::new(),
            kind: EntryKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: data.len() as u64,
            mtime: Timestamp::default(),
            device: (0, 0),
            xattrs: Vec::new(),
            data_offset: 0,
            stored_bytes: data.len() as u64,
            sparse: false,
        };
        tar.append(&entry, data).unwrap();
    }
    let mut tar = tar.finish().unwrap();
    tar.extend_from_slice(&[7; 100]);
    fs::create_dir(tree.path().join("dir")).unwrap();
    fs::write(tree.path().join("dir/noise"), &noise).unwrap();
    // Another one has replaced it.
    fs::write(tree.path().join("gone"), [b'g'; 999]).unwrap();
    (tar, tree)
}

fn store(blob: &[u8], tar: &[u8], tree: &std::path::Path) -> (tempfile::TempDir, ImageStore, Layer) {
    let dir = tempfile::tempdir().unwrap();
    let layout = crate::state::layout::Layout::new(dir.path(), dir.path().join("run"));
    let store = ImageStore::open(&layout);
    let digest = store.blobs().put(blob).unwrap();
    let diff_id = DiffId::new(Digest::of(tar));
    let place = layout.layer(&diff_id, Ownership::Mapped);
    create_dir(&place).unwrap();
    std::os::unix::fs::symlink(tree, place.join("diff")).unwrap();
    let blob = crate::image::manifest::Descriptor::new("application/octet-stream", digest, blob.len() as u64);
    (dir, store, Layer { blob, diff_id })
}

fn packed(tar: &[u8], format: Format, level: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    compress::compress(io::Cursor::new(tar.to_vec()), format, level).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn blobs_are_made_again_byte_for_byte() {
    let (tar, tree) = layer();
    let blobs =
        [tar.clone(), packed(&tar, Format::Gzip, 1), packed(&tar, Format::Gzip, 6), packed(&tar, Format::Zstd, 3)];
    for blob in blobs {
        let (_dir, store, layer) = store(&blob, &tar, tree.path());
        let recipe = store.write_recipe(&layer).unwrap();
        assert!(recipe.len() < 2000, "{}", recipe.len());
        create_dir(&store.layout().images().join("recipes")).unwrap();
        fs::write(store.recipe_path(&layer.blob.digest), &recipe).unwrap();
        store.blobs().remove(&layer.blob.digest).unwrap();
        assert!(store.is_dropped(&layer.blob.digest));
        store.check_dropped(&layer.blob.digest).unwrap();
        store.remake_blobs([&layer]).unwrap();
        assert!(!store.is_dropped(&layer.blob.digest));
        assert_eq!(fs::read(store.blobs().path(&layer.blob.digest)).unwrap(), blob);
    }
}

#[test]
fn what_cannot_be_made_again_says_so() {
    let (tar, tree) = layer();
    let mut foreign = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    foreign.write_all(&tar).unwrap();
    let (_dir, other, layer) = store(&foreign.finish().unwrap(), &tar, tree.path());
    assert!(matches!(other.write_recipe(&layer), Err(RecipeError::Foreign)));

    let (_dir, other, layer) = store(&tar, &tar, tree.path());
    let recipe = other.write_recipe(&layer).unwrap();
    create_dir(&other.layout().images().join("recipes")).unwrap();
    fs::write(other.recipe_path(&layer.blob.digest), &recipe).unwrap();
    other.blobs().remove(&layer.blob.digest).unwrap();
    fs::write(tree.path().join("dir/noise"), "changed").unwrap();
    assert!(matches!(other.check_dropped(&layer.blob.digest), Err(RecipeError::Other { .. })));
    assert!(other.remake_blobs([&layer]).is_err());
    assert!(!other.blobs().path(&layer.blob.digest).exists());
    fs::write(other.recipe_path(&layer.blob.digest), &recipe[..recipe.len() / 2]).unwrap();
    assert!(other.check_dropped(&layer.blob.digest).is_err());
}
