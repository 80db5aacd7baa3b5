//! The search for an order: Wing and Gong's, with the list of Lowe ("Testing for linearizability",
//! 2016) and his cache of what was tried.
//!
//! Knows spans of time and a model that says which operation may come next; knows nothing of keys.

use std::collections::BTreeMap;

use super::bits::Bits;

/// Steps between two questions whether the search takes too long.
const STEPS_BETWEEN_QUESTIONS: u64 = 4_096;

/// When an operation was called and answered, in positions of one order without ties.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) call: u64,
    /// `None` when it was not: it may come at any place after its call, or nowhere.
    pub(super) returned: Option<u64>,
}

/// What operations do, one after the other.
pub(super) trait Model {
    type State: Clone + Ord;
    fn initial(&self) -> Self::State;
    /// The state after `operation`, if it can come next and be answered as it was.
    fn step(&self, state: &Self::State, operation: usize) -> Option<Self::State>;
    /// Whether two operations without an answer do the same as far as anybody could tell.
    fn alike(&self, one: usize, other: usize) -> bool;
}

/// The longest order that was found, and the state after it.
#[derive(Clone, Debug)]
pub(super) struct Order<S> {
    pub(super) operations: Vec<usize>,
    pub(super) state: S,
}

/// How a search ended.
#[derive(Clone, Debug)]
pub(super) enum Found<S> {
    /// An order of all answered operations.
    All(Order<S>),
    /// There is none. The longest beginning of one.
    None(Order<S>),
    /// Not decided within the steps or the time.
    Unknown,
}

/// Where to go on looking for the next operation.
#[derive(Clone, Copy)]
enum Cursor {
    /// At this event of the list.
    Listed(usize),
    /// At this place among the open operations.
    Open(usize),
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// What was chosen, and the state before it.
struct Frame<S> {
    operation: usize,
    before: S,
    after: Cursor,
}

/// What was tried: the answered operations that were ordered (the set from its first gap on, since
/// almost all early ones are in) and the state, each with the sets of open operations that it took.
type Tried<S> = BTreeMap<(usize, Box<[u64]>, S), Vec<Box<[u64]>>>;

/// Looks for an order. `is_late` is asked every so many steps.
pub(super) fn search<M: Model>(
    model: &M,
    spans: &[Span],
    steps_max: u64,
    is_late: &mut dyn FnMut() -> bool,
) -> Found<M::State> {
    let mut search = Search::new(model, spans);
    let mut steps = 0_u64;
    loop {
        if search.left == 0 {
            return Found::All(search.order());
        }
        steps += 1;
        if steps > steps_max || (steps.is_multiple_of(STEPS_BETWEEN_QUESTIONS) && is_late()) {
            return Found::Unknown;
        }
        if !search.advance() {
            return Found::None(search.longest.take().unwrap_or_else(|| search.order()));
        }
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    /// Calls and returns of answered operations in order, and the list of those that are left: event
    /// `i` is followed by `next[i + 1]`, `next[0]` is the first.
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// By operation: where its call and its return stand in `events`.
    places: Vec<(usize, usize)>,
    times: Vec<u64>,
    /// Operations without an answer, by time of call. They are tried last: most never took effect.
    open: Vec<(u64, usize)>,
    /// By place among the open ones: one that is alike and was called before, so that it goes first.
    alike_before: Vec<Option<usize>>,
    open_in: Bits,
    /// By operation: its place in `done`, which goes by time of call so that the set is dense.
    ranks: Vec<usize>,
    done: Bits,
    left: usize,
    state: M::State,
    cursor: Cursor,
    frames: Vec<Frame<M::State>>,
    tried: Tried<M::State>,
    longest: Option<Order<M::State>>,
    fewest_left: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, spans: &[Span]) -> Self {
        let mut timed = Vec::new();
        let mut open = Vec::new();
        for (operation, span) in spans.iter().enumerate() {
            match span.returned {
                Some(returned) => {
                    timed.push((span.call, Event::Call(operation)));
                    timed.push((returned, Event::Return(operation)));
                }
                None => open.push((span.call, operation)),
            }
        }
        timed.sort_by_key(|(time, _)| *time);
        open.sort_unstable();
        let (mut places, mut ranks, mut rank) = (vec![(0, 0); spans.len()], vec![0; spans.len()], 0);
        for (place, (_, event)) in timed.iter().enumerate() {
            match *event {
                Event::Call(operation) => {
                    (places[operation].0, ranks[operation]) = (place, rank);
                    rank += 1;
                }
                Event::Return(operation) => places[operation].1 = place,
            }
        }
        for (place, (_, operation)) in open.iter().enumerate() {
            ranks[*operation] = place;
        }
        let alike_before = |place: usize| (0..place).rev().find(|other| model.alike(open[*other].1, open[place].1));
        Self {
            model,
            next: (0..=timed.len()).collect(),
            previous: (0..=timed.len()).collect(),
            times: timed.iter().map(|(time, _)| *time).collect(),
            events: timed.into_iter().map(|(_, event)| event).collect(),
            places,
            alike_before: (0..open.len()).map(alike_before).collect(),
            open_in: Bits::new(open.len()),
            open,
            ranks,
            done: Bits::new(rank),
            left: rank,
            state: model.initial(),
            cursor: Cursor::Listed(0),
            frames: Vec::new(),
            tried: BTreeMap::new(),
            longest: None,
            fewest_left: usize::MAX,
        }
    }

    /// Tries one operation, or takes one back. False when everything was tried.
    fn advance(&mut self) -> bool {
        match self.cursor {
            Cursor::Listed(place) => match self.events[place] {
                Event::Call(operation) => {
                    let after = Cursor::Listed(self.next[place + 1]);
                    self.attempt(operation, after);
                }
                // What was called after this answer cannot come before it.
                Event::Return(_) => self.cursor = Cursor::Open(0),
            },
            Cursor::Open(place) => {
                let bound = self.first_return();
                match self.open.get(place) {
                    Some((call, operation)) if *call < bound => {
                        let (operation, after) = (*operation, Cursor::Open(place + 1));
                        let waits = self.alike_before[place].is_some_and(|other| !self.open_in.contains(other));
                        if waits || self.open_in.contains(place) {
                            self.cursor = after;
                        } else {
                            self.attempt(operation, after);
                        }
                    }
                    _ => return self.take_back(),
                }
            }
        }
        true
    }

    fn first_return(&self) -> u64 {
        let mut place = self.next[0];
        while let Some(Event::Call(_)) = self.events.get(place) {
            place = self.next[place + 1];
        }
        self.times.get(place).copied().unwrap_or(u64::MAX)
    }

    fn attempt(&mut self, operation: usize, after: Cursor) {
        self.cursor = after;
        let Some(state) = self.model.step(&self.state, operation) else { return };
        if self.is_open(operation) && state == self.state {
            return;
        }
        self.put_in(operation);
        let (gap, words) = self.done.tail();
        let taken = self.tried.entry((gap, words.into(), state.clone())).or_default();
        // Whoever has more open operations left can do whatever one with fewer can.
        if taken.iter().any(|taken| self.open_in.includes(taken)) {
            self.take_out(operation);
            return;
        }
        taken.push(self.open_in.words().into());
        let before = std::mem::replace(&mut self.state, state);
        self.frames.push(Frame { operation, before, after });
        self.cursor = Cursor::Listed(self.next[0]);
        if self.left < self.fewest_left {
            self.fewest_left = self.left;
            self.longest = None;
        }
    }

    fn take_back(&mut self) -> bool {
        if self.longest.is_none() && self.left <= self.fewest_left {
            // The deepest point, seen for the first time from its end.
            self.fewest_left = self.left;
            self.longest = Some(self.order_without_guesses());
        }
        let Some(frame) = self.frames.pop() else { return false };
        self.take_out(frame.operation);
        self.state = frame.before;
        self.cursor = frame.after;
        true
    }

    fn is_open(&self, operation: usize) -> bool {
        self.places[operation] == (0, 0)
    }

    fn put_in(&mut self, operation: usize) {
        let rank = self.ranks[operation];
        if self.is_open(operation) {
            self.open_in.insert(rank);
            return;
        }
        self.done.insert(rank);
        self.left -= 1;
        let (call, returned) = self.places[operation];
        for place in [call, returned] {
            let (before, after) = (self.previous[place], self.next[place + 1]);
            self.next[before] = after;
            self.previous[after] = before;
        }
    }

    fn take_out(&mut self, operation: usize) {
        let rank = self.ranks[operation];
        if self.is_open(operation) {
            self.open_in.remove(rank);
            return;
        }
        self.done.remove(rank);
        self.left += 1;
        let (call, returned) = self.places[operation];
        for place in [returned, call] {
            let (before, after) = (self.previous[place], self.next[place + 1]);
            self.next[before] = place;
            self.previous[after] = place + 1;
        }
    }

    /// The present order without the open operations at its end, which helped nobody.
    fn order_without_guesses(&self) -> Order<M::State> {
        let mut order = self.order();
        for frame in self.frames.iter().rev().take_while(|frame| self.is_open(frame.operation)) {
            order.operations.pop();
            order.state = frame.before.clone();
        }
        order
    }

    fn order(&self) -> Order<M::State> {
        Order { operations: self.frames.iter().map(|frame| frame.operation).collect(), state: self.state.clone() }
    }
}
