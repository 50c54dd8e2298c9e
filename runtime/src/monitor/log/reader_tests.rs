//! Logs of both formats, read whole, from the end, in a span of time and while they grow.

use super::super::{Driver, Entry, Limits, Log, Printer};
use super::*;
use std::io::pipe;
use std::sync::mpsc;

struct Fixture {
    directory: tempfile::TempDir,
    handle: std::fs::File,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let handle = std::fs::File::open(directory.path()).unwrap();
        Self { directory, handle }
    }

    fn log(&self, driver: Driver, limits: Limits) -> Log {
        Log::open(driver, self.handle.as_fd(), "log", limits).unwrap()
    }

    fn shown(&self, selection: Selection) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let reader = Reader::new(self.handle.as_fd(), "log").unwrap();
        reader.read(&selection, None, &mut Printer::new(&mut out, &mut err, false)).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn tail(&self, lines: u64) -> String {
        let (out, err) = self.shown(Selection { tail: Some(lines), ..Selection::default() });
        out + &err
    }
}

const DRIVERS: [Driver; 2] = [Driver::K8sFile, Driver::JsonFile];

#[test]
fn streams_and_parts_come_back_as_they_were_written() {
    for driver in DRIVERS {
        let fixture = Fixture::new();
        assert_eq!(fixture.shown(Selection::default()), (String::new(), String::new()));
        let mut log = fixture.log(driver, Limits::default());
        for (stream, text) in [
            (Stream::Stdout, "one\ntwo, "),
            (Stream::Stderr, "error: "),
            (Stream::Stdout, "second\n\n"),
            (Stream::Stderr, "bad\n"),
            (Stream::Stdout, "prompt> "),
        ] {
            log.write(stream, text.as_bytes()).unwrap();
        }
        let (out, err) = ("one\ntwo, second\n\nprompt> ".to_owned(), "error: bad\n".to_owned());
        assert_eq!(fixture.shown(Selection::default()), (out.clone(), err.clone()));
        assert_eq!(fixture.shown(Selection { stderr: false, ..Selection::default() }), (out, String::new()));
        assert_eq!(fixture.shown(Selection { stdout: false, ..Selection::default() }), (String::new(), err));
    }
}

#[test]
fn the_last_lines_are_counted_over_parts_blocks_and_generations() {
    for (driver, limits) in [
        (Driver::K8sFile, Limits::default()),
        (Driver::JsonFile, Limits::default()),
        (Driver::K8sFile, Limits { max_size_bytes: Some(30_000), max_files: 100 }),
        (Driver::JsonFile, Limits { max_size_bytes: Some(200_000), max_files: 100 }),
    ] {
        let fixture = Fixture::new();
        let mut log = fixture.log(driver, limits);
        let lines: Vec<String> =
            (0..400).map(|number| format!("{number} {}\n", "x".repeat(number * 37 % 1_500))).collect();
        for line in &lines {
            // Each line in up to three parts.
            let (first, rest) = line.split_at(line.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            for part in [first, second, third] {
                log.write(Stream::Stdout, part.as_bytes()).unwrap();
            }
        }
        log.write(Stream::Stdout, b"not finished").unwrap();
        assert_eq!(fixture.tail(0), "");
        assert_eq!(fixture.tail(1), "not finished");
        for count in [2, 3, 50, 200, 400] {
            let expected = lines[lines.len() + 1 - count..].concat() + "not finished";
            assert!(fixture.tail(count as u64) == expected, "{driver:?} {limits:?} {count}");
        }
        assert!(fixture.tail(10_000) == lines.concat() + "not finished");
    }
}

#[test]
fn tail_zero_shows_nothing_even_without_a_final_newline() {
    let fixture = Fixture::new();
    std::fs::write(fixture.directory.path().join("log"), "2026-01-02T03:04:05Z stdout F a\nhalf a rec").unwrap();
    assert_eq!(fixture.tail(0), "");
    assert_eq!(fixture.tail(1), "a\n");
    assert_eq!(fixture.shown(Selection::default()).0, "a\n");
}

#[test]
fn time_bounds_are_inclusive_and_garbage_is_skipped() {
    let fixture = Fixture::new();
    let text = "2026-01-02T03:04:05Z stdout F a\n\
                garbage\n\
                {\"log\":\"b\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:06Z\"}\n\
                2026-01-02T04:04:07+01:00 stdout F c\n";
    std::fs::write(fixture.directory.path().join("log"), text).unwrap();
    let at = |secs: i64| Some(Timestamp { secs: 1_767_323_045 + secs, nanos: 0 });
    let shown = |since, until| fixture.shown(Selection { since, until, ..Selection::default() }).0;
    assert_eq!(shown(None, None), "a\nb\nc\n");
    assert_eq!(shown(at(1), None), "b\nc\n");
    assert_eq!(shown(None, at(1)), "a\nb\n");
    assert_eq!(shown(at(2), at(2)), "c\n");
    assert_eq!(shown(at(3), None), "");
}

#[test]
fn timestamps_stand_before_lines_not_before_parts() {
    let fixture = Fixture::new();
    let text = "2026-01-02T03:04:05.5+00:00 stdout P a\n2026-01-02T03:04:06Z stdout F b\n2026-01-02T04:04:07+01:00 stderr F c\n";
    std::fs::write(fixture.directory.path().join("log"), text).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
    reader.read(&Selection::default(), None, &mut Printer::new(&mut out, &mut err, true)).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "2026-01-02T03:04:05.500000000Z ab\n");
    assert_eq!(String::from_utf8(err).unwrap(), "2026-01-02T04:04:07.000000000+01:00 c\n");
}

/// Sends what it is shown, so that a test knows when it may go on.
struct Channel(mpsc::Sender<String>);

impl Visitor for Channel {
    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.0.send(String::from_utf8(entry.text.to_vec()).unwrap()).map_err(io::Error::other)
    }
}

#[test]
fn following_sees_every_record_over_rotations_and_ends_with_the_writer() {
    for (driver, max_files) in [(Driver::K8sFile, 1), (Driver::K8sFile, 3), (Driver::JsonFile, 3)] {
        let fixture = Fixture::new();
        let (ended, writer_lives) = pipe().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
            let ended = &ended;
            scope.spawn(move || {
                let follow = Follow { writer_ended: ended.as_fd(), reader_gone: None };
                reader.read(&Selection::default(), Some(follow), &mut Channel(sender)).unwrap();
            });
            // The log is made only after following began, or before: both must work.
            let mut log = fixture.log(driver, Limits { max_size_bytes: Some(300), max_files });
            for number in 0..50 {
                log.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
                assert_eq!(receiver.recv().unwrap(), format!("line {number}"));
            }
            log.write(Stream::Stdout, b"last\n").unwrap();
            drop(writer_lives);
            assert_eq!(receiver.iter().collect::<Vec<_>>(), ["last"]);
        });
    }
}

#[test]
fn following_ends_with_its_reader_and_at_its_time() {
    let fixture = Fixture::new();
    let (ended, _writer_lives) = pipe().unwrap();
    let (reader_end, stdout) = pipe().unwrap();
    drop(reader_end);
    let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
    let mut printer = Printer::new(io::sink(), io::sink(), false);
    let gone = Follow { writer_ended: ended.as_fd(), reader_gone: Some(stdout.as_fd()) };
    reader.read(&Selection::default(), Some(gone), &mut printer).unwrap();
    let follow = Follow { writer_ended: ended.as_fd(), reader_gone: None };
    let until = Some(Timestamp { secs: Timestamp::now().secs - 1, nanos: 0 });
    reader.read(&Selection { until, ..Selection::default() }, Some(follow), &mut printer).unwrap();
}

#[test]
fn a_file_cut_by_a_full_disk_is_read_on() {
    let fixture = Fixture::new();
    let path = fixture.directory.path().join("log");
    std::fs::write(&path, "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z std").unwrap();
    let reader = Reader::new(fixture.handle.as_fd(), "log").unwrap();
    let (sender, receiver) = mpsc::channel();
    let mut channel = Channel(sender);
    let mut shown = Shown::new(Selection::default(), &mut channel);
    let mut position = reader.oldest().unwrap();
    reader.show_all(&mut position, &mut shown).unwrap();
    std::fs::write(&path, "2026-01-02T03:04:05Z stdout F a\n").unwrap();
    reader.show_all(&mut position, &mut shown).unwrap();
    std::fs::write(&path, "2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:06Z stdout F b\n").unwrap();
    reader.show_all(&mut position, &mut shown).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), ["a", "b"]);
}
