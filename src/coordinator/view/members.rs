//! Pages of groups, memberships and endpoints.

use super::{
    super::{
        Coordinator,
        ids::{EndpointId, GroupId, Id, LbId},
    },
    Answer, Cursor, Filter, MEMBERS_PER_WORK, Page, Rows, StateFilter, Work,
    rows::{EndpointRow, EndpointState, GroupRow, MemberRow, Shown},
};
use crate::{
    judgement::Stand,
    sasp::{EntryFlags, WeightEntry},
};

/// The groups that a filter can match, in an order that pages follow.
enum Groups {
    One(GroupId),
    OfLb(LbId),
    /// One of each load balancer.
    Named,
    All,
}

impl Coordinator {
    /// `None` if the filter names a load balancer that is not there, or a group that this load balancer does not have.
    fn groups(&self, filter: &Filter) -> Option<Groups> {
        Some(match (self.named_lb(filter)?, &filter.group) {
            (Some(lb), Some(name)) => Groups::One(self.tables.find_group(lb, name)?),
            (Some(lb), None) => Groups::OfLb(lb),
            (None, Some(_)) => Groups::Named,
            (None, None) => Groups::All,
        })
    }

    /// The number of places.
    fn places(&self, groups: &Groups) -> usize {
        match groups {
            Groups::One(_) => 1,
            Groups::OfLb(lb) => self.tables.lbs[*lb].groups.len(),
            Groups::Named => self.tables.lbs.end(),
            Groups::All => self.tables.groups.end(),
        }
    }

    /// The group at a place, if there is one.
    fn group_at(&self, groups: &Groups, filter: &Filter, place: usize) -> Option<GroupId> {
        match groups {
            Groups::One(group) => (place == 0).then_some(*group),
            Groups::OfLb(lb) => self.tables.lbs[*lb].groups.get(place).copied(),
            Groups::Named => {
                let lb = LbId::at(place);
                self.tables.lbs.get(lb)?;
                self.tables.find_group(lb, filter.group.as_ref()?)
            }
            Groups::All => {
                let group = GroupId::at(place);
                self.tables.groups.get(group).filter(|group| !group.removed).map(|_| group)
            }
        }
    }

    pub(super) fn group_rows(&self, filter: &Filter, page: Page) -> Option<Rows<GroupRow>> {
        let groups = self.groups(filter)?;
        let mut work = Work::new(page);
        let (mut rows, mut place) = (Vec::new(), page.after.0 as usize);
        while place < self.places(&groups) {
            if work.is_done() {
                return Some(Rows { rows, next: Some(Cursor(place as u64, 0)) });
            }
            work.look(1);
            if let Some(group) = self.group_at(&groups, filter, place) {
                rows.push(self.group_row(group));
                work.row();
                work.look(self.tables.listing(group).len() as usize / MEMBERS_PER_WORK);
            }
            place += 1;
        }
        Some(Rows { rows, next: None })
    }

    pub(super) fn member_rows(&self, filter: &Filter, page: Page) -> Option<Rows<MemberRow>> {
        let groups = self.groups(filter)?;
        let mut work = Work::new(page);
        let found = filter.endpoints().map(|spellings| {
            let found = spellings.map(|endpoint| self.tables.endpoints.find(&endpoint));
            // An endpoint that both spellings mean is one.
            match found {
                [one, other] if one == other => one.into_iter().collect(),
                both => both.into_iter().flatten().collect::<Vec<EndpointId>>(),
            }
        });
        if let (Groups::All, Some(found)) = (&groups, &found) {
            return Some(self.memberships_of(found, filter, page, work));
        }
        let mut rows = Vec::new();
        let (mut place, mut from) = (page.after.0 as usize, page.after.1 as usize);
        while place < self.places(&groups) {
            if work.is_done() {
                return Some(Rows { rows, next: Some(Cursor(place as u64, from as u64)) });
            }
            work.look(1);
            if let Some(group) = self.group_at(&groups, filter, place) {
                let listing = self.tables.listing(group);
                if found.as_ref().is_some_and(|found| found.iter().all(|&id| listing.find(id).is_none())) {
                    // The group has no such member: its members are not looked at.
                    (place, from) = (place + 1, 0);
                    continue;
                }
                let shown = self.shown(group);
                if shown.scale_made {
                    work.look(listing.len() as usize / MEMBERS_PER_WORK);
                }
                while from < listing.slots.len() {
                    if work.is_done() {
                        return Some(Rows { rows, next: Some(Cursor(place as u64, from as u64)) });
                    }
                    work.look(1);
                    if self.fits_member(filter, &shown, from) {
                        rows.push(self.member_row(&shown, from));
                        work.row();
                    }
                    from += 1;
                }
            }
            (place, from) = (place + 1, 0);
        }
        Some(Rows { rows, next: None })
    }

    /// Whether a slot has a member that the filter wants.
    fn fits_member(&self, filter: &Filter, shown: &Shown<'_>, at: usize) -> bool {
        let slot = self.tables.listings.get(shown.group.listing).slot(at);
        !slot.is_vacant()
            && filter.fits(&self.tables.endpoints.endpoint(slot.endpoint))
            && filter.state.is_none_or(|wanted| {
                let entry = shown.entry(slot);
                match wanted {
                    StateFilter::Unwatched => !self.tables.endpoints.watches().is_wanted(slot.endpoint),
                    wanted => fits_entry(entry, wanted),
                }
            })
    }

    /// The memberships of endpoints.
    fn memberships_of(&self, endpoints: &[EndpointId], filter: &Filter, page: Page, mut work: Work) -> Rows<MemberRow> {
        let mut rows = Vec::new();
        let listings =
            endpoints.iter().flat_map(|&id| self.tables.endpoints.listings(id).iter().map(move |&at| (id, at)));
        let first = page.after.0 as usize;
        for (place, (endpoint, listing)) in listings.enumerate().skip(first) {
            let listing = self.tables.listings.get(listing);
            let Some(slot) = listing.find(endpoint) else { continue };
            let from = if place == first { page.after.1 as usize } else { 0 };
            for (at, &group) in listing.groups.iter().enumerate().skip(from) {
                if work.is_done() {
                    return Rows { rows, next: Some(Cursor(place as u64, at as u64)) };
                }
                work.look(1);
                if self.tables.groups[group].removed {
                    continue;
                }
                let shown = self.shown(group);
                if shown.scale_made {
                    work.look(listing.len() as usize / MEMBERS_PER_WORK);
                }
                if self.fits_member(filter, &shown, slot) {
                    rows.push(self.member_row(&shown, slot));
                    work.row();
                }
            }
        }
        Rows { rows, next: None }
    }

    /// One membership. Without a load balancer in the filter, one of the first load balancers that has it, if that is
    /// found in a bounded time.
    pub(super) fn member_in_full(&self, filter: &Filter) -> Option<Answer> {
        let name = filter.group.as_ref()?;
        let spellings = filter.endpoints()?;
        let mut left = super::WORK_PER_PAGE;
        for endpoint in spellings.iter().filter_map(|endpoint| self.tables.endpoints.find(endpoint)) {
            let group = match self.named_lb(filter)? {
                Some(lb) => self.tables.find_group(lb, name),
                None => {
                    let listings = self.tables.endpoints.listings(endpoint).iter();
                    let groups = listings.flat_map(|&listing| self.tables.listings.get(listing).groups.iter());
                    let mut found = None;
                    for &id in groups {
                        if left == 0 {
                            return Some(Answer::TooMany);
                        }
                        left -= 1;
                        let group = &self.tables.groups[id];
                        if !group.removed && group.name() == &**name {
                            found = Some(id);
                            break;
                        }
                    }
                    found
                }
            };
            let Some(group) = group else { continue };
            let Some(slot) = self.tables.listing(group).find(endpoint) else { continue };
            let shown = self.shown(group);
            let full = self.full(endpoint, Some((&shown, self.tables.listing(group).slot(slot))));
            let found = (self.member_row(&shown, slot), shown.scale, self.endpoint_row(endpoint), full);
            return Some(Answer::Member(Box::new(found)));
        }
        None
    }

    pub(super) fn endpoint_rows(&self, filter: &Filter, page: Page) -> Rows<EndpointRow> {
        let endpoints = &self.tables.endpoints;
        if let Some(spellings) = filter.endpoints() {
            let mut found: Vec<EndpointId> = spellings.iter().filter_map(|endpoint| endpoints.find(endpoint)).collect();
            found.dedup();
            let rows = found.into_iter().map(|id| self.endpoint_row(id));
            let rows = rows.filter(|row| filter.state.is_none_or(|wanted| fits_state(&row.state, wanted)));
            return Rows { rows: rows.collect(), next: None };
        }
        let mut work = Work::new(page);
        let (mut rows, mut at) = (Vec::new(), page.after.0 as usize);
        while at < endpoints.ids() {
            if work.is_done() {
                return Rows { rows, next: Some(Cursor(at as u64, 0)) };
            }
            work.look(1);
            let id = EndpointId::at(at);
            at += 1;
            let Some(endpoint) = endpoints.get(id) else { continue };
            if !filter.fits(endpoint) || endpoints.listings(id).is_empty() {
                continue;
            }
            let row = self.endpoint_row(id);
            work.look(endpoints.listings(id).len() / MEMBERS_PER_WORK);
            if filter.state.is_none_or(|wanted| fits_state(&row.state, wanted)) {
                rows.push(row);
                work.row();
            }
        }
        Rows { rows, next: None }
    }
}

fn fits_entry(entry: WeightEntry, wanted: StateFilter) -> bool {
    let has = |flag| entry.flags.contains(flag);
    let (quiesced, contact) = (has(EntryFlags::QUIESCED), has(EntryFlags::CONTACT));
    let known = contact && !quiesced && has(EntryFlags::CONFIDENT);
    match wanted {
        StateFilter::Up => known && entry.weight > 0,
        StateFilter::Down => !contact,
        StateFilter::Drained => known && entry.weight == 0,
        StateFilter::Unknown => contact && !quiesced && !has(EntryFlags::CONFIDENT),
        StateFilter::Quiesced => quiesced,
        StateFilter::Unwatched => false,
    }
}

fn fits_state(state: &EndpointState, wanted: StateFilter) -> bool {
    let stands = |stand| state.watched && state.stand == stand;
    match wanted {
        StateFilter::Up => stands(Stand::Up),
        StateFilter::Down => stands(Stand::Down),
        StateFilter::Drained => stands(Stand::Drained),
        StateFilter::Unknown => stands(Stand::Unknown),
        StateFilter::Quiesced => state.quiesced_by_file || state.quiesced_by_operator,
        StateFilter::Unwatched => !state.watched,
    }
}
