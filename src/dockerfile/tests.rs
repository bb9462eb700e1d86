use super::expansion::{Stop, Variables, expand};
use super::*;

/// A build of every Dockerfile for `linux/arm64` on `linux/amd64`.
#[derive(Clone)]
struct Build {
    arguments: BTreeMap<String, String>,
    contexts: BTreeMap<String, String>,
    target: Option<&'static str>,
    build_platform: Option<Platform>,
    target_platform: Platform,
}

fn build() -> Build {
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    Build {
        arguments: BTreeMap::new(),
        contexts: BTreeMap::new(),
        target: None,
        build_platform: Some(platform("linux/amd64")),
        target_platform: platform("linux/arm64"),
    }
}

impl Build {
    fn argument(mut self, name: &str, value: &str) -> Self {
        self.arguments.insert(name.to_owned(), value.to_owned());
        self
    }

    fn context(mut self, name: &str, source: &str) -> Self {
        self.contexts.insert(name.to_owned(), source.to_owned());
        self
    }

    fn target(self, target: &'static str) -> Self {
        Self { target: Some(target), ..self }
    }

    fn elsewhere(self) -> Self {
        Self { build_platform: None, ..self }
    }

    fn try_images(&self, dockerfile: &str) -> Result<Vec<BaseImage>, DockerfileError> {
        let parameters = BuildParameters {
            arguments: &self.arguments,
            target: self.target,
            target_platform: &self.target_platform,
            build_platform: self.build_platform.as_ref(),
            contexts: &self.contexts,
        };
        base_images(dockerfile.as_bytes(), &parameters)
    }

    /// Each as `reference platform`.
    fn images(&self, dockerfile: &str) -> Vec<String> {
        let images = self.try_images(dockerfile).unwrap_or_else(|error| panic!("{dockerfile}\n{error}"));
        images.iter().map(|image| format!("{} {}", image.reference, image.platform)).collect()
    }

    fn refusal(&self, dockerfile: &str) -> String {
        self.try_images(dockerfile).expect_err(dockerfile).to_string()
    }
}

fn images(dockerfile: &str) -> Vec<String> {
    build().images(dockerfile)
}

fn lines(dockerfile: &str) -> Vec<usize> {
    build().try_images(dockerfile).unwrap().iter().map(|image| image.line).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn the_base_of_the_last_stage_is_needed_for_the_target_platform() {
    assert_eq!(images("FROM alpine:3.20\nRUN true\n"), ["alpine:3.20 linux/arm64"]);
    assert_eq!(images("from alpine:3.20"), ["alpine:3.20 linux/arm64"]);
    assert_eq!(images("FROM --platform=linux/s390x alpine"), ["alpine linux/s390x"]);
    assert_eq!(images("FROM --platform=$BUILDPLATFORM alpine"), ["alpine linux/amd64"]);
    assert_eq!(images("FROM --platform= alpine"), ["alpine linux/arm64"]);
    assert_eq!(images("FROM scratch\nCOPY a b"), NONE);
}

#[test]
fn an_image_is_told_with_its_line_and_its_stage() {
    let dockerfile = "# syntax=docker/dockerfile:1\n\nFROM one AS first\nFROM two\nCOPY --from=first a b\n";
    let found = build().try_images(dockerfile).unwrap();
    let told: Vec<_> =
        found.iter().map(|image| (image.reference.as_str(), image.line, image.stage.as_str())).collect();
    assert_eq!(told, [("one", 3, "first"), ("two", 4, "stage-1")]);
}

#[test]
fn stages_that_the_target_does_not_need_are_not_asked() {
    let dockerfile = "FROM one AS first\nFROM two AS second\nFROM first AS third\nRUN true\nFROM four\n";
    assert_eq!(images(dockerfile), ["four linux/arm64"]);
    assert_eq!(build().target("third").images(dockerfile), ["one linux/arm64"]);
    assert_eq!(build().target("SECOND").images(dockerfile), ["two linux/arm64"]);
    assert_eq!(
        build().target("fifth").refusal(dockerfile),
        r#"Dockerfile: there is no stage "fifth" to build; there are first, second, third, stage-3"#
    );
}

#[test]
fn what_is_copied_and_mounted_is_needed_for_the_target_platform() {
    let dockerfile = "FROM --platform=$BUILDPLATFORM go AS build
RUN --mount=type=cache,target=/root --mount=type=bind,from=tools,target=/tools make
FROM scratch
COPY --from=BUILD /a /a
COPY --chown=1:1 --from=certificates /b /b
COPY --from=0 /c /c
";
    let all = ["go linux/amd64", "tools linux/arm64", "certificates linux/arm64"];
    assert_eq!(images(dockerfile), all);
    assert_eq!(lines(dockerfile), [1, 2, 5]);
    assert_eq!(images("FROM scratch\nADD --from=alpine a b"), NONE);
    assert_eq!(images("FROM scratch\nCOPY --from=$X a b"), NONE);
    assert_eq!(
        build().refusal("FROM scratch\nCOPY --from=3 a b"),
        "Dockerfile line 2: --from=3: there is no such stage; the first one is 0"
    );
}

#[test]
fn the_same_image_for_the_same_platform_is_told_once() {
    let dockerfile =
        "FROM alpine AS a\nFROM alpine AS b\nCOPY --from=a x y\nFROM b\nCOPY --from=alpine x y\n";
    assert_eq!(images(dockerfile), ["alpine linux/arm64"]);
    assert_eq!(lines(dockerfile), [1]);
}

#[test]
fn a_stage_is_meant_only_if_it_comes_before() {
    assert_eq!(images("FROM alpine AS alpine\nFROM alpine"), ["alpine linux/arm64"]);
    assert_eq!(images("FROM later AS first\nFROM second AS later\nFROM first"), ["later linux/arm64"]);
    // The same name again: the last one before it.
    assert_eq!(images("FROM one AS x\nFROM two AS x\nFROM x"), ["two linux/arm64"]);
}

#[test]
fn arguments_before_the_first_stage_are_expanded() {
    let dockerfile = "ARG VERSION=3.20 NAME=\"alpine\"\nARG IMAGE=${NAME}:$VERSION\nFROM ${IMAGE}";
    assert_eq!(images(dockerfile), ["alpine:3.20 linux/arm64"]);
    assert_eq!(build().argument("VERSION", "3.19").images(dockerfile), ["alpine:3.19 linux/arm64"]);
    // Without an ARG there is no such argument.
    assert_eq!(build().argument("TAG", "1").images("FROM alpine:${TAG:-none}"), ["alpine:none linux/arm64"]);
    assert_eq!(build().argument("TAG", "1").images("ARG TAG\nFROM alpine:$TAG"), ["alpine:1 linux/arm64"]);
    // That of a stage is none of the file.
    assert_eq!(images("FROM one AS a\nARG X=two\nFROM a:${X:-three}"), ["a:three linux/arm64"]);
}

#[test]
fn the_platforms_are_predefined_arguments() {
    let told = "FROM a:$TARGETPLATFORM-$TARGETOS-$TARGETARCH-${TARGETVARIANT}-$TARGETSTAGE AS x";
    assert_eq!(images(told), ["a:linux/arm64-linux-arm64--x linux/arm64"]);
    assert_eq!(images("FROM a:$TARGETSTAGE"), ["a:default linux/arm64"]);
    let arm = Build { target_platform: "linux/arm/v7".parse().unwrap(), ..build() };
    assert_eq!(arm.images("FROM a:$TARGETARCH$TARGETVARIANT"), ["a:armv7 linux/arm/v7"]);
    assert_eq!(images("FROM a:$BUILDOS-$BUILDARCH$BUILDVARIANT"), ["a:linux-amd64 linux/arm64"]);
    let given = build().argument("TARGETARCH", "riscv64");
    assert_eq!(given.images("FROM a:$TARGETARCH"), ["a:riscv64 linux/arm64"]);
}

#[test]
fn what_depends_on_an_unknown_builder_is_left_out() {
    let dockerfile = "FROM --platform=$BUILDPLATFORM go AS build\nFROM alpine\nCOPY --from=build a b\n";
    assert_eq!(build().elsewhere().images(dockerfile), ["alpine linux/arm64"]);
    for dockerfile in [
        "FROM a:$BUILDARCH",
        "ARG X=$BUILDOS\nFROM a:${X}",
        "FROM --platform=linux a",
        "FROM a:${BUILDARCH:?}",
    ] {
        assert_eq!(build().elsewhere().images(dockerfile), NONE, "{dockerfile}");
    }
    assert_eq!(build().elsewhere().images("FROM --platform=arm a"), ["a linux/arm/v7"]);
    assert_eq!(images("FROM --platform=linux a"), ["a linux/amd64"]);
}

#[test]
fn what_is_not_followed_is_left_out_and_never_refused() {
    for dockerfile in [
        "# syntax=example.com/acme/frontend\nWHATEVER this is",
        "// syntax=example.com/acme/frontend\nwhatever",
        "{\"syntax\": \"example.com/acme/frontend\"}",
        "#!/usr/bin/env build\n# syntax = example.com/acme/frontend",
        "FROM ${X^^}",
        "FROM ${TARGETARCH//?/b}",
        "FROM --platform=windows(10.0.17763)/amd64 a",
        "FROM --platform=toaster a",
    ] {
        assert_eq!(images(dockerfile), NONE, "{dockerfile}");
    }
    let chosen = build().argument("BUILDKIT_SYNTAX", "example.com/acme/frontend");
    assert_eq!(chosen.images("FROM alpine"), NONE);
    let chosen = build().argument("BUILDKIT_SYNTAX", "mirror.example.com/docker/dockerfile:1.9");
    assert_eq!(chosen.images("# syntax=other\nFROM alpine"), ["alpine linux/arm64"]);
    let unknown = "FROM alpine\nINCLUDE other\nRUN --future=1 true\nCOPY one\n";
    assert_eq!(images(unknown), ["alpine linux/arm64"], "instructions of later versions");
}

#[test]
fn variables_of_variables_do_not_grow_without_end() {
    let doubled: String =
        (0..60).map(|number| format!("ARG A{}=$A{number}$A{number}\n", number + 1)).collect();
    assert_eq!(images(&format!("ARG A0=a\n{doubled}FROM $A3\n")), ["aaaaaaaa linux/arm64"]);
    assert_eq!(images(&format!("ARG A0=a\n{doubled}FROM $A60\n")), NONE);
    let nested = |depth: usize| format!("FROM {}a{}", "${X:-".repeat(depth), "}".repeat(depth));
    assert_eq!(images(&nested(30)), ["a linux/arm64"]);
    assert_eq!(images(&nested(100_000)), NONE);
    assert_eq!(images(&format!("FROM a\nRUN {} <<EOF\n", "${X:-".repeat(100_000))), NONE);
}

#[test]
fn lines_are_continued_by_the_escape_character() {
    assert_eq!(images("FROM \\\n  # why\n\n  alpine \\  \n  AS x\n"), ["alpine linux/arm64"]);
    assert_eq!(images("# escape=`\nFROM `\n  alpine`\r\n:3\n"), ["alpine:3 linux/arm64"]);
    assert_eq!(images("FROM one\nRUN echo \\\nFROM two\n"), ["one linux/arm64"]);
    assert_eq!(images("FROM one\nRUN echo \\\\\nFROM two\n"), ["two linux/arm64"], "escaped itself");
    assert_eq!(lines("\n\nFROM \\\nalpine\nCOPY \\\n--from=b c d"), [3, 5]);
}

#[test]
fn comments_marks_and_ends_of_lines_of_other_systems_are_read() {
    assert_eq!(images("\u{feff}# a comment\r\n\r\nFROM alpine\r\nRUN true\r\n"), ["alpine linux/arm64"]);
    assert_eq!(images("  # FROM a\n  FROM\talpine   AS\tx  \n#FROM c"), ["alpine linux/arm64"]);
    // A comment within an instruction ends nothing, and no comment stands beside one.
    assert_eq!(images("FROM a\nRUN x \\\n# FROM b \\\n  y\nFROM c\n"), ["c linux/arm64"]);
    assert!(build().refusal("FROM alpine # mine").starts_with("Dockerfile line 1: FROM takes an image"));
}

#[test]
fn directives_stand_before_everything_else() {
    assert_eq!(images("#escape = `\nFROM a`\nb"), ["ab linux/arm64"]);
    assert_eq!(
        images("# a comment\n# escape=`\nFROM a\\\nb"),
        ["ab linux/arm64"],
        "after a comment it is one"
    );
    assert_eq!(images("# CHECK=skip=all\n# Escape=`\nFROM a`\nb"), ["ab linux/arm64"]);
    assert_eq!(build().refusal("# escape=x\nFROM a"), r"Dockerfile line 1: escape=x is neither \ nor `");
    assert!(build().refusal("# escape=`\n#escape=`\nFROM a").starts_with("Dockerfile line 2: there can be"));
}

#[test]
fn the_frontend_is_told() {
    let told = |dockerfile: &str| frontend(dockerfile.as_bytes());
    assert_eq!(told("# syntax=docker/dockerfile:1.9 # x\nFROM a").as_deref(), Some("docker/dockerfile:1.9"));
    assert_eq!(told("\u{feff}# check=skip=all\n#syntax = a/b\r\nFROM a").as_deref(), Some("a/b"));
    assert_eq!(told("// syntax=a/b\n{}").as_deref(), Some("a/b"));
    assert_eq!(told("{\"syntax\": \"a/b\"}").as_deref(), Some("a/b"));
    assert_eq!(told("#!/bin/x\n# syntax=a/b").as_deref(), Some("a/b"));
    assert_eq!(told("FROM a\n# syntax=a/b"), None);
    assert_eq!(told("# a comment\n# syntax=a/b"), None);
}

#[test]
fn lines_of_here_documents_are_no_instructions() {
    for document in [
        "RUN <<EOF\nFROM b\nEOF",
        "RUN <<-EOF\nFROM b\n\t\tEOF",
        "RUN cat << 'E F' 3<<\"X\"\nFROM b\nE F\nFROM c\nX",
        "COPY <<one <<two /to/\nFROM b\none\nFROM c\ntwo",
        "ADD --chown=1 <<EOF /to\n# a comment \\\nFROM b\nEOF",
        "ONBUILD RUN <<EOF\nFROM b\nEOF",
        "run cat \\\n <<EOF && \\\n true\nFROM b\nEOF",
        "RUN <<EOF\r\nFROM b\r\nEOF\r",
    ] {
        let dockerfile = format!("FROM a\n{document}\nCOPY --from=d x y");
        assert_eq!(images(&dockerfile), ["a linux/arm64", "d linux/arm64"], "{document}");
    }
}

#[test]
fn what_only_looks_like_a_here_document_is_none() {
    for instruction in [
        r#"RUN ["sh", "-c", "cat <<EOF"]"#,
        "RUN cat <<<EOF",
        r"RUN echo \<<EOF",
        "RUN echo '<<EOF'",
        "RUN echo $((1<<2))x",
        "ENV X=<<EOF",
        "CMD cat <<EOF",
    ] {
        let dockerfile = format!("FROM a\n{instruction}\nFROM b");
        assert_eq!(images(&dockerfile), ["b linux/arm64"], "{instruction}");
    }
    assert_eq!(
        build().refusal("FROM a\n\nRUN cat <<EOF\nEOF2\n"),
        "Dockerfile line 3: the line EOF that ends its here-document is missing"
    );
}

#[test]
fn a_named_context_takes_the_place_of_a_stage_or_an_image() {
    let dockerfile = "FROM alpine:3.20 AS base\nFROM base\nCOPY --from=docker.io/library/tools:latest a b\n";
    let replaced = |name: &str, source: &str| build().context(name, source).images(dockerfile);
    let image = "docker-image://mirror/alpine:1";
    assert_eq!(
        replaced("base", image),
        ["mirror/alpine:1 linux/arm64", "docker.io/library/tools:latest linux/arm64"]
    );
    for name in ["alpine:3.20", "docker.io/library/alpine:3.20", "index.docker.io/library/alpine:3.20"] {
        assert_eq!(replaced(name, image)[0], "mirror/alpine:1 linux/arm64", "{name}");
    }
    for name in ["tools", "tools:latest", "docker.io/library/tools", "tools::linux/arm64"] {
        assert_eq!(replaced(name, image)[1], "mirror/alpine:1 linux/arm64", "{name}");
    }
    assert_eq!(replaced("tools::linux/amd64", image)[1], "docker.io/library/tools:latest linux/arm64");
    assert_eq!(replaced("alpine", image)[0], "alpine:3.20 linux/arm64", "another tag");
    for source in
        ["https://example.com/a.git", "local:x", "docker-image://scratch", "oci-layout://x@sha256:0"]
    {
        assert_eq!(replaced("base", source), ["docker.io/library/tools:latest linux/arm64"], "{source}");
    }
    assert_eq!(build().context("scratch", image).images("FROM scratch"), NONE);
}

#[test]
fn contexts_are_looked_for_by_the_familiar_name() {
    for (name, familiar) in [
        ("alpine", "alpine"),
        ("docker.io/library/alpine:latest", "alpine"),
        ("docker.io/acme/web:1", "acme/web:1"),
        ("docker.io/library/a/b", "library/a/b"),
        ("ghcr.io/acme/web", "ghcr.io/acme/web"),
        ("alpine:latest::linux/arm64", "alpine::linux/arm64"),
        ("No Reference", "No Reference"),
    ] {
        assert_eq!(context_name(name), familiar);
    }
}

#[test]
fn a_file_that_builds_nothing_is_refused_in_words() {
    for (dockerfile, refusal) in [
        ("", "Dockerfile: it has no FROM, so there is nothing to build"),
        ("ARG X=1\n# FROM a\n", "Dockerfile: it has no FROM, so there is nothing to build"),
        ("\nFROM", "Dockerfile line 2: FROM takes an image, or an image AS a name, and nothing else"),
        ("FROM a b", "Dockerfile line 1: FROM takes an image, or an image AS a name, and nothing else"),
        (
            "FROM a AS 1x",
            "Dockerfile line 1: \"1x\" is no name for a stage: write letters, digits, - _ . and a letter first",
        ),
        ("ARG X\nFROM $X", "Dockerfile line 2: FROM $X is FROM nothing; its variables have no values"),
        ("ARG X=\"${Y:?set Y}\"\nFROM a", "Dockerfile line 1: \"${Y:?set Y}\": Y: set Y"),
        ("FROM ${Y?}", "Dockerfile line 1: ${Y?}: Y must have a value; give it as a build argument"),
        ("FROM a${X", "Dockerfile line 1: a${X: the } after ${X is missing"),
        ("FROM 'a", "Dockerfile line 1: 'a: a ' has no other ' to end it"),
        (
            "FROM --platform=$X a",
            "Dockerfile line 1: --platform=$X is no platform; its variables have no values",
        ),
        (
            "FROM --platform=linux/ a",
            "Dockerfile line 1: --platform=linux/: \"linux/\" is not a platform; write os/architecture, as in linux/amd64",
        ),
    ] {
        assert_eq!(build().refusal(dockerfile), refusal, "{dockerfile}");
    }
}

#[test]
fn variables_are_expanded_as_the_shell_lexer_of_buildkit_does() {
    let variables: Variables = [("PWD", "/home"), ("NULL", ""), ("V", "1.2.3-rc"), ("STARS", "a*b*c")]
        .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
        .into();
    for (word, expanded) in [
        ("he'll'o", "hello"),
        (r"he\'llo", "he'llo"),
        (r"abc\tdef", "abctdef"),
        (r#""abc\tdef""#, r"abc\tdef"),
        (r#""abc\\tdef""#, r"abc\tdef"),
        (r"hello\", "hello"),
        (r"'hello\'", r"hello\"),
        ("$.", "$."),
        ("he$1x", "hex"),
        ("$999aaa", "aaa"),
        ("$@@@", "@@"),
        ("he$pwd.", "he."),
        (r"he\$PWD", "he$PWD"),
        (r#""he\\$PWD""#, r"he\/home"),
        (r"\${}aaa", "${}aaa"),
        ("he${hi}xx", "hexx"),
        ("he${XXX:-${YYY:-yyy}}xx", "heyyyxx"),
        ("he${NULL?}", "he"),
        ("${NULL-x}${NULL:-y}", "y"),
        ("${NULL+x}${NULL:+y}", "x"),
        ("he${PWD:+${PWD}:}xx", "he/home:xx"),
        (r"he${XXX:-\${PWD}z}xx", "he${PWDz}xx"),
        ("${aaa:-bbb {foo}", "bbb {foo"),
        ("${1:+bbb}${1:-ccc}", "ccc"),
        ("안녕${XXX:-세요}", "안녕세요"),
        ("${V#*.}", "2.3-rc"),
        ("${V##*.}", "3-rc"),
        ("${V%.*}", "1.2"),
        ("${V%%.*}", "1"),
        ("${V%-??}", "1.2.3"),
        ("${V%x}", "1.2.3-rc"),
        (r"${STARS#a\*}", "b*c"),
        (r"${STARS%%\**}", "a"),
        ("${XXX#a}", ""),
        ("${V/./_}", "1_2.3-rc"),
        ("${V//./_}", "1_2_3-rc"),
        (r"${PWD/\//}", "home"),
    ] {
        assert_eq!(expand(word, '\\', &variables).as_deref(), Ok(expanded), "{word}");
    }
    for word in ["he'llo", "\"hello", "${}", "he${.}", "${XXX?}", "${NULL:?}", "${aaa", "${{aaa}", "${:-b}"] {
        assert!(expand(word, '\\', &variables).is_err(), "{word}");
    }
    for word in ["${V:=x}", "${V:#}", "${V/?/_}", "${V//./$PWD$}", r"${V#\x}", "${XXX:YYY}"] {
        assert_eq!(expand(word, '\\', &variables), Err(Stop::Undetermined), "{word}");
    }
}
