//! What goes wrong: cuts, deaths, pauses, clocks that jump, a store that is lost; and what may come of it.

use std::collections::BTreeSet;

use gwm::{
    coordinator::{Act, Pattern, Saying, Word},
    sasp::EntryFlags,
    time::Since,
};

use super::{Group, LBS, NAMES, STEP, UNSEEN, World};

impl World {
    pub(super) fn fault(&mut self) {
        if self.now == STEP {
            for at in 0..self.nodes.len() {
                self.start(at);
            }
        }
        if self.rng.u32(..40) > 0 {
            return;
        }
        let at = self.rng.usize(..self.nodes.len());
        match self.rng.u8(..16) {
            0 | 1 => {
                let cut = self.rng.bool();
                self.nodes[at].up_cut = cut;
                self.note(|| format!("{} to the store: cut {cut}", NAMES[at]));
            }
            2 | 3 => {
                let cut = self.rng.bool();
                self.nodes[at].down_cut = cut;
                self.note(|| format!("the store to {}: cut {cut}", NAMES[at]));
            }
            4 | 5 => {
                let cut = self.rng.u8(..3) > 0;
                (self.nodes[at].up_cut, self.nodes[at].down_cut) = (cut, cut);
                self.note(|| format!("{} and the store: cut {cut}", NAMES[at]));
            }
            6 => {
                // The other nodes see the members, and this one has seen more than one.
                let sees = self.nodes.iter().all(|node| !node.members_cut) && self.sees_members(at);
                let cut = self.rng.bool() && sees;
                self.nodes[at].members_cut = cut;
                self.note(|| format!("{} and the members: cut {cut}", NAMES[at]));
            }
            7 if self.nodes[at].is_alive() => self.kill(at),
            // A node that has been without the store for a while.
            14 | 15
                if self.nodes[at].is_alive() && self.nodes[at].ahead().is_some_and(|since| self.now > since + 500) =>
            {
                self.kill(at);
            }
            8 | 9 if !self.nodes[at].is_alive() => self.start(at),
            10 => {
                let until = self.now + self.rng.u64(..2000);
                let client = self.rng.usize(..self.clients.len());
                self.leave(client);
                self.clients[client].pause = until;
            }
            11 => self.say(at),
            12 if self.rng.u8(..20) == 0 => {
                self.note(|| "the store is lost".into());
                self.etcd.reset();
                self.is_strict = false;
            }
            13 if self.rng.u8(..4) == 0 && !self.is_on_time => {
                // A clock jumps, ahead or back.
                self.last_skew += 200;
                let far = if self.is_far_off { 100 } else { 1 };
                let jump = far * if self.rng.bool() { self.last_skew } else { -self.last_skew };
                self.nodes[at].skew += jump;
                self.note(|| format!("the clock of {} jumps by {jump} ms", NAMES[at]));
            }
            _ => {}
        }
    }

    /// The node knows that the members that never leave are up.
    fn sees_members(&mut self, at: usize) -> bool {
        let up = EntryFlags::CONTACT | EntryFlags::CONFIDENT;
        let rows = LBS.iter().flat_map(|lb| self.nodes[at].members(self.now, lb)).collect::<Vec<_>>();
        rows.iter().filter(|row| *row.group == *b"S" && row.entry.flags.contains(up)).count() >= 3
    }

    fn kill(&mut self, at: usize) {
        self.note(|| format!("{} is killed", NAMES[at]));
        let has_disk = self.nodes[at].has_disk();
        if let Some(since) = self.nodes[at].ahead() {
            let all = self.nodes[at].is_new();
            self.new_ones_died |= all;
            let own = |((_, node), when): &(&(Group, usize), &u64)| all || *node == at && **when + UNSEEN >= since;
            let own: BTreeSet<Group> = self.touched.iter().filter(own).map(|((group, _), _)| *group).collect();
            let late = self.touched.iter().filter(|((group, node), when)| {
                let unseen = since.saturating_sub(UNSEEN)..=since;
                own.contains(group) && (unseen.contains(*when) || *node != at && **when >= since)
            });
            self.unions.extend(late.map(|((group, _), _)| *group));
            self.died_ahead.entry(at).or_default().extend(own);
            self.deaths_ahead += 1;
        }
        self.nodes[at].kill();
        for client in 0..self.clients.len() {
            if self.clients[client].at.is_some_and(|(node, _)| node == at) {
                self.lose(client);
            }
        }
        for promise in self.promises.values_mut() {
            let only_here = promise.node == at && !promise.is_safe;
            if only_here && !has_disk {
                promise.is_there = None;
            }
        }
    }

    fn say(&mut self, at: usize) {
        let address = Some([10, 0, 0, self.rng.u8(1..5)].into());
        let pattern = Pattern { address, ..Pattern::default() };
        let saying = if self.rng.bool() { Saying::Quiesce } else { Saying::Resume };
        let (reason, by, from) = ("r".into(), NAMES[at].into(), "f".into());
        let word = Word { number: 0, saying, pattern, reason, by, from, at: Since::default(), expires: None };
        self.note(|| format!("{} hears: {word}", NAMES[at]));
        self.nodes[at].act(self.now, Act::Say(word));
    }

    /// Notes which nodes have come to know of another date. A later era than before is one of the node's own: its machine has
    /// slept, as far as the node can tell.
    pub(super) fn note_dates(&mut self) {
        for at in 0..self.nodes.len() {
            let (era, _) = self.date_of(at);
            let before = std::mem::replace(&mut self.eras[at], era);
            if era != before && before != 0 && era != 0 {
                self.sessions.dated(at, era > before, self.now);
            }
        }
    }

    /// The era of a node's date, and how wrong the date may be; the era 0: the node is dead, or has not begun yet.
    pub(super) fn date_of(&self, node: usize) -> (u64, u64) {
        self.nodes[node].status().map_or((0, 0), |status| (status.era, status.date_error))
    }

    /// Notes which nodes are one with the store again. What others told such a node while it was not, the store has from now
    /// on.
    pub(super) fn note_reconciled(&mut self) {
        for (at, was) in self.ahead.iter_mut().enumerate() {
            let is = self.nodes[at].ahead();
            if let (Some(since), None) = (std::mem::replace(was, is), is) {
                for ((_, node), when) in &mut self.touched {
                    if *node == at && *when >= since.saturating_sub(UNSEEN) {
                        *when = self.now;
                    }
                }
            }
        }
        self.died_ahead.retain(|at, _| !self.nodes[*at].is_alive() || self.nodes[*at].ahead().is_some());
    }
}
