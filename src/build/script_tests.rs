//! The build script, run with programs of our own in the place of BuildKit's.

mod context;
mod scene;

use std::fmt::Write as _;

use scene::Scene;
use sha2::{Digest as _, Sha256};

use super::tests::Case;
use super::{PinnedContext, hexadecimal};

/// How the script ends after a buildctl that prints this, and its last line.
fn ends(log: &str) -> (Option<i32>, String) {
    let ended = Scene::new(log).run();
    (ended.code, ended.last_line().to_owned())
}

fn exit_code_after(log: &str) -> Option<i32> {
    ends(log).0
}

/// How buildctl tells that a step failed.
fn failed_step(output: &str, error: &str) -> String {
    format!(
        "#6 [2/2] RUN make\n#6 0.1 {output}\n#6 ERROR: {error}\n------\n > [2/2] RUN make:\n0.1 {output}\n------\n\
         docker/Dockerfile:5\n--------------------\n   4 |     \n   5 | >>> RUN make\n   6 |     \n\
         --------------------\nerror: failed to solve: {error}"
    )
}

#[test]
fn a_push_that_broke_off_is_tried_again_though_a_digest_has_the_digits_of_a_refusal() {
    let push = |answer: &str| {
        format!(
            "error: failed to solve: failed to push r.test/web: unexpected status from HEAD request to http://r.test/v2/web/blobs/sha256:e4403b7401: {answer}"
        )
    };
    assert_eq!(exit_code_after(&push("503 Service Unavailable")), Some(83));
    assert_eq!(exit_code_after(&push("429 Too Many Requests")), Some(84));
    assert_eq!(exit_code_after(&push("403 Forbidden")), Some(66));
    assert_eq!(exit_code_after(&push("401 Unauthorized")), Some(66));
}

#[test]
fn a_failed_step_is_told_with_its_place_in_the_dockerfile() {
    let log =
        failed_step("no rule", "process \"/bin/sh -c make\" did not complete successfully: exit code: 2");
    let line = "error: docker/Dockerfile:5: RUN make: did not complete successfully: exit code: 2";
    assert_eq!(ends(&log), (Some(65), line.to_owned()));
    let log = "Dockerfile:3\n--------------------\n   3 | >>> RUM true\n--------------------\n\
               error: failed to solve: dockerfile parse error on line 3: unknown instruction: RUM";
    assert_eq!(ends(log), (Some(65), "error: Dockerfile:3: RUM true: unknown instruction: RUM".to_owned()));
}

#[test]
fn what_a_step_prints_is_not_taken_for_the_cause() {
    for lie in [
        "error: failed to push r.test: denied",
        "no space left on device",
        "no match for platform in manifest",
    ] {
        let error = format!("process \"/bin/sh -c echo {lie}\" did not complete successfully: exit code: 1");
        assert_eq!(exit_code_after(&failed_step(lie, &error)), Some(65), "{lie}");
    }
}

#[test]
fn every_cause_has_a_code_of_its_own() {
    let base = "error: failed to solve: r.test/base:1: failed to resolve source metadata for r.test/base:1";
    for (log, code) in [
        (format!("{base}: no match for platform in manifest sha256:403401: not found"), 77),
        (format!("{base}: r.test/base:1: not found"), 78),
        (format!("{base}: unexpected status from HEAD request to r.test: 401 Unauthorized"), 74),
        (format!("{base}: dial tcp: connection refused"), 83),
        ("error: failed to solve: write /x: no space left on device".to_owned(), 72),
        (
            "error: failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory"
                .to_owned(),
            68,
        ),
    ] {
        assert_eq!(exit_code_after(&log), Some(code), "{log}");
    }
}

#[test]
fn a_node_that_cannot_run_the_platform_is_told_from_a_step_that_failed() {
    let error = "process \"/bin/sh -c make\" did not complete successfully: exit code: 255";
    let (code, line) = ends(&failed_step("exec /bin/sh: exec format error", error));
    assert_eq!(code, Some(76));
    assert!(line.contains("runs linux/amd64,linux/386 and not linux/arm64; install emulation"), "{line}");
}

#[test]
fn a_secret_is_not_printed_in_any_form() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let password = "pa$$w0rd/of+me";
    let document =
        format!(r#"{{"auths":{{"r.test":{{"auth":"{}"}}}}}}"#, STANDARD.encode(format!("me:{password}")));
    let log = format!(
        "{password} {} {} pa%24%24w0rd%2Fof%2Bme token-in-a-line",
        STANDARD.encode(password),
        STANDARD.encode(format!("{password}\n")),
    );
    let ended = Scene::new(&log)
        .secret("value", "first-line-of-it\n//r.test/:_authToken=token-in-a-line")
        .secret("config.json", &document)
        .run();
    assert_eq!(ended.said.lines().next(), Some("*** *** *** *** ***"), "{}", ended.said);
    assert_eq!(ended.code, Some(1));
}

#[test]
fn a_secret_is_not_printed_as_programs_quote_it() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    let secret = "~~~???/a\"b\\c&<d>";
    let hex = hexadecimal(secret.as_bytes());
    let forms = [
        hex.clone(),
        hex.to_uppercase(),
        URL_SAFE.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
        serde_json::to_string(secret).expect("JSON").trim_matches('"').to_owned(),
        "~~~???\\/a\\\"b\\\\c&<d>".to_owned(),
        "~~~???/a\\\"b\\\\c\\u0026\\u003cd\\u003e".to_owned(),
    ];
    let ended = Scene::new(&forms.join("\n")).secret("value", secret).run();
    let lines: Vec<&str> = ended.said.lines().take(forms.len()).collect();
    assert_eq!(lines, ["***"; 7], "{}", ended.said);
}

const WRONG_FORMAT: &str = "process \"/bin/sh -c make\" did not complete successfully: exit code: 255";

#[test]
fn what_the_node_lacks_is_found_though_a_cache_on_a_volume_is_left_in_order() {
    let log = failed_step("exec /bin/sh: exec format error", WRONG_FORMAT);
    // A builder that has ended tells nothing any more.
    let ended = Scene::new(&log)
        .with_cache(10 << 20, 5 << 20)
        .buildctl("*debug*) ! test -f \"$TMPDIR/pruned\" && printf 'ID\\t\\tP\\nx\\t\\tlinux/amd64\\n'")
        .run();
    assert_eq!(ended.code, Some(76), "{}", ended.said);
    assert!(ended.scene.folder.join("pruned").exists());
}

#[test]
fn a_build_that_fails_in_time_has_failed_however_long_its_cache_takes() {
    let clock = "test -f \"$TMPDIR/pruned\" && echo 9999 || echo 1000";
    let error = "process \"/bin/sh -c make\" did not complete successfully: exit code: 2";
    let scene =
        Scene::new(&failed_step("no rule", error)).with_cache(10 << 20, 5 << 20).program("date", clock);
    assert_eq!(scene.run().code, Some(65));
    let late = "test -f \"$TMPDIR/built\" && echo 9999 || echo 1000";
    let scene = Scene::new("").program("date", late).buildctl("*' build '*) touch \"$TMPDIR/built\"; exit 1");
    let ended = scene.run();
    assert_eq!((ended.code, ended.last_line()), (Some(67), "error: the build did not end within 60 s"));
}

#[test]
fn a_step_that_was_killed_before_it_began_is_tried_again() {
    let lost = "runc run failed: unable to start container process: error waiting for our first child to exit: \
                signal: killed; runc init error(s): nsexec-2[162]: failed to sync with parent";
    let log = failed_step(lost, "process \"/bin/sh -c make\" did not complete successfully: exit code: 1");
    let words = "error: docker/Dockerfile:5: RUN make: did not complete successfully: exit code: 1: its process was killed \
                 before it began";
    let ended = Scene::new(&log).run();
    assert_eq!((ended.code, ended.last_line()), (Some(1), words));
}

#[test]
fn a_step_that_fails_on_a_full_disk_is_told_with_the_disk_and_may_be_tried_elsewhere() {
    let log = failed_step(
        "cc: cannot write",
        "process \"/bin/sh -c make\" did not complete successfully: exit code: 1",
    );
    let ended = Scene::new(&log).with_cache(10 << 20, 1000).run();
    let words = "error: docker/Dockerfile:5: RUN make: did not complete successfully: exit code: 1: no space left on the \
                 disk of /cache";
    assert_eq!((ended.code, ended.last_line()), (Some(72), words));
    assert_eq!(Scene::new(&log).with_cache(10 << 20, 1 << 20).run().code, Some(65));
}

#[test]
fn a_builder_that_is_killed_for_want_of_memory_is_told_so_whatever_buildctl_says() {
    for words in [
        "error: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF",
        "error: listing workers for Build: dial unix /tmp/buildkitd.sock: connect: connection refused",
    ] {
        let kill = "*' build '*) echo 'oom_kill 1' >\"$TMPDIR/sys/fs/cgroup/memory/memory.events\"; printf '%s\\n' \"$LOG\"; exit 1";
        let events = "sys/fs/cgroup/memory/memory.events";
        let ended = Scene::new(words).file(events, "oom_kill 0\n").buildctl(kill).run();
        assert_eq!(ended.code, Some(71), "{}", ended.said);
        assert_eq!(
            ended.last_line(),
            format!("{words}: killed for want of memory; raise spec.build.pod.resources.limits.memory")
        );
    }
}

#[test]
fn a_push_to_a_repository_that_does_not_exist_is_told_and_a_lost_upload_is_tried_again() {
    let push = |answer: &str| format!("error: failed to solve: failed to push r.test/web: {answer}");
    let unknown =
        "unexpected status from POST request to https://r.test/v2/web/blobs/uploads/: 404 Not Found";
    for answer in [unknown, "name unknown: The repository with name 'web' does not exist in the registry"] {
        let (code, line) = ends(&push(answer));
        assert_eq!(code, Some(66), "{line}");
        assert!(line.ends_with("the repository does not exist; create it in the registry"), "{line}");
    }
    let lost = "unexpected status from PUT request to https://r.test/v2/web/blobs/uploads/1: 404 Not Found";
    assert_eq!(exit_code_after(&push(lost)), Some(83));
}

#[test]
fn a_cache_keeps_within_its_volume_and_within_what_the_spec_gives_it() {
    // The claim has kept its 10 GiB, or is a folder of a disk of 1 TiB.
    for (size, limit) in [(10 << 20, 8589), (1 << 30, 40000)] {
        let ended = Scene::new("error: x").with_cache(size, 5 << 20).run();
        let configuration = format!("[worker.oci]\n  gc = true\n  maxUsedSpace = {limit}000000\n");
        assert_eq!(ended.scene.left_behind("buildkitd.toml"), configuration);
        assert_eq!(ended.scene.read("pruned"), format!("prune --keep-storage={limit}\n"));
    }
}

#[test]
fn a_config_map_of_many_files_is_laid_out_and_one_that_was_edited_is_refused() {
    let names = (0..2000).map(|number| format!("file-{number:04}.with-a-long-name-that-takes-room"));
    let names: Vec<String> =
        ["Dockerfile", ".dockerignore", "-x"].map(str::to_owned).into_iter().chain(names).collect();
    let sums = names.iter().map(|name| (name.clone(), hexadecimal(&Sha256::digest(name)))).collect();
    let context = PinnedContext::ConfigMap { name: "context".to_owned(), files: sums };
    let case = Case::of(context);
    for edited in [false, true] {
        let mut scene = Scene::new("error: built").variable("CONTEXT_KIND", "configmap");
        scene = scene.variable("CONTEXT_SUM", &case.variable("CONTEXT_SUM"));
        for name in &names {
            scene = scene.file(&format!("configmap/{name}"), name);
        }
        if edited {
            scene = scene.file("configmap/Dockerfile", "FROM other");
        }
        // As the kubelet has them beside the files.
        let ended = scene.file("configmap/..data/Dockerfile", "").run();
        let expected = if edited {
            (Some(69), "error: the ConfigMap was edited after it was read")
        } else {
            (Some(1), "error: built")
        };
        assert_eq!((ended.code, ended.last_line()), expected);
        if !edited {
            assert_eq!(ended.scene.read("context/files/-x"), "-x");
        }
    }
}

#[test]
fn the_longest_inline_dockerfile_reaches_the_builder_whole() {
    let mut dockerfile = String::new();
    while dockerfile.chars().count() < 65_530 {
        writeln!(dockerfile, "# 𝔸𝔹ℂ").expect("text");
    }
    let context = PinnedContext::Inline { dockerfile: dockerfile.clone() };
    let case = Case::of(context);
    let mut scene = Scene::new("error: built").variable("CONTEXT_KIND", "inline");
    for name in ["INLINE_DOCKERFILE", "INLINE_DOCKERFILE_2", "INLINE_DOCKERFILE_3"] {
        scene = scene.variable(name, &case.variable(name));
    }
    let ended = scene.run();
    assert_eq!(ended.last_line(), "error: built");
    assert!(ended.scene.read("context/files/Dockerfile") == dockerfile);
}
