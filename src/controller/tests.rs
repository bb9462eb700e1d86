//! Rounds, with an API server that is not there.

use futures::channel::mpsc::unbounded;
use kube::runtime::reflector::store::Writer;
use serde_json::{Value, json};

use super::tasks::{Perform, Problem};
use super::*;
use crate::plan::fact::Found;
use crate::plan::queue::Turn;
use crate::plan::task::Task;

/// A controller whose API server refuses every connection.
struct Scene {
    context: Arc<Context>,
    images: Writer<MultiArchImage>,
}

impl Scene {
    fn new(builder: BuilderSettings) -> Self {
        let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
        let client = Client::try_from(nowhere).expect("a client");
        let settings = Settings {
            namespace: None,
            builder,
            policies: Policies::default(),
            registry: registry::Client::new(&registry::Settings::default()).expect("a client"),
            git: git::Client::new([]),
            metrics: Metrics::new(),
            shutdown_grace: Duration::ZERO,
        };
        let ((images, mut image_writer), (jobs, mut job_writer), (pods, mut pod_writer)) =
            (reflector::store(), reflector::store(), reflector::store());
        image_writer.apply_watcher_event(&Event::InitDone);
        job_writer.apply_watcher_event(&Event::InitDone);
        pod_writer.apply_watcher_event(&Event::InitDone);
        let (ended, _) = unbounded();
        let context = Arc::new(Context::new(&client, settings, (images, jobs, pods, None), ended));
        Scene { context, images: image_writer }
    }

    /// What the watch shows from now on.
    fn sees(&mut self, image: &MultiArchImage) -> ObjectRef<MultiArchImage> {
        self.images.apply_watcher_event(&Event::Apply(image.clone()));
        ObjectRef::from_obj(image)
    }
}

fn image(metadata: Value) -> MultiArchImage {
    serde_json::from_value(json!({
        "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": metadata,
        "spec": {
            "target": {"repository": "registry.test/web", "tags": ["1"]},
            "platforms": [{"platform": "linux/amd64", "image": "other.test/web:1"}],
        },
    }))
    .expect("an image")
}

/// One that is deleted, and kept until its tags are.
fn kept() -> MultiArchImage {
    image(json!({
        "name": "web", "namespace": "team-a", "uid": "uid", "generation": 2,
        "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [crate::api::FINALIZER],
    }))
}

/// Begins, and never ends.
struct Hang;

impl Perform for Hang {
    fn perform(
        &self,
        _: &ObjectRef<MultiArchImage>,
        _: Task,
    ) -> impl Future<Output = Result<Found, Problem>> + Send + 'static {
        future::pending()
    }
}

#[tokio::test]
async fn a_round_that_panics_fails_alone_and_is_tried_again() {
    let ended = contained(async { panic!("a mistake of ours") }).await;
    assert!(matches!(ended, Err::<Action, Error>(Error::Internal)));
    let other = contained(async { Ok(Action::await_change()) }).await;
    assert!(matches!(other, Ok(action) if action == Action::await_change()));
}

#[tokio::test]
async fn what_an_edit_makes_obsolete_is_stopped_though_no_status_can_be_written() {
    let mut scene = Scene::new(BuilderSettings::default());
    let mut image = image(json!({"name": "web", "namespace": "team-a", "uid": "uid", "generation": 1}));
    let object = scene.sees(&image);
    let obsolete = Task::DeleteJob { name: "obsolete".to_owned(), uid: "uid".to_owned() };
    let tasks = &scene.context.tasks;
    tasks.want(&object, vec![obsolete], &Epoch::default(), Timestamp::now(), &Hang);
    assert_eq!(tasks.running(&object), 1);
    image.metadata.generation = Some(2);
    let ended = reconcile(Arc::new(image), Arc::clone(&scene.context)).await;
    assert!(matches!(ended, Err(Error::Status(_))), "{ended:?}");
    assert_eq!(tasks.running(&object), 0);
}

#[tokio::test]
async fn an_image_that_goes_before_its_round_has_ended_leaves_nothing_behind() {
    let mut scene = Scene::new(BuilderSettings::default());
    let object = scene.sees(&kept());
    let round = |context: &Arc<Context>| reconcile(Arc::new(kept()), Arc::clone(context));
    round(&scene.context).await.expect("a round");
    assert_eq!(scene.context.tasks.running(&object), 1, "its finalizer is being taken away");
    scene.images.apply_watcher_event(&Event::Delete(kept()));
    round(&scene.context).await.expect("a round");
    assert_eq!(scene.context.tasks.running(&object), 0);
}

#[tokio::test]
async fn an_image_that_its_tags_keep_gives_its_turn_to_build_to_others() {
    let builder = BuilderSettings { max_running: Some(1), ..BuilderSettings::default() };
    let mut scene = Scene::new(builder);
    let (first, second) = (scene.sees(&kept()), ObjectRef::new("second").within("team-b"));
    let ask = |object: &ObjectRef<MultiArchImage>, job: &str| {
        let wanted = [Task::AwaitTurn { job: job.to_owned(), queued: true }];
        scene.context.admission.ask(object, &wanted, None, Timestamp::now());
        scene.context.admission.turns(object).and_then(|turns| turns.get(job).cloned())
    };
    assert_eq!(ask(&first, "first"), Some(Turn::Granted));
    assert!(matches!(ask(&second, "second"), Some(Turn::Queued { .. })));
    reconcile(Arc::new(kept()), Arc::clone(&scene.context)).await.expect("a round");
    assert_eq!(ask(&second, "second"), Some(Turn::Granted));
}
