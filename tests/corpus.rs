//! The inputs that the fuzz targets start from and have stumbled over, run through the same properties.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::path::Path;

fn run(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    for file in files {
        // Shown if the test fails.
        println!("{}", file.display());
        property(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn references_keep_their_properties() {
    run("reference", properties::reference);
}

#[test]
fn platforms_keep_their_properties() {
    run("platform", properties::platform);
}

#[test]
fn manifests_keep_their_properties() {
    run("manifest", properties::manifest);
}

#[test]
fn challenges_keep_their_properties() {
    run("www_authenticate", properties::www_authenticate);
}

#[test]
fn docker_configurations_keep_their_properties() {
    run("dockerconfigjson", properties::dockerconfigjson);
}

#[test]
fn layers_keep_their_properties() {
    run("layer", properties::layer);
}

#[test]
fn dockerfiles_keep_their_properties() {
    run("dockerfile", properties::dockerfile);
}
