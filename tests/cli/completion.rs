//! `completion`: what shells are told, and by a real bash.

use std::process::Command;

use crate::support::command::binary;
use crate::support::prelude::*;

pub(crate) const TESTS: &[Test] = &[
    test!(names_of_what_there_is_are_completed),
    test!(bash_completes),
    test!(manual_pages_are_written).without_image(),
];

fn names_of_what_there_is_are_completed(home: &Home) {
    home.ok("create --name web busybox sh");
    home.ok("volume create data");
    home.ok("tag busybox docker.io/library/tool:1");
    let of = |words: &str| home.ok(&format!("__complete plain -- {words}"));
    assert_eq!(of("start w"), "web");
    assert_eq!(of("rm web w"), "web");
    assert_eq!(of("volume rm d"), "data");
    assert_eq!(of("run --rm -it to"), "tool:1");
    assert_eq!(of("run --rm -v d"), "data");
    assert!(of("''").lines().any(|line| line == "images"));
    assert!(of("image ''").lines().any(|line| line == "prune"));
    assert!(of("run --net").lines().any(|line| line == "--network"));
    assert!(!of("run -").contains("--oom-kill-disable"));
    assert_eq!(home.ok("__complete tabbed -- imag"), "image\tManage images\nimages\tList images in local storage");
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.ok(&format!("completion {shell}")).contains("__complete"));
    }
}

fn bash_completes(home: &Home) {
    home.ok("create --name web busybox sh");
    home.ok("tag busybox docker.io/library/tool:1");
    home.write("completion", home.ok("completion bash"));
    let dir = home.tmp().join("bin");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(binary(), dir.join("coracle")).unwrap();
    let completed = |line: &str| {
        let words: Vec<String> = line.split(' ').map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source completion; COMP_LINE='{line}' COMP_POINT={} COMP_WORDS=({}) COMP_CWORD={}; _coracle_complete; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            line.len(),
            words.join(" "),
            words.len() - 1
        );
        let like = home.coracle("").to_command();
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).env_clear().current_dir(home.tmp());
        bash.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = std::env::join_paths([dir.clone(), "/usr/bin".into(), "/bin".into()]).unwrap();
        let output = bash.env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(completed("coracle start w"), "web");
    assert_eq!(completed("coracle run tool:"), "1");
    assert_eq!(completed("coracle imag"), "image\nimages");
}

fn manual_pages_are_written(home: &Home) {
    let dir = home.tmp().join("man");
    std::fs::create_dir(&dir).unwrap();
    home.ok("__man write man");
    let page = std::fs::read_to_string(dir.join("coracle-run.1")).unwrap();
    for part in [".SH NAME\n", "coracle\\-run", ".SH OPTIONS", "\\fB\\-\\-volume\\fR", ".SH EXAMPLES"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(dir.join("coracle-image-ls.1").exists() && !dir.join("coracle-__complete.1").exists());
}
