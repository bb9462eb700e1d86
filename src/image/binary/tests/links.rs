//! Through links, whiteouts and scripts.

use super::*;

#[tokio::test]
async fn links_are_followed_through_all_layers() {
    let base = Layer::new()
        .symlink("bin", "usr/bin")
        .symlink("usr/bin/sh", "dash")
        .program("usr/bin/dash", &program(AMD64))
        .gzip();
    let middle = Layer::new().symlink("app", "opt/../opt/current/run").gzip();
    let top = Layer::new().symlink("opt/current", "/opt/v2").symlink("opt/v2/run", "../../bin/sh").gzip();
    let image =
        |words: &[&str]| Image::new(entrypoint(words), vec![base.clone(), middle.clone(), top.clone()]);
    assert_eq!(image(&["/app"]).steps().await, ["/app", "/usr/bin/dash"]);
    assert_eq!(image(&["/bin/sh"]).steps().await, ["/bin/sh", "/usr/bin/dash"]);
    assert_eq!(image(&["sh"]).steps().await, ["sh", "/usr/bin/dash"]);
}

#[tokio::test]
async fn a_link_may_lead_to_a_layer_above_it() {
    let lower = Layer::new().symlink("app", "/opt/app").program("opt/app", &program(ARM64)).gzip();
    let upper = Layer::new().program("opt/app", &program(AMD64)).gzip();
    assert_eq!(Image::new(entrypoint(&["/app"]), vec![lower, upper]).steps().await, ["/app", "/opt/app"]);
}

#[tokio::test]
async fn a_hard_link_outlives_its_other_name() {
    let lower =
        Layer::new().program("bin/busybox", &program(AMD64)).hard_link("bin/sh", "bin/busybox").gzip();
    let upper = Layer::new().plain("bin/.wh.busybox", b"").gzip();
    let steps = Image::new(entrypoint(&["/bin/sh"]), vec![lower, upper]).steps().await;
    assert_eq!(steps, ["/bin/sh", "/bin/busybox"]);
}

#[tokio::test]
async fn links_without_end_are_given_up() {
    for layer in [
        Layer::new().symlink("app", "other").symlink("other", "app"),
        Layer::new().symlink("app", "app/app"),
        Layer::new().hard_link("app", "other").hard_link("other", "app"),
    ] {
        let why = Image::new(entrypoint(&["/app"]), vec![layer.gzip()]).why_unknown().await;
        assert_eq!(why, r#""/app" leads through too many links"#);
    }
}

#[tokio::test]
async fn links_do_not_leave_the_image() {
    let layer = Layer::new().symlink("app", "../../../etc/app").program("etc/app", &program(AMD64)).gzip();
    assert_eq!(Image::new(entrypoint(&["/app"]), vec![layer]).steps().await, ["/app", "/etc/app"]);
}

#[tokio::test]
async fn a_directory_above_replaces_a_link_to_one() {
    let lower = Layer::new().symlink("opt", "usr").program("usr/app", &program(AMD64)).gzip();
    let upper = Layer::new().directory("opt").plain("opt/other", b"").gzip();
    let image = |layers: Vec<Vec<u8>>| Image::new(entrypoint(&["/opt/app"]), layers);
    assert_eq!(image(vec![lower.clone()]).steps().await, ["/opt/app", "/usr/app"]);
    assert_eq!(image(vec![lower, upper]).why_unknown().await, r#""/opt/app" is in no layer"#);
}

#[tokio::test]
async fn whiteouts_hide_what_is_below_and_nothing_else() {
    let lower = || Layer::new().program("opt/app", &program(AMD64)).gzip();
    let missing = r#""/opt/app" is in no layer"#;
    for hidden in ["opt/.wh.app", ".wh.opt", "opt/.wh..wh..opq", ".wh..wh..opq"] {
        let upper = || Layer::new().plain(hidden, b"").gzip();
        let image = Image::new(entrypoint(&["/opt/app"]), vec![lower(), upper()]);
        assert_eq!(image.why_unknown().await, missing, "{hidden}");
        let again = Layer::new().program("opt/app", &program(AMD64)).plain(hidden, b"").gzip();
        Image::new(entrypoint(&["/opt/app"]), vec![lower(), again]).steps().await;
        Image::new(entrypoint(&["/opt/app"]), vec![upper(), lower()]).steps().await;
    }
    for other in [".wh..wh.plnk", "opt/.wh.other", "opt/.wh.ap"] {
        let upper = Layer::new().plain(other, b"").gzip();
        Image::new(entrypoint(&["/opt/app"]), vec![lower(), upper]).steps().await;
    }
    let file_instead = Layer::new().plain("opt", b"").program("opt", b"").gzip();
    let image = Image::new(entrypoint(&["/opt/app"]), vec![lower(), file_instead]);
    assert_eq!(image.why_unknown().await, missing);
    let whiteout_and_directory = Layer::new().directory("opt").plain(".wh.opt", b"").gzip();
    let image = Image::new(entrypoint(&["/opt/app"]), vec![lower(), whiteout_and_directory]);
    assert_eq!(image.why_unknown().await, missing);
}

#[tokio::test]
async fn scripts_lead_to_their_interpreter() {
    let base = Layer::new()
        .symlink("bin", "usr/bin")
        .program("usr/bin/sh", &program(AMD64))
        .program("usr/local/bin/node", &program(AMD64))
        .gzip();
    for (line, last) in [
        ("#!/bin/sh", "/usr/bin/sh"),
        ("#! /bin/sh -e", "/usr/bin/sh"),
        ("#!/usr/bin/env node", "/usr/local/bin/node"),
        ("#!/usr/bin/env -S NODE_ENV=production node --inspect", "/usr/local/bin/node"),
        ("#!/usr/bin/env -Snode", "/usr/local/bin/node"),
        ("#!/inner", "/usr/bin/sh"),
    ] {
        let upper = Layer::new()
            .script("inner", "#!/bin/sh\n")
            .script("entrypoint.sh", &format!("{line}\nexec \"$@\"\n"))
            .gzip();
        let image = Image::new(entrypoint(&["/entrypoint.sh"]), vec![base.clone(), upper]);
        assert_eq!(image.steps().await.last().unwrap(), last, "{line}");
    }
}

#[tokio::test]
async fn scripts_that_cannot_start_are_told() {
    for (content, reason) in [
        ("#!/bin/sh\r\necho\r\n", "/app: its lines end as in Windows"),
        ("#!\n", "/app: its first line names no interpreter"),
        ("#!/usr/bin/env -i\n", "/app: its first line names no interpreter for env"),
        ("#!/bin/none\n", r#""/bin/none" is in no layer"#),
        ("#!/usr/bin/env none\n", r#""none" is in no directory of PATH"#),
        ("#!/app\n", "/app → /app → /app → /app → /app → /app: too many scripts"),
        ("echo\n", "/app is neither a program"),
        ("", "/app is neither a program"),
    ] {
        let layer = Layer::new().script("app", content).gzip();
        let why = Image::new(entrypoint(&["/app"]), vec![layer]).why_unknown().await;
        assert!(why.starts_with(reason), "{content:?}: {why}");
    }
}
