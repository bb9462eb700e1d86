//! Git servers: who is let in, who is believed, and what is read of a commit. Needs no nodes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use multiarch::git::{Client, Credentials, Error};
use support::Rig;
use support::git::GitRepository;

fn repository(name: &str) -> GitRepository {
    repository_with(name, &[])
}

fn repository_with(name: &str, options: &[&str]) -> GitRepository {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    GitRepository::init(Rig::get(), &format!("g{}-{count}-{name}", std::process::id()), options)
}

fn credentials(data: &[(&str, &str)]) -> Credentials {
    let data = data.iter().map(|(key, value)| (*key, value.as_bytes()));
    Credentials::new(data).expect("credentials")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file of the rig")
}

fn authority() -> String {
    read(&Rig::get().git.https.ca_file)
}

fn over_https() -> Credentials {
    let https = &Rig::get().git.https;
    let password = [("username", &*https.username), ("password", &*https.password)];
    credentials(&[&password[..], &[("ca.crt", &authority())]].concat())
}

fn over_ssh() -> Credentials {
    let ssh = &Rig::get().git.ssh;
    credentials(&[("identity", &read(&ssh.identity_file)), ("known_hosts", &ssh.known_hosts)])
}

/// Where the server speaks version 0.
fn over_old_ssh(repository: &GitRepository) -> String {
    repository.ssh.replace("ssh://git@", "ssh://old@")
}

fn client() -> Client {
    Client::new([])
}

#[tokio::test]
async fn a_password_a_token_and_a_bearer_token_open_a_private_repository() {
    let repository = repository("private");
    let commit = repository.commit("main", &[("Dockerfile", "FROM scratch\n")]);
    let https = &Rig::get().git.https;
    let authority = authority();
    for data in [
        &[("username", https.username.as_str()), ("password", https.password.as_str())][..],
        &[("token", &https.token)],
        &[("username", "x-access-token"), ("token", &https.token)],
        &[("bearerToken", &https.token)],
    ] {
        let shown = credentials(&[data, &[("ca.crt", &authority)]].concat());
        let found = client().resolve(&repository.https, Some("main"), Some(&shown)).await;
        assert_eq!(found.ok().as_ref(), Some(&commit), "{:?}", data[0].0);
        let file = client().read_file(&repository.https, &commit, "Dockerfile", Some(&shown)).await;
        assert_eq!(file.expect("the file").as_deref(), Some(b"FROM scratch\n".as_slice()));
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_what_belongs_into_the_secret() {
    let repository = repository("denied");
    repository.commit("main", &[]);
    let authority = authority();
    let wrong = credentials(&[("username", "devcluster"), ("password", "hunter2"), ("ca.crt", &authority)]);
    let nobody = credentials(&[("ca.crt", &authority)]);
    for (shown, expected) in [(wrong, "check username and password"), (nobody, "name a Secret with username")]
    {
        let error = client().resolve(&repository.https, None, Some(&shown)).await.expect_err("denied");
        assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains(expected), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_of_a_private_authority_is_believed_only_with_its_certificate() {
    let repository = repository("authority");
    repository.commit("main", &[]);
    let https = &Rig::get().git.https;
    let without = credentials(&[("username", &https.username), ("password", &https.password)]);
    let error = client().resolve(&repository.https, None, Some(&without)).await.expect_err("not believed");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(client().resolve(&repository.https, None, Some(&over_https())).await.is_ok());
}

#[tokio::test]
async fn keys_of_every_type_open_a_repository_over_ssh() {
    let repository = repository("ssh");
    let commit = repository.commit("main", &[("it's/Dockerfile", "FROM scratch\n")]);
    let ssh = &Rig::get().git.ssh;
    for name in ["id_ed25519", "id_ecdsa", "id_rsa"] {
        let identity = read(&ssh.identity_file.with_file_name(name));
        let shown = credentials(&[("ssh-privatekey", &identity), ("known_hosts", &ssh.known_hosts)]);
        let found = client().resolve(&repository.ssh, None, Some(&shown)).await;
        assert_eq!(found.expect(name), commit);
        let file = client().read_file(&repository.ssh, &commit, "it's/Dockerfile", Some(&shown)).await;
        assert_eq!(file.expect(name).as_deref(), Some(b"FROM scratch\n".as_slice()));
    }
}

#[tokio::test]
async fn a_host_is_believed_by_any_key_that_is_known_of_it_and_hashed_names_count() {
    let repository = repository("known");
    repository.commit("main", &[]);
    let ssh = &Rig::get().git.ssh;
    let identity = read(&ssh.identity_file);
    let lines: Vec<&str> = ssh.known_hosts.lines().collect();
    assert_eq!(lines.len(), 3, "a key of each type");
    for line in lines {
        let shown = credentials(&[("identity", &identity), ("known_hosts", line)]);
        let found = client().resolve(&repository.ssh, None, Some(&shown)).await;
        assert!(found.is_ok(), "{line}: {found:?}");
    }
    let file = std::env::temp_dir().join(format!("known-hosts-{}", std::process::id()));
    std::fs::write(&file, &ssh.known_hosts).expect("a file");
    let hashed = std::process::Command::new("ssh-keygen").arg("-Hf").arg(&file).output().expect("ssh-keygen");
    let text = read(&file);
    assert!(hashed.status.success() && text.starts_with("|1|"), "{text}");
    let shown = credentials(&[("identity", &identity), ("known_hosts", &text)]);
    assert!(client().resolve(&repository.ssh, None, Some(&shown)).await.is_ok());
    std::fs::remove_file(&file).expect("the file");
}

#[tokio::test]
async fn an_unknown_host_and_one_whose_key_has_changed_are_refused_with_the_key_they_offer() {
    let repository = repository("unknown");
    repository.commit("main", &[]);
    let ssh = &Rig::get().git.ssh;
    let identity = read(&ssh.identity_file);
    let (host, _) = ssh.known_hosts.split_once(' ').expect("a line");
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINRE7xMGYV6lBuJxOPgGanjIcUPrlNJPBGpr9UWgpknK";
    for (known_hosts, expected) in [
        (format!("git.test {other}"), "is not in known_hosts"),
        (format!("{host} {other}"), "somebody may be posing as the server"),
    ] {
        let shown = credentials(&[("identity", &identity), ("known_hosts", &known_hosts)]);
        let error = client().resolve(&repository.ssh, None, Some(&shown)).await.expect_err("refused");
        assert!(matches!(error, Error::HostKey { .. }), "{error:?}");
        let text = error.to_string();
        for part in [expected, "SHA256:", "ssh-keyscan -p 3022"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}

#[tokio::test]
async fn an_ssh_key_that_the_server_does_not_know_is_denied_by_its_fingerprint() {
    let repository = repository("stranger");
    let identity = include_str!("../src/git/testdata/id_ed25519");
    let shown = credentials(&[("identity", identity), ("known_hosts", &Rig::get().git.ssh.known_hosts)]);
    let error = client().resolve(&repository.ssh, None, Some(&shown)).await.expect_err("denied");
    assert!(matches!(error, Error::Denied { .. }) && error.to_string().contains("SHA256:"), "{error}");
    let error = client().resolve(&repository.ssh, None, None).await.expect_err("no key");
    assert!(matches!(error, Error::Credentials { .. }), "{error:?}");
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_told_from_a_server_that_is_not_there() {
    let git = &Rig::get().git;
    for (server, shown) in [(&git.https.url, over_https()), (&git.ssh.url, over_ssh())] {
        let url = format!("{server}/absent.git");
        let error = client().resolve(&url, None, Some(&shown)).await.expect_err("absent");
        assert!(matches!(error, Error::NoRepository { .. }), "{error:?}");
    }
    for (url, shown) in [("https://127.0.0.1:9/x", over_https()), ("ssh://git@127.0.0.1:9/x", over_ssh())] {
        let error = client().resolve(url, None, Some(&shown)).await.expect_err("nobody is there");
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn refs_are_resolved_alike_over_every_transport_and_version() {
    let repository = repository("refs");
    let first = repository.commit("main", &[("a", "1")]);
    repository.git(&["tag", "--annotate", "--message=one", "v1"]);
    repository.git(&["push", "--quiet", "origin", "v1"]);
    let second = repository.commit("main", &[("a", "2")]);
    let old = front(Front::Version0).await;
    for (url, shown) in [
        (repository.url.clone(), None),
        (repository.https.clone(), Some(over_https())),
        (repository.ssh.clone(), Some(over_ssh())),
        (over_old_ssh(&repository), Some(over_ssh())),
        (in_front(&old, &repository), None),
    ] {
        let resolve = async |reference| client().resolve(&url, reference, shown.as_ref()).await;
        assert_eq!(resolve(None).await.expect("HEAD"), second, "{url}");
        assert_eq!(resolve(Some("main")).await.expect("a branch"), second, "{url}");
        assert_eq!(resolve(Some("v1")).await.expect("an annotated tag"), first, "{url}");
        assert_eq!(resolve(Some("refs/tags/v1")).await.expect("a full name"), first, "{url}");
        let error = resolve(Some("mian")).await.expect_err("no such branch").to_string();
        assert!(error.ends_with("did you mean main?"), "{error}");
    }
}

#[tokio::test]
async fn files_of_any_commit_are_read_over_every_transport_and_version() {
    let repository = repository("files");
    let files = [("Dockerfile", "FROM a\n"), ("docker/web/Dockerfile", "FROM b\n"), ("empty", "")];
    let old = repository.commit("main", &files);
    let link = |target: &str, path: &str| {
        std::os::unix::fs::symlink(target, repository.path(path)).expect("a link");
    };
    link("../Dockerfile", "docker/link");
    link("docker", "folder");
    link("folder", "twice");
    link("/etc/passwd", "outside");
    let module = format!("160000,{old},module");
    repository.git(&["add", "--all"]);
    repository.git(&["update-index", "--add", "--cacheinfo", &module]);
    repository.git(&["commit", "--quiet", "--message=links"]);
    let middle = repository.git(&["rev-parse", "HEAD"]);
    repository.commit("main", &[("Dockerfile", "FROM c\n")]);
    let front = front(Front::Version0).await;
    for (url, shown) in [
        (repository.url.clone(), None),
        (repository.https.clone(), Some(over_https())),
        (repository.ssh.clone(), Some(over_ssh())),
        (over_old_ssh(&repository), Some(over_ssh())),
        (in_front(&front, &repository), None),
    ] {
        let mut snapshot = client().open(&url, &middle, shown.as_ref()).await.expect("the commit");
        let time = repository.git(&["show", "--no-patch", "--format=%ct", &middle]);
        assert_eq!(snapshot.committed().to_string(), time);
        for (path, expected) in [
            ("Dockerfile", Some("FROM a\n")),
            ("./docker/web/Dockerfile", Some("FROM b\n")),
            ("empty", Some("")),
            ("docker/link", Some("FROM a\n")),
            ("folder/web/Dockerfile", Some("FROM b\n")),
            ("twice/web/Dockerfile", None),
            ("outside", None),
            ("../Dockerfile", None),
            ("docker", None),
            ("docker/absent", None),
            ("Dockerfile/absent", None),
            ("module", None),
            ("absent", None),
        ] {
            let found =
                snapshot.read_file(path).await.unwrap_or_else(|error| panic!("{url} {path}: {error}"));
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{url} {path}");
        }
        let found = client().read_file(&url, &old, "folder/web/Dockerfile", shown.as_ref()).await;
        assert_eq!(found.expect("the first commit"), None, "{url}");
    }
}

#[tokio::test]
async fn a_file_of_many_versions_is_put_together_from_its_deltas() {
    let repository = repository("deltas");
    let version = |version: u32| -> String {
        (0..3000)
            .map(|line| format!("RUN {line} {}\n", if line % 97 == version { version } else { 0 }))
            .collect()
    };
    let mut commits = Vec::new();
    for count in 0..10 {
        let same = version(count + 20);
        commits.push(repository.commit("main", &[("Dockerfile", &version(count)), ("same", &same)]));
    }
    repository.served(&["repack", "-adfq", "--depth=50"]);
    // Without a filter all files come in one pack, built on each other.
    repository.served(&["config", "uploadpack.allowFilter", "false"]);
    for (count, commit) in (0..).zip(&commits) {
        let file = client().read_file(&repository.ssh, commit, "Dockerfile", Some(&over_ssh())).await;
        assert_eq!(file.expect("the file").as_deref(), Some(version(count).as_bytes()), "{count}");
    }
}

#[tokio::test]
async fn what_is_too_large_to_look_at_is_unknown_and_no_failure() {
    let repository = repository("large");
    let large = "x".repeat(4 * 1024 * 1024 + 1);
    let commit = repository.commit("main", &[("large", &large), ("small", "FROM a\n")]);
    for filter in ["true", "false"] {
        repository.served(&["config", "uploadpack.allowFilter", filter]);
        let mut snapshot = client().open(&repository.url, &commit, None).await.expect("the commit");
        assert_eq!(
            snapshot.read_file("small").await.expect("small").as_deref(),
            Some(b"FROM a\n".as_slice())
        );
        let error = snapshot.read_file("large").await.expect_err("too large");
        assert!(matches!(error, Error::NotInspectable { .. }), "{filter}: {error:?}");
    }
}

#[tokio::test]
async fn a_commit_that_is_not_there_is_told_from_one_that_is_not_given_away() {
    let repository = repository("commits");
    let hidden = repository.commit("main", &[("a", "1")]);
    let tip = repository.commit("main", &[("a", "2")]);
    let absent = "0123456789012345678901234567890123456789";
    for (url, shown) in [(&repository.url, None), (&repository.ssh, Some(over_ssh()))] {
        for commit in [absent, "main", &"0".repeat(64)] {
            let error = client().read_commit_time(url, commit, shown.as_ref()).await.expect_err("absent");
            assert!(matches!(error, Error::NoCommit { .. }), "{error:?}");
        }
        let tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
        let error = client().read_commit_time(url, &tree, shown.as_ref()).await.expect_err("no commit");
        assert!(matches!(error, Error::NoCommit { .. }), "{error:?}");
    }
    repository.served(&["config", "uploadpack.allowAnySHA1InWant", "false"]);
    let front = front(Front::Version0).await;
    let url = in_front(&front, &repository);
    let error = client().read_file(&url, &hidden, "a", None).await.expect_err("not given away");
    assert!(matches!(error, Error::NotInspectable { .. }), "{error:?}");
    assert!(client().read_file(&url, &tip, "a", None).await.is_ok());
}

#[tokio::test]
async fn repositories_whose_objects_are_named_by_sha256_are_read_as_well() {
    let repository = repository_with("sha256", &["--object-format=sha256"]);
    let commit = repository.commit("main", &[("docker/Dockerfile", "FROM a\n")]);
    assert_eq!(commit.len(), 64);
    let front = front(Front::Version0).await;
    for (url, shown) in [
        (repository.url.clone(), None),
        (repository.ssh.clone(), Some(over_ssh())),
        (in_front(&front, &repository), None),
    ] {
        assert_eq!(client().resolve(&url, Some("main"), shown.as_ref()).await.expect("a branch"), commit);
        let file = client().read_file(&url, &commit, "docker/Dockerfile", shown.as_ref()).await;
        assert_eq!(file.expect("the file").as_deref(), Some(b"FROM a\n".as_slice()), "{url}");
    }
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let repository = repository("redirected");
    let commit = repository.commit("main", &[]);
    let behind = front(Front::Recording).await;
    let before = front(Front::RedirectTo(behind.url.clone())).await;
    let shown = credentials(&[("username", "me"), ("password", "hunter2")]);
    let url = in_front(&before, &repository);
    assert_eq!(client().resolve(&url, None, Some(&shown)).await.expect("it is followed"), commit);
    assert!(before.requests().iter().all(|request| request.contains("authorization: Basic")));
    let asked = behind.requests();
    assert!(asked.len() == 2 && asked.iter().all(|request| !request.contains("authorization")), "{asked:?}");
    assert_eq!(before.requests().len(), 1, "what comes after goes to where the repository is");

    let private = front(Front::RedirectTo(Rig::get().git.https.url.clone())).await;
    let url = in_front(&private, &repository);
    let error = client().resolve(&url, None, Some(&over_https())).await.expect_err("denied");
    assert!(error.to_string().contains("where credentials are not sent"), "{error}");

    // On one host they stay.
    let same = front(Front::RedirectTo("/moved".to_owned())).await;
    let url = in_front(&same, &repository);
    let error = client().resolve(&url, None, Some(&shown)).await.expect_err("round and round");
    assert!(error.to_string().contains("redirects"), "{error}");
    assert!(same.requests().len() > 1);
    assert!(same.requests().iter().all(|request| request.contains("authorization: Basic")));
}

#[tokio::test]
async fn credentials_are_not_sent_where_everyone_reads_them() {
    let shown = credentials(&[("token", "hunter2")]);
    let error = client().resolve("http://git.invalid/web", None, Some(&shown)).await.expect_err("refused");
    assert!(matches!(error, Error::Credentials { .. }), "{error:?}");
    let allowed = Client::new(["git.invalid:8080".to_owned()]);
    let error = allowed.resolve("http://git.invalid:8080/web", None, Some(&shown)).await;
    assert!(matches!(error, Err(Error::Unavailable { .. })), "it is tried: {error:?}");
}

#[tokio::test]
async fn packs_that_are_rubbish_are_errors() {
    let commit = "0123456789012345678901234567890123456789";
    for answer in [
        Vec::new(),
        b"zzzz".to_vec(),
        b"0000".to_vec(),
        packet(b"packfile\n"),
        banded(b"PACK"),
        banded(b"PACK\0\0\0\x02\0\0\0\x01nonsense and no checksum"),
        banded(&[0; 200]),
        [packet(b"packfile\n"), packet(b"\x03fatal: out of memory\n")].concat(),
        packet(b"ERR nothing for you\n"),
    ] {
        let front = front(Front::Answer(answer)).await;
        let error =
            client().read_file(&format!("{}/web", front.url), commit, "a", None).await.expect_err("an error");
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_object_that_is_not_its_hash_is_refused() {
    let repository = repository("other");
    let commit = repository.commit("main", &[("a", "1")]);
    let command = format!("echo {commit} | git pack-objects --quiet --revs --stdout");
    let shell =
        std::process::Command::new("sh").args(["-c", &command]).current_dir(repository.path(".")).output();
    let pack = shell.expect("a shell").stdout;
    let front = front(Front::Answer(banded(&pack))).await;
    let url = format!("{}/web", front.url);
    let read = async |commit: &str| client().read_file(&url, commit, "a", None).await;
    assert_eq!(read(&commit).await.expect("the file").as_deref(), Some(b"1".as_slice()));
    let error = read("0123456789012345678901234567890123456789").await.expect_err("another commit");
    assert!(error.to_string().contains("sends other objects"), "{error}");
}

fn packet(data: &[u8]) -> Vec<u8> {
    [format!("{:04x}", data.len() + 4).as_bytes(), data].concat()
}

/// An answer with a pack.
fn banded(pack: &[u8]) -> Vec<u8> {
    [packet(b"packfile\n"), packet(&[b"\x01", pack].concat()), b"0000".to_vec()].concat()
}

use front::{Front, front, in_front};

/// Servers that are not quite git servers.
mod front {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::extract::{Request, State};
    use axum::response::Response;

    use super::support::Rig;
    use super::support::git::GitRepository;

    #[derive(Clone)]
    pub enum Front {
        /// The rig's repositories, as servers have them that know no newer version of the protocol.
        Version0,
        /// The rig's repositories.
        Recording,
        RedirectTo(String),
        /// Whoever asks for a pack gets this.
        Answer(Vec<u8>),
    }

    pub struct Server {
        pub url: String,
        requests: Arc<Mutex<Vec<String>>>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Server {
        /// The heads of what was asked, in lower-case names.
        pub fn requests(&self) -> Vec<String> {
            self.requests.lock().expect("the requests").clone()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    pub async fn front(front: Front) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new().fallback(answer).with_state((front, Arc::clone(&requests)));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Server { url, requests, task }
    }

    pub fn in_front(server: &Server, repository: &GitRepository) -> String {
        repository.url.replace(&Rig::get().git.url, &server.url)
    }

    type Shared = (Front, Arc<Mutex<Vec<String>>>);

    async fn answer(State((front, requests)): State<Shared>, request: Request) -> Response {
        let headers = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap_or_default()));
        let head = format!("{} {}\n{}", request.method(), request.uri(), headers.collect::<String>());
        requests.lock().expect("the requests").push(head);
        match front {
            Front::Version0 => forward(request, None).await,
            Front::Recording => forward(request, Some("version=2")).await,
            Front::RedirectTo(server) => {
                let location = format!("{server}{}", request.uri());
                Response::builder()
                    .status(302)
                    .header("Location", location)
                    .body(Body::empty())
                    .expect("an answer")
            }
            Front::Answer(pack) => {
                let (kind, body) = match request.method().as_str() {
                    "GET" => ("advertisement", b"000eversion 2\n0012fetch=shallow\n0000".to_vec()),
                    _ => ("result", pack),
                };
                let kind = format!("application/x-git-upload-pack-{kind}");
                Response::builder().header("Content-Type", kind).body(Body::from(body)).expect("an answer")
            }
        }
    }

    async fn forward(request: Request, version: Option<&str>) -> Response {
        let url = format!("{}{}", Rig::get().git.url, request.uri());
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        let mut upstream = reqwest::Client::new().request(parts.method, url).body(body);
        if let Some(kind) = parts.headers.get("content-type") {
            upstream = upstream.header("Content-Type", kind);
        }
        if let Some(version) = version {
            upstream = upstream.header("Git-Protocol", version);
        }
        let answer = upstream.send().await.expect("the rig answers");
        let mut response = Response::builder().status(answer.status());
        if let Some(kind) = answer.headers().get("content-type") {
            response = response.header("Content-Type", kind);
        }
        response.body(Body::from(answer.bytes().await.expect("a body"))).expect("an answer")
    }
}
