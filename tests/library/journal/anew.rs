//! What is written whole, after its changes were dropped, is as its changes would have made it.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use gwm::{
    coordinator::{Coordinator, Time, Word},
    journal::{self, Date, Entry, Epoch, Member, Row, Store, Whole},
    sasp::{Health, LbFlags},
};
use redb::backends::InMemoryBackend;

use super::{history::History, verdicts::settings};

/// A load balancer with its groups, in their order.
type Lb = (Health, LbFlags, Vec<(Box<[u8]>, Vec<Member>)>);

/// What is on disk, but for hold times and verdicts. Load balancers may have another order after they were written anew.
fn tables(store: &Store) -> (Vec<Word>, BTreeMap<Box<[u8]>, Lb>) {
    let (mut words, mut lbs) = (Vec::new(), BTreeMap::new());
    let read = store.each_row(Epoch::default(), |row| {
        match row {
            Row::Word(word) => words.push(word),
            Row::LoadBalancer { uid, health, flags, .. } => drop(lbs.insert(uid, (health, flags, Vec::new()))),
            Row::Group { lb_uid, name, members } => {
                lbs.get_mut(&lb_uid).expect("a group follows its load balancer").2.push((name, members));
            }
            Row::Verdicts { .. } => {}
        }
        Ok(())
    });
    read.expect("the rows can be read");
    (words, lbs)
}

#[test]
fn what_is_written_whole_is_what_the_changes_would_have_made() {
    for seed in 0..50 {
        let mut rng = Rng::with_seed(seed);
        let mut history = History::default();
        let mut store = Store::open_on(InMemoryBackend::new()).expect("memory is a disk");
        let mut change = |store: &mut Store| {
            let entries: Vec<Entry> = (0..100).map(|_| history.entry(&mut rng)).collect();
            store.apply(&entries, Epoch::default(), Date::default()).expect("the rows fit");
            let uids = entries.iter().flat_map(Entry::load_balancers).map(Box::<[u8]>::from);
            uids.collect::<BTreeSet<_>>()
        };
        let mut uids = change(&mut store);
        let mut coordinator = Coordinator::new(settings(), 1);
        journal::restore(&store, &mut coordinator, Time(0), Epoch::default()).expect("the rows fit");
        let expected = tables(&store);
        // The disk goes on another way: what the coordinator has is written over that.
        uids.extend(change(&mut store));
        let wholes = uids.into_iter().map(|uid| {
            let whole = Whole::of(&coordinator, &uid);
            Entry::Whole(uid, whole.map(Box::new))
        });
        let words = Entry::Words(coordinator.words().cloned().collect());
        let entries: Vec<Entry> = wholes.chain([words]).collect();
        store.apply(&entries, Epoch::default(), Date::default()).expect("the rows fit");
        assert_eq!(tables(&store), expected, "seed {seed}");
        store.check().expect("nothing is left over");
    }
}
