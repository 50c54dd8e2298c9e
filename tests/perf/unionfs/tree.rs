//! The tree: some 35,000 generated files in the sizes and depths of a `/usr`, this machine's python, and a git
//! repository, cut into six layers and unpacked the way coracle unpacks a pulled image, index included.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::layer::IdPolicy;
use storage::layer::staging::Staging;

use crate::mounts::{Driver, Mounted};

const GENERATED: usize = 30_000;
const DIRECTORIES: usize = 2_600;
const PROJECT_FILES: usize = 3_000;

/// What the cases work on.
pub(crate) struct World {
    /// Topmost first; each has `diff/` and `index`.
    pub(crate) layers: Vec<PathBuf>,
    /// One layer of 100,000 empty files.
    pub(crate) many: Vec<PathBuf>,
    /// The merged tree in a plain directory.
    pub(crate) plain: PathBuf,
    /// Regular files below the root with their sizes, in the order of a walk.
    pub(crate) files: Vec<(PathBuf, u64)>,
    /// Directories below the root.
    pub(crate) directories: Vec<PathBuf>,
    /// A tar of 4,000 files.
    pub(crate) archive: PathBuf,
    /// `python3.11`, if the machine has one.
    pub(crate) python: Option<String>,
    pub(crate) has_git: bool,
    pub(crate) is_on_disk: bool,
    place: PathBuf,
    counter: Cell<u32>,
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).expect("less than the bound")
    }
}

impl World {
    pub(crate) fn build(place: &Path) -> Self {
        let layers = place.join("layers");
        fs::create_dir(&layers).expect("the place is ours");
        let python = find_python();
        let has_git = Command::new("git").arg("--version").output().is_ok();
        let paths = build_layers(place, &layers, python.as_deref(), has_git);
        let many = vec![unpack(&layers, "many", &many_files())];
        let mut world = Self {
            layers: paths,
            many,
            plain: place.join("plain"),
            files: Vec::new(),
            directories: Vec::new(),
            archive: place.join("archive.tar"),
            python,
            has_git,
            is_on_disk: fs::metadata(place).expect("it is there").dev()
                != fs::metadata("/tmp").expect("it is there").dev(),
            place: place.to_owned(),
            counter: Cell::new(0),
        };
        let merged = Mounted::new(&world, &world.layers, Driver::Native);
        let copied = Command::new("cp").arg("-a").arg(&merged.root).arg(&world.plain).status();
        assert!(copied.is_ok_and(|status| status.success()), "the merged tree can be copied");
        drop(merged);
        walk(&world.plain.clone(), Path::new(""), &mut world);
        fs::write(&world.archive, archive()).expect("the place is ours");
        world
    }

    pub(crate) fn next_number(&self) -> u32 {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }

    /// An empty directory for the upper directory of one measurement.
    pub(crate) fn scratch(&self) -> PathBuf {
        let dir = self.place.join(format!("scratch{}", self.next_number()));
        fs::create_dir(&dir).expect("the place is ours");
        dir
    }

    /// `count` files of the generated part of the lower layers, spread over all of it.
    pub(crate) fn some_files(&self, count: usize) -> impl Iterator<Item = &Path> {
        let generated: Vec<_> = self
            .files
            .iter()
            .filter(|(path, _)| path.starts_with("usr/share") || path.starts_with("usr/lib/gen"))
            .collect();
        let step = (generated.len() / count).max(1);
        generated.into_iter().step_by(step).take(count).map(|(path, _)| path.as_path())
    }
}

fn find_python() -> Option<String> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print('python%d.%d' % sys.version_info[:2])"])
        .output()
        .ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new("/usr/lib").join(&name).is_dir().then_some(name)
}

fn walk(root: &Path, below: &Path, world: &mut World) {
    let mut entries: Vec<_> = fs::read_dir(root.join(below)).expect("it is readable").flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (below.join(entry.file_name()), entry.file_type().expect("it has one"));
        if kind.is_dir() {
            world.directories.push(path.clone());
            walk(root, &path, world);
        } else if kind.is_file() {
            let size = entry.metadata().expect("it has one").size();
            world.files.push((path, size));
        }
    }
}

struct Layer(tar::Builder<Vec<u8>>, BTreeSet<String>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()), BTreeSet::new())
    }

    fn header(kind: tar::EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        header.set_size(size as u64);
        header
    }

    fn file(&mut self, path: &str, content: &[u8]) {
        let mut header = Self::header(tar::EntryType::Regular, content.len());
        self.parents(path);
        self.0.append_data(&mut header, path, content).expect("memory");
    }

    fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.0.append_link(&mut Self::header(tar::EntryType::Symlink, 0), path, target).expect("memory");
    }

    fn parents(&mut self, path: &str) {
        let ends: Vec<_> = path.match_indices('/').map(|(at, _)| at).collect();
        for end in ends {
            if self.1.insert(path[..end].to_owned()) {
                let mut header = Self::header(tar::EntryType::Directory, 0);
                self.0.append_data(&mut header, &path[..end], std::io::empty()).expect("memory");
            }
        }
    }

    /// A file or a whole tree of this machine.
    fn take(&mut self, from: &Path, to: &str) {
        let Ok(metadata) = fs::symlink_metadata(from) else { return };
        if metadata.is_dir() {
            for entry in fs::read_dir(from).into_iter().flatten().flatten() {
                self.take(&entry.path(), &format!("{to}/{}", entry.file_name().to_string_lossy()));
            }
        } else if metadata.is_file()
            && let Ok(content) = fs::read(from)
        {
            // The compiled modules of python name the time of their source.
            let mut header = Self::header(tar::EntryType::Regular, content.len());
            header.set_mtime(metadata.mtime().max(0).unsigned_abs());
            header.set_mode(metadata.mode() & 0o777);
            self.parents(to);
            self.0.append_data(&mut header, to, content.as_slice()).expect("memory");
        }
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("memory")
    }
}

/// Unpacks as a pull does.
fn unpack(layers: &Path, name: &str, tar: &[u8]) -> PathBuf {
    let staging = Staging::new(layers).expect("the place is ours");
    staging.unpack(tar, &IdPolicy::identity(), false).expect("the archive is right");
    staging.publish(name).expect("the place is ours");
    layers.join(name)
}

fn build_layers(place: &Path, dir: &Path, python: Option<&str>, has_git: bool) -> Vec<PathBuf> {
    let mut dice = Dice::new(7);
    let mut layers: Vec<_> = (0..6).map(|_| Layer::new()).collect();
    let noise: Vec<u8> = (0..600_000).map(|_| dice.below(256) as u8).collect();

    let mut directories = vec!["usr/lib/gen".to_owned(), "usr/share".to_owned()];
    while directories.len() < DIRECTORIES {
        // Later directories are deeper; those of the first hundred have many children.
        let bound = if dice.below(3) == 0 { 100 } else { usize::MAX }.min(directories.len());
        let parent = dice.below(bound);
        let parent = &directories[parent];
        if parent.matches('/').count() < 8 {
            directories.push(format!(
                "{parent}/{}{}",
                ["module", "doc", "locale-", "x86_64-linux-gnu."][dice.below(4)],
                directories.len()
            ));
        }
    }
    let shares = [55, 75, 87, 93, 98, 100];
    for number in 0..GENERATED {
        let share = dice.below(100);
        let layer = shares.iter().position(|bound| share < *bound).expect("the last is 100");
        let at = dice.below(directories.len());
        let path = format!(
            "{}/{}{number}.{}",
            directories[at],
            ["lib", "README", "messages_", "index-of-all-entries-"][dice.below(4)],
            ["so", "py", "mo", "html"][dice.below(4)]
        );
        let size = match dice.below(100) {
            0..50 => dice.below(2_000),
            50..86 => dice.below(10_000),
            86..99 => dice.below(40_000),
            _ => dice.below(300_000),
        };
        let start = dice.below(noise.len() - size);
        match dice.below(100) {
            0..8 => layers[layer].symlink(&path, &format!("lib{}.so", dice.below(GENERATED))),
            _ => layers[layer].file(&path, &noise[start..start + size]),
        }
        // Some are replaced or removed by a layer above.
        if layer < 5 {
            match dice.below(100) {
                0..3 => layers[layer + 1].file(&path, &noise[start..start + size / 2]),
                3 => {
                    let (parent, name) = path.rsplit_once('/').expect("it has a directory");
                    layers[layer + 1].file(&format!("{parent}/.wh.{name}"), b"");
                }
                _ => {}
            }
        }
    }
    for (number, layer) in layers.iter_mut().enumerate().take(4) {
        let big: Vec<u8> = noise.iter().cycle().skip(number).take(48 << 20).copied().collect();
        layer.file(&format!("var/big{number}"), &big);
    }
    for program in ["sh", "true"] {
        layers[0].take(&real(&format!("/usr/bin/{program}")), &format!("usr/bin/{program}"));
        for library in libraries(&format!("/usr/bin/{program}")) {
            layers[0].take(&real(&library), library.trim_start_matches('/'));
        }
    }
    if let Some(python) = python {
        layers[1].take(&Path::new("/usr/bin").join(python), &format!("usr/bin/{python}"));
        layers[1].take(&Path::new("/usr/lib").join(python), &format!("usr/lib/{python}"));
    }
    if has_git {
        layers[2].take(&project(place), "src/project");
    }
    let names = ["0", "1", "2", "3", "4", "5"];
    let unpacked = layers.into_iter().zip(names).map(|(layer, name)| unpack(dir, name, &layer.bytes()));
    let mut paths: Vec<_> = unpacked.collect();
    paths.reverse();
    paths
}

fn real(path: &str) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The shared libraries of a program, by the paths that it knows them by.
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// A git repository with one commit.
fn project(place: &Path) -> PathBuf {
    let dir = place.join("project");
    for number in 0..PROJECT_FILES {
        let path = dir.join(format!("part{}/sub{}/file{number}.rs", number % 12, number % 97));
        fs::create_dir_all(path.parent().expect("it has one")).expect("the place is ours");
        fs::write(path, format!("// {number}\n").repeat(1 + number % 300)).expect("the place is ours");
    }
    for arguments in [
        &["init", "-q"][..],
        &["add", "."],
        &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "all"],
    ] {
        let status = Command::new("git").arg("-C").arg(&dir).args(arguments).status();
        assert!(status.is_ok_and(|status| status.success()), "git {arguments:?}");
    }
    dir
}

fn many_files() -> Vec<u8> {
    let mut layer = Layer::new();
    (0..100_000).for_each(|number| layer.file(&format!("d{}/file-with-a-usual-name-{number}", number % 997), b""));
    layer.bytes()
}

fn archive() -> Vec<u8> {
    let mut layer = Layer::new();
    let mut dice = Dice::new(11);
    for number in 0..4_000 {
        let content = vec![b'x'; dice.below(9_000)];
        layer.file(&format!("top{}/middle{}/file{number}", number % 7, number % 131), &content);
    }
    layer.bytes()
}
