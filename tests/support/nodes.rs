//! Nodes of the rig: whether there are any, and those of a test's own.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{World, devcluster};

/// The label and the taint of nodes that are somebody's own.
pub const RESERVED_FOR: &str = "devcluster/reserved-for";

/// Ends a test where there are no nodes; says so by name.
#[allow(unused_macros, reason = "each test binary uses a part of it")]
macro_rules! needs_nodes {
    ($test:literal) => {
        if !$crate::support::Rig::get().has_nodes($test) {
            return;
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use needs_nodes;

/// A node that goes when the test goes.
pub struct TemporaryNode {
    pub name: String,
}

#[derive(Deserialize)]
struct Added {
    name: String,
}

impl TemporaryNode {
    /// One that everybody's pods may run on.
    pub fn add(architecture: &str) -> Self {
        Self::from(&["node", "add", architecture])
    }

    /// One on which nothing runs but what [`reserved`] makes of this test's builds.
    pub fn reserved(world: &World, architecture: &str) -> Self {
        Self::from(&["node", "add", architecture, "--reserved-for", &world.namespace])
    }

    /// One that has the name of another, which was removed.
    pub fn in_place_of(name: &str, world: &World, architecture: &str) -> Self {
        let reserved = ["node", "add", architecture, "--reserved-for", &world.namespace];
        Self::from(&[reserved.as_slice(), &["--in-place-of", name]].concat())
    }

    fn from(arguments: &[&str]) -> Self {
        let added: Added = serde_json::from_str(&devcluster::run(arguments)).expect("what was added");
        TemporaryNode { name: added.name }
    }

    /// The machine is gone at once, and so is its Node.
    pub fn remove(self) {}
}

impl Drop for TemporaryNode {
    fn drop(&mut self) {
        devcluster::run(&["node", "remove", &self.name]);
    }
}

/// `spec.build.pod` for the nodes that are reserved for this test.
pub fn reserved(world: &World) -> Value {
    json!({
        "nodeSelector": {RESERVED_FOR: world.namespace},
        "tolerations": tolerations(world),
    })
}

/// What lets pods onto the nodes that are reserved for this test.
pub fn tolerations(world: &World) -> Value {
    json!([{"key": RESERVED_FOR, "operator": "Equal", "value": world.namespace, "effect": "NoSchedule"}])
}
