//! Package indexes into allowlists. Indexes are on 127.0.0.1, files on `localhost`, so that there are two hosts.

use std::fs;

use anyhow::Result;

use super::machine::{Machine, hosts};
use super::web::{Web, html, json, redirect, status, typed};
use super::{checked, refused};

#[test]
fn files_on_another_host_are_found_in_html() -> Result<()> {
    let machine = Machine::new()?;
    let files = Web::start(|_| typed("application/zip", "P"))?;
    let port = files.port();
    let index = Web::start(move |asked| match asked.path.as_str() {
        "/simple/" => html("<a href='/simple/a/'>a</a> <a href='b/'>b</a>"),
        "/simple/a/" => html(&format!("<a href='//localhost:{port}/a-1.whl#sha256=0'>a-1.whl</a>")),
        "/simple/b/" => {
            html("<base href='/files/'><a href='b-1.tar.gz'>b</a><a href='http://home.test/'>home</a>")
        }
        _ => status(200),
    })?;
    let url = format!("http://127.0.0.1:{}/simple", index.port());
    let draft = checked(&machine.suggest(&["--index-url", &url])?, &machine.file("index.yaml"))?;
    assert_eq!(hosts(&draft)?, [format!("127.0.0.1/32 {}", index.port()), format!("localhost {port}")]);
    for line in [
        "# pages of the index",
        "# files of a\n",
        "# files of b\n",
        "why: \"package index\"",
        "metadata: {name: package-index}",
    ] {
        assert!(draft.contains(line), "{line}\n{draft}");
    }
    // Not more of a file than its first byte is asked for.
    let asked = files.asked();
    assert!(asked.len() == 1 && asked[0].headers.contains(&"range: bytes=0-0".to_owned()), "{asked:?}");
    Ok(())
}

#[test]
fn files_on_another_host_are_found_in_json() -> Result<()> {
    let machine = Machine::new()?;
    let files = Web::start(|_| status(404))?;
    let port = files.port();
    let index = Web::start(move |asked| match asked.path.as_str() {
        "/team/simple/" => json(r#"{"meta":{"api-version":"1.0"},"projects":[{"name":"A.b"}]}"#),
        "/team/simple/A.b/" => json(&format!(
            r#"{{"meta":{{"api-version":"1.0"}},"name":"a-b","files":[
               {{"filename":"a.whl","url":"http://localhost:{port}/a.whl","hashes":{{}}}}]}}"#
        )),
        _ => status(404),
    })?;
    let url = format!("http://127.0.0.1:{}/team/simple/", index.port());
    let draft = checked(
        &machine.suggest(&["--index-url", &url, "--name", "team-index"])?,
        &machine.file("index.yaml"),
    )?;
    assert_eq!(hosts(&draft)?, [format!("127.0.0.1/32 {}", index.port()), format!("localhost {port}")]);
    assert!(draft.contains("metadata: {name: team-index}"), "{draft}");
    assert!(
        draft.contains(&format!("# NOTE a file of http://localhost:{port} could not be fetched")),
        "{draft}"
    );
    Ok(())
}

#[test]
fn every_host_on_the_way_is_found() -> Result<()> {
    let machine = Machine::new()?;
    let store = Web::start(|_| typed("application/zip", "P"))?;
    let to = format!("http://localhost:{}/bucket/a.whl?signature=SECRET", store.port());
    let new = Web::start(move |asked| match asked.path.as_str() {
        "/new/a/" => html("<a href='../../files/a.whl'>a</a>"),
        _ => redirect(&to),
    })?;
    let there = format!("http://127.0.0.1:{}/new", new.port());
    let index = Web::start(move |asked| redirect(&asked.path.replace("/simple", &there)))?;
    let url = format!("http://127.0.0.1:{}/simple/", index.port());
    let draft =
        checked(&machine.suggest(&["--index-url", &url, "--project", "a"])?, &machine.file("index.yaml"))?;
    let mut ports = [index.port(), new.port()];
    ports.sort_unstable();
    let own = format!("127.0.0.1/32 {} {}", ports[0], ports[1]);
    assert_eq!(hosts(&draft)?, [own, format!("localhost {}", store.port())]);
    assert!(draft.contains(&format!("# http://127.0.0.1:{} redirects here", new.port())), "{draft}");
    assert!(!draft.contains("SECRET") && !draft.contains("bucket"), "{draft}");
    // With a project named, the listing is nobody's business.
    assert!(index.asked().iter().all(|asked| asked.path == "/simple/a/"), "{:?}", index.asked());
    Ok(())
}

#[test]
fn credentials_are_used_where_they_belong_and_never_shown() -> Result<()> {
    let machine = Machine::new()?;
    let files = Web::start(|_| typed("application/zip", "P"))?;
    let port = files.port();
    let index = Web::start(move |asked| match (asked.authorization(), asked.path.as_str()) {
        (Some("Basic bWU6aHVudGVyMg=="), "/TOKEN/a/") => {
            html(&format!("<a href='http://o:t4ken@localhost:{port}/a.whl?sig=S1GN'>a</a>"))
        }
        (Some(_), _) => status(404),
        (None, _) => status(401),
    })?;
    let url = |user: &str| format!("http://{user}127.0.0.1:{}/TOKEN/", index.port());
    let ask = |user: &str| machine.suggest(&["--index-url", &url(user), "--project", "a"]);
    let draft = checked(&ask("me:hunter2@")?, &machine.file("index.yaml"))?;
    assert_eq!(
        files.asked()[0].authorization(),
        Some("Basic bzp0NGtlbg=="),
        "those of the link, and not the index's"
    );
    let without = refused(&ask("")?)?;
    assert!(without.contains("it answered 401: does it want a name and a password?"), "{without}");
    let wrong = refused(&ask("me:hunter3@")?)?;
    let odd = refused(&machine.suggest(&["--index-url", "ssh://me:hunter2@127.0.0.1/"])?)?;
    assert!(odd.contains("--index-url: its scheme is ssh; only http and https can be asked"), "{odd}");
    let bad = refused(&machine.suggest(&["--index-url", "me:hunter2@127.0.0.1"])?)?;
    for said in [draft, wrong, odd, bad, without] {
        let secrets = ["hunter", "TOKEN", "t4ken", "S1GN", "@"];
        assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
    }
    Ok(())
}

#[test]
fn what_an_index_does_wrong_is_told() -> Result<()> {
    let machine = Machine::new()?;
    let closed = Web::start(|_| status(404))?.port();
    let far = "http://169.254.169.254/latest/meta-data/";
    let index = Web::start(move |asked| match asked.path.split('/').nth(1).unwrap_or_default() {
        "missing" => status(404),
        "broken" => status(500),
        "image" => typed("image/png", "PNG"),
        "garbage" => json("{\"files\":"),
        "empty" => html("<html>Welcome"),
        "loop" => redirect("/loop/again/"),
        "nowhere" => redirect("ftp://me:hunter2@files.test/"),
        "metadata" => redirect(far),
        _ => status(404),
    })?;
    let site = format!("http://127.0.0.1:{}", index.port());
    let ask = |path: &str| {
        refused(&machine.suggest(&["--index-url", &format!("{site}/{path}/"), "--project", "a"])?)
    };
    for (path, expected) in [
        ("missing", "it answered 404: there is nothing"),
        ("broken", "it answered 500"),
        ("image", "it answered with image/png, which is no page of a package index"),
        ("garbage", "its JSON is no page of a package index: EOF while parsing"),
        (
            "empty",
            "no file was found on the pages of a (no file); name a project that it has: --project NAME",
        ),
        ("loop", "it redirects more than 10 times"),
        ("nowhere", "it redirects to a place that cannot be asked: its scheme is ftp"),
        ("metadata", "http://169.254.169.254:80: instance metadata is not asked"),
    ] {
        let said = ask(path)?;
        assert!(
            said.starts_with("egress-warden: --index-url: ") && said.contains(expected),
            "{path}: {said}"
        );
    }
    let refuses = refused(&machine.suggest(&["--index-url", &format!("http://127.0.0.1:{closed}/")])?)?;
    assert!(refuses.contains(&format!("http://127.0.0.1:{closed}: it cannot be reached: ")), "{refuses}");
    let plain =
        refused(&machine.suggest(&["--index-url", &format!("https://127.0.0.1:{}/", index.port())])?)?;
    assert!(plain.contains(&format!("https://127.0.0.1:{}: ", index.port())), "{plain}");
    let project = refused(&machine.suggest(&["--index-url", &site, "--project", "../x"])?)?;
    assert!(project.contains("--project ../x: a name has letters"), "{project}");
    Ok(())
}

#[test]
fn of_a_page_without_end_the_beginning_is_read() -> Result<()> {
    let machine = Machine::new()?;
    let index = Web::start(|asked| {
        let filler = " ".repeat(6 << 20);
        match asked.path.as_str() {
            "/" => html(&format!("<a href='a/'>a</a>{filler}<a href='b/'>b</a>")),
            "/a/" => {
                html(&format!("<a href='/a.whl'>a</a>{filler}<a href='http://late.test/a.whl'>late</a>"))
            }
            "/long/" => json(&format!("{{\"files\":[{filler}]}}")),
            _ => status(404),
        }
    })?;
    let url = format!("http://127.0.0.1:{}/", index.port());
    let draft = checked(&machine.suggest(&["--index-url", &url])?, &machine.file("index.yaml"))?;
    assert_eq!(hosts(&draft)?, [format!("127.0.0.1/32 {}", index.port())]);
    assert!(draft.contains("# NOTE a: its page is longer than the 4 MiB that were read"), "{draft}");
    assert!(index.asked().iter().all(|asked| asked.path != "/b/"));
    let long = refused(&machine.suggest(&["--index-url", &url, "--project", "long"])?)?;
    assert!(long.contains("its JSON is longer than is read, 4096 KiB"), "{long}");
    Ok(())
}

fn simple_index() -> Result<Web> {
    Web::start(|asked| match asked.path.as_str() {
        "/simple/" => html("<a href='a/'>a</a>"),
        "/simple/a/" => html("<a href='/a.whl'>a</a>"),
        _ => status(200),
    })
}

#[test]
fn pip_is_asked_which_indexes_it_uses() -> Result<()> {
    let mut machine = Machine::with_pip()?;
    let (first, extra) = (simple_index()?, simple_index()?);
    let conf = format!(
        "[global]\nindex-url = http://me:hunter2@127.0.0.1:{}/simple\nextra-index-url =\n    http://localhost:{}/simple/\n\
         find-links = /opt/wheels\n",
        first.port(),
        extra.port()
    );
    fs::write(machine.file("pip.conf"), conf)?;
    machine.set("PIP_CONFIG_FILE", &machine.file("pip.conf").display().to_string());
    let draft = checked(&machine.suggest(&[])?, &machine.file("index.yaml"))?;
    assert_eq!(
        hosts(&draft)?,
        [format!("localhost {}", extra.port()), format!("127.0.0.1/32 {}", first.port())]
    );
    let said = format!("#   http://127.0.0.1:{} (index-url, by python3 -m pip config list)\n", first.port());
    assert!(draft.contains(&said) && !draft.contains("hunter2"), "{draft}");
    // The environment is stronger, as it is for pip.
    machine.set("PIP_INDEX_URL", &format!("http://127.0.0.1:{}/simple", extra.port()));
    let draft = checked(&machine.suggest(&[])?, &machine.file("index.yaml"))?;
    assert!(!draft.contains(&format!("{}", first.port())), "{draft}");
    machine.set("PIP_NO_INDEX", "1");
    let none = refused(&machine.suggest(&[])?)?;
    assert!(
        none.contains("pip is told to ask no index (`no-index`, by python3 -m pip config list)"),
        "{none}"
    );
    Ok(())
}

#[test]
fn without_pip_its_files_and_variables_are_read() -> Result<()> {
    let mut machine = Machine::new()?;
    let index = simple_index()?;
    let nobody = refused(&machine.suggest(&[])?)?;
    assert!(
        nobody.contains("no index is configured, and there is no pip that could tell its default"),
        "{nobody}"
    );
    let conf = format!("[global]\nindex-url = http://127.0.0.1:{}/simple\n", index.port());
    machine.unset("PIP_CONFIG_FILE");
    fs::create_dir_all(machine.file(".config/pip"))?;
    fs::write(machine.file(".config/pip/pip.conf"), conf)?;
    let draft = checked(&machine.suggest(&[])?, &machine.file("index.yaml"))?;
    assert!(draft.contains("(index-url, by pip.conf and the environment)"), "{draft}");
    machine.set("PIP_INDEX_URL", &format!("http://localhost:{}/simple", index.port()));
    let draft = checked(&machine.suggest(&[])?, &machine.file("index.yaml"))?;
    assert_eq!(hosts(&draft)?, [format!("localhost {}", index.port())]);
    Ok(())
}

/// Where nothing is configured, pip's own default is asked for; a proxy that is not there keeps the question here.
#[test]
fn pip_itself_tells_its_default_and_the_proxy_is_used() -> Result<()> {
    let mut machine = Machine::with_pip()?;
    let proxy = Web::start(|_| status(403))?;
    let index = simple_index()?;
    let user = format!("http://me:hunter2@127.0.0.1:{}", proxy.port());
    machine.set("HTTPS_PROXY", &user);
    machine.set("http_proxy", &user);
    let said = refused(&machine.suggest(&[])?)?;
    assert!(
        said.starts_with("egress-warden: pip's own default: https://") && !said.contains("hunter2"),
        "{said}"
    );
    let asked = proxy.asked();
    assert!(
        asked.len() == 1
            && asked[0].headers.iter().any(|line| line.starts_with("proxy-authorization: Basic "))
    );
    machine.set("NO_PROXY", "other.test, 127.0.0.1");
    let url = format!("http://127.0.0.1:{}/simple", index.port());
    let draft = checked(&machine.suggest(&["--index-url", &url])?, &machine.file("index.yaml"))?;
    assert!(proxy.asked().len() == 1 && !draft.contains("proxy. Workloads"), "{draft}");
    Ok(())
}

#[test]
fn certificates_are_checked_against_those_that_the_machine_names() -> Result<()> {
    let mut machine = Machine::new()?;
    let (index, port) = machine.https_index()?;
    let url = format!("https://localhost:{port}/simple/");
    let ask = |machine: &Machine| machine.suggest(&["--index-url", &url, "--project", "a"]);
    let untrusted = refused(&ask(&machine)?)?;
    assert!(
        untrusted.contains("its certificate is not trusted: ") && untrusted.contains("SSL_CERT_FILE"),
        "{untrusted}"
    );
    machine.set("SSL_CERT_FILE", &machine.file("cert.pem").display().to_string());
    let draft = checked(&ask(&machine)?, &machine.file("index.yaml"))?;
    assert_eq!(hosts(&draft)?, [format!("localhost {port}")]);
    // pip's own setting is stronger.
    machine.set("PIP_CERT", &machine.file("none.pem").display().to_string());
    let none = refused(&ask(&machine)?)?;
    assert!(
        none.contains("the certificates that pip's `cert` names, ") && none.contains("none.pem: "),
        "{none}"
    );
    drop(index);
    Ok(())
}
