//! What holds of the queue whatever happens: random worlds, each told by its seed.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

use crate::build::{BuilderSettings, NamespaceSettings};
use crate::plan::queue::{ImageKey, Queue, Running, Turn};

const NAMESPACES: [&str; 4] = ["a", "b", "c", "limited"];

/// Images that want builds, Jobs that run, and the queue between them.
struct World {
    random: Rng,
    limits: BuilderSettings,
    queue: Queue,
    running: Running,
    wanted: BTreeMap<ImageKey, BTreeSet<String>>,
    granted: BTreeSet<(ImageKey, String)>,
    at_work_since: BTreeMap<ImageKey, Timestamp>,
    now: Timestamp,
    next: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut limit = |most: usize| random.bool().then(|| 1 + random.usize(..most));
        let limits = BuilderSettings {
            max_running: limit(6),
            max_running_per_namespace: limit(4),
            namespaces: vec![NamespaceSettings {
                namespace: "limited".to_owned(),
                max_running: Some(1),
                ..NamespaceSettings::default()
            }],
            ..BuilderSettings::default()
        };
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        World {
            random,
            limits,
            queue: Queue::new(now),
            running: Running::new(),
            wanted: BTreeMap::new(),
            granted: BTreeSet::new(),
            at_work_since: BTreeMap::new(),
            now,
            next: 0,
        }
    }

    /// An image comes with one to three builds.
    fn arrive(&mut self, namespace: &str) -> ImageKey {
        self.next += 1;
        let image = ImageKey { namespace: namespace.to_owned(), name: format!("image-{}", self.next) };
        let builds = 1 + self.random.usize(..3);
        let jobs = (0..builds).map(|build| format!("{}-{build}", image.name)).collect();
        self.wanted.insert(image.clone(), jobs);
        self.at_work_since.insert(image.clone(), self.now);
        self.ask(&image);
        image
    }

    fn ask(&mut self, image: &ImageKey) {
        let since = self.at_work_since.get(image).copied();
        let nothing = BTreeSet::new();
        let jobs = self.wanted.get(image).unwrap_or(&nothing);
        self.queue.want(image, jobs, since, self.now);
    }

    /// Grants, and creates the Jobs of some of those whose turn it is; the watch may be late for others.
    fn settle(&mut self, all: bool) {
        let counts = self.counts();
        let images = self.queue.grant(&self.limits, &self.running);
        let mut given = Vec::new();
        for image in images {
            let turns = self.queue.turns(&image, &self.limits, &self.running);
            for (job, _) in turns.into_iter().filter(|(_, turn)| *turn == Turn::Granted) {
                if self.granted.insert((image.clone(), job)) {
                    given.push(image.namespace.clone());
                }
            }
        }
        self.check(given, counts);
        for (image, job) in self.granted.clone() {
            if all || self.random.bool() {
                self.create(&image, &job);
            }
        }
    }

    fn create(&mut self, image: &ImageKey, job: &str) {
        self.running.entry(image.namespace.clone()).or_default().insert(job.to_owned());
        let wanted = self.wanted.get_mut(image).expect("the image");
        assert!(wanted.remove(job), "{job} is created twice");
        self.granted.remove(&(image.clone(), job.to_owned()));
        self.ask(image);
    }

    fn end_one(&mut self) -> bool {
        let all: Vec<(String, String)> = self
            .running
            .iter()
            .flat_map(|(namespace, jobs)| jobs.iter().map(|job| (namespace.clone(), job.clone())))
            .collect();
        let Some((namespace, job)) = self.random.choice(all) else { return false };
        self.running.get_mut(&namespace).expect("its namespace").remove(&job)
    }

    fn waiting(&self) -> BTreeSet<(ImageKey, String)> {
        let all = self.wanted.iter();
        let all = all.flat_map(|(image, jobs)| jobs.iter().map(|job| (image.clone(), job.clone())));
        all.filter(|build| !self.granted.contains(build)).collect()
    }

    fn give_back(&mut self, image: &ImageKey) {
        self.granted.retain(|(owner, _)| owner != image);
    }

    /// Running builds of each namespace, with the turns that are not seen yet.
    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> =
            NAMESPACES.map(|namespace| (namespace.to_owned(), 0)).into();
        for (namespace, jobs) in &self.running {
            *counts.entry(namespace.clone()).or_default() += jobs.len();
        }
        for (image, _) in &self.granted {
            *counts.entry(image.namespace.clone()).or_default() += 1;
        }
        counts
    }

    fn has_room(&self, namespace: &str, counts: &BTreeMap<String, usize>) -> bool {
        let total: usize = counts.values().sum();
        self.limits.max_running.is_none_or(|most| total < most)
            && self.limits.max_running_in(namespace).is_none_or(|most| counts[namespace] < most)
    }

    /// The limits hold, no room is left to those who wait, and no namespace has got ahead of one that waits.
    fn check(&self, mut given: Vec<String>, mut counts: BTreeMap<String, usize>) {
        let after = self.counts();
        let total: usize = after.values().sum();
        assert!(self.limits.max_running.is_none_or(|most| total <= most), "{total} run");
        for (namespace, count) in &after {
            let most = self.limits.max_running_in(namespace);
            assert!(most.is_none_or(|most| *count <= most), "{count} run in {namespace}");
        }
        for (image, job) in self.waiting() {
            assert!(!self.has_room(&image.namespace, &after), "{job} waits beside free room");
        }
        // Given one by one, every turn goes to a namespace with the fewest running builds.
        let wait: BTreeSet<String> = self.waiting().into_iter().map(|(image, _)| image.namespace).collect();
        while let Some(next) = given.iter().min_by_key(|namespace| counts[*namespace]).cloned() {
            for other in wait.iter().filter(|other| self.has_room(other, &counts)) {
                assert!(counts[&next] <= counts[other], "{next} got a turn before {other}");
            }
            *counts.get_mut(&next).expect("a namespace") += 1;
            given.swap_remove(given.iter().position(|namespace| *namespace == next).expect("it is there"));
        }
    }

    fn step(&mut self) {
        self.now += SignedDuration::from_secs(self.random.i64(0..3));
        match self.random.usize(..10) {
            0..4 => {
                let namespace = NAMESPACES[self.random.usize(..NAMESPACES.len())];
                self.arrive(namespace);
            }
            4..7 => {
                self.end_one();
            }
            // An image wants nothing for a moment, or is gone.
            7 => {
                if let Some(image) = self.random.choice(self.wanted.keys().cloned().collect::<Vec<_>>()) {
                    self.queue.want(&image, &BTreeSet::new(), None, self.now);
                    self.give_back(&image);
                    self.ask(&image);
                }
            }
            8 => {
                if let Some(image) = self.random.choice(self.wanted.keys().cloned().collect::<Vec<_>>()) {
                    self.wanted.remove(&image);
                    self.queue.forget(&image);
                    self.give_back(&image);
                }
            }
            _ => self.restart(),
        }
        self.settle(false);
    }

    /// The memory of the queue is gone; images come again in any order.
    fn restart(&mut self) {
        self.now += SignedDuration::from_secs(1);
        self.queue = Queue::new(self.now);
        self.granted.clear();
        let mut images: Vec<ImageKey> = self.wanted.keys().cloned().collect();
        self.random.shuffle(&mut images);
        images.iter().for_each(|image| self.ask(image));
    }
}

#[test]
fn limits_hold_and_no_room_is_wasted_whatever_happens() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        (0..80).for_each(|_| world.step());
    }
}

#[test]
fn every_build_has_its_turn_though_others_keep_coming() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.limits.max_running = Some(1 + world.random.usize(..4));
        (0..20).for_each(|_| world.step());
        let image = world.arrive("a");
        let mut rounds = 0;
        while !world.wanted[&image].is_empty() {
            for namespace in NAMESPACES {
                world.arrive(namespace);
            }
            world.settle(true);
            world.end_one();
            world.now += SignedDuration::from_secs(1);
            rounds += 1;
            assert!(rounds < 500, "seed {seed}: it waits after {rounds} ends");
        }
    }
}

#[test]
fn the_same_wants_give_the_same_turns_in_whatever_order_they_come_and_after_a_restart() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..12 {
            let namespace = NAMESPACES[world.random.usize(..NAMESPACES.len())];
            world.arrive(namespace);
            world.now += SignedDuration::from_secs(1);
        }
        let order = |world: &World| {
            let mut queue = world.queue.clone();
            queue.grant(&world.limits, &world.running);
            let turns = |image| queue.turns(image, &world.limits, &world.running);
            world.wanted.keys().map(turns).collect::<Vec<_>>()
        };
        let first = order(&world);
        assert_eq!(order(&world), first, "seed {seed}");
        // Statuses remember since when images are at work.
        world.restart();
        assert_eq!(order(&world), first, "seed {seed}");
    }
}

fn image(namespace: &str, name: &str) -> ImageKey {
    ImageKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

#[test]
fn a_place_is_counted_among_those_that_wait_for_the_same_limit() {
    let mut world = World::new(0);
    world.limits.max_running = Some(2);
    world.limits.max_running_per_namespace = None;
    world.running =
        [("a".to_owned(), ["x".to_owned()].into()), ("limited".to_owned(), ["y".to_owned()].into())].into();
    for (namespace, name) in [("limited", "i"), ("a", "i"), ("b", "i"), ("b", "j"), ("limited", "j")] {
        world.wanted.insert(image(namespace, name), ["job-".to_owned() + name].into());
        world.ask(&image(namespace, name));
        world.now += SignedDuration::from_secs(1);
    }
    world.queue.grant(&world.limits, &world.running);
    let told = |namespace, name| {
        let turns = world.queue.turns(&image(namespace, name), &world.limits, &world.running);
        match turns.into_values().next().expect("a turn") {
            Turn::Granted => panic!("it is not its turn"),
            Turn::Queued { place, waiting, limit } => format!("place {place} of {waiting}: {limit}"),
        }
    };
    // Nothing of b runs, so its first build is first though it came later; then a and b have one each.
    assert_eq!(told("b", "i"), "place 1 of 3: 2 of 2 builds of this operator run");
    assert_eq!(told("a", "i"), "place 2 of 3: 2 of 2 builds of this operator run");
    assert_eq!(told("b", "j"), "place 3 of 3: 2 of 2 builds of this operator run");
    assert_eq!(told("limited", "i"), "place 1 of 2: 1 of 1 builds of namespace limited run");
    assert_eq!(told("limited", "j"), "place 2 of 2: 1 of 1 builds of namespace limited run");
}

#[test]
fn a_moment_without_wants_costs_no_place_and_an_edit_does() {
    let mut world = World::new(0);
    world.limits.max_running = Some(1);
    world.running = [("c".to_owned(), ["x".to_owned()].into())].into();
    let (first, second) = (image("a", "first"), image("a", "second"));
    for image in [&first, &second] {
        world.wanted.insert(image.clone(), [format!("{}-1", image.name)].into());
        world.ask(image);
        world.now += SignedDuration::from_secs(1);
    }
    let place = |world: &World, image| match world
        .queue
        .turns(image, &world.limits, &world.running)
        .into_values()
        .next()
    {
        Some(Turn::Queued { place, .. }) => place,
        other => panic!("{other:?}"),
    };
    world.queue.want(&first, &BTreeSet::new(), None, world.now);
    world.ask(&first);
    assert_eq!((place(&world, &first), place(&world, &second)), (1, 2));
    world.wanted.insert(first.clone(), ["first-2".to_owned()].into());
    world.ask(&first);
    assert_eq!((place(&world, &first), place(&world, &second)), (2, 1));
}
