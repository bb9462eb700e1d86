//! A world that stands still between two plans, for the tests.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::api::{MultiArchImage, PlatformStatus, Reason};
use crate::build::BuilderSettings;
use crate::image::ResolvedImage;
use crate::plan::task::{Fact, Facts, Failure, Found, Task};
use crate::plan::{Observed, Plan, build_state, conditions, plan};
use crate::registry::{Descriptor, Digest, Manifest, MediaType, Repository};

pub const REPOSITORY: &str = "registry.test/team-a/web";
pub const COMMIT: &str = "0123456789012345678901234567890123456789";

/// A world that stands still between two plans.
pub struct Scene {
    pub image: MultiArchImage,
    pub observed: Observed,
    pub now: Timestamp,
}

impl Scene {
    pub fn new(spec: Value) -> Self {
        let image = serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "uid-1", "generation": 1},
            "spec": merged(&spec),
        }))
        .expect("a MultiArchImage");
        Scene { image, observed: Observed::default(), now: "2026-01-02T03:04:05Z".parse().expect("a time") }
    }

    pub fn settings() -> BuilderSettings {
        BuilderSettings { image: "builder:1".to_owned(), plain_http: vec![] }
    }

    /// Plans, and writes the status as the controller does.
    pub fn plan(&mut self) -> Plan {
        let plan = plan(&self.image, &self.observed, &Self::settings(), self.now);
        self.observed.status = plan.status.clone();
        plan
    }

    /// Lets every wanted task end well, and every Job that is created appear, until nothing changes.
    pub fn run(&mut self) -> Plan {
        for _ in 0..20 {
            let plan = self.plan();
            let open: Vec<Task> =
                plan.tasks.iter().filter(|task| self.observed.facts.get(task).is_none()).cloned().collect();
            if open.is_empty() {
                return plan;
            }
            open.iter().for_each(|task| self.succeed(task));
        }
        panic!("the plan never comes to rest");
    }

    pub fn succeed(&mut self, task: &Task) {
        let found = match task {
            Task::ResolveCommit { .. } => Found::Commit(COMMIT.to_owned()),
            Task::ReadConfigMap { .. } => {
                Found::Files([("Dockerfile".to_owned(), "c0ffee".to_owned())].into())
            }
            Task::ResolveImage { reference, platform, .. } => {
                Found::Image(Arc::new(child(reference.repository(), &platform.to_string())))
            }
            Task::InspectBuild { repository, platform, .. } => {
                Found::Image(Arc::new(child(repository, &platform.to_string())))
            }
            Task::CreateJob { job } => {
                let mut job = (**job).clone();
                job.metadata.uid = Some(format!("uid of {:?}", job.metadata.name));
                self.observed.jobs.push(Arc::new(job));
                return;
            }
            Task::DeleteJob { name, .. } => {
                self.observed.jobs.retain(|job| job.metadata.name.as_ref() != Some(name));
                return;
            }
            Task::CheckSecrets { .. }
            | Task::CopyImage { .. }
            | Task::MergeSecrets { .. }
            | Task::Publish { .. } => Found::Done,
        };
        self.observed.facts.insert(task.key(), Fact::Known(found));
    }

    pub fn fail(&mut self, task: &Task, reason: Reason, message: &str, transient: bool) {
        let retry_at = self.now.saturating_add(SignedDuration::from_secs(7)).expect("a time");
        let failure = Failure { reason, message: message.to_owned(), transient, retry_at };
        self.observed.facts.insert(task.key(), Fact::Failed(failure));
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
        conditions::is_true(&self.observed.status, condition)
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
