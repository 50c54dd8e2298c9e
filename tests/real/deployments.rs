//! The deployments of the introductions to docker (a database, web servers, a cache, a shell), with the programs of
//! Debian's packages in images of the names that are typed. Ports of the host are free ones instead of the printed ones.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::debian::{SERVICES, debian_image, pull_from};
use crate::support::docker::Docker;
use crate::support::home::wait_until;
use crate::support::image::Layer;
use crate::support::prelude::*;
use crate::support::pty::Terminal;
use crate::support::registry::{Registry, free_port};
use serde_json::json;

const NEEDS: &[Need] = &[Need::Debian, Need::Registry, Need::Skopeo, Need::Tun];

pub(crate) const TESTS: &[Test] = &[
    test!(mysql).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(nginx).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(redis).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(application_server).needs(NEEDS).without_image().limit_secs(600).alone(),
    test!(centos_shell).needs(NEEDS).without_image().limit_secs(600).alone(),
];

/// What an HTTP server on this port of the host answers, as soon as it answers with this.
fn wait_for_page(port: u16, path: &str, expected: &str) {
    wait_until(expected, || {
        let mut text = String::new();
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
        text.contains(expected)
    });
}

/// As the images of MySQL and MariaDB begin: the first start makes the database, with the password of the environment.
const MYSQL_ENTRYPOINT: &str = r#"#!/bin/bash
set -e
install -d -o mysql /run/mysqld
# Debian's package has made a database without a password.
if [ ! -e /var/lib/mysql/first-start ]; then
    : "${MYSQL_ROOT_PASSWORD:?is not set}"
    rm -rf /var/lib/mysql/*
    mariadb-install-db --user=mysql --datadir=/var/lib/mysql --skip-test-db >/dev/null
    cat >/tmp/first.sql <<-SQL
	ALTER USER root@localhost IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
	CREATE USER root@'%' IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
	GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;
	SQL
    touch /var/lib/mysql/first-start
    set -- "$@" --init-file=/tmp/first.sql
fi
exec "$@"
"#;

fn mysql(home: &Home) {
    let registry = Registry::start(home);
    let image = debian_image(home, "mariadb", "mariadb-server")
        .layer(Layer::new().executable("entrypoint.sh", MYSQL_ENTRYPOINT))
        .set("Entrypoint", json!(["/entrypoint.sh"]))
        .set("Cmd", json!(["mariadbd", "--user=mysql", "--bind-address=0.0.0.0"]))
        .set("Volumes", json!({"/var/lib/mysql": {}}))
        .set("ExposedPorts", json!({"3306/tcp": {}}));
    let name = pull_from(home, &registry, "mysql-57-centos7", &image);
    home.ok(&format!("tag {name} docker.io/centos/mysql-57-centos7"));
    let docker = Docker::new(home);
    let port = free_port();
    docker.ok(&format!("run -di --name=mysql5.7 -p {port}:3306 -e MYSQL_ROOT_PASSWORD=123456 centos/mysql-57-centos7"));
    let sql = |text: &str| docker.run(&format!("exec mysql5.7 mysql -uroot -p123456 -N -e '{text}'"));
    wait_until("the database answers", || sql("select 6*7").out == "42");
    assert_eq!(
        sql("create database shop; create table shop.orders (id int); insert into shop.orders values (7)").code,
        0
    );
    assert_ne!(docker.run("exec mysql5.7 mysql -uroot -pwrong -e 'select 1'").code, 0);
    // A server that greets on the published port: the greeting begins with its version.
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the port is published");
    let mut greeting = [0_u8; 64];
    stream.read_exact(&mut greeting).expect("MySQL speaks first");
    assert!(greeting.windows(7).any(|bytes| bytes == b"MariaDB"), "{greeting:?}");
    drop(stream);
    docker.ok("restart mysql5.7");
    wait_until("the database answers again", || sql("select id from shop.orders").out == "7");
    docker.ok("stop mysql5.7");
    assert_eq!(home.inspect("mysql5.7", "{{.State.ExitCode}}"), "0", "{}", docker.ok("logs mysql5.7"));
    docker.ok("rm -v mysql5.7");
    assert_eq!(docker.ok("volume ls -q"), "");
}

fn nginx(home: &Home) {
    let registry = Registry::start(home);
    let image = debian_image(home, "services", SERVICES)
        .set("Cmd", json!(["nginx", "-g", "daemon off;"]))
        .set("ExposedPorts", json!({"80/tcp": {}}));
    let name = pull_from(home, &registry, "nginx", &image);
    home.ok(&format!("tag {name} docker.io/library/nginx:latest"));
    let docker = Docker::new(home);
    let port = free_port();
    docker.ok(&format!("run -di --name=mynginx -p {port}:80 nginx"));
    wait_for_page(port, "/", "Welcome to nginx");
    home.write("index.html", "changed by cp\n");
    docker.ok("cp index.html mynginx:/var/www/html/index.html");
    wait_for_page(port, "/", "changed by cp");
    docker.ok("commit mynginx mynginx_image");
    docker.ok("rm -f mynginx");
    docker.ok(&format!("run -di --name=mynginx -p {port}:80 mynginx_image"));
    wait_for_page(port, "/", "changed by cp");
    docker.ok("stop mynginx");
    docker.ok("start mynginx");
    wait_for_page(port, "/", "changed by cp");
    docker.ok("rm -f mynginx");
}

fn redis(home: &Home) {
    let registry = Registry::start(home);
    let image = debian_image(home, "services", SERVICES)
        .set("Volumes", json!({"/data": {}}))
        .set("WorkingDir", json!("/data"))
        .set("User", json!("redis"))
        .set("Cmd", json!(["redis-server"]))
        .set("ExposedPorts", json!({"6379/tcp": {}}));
    let name = pull_from(home, &registry, "redis", &image);
    home.ok(&format!("tag {name} docker.io/library/redis:4.0"));
    let docker = Docker::new(home);
    let conf = home.write("redis/redis.conf", "port 6379\nprotected-mode no\n");
    let data = home.tmp().join("redis/data");
    fs::create_dir(&data).expect("the test's own directory");
    // The page's own advice for "permission denied" on the directory of the host.
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    let port = free_port();
    docker.ok(&format!(
        "run -p {port}:6379 --name myredis -v {}/:/data -v {}:/usr/local/etc/redis/redis.conf -d redis:4.0 redis-server \
         /usr/local/etc/redis/redis.conf --appendonly yes",
        data.display(),
        conf.display()
    ));
    wait_until("redis answers", || docker.run("exec myredis redis-cli ping").out == "PONG");
    let mut terminal = Terminal::start(home.coracle("exec -it myredis redis-cli"));
    terminal.expect("127.0.0.1:6379> ");
    terminal.send("set name coracle\r");
    terminal.expect("OK");
    terminal.send("get name\r");
    terminal.expect("\"coracle\"");
    terminal.send("quit\r");
    assert_eq!(terminal.wait(), 0);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the port is published");
    stream.write_all(b"GET name\r\n").expect("redis reads");
    let mut answer = [0_u8; 13];
    stream.read_exact(&mut answer).expect("redis answers");
    assert_eq!(&answer, b"$7\r\ncoracle\r\n");
    drop(stream);
    docker.ok("restart myredis");
    wait_until("what was set is there", || docker.run("exec myredis redis-cli get name").out == "coracle");
    assert!(data.read_dir().expect("it is ours").next().is_some(), "the append-only file is on the host");
    docker.ok("rm -f -v myredis");
}

/// A server that begins with a script of the image and serves what the host puts into its directory.
fn application_server(home: &Home) {
    let registry = Registry::start(home);
    let run =
        "#!/bin/bash\ncd /opt/tomcat/webapps\nexec python3 -u -m http.server 8080 >/opt/tomcat/logs/access.log 2>&1\n";
    let image = debian_image(home, "services", SERVICES)
        .layer(Layer::new().executable("root/run.sh", run).dir("opt/tomcat/webapps").dir("opt/tomcat/logs"))
        .set("ExposedPorts", json!({"8080/tcp": {}}));
    let name = pull_from(home, &registry, "mytomcat", &image);
    home.ok(&format!("tag {name} docker.io/superzhan/mytomcat"));
    let docker = Docker::new(home);
    home.write("webapps/index.html", "an application\n");
    let tmp = home.tmp();
    let port = free_port();
    docker.ok(&format!(
        "run -d -p {port}:8080 -v {0}/webapps/:/opt/tomcat/webapps/ -v {0}/logs/:/opt/tomcat/logs/ --name cat_1 \
         superzhan/mytomcat /root/run.sh",
        tmp.display()
    ));
    wait_for_page(port, "/", "an application");
    home.write("webapps/second.html", "put there while it runs\n");
    wait_for_page(port, "/second.html", "put there while it runs");
    wait_until("the log is on the host", || {
        fs::read_to_string(tmp.join("logs/access.log")).is_ok_and(|text| text.contains("GET /second.html"))
    });
    docker.ok("rm -f cat_1");
}

fn centos_shell(home: &Home) {
    let registry = Registry::start(home);
    let name = pull_from(home, &registry, "centos", &debian_image(home, "base", ""));
    home.ok(&format!("tag {name} docker.io/library/centos:latest"));
    let docker = Docker::new(home);
    let mut terminal = Terminal::start(home.coracle("run -it --name=mycentos centos:latest /bin/bash"));
    terminal.expect(":/# ");
    terminal.send("cat /etc/debian_version; hostname; exit\n");
    terminal.expect("exit");
    assert_eq!(terminal.wait(), 0);
    docker.ok("start mycentos");
    docker.ok("run -di --name=mycentos2 centos:latest");
    assert_eq!(docker.ok("exec mycentos2 bash -c 'id -un; pwd'"), "root\n/");
    docker.ok("rm -f mycentos mycentos2");
}
