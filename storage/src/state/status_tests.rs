//! The tables behind [`super`]: states × events, and what is concluded from files × lock × boot.

use super::super::container::tests::{create, layout};
use super::observe::{Evidence, conclude};
use super::*;

fn init() -> Init {
    Init { pid: 7, start_time: 9 }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn exit(code: i32) -> Exit {
    Exit { code, finished_at: Some(at(20)), oom: false, error: String::new() }
}

#[test]
fn every_state_takes_exactly_the_events_of_the_diagram() {
    let created = State::Created;
    let starting = State::Starting { init: init() };
    let running = State::Running { init: init(), since: at(1) };
    let paused = State::Paused { init: init(), since: at(1) };
    let stopped = State::Stopped { exit: exit(3) };
    let resting = State::Restarting { exit: exit(3) };
    let spawned = Event::Spawned(init());
    let execed = Event::Execed(at(1));
    let exited = Event::Exited(exit(3));
    let rests = Event::Resting(exit(3));
    let legal = [
        (&created, &spawned, &starting),
        (&stopped, &spawned, &starting),
        (&starting, &execed, &running),
        (&running, &Event::Frozen, &paused),
        (&paused, &Event::Thawed, &running),
        (&starting, &exited, &stopped),
        (&running, &exited, &stopped),
        (&paused, &exited, &stopped),
        (&running, &rests, &resting),
        (&paused, &rests, &resting),
        (&resting, &spawned, &starting),
        (&resting, &exited, &stopped),
    ];
    for from in [&created, &starting, &running, &paused, &resting, &stopped] {
        for event in [&spawned, &execed, &Event::Frozen, &Event::Thawed, &exited, &rests] {
            let expected = legal.iter().find(|(state, with, _)| *state == from && *with == event);
            let result = from.clone().on(event.clone());
            match expected {
                Some((_, _, to)) => assert_eq!(result.as_ref(), Ok(*to), "{from:?} {event:?}"),
                None => assert!(result.is_err(), "{from:?} {event:?}"),
            }
        }
    }
}

#[test]
fn state_json_keeps_its_shape() {
    let mut file = StateFile::new(42);
    file.boot_id = "b".to_owned();
    file.on(Event::Spawned(init())).unwrap();
    file.on(Event::Execed(at(1))).unwrap();
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(
        json,
        r#"{"version":1,"status":"running","init":{"pid":7,"start_time":9},"since":"1970-01-01T00:00:01Z","boot_id":"b","supervisor":42,"started_at":"1970-01-01T00:00:01Z","network":{"mode":"","interfaces":[],"ports":[]},"health":null,"restarts":0,"cgroup":null}"#
    );
    assert_eq!(serde_json::from_str::<StateFile>(&json).unwrap(), file);
    let least = r#"{"version":1,"status":"created","boot_id":"b","supervisor":42}"#;
    assert_eq!(serde_json::from_str::<StateFile>(least).unwrap().state, State::Created);
}

fn file(state: State, started: i64) -> Option<StateFile> {
    Some(StateFile { state, started_at: Some(at(started)), ..StateFile::new(42) })
}

fn exit_record(exit: Option<Exit>, started: i64) -> Option<ExitRecord> {
    Some(ExitRecord { version: 1, started_at: Some(at(started)), exit, restarts: 0, stopped_by_user: false })
}

#[test]
fn every_combination_of_files_lock_and_boot_has_its_conclusion() {
    let running = || State::Running { init: init(), since: at(10) };
    let stopped = || State::Stopped { exit: exit(3) };
    // (lock held, state.json, exit record, same boot, init alive, made by run) → (word, code, supervisor known)
    #[rustfmt::skip]
    let table = [
        // Somebody holds the lock: its word counts, if it has said one.
        (true,  None,                        None,                         false, false, false, "created",     None,      false),
        (true,  None,                        None,                         false, false, true,  "created",     None,      false),
        (true,  file(State::Created, 10),    None,                         true,  false, true,  "created",     None,      true),
        (true,  file(State::Starting { init: init() }, 10), None,          true,  false, true,  "initialized", None,      true),
        (true,  file(running(), 10),         None,                         true,  false, true,  "running",     None,      true),
        (true,  file(State::Paused { init: init(), since: at(10) }, 10), None, true, false, true, "paused",    None,      true),
        (true,  file(stopped(), 10),         None,                         true,  false, true,  "exited",      Some(3),   true),
        (true,  file(State::Restarting { exit: exit(3) }, 10), None,       true,  false, true,  "restarting",  None,      true),
        (true,  file(running(), 10),         None,                         false, false, true,  "created",     None,      false),
        // Nobody does, in this boot.
        (false, None,                        None,                         false, false, false, "created",     None,      false),
        (false, file(State::Created, 10),    None,                         true,  false, false, "created",     None,      false),
        (false, file(State::Created, 10),    None,                         true,  false, true,  "exited",      Some(255), false),
        (false, file(State::Starting { init: init() }, 10), None,          true,  false, false, "exited",      Some(255), false),
        (false, file(running(), 10),         None,                         true,  false, true,  "exited",      Some(255), false),
        (false, file(running(), 10),         None,                         true,  true,  true,  "running",     None,      false),
        (false, file(stopped(), 10),         None,                         true,  false, true,  "exited",      Some(3),   false),
        (false, file(State::Restarting { exit: exit(3) }, 11), exit_record(None, 11), true, false, true, "exited", Some(3), false),
        (false, file(stopped(), 10),         exit_record(Some(exit(3)), 10), true, false, true, "exited",      Some(3),   false),
        // A second start that was killed, after a first run with a known end.
        (false, file(running(), 11),         exit_record(Some(exit(3)), 10), true, false, true, "exited",      Some(255), false),
        (false, file(running(), 11),         exit_record(None, 11),        true,  false, true,  "exited",      Some(255), false),
        (false, file(running(), 11),         exit_record(None, 11),        true,  true,  true,  "running",     None,      false),
        (false, file(stopped(), 11),         exit_record(None, 11),        true,  false, true,  "exited",      Some(3),   false),
        // The machine was booted since: tmpfs is empty.
        (false, None,                        exit_record(Some(exit(4)), 10), false, false, true, "exited",     Some(4),   false),
        (false, None,                        exit_record(None, 10),        false, false, false, "exited",      Some(255), false),
        (false, None,                        None,                         false, false, true,  "exited",      Some(255), false),
        // The same with a runtime directory that is not tmpfs.
        (false, file(running(), 10),         None,                         false, false, false, "exited",      Some(255), false),
        (false, file(running(), 10),         None,                         false, false, true,  "exited",      Some(255), false),
        (false, file(running(), 10),         exit_record(Some(exit(4)), 10), false, false, true, "exited",     Some(4),   false),
        (false, file(stopped(), 10),         None,                         false, false, true,  "exited",      Some(3),   false),
        (false, file(State::Created, 10),    None,                         false, false, false, "created",     None,      false),
    ];
    for (row, (lock_held, state, exit, same_boot, init_alive, started_at_once, word, code, supervised)) in
        table.into_iter().enumerate()
    {
        let evidence = Evidence { lock_held, state, exit, same_boot, init_alive, started_at_once };
        let observed = conclude(evidence);
        assert_eq!(observed.state.as_str(), word, "row {row}");
        assert_eq!(observed.state.exit().map(|exit| exit.code), code, "row {row}");
        assert_eq!(observed.supervisor.is_some(), supervised, "row {row}");
        if code == Some(255) {
            assert!(observed.state.exit().unwrap().error.contains("unknown"), "row {row}");
        }
    }
}

#[test]
fn observation_follows_a_container_through_its_life() {
    let (_root, layout) = layout();
    let record = create(&layout, "1", "one");
    let word = || observe(&layout, &record).unwrap().state.as_str();
    assert_eq!(word(), "created");

    let lock = super::super::container::lock(&layout, &record.id).unwrap();
    let mut state = StateFile::new(1);
    let init = Init::of(std::process::id() as i32).unwrap();
    ExitRecord::write(&layout, &record.id, Some(Timestamp::now()), None, 0).unwrap();
    state.on(Event::Spawned(init)).unwrap();
    state.on(Event::Execed(Timestamp::now())).unwrap();
    state.write(&layout, &record.id).unwrap();
    assert_eq!(word(), "running");
    assert!(super::super::container::lock(&layout, &record.id).is_err());

    drop(lock);
    assert_eq!(word(), "running", "the process lives on for an instant after its supervisor");
    state.state = State::Running { init: Init { start_time: 1, ..init }, since: Timestamp::now() };
    state.write(&layout, &record.id).unwrap();
    assert_eq!(word(), "exited", "another process has the pid");

    std::fs::remove_dir_all(layout.runtime_dir()).unwrap();
    let observed = observe(&layout, &record).unwrap();
    assert_eq!(observed.state.exit().unwrap().code, 255, "reboot");
    ExitRecord::write(&layout, &record.id, Some(Timestamp::now()), Some(&exit(5)), 0).unwrap();
    assert_eq!(observe(&layout, &record).unwrap().state.exit().unwrap().code, 5);
}

#[test]
fn a_process_whose_name_has_parentheses_and_spaces_is_read() {
    let own = Init::of(std::process::id() as i32).unwrap();
    assert!(own.is_alive() && own.start_time > 0);
    assert!(!Init { start_time: own.start_time + 1, ..own }.is_alive());
    assert_eq!(Init::of(i32::MAX), None);
}

#[test]
fn stop_of_what_has_just_ended_is_no_failure() {
    let (_dir, layout) = layout();
    let id = create(&layout, "1", "web").id;
    fs::create_dir_all(layout.runtime_container(&id)).unwrap();
    request_stop(&layout, &id).unwrap();
    assert!(is_stop_requested(&layout, &id));
    fs::remove_dir_all(layout.runtime_container(&id)).unwrap();
    request_stop(&layout, &id).unwrap();
    assert!(!is_stop_requested(&layout, &id));
}
