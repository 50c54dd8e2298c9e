//! `run -it`: a person at a real terminal.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::home::{wait_for_process, wait_until};
use crate::support::prelude::*;
use crate::support::pty::Terminal;

pub(crate) const TESTS: &[Test] = &[
    test!(shell_with_job_control),
    test!(window_size_is_passed_on_and_follows),
    test!(interrupt_key_reaches_the_foreground_job),
    test!(terminal_is_restored_on_every_way_out),
    test!(detach_keys_leave_it_running_and_attach_returns),
    test!(detach_keys_can_be_changed),
    test!(exit_code_comes_through_a_terminal),
    test!(tty_without_a_terminal_still_gives_one),
    test!(term_is_set_with_a_terminal),
    test!(exec_in_a_terminal),
    test!(exec_that_is_detached_from_goes_on),
    test!(hangup_ends_an_attached_run),
];

fn shell(home: &Home, line: &str) -> Terminal {
    let mut terminal = Terminal::start(home.coracle(line));
    terminal.expect("# ");
    terminal
}

fn shell_with_job_control(home: &Home) {
    let mut terminal = shell(home, "run --rm -it busybox");
    terminal.send("sleep 1000\n");
    wait_for_process("sleep 1000");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.send("jobs; bg; kill %1; wait; echo job-$((1+1))\n");
    terminal.expect("job-2");
    terminal.send("exit 5\n");
    assert_eq!(terminal.wait(), 5);
}

fn exec_that_is_detached_from_goes_on(home: &Home) {
    home.ok("run -d --init --name c busybox sleep 1000");
    let mut terminal = shell(home, "exec -it c sh");
    terminal.send("echo $$ >/pid; until test -e /go; do echo here; sleep 0.05; done; echo went >/done; sleep 1000\n");
    wait_until("it is at it", || home.run("exec c test -s /pid").code() == 0);
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    home.ok("exec c touch /go");
    wait_until("it has gone on", || home.run("exec c cat /done").stdout() == "went\n");
    home.ok("exec c sh -c 'kill -0 $(cat /pid)'");
    home.ok("rm -f -t 0 c");
}

fn window_size_is_passed_on_and_follows(home: &Home) {
    let mut terminal = shell(home, "run --rm -it busybox");
    terminal.send("stty size\n");
    terminal.expect("24 80");
    terminal.resize(40, 132);
    // The line is echoed: what is expected must not stand in it.
    terminal.send("until [ \"$(stty size)\" = '40 132' ]; do sleep 0.05; done; echo followed-$((1+1))\n");
    terminal.expect("followed-2");
    terminal.send("exit\n");
    assert_eq!(terminal.wait(), 0);
}

fn interrupt_key_reaches_the_foreground_job(home: &Home) {
    let mut terminal = shell(home, "run --rm -it busybox");
    terminal.send("sleep 1000; echo code-$?\n");
    wait_for_process("sleep 1000");
    terminal.send("\x03");
    terminal.send("echo code-$?\n");
    terminal.expect("code-130");
    terminal.send("exit 0\n");
    assert_eq!(terminal.wait(), 0);
}

fn terminal_is_restored_on_every_way_out(home: &Home) {
    // The end of the shell.
    let mut terminal = shell(home, "run --rm -it busybox");
    assert!(!terminal.is_cooked(), "it must be raw while the container has it");
    terminal.send("exit\n");
    terminal.wait();
    assert!(terminal.is_cooked(), "after the end");
    // The container is killed from elsewhere.
    let mut terminal = shell(home, "run --rm -it --name victim busybox");
    home.ok("kill victim");
    assert_eq!(terminal.wait(), 137);
    assert!(terminal.is_cooked(), "after a kill of the container");
    // A signal to the command.
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = shell(home, "run --rm -it busybox");
        kill(Pid::from_raw(terminal.pid().cast_signed()), signal).unwrap();
        // The shell of the container ignores TERM: then the command goes on, and its way out is another.
        std::thread::sleep(std::time::Duration::from_millis(300));
        terminal.send("exit\n");
        terminal.wait();
        assert!(terminal.is_cooked(), "after {signal}");
    }
    // It never starts.
    let mut terminal = Terminal::start(home.coracle("run --rm -it busybox no-such-command"));
    assert_eq!(terminal.wait(), 127);
    assert!(terminal.is_cooked(), "after a failed start");
}

fn detach_keys_leave_it_running_and_attach_returns(home: &Home) {
    let mut terminal = shell(home, "run -it --name d busybox");
    terminal.send("VAR=kept\n");
    terminal.expect("# ");
    terminal.send("\x10");
    std::thread::sleep(std::time::Duration::from_millis(50));
    terminal.send("\x11");
    assert_eq!(terminal.wait(), 0);
    assert!(terminal.is_cooked());
    home.wait_for_status("d", "running");
    let mut terminal = Terminal::start(home.coracle("attach d"));
    terminal.send("\necho it-is-$VAR\n");
    terminal.expect("it-is-kept");
    terminal.send("exit 3\n");
    assert_eq!(terminal.wait(), 3);
    assert_eq!(home.inspect("d", "{{.State.ExitCode}}"), "3");
}

fn detach_keys_can_be_changed(home: &Home) {
    let mut terminal = shell(home, "run -it --name d --detach-keys ctrl-a,x busybox");
    terminal.send("\x10\x11");
    terminal.send("echo still-here\n");
    terminal.expect("still-here");
    terminal.send("\x01");
    std::thread::sleep(std::time::Duration::from_millis(50));
    terminal.send("x");
    assert_eq!(terminal.wait(), 0);
    home.wait_for_status("d", "running");
    home.refuses("run --rm -it --detach-keys nonsense busybox true");
}

fn exit_code_comes_through_a_terminal(home: &Home) {
    let mut terminal = Terminal::start(home.coracle("run --rm -t busybox sh -c 'exit 42'"));
    assert_eq!(terminal.wait(), 42);
}

fn tty_without_a_terminal_still_gives_one(home: &Home) {
    let finished = home.run("run --rm -t busybox sh -c 'test -t 0 && test -t 1 && echo yes'");
    finished.exits(0);
    assert_eq!(finished.stdout(), "yes\r\n");
}

fn term_is_set_with_a_terminal(home: &Home) {
    let mut terminal = Terminal::start(home.coracle("run --rm -t busybox sh -c 'echo TERM=$TERM.'"));
    terminal.expect("TERM=xterm.");
    assert_eq!(terminal.wait(), 0);
}

fn exec_in_a_terminal(home: &Home) {
    home.ok("run -d --name e busybox sleep 1000");
    let mut terminal = shell(home, "exec -it e sh");
    terminal.send("stty size; tty\n");
    terminal.expect("24 80");
    terminal.expect("/dev/pts/");
    terminal.send("exit 6\n");
    assert_eq!(terminal.wait(), 6);
    assert!(terminal.is_cooked());
}

fn hangup_ends_an_attached_run(home: &Home) {
    let terminal = shell(home, "run --rm -it --name h busybox");
    drop(terminal);
    // What was attached is dead; the container is still there, or it has gone with it: never something in between.
    wait_until("the state is settled", || {
        let status = home.run("inspect --format {{.State.Status}} h");
        !status.status.success() || status.stdout().trim() == "running"
    });
}
