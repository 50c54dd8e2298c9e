//! Dockerfiles as people write them, on a Debian of the mirror that this machine uses: compilers in one stage and the
//! program in another, pip and npm with their caches. They need the registries of Python and Node.

use std::path::{Path, PathBuf};

use super::debian::{debian_image, pull_from};
use crate::support::prelude::*;
use crate::support::registry::Registry;

const NEEDS: &[Need] = &[Need::Debian, Need::Registry, Need::Skopeo, Need::Tun];

pub(crate) const TESTS: &[Test] = &[
    test!(program_in_c_from_scratch).needs(NEEDS).without_image().limit_secs(900).alone(),
    test!(application_in_python).needs(NEEDS).without_image().limit_secs(900).alone(),
    test!(application_in_node).needs(NEEDS).without_image().limit_secs(1200).alone(),
];

/// `apt-get install` as Dockerfiles have it, with its cache kept between builds.
const APT: &str = "RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends";

fn base(home: &Home) -> String {
    let registry = Registry::start(home);
    pull_from(home, &registry, "base", &debian_image(home, "base", ""))
}

fn context(home: &Home, files: &[(&str, &str)]) -> PathBuf {
    files.iter().for_each(|(name, text)| drop(home.write(&format!("c/{name}"), text)));
    home.tmp().join("c")
}

/// Builds with the certificates of this machine as a secret, since they may know a proxy's; gives what was said.
fn build(home: &Home, context: &Path) -> String {
    let certificates = "--secret id=ca,src=/etc/ssl/certs/ca-certificates.crt";
    home.coracle(&format!("build {certificates} -t built")).arg(context).limit_secs(900).run().ok()
}

fn program_in_c_from_scratch(home: &Home) {
    let base = base(home);
    let file = format!(
        "# syntax=docker/dockerfile:1\nARG BASE={base}\nFROM ${{BASE}} AS build\n{APT} gcc libc6-dev make\n\
         WORKDIR /src\nCOPY Makefile ./\nCOPY *.c ./\nRUN make\n\
         FROM scratch\nCOPY --from=build /src/hello /hello\nENTRYPOINT [\"/hello\"]\nCMD [\"world\"]\n"
    );
    let main = "#include <stdio.h>\nint main(int n, char **v) { printf(\"hello, %s\\n\", v[n - 1]); return 0; }\n";
    let makefile = "hello: main.c\n\tcc -O2 -static -o $@ main.c\n";
    let context = context(home, &[("Dockerfile", &file), ("Makefile", makefile), ("main.c", main)]);
    build(home, &context);
    assert_eq!(home.ok("run --rm --network none built"), "hello, world");
    assert_eq!(home.ok("run --rm --network none built you"), "hello, you");
    assert_eq!(home.ok("image inspect --format '{{len .RootFS.Layers}}' built"), "1");
    // Another source: what was installed stays.
    home.write("c/main.c", main.replace("hello", "bye"));
    let said = build(home, &context);
    assert!(!said.contains("Setting up gcc") && said.matches("Using cache").count() >= 3, "{said}");
    assert_eq!(home.ok("run --rm --network none built"), "bye, world");
}

fn application_in_python(home: &Home) {
    let base = base(home);
    let file = format!(
        "FROM {base}\nENV PYTHONUNBUFFERED=1 PIP_BREAK_SYSTEM_PACKAGES=1\n{APT} python3-pip\n\
         WORKDIR /app\nCOPY requirements.txt .\n\
         RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca,required=true \\\n pip install --cert /run/secrets/ca -r requirements.txt\n\
         COPY . .\nRUN useradd --create-home app\nUSER app\nEXPOSE 8000\nCMD [\"python3\", \"app.py\"]\n"
    );
    let app = "import os, six\nprint(six.__version__, os.environ['HOME'], os.access('/app/app.py', os.W_OK))\n";
    let files = [
        ("Dockerfile", file.as_str()),
        ("requirements.txt", "six==1.16.0\n"),
        ("app.py", app),
        (".dockerignore", "*.pyc\nsecret\n"),
        ("secret", "x"),
    ];
    let context = context(home, &files);
    build(home, &context);
    assert_eq!(home.ok("run --rm --network none built"), "1.16.0 /home/app False");
    assert_eq!(home.run("run --rm --network none built ls /app/secret").code(), 2);
    // Another version: pip is there, its cache too.
    home.write("c/requirements.txt", "six==1.17.0\n");
    let said = build(home, &context);
    assert!(said.contains("six-1.17.0") && !said.contains("Setting up python3-pip"), "{said}");
    assert_eq!(home.ok("run --rm --network none built"), "1.17.0 /home/app False");
}

fn application_in_node(home: &Home) {
    let base = base(home);
    let file = format!(
        "FROM {base} AS base\n{APT} nodejs npm\n\
         WORKDIR /app\nFROM base AS deps\nCOPY package.json package-lock.json ./\n\
         RUN --mount=type=cache,target=/root/.npm --mount=type=secret,id=ca,required=true \\\n NODE_EXTRA_CA_CERTS=/run/secrets/ca npm ci --no-audit --no-fund\n\
         FROM base\nCOPY --from=deps --chown=nobody:nogroup /app/node_modules ./node_modules\nCOPY index.js .\n\
         USER nobody\nCMD [\"node\", \"index.js\"]\n"
    );
    let lock = r#"{"name":"app","lockfileVersion":3,"requires":true,"packages":{"":{"name":"app","dependencies":{"ms":"2.1.3"}},
        "node_modules/ms":{"version":"2.1.3","resolved":"https://registry.npmjs.org/ms/-/ms-2.1.3.tgz",
        "integrity":"sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA=="}}}"#;
    let files = [
        ("Dockerfile", file.as_str()),
        ("package.json", r#"{"name":"app","dependencies":{"ms":"2.1.3"}}"#),
        ("package-lock.json", lock),
        ("index.js", "console.log(require('ms')('2 days'))\n"),
    ];
    let context = context(home, &files);
    build(home, &context);
    assert_eq!(home.ok("run --rm --network none built"), "172800000");
    home.write("c/index.js", "console.log(require('ms')('1 day'))\n");
    let said = build(home, &context);
    assert!(!said.contains("added 1 package"), "{said}");
    assert_eq!(home.ok("run --rm --network none built"), "86400000");
}
