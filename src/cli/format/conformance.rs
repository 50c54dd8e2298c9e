//! Templates and what podman 5.4.2 printed for them, `podman ps -a --format …`, one container.

use std::collections::BTreeMap;

use super::*;

fn row() -> Value {
    let labels = BTreeMap::from([("a".to_owned(), "b".into()), ("m".to_owned(), "x y".into())]);
    let fields = vec![
        ("ID", "2cc04c897262".into()),
        ("Names", "zqx1".into()),
        ("Command", "true".into()),
        ("State", "created".into()),
        ("Labels", Value::Map(labels)),
        ("Mounts", Value::List(Vec::new())),
        ("ExitCode", Value::Int(0)),
        ("ImageID", "9f7768f0b56b".into()),
        ("CreatedHuman", "2 minutes ago".into()),
    ];
    Value::Row(fields, Box::new(Value::Nil))
}

fn render(format: &str) -> String {
    let headings = [("ID", "CONTAINER ID"), ("CreatedHuman", "CREATED")];
    let listing = Listing {
        name: "ps",
        type_name: "containers.psReporter",
        format,
        headings: &headings,
        no_heading: false,
        docker: false,
    };
    let (out, error) = listing.render(vec![row()]);
    match error {
        Some(error) => format!("{out}Error: {error}\n"),
        None => out,
    }
}

#[test]
fn templates_print_what_podman_prints() {
    let table: &[(&str, &str)] = &[
        (r"{{if .ID}}y{{else}}n{{end}}", "y\n"),
        (r"{{with .Labels}}{{.a}}{{.zz}}{{end}}", "b<no value>\n"),
        (r#"{{ .Names | upper | printf "%-8s|" }}"#, "ZQX1    |\n"),
        (r#"{{len .Names}} {{slice .ID 0 4}} {{index .Labels "m"}} {{index .Labels "nope"}}|"#, "4 2cc0 x y |\n"),
        (r#"{{eq .Names "zqx1"}} {{ne .State "x"}} {{not true}} {{and 1 0}} {{or 0 "x"}}"#, "true true false 0 x\n"),
        (r#"{{join (split .Names "q") "-"}}"#, "z-x1\n"),
        ("{{json .Labels}} {{json .Names}}", "{\"a\":\"b\",\"m\":\"x y\"} \"zqx1\"\n"),
        (r#"{{$x := .Names -}}   {{$x}}   {{- "end"}}"#, "zqx1end\n"),
        ("{{/* c */}}c{{- /* d */ -}} e", "ce\n"),
        (r#"{{print 1 2 "a" "b" 3}} {{println "x"}}"#, "1 2ab3 x\n\n"),
        (
            r#"{{printf "%5d|%-5d|%05d|%x|%q|%v|%t|%.2f" 3 3 3 255 "a" "v" true 1.5}}"#,
            "    3|3    |00003|ff|\"a\"|v|true|1.50\n",
        ),
        (
            r#"{{title "hello world"}} {{lower "ABC"}} {{truncate "abcdef" 3}} {{pad "x" 2 3}}|"#,
            "Hello World abc abc   x   |\n",
        ),
        (r#"{{if eq .State "created" "exited"}}1{{else if true}}2{{else}}3{{end}}"#, "1\n"),
        (r#"{{if eq .State "exited"}}1{{else if true}}2{{else}}3{{end}}"#, "2\n"),
        (r#"{{lt 1 2}}{{gt 1.5 2.5}}{{le "a" "b"}}"#, "truefalsetrue\n"),
        (r#"{{html "<a>"}} {{urlquery "a b&c"}}"#, "&lt;a&gt; a+b%26c\n"),
        ("{{.Mounts}} {{len .Mounts}} {{range .Mounts}}x{{else}}none{{end}}", "[] 0 none\n"),
        (r#"{{.Label "a"}}{{.Label "nope"}}|"#, "b|\n"),
        ("{{break}}", ""),
        (r#"{{1 | printf "%d-%d" 2}}"#, "2-1\n"),
        ("{{.ID }} {{ .State}} {{\"q\\\"uo\\n\"}}{{`raw`}}{{'a'}}", "2cc04c897262 created q\"uo\nraw97\n"),
        (
            r#"{{printf "%d" "x"}} {{printf "%s" 3}} {{printf "%d"}} {{printf "x" 3}}"#,
            "%!d(string=x) %!s(int=3) %!d(MISSING) x%!(EXTRA int=3)\n",
        ),
        (r"{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a=b;m=x y;\n"),
        (r"{{range .}}{{.ID}}{{end}}", "2cc04c897262\n"),
        (r"{{.ID}}\t{{.Names}}", "2cc04c897262\tzqx1\n"),
        ("literal", "literal\n"),
        // Columns.
        (
            r"table {{.ID}}\t{{.CreatedHuman}} {{.ImageID}} {{.ExitCode}}",
            "CONTAINER ID  CREATED        IMAGE ID      EXIT CODE\n2cc04c897262  2 minutes ago  9f7768f0b56b  0\n",
        ),
        // Errors, with what was printed before them.
        (
            "{{.Nope}}",
            "Error: template: ps:1:13: executing \"ps\" at <.Nope>: can't evaluate field Nope in type containers.psReporter\n",
        ),
        (
            "{{.Names.x}}",
            "Error: template: ps:1:19: executing \"ps\" at <.Names.x>: can't evaluate field x in type string\n",
        ),
        (
            "{{.Labels.a.b}}",
            "Error: template: ps:1:20: executing \"ps\" at <.Labels.a.b>: can't evaluate field b in type string\n",
        ),
        (
            "{{range .Command}}{{.}}{{end}}",
            "Error: template: ps:1:19: executing \"ps\" at <.Command>: range can't iterate over true\n",
        ),
        (
            "{{index .Labels 3}}",
            "Error: template: ps:1:13: executing \"ps\" at <index .Labels 3>: error calling index: value has type int; should be string\n",
        ),
        (
            "{{index .Names 99}}",
            "Error: template: ps:1:13: executing \"ps\" at <index .Names 99>: error calling index: index out of range: 99\n",
        ),
        (
            "{{(index .Mounts 0).X}}",
            "Error: template: ps:1:14: executing \"ps\" at <index .Mounts 0>: error calling index: reflect: slice index out of range\n",
        ),
        (
            r#"{{eq 1 "a"}}"#,
            "Error: template: ps:1:13: executing \"ps\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison\n",
        ),
        ("{{len 3}}", "Error: template: ps:1:13: executing \"ps\" at <len 3>: error calling len: len of type int\n"),
        ("{{true}} {{nil}}", "true Error: template: ps:1:22: executing \"ps\" at <nil>: nil is not a command\n"),
        ("{{$x := .Names}}{{$x}}{{$y}}", "Error: template: ps:1: undefined variable \"$y\"\n"),
        ("{{end}}", "Error: template: ps:1: unexpected {{end}}\n"),
        ("{{if}}{{end}}", "Error: template: ps:1: missing value for if\n"),
        ("{{.ID | nosuch}}", "Error: template: ps:1: function \"nosuch\" not defined\n"),
        ("{{.ID", "Error: template: ps:1: bad character U+007B '{'\n"),
    ];
    let wrong: Vec<_> = table
        .iter()
        .map(|(format, expected)| (format, render(format), *expected))
        .filter(|(_, got, expected)| got != expected)
        .collect();
    assert!(wrong.is_empty(), "(format, printed, expected): {wrong:#?}");
    // Here podman counts the line end it added itself.
    assert!(render("{{if true}}").contains("unexpected EOF"));
}

#[test]
fn headings_stand_without_rows() {
    let listing = Listing {
        name: "ps",
        type_name: "containers.psReporter",
        format: "table {{.ID}} {{.CreatedHuman}} {{.ImageID}}",
        headings: &[("ID", "CONTAINER ID"), ("CreatedHuman", "CREATED")],
        no_heading: false,
        docker: false,
    };
    assert_eq!(listing.render(Vec::new()).0, "CONTAINER ID  CREATED     IMAGE ID\n");
    assert_eq!(Listing { no_heading: true, ..listing }.render(Vec::new()).0, "");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let template = Template::parse("inspect", "{{.}}|{{json .}}").unwrap();
    let (out, _) = template.execute(&Value::str("a\u{1b}[2J\nb"), "string");
    assert_eq!(out, "a\\x1b[2J\nb|\"a\\u001b[2J\\nb\"");
}

#[test]
fn hostile_templates_end() {
    for format in [
        "{{",
        "}}",
        "{{(((((",
        "{{\"",
        "{{`",
        "{{'",
        "{{/*",
        "{{- -}}",
        "{{.}}{{",
        "{{$}}",
        "{{printf \"%9999999999d\" 1}}",
        "{{1_}}",
        "{{0x}}",
        "{{-}}",
        "{{\u{e9}}}",
    ] {
        let _ = render(format);
    }
}

#[test]
fn names_become_headings() {
    for (field, heading) in
        [("ID", "ID"), ("CreatedAt", "CREATED AT"), ("ImageID", "IMAGE ID"), ("CIDFile", "CID FILE"), ("Pid", "PID")]
    {
        assert_eq!(spaced_capitals(field), heading);
    }
}
