//! The script that fetches a git repository, run with a git of our own.

use std::process::Command;

use super::scene::{Ended, Scene};
use crate::build::pod::CONTEXT_SCRIPT;

const KEY: &str = include_str!("../../git/testdata/id_ed25519");

/// How the script ends with a Secret of these keys, where nothing can be fetched.
fn with_secret(url: &str, keys: &[(&str, &str)]) -> Ended {
    let scene =
        Scene::new("").program("git", "test \"$1\" != fetch || { echo 'fatal: nothing here'; exit 1; }");
    let scene = keys.iter().fold(scene, |scene, (key, value)| scene.file(&format!("git/{key}"), value));
    let commit = "0123456789".repeat(4);
    let ended = scene.variable("GIT_URL", url).variable("GIT_COMMIT", &commit).run_script(CONTEXT_SCRIPT);
    assert_eq!(ended.code, Some(73), "{}", ended.said);
    ended
}

/// What git finds in the script's configuration under a key of the host.
fn configured(ended: &Ended, key: &str) -> String {
    let file = ended.scene.path_left_behind("config");
    let output = Command::new("git").args(["config", "--file"]).arg(file).args(["--get", key]).output();
    String::from_utf8(output.expect("git").stdout).expect("UTF-8").trim_end().to_owned()
}

/// What git is told when it asks for credentials; nothing if none are configured.
fn answer(ended: &Ended) -> String {
    let helper = configured(ended, "credential.https://git.test.helper");
    if helper.is_empty() {
        return helper;
    }
    let output = Command::new(helper).arg("get").output().expect("the helper");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_bearer_token_reaches_git_whatever_characters_it_has() {
    let token = r#"a#b;c"d\e f"#;
    let ended = with_secret("https://git.test/web", &[("bearerToken", &format!("{token}\r\n"))]);
    let header = configured(&ended, "http.https://git.test.extraHeader");
    assert_eq!(header, format!("Authorization: Bearer {token}"));
}

#[test]
fn of_a_secret_the_same_is_used_as_by_the_operator() {
    for (keys, expected) in [
        (&[("username", "me\r\n"), ("password", "pa ss\r\n")][..], "username=me\npassword=pa ss\n"),
        (&[("bearerToken", " \n"), ("username", "me"), ("password", "x")], "username=me\npassword=x\n"),
        (&[("bearerToken", ""), ("token", "abc")], "username=x-access-token\npassword=abc\n"),
        (&[("token", "\n"), ("username", "me"), ("password", "x")], "username=me\npassword=x\n"),
        (&[("username", "\n"), ("token", "abc")], "username=x-access-token\npassword=abc\n"),
        (&[("password", "of the key"), ("ca.crt", "a certificate")], ""),
    ] {
        let ended = with_secret("https://git.test/web", keys);
        assert_eq!(answer(&ended), expected, "{keys:?}");
        assert_eq!(configured(&ended, "http.https://git.test.extraHeader"), "", "{keys:?}");
    }
}

#[test]
fn an_ssh_key_with_the_lines_of_windows_is_one_for_ssh_as_well() {
    let keys = [
        ("identity", KEY.replace('\n', "\r\n")),
        ("known_hosts", "git.test ssh-ed25519 AAAA\r\n".to_owned()),
        ("password", "pass phrase\r\n".to_owned()),
    ];
    let ended = with_secret("ssh://git@git.test/web", &keys.each_ref().map(|(key, value)| (*key, &**value)));
    assert_eq!(ended.scene.left_behind("key"), KEY);
    assert_eq!(ended.scene.left_behind("known_hosts"), "git.test ssh-ed25519 AAAA\n");
    let passphrase =
        Command::new(ended.scene.path_left_behind("askpass")).output().expect("the program").stdout;
    assert_eq!(String::from_utf8(passphrase).as_deref(), Ok("pass phrase"));
}

#[test]
fn submodules_that_were_not_to_be_had_alone_are_cloned_anew() {
    let git = "case $* in
        init*) mkdir .git ;;
        checkout*) touch .gitmodules ;;
        log*) echo 1700000000 ;;
        'submodule update'*--depth=1) mkdir -p .git/modules/library; exit 1 ;;
        'submodule deinit --force --all') touch \"$TMPDIR/deinitialised\" ;;
        'submodule update'*) test -f \"$TMPDIR/deinitialised\" && ! test -d .git/modules ;;
    esac";
    let ended = Scene::new("")
        .program("git", git)
        .variable("GIT_URL", "https://git.test/web")
        .variable("GIT_COMMIT", &"0123456789".repeat(4))
        .run_script(CONTEXT_SCRIPT);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}
