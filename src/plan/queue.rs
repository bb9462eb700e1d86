//! Who may build next, where the operator's owner has limited how many builds run at once.
//!
//! A build takes its turn when it is granted one and keeps it until its Job is seen; from then on the Job itself counts,
//! until it has ended. So the Jobs are the truth, and a queue that is built anew after a restart keeps the limits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::build::BuilderSettings;

/// A `MultiArchImage`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The names of the Jobs that count as running, by namespace.
pub type Running = BTreeMap<String, BTreeSet<String>>;

/// What the queue says of the builds of one image, by the names of their Jobs.
pub type Turns = BTreeMap<String, Turn>;

/// What the queue says of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Its Job may be created.
    Granted,
    /// Others go first.
    Queued {
        /// Its place among those that wait for the same limit, from 1.
        place: usize,
        /// How many wait for it.
        waiting: usize,
        /// What it waits for, for people: `20 of 20 builds of this operator run`.
        limit: String,
    },
}

/// Builds that want a Job.
#[derive(Clone, Debug)]
pub struct Queue {
    /// When this queue began; who was at work before has waited longer than it can remember.
    began: Timestamp,
    entries: BTreeMap<Build, Entry>,
}

/// The image, then the name of the Job.
type Build = (ImageKey, String);

#[derive(Clone, Debug)]
struct Entry {
    since: Timestamp,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not wanted now. It keeps its place, as an image that looks its context up again wants nothing for a moment.
    Away,
    Waiting,
    Granted,
}

impl Queue {
    /// An empty queue.
    pub fn new(began: Timestamp) -> Self {
        Queue { began, entries: BTreeMap::new() }
    }

    /// Makes the builds of an image those whose Jobs it wants now; the turns of others go back. `at_work_since` is since
    /// when the image is at work, as its status remembers across restarts.
    pub fn want(
        &mut self,
        image: &ImageKey,
        jobs: &BTreeSet<String>,
        at_work_since: Option<Timestamp>,
        now: Timestamp,
    ) {
        if jobs.is_empty() {
            let own = self.entries.iter_mut().filter(|((owner, _), _)| owner == image);
            own.for_each(|(_, entry)| entry.state = State::Away);
            return;
        }
        self.entries.retain(|(owner, job), _| owner != image || jobs.contains(job));
        let since = at_work_since.filter(|since| *since < self.began).unwrap_or(now);
        for job in jobs {
            let entry = self.entries.entry((image.clone(), job.clone()));
            let entry = entry.or_insert(Entry { since, state: State::Waiting });
            if entry.state == State::Away {
                entry.state = State::Waiting;
            }
        }
    }

    /// Forgets an image.
    pub fn forget(&mut self, image: &ImageKey) {
        self.entries.retain(|(owner, _), _| owner != image);
    }

    fn own<'a>(&'a self, image: &'a ImageKey) -> impl Iterator<Item = (&'a Build, &'a Entry)> {
        let from = (image.clone(), String::new());
        self.entries.range(from..).take_while(move |((owner, _), _)| owner == image)
    }

    /// Whether an image waits, or has a turn.
    pub fn has(&self, image: &ImageKey) -> bool {
        self.own(image).any(|(_, entry)| entry.state != State::Away)
    }

    /// Whether anybody waits.
    pub fn has_waiting(&self) -> bool {
        self.entries.values().any(|entry| entry.state == State::Waiting)
    }

    /// How many builds wait.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| entry.state == State::Waiting).count()
    }

    /// Grants turns while there is room: the next one goes to the namespace with the fewest running builds, and there to
    /// whoever has waited longest. Gives the images that got one.
    pub fn grant(&mut self, limits: &BuilderSettings, running: &Running) -> BTreeSet<ImageKey> {
        let counts = self.counts(running);
        let total: usize = counts.values().sum();
        let room = limits.max_running.map_or(usize::MAX, |most| most.saturating_sub(total));
        let has_room =
            |namespace: &str, count| limits.max_running_in(namespace).is_none_or(|most| count < most);
        let next: Vec<Build> = self.order(&counts, has_room).take(room).cloned().collect();
        for build in &next {
            if let Some(entry) = self.entries.get_mut(build) {
                entry.state = State::Granted;
            }
        }
        next.into_iter().map(|(image, _)| image).collect()
    }

    /// What to say of an image's builds.
    pub fn turns(&self, image: &ImageKey, limits: &BuilderSettings, running: &Running) -> Turns {
        let in_state = |state| self.own(image).filter(move |(_, entry)| entry.state == state);
        let mut turns: Turns =
            in_state(State::Granted).map(|((_, job), _)| (job.clone(), Turn::Granted)).collect();
        if in_state(State::Waiting).next().is_some() {
            turns.extend(self.places(image, limits, running));
        }
        turns
    }

    /// The places of an image's waiting builds, among those that wait for the same limit.
    fn places(
        &self,
        image: &ImageKey,
        limits: &BuilderSettings,
        running: &Running,
    ) -> impl Iterator<Item = (String, Turn)> {
        let counts = self.counts(running);
        let full = |namespace: &str| {
            let count = counts.get(namespace).copied().unwrap_or_default();
            limits.max_running_in(namespace).filter(|most| count >= *most).map(|most| (count, most))
        };
        let (limit, line): (String, Vec<&Build>) = match full(&image.namespace) {
            Some((count, most)) => (
                format!("{count} of {most} builds of namespace {} run", image.namespace),
                self.order(&counts, |namespace, _| namespace == image.namespace).collect(),
            ),
            None => {
                let total: usize = counts.values().sum();
                let most = limits.max_running.unwrap_or(total);
                (
                    format!("{total} of {most} builds of this operator run"),
                    self.order(&counts, |namespace, _| full(namespace).is_none()).collect(),
                )
            }
        };
        let waiting = line.len();
        let places = line.into_iter().zip(1..).filter(|((owner, _), _)| owner == image);
        let places: Vec<_> = places
            .map(|((_, job), place)| (job.clone(), Turn::Queued { place, waiting, limit: limit.clone() }))
            .collect();
        places.into_iter()
    }

    /// Waiting builds in the order of their turns, as long as their namespace has room, which depends on how many builds of
    /// it run by then.
    fn order<'a>(
        &'a self,
        counts: &BTreeMap<&str, usize>,
        has_room: impl Fn(&str, usize) -> bool,
    ) -> impl Iterator<Item = &'a Build> {
        let mut lines: BTreeMap<&str, BTreeSet<(Timestamp, &Build)>> = BTreeMap::new();
        for (build, entry) in self.entries.iter().filter(|(_, entry)| entry.state == State::Waiting) {
            lines.entry(&build.0.namespace).or_default().insert((entry.since, build));
        }
        // The first of each namespace, after how many builds of it run when its turn comes.
        let mut heads: BTreeSet<(usize, Timestamp, &Build)> = BTreeSet::new();
        let step = |heads: &mut BTreeSet<_>, line: &mut BTreeSet<(Timestamp, &'a Build)>, count: usize| {
            if let Some((since, build)) = line.pop_first().filter(|(_, b)| has_room(&b.0.namespace, count)) {
                heads.insert((count, since, build));
            }
        };
        for (namespace, line) in &mut lines {
            step(&mut heads, line, counts.get(namespace).copied().unwrap_or_default());
        }
        let mut order = Vec::new();
        while let Some((count, _, build)) = heads.pop_first() {
            order.push(build);
            if let Some(line) = lines.get_mut(build.0.namespace.as_str()) {
                step(&mut heads, line, count + 1);
            }
        }
        order.into_iter()
    }

    /// How many builds of each namespace run: the Jobs, and the turns whose Job has not been seen yet.
    fn counts<'a>(&'a self, running: &'a Running) -> BTreeMap<&'a str, usize> {
        let mut counts: BTreeMap<&str, usize> =
            running.iter().map(|(namespace, jobs)| (namespace.as_str(), jobs.len())).collect();
        for ((image, job), entry) in &self.entries {
            let is_seen = running.get(&image.namespace).is_some_and(|jobs| jobs.contains(job));
            if entry.state == State::Granted && !is_seen {
                *counts.entry(&image.namespace).or_default() += 1;
            }
        }
        counts
    }
}
