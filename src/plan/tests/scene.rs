//! A world that stands still between two plans, for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::{FINALIZER, MultiArchImage, PlatformStatus, Reason, controller_uid};
use crate::build::BuilderSettings;
use crate::image::{ProgramFinding, ResolvedImage};
use crate::plan::fact::{Checked, Fact, Facts, Failure, Found};
use crate::plan::task::Task;
use crate::plan::{Nodes, Note, Observed, Outcome, Plan, Settings, build_state, notes, outcomes, plan};
use crate::policy::Policies;
use crate::registry::{Descriptor, Digest, Manifest, MediaType, Reference, Repository};

pub const REPOSITORY: &str = "registry.test/team-a/web";
pub const COMMIT: &str = "0123456789012345678901234567890123456789";

/// A world that stands still between two plans.
pub struct Scene {
    pub image: MultiArchImage,
    pub observed: Observed,
    pub policies: Policies,
    pub now: Timestamp,
    /// Every event so far.
    pub told: Vec<Note>,
    /// Everything that has come to an end so far.
    pub counted: Vec<Outcome>,
    /// What tags point at.
    pub registry: BTreeMap<Reference, Option<Digest>>,
    /// What cannot be seen for the moment.
    pub unseen: Vec<Reference>,
    /// What the git ref points at.
    pub commit: Option<String>,
}

impl Scene {
    pub fn new(spec: Value) -> Self {
        let image = serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "uid-1", "generation": 1},
            "spec": merged(&spec),
        }))
        .expect("a MultiArchImage");
        Scene {
            image,
            observed: Observed::default(),
            policies: Policies::default(),
            now: "2026-01-02T03:04:05Z".parse().expect("a time"),
            told: Vec::new(),
            counted: Vec::new(),
            registry: BTreeMap::new(),
            unseen: Vec::new(),
            commit: Some(COMMIT.to_owned()),
        }
    }

    /// The cluster has nodes of these architectures and no others.
    pub fn has_nodes(&mut self, architectures: &[&str]) {
        let node = |architecture: &&str| ("linux".to_owned(), (*architecture).to_owned());
        self.observed.nodes = Nodes::Seen(architectures.iter().map(node).collect());
    }

    pub fn gets_node(&mut self, architecture: &str) {
        let Nodes::Seen(nodes) = &mut self.observed.nodes else { return };
        nodes.push(("linux".to_owned(), architecture.to_owned()));
    }

    pub fn settings() -> BuilderSettings {
        BuilderSettings {
            image: "builder:1".to_owned(),
            sbom_scanner: "scanner:1".to_owned(),
            ..BuilderSettings::default()
        }
    }

    /// Plans, and writes the status as the controller does.
    pub fn plan(&mut self) -> Plan {
        let settings = Settings { builder: Self::settings(), policies: self.policies.clone() };
        let plan = plan(&self.image, &self.observed, &settings, self.now);
        self.told.extend(notes(&self.observed.status, &plan.status));
        self.counted.extend(outcomes(&self.observed.status, &plan.status));
        self.observed.status = plan.status.clone();
        plan
    }

    /// Lets every wanted task end well, and every Job that is created appear, until nothing changes.
    pub fn run(&mut self) -> Plan {
        for _ in 0..20 {
            let plan = self.plan();
            let open: Vec<Task> = plan.tasks.iter().filter(|task| self.is_open(task)).cloned().collect();
            if open.is_empty() {
                return plan;
            }
            open.iter().for_each(|task| self.succeed(task));
        }
        panic!("the plan never comes to rest");
    }

    fn is_open(&self, task: &Task) -> bool {
        self.observed.facts.get(task).is_none() && !matches!(task, Task::AwaitTurn { .. })
    }

    pub fn succeed(&mut self, task: &Task) {
        let found = match task {
            Task::ResolveCommit { .. } => Found::Commit(self.commit.clone().unwrap_or_default()),
            Task::ReadConfigMap { .. } => Found::Files {
                sums: [("Dockerfile".to_owned(), "c0ffee".to_owned())].into(),
                dockerfiles: BTreeMap::new(),
            },
            Task::ResolveContextImage { .. } => {
                Found::ContextImage { digest: Digest::sha256(b"context"), archive: None }
            }
            Task::ResolveImage { reference, platform, .. } => {
                let mut found = child(reference.repository(), &platform.to_string());
                let held = self.registry.get(reference).cloned().flatten();
                if let Some(digest) = held.filter(|digest| *digest != found.source.digest) {
                    found = child(reference.repository(), &format!("{platform} {digest}"));
                    found.source.digest = digest;
                }
                self.registry.insert(reference.clone(), Some(found.source.digest.clone()));
                Found::Image(Arc::new(found))
            }
            Task::InspectBuild { repository, platform, .. } => {
                Found::Image(Arc::new(child(repository, &platform.to_string())))
            }
            Task::InspectProgram { .. } => {
                Found::Program(ProgramFinding::Unknown { why: "the image starts nothing".to_owned() })
            }
            Task::CreatePod { pod } => {
                let mut pod = (**pod).clone();
                pod.metadata.uid = Some(format!("uid of {:?} at {}", pod.metadata.name, self.now));
                pod.metadata.creation_timestamp = Some(Time(self.now));
                self.observed.pods.push(Arc::new(pod));
                return;
            }
            Task::DeletePod { name, .. } => {
                self.observed.pods.retain(|pod| pod.metadata.name.as_ref() != Some(name));
                return;
            }
            Task::CreateJob { job, .. } => {
                let mut job = (**job).clone();
                job.metadata.uid = Some(format!("uid of {:?}", job.metadata.name));
                self.observed.jobs.push(Arc::new(job));
                return;
            }
            Task::FindPods { uid } => {
                let is_its = |pod: &&Arc<Pod>| controller_uid(&pod.metadata) == Some(uid);
                Found::Pods(self.observed.pods.iter().filter(is_its).cloned().collect())
            }
            Task::DeleteJob { name, .. } => {
                self.observed.jobs.retain(|job| job.metadata.name.as_ref() != Some(name));
                return;
            }
            Task::ReadFile { .. } => Found::File(None),
            Task::CheckSecrets { .. }
            | Task::CheckBuildSecrets { .. }
            | Task::CheckBaseImages { .. }
            | Task::AwaitTurn { .. }
            | Task::CopyImage { .. }
            | Task::MergeSecrets { .. } => Found::Done,
            Task::Publish { .. } => {
                self.publish(task);
                Found::Done
            }
            Task::PutBack { repository, tags, .. } => {
                for (tag, digest) in tags {
                    self.registry.insert(repository.with_tag(tag).expect("a tag"), Some(digest.clone()));
                }
                Found::Done
            }
            Task::Check { sources, published, git, .. } => {
                let held = sources
                    .iter()
                    .chain(published)
                    .filter(|reference| !self.unseen.contains(reference))
                    .map(|reference| (reference.clone(), self.held(reference)))
                    .collect();
                Found::Checked(Arc::new(Checked {
                    at: self.now,
                    held,
                    commit: git.as_ref().and(self.commit.clone()),
                    refused: None,
                    unseen: None,
                }))
            }
            Task::SetFinalizer { present } => {
                self.image.metadata.finalizers = present.then(|| vec![FINALIZER.to_owned()]);
                Found::Done
            }
            Task::DeleteTags { tags } => {
                tags.iter().for_each(|(tag, _)| drop(self.registry.remove(tag)));
                Found::Kept(vec![])
            }
        };
        self.observed.facts.insert(task.key(), Fact::Known(found));
    }

    /// What the registry has under a reference.
    fn held(&self, reference: &Reference) -> Option<Digest> {
        match (self.registry.get(reference), reference.digest()) {
            (Some(held), _) => held.clone(),
            (None, Some(digest)) => Some(digest.clone()),
            (None, None) => None,
        }
    }

    fn publish(&mut self, task: &Task) {
        let Task::Publish { repository, tags, index, platform_tags, .. } = task else { return };
        let of_index = tags.iter().map(|tag| (tag, index.descriptor.digest.clone()));
        let of_images = platform_tags.iter().map(|(tag, child)| (tag, child.image.descriptor.digest.clone()));
        for (tag, digest) in of_index.chain(of_images) {
            self.registry.insert(repository.with_tag(tag).expect("a tag"), Some(digest));
        }
    }

    /// Somebody points a tag elsewhere, or removes what a reference leads to.
    pub fn point(&mut self, reference: &str, digest: Option<Digest>) {
        self.registry.insert(reference.parse().expect("a reference"), digest);
    }

    /// What the plan wants and nothing is known of yet.
    pub fn open(&mut self) -> Vec<Task> {
        let tasks = self.plan().tasks;
        tasks.into_iter().filter(|task| self.observed.facts.get(task).is_none()).collect()
    }

    /// Lets time pass until the next look is due, and takes it.
    pub fn look(&mut self) {
        let wait = self.plan().wake_after.expect("something is due");
        self.now = self.now.saturating_add(wait).expect("a time");
        for task in self.plan().tasks {
            if let Task::Check { .. } = task {
                self.succeed(&task);
            }
        }
    }

    /// The same from rest, and what follows from it until it rests again.
    pub fn wait(&mut self) -> Plan {
        self.run();
        self.look();
        self.run()
    }

    pub fn fail(&mut self, task: &Task, reason: Reason, message: &str, transient: bool) {
        let retry_at = self.now.saturating_add(SignedDuration::from_secs(7)).expect("a time");
        let failure = Failure { reason, message: message.to_owned(), transient, retry_at };
        self.observed.facts.insert(task.key(), Fact::Failed(failure));
        if self.observed.facts.failing_since(task).is_none() {
            self.observed.facts.insert_failing(task.key(), self.now);
        }
    }

    /// The controller restarts: what it had in its memory is gone.
    pub fn restart(&mut self) {
        self.observed.facts = Facts::default();
    }

    pub fn edit(&mut self, edit: impl FnOnce(&mut MultiArchImage)) {
        edit(&mut self.image);
        self.image.metadata.generation = self.image.metadata.generation.map(|generation| generation + 1);
    }

    pub fn annotate(&mut self, key: &str, value: &str) {
        self.image.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    }

    pub fn job_name(&self, slug: &str) -> String {
        let job =
            self.observed.jobs.iter().find(|job| build_state::platform_slug(job).is_some_and(|s| s == slug));
        job.and_then(|job| job.metadata.name.clone()).unwrap_or_else(|| panic!("no Job for {slug}"))
    }

    pub fn change_job(&mut self, slug: &str, status: Value) {
        let name = self.job_name(slug);
        let job = self.observed.jobs.iter_mut().find(|job| job.metadata.name.as_ref() == Some(&name));
        Arc::make_mut(job.expect("the Job")).status = serde_json::from_value(status).expect("a status");
    }

    pub fn pod(&mut self, slug: &str, name: &str, status: Value) {
        let job = self.job_name(slug);
        let uid = format!("uid of {:?}", Some(&job));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": self.now.to_string(),
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid, "controller": true}]},
            "spec": {"nodeName": "node-1", "containers": [],
                "nodeSelector": {"kubernetes.io/os": "linux", "kubernetes.io/arch": slug.split('-').nth(1)}},
            "status": status,
        }))
        .expect("a pod");
        self.observed.pods.retain(|other| other.metadata.name.as_deref() != Some(name));
        self.observed.pods.push(Arc::new(pod));
    }

    pub fn finish(&mut self, slug: &str) {
        let digest = Digest::sha256(slug.as_bytes());
        self.pod(
            slug,
            &format!("pod-{slug}"),
            ended(0, "Completed", &format!("{{\"digest\":\"{digest}\"}}")),
        );
        self.change_job(slug, json!({"completionTime": self.now.to_string(), "conditions": [{"type": "Complete", "status": "True"}]}));
    }

    pub fn break_build(&mut self, slug: &str, exit_code: i32, log: &str) {
        self.pod(slug, &format!("pod-{slug}"), ended(exit_code, "Error", log));
        self.change_job(slug, json!({"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": self.now.to_string()}]}));
    }

    pub fn platform(&self, name: &str) -> &PlatformStatus {
        self.observed.status.platform(name).unwrap_or_else(|| panic!("no entry for {name}"))
    }

    pub fn ready(&self) -> (&str, &str) {
        let ready = self.observed.status.condition("Ready").expect("a Ready condition");
        (&ready.status, &ready.reason)
    }

    pub fn message(&self) -> &str {
        &self.observed.status.condition("Ready").expect("a Ready condition").message
    }

    pub fn has(&self, condition: &str) -> bool {
        self.observed.status.is_true(condition)
    }
}

fn merged(spec: &Value) -> Value {
    let mut whole = json!({"target": {"repository": REPOSITORY, "tags": ["1.4.2", "latest"]}});
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    whole
}

pub fn ended(exit_code: i32, reason: &str, message: &str) -> Value {
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    json!({"phase": phase, "containerStatuses": [{"name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}}]})
}

/// A verified child; its digest depends on its platform alone.
fn child(repository: &Repository, platform: &str) -> ResolvedImage {
    let bytes = bytes::Bytes::from(format!("manifest for {platform}"));
    let mut descriptor = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(&bytes), bytes.len() as u64);
    let mut words = platform.split('/');
    descriptor.platform = Some(crate::registry::DescriptorPlatform {
        os: words.next().unwrap_or_default().to_owned(),
        architecture: words.next().unwrap_or_default().to_owned(),
        ..Default::default()
    });
    ResolvedImage {
        repository: repository.clone(),
        source: descriptor.clone(),
        image: Manifest { descriptor, bytes },
        attestations: vec![],
        warnings: vec![],
    }
}
