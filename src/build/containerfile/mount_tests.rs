//! What mounts of RUN mean, and what is refused.

use super::super::text::Logical;
use super::*;

fn parse(value: &str) -> Result<RunMount, ParseError> {
    let mut line = Logical::new(0);
    line.push("--mount", 1, 1);
    RunMount::parse(value, line.whole())
}

fn mount(value: &str) -> Mount {
    let variable = |name: &str| Some(if name == "ID" { "7" } else { "/x" }.to_owned());
    parse(value).and_then(|mount| mount.expand('\\', &variable)).expect(value)
}

#[test]
fn every_type_with_its_options() {
    let bind = |source: &str, target: &str, from: Option<&str>, writable| Mount::Bind {
        source: source.to_owned(),
        target: target.to_owned(),
        from: from.map(str::to_owned),
        writable,
    };
    assert_eq!(mount("target=/a"), bind("", "/a", None, false));
    assert_eq!(mount("type=bind,src=b,dst=/a,rw"), bind("b", "/a", None, true));
    assert_eq!(mount("source=b,destination=/a,from=st,ro=false"), bind("b", "/a", Some("st"), true));
    assert_eq!(mount("target=/a,rw,readonly=1"), bind("", "/a", None, false));
    assert_eq!(mount("target=/a,z"), bind("", "/a", None, false));
    assert_eq!(mount("target=$T/a"), bind("", "/x/a", None, false));
    assert_eq!(mount("\"target=/a,b\",\"source=\\\"\"d\""), bind("\"d", "/a,b", None, false));
    let cache = Mount::Cache {
        id: Some("apt".to_owned()),
        target: "/var".to_owned(),
        read_only: true,
        sharing: Sharing::Locked,
        from: Some("base".to_owned()),
        source: "s".to_owned(),
        mode: Some(0o1777),
        uid: Some(7),
        gid: Some(0),
    };
    let said = "TYPE=Cache,id=apt,target=/var,ro,sharing=LOCKED,from=base,source=s,mode=01777,uid=$ID,gid=0";
    assert_eq!(mount(said), cache);
    assert_eq!(mount("type=tmpfs,target=/t,size=1.5m"), Mount::Tmpfs { target: "/t".to_owned(), size: Some(3 << 19) });
    let secret = |id: &str, target: Option<&str>, env: Option<&str>, required| Mount::Secret {
        id: id.to_owned(),
        target: target.map(str::to_owned),
        env: env.map(str::to_owned),
        required,
        mode: None,
        uid: None,
        gid: None,
    };
    assert_eq!(mount("type=secret,id=a"), secret("a", None, None, false));
    assert_eq!(mount("type=secret,src=a,required"), secret("a", None, None, true));
    assert_eq!(mount("required=true,type=secret,target=/x/tok"), secret("tok", Some("/x/tok"), None, true));
    assert_eq!(mount("type=secret,id=a,env=TOKEN"), secret("a", None, Some("TOKEN"), false));
    let ssh =
        |id: &str, mode| Mount::Ssh { id: id.to_owned(), target: None, required: false, mode, uid: None, gid: None };
    assert_eq!(mount("type=ssh"), ssh("default", None));
    assert_eq!(mount("type=ssh,id=x,mode=0600"), ssh("x", Some(0o600)));
}

#[test]
fn what_is_refused_says_what_was_expected() {
    let cases: &[(&str, &str)] = &[
        ("type=volume,target=/a", "expected bind, cache, tmpfs, secret or ssh"),
        ("type=cache", "needs target="),
        ("type=tmpfs", "needs target="),
        ("type=secret", "needs id="),
        ("target=/a,mode=0644", "is not one of type=bind"),
        ("type=tmpfs,target=/a,from=x", "is not one of type=tmpfs"),
        ("type=secret,id=a,sharing=shared", "is not one of type=secret"),
        ("type=bind,target=/a,requird", "unknown mount option \"requird\""),
        ("target", "needs a value"),
        ("type=cache,target=/a,sharing=some", "expected shared, private or locked"),
        ("type=cache,target=/a,uid=me", "expected a number"),
        ("type=cache,target=/a,uid=+1", "expected a number"),
        ("type=cache,target=/a,mode=999", "expected an octal number"),
        ("type=tmpfs,target=/a,size=big", "expected a size"),
        ("target=/a,ro=maybe", "expected true or false"),
        ("target=/a,from=$BASE", "cannot hold a variable"),
        ("\"target=/a", "expected a second double quote"),
        ("tar\"get=/a", "a double quote within a field"),
        ("\"target=/a\"x", "expected a comma"),
    ];
    for (value, wanted) in cases {
        let error = parse(value).expect_err(value);
        assert!(error.message.contains(wanted), "{value}: {error}");
    }
    // What holds a variable is judged when its value is known.
    let late = parse("type=cache,target=/a,uid=$U").expect("a mount");
    let error = late.expand('\\', &|_| Some("me".to_owned())).expect_err("no number");
    assert!(error.message.contains("expected a number"), "{error}");
}
