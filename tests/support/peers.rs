//! Registries of other makes.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::process::Command;

use serde_json::json;

use super::support::{Registry, devcluster_program};

/// Who made a registry, and what it can.
#[derive(Debug, Clone, Copy)]
pub struct Make {
    pub name: &'static str,
    /// Lists referrers by its own API.
    pub referrers_api: bool,
    /// Takes a tag away without its manifest.
    pub deletes_tags: bool,
    /// Mounts a blob that another repository has.
    pub mounts: bool,
}

pub const MAKES: [Make; 5] = [
    Make { name: "distribution 3", referrers_api: false, deletes_tags: true, mounts: true },
    Make { name: "distribution 2.8", referrers_api: false, deletes_tags: false, mounts: true },
    Make { name: "cue", referrers_api: true, deletes_tags: true, mounts: true },
    Make { name: "ecr", referrers_api: true, deletes_tags: true, mounts: true },
    Make { name: "ggcr", referrers_api: true, deletes_tags: true, mounts: false },
];

impl Make {
    pub fn start(self) -> Registry {
        match self.name {
            "distribution 3" => Registry::anonymous(),
            "distribution 2.8" => Registry::distribution("docker-registry".as_ref(), json!({}), None),
            name => {
                let command = Command::new(devcluster_program("registries"));
                Registry::launch(command, &["-make", name], Registry::directory())
            }
        }
    }
}
