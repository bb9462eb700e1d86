//! What the operator adds to builds, measured on the development cluster's nodes and printed as a table. Figures to look
//! at, not tests: machines are noisy. `BENCH_BUILDS=20` sets how many builds the latencies are of, `BENCH_KILLS=200` how
//! often the operator is killed, `BENCH_ONLY=overhead,wall,cache,obsolete,kills` what is measured.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a measuring program")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use multiarch::api::{ANNOTATION_REBUILD, MultiArchImage, Phase};
use serde_json::{Value, json};
use support::images::Push;
use support::operator::{Operator, Start};
use support::{PATIENCE, Rig, World};

/// Enough work for a compiler that starting pods does not hide it.
const WORK: &str = "RUN i=0; while [ $i -lt 12 ]; do for n in 1 2 3 4 5 6 7 8; do echo \"int f$n(int x) { int s = 0; \
     for (int i = 0; i < x; i++) for (int k = 0; k < i; k++) s += (i ^ k) * $n; return s; }\"; done > /w.c; \
     cc -O2 -c -o /w.o /w.c; i=$((i + 1)); done";

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<72} {figure:>14}");
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent).div_ceil(100).saturating_sub(1)]
}

fn spec(world: &World, name: &str, platforms: &[&str], dockerfile: &str) -> Value {
    let platforms: Vec<Value> = platforms.iter().map(|platform| json!({"platform": platform})).collect();
    json!({
        "target": {"repository": world.repository(name), "tags": ["1.0"]},
        "platforms": platforms,
        "build": {"context": {"inline": {"dockerfile": dockerfile}}},
    })
}

/// When each Job was first seen, and when it was first seen complete, by its image's name.
#[derive(Default)]
struct Seen {
    created: BTreeMap<String, Instant>,
    complete: BTreeMap<String, Instant>,
    uids: BTreeMap<String, BTreeSet<String>>,
}

/// Watches every Job of the world for as long as the program runs.
fn watch_jobs(world: &World) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (api, result) = (world.api::<Job>(), Arc::clone(&seen));
    tokio::spawn(async move {
        let mut jobs =
            std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(job) = jobs.next().await {
            let (Ok(job), now) = (job, Instant::now()) else { continue };
            let image = job.labels().get(multiarch::api::LABEL_IMAGE).cloned().unwrap_or_default();
            let mut seen = result.lock().expect("nobody panics here");
            seen.uids.entry(job.name_any()).or_default().extend(job.uid());
            seen.created.entry(image.clone()).or_insert(now);
            let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
            if conditions.iter().any(|condition| condition.type_ == "Complete" && condition.status == "True")
            {
                seen.complete.entry(image).or_insert(now);
            }
        }
    });
    seen
}

async fn overhead(world: &World, seen: &Mutex<Seen>, count: usize) {
    println!("\nWhat the operator adds to {count} builds, one after the other");
    let (mut to_job, mut to_tag) = (vec![], vec![]);
    for number in 0..count {
        let name = format!("build-{number}");
        let dockerfile = format!("FROM {}\nRUN echo {number}\n", world.rig.images["busybox"]);
        let began = Instant::now();
        world.apply(&name, spec(world, &name, &["linux/amd64"], &dockerfile)).await;
        let push = Push::to(&world.repository(&name));
        while push.read("1.0").await.is_none() {}
        let tagged = Instant::now();
        world.until_ready(&name).await;
        let seen = seen.lock().expect("nobody panics here");
        to_job.push(seen.created[&name].duration_since(began));
        to_tag.push(tagged.saturating_duration_since(seen.complete[&name]));
    }
    for (what, times) in [("creation → Job", &mut to_job), ("Job complete → tag", &mut to_tag)] {
        row(&format!("{what}, median"), format!("{:.0?}", percentile(times, 50)));
        row(&format!("{what}, p95"), format!("{:.0?}", percentile(times, 95)));
    }
}

/// A pod that builds and pushes by hand: BuildKit and buildctl, nothing of ours.
fn by_hand(world: &World, architecture: &str, dockerfile: &str) -> Pod {
    let script = format!(
        "mkdir -p /tmp/c && printf '%s' \"$DOCKERFILE\" > /tmp/c/Dockerfile && printf '[registry.\"{0}\"]\\nhttp = true\\n' > \
         /tmp/b.toml && rootlesskit --net=host --copy-up=/etc --copy-up=/run buildkitd --config /tmp/b.toml \
         --oci-worker-no-process-sandbox --addr unix:///tmp/b.sock >/tmp/log 2>&1 & until buildctl --addr \
         unix:///tmp/b.sock debug workers >/dev/null 2>&1; do sleep 0.1; done; buildctl --addr unix:///tmp/b.sock build \
         --frontend dockerfile.v0 --opt platform=linux/{architecture} --local context=/tmp/c --local dockerfile=/tmp/c \
         --output type=image,name={0}/{1}/by-hand,push=true,push-by-digest=true,oci-mediatypes=true",
        world.rig.registry, world.namespace
    );
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("by-hand-{architecture}")},
        "spec": {
            "restartPolicy": "Never", "nodeSelector": {"kubernetes.io/arch": architecture},
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
            "volumes": [{"name": "state", "emptyDir": {}}],
            "containers": [{
                "name": "build", "image": world.rig.builder_image, "command": ["sh", "-c", script],
                "env": [{"name": "DOCKERFILE", "value": dockerfile}],
                "volumeMounts": [{"name": "state", "mountPath": "/home/user/.local/share/buildkit"}],
                "securityContext": {"seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"}},
            }],
        },
    }))
    .expect("a pod")
}

async fn until_ended(api: &Api<Pod>, name: &str) {
    let ended = await_condition(api.clone(), name, |pod: Option<&Pod>| {
        matches!(pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()), Some("Succeeded" | "Failed"))
    });
    let pod = tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("it ends").expect("a pod");
    let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
    assert_eq!(phase, "Succeeded", "{name}");
}

async fn wall(world: &World) {
    println!("\nTwo platforms, compiled on two nodes at once");
    let base = &world.rig.images["compiler"];
    let hand = format!("FROM {base}\nENV BY=hand\n{WORK}\n");
    let api = world.api::<Pod>();
    let began = Instant::now();
    for architecture in ["amd64", "arm64"] {
        api.create(&PostParams::default(), &by_hand(world, architecture, &hand)).await.expect("a pod");
    }
    let slower = async {
        futures::join!(until_ended(&api, "by-hand-amd64"), until_ended(&api, "by-hand-arm64"));
        began.elapsed()
    }
    .await;
    row("two pods with buildctl by hand, the slower", format!("{slower:.1?}"));
    let ours = format!("FROM {base}\nENV BY=operator\n{WORK}\n");
    let began = Instant::now();
    world.apply("wall", spec(world, "wall", &["linux/amd64", "linux/arm64"], &ours)).await;
    world.until_ready("wall").await;
    let took = began.elapsed();
    row("MultiArchImage, creation → Ready", format!("{took:.1?}"));
    row("ratio (bar: 1.1)", format!("{:.2}", took.as_secs_f64() / slower.as_secs_f64()));
}

async fn cache(world: &World) {
    println!("\nThe same build again, with a cache in the registry");
    let dockerfile = format!("FROM {}\nENV BY=cache\n{WORK}\n", world.rig.images["compiler"]);
    let mut spec = spec(world, "cached", &["linux/amd64", "linux/arm64"], &dockerfile);
    spec["build"]["cache"] = json!({"type": "Registry"});
    let began = Instant::now();
    world.apply("cached", spec).await;
    let first = world.until_ready("cached").await;
    let cold = began.elapsed();
    row("cold", format!("{cold:.1?}"));
    let began = Instant::now();
    let request = json!({"metadata": {"annotations": {ANNOTATION_REBUILD: "again"}}});
    let api = world.api::<MultiArchImage>();
    api.patch("cached", &PatchParams::default(), &Patch::Merge(request)).await.expect("it can be asked");
    let job = |image: &MultiArchImage| image.status.as_ref().map(|status| status.platforms[0].job.clone());
    let again = |image: &MultiArchImage| job(image) != job(&first) && support::is_ready(image);
    world.until("cached", "built again", again).await;
    let warm = began.elapsed();
    row("again", format!("{warm:.1?}"));
    row("ratio (bar: 0.3)", format!("{:.2}", warm.as_secs_f64() / cold.as_secs_f64()));
}

/// From an edit in the middle of a build to the end of the pod that it makes obsolete.
async fn obsolete(world: &World) {
    println!("\nAn edit in the middle of a build");
    let mut times = vec![];
    for number in 0..5 {
        let name = format!("obsolete-{number}");
        let dockerfile =
            |seconds: u32| format!("FROM {}\nRUN sleep {seconds}\n", world.rig.images["busybox"]);
        world.apply(&name, spec(world, &name, &["linux/amd64"], &dockerfile(600))).await;
        let building = world.until_platform(&name, "linux/amd64", Phase::Building, "Building").await;
        let pod = building.pod.expect("a pod");
        let began = Instant::now();
        world.apply(&name, spec(world, &name, &["linux/amd64"], &dockerfile(0))).await;
        let gone = await_condition(world.api::<Pod>(), &pod, |pod: Option<&Pod>| pod.is_none());
        tokio::time::timeout(PATIENCE, gone).await.expect("in time").expect("it goes");
        times.push(began.elapsed());
        world.until_ready(&name).await;
    }
    row("the obsolete pod is gone after, median of 5", format!("{:.1?}", percentile(&mut times, 50)));
    row("slowest (bar: 5 s)", format!("{:.1?}", percentile(&mut times, 100)));
}

/// Kills the operator again and again while images are being built: every Job is made once.
async fn kills(world: &World, seen: &Mutex<Seen>, mut operator: Operator, kills: usize) -> Operator {
    println!("\nThe operator killed {kills} times while it builds");
    let start = Start::new(world);
    let (mut done, mut images) = (0, 0);
    while done < kills {
        let names: Vec<String> = (0..3).map(|number| format!("killed-{}", images + number)).collect();
        images += names.len();
        for name in &names {
            let dockerfile = format!("FROM {}\nRUN echo {name}\n", world.rig.images["busybox"]);
            world.apply(name, spec(world, name, &["linux/amd64", "linux/arm64"], &dockerfile)).await;
        }
        let all = async {
            for name in &names {
                world.until_ready(name).await;
            }
        };
        let mut all = std::pin::pin!(all);
        loop {
            let life = Duration::from_millis(fastrand::u64(20..700));
            tokio::select! {
                () = &mut all => break,
                () = tokio::time::sleep(life), if done < kills => {
                    operator.kill().await;
                    done += 1;
                    operator = start.run();
                }
            }
        }
    }
    let seen = seen.lock().expect("nobody panics here");
    let jobs = seen.uids.iter().filter(|(name, _)| name.starts_with("killed-"));
    let (names, uids): (usize, usize) = jobs.fold((0, 0), |sum, (_, uids)| (sum.0 + 1, sum.1 + uids.len()));
    row("images of two platforms", images);
    row("Jobs, by name", names);
    row("duplicate Jobs (bar: 0)", (uids - names) + names.saturating_sub(2 * images));
    operator
}

#[tokio::main]
async fn main() {
    if !Rig::get().has_nodes("the bench of builds") {
        return;
    }
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |what: &str| only.is_empty() || only.split(',').any(|name| name == what);
    let world = World::new().await;
    let mut operator = Operator::start(&world);
    let seen = watch_jobs(&world);
    world
        .apply(
            "warm-up",
            spec(&world, "warm-up", &["linux/amd64", "linux/arm64"], "FROM scratch\nLABEL a=b\n"),
        )
        .await;
    world.until_ready("warm-up").await;
    if wanted("overhead") {
        overhead(&world, &seen, number("BENCH_BUILDS", 20)).await;
    }
    if wanted("wall") {
        wall(&world).await;
    }
    if wanted("cache") {
        cache(&world).await;
    }
    if wanted("obsolete") {
        obsolete(&world).await;
    }
    if wanted("kills") {
        operator = kills(&world, &seen, operator, number("BENCH_KILLS", 200)).await;
    }
    drop(operator);
}
