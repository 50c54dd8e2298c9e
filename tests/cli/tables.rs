//! Tables and colours: for people at a terminal, and for nobody else

use crate::support::home::wait_until;
use crate::support::prelude::*;
use crate::support::pty::Terminal;

pub(crate) const TESTS: &[Test] = &[
    test!(tables_fit_the_terminal),
    test!(no_trunc_is_not_cut_and_pipes_are_whole),
    test!(colour_is_for_terminals_that_want_it),
    test!(a_list_that_is_kept_tells_the_truth),
];

const LONG: &str = "localhost/a-team/with-a-name-that-is-long/application:and-a-version";

fn tables_fit_the_terminal(home: &Home) {
    home.ok(&format!("tag busybox {LONG}"));
    home.ok(&format!("create --name web {LONG} true"));
    let mut terminal = Terminal::start(home.coracle("ps -a"));
    terminal.expect("  localhost");
    terminal.expect("…");
    terminal.expect("Created");
    terminal.expect("web\r\n");
    assert_eq!(terminal.wait(), 0);
}

fn no_trunc_is_not_cut_and_pipes_are_whole(home: &Home) {
    home.ok(&format!("tag busybox {LONG}"));
    home.ok(&format!("create --name web {LONG} true"));
    let mut terminal = Terminal::start(home.coracle("ps -a --no-trunc"));
    terminal.expect(LONG);
    assert_eq!(terminal.wait(), 0);
    assert!(home.ok("ps -a").contains(LONG));
    assert!(home.ok("images").contains("application"));
}

fn colour_is_for_terminals_that_want_it(home: &Home) {
    home.run("run --name failed busybox false").exits(1);
    let mut terminal = Terminal::start(home.coracle("ps -a"));
    terminal.expect("\x1b[1;31mExited (1");
    let mut terminal = Terminal::start(home.coracle("inspect nosuch"));
    terminal.expect("\x1b[1;31mError:\x1b[0m");
    let mut terminal = Terminal::start(home.coracle("ps -a").env("NO_COLOR", "1"));
    terminal.expect("  Exited (1");
    assert!(!home.ok("ps -a").contains('\x1b'));
    assert!(!home.fails(125, "inspect nosuch").contains('\x1b'));
}

fn a_list_that_is_kept_tells_the_truth(home: &Home) {
    for number in 0..20 {
        home.ok(&format!("create --name c{number} busybox true"));
    }
    // What has just changed is not kept, so it takes a moment.
    wait_until("the first of them is kept", || {
        assert_eq!(home.ok("ps -aq").lines().count(), 20);
        let kept = std::fs::read_to_string(home.runtime_dir().join("coracle/listing")).unwrap_or_default();
        kept.contains("\"c0\"")
    });
    home.ok("rename c3 other");
    home.ok("rm c4");
    home.ok("start -a c5");
    let all = home.ok("ps -a");
    assert!(all.contains(" other\n") && !all.contains(" c3\n") && !all.contains(" c4\n"), "{all}");
    let ended: Vec<_> = all.lines().filter(|line| line.contains("Exited (0)")).collect();
    assert!(matches!(ended.as_slice(), [one] if one.ends_with(" c5")), "{all}");
    // A list of one's own form is read anew.
    let shown = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {}", words[0], words[1], words[words.len() - 1])
    };
    let kept: Vec<String> = all.lines().skip(1).map(shown).collect();
    let read = home.ok("ps -a --format '{{.ID}} {{.Image}} {{.Names}}'");
    assert_eq!(kept, read.lines().collect::<Vec<_>>());
}
