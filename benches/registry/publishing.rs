//! Publishing an index of small images through a front that delays every request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bare;
use crate::front::{Counts, Front};
use crate::images::{self, Image, SEED};
use crate::measure::{Home, Usage};
use crate::registry::Registry;
use crate::settings::Settings;
use crate::token::{PASSWORD, USER};
use crate::tools::{Publication, Tool};

/// A run this long in seconds is not repeated: noise is small beside it.
const LONG: f64 = 1.0;

/// Where the images are, seen from the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    SameRepository,
    /// Of the same registry, so blobs can be mounted.
    OtherRepository,
    OtherRegistry,
}

impl Place {
    pub const ALL: [Self; 3] = [Self::SameRepository, Self::OtherRepository, Self::OtherRegistry];

    pub fn name(self) -> &'static str {
        match self {
            Self::SameRepository => "same repository",
            Self::OtherRepository => "other repository",
            Self::OtherRegistry => "other registry",
        }
    }

    /// The fewest round trips there can be: manifests, configs, index; with mounts beside the configs the children's
    /// manifests come before the index; to another registry blobs take two (opening the uploads beside the configs).
    pub fn floor(self) -> u32 {
        match self {
            Self::SameRepository => 3,
            Self::OtherRepository => 4,
            Self::OtherRegistry => 5,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Scene {
    pub place: Place,
    pub platforms: usize,
    pub tags: usize,
    pub delay_milliseconds: u64,
    pub tokens: bool,
    /// Whether the very same was published there just before.
    pub again: bool,
}

impl Scene {
    /// The floor in milliseconds; a token costs a refusal and the token's request more.
    pub fn floor_milliseconds(&self) -> f64 {
        f64::from(self.place.floor() + if self.tokens { 2 } else { 0 }) * self.delay_milliseconds as f64
    }
}

/// What came out of one tool's runs in a scene.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured {
        /// Of the runs, the one in the middle.
        milliseconds: f64,
        runs: Vec<f64>,
        requests: Counts,
        usage: Usage,
    },
    /// It cannot do this.
    Unable,
    /// It failed, or what it published is not what was asked for.
    Wrong(String),
}

/// A scene and what each tool made of it.
#[derive(Debug, Serialize)]
pub struct Row {
    pub scene: Scene,
    /// Milliseconds of the same requests from a client that knows the answers; not with tokens and other registries.
    pub bare: Option<f64>,
    pub outcomes: BTreeMap<Tool, Outcome>,
}

/// Two registries and the images in the first.
pub struct Stage {
    source: Registry,
    other: Registry,
    http: reqwest::Client,
    images: Vec<Image>,
    home: Home,
    runs: usize,
}

/// One run of one tool.
struct Run {
    usage: Usage,
    requests: Counts,
}

impl Stage {
    pub async fn set(settings: &Settings) -> Self {
        let http = reqwest::Client::new();
        let source = Registry::storing_in(&settings.storage);
        let other = Registry::storing_in(&settings.storage);
        let images = images::seed(&source, &http).await;
        Self { source, other, http, images, home: Home::new(settings.home()), runs: settings.runs }
    }

    /// What a request through a front takes that adds no delay of its own.
    pub async fn trip_milliseconds(&self) -> f64 {
        let front = Front::before(&self.source.host, &self.http, Duration::ZERO, false).await;
        let mut times = Vec::new();
        for _ in 0..20 {
            let began = Instant::now();
            let found = self.http.get(format!("http://{}/v2/", front.host)).send().await.expect("an answer");
            found.bytes().await.expect("a body");
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    /// The runs of all tools, one after the other and again, so that noise comes upon all alike.
    pub async fn play(&self, scene: Scene, tools: &[Tool]) -> Row {
        let mut runs: BTreeMap<Tool, Vec<Run>> = BTreeMap::new();
        let mut outcomes = BTreeMap::new();
        for round in 0..self.runs {
            for &tool in tools {
                let done = runs.entry(tool).or_default();
                let long = done.iter().any(|run| run.usage.wall_seconds > LONG);
                if outcomes.contains_key(&tool) || long {
                    continue;
                }
                match self.run(&scene, tool, round).await {
                    Ok(Some(run)) => done.push(run),
                    Ok(None) => drop(outcomes.insert(tool, Outcome::Unable)),
                    Err(cause) => drop(outcomes.insert(tool, Outcome::Wrong(cause))),
                }
            }
        }
        for (tool, runs) in runs {
            outcomes.entry(tool).or_insert_with(|| middle(runs));
        }
        Row { scene, bare: self.bare(&scene).await, outcomes }
    }

    /// The middle of as many bare runs.
    async fn bare(&self, scene: &Scene) -> Option<f64> {
        if scene.tokens || scene.again || scene.place == Place::OtherRegistry {
            return None;
        }
        let images = &self.images[..scene.platforms];
        let tags: Vec<String> = (0..scene.tags).map(|number| format!("1.{number}")).collect();
        let mut times = Vec::new();
        for _ in 0..self.runs {
            let delay = Duration::from_millis(scene.delay_milliseconds);
            let front = Front::before(&self.source.host, &self.http, delay, false).await;
            let repository = format!("bare/{}", fastrand::u64(..));
            let from = match scene.place {
                Place::SameRepository => {
                    images::place(&self.source, &self.http, images, &repository).await;
                    repository.as_str()
                }
                _ => SEED,
            };
            times.push(bare::publish(&front.host, from, &repository, &tags, images).await.ok()?);
        }
        times.sort_by(f64::total_cmp);
        Some(times[times.len() / 2])
    }

    /// One run in a repository, through fronts, that nobody has seen before.
    async fn run(&self, scene: &Scene, tool: Tool, round: usize) -> Result<Option<Run>, String> {
        let delay = Duration::from_millis(scene.delay_milliseconds);
        let front = Front::before(&self.source.host, &self.http, delay, scene.tokens).await;
        let is_other = scene.place == Place::OtherRegistry;
        let target = if is_other { &self.other } else { &self.source };
        let other = match is_other {
            true => Some(Front::before(&target.host, &self.http, delay, scene.tokens).await),
            false => None,
        };
        let target_host = &other.as_ref().unwrap_or(&front).host;
        let credentials = scene.tokens.then_some((USER, PASSWORD));
        self.home.configure(&[&front.host, target_host], credentials);

        let images = &self.images[..scene.platforms];
        let repository = format!("{}/{round}-{}", tool.name(), fastrand::u64(..));
        let in_place = scene.place == Place::SameRepository;
        let from = if in_place { repository.as_str() } else { SEED };
        if in_place {
            images::place(&self.source, &self.http, images, &repository).await;
        }
        let tags: Vec<String> = (0..scene.tags).map(|number| format!("1.{number}")).collect();
        let publication = Publication {
            images: images.iter().map(|image| format!("{}/{from}:{}", front.host, image.tag)).collect(),
            index: format!("{}/{SEED}:{}", front.host, images::index_tag(scene.platforms)),
            targets: tags.iter().map(|tag| format!("{target_host}/{repository}:{tag}")).collect(),
            in_place,
        };
        let Some(commands) = tool.publish(&publication) else { return Ok(None) };
        if scene.again {
            self.home.measure(&commands).await?;
        }
        take_counts(&front, other.as_ref());
        let usage = self.home.measure(&commands).await?;
        let requests = take_counts(&front, other.as_ref());
        images::check(target, &self.http, &repository, &tags, images).await?;
        Ok(Some(Run { usage, requests }))
    }
}

/// Together, as the two registries stand for one world.
fn take_counts(front: &Front, other: Option<&Front>) -> Counts {
    let mut counts = front.take_counts();
    for (method, count) in other.map(Front::take_counts).unwrap_or_default() {
        *counts.entry(method).or_default() += count;
    }
    counts
}

fn middle(mut runs: Vec<Run>) -> Outcome {
    runs.sort_by(|one, other| one.usage.wall_seconds.total_cmp(&other.usage.wall_seconds));
    let milliseconds: Vec<f64> = runs.iter().map(|run| run.usage.wall_seconds * 1e3).collect();
    let Run { usage, requests } = runs.swap_remove(runs.len() / 2);
    Outcome::Measured { milliseconds: usage.wall_seconds * 1e3, runs: milliseconds, requests, usage }
}

/// The rows of a run: all of them, or those that tell the most in a few minutes.
pub fn scenes(full: bool) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for place in Place::ALL {
        for tokens in [false, true] {
            for delay_milliseconds in [50, 0, 20, 100] {
                for platforms in [2, 4, 8, 16] {
                    for tags in [1, 5] {
                        let scene =
                            Scene { place, platforms, tags, delay_milliseconds, tokens, again: false };
                        if full || tells_much(&scene) {
                            scenes.push(scene);
                        }
                    }
                }
            }
        }
    }
    scenes
}

/// All sizes at 50 ms, with one tag where every blob is sent; the other delays, and nearly all tokens, with four
/// platforms only.
fn tells_much(scene: &Scene) -> bool {
    let Scene { place, platforms, tags, delay_milliseconds, tokens, .. } = *scene;
    match (delay_milliseconds, tokens) {
        (50, false) => tags == 1 || place != Place::OtherRegistry || platforms == 4,
        (50, true) => platforms == 4 || (platforms == 16 && tags == 1 && place == Place::SameRepository),
        (_, tokens) => platforms == 4 && tags == 1 && !tokens,
    }
}

/// Publishing what is published already.
pub fn again() -> Vec<Scene> {
    let scene =
        |place, tags| Scene { place, platforms: 4, tags, delay_milliseconds: 50, tokens: false, again: true };
    Place::ALL.iter().flat_map(|&place| [1, 5].map(|tags| scene(place, tags))).collect()
}
