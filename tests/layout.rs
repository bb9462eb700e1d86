//! Image layouts against a real registry: what goes out comes back byte for byte, and nothing else does.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/layouts.rs"]
mod layouts;
#[path = "support/registry.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use layouts::{
    Tar, blob_files, children_of, export, export_some, import, push_web, raw, reference, temporary,
};
use multiarch::layout::{Layout, LayoutError, export_to_directory, export_to_file, export_to_stream};
use multiarch::registry::{Copied, Digest, Kind, MediaType};
use serde_json::{Value, json};
use support::{Registry, index};

#[tokio::test]
async fn an_index_comes_back_from_an_archive_byte_for_byte() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let digest = push_web(&from, "team/web", "1").await;
    let folder = temporary();
    let file = folder.path().join("web.tar");

    let exported =
        export_to_file(&from.session(), &reference(&from, "team/web:1"), &[], &file).await.unwrap();
    assert_eq!(
        (exported.entry.digest, exported.manifests, exported.filtered_from),
        (digest.clone(), 4, None)
    );
    let imported = import(&to, &file, &["other/web:1", "other/web:latest", "third/web:1"]).await.unwrap();

    assert_eq!((imported.root.digest, imported.manifests, imported.tags.len()), (digest, 4, 3));
    assert_eq!(
        (imported.copied.uploaded, imported.copied.mounted),
        (7, 7),
        "the second repository takes from the first"
    );
    let source = raw(&from, "team/web", "1").await;
    for (path, tag) in [("other/web", "1"), ("other/web", "latest"), ("third/web", "1")] {
        assert_eq!(raw(&to, path, tag).await, source, "{path}:{tag}");
    }
    for child in children_of(&source) {
        assert_eq!(raw(&to, "third/web", &child).await, raw(&from, "team/web", &child).await);
    }
    let again = import(&to, &file, &["other/web:1"]).await.unwrap();
    let Copied { bytes, mounted, uploaded, .. } = again.copied;
    assert_eq!((bytes, mounted, uploaded), (0, 0, 0), "nothing is sent where all is there");
}

#[tokio::test]
async fn an_index_comes_back_from_a_directory_and_from_a_stream() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let digest = push_web(&from, "team/web", "1").await;
    let folder = temporary();
    export(&from, "team/web:1", folder.path()).await.unwrap();
    assert_eq!(import(&to, folder.path(), &["directory/web:1"]).await.unwrap().root.digest, digest);

    let mut archive = Vec::new();
    let source = reference(&from, "team/web:1");
    export_to_stream(&from.session(), &source, &[], "standard output", &mut archive).await.unwrap();
    let layout = Layout::read("standard input", std::io::Cursor::new(archive)).await.unwrap();
    let entry = layout.choose(None).unwrap().clone();
    let target = [reference(&to, "stream/web:1")];
    let imported =
        multiarch::layout::import(&to.session(), Arc::new(layout), &entry, &[], &target).await.unwrap();
    assert_eq!(imported.root.digest, digest);
    assert_eq!(raw(&to, "stream/web", "1").await, raw(&from, "team/web", "1").await);
}

#[tokio::test]
async fn the_same_index_gives_the_same_archive_with_manifests_before_blobs() {
    let registry = Registry::anonymous();
    push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    let [one, two] = ["one.tar", "two.tar"].map(|name| folder.path().join(name));
    for file in [&one, &two] {
        export_to_file(&registry.session(), &reference(&registry, "team/web:1"), &[], file).await.unwrap();
    }
    let bytes = std::fs::read(&one).unwrap();
    assert_eq!(bytes, std::fs::read(&two).unwrap());

    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut names = Vec::new();
    for member in archive.entries().unwrap() {
        let member = member.unwrap();
        let header = member.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        names.push(member.path().unwrap().display().to_string());
    }
    assert_eq!(names[..4], ["oci-layout", "index.json", "blobs/", "blobs/sha256/"]);
    let source = raw(&registry, "team/web", "1").await;
    let manifests = [Digest::sha256(&source).to_string()].into_iter().chain(children_of(&source));
    let expected: Vec<String> =
        manifests.map(|digest| format!("blobs/{}", digest.replace(':', "/"))).collect();
    assert_eq!(names[4..8], expected);
    // Two images with a layer of their own and one that they share, an attestation, three configs.
    assert_eq!(names.len(), 8 + 7, "{names:?}");
}

#[tokio::test]
async fn an_export_into_a_layout_adds_to_it_and_fetches_only_what_is_missing() {
    let registry = Registry::anonymous();
    let one = push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    let first = export(&registry, "team/web:1", folder.path()).await.unwrap();
    assert_eq!((first.fetched, first.present), (7, 0));
    let again = export(&registry, "team/web:1", folder.path()).await.unwrap();
    assert_eq!((again.fetched, again.present), (0, 7));

    let image = layouts::push_real_image(&registry, "team/web", "2", "linux/s390x").await;
    let second = export(&registry, "team/web:2", folder.path()).await.unwrap();
    assert_eq!((second.fetched, second.present), (2, 1), "one layer is shared");
    let layout = Layout::open(folder.path()).await.unwrap();
    assert_eq!(layout.entries().len(), 2);
    assert_eq!(layout.choose(Some("1")).unwrap().descriptor.digest, one);
    let whole = format!("{}/team/web:2", registry.host);
    assert_eq!(layout.choose(Some(&whole)).unwrap().descriptor.digest, image.digest);
    let error = layout.choose(None).unwrap_err().to_string();
    assert!(
        error.contains("it has 2 images; name one of them by --ref") && error.contains("\n  1, "),
        "{error}"
    );

    let moved = registry.push_image("team/web", "1", "linux/riscv64").await;
    export(&registry, "team/web:1", folder.path()).await.unwrap();
    let layout = Layout::open(folder.path()).await.unwrap();
    assert_eq!(layout.entries().len(), 2, "an entry of the same name is replaced");
    assert_eq!(layout.choose(Some("1")).unwrap().descriptor.digest, moved.digest);
}

#[tokio::test]
async fn a_file_in_the_layout_that_is_too_short_is_fetched_again() {
    let registry = Registry::anonymous();
    push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    export(&registry, "team/web:1", folder.path()).await.unwrap();
    let blob =
        blob_files(folder.path()).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = std::fs::read(&blob).unwrap();
    std::fs::write(&blob, "short").unwrap();
    export(&registry, "team/web:1", folder.path()).await.unwrap();
    assert_eq!(std::fs::read(&blob).unwrap(), whole);
}

#[tokio::test]
async fn chosen_platforms_are_exported_with_their_attestations_and_the_rest_stays() {
    let registry = Registry::anonymous();
    let digest = push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    let exported = export_some(&registry, "team/web:1", &["linux/amd64"], folder.path()).await.unwrap();
    assert_eq!(exported.filtered_from, Some(digest.clone()));
    assert_ne!(exported.entry.digest, digest);
    assert_eq!((exported.manifests, exported.fetched), (3, 5), "the index, amd64 and its attestation");
    assert_eq!(blob_files(folder.path()).len(), 8);

    let all =
        export_some(&registry, "team/web:1", &["linux/arm64", "linux/amd64"], folder.path()).await.unwrap();
    assert_eq!(
        (all.filtered_from, all.entry.digest),
        (None, digest),
        "nothing is left out, so nothing changes"
    );

    let error = export_some(&registry, "team/web:1", &["linux/s390x"], folder.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("linux/s390x") && error.to_string().contains("linux/amd64"),
        "{error}"
    );
}

#[tokio::test]
async fn an_image_that_is_no_index_is_exported_and_imported_as_one() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let image = from.push_image("team/web", "1", "linux/arm64").await;
    let folder = temporary();
    export(&from, "team/web:1", folder.path()).await.unwrap();
    let imported = import(&to, folder.path(), &["team/web:1"]).await.unwrap();
    assert_eq!((imported.root.digest, imported.root.media_type), (image.digest, MediaType::OCI_MANIFEST));
}

#[tokio::test]
async fn an_index_of_indexes_is_carried_as_it_is() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let inner = push_web(&from, "team/web", "1").await;
    let bytes = raw(&from, "team/web", "1").await;
    let entry = json!({"mediaType": MediaType::OCI_INDEX, "digest": inner, "size": bytes.len()});
    let outer = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [entry]});
    let outer = from.push_manifest("team/web", "all", &outer).await;
    let folder = temporary();
    export(&from, "team/web:all", folder.path()).await.unwrap();
    let imported = import(&to, folder.path(), &["team/web:all"]).await.unwrap();
    assert_eq!((imported.root.digest, imported.manifests), (outer.digest, 5));
    assert_eq!(raw(&to, "team/web", inner.as_str()).await, bytes);
}

#[tokio::test]
async fn a_directory_with_other_files_is_not_made_a_layout() {
    let registry = Registry::anonymous();
    push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    std::fs::write(folder.path().join("thesis.txt"), "years").unwrap();
    let error = export(&registry, "team/web:1", folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("has files and is no image layout"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_export_that_fails_leaves_neither_blob_nor_entry_by_half() {
    let registry = Registry::anonymous();
    push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    export(&registry, "team/web:1", folder.path()).await.unwrap();
    let before = std::fs::read(folder.path().join("index.json")).unwrap();

    let broken = layouts::serving_a_wrong_blob().await;
    let source = format!("{}/team/web:2", broken.host).parse().unwrap();
    let session = support::client().session(Arc::default());
    let error = export_to_directory(&session, &source, &[], folder.path()).await.unwrap_err();
    assert!(matches!(&error, LayoutError::Content(error) if error.kind() == Kind::DigestMismatch), "{error}");
    assert_eq!(std::fs::read(folder.path().join("index.json")).unwrap(), before);
    for file in blob_files(folder.path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(Digest::sha256(&std::fs::read(&file).unwrap()).hex(), name, "every file is whole");
    }
    let file = folder.path().join("web.tar");
    export_to_file(&session, &source, &[], &file).await.unwrap_err();
    assert!(!file.exists());
}

#[tokio::test]
async fn all_that_is_missing_is_named_before_anything_is_pushed() {
    let from = Registry::anonymous();
    push_web(&from, "team/web", "1").await;
    let folder = temporary();
    export(&from, "team/web:1", folder.path()).await.unwrap();
    let bytes = raw(&from, "team/web", "1").await;
    let children: Vec<Value> = layouts::manifests_of(&from, "team/web", &bytes).await;
    let lost: Vec<&str> =
        children.iter().take(2).map(|child| child["config"]["digest"].as_str().unwrap()).collect();
    for digest in &lost {
        std::fs::remove_file(folder.path().join("blobs").join(digest.replace(':', "/"))).unwrap();
    }
    let nobody = layouts::refusing().await;
    let error = layouts::import_into(&nobody.host, folder.path(), &["team/web:1"]).await.unwrap_err();
    for digest in &lost {
        assert!(error.to_string().contains(*digest), "{error}");
    }
    assert!(nobody.asked().is_empty(), "{:?}", nobody.lines());

    for child in children_of(&bytes) {
        std::fs::remove_file(folder.path().join("blobs").join(child.replace(':', "/"))).unwrap();
    }
    let error = layouts::import_into(&nobody.host, folder.path(), &["team/web:1"]).await.unwrap_err();
    for child in children_of(&bytes) {
        assert!(error.to_string().contains(&child), "{error}");
    }
    assert!(
        error.to_string().contains("(linux/amd64 application/vnd.oci.image.manifest.v1+json): not there")
    );
    assert!(nobody.asked().is_empty(), "{:?}", nobody.lines());
}

#[tokio::test]
async fn a_blob_with_other_bytes_than_its_name_is_never_completed() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    push_web(&from, "team/web", "1").await;
    let folder = temporary();
    export(&from, "team/web:1", folder.path()).await.unwrap();
    let bytes = raw(&from, "team/web", "1").await;
    let image = &layouts::manifests_of(&from, "team/web", &bytes).await[0];
    let layer: Digest = image["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let path = folder.path().join("blobs").join(layer.as_str().replace(':', "/"));
    let size = std::fs::read(&path).unwrap().len();
    std::fs::write(&path, vec![b'x'; size]).unwrap();

    let error = import(&to, folder.path(), &["team/web:1"]).await.unwrap_err();
    assert!(matches!(&error, LayoutError::Content(error) if error.kind() == Kind::DigestMismatch), "{error}");
    assert!(!to.session().has_blob(&to.repository("team/web"), &layer).await.unwrap());
    let tag = to.session().head_manifest(&reference(&to, "team/web:1")).await.unwrap();
    assert_eq!(tag, None);
}

#[tokio::test]
async fn a_compressed_archive_is_read() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let digest = push_web(&from, "team/web", "1").await;
    let folder = temporary();
    let file = folder.path().join("web.tar");
    export_to_file(&from.session(), &reference(&from, "team/web:1"), &[], &file).await.unwrap();
    let compressed = folder.path().join("web.tar.gz");
    std::fs::write(&compressed, layouts::gzip(&std::fs::read(&file).unwrap())).unwrap();
    assert_eq!(import(&to, &compressed, &["team/web:1"]).await.unwrap().root.digest, digest);
}

async fn refusal(path: &Path) -> String {
    let nobody = layouts::refusing().await;
    let error = layouts::import_into(&nobody.host, path, &["team/web:1"]).await.unwrap_err();
    assert!(nobody.asked().is_empty(), "{:?}", nobody.lines());
    error.to_string()
}

#[tokio::test]
async fn what_is_no_layout_is_told_with_what_it_is() {
    let folder = temporary();
    let file = folder.path().join("file");
    assert!(refusal(&file).await.contains("not found (opening the layout)"));
    assert!(refusal(folder.path()).await.contains("there is no index.json in the directory"));
    std::fs::write(&file, vec![b'x'; 2000]).unwrap();
    assert!(refusal(&file).await.contains("no tar archive"));
    std::fs::write(&file, Tar::default().file("docs/readme", b"hello").end()).unwrap();
    assert!(refusal(&file).await.contains("there is no index.json at the top of the archive"));
    std::fs::write(&file, Tar::default().file("manifest.json", b"[]").end()).unwrap();
    assert!(refusal(&file).await.contains("an archive of docker save"));
    let future = Tar::default().file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#);
    std::fs::write(&file, future.file("index.json", br#"{"manifests":[]}"#).end()).unwrap();
    assert!(refusal(&file).await.contains(r#"a layout of version "2.0.0"; only 1.0.0 is known"#));
}

#[tokio::test]
async fn nothing_outside_of_an_archive_is_read() {
    let folder = temporary();
    let secret = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    std::fs::write(folder.path().join("secret"), secret).unwrap();
    let digest = Digest::sha256(secret);
    let (blob, file) = (format!("blobs/sha256/{}", digest.hex()), folder.path().join("evil.tar"));
    let index = index(&[]);
    let index = layouts::listing(index, &digest, secret.len());
    let link = folder.path().join("secret");
    let evil = [
        Tar::default().link(&blob, &link, tar::EntryType::Symlink),
        Tar::default().link(&blob, &link, tar::EntryType::Link),
        Tar::default().link(&blob, Path::new("../secret"), tar::EntryType::Symlink),
        Tar::default().raw(&format!("../{blob}"), secret),
        Tar::default().raw(&format!("/{blob}"), secret),
        Tar::default().raw(&format!("blobs/../{blob}"), secret),
        Tar::default().raw(&format!("blobs/sha256/../sha256/{}", digest.hex()), secret),
    ];
    for tar in evil {
        std::fs::write(&file, tar.file("index.json", index.as_bytes()).end()).unwrap();
        let error = refusal(&file).await;
        assert!(error.contains("not there") || error.contains("it is not followed"), "{error}");
    }
    let linked = Tar::default().link("index.json", &link, tar::EntryType::Symlink);
    std::fs::write(&file, linked.end()).unwrap();
    assert!(refusal(&file).await.contains("index.json: a link"), "the index is no link either");
}

#[tokio::test]
async fn nothing_outside_of_a_directory_is_read() {
    use std::os::unix::fs::symlink;

    let folder = temporary();
    let secret = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let digest = Digest::sha256(secret);
    let outside = folder.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join(digest.hex()), secret).unwrap();
    let layout = folder.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs")).unwrap();
    std::fs::write(layout.join("index.json"), layouts::listing(index(&[]), &digest, secret.len())).unwrap();

    symlink(&outside, layout.join("blobs/sha256")).unwrap();
    assert!(refusal(&layout).await.contains("it is not followed"));
    std::fs::remove_file(layout.join("blobs/sha256")).unwrap();
    std::fs::create_dir(layout.join("blobs/sha256")).unwrap();
    symlink(outside.join(digest.hex()), layout.join("blobs/sha256").join(digest.hex())).unwrap();
    assert!(refusal(&layout).await.contains("it is not followed"));
    std::fs::remove_file(layout.join("index.json")).unwrap();
    symlink("/proc/self/mem", layout.join("index.json")).unwrap();
    assert!(refusal(&layout).await.contains("index.json: a link"));
}

#[tokio::test]
async fn an_archive_that_lies_about_its_size_is_refused() {
    let folder = temporary();
    let file = folder.path().join("evil.tar");
    let digest = Digest::sha256(b"x");
    let listing = layouts::listing(index(&[]), &digest, 5 << 20);
    let blob = format!("blobs/sha256/{}", digest.hex());

    let large = Tar::default().file(&blob, &vec![b' '; 5 << 20]).file("index.json", listing.as_bytes());
    std::fs::write(&file, large.end()).unwrap();
    assert!(refusal(&file).await.contains("the manifest of 5242880 bytes is larger than 4194304"));

    std::fs::write(&file, Tar::default().file("index.json", &vec![b' '; 5 << 20]).end()).unwrap();
    assert!(refusal(&file).await.contains("its 5242880 bytes are more than 4194304"));

    let twice = Tar::default().file("index.json", listing.as_bytes()).file("./index.json", b"{}");
    std::fs::write(&file, twice.end()).unwrap();
    assert!(refusal(&file).await.contains("index.json is there twice"));

    let mut whole = Tar::default().file("index.json", listing.as_bytes()).file(&blob, &[b'x'; 5000]).end();
    whole.truncate(4000);
    std::fs::write(&file, whole).unwrap();
    assert!(refusal(&file).await.contains("the archive is cut off in blobs/sha256/"));

    let long = Tar::default().extension(tar::EntryType::XHeader, &vec![b'x'; 3 << 20]);
    std::fs::write(&file, long.file("index.json", listing.as_bytes()).end()).unwrap();
    assert!(refusal(&file).await.contains("the headers of a member are too large"));
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_entry_says_is_refused() {
    let folder = temporary();
    let file = folder.path().join("evil.tar");
    let manifest = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let digest = Digest::sha256(manifest);
    let blob = format!("blobs/sha256/{}", digest.hex());
    for (content, listed, reason) in [
        (&b"{}"[..], index(&[]), "the content has digest"),
        (manifest, index(&[]), "disagree on whether it is an index"),
    ] {
        let listing = layouts::listing(listed, &digest, content.len());
        let listing = match reason.contains("disagree") {
            true => listing.replace(MediaType::OCI_MANIFEST.as_str(), MediaType::OCI_INDEX.as_str()),
            false => listing,
        };
        std::fs::write(
            &file,
            Tar::default().file(&blob, content).file("index.json", listing.as_bytes()).end(),
        )
        .unwrap();
        assert!(refusal(&file).await.contains(reason), "{reason}");
    }
}
