//! Dockerfiles as the introductions to docker have them, by their shape, with stand-ins for their base images.

use crate::support::image::{Image, Layer, Packing, pack};
use crate::support::prelude::*;
use serde_json::json;

pub(crate) const TESTS: &[Test] = &[
    test!(web_server_with_a_page_of_its_own),
    test!(jdk_from_an_archive),
    test!(distribution_with_more_packages),
    test!(static_program_from_scratch),
    test!(triggers_of_a_base_image),
    test!(thirty_stages_with_diamonds).limit_secs(120),
];

fn base(home: &Home, name: &str) {
    let bash = Layer::new().executable("bin/bash", "#!/bin/sh\nexec sh \"$@\"\n");
    Image::busybox().layer(bash).set("Cmd", json!(["/bin/bash"])).load(home, name);
}

fn web_server_with_a_page_of_its_own(home: &Home) {
    base(home, "docker.io/library/nginx:latest");
    let file = "FROM nginx\nRUN mkdir -p /usr/share/nginx/html && \\\n  \
        echo '<h1>Hello, Docker!</h1>' > /usr/share/nginx/html/index.html\n";
    let dir = home.write("web/Dockerfile", file).parent().expect("a directory").to_owned();
    home.coracle("build --network none -t nginx:v3 .").dir(&dir).run().ok();
    assert_eq!(
        home.ok("run --rm --network none nginx:v3 cat /usr/share/nginx/html/index.html"),
        "<h1>Hello, Docker!</h1>"
    );
}

fn jdk_from_an_archive(home: &Home) {
    base(home, "docker.io/library/centos:latest");
    let jdk = Layer::new().dir("jdk1.8.0_152").executable("jdk1.8.0_152/bin/java", "#!/bin/sh\necho java 1.8\n");
    home.write("jdk/jdk-8u152-linux-x64.tar.gz", pack(&jdk.finish(), Packing::Gzip));
    let file = "FROM centos\nMAINTAINER author\nADD jdk-8u152-linux-x64.tar.gz /usr/local\n\
        ENV JAVA_HOME /usr/local/jdk1.8.0_152\nENV CLASSPATH $JAVA_HOME/lib/dt.jar:$JAVA_HOME/lib/tools.jar\n\
        ENV PATH $PATH:$JAVA_HOME/bin\nCMD [\"java\", \"-version\"]\n";
    let dir = home.write("jdk/Dockerfile", file).parent().expect("a directory").to_owned();
    home.coracle("build --network none -t='jdk1.8' .").dir(&dir).run().ok();
    assert_eq!(home.ok("run --rm --network none jdk1.8"), "java 1.8");
    assert_eq!(home.ok("image inspect --format {{.Author}} jdk1.8"), "author");
}

fn distribution_with_more_packages(home: &Home) {
    base(home, "docker.io/library/centos:latest");
    let file = "FROM centos\nENV MYPATH /usr/local\nWORKDIR $MYPATH\nRUN mkdir -p /var/lib/yum; echo vim >> /var/lib/yum/db\n\
        RUN echo net-tools >> /var/lib/yum/db\nEXPOSE 80\nCMD echo $MYPATH\nCMD echo \"success----ok\"\nCMD /bin/bash\n";
    let dir = home.write("my/Dockerfile", file).parent().expect("a directory").to_owned();
    home.coracle("build --network none -t mycentos:1.1 .").dir(&dir).run().ok();
    assert_eq!(
        home.ok("run --rm --network none mycentos:1.1 sh -c 'pwd; cat /var/lib/yum/db'"),
        "/usr/local\nvim\nnet-tools"
    );
    assert!(home.ok("history mycentos:1.1").contains("EXPOSE"));
}

fn static_program_from_scratch(home: &Home) {
    let file = "FROM busybox AS build\nRUN cp /bin/busybox /hello\nFROM scratch\nCOPY --from=build /hello /bin/echo\n\
        ENTRYPOINT [\"/bin/echo\", \"hello\"]\n";
    let dir = home.write("s/Dockerfile", file).parent().expect("a directory").to_owned();
    home.coracle("build --network none -t hello .").dir(&dir).run().ok();
    assert_eq!(home.ok("run --rm --network none hello world"), "hello world");
    assert_eq!(home.ok("image inspect --format '{{len .RootFS.Layers}}' hello"), "1");
}

fn triggers_of_a_base_image(home: &Home) {
    let dir = home.write("on/Dockerfile", "FROM busybox\nONBUILD COPY app /app\nONBUILD RUN echo built >> /app\n");
    let dir = dir.parent().expect("a directory").to_owned();
    home.write("on/app", "source\n");
    home.coracle("build --network none -t base .").dir(&dir).run().ok();
    home.write("on/Dockerfile", "FROM base\nCMD [\"cat\", \"/app\"]\n");
    home.coracle("build --network none -t app .").dir(&dir).run().ok();
    assert_eq!(home.ok("run --rm --network none app"), "source\nbuilt");
    home.write("on/Dockerfile", "FROM app\n");
    let out = home.coracle("build --network none -t more .").dir(&dir).run().ok();
    assert!(!out.contains("COPY app"), "triggers are for the first image only: {out}");
}

/// Each stage takes from two before it, so that everything waits for something and most of it for the same.
fn thirty_stages_with_diamonds(home: &Home) {
    let mut file = "FROM busybox AS s0\nRUN echo 0 > /n\n".to_owned();
    for stage in 1..30 {
        let (one, other) = (stage - 1, stage / 2);
        file += &format!(
            "FROM busybox AS s{stage}\nCOPY --from=s{one} /n /a\nCOPY --from=s{other} /n /b\n\
             RUN echo $(($(cat /a) + $(cat /b) + 1)) > /n\n"
        );
    }
    let dir = home.write("wide/Dockerfile", file).parent().expect("a directory").to_owned();
    home.coracle("build --network none --jobs 0 -q -t wide .").dir(&dir).limit_secs(90).run().ok();
    let mut wanted = vec![0_u64];
    (1..30).for_each(|stage| wanted.push(wanted[stage - 1] + wanted[stage / 2] + 1));
    assert_eq!(home.ok("run --rm --network none wide cat /n"), wanted[29].to_string());
    let again = home.coracle("build --network none --jobs 0 .").dir(&dir).limit_secs(90).run().ok();
    assert_eq!(again.matches("Using cache").count(), 1 + 3 * 29, "{again}");
}
