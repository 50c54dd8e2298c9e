//! SIGINT at every point of a build: when the command has ended nothing of it runs any more, nothing is mounted, and there
//! is no byte that prune does not see.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::Signal;

use crate::crash::kill::processes;
use crate::support::home::{entries, wait_for_process, wait_until};
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(interrupt_in_stages_side_by_side_ends_all),
    test!(interrupt_while_files_are_copied).limit_secs(180),
    test!(interrupt_while_a_base_image_is_awaited),
    test!(interrupt_while_a_file_is_fetched),
    test!(interrupt_while_a_context_is_fetched),
    test!(interrupt_while_the_image_is_pushed),
    test!(interrupt_after_a_step_that_made_many_files).limit_secs(180),
];

/// Builds until `reached` returns, and interrupts.
fn interrupted(home: &Home, line: &str, reached: impl FnOnce()) {
    let running = home.coracle(line).spawn();
    reached();
    running.signal(Signal::SIGINT);
    let ended = running.wait();
    assert_eq!(ended.code(), 130, "{}", ended.transcript());
    assert!(!ended.stderr().contains("Error"), "{}", ended.transcript());
    // The network's leader ends of itself, with the last that needs it.
    wait_until("nothing of the build runs", || processes().is_empty());
    assert_eq!(home.mounts(), Vec::<String>::new());
    assert_eq!(home.ok("ps -aq"), "");
    home.ok("system check --quick");
    home.ok("builder prune -a -f");
    home.ok("image prune -f --now");
    home.ok("trash empty");
    let dirs = ["build/steps", "build/trees", "build/mounts", "containers", "trash"];
    let left: Vec<_> = dirs.iter().flat_map(|dir| entries(&home.data().join(dir))).collect();
    assert!(left.is_empty(), "prune left {left:#?}");
    home.assert_nothing_left();
}

/// A server that takes requests and never comes to the end of its answer.
fn stuck(answer: &'static [u8]) -> (String, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let address = listener.local_addr().expect("it is bound");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer);
            let _ = sender.send(stream);
        }
    });
    (address.to_string(), receiver)
}

/// Waits for a request, whose connection stays open.
fn await_request(requests: &Receiver<TcpStream>) {
    std::mem::forget(requests.recv().expect("the server takes requests"));
}

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe beginning";

fn interrupt_in_stages_side_by_side_ends_all(home: &Home) {
    let stage = |number| {
        format!("FROM busybox AS s{number}\nRUN --mount=type=cache,target=/c touch /c/{number} && sleep 4321{number}\n")
    };
    let text: String = (0..4).map(stage).collect();
    let last: String = (0..4).map(|number| format!("COPY --from=s{number} /etc /{number}\n")).collect();
    home.write("c/Dockerfile", format!("{text}FROM busybox\n{last}"));
    let line = format!("build --jobs 4 {}", home.tmp().join("c").display());
    interrupted(home, &line, || (0..4).for_each(|number| wait_for_process(&format!("sleep 4321{number}"))));
}

fn interrupt_while_files_are_copied(home: &Home) {
    for number in 0..20_000 {
        let path = home.tmp().join(format!("c/d/{}", number % 100));
        if number < 100 {
            fs::create_dir_all(&path).expect("tmp is ours");
        }
        fs::write(path.join(number.to_string()), "x").expect("tmp is ours");
    }
    home.write("c/Dockerfile", "FROM busybox\nCOPY d /d\nRUN sleep 43220\n");
    let line = format!("build --network none {}", home.tmp().join("c").display());
    let copied = || {
        let trees = entries(&home.data().join("build/trees"));
        trees.iter().any(|tree| !entries(&tree.join("tree/diff/d")).is_empty())
    };
    interrupted(home, &line, || wait_until("files are copied", copied));
}

fn interrupt_while_a_base_image_is_awaited(home: &Home) {
    let (host, requests) = stuck(b"");
    home.write("c/Dockerfile", format!("FROM {host}/base:1\nRUN true\n"));
    let line = format!("build --tls-verify=false {}", home.tmp().join("c").display());
    interrupted(home, &line, || await_request(&requests));
}

fn interrupt_while_a_file_is_fetched(home: &Home) {
    let (host, requests) = stuck(HALF);
    home.write("c/Dockerfile", format!("FROM busybox\nADD http://{host}/file /f\n"));
    let line = format!("build {}", home.tmp().join("c").display());
    interrupted(home, &line, || await_request(&requests));
}

fn interrupt_while_a_context_is_fetched(home: &Home) {
    let (host, requests) = stuck(HALF);
    interrupted(home, &format!("build http://{host}/context.tar"), || await_request(&requests));
    let (host, requests) = stuck(b"");
    // By the git program.
    interrupted(home, &format!("build http://{host}/context.git"), || await_request(&requests));
}

fn interrupt_while_the_image_is_pushed(home: &Home) {
    let (host, requests) = stuck(b"");
    home.write("c/Dockerfile", "FROM busybox\nENV A=1\n");
    let line = format!("build --tls-verify=false --push -t {host}/made:1 {}", home.tmp().join("c").display());
    interrupted(home, &line, || await_request(&requests));
}

/// Who interrupts does not wait until all of it is gone.
fn interrupt_after_a_step_that_made_many_files(home: &Home) {
    let script = "mkdir /d && cd /d && for i in $(seq 60); do mkdir $i && (cd $i && seq 300 | xargs touch); done";
    home.write("c/Dockerfile", format!("FROM busybox\nRUN {script}; truncate -s 300M /large; sleep 43230\n"));
    let line = format!("build --network none {}", home.tmp().join("c").display());
    interrupted(home, &line, || wait_for_process("sleep 43230"));
}
