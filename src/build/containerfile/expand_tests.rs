//! What becomes of words; the cases of BuildKit's shell lexer, and what a shell says.

use super::super::word::Word;

fn word(raw: &str) -> Word {
    Word { raw: raw.to_owned(), ..Word::default() }
}

fn value(name: &str) -> Option<String> {
    Some(
        match name {
            "PWD" => "/home",
            "SHELL" => "bash",
            "KOREAN" => "한국어",
            "NULL" => "",
            "FILE" => "/usr/lib/libc.so.6",
            "STARS" => "a***yy*",
            "GLOB" => "*.",
            "ODD" => "()[]{}^$.*?|\\x",
            "SPACED" => "a b  c",
            "1" => "one",
            "@" => "all",
            _ => return None,
        }
        .to_owned(),
    )
}

fn expand(raw: &str) -> Result<String, String> {
    word(raw).expand('\\', &value).map_err(|error| error.message)
}

#[test]
fn words_expand_as_in_a_shell() {
    let cases: &[(&str, &str)] = &[
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he'llo'", "hello"),
        ("he\\'llo", "he'llo"),
        ("he\\\\llo", "he\\llo"),
        ("abc\\tdef", "abctdef"),
        ("\"abc\\tdef\"", "abc\\tdef"),
        ("\"abc\\\\tdef\"", "abc\\tdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ("hello\\", "hello"),
        ("hello\\\\", "hello\\"),
        ("\"hello\"", "hello"),
        ("\"hel'lo\"", "hel'lo"),
        ("'hel\\lo'", "hel\\lo"),
        ("\"\\\"\"", "\""),
        ("\"'\"", "'"),
        ("'\"'", "\""),
        ("''", ""),
        ("\"\"", ""),
        ("$", "$"),
        ("a$", "a$"),
        ("$,a", "$,a"),
        ("\\$PWD", "$PWD"),
        ("\"\\$PWD\"", "$PWD"),
        ("'$PWD'", "$PWD"),
        ("$PWD", "/home"),
        ("\"$PWD\"", "/home"),
        ("x$PWD/x", "x/home/x"),
        ("x${PWD}x", "x/homex"),
        ("$PWDx", ""),
        ("$PWD.x", "/home.x"),
        ("$undefined", ""),
        ("$1", "one"),
        ("$10", ""),
        ("$1x", "onex"),
        ("$@", "all"),
        ("안녕하세요 $KOREAN", "안녕하세요 한국어"),
        ("안녕\\$KOREAN", "안녕$KOREAN"),
        ("${KOREAN}x", "한국어x"),
        // Values instead of others.
        ("${SHELL:-sh}", "bash"),
        ("${NULL:-x}", "x"),
        ("${NULL-x}", ""),
        ("${undefined:-x}", "x"),
        ("${undefined-x}", "x"),
        ("${undefined:-}", ""),
        ("${undefined:-$PWD}", "/home"),
        ("${undefined:-${none:-${PWD}}}", "/home"),
        ("${undefined:-'a }b'}", "a }b"),
        ("${undefined:-\"$PWD\"}", "/home"),
        ("${undefined:-a\\}b}", "a}b"),
        ("${SHELL:+x}", "x"),
        ("${NULL:+x}", ""),
        ("${NULL+x}", "x"),
        ("${undefined:+x}", ""),
        ("${undefined+x}", ""),
        ("${SHELL:+$PWD-x}", "/home-x"),
        ("${SHELL:?no}", "bash"),
        ("${NULL?no}", ""),
        // Parts of values.
        ("${FILE#/}", "usr/lib/libc.so.6"),
        ("${FILE#*/}", "usr/lib/libc.so.6"),
        ("${FILE##*/}", "libc.so.6"),
        ("${FILE%.*}", "/usr/lib/libc.so"),
        ("${FILE%%.*}", "/usr/lib/libc"),
        ("${FILE%/*}", "/usr/lib"),
        ("${FILE#/???/}", "lib/libc.so.6"),
        ("${FILE#nothing}", "/usr/lib/libc.so.6"),
        ("${FILE#}", "/usr/lib/libc.so.6"),
        ("${FILE##}", "/usr/lib/libc.so.6"),
        ("${FILE##*}", ""),
        ("${FILE#*}", "/usr/lib/libc.so.6"),
        ("${FILE%}", "/usr/lib/libc.so.6"),
        ("${STARS%%\\**\\*}", "a"),
        ("${STARS#a\\*}", "**yy*"),
        ("${STARS#${undefined:-a}}", "***yy*"),
        ("${ODD#()[]{\\}^$.\\*\\?|\\\\}", "x"),
        ("${undefined#x}", ""),
        ("${KOREAN%어}", "한국"),
        // Parts of values replaced.
        ("${FILE/lib/x}", "/usr/x/libc.so.6"),
        ("${FILE//lib/x}", "/usr/x/xc.so.6"),
        ("${FILE/lib*/x}", "/usr/x"),
        ("${FILE//\\//_}", "_usr_lib_libc.so.6"),
        ("${FILE//\\//\\/}", "\\/usr\\/lib\\/libc.so.6"),
        ("${FILE/none/x}", "/usr/lib/libc.so.6"),
        ("${FILE//./}", "/usr/lib/libcso6"),
        ("${SHELL/$NULL/x}", "xbash"),
        ("${SHELL///}", "bash"),
        ("${SHELL//a/$PWD}", "b/homesh"),
        ("${FILE/${GLOB}/!}", "!6"),
        ("${undefined/a/b}", ""),
    ];
    for (raw, wanted) in cases {
        assert_eq!(expand(raw).as_deref(), Ok(*wanted), "{raw}");
    }
}

#[test]
fn malformed_words_say_what_was_expected() {
    let cases: &[(&str, &str)] = &[
        ("'hello", "expected a second single quote"),
        ("\"hello", "expected a second double quote"),
        ("\"hello\\", "expected a second double quote"),
        ("${", "expected a name and '}'"),
        ("${}", "bad substitution"),
        ("${:}", "bad substitution"),
        ("${:-x}", "bad substitution"),
        ("${{x}", "bad substitution"),
        ("${PWD", "expected '}'"),
        ("${PWD:", "expected '}'"),
        ("${PWD:-x", "expected '}'"),
        ("${PWD#x", "expected '}'"),
        ("${PWD/x}", "expected '/'"),
        ("${PWD//}", "expected '/'"),
        ("${PWD/x/y", "expected '}'"),
        ("${PWD:%x}", "unsupported modifier \":%\""),
        ("${PWD:#x}", "unsupported modifier \":#\""),
        ("${PWD=x}", "unsupported modifier '='"),
        ("${PWD,,}", "unsupported modifier ','"),
        ("${PWD#\\x}", "invalid pattern"),
        ("${undefined:?there is $SHELL}", "undefined: there is bash"),
        ("${undefined?}", "is not allowed to be unset"),
        ("${NULL:?}", "is not allowed to be empty"),
        ("x${undefined:-'}", "second single quote"),
    ];
    for (raw, wanted) in cases {
        let error = expand(raw).expect_err(raw);
        assert!(error.contains(wanted), "{raw}: {error}");
    }
    let deep = "${x:-".repeat(2000);
    assert!(expand(&deep).expect_err("too deep").contains("too many braces"));
}

#[test]
fn words_split_where_white_space_is_neither_quoted_nor_escaped() {
    let cases: &[(&str, &[&str])] = &[
        ("hello", &["hello"]),
        ("hello bye", &["hello", "bye"]),
        ("  hello   bye ", &["hello", "bye"]),
        ("'hello bye'", &["hello bye"]),
        ("a\\ b", &["a b"]),
        ("\"a b\"c d", &["a bc", "d"]),
        ("$SPACED", &["a", "b", "c"]),
        ("x${SPACED}y", &["xa", "b", "cy"]),
        ("\"$SPACED\"", &["a b  c"]),
        ("x ${undefined:-y} z", &["x", "y", "z"]),
        ("$undefined", &[]),
        ("''", &[]),
        ("", &[]),
    ];
    for (raw, wanted) in cases {
        let words = word(raw).expand_words('\\', &value).expect(raw);
        assert_eq!(words, *wanted, "{raw}");
    }
}

#[test]
fn the_other_escape_character_leaves_backslashes_alone() {
    let word = |raw: &str| word(raw).expand('`', &value).expect("a word");
    assert_eq!(word("C:\\Windows`$x"), "C:\\Windows$x");
    assert_eq!(word("\"a`\"b\""), "a\"b");
}

#[test]
fn text_of_a_heredoc_keeps_its_quotes() {
    let text = word("a = \"$PWD\" '$SHELL' \\$PWD ${undefined:-'x'}\n");
    assert_eq!(text.expand_text(&value).as_deref(), Ok("a = \"/home\" 'bash' $PWD 'x'\n"));
}

#[test]
fn undefined_are_those_that_are_needed() {
    let cases: &[(&str, &[&str])] = &[
        ("$a ${b} $PWD", &["a", "b"]),
        ("${a:-x} ${b+x} ${NULL:-$c}", &["c"]),
        ("${PWD:-$a} ${undefined:+$b}", &[]),
        ("${a#x} ${b/x/y} $a", &["a", "b"]),
        ("'$a' \\$b", &[]),
    ];
    for (raw, wanted) in cases {
        assert_eq!(word(raw).undefined('\\', &value), *wanted, "{raw}");
    }
}
