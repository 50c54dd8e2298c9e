//! What patterns match: moby's cases and Go's.

use super::*;

fn verdict(patterns: &[&str], path: &str) -> Verdict {
    Ignore::from_patterns(patterns.iter().copied()).expect("patterns").verdict(path.as_bytes())
}

#[test]
fn patterns_match_as_in_moby() {
    let cases: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir", false),
        ("dir/**", "dir/dir2/file", true),
        ("**/dir", "dir", true),
        ("**/dir", "a/dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir3/file", true),
        ("**file", "file", true),
        ("**file", "dir/dir/file", true),
        ("**file", "xfile", false),
        ("**/file", "dir/xfile", false),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a**b", "ab", true),
        ("a**b", "ax/b", true),
        ("a**b", "axb", false),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        ("a[^b-d]e", "a/e", false),
        ("a?b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("a?b", "a/b", false),
        ("a*b", "a/b", false),
        ("[a-ζ]*", "α", true),
        ("[\\]a]", "]", true),
        ("[x\\-]", "-", true),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcZdef", false),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("a\\\\", "a\\", true),
        ("dir", "dir/a/b", true),
        ("dir/", "dir/a", true),
        ("/dir", "dir", true),
        ("./dir/../dir", "dir", true),
        ("dir", "dirx", false),
        ("di*", "dir/a", true),
        (".", "dir", false),
    ];
    for (pattern, path, wanted) in cases {
        assert_eq!(verdict(&[pattern], path) != Verdict::Keep, *wanted, "{pattern} {path}");
    }
}

#[test]
fn later_patterns_win_and_exceptions_take_back() {
    let cases: &[(&[&str], &str, Verdict)] = &[
        (&["docs", "!docs/README.md"], "docs/README.md", Verdict::Keep),
        (&["docs", "!docs/README.md"], "docs/other", Verdict::Skip),
        (&["docs", "!docs/README.md"], "docs", Verdict::Ignore),
        (&["docs/*", "!docs/README.md"], "docs/README.md", Verdict::Keep),
        (&["!fileutils.go", "*.go"], "fileutils.go", Verdict::Skip),
        (&["*.go", "!fileutils.go"], "fileutils.go", Verdict::Keep),
        (&["**", "!util/docker/web"], "util/docker/web/foo", Verdict::Keep),
        (&["**", "!util/docker/web"], "util/docker", Verdict::Ignore),
        (&["**", "!util/docker/web"], "other", Verdict::Skip),
        (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", Verdict::Skip),
        (&["*", "!src", "!*.toml"], "target", Verdict::Ignore),
        (&["*", "!src", "!Cargo.toml"], "target", Verdict::Skip),
        (&["*", "!src", "!Cargo.toml"], "src/main.rs", Verdict::Keep),
        (&["node_modules", "!**/keep"], "node_modules", Verdict::Ignore),
        (&[" docs ", "  !docs/README.md  "], "docs/README.md", Verdict::Keep),
        (&["", "docs"], "other", Verdict::Keep),
    ];
    for (patterns, path, wanted) in cases {
        assert_eq!(verdict(patterns, path), *wanted, "{patterns:?} {path}");
    }
}

#[test]
fn file_has_comments_and_line_ends_of_both_kinds() {
    let source = "\u{feff}# comment\r\n*.log\r\n\r\n /tmp/ \n#not-this\n\\#this\n! a.log\n";
    let ignore = Ignore::parse(source.as_bytes()).expect("a file");
    let is_kept = |path: &str| ignore.verdict(path.as_bytes()) == Verdict::Keep;
    assert!(!is_kept("b.log") && is_kept("a.log") && !is_kept("tmp/x") && is_kept("#not-this") && !is_kept("#this"));
    assert!(!ignore.is_empty() && ignore.has_exceptions());
    assert!(Ignore::parse(b"# nothing\n").expect("a file").is_empty());
}

#[test]
fn malformed_patterns_are_refused_with_their_line() {
    for pattern in ["[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "\\", "!"] {
        let error = Ignore::parse(format!("ok\n{pattern}\n").as_bytes()).expect_err(pattern);
        assert_eq!((error.line, error.pattern.as_str()), (2, pattern));
    }
}

#[test]
fn skipping_never_hides_what_would_be_kept() {
    let parts = ["a", "b", "ab"];
    let sets: &[&[&str]] = &[
        &["*", "!a/b"],
        &["**", "!**/ab"],
        &["a", "!a/*/b"],
        &["a*", "!ab/a"],
        &["**/b", "!a/b/ab", "a/b/ab/a"],
        &["*", "!?b"],
        &["a/b", "!a"],
        &["*", "!a**b"],
    ];
    for patterns in sets {
        let ignore = Ignore::from_patterns(patterns.iter().copied()).expect("patterns");
        for path in (0..27).map(|n| [parts[n / 9], parts[n / 3 % 3], parts[n % 3]]) {
            if ignore.verdict(path.join("/").as_bytes()) != Verdict::Keep {
                continue;
            }
            for depth in 1..3 {
                let parent = path[..depth].join("/");
                assert_ne!(ignore.verdict(parent.as_bytes()), Verdict::Skip, "{patterns:?} {parent} hides {path:?}");
            }
        }
    }
}
